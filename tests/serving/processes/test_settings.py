"""What the processes are told, and the addresses that they take."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from trimodal.errors import InputError
from trimodal.serving.limits import Limits
from trimodal.serving.processes.application import choose_hosts, read_keys
from trimodal.serving.processes.command import Asked, make_settings, run_server, split_name
from trimodal.serving.processes.forking import find_scratch
from trimodal.serving.processes.serve import make_counter_folder
from trimodal.serving.processes.settings import ServeSettings, read_settings, share_cores
from trimodal.serving.processes.sockets import begin_listening, bind_socket, find_port, write_url
from trimodal.serving.processes.watching import read_marks, resolve_folders


@pytest.mark.parametrize(("workers", "threads", "cores", "found"), [
    (None, None, 1, (1, 1)), (None, None, 2, (2, 1)), (None, None, 8, (2, 4)), (4, None, 8, (4, 2)), (8, None, 2, (8, 1)),
    (None, 2, 8, (4, 2)), (None, 16, 8, (1, 16)), (3, 5, 2, (3, 5)),
])  # fmt: skip
def test_workers_times_threads_are_the_processors(workers: int, threads: int, cores: int, found: tuple[int, int]) -> None:
    assert share_cores(workers, threads, cores) == found


@pytest.mark.parametrize(("workers", "threads"), [(0, None), (-1, None), (None, 0), (257, None)])
def test_numbers_of_processes_that_cannot_be(workers: int, threads: int) -> None:
    with pytest.raises(InputError, match="from 1 to 256"):
        share_cores(workers, threads, 2)


def test_settings_are_the_same_in_the_other_process() -> None:
    settings = ServeSettings(("/a", "/b"), names=("a", "b"), limits=Limits(queue=3), extra={"version": 2}, grpc_port=5)
    assert read_settings(settings.to_json()) == settings


def test_a_model_is_called_as_was_said_or_as_its_folder_or_its_link(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "now").symlink_to(tmp_path / "v1")
    assert split_name(f"clip={tmp_path / 'v1'}") == ("clip", str(tmp_path / "v1"))
    assert split_name(str(tmp_path / "now")) == ("now", str(tmp_path / "now"))
    assert resolve_folders([str(tmp_path / "now")]) == (str((tmp_path / "v1").resolve()),)


@pytest.mark.parametrize("text", ["a b=/x", "../x=/x", "=/x", "a/b=/x", ".=/x", "a\nb=/x", "/", "a;b=/x"])
def test_names_that_could_not_stand_in_a_route(text: str) -> None:
    with pytest.raises(InputError, match="NAME=FOLDER"):
        split_name(text)


@pytest.mark.parametrize("changed", [
    {"drain_seconds": -1.0}, {"drain_seconds": float("nan")}, {"watch_seconds": float("inf")}, {"queue": -1}, {"compute_seconds": -1.0},
])  # fmt: skip
def test_seconds_and_queues_that_cannot_be(changed: dict[str, float]) -> None:
    with pytest.raises(InputError, match="from 0 up"):
        make_settings(Asked(("a=/x",), **changed))  # type: ignore[arg-type]


def test_where_no_disk_can_be_written_files_lie_beside_the_counters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def find_none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    assert "TMPDIR" not in find_scratch(ServeSettings(("/a",), metrics=str(tmp_path)))
    monkeypatch.setattr(tempfile, "gettempdir", find_none)
    assert find_scratch(ServeSettings(("/a",), metrics=str(tmp_path))) == {"TMPDIR": str(tmp_path)}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="TMPDIR"):
        make_counter_folder(tmp_path / "gone")


def test_a_port_is_taken_at_once_and_listened_at_later() -> None:
    bound = bind_socket("127.0.0.1", 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", find_port(bound)))
    begin_listening(bound)
    socket.create_connection(("127.0.0.1", find_port(bound))).close()
    with pytest.raises(InputError, match="is taken by another program; give a free one with --port"):
        bind_socket("127.0.0.1", find_port(bound))
    bound.close()


@pytest.mark.parametrize(("host", "port", "said"), [
    ("no.such.host.invalid", 0, "--host"), ("127.0.0.1", 70000, "--port"), ("127.0.0.1", -1, "--port"), ("203.0.113.1", 0, "--host"),
])  # fmt: skip
def test_addresses_that_cannot_be_listened_at(host: str, port: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        bind_socket(host, port)


@pytest.mark.parametrize(("host", "url"), [("0.0.0.0", "http://127.0.0.1:5"), ("::", "http://[::1]:5"), ("10.0.0.1", "http://10.0.0.1:5")])
def test_the_address_that_a_client_is_told(host: str, url: str) -> None:
    assert write_url(host, 5) == url


def test_names_of_this_machine_only_where_only_this_machine_is_served() -> None:
    own = ("localhost", "127.0.0.1", "[::1]")
    assert choose_hosts("127.0.0.1", ()) == own and choose_hosts("::1", ()) == own
    assert choose_hosts("localhost", ("A.org",)) == (*own, "a.org")
    assert choose_hosts("0.0.0.0", ()) == () and choose_hosts("0.0.0.0", ("a.org",)) == (*own, "a.org")


def test_keys_are_lines(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\n0123456789abcdef\nfedcba9876543210 \n")
    assert read_keys(str(file)) == ("0123456789abcdef", "fedcba9876543210") and read_keys(None) == ()
    for text in ("", "# nothing\n", "short\n", "0123456789abcdef\nshort\n", "schlüsselschlüssel\n"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="--api-key-file"):
            read_keys(str(file))


def test_a_folder_is_another_one_when_a_file_or_a_link_is(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name / "onnx").mkdir(parents=True)
        (tmp_path / name / "onnx" / "model.onnx").write_text(name)
    link = tmp_path / "now"
    link.symlink_to("v1")
    seen = [read_marks([str(link)])]
    link.unlink()
    link.symlink_to("v2")
    seen.append(read_marks([str(link)]))
    (tmp_path / "v2" / "onnx" / "model.onnx").write_text("longer")
    seen.append(read_marks([str(link)]))
    (tmp_path / "v2" / ".hidden").touch()
    assert read_marks([str(link)]) == seen[-1] and len(set(seen)) == 3
    assert read_marks([str(tmp_path / "none")]) == ()


def test_counters_of_a_supervisor_that_was_killed_are_taken_away(tmp_path: Path) -> None:
    gone, living = (tmp_path / f"trimodal-counters-{pid}-abc" for pid in (2**22 + 1, os.getpid()))
    for folder in (gone, living):
        folder.mkdir()
    made = make_counter_folder(tmp_path)
    assert made.parent == tmp_path and living.is_dir() and not gone.exists()


def test_two_models_of_one_name_are_refused_before_anything_begins() -> None:
    with pytest.raises(InputError, match="two models are called 'a'; give one another name: NAME=FOLDER"):
        make_settings(Asked(("/x/a", "/y/a")))


@pytest.mark.parametrize(("asked", "said"), [({"grpc_port": 8001}, "--grpc-port"), ({"port": 0}, "--port 0")])
def test_what_ray_does_not_do_is_refused_before_it_is_looked_for(asked: dict[str, int], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        run_server(Asked((str(tmp_path),), **asked), "ray")  # type: ignore[arg-type]
