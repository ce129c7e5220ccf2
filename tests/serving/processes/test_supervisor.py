"""Real processes: what happens to a server whose workers die, hang, are told to end, or get a new version."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from running_server import is_running, running, wait_until
from server_process import PATIENCE

from trimodal.serving.processes.supervisor import MOST_DELAY, find_delay


def test_back_off_doubles_and_ends_at_ten_seconds() -> None:
    assert [find_delay(failures) for failures in range(5)] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert find_delay(50) == MOST_DELAY == 10.0


def test_serves_replaces_a_killed_worker_and_ends(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        status, text = server.ask()
        pid, version, _, parent = text.split()
        assert (status, version, int(parent)) == (200, "one", server.process.pid)
        assert server.ask("/v2/health/ready")[0] == 200
        os.kill(int(pid), signal.SIGKILL)
        assert server.wait_for("worker_lost", pid=int(pid))["how"] == "SIGKILL"
        replaced = server.wait_for("worker_ready")
        assert replaced["pid"] != int(pid) and server.ask()[0] == 200
        workers = server.find_workers()
        assert len(workers) == 2
        server.send(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert not any(is_running(worker) for worker in workers)


@pytest.mark.slow
def test_a_worker_that_says_nothing_is_killed_and_replaced(tmp_path: Path) -> None:
    with running(tmp_path, hang_seconds=1.5) as server:
        stopped = int(server.ask()[1].split()[0])
        os.kill(stopped, signal.SIGSTOP)
        lost = server.wait_for("worker_lost", pid=stopped)
        assert lost["how"] == "SIGKILL" and "said nothing" in lost["why"]
        server.wait_for("worker_ready")
        assert server.ask()[0] == 200 and not is_running(stopped)


@pytest.mark.slow
def test_a_worker_that_hangs_in_a_call_is_replaced_and_others_answer(tmp_path: Path) -> None:
    with running(tmp_path, hang_seconds=1.5) as server:
        asking = threading.Thread(target=_ask_in_vain, args=(server,))
        asking.start()
        lost = server.wait_for("worker_lost")
        assert "said nothing" in lost["why"]
        assert server.ask()[0] == 200
        asking.join()


def test_a_worker_whose_runtime_hangs_is_replaced_though_its_loop_turns(tmp_path: Path) -> None:
    with running(tmp_path, limits={"compute_seconds": 1.0}) as server:
        assert server.ask("/compute/0.1")[0] == 200
        before = server.find_workers()
        asking = threading.Thread(target=_ask_in_vain, args=(server, "/compute/60"))
        asking.start()
        lost = server.wait_for("worker_lost")
        assert lost["how"] == "SIGKILL" and "--compute-seconds" in lost["why"]
        server.wait_for("worker_ready")
        wait_until(lambda: server.ask("/v2/health/ready")[0] == 200)
        asking.join()
        assert len(server.find_workers() & before) == 1  # the other one was left alone


def test_without_a_bound_a_call_may_take_as_long_as_it_wants(tmp_path: Path) -> None:
    with running(tmp_path, limits={"compute_seconds": 0.0}) as server:
        status, text = server.ask("/compute/2")
        assert status == 200 and is_running(int(text.split()[0]))


def _ask_in_vain(server, path: str = "/block/20") -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((ConnectionError, OSError)):
        server.ask(path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_draining_ends_what_is_under_way_and_refuses_the_rest(tmp_path: Path, number: int) -> None:
    with running(tmp_path) as server:
        answers: list[tuple[int, str]] = []
        slow = threading.Thread(target=lambda: answers.append(server.ask("/sleep/2")))
        slow.start()
        wait_until((tmp_path / ".begun").exists)
        server.send(number)
        wait_until(lambda: server.ask()[0] == 503)
        assert "being shut down" in server.ask()[1]
        assert server.ask("/v1/models")[1].startswith('{"error": {"message"')
        assert server.ask("/v2/health/ready")[0] == 503 and server.ask("/v2/health/live")[0] == 200
        slow.join()
        assert answers[0][0] == 200
        assert server.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        workers = server.find_workers()
        cut = threading.Thread(target=_ask_in_vain_slowly, args=(server,))
        cut.start()
        wait_until((tmp_path / ".begun").exists)
        server.send(signal.SIGTERM)
        server.wait_for("draining")
        server.send(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 128 + signal.SIGTERM
        assert not any(is_running(worker) for worker in workers)
        cut.join()


def _ask_in_vain_slowly(server) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((ConnectionError, OSError)):
        server.ask("/sleep/25")


@pytest.mark.slow
def test_what_is_not_answered_in_time_is_cut_off(tmp_path: Path) -> None:
    with running(tmp_path, limits={"drain_seconds": 1.0}) as server:
        cut = threading.Thread(target=_ask_in_vain_slowly, args=(server,))
        cut.start()
        wait_until((tmp_path / ".begun").exists)
        server.send(signal.SIGTERM)
        assert server.wait_for("cut_off")["requests"] == 1
        assert server.process.wait(PATIENCE) == 0
        cut.join()


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_outlives_a_killed_supervisor(tmp_path: Path, frozen: bool) -> None:
    with running(tmp_path) as server:
        ours = server.find_workers() | server.find_zygotes()
        assert len(ours) == 3
        if frozen:
            for worker in server.find_workers():
                os.kill(worker, signal.SIGSTOP)
        server.send(signal.SIGKILL)
        server.process.wait()
        wait_until(lambda: not any(is_running(pid) for pid in ours))


@pytest.mark.slow
def test_a_killed_zygote_is_started_again_and_takes_no_worker_with_it(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        workers = server.find_workers()
        (zygote,) = server.find_zygotes()
        os.kill(zygote, signal.SIGKILL)
        server.wait_for("zygote_lost")
        server.wait_for("imported")
        assert server.find_workers() == workers
        os.kill(min(workers), signal.SIGKILL)
        server.wait_for("worker_ready")
        assert server.ask()[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("by_signal", [True, False])
def test_a_new_version_takes_over_without_a_failed_request(tmp_path: Path, by_signal: bool) -> None:
    with running(tmp_path, watch_seconds=0.0 if by_signal else 0.3) as server:
        stop, answers = threading.Event(), list[tuple[int, str]]()
        asking = threading.Thread(target=_ask_until, args=(server, stop, answers))
        asking.start()
        (tmp_path / "version.txt").write_text("two")
        if by_signal:
            server.send(signal.SIGHUP)
        server.wait_for("reloaded", version=2)
        wait_until(lambda: answers[-1][1].split()[1] == "two")
        stop.set()
        asking.join()
        assert {status for status, _ in answers} == {200}
        assert {text.split()[1] for _, text in answers[:1]} == {"one"} and server.ask()[1].split()[1] == "two"


def _ask_until(server, stop: threading.Event, answers: list[tuple[int, str]]) -> None:  # type: ignore[no-untyped-def]
    while not stop.is_set():
        answers.append(server.ask("/sleep/0.01"))


@pytest.mark.slow
@pytest.mark.parametrize(("version", "why"), [("bad", "version.txt says bad"), ("crash", "the new worker ended while it started")])
def test_a_version_that_does_not_check_out_leaves_the_old_one(tmp_path: Path, version: str, why: str) -> None:
    with running(tmp_path, watch_seconds=0.3) as server:
        workers = server.find_workers()
        (tmp_path / "version.txt").write_text(version)
        refused = server.wait_for("reload_refused")
        assert refused["why"] == why and refused["serving"] == 1
        assert server.find_workers() == workers and server.ask()[1].split()[1] == "one"
        (tmp_path / "version.txt").write_text("three")
        server.wait_for("reloaded")
        assert server.ask()[1].split()[1] == "three"


@pytest.mark.slow
@pytest.mark.parametrize(("version", "code", "said"), [("bad", 1, "version.txt says bad"), ("crash", 1, "5 times in a row")])
def test_a_server_that_cannot_start_says_why_and_ends(tmp_path: Path, version: str, code: int, said: str) -> None:
    with running(tmp_path, version=version, workers=1) as server:
        assert server.process.wait(PATIENCE) == code
        server.wait_for("closed")
        assert said in "".join(event.get("text", "") for event in server.seen)


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_is_relieved_first(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        told = int(server.ask()[1].split()[0])
        os.kill(told, signal.SIGTERM)
        server.wait_for("worker_leaving", pid=told)
        server.wait_for("worker_ready")
        assert server.wait_for("worker_ended", pid=told)["how"] == "exit code 0"
        assert server.ask()[0] == 200
