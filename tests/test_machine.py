"""What the machine is said to have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from trimodal import machine


def test_processor(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 fma avx512f avx512_vnni\n")
    assert machine.detect_processor(info) == ("Some CPU @ 2 GHz", ("avx2", "fma", "avx512f", "avx512_vnni"))
    name, vectors = machine.detect_processor(tmp_path / "nothing")
    assert name and vectors == ()


def test_instruction_sets_are_what_the_system_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "detect_processor", lambda: ("some", ("avx2", "avx_vnni")))
    assert machine.instruction_sets.__wrapped__() == ("avx2", "avx_vnni")
    monkeypatch.setattr(machine, "detect_processor", lambda: ("some", ()))
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    said = "hw.optional.neon: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\n"
    monkeypatch.setattr(machine, "_ask_sysctl", lambda: said)
    assert machine.instruction_sets.__wrapped__() == ("asimd", "asimddp")
    monkeypatch.setattr(machine.sys, "platform", "win32")
    monkeypatch.setattr(machine, "import_module", lambda name: SimpleNamespace(get_cpu_capability=lambda: "AVX512"))
    assert machine.instruction_sets.__wrapped__() == ("avx2", "fma", "avx512f")
    monkeypatch.setattr(machine, "import_module", _no_module)
    assert machine.instruction_sets.__wrapped__() == ()


def _no_module(name: str) -> None:
    raise ImportError(name)


def test_a_mac_of_the_older_kind() -> None:
    said = "hw.optional.avx2_0: 1\nhw.optional.avx512f: 0\nmachdep.cpu.features: FPU FMA\nmachdep.cpu.leaf7_features: AVX2 BMI\n"
    assert machine.parse_sysctl(said) == ("avx2", "fma") and machine.parse_sysctl("") == ()


@pytest.mark.parametrize(
    ("group", "files", "left"),
    [
        ("0::/\n", {}, 1000 * 1024),
        ("0::/\n", {"memory.max": "max", "memory.current": "5"}, 1000 * 1024),
        ("0::/\n", {"memory.max": "5000", "memory.current": "2000"}, 3000),
        ("0::/\n", {"memory.max": "5000", "memory.current": "2000", "memory.stat": "anon 1\ninactive_file 500\n"}, 3500),
        ("0::/a/b\n", {"a/memory.max": "9000", "a/memory.current": "2000"}, 7000),
        ("0::/a/b\n", {"a/b/memory.max": "100", "a/b/memory.current": "200"}, 0),
        ("4:cpu,memory:/x\n", {"memory/x/memory.limit_in_bytes": "70", "memory/x/memory.usage_in_bytes": "10"}, 60),
        ("4:memory:/x\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "1"}, 1000 * 1024),
    ],
)
def test_free_memory_is_the_least_of_system_and_container(tmp_path: Path, group: str, files: dict[str, str], left: int) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    1000 kB\n")
    (tmp_path / "own").write_text(group)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert machine.free_memory_bytes(tmp_path / "meminfo", tmp_path / "own", tmp_path / "groups") == left


def test_memory_that_nobody_tells(tmp_path: Path) -> None:
    assert machine.free_memory_bytes(tmp_path / "no", tmp_path / "no", tmp_path / "no") is None


def test_disk_of_a_folder_that_is_yet_to_be_made(tmp_path: Path) -> None:
    assert machine.free_disk_bytes(tmp_path / "a" / "b") > 0


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert machine.count_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert machine.count_threads() == machine.count_cores()


def test_missing_parts_say_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name == "constriction" else object())
    parts = {part.name: part for part in machine.describe_environment().parts}
    assert parts["audio"].is_installed and not parts["pack"].is_installed
    assert parts["pack"].missing == ("constriction",) and parts["pack"].install.endswith('[pack]"')


def test_versions() -> None:
    found = machine.describe_environment()
    assert found.versions["torch"].startswith("2.") and machine.version_of("no-such-package") == "not installed"
