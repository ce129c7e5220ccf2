"""What is told of the machine."""

from __future__ import annotations

from trimodal.verification import machine


def test_names_the_instructions_that_are_there() -> None:
    assert machine._instructions("fpu avx2 avx512f avx512_vnni") == "AVX2, AVX-512, AVX-512 VNNI"
    assert machine._instructions("") != ""


def test_tells_what_it_runs_on() -> None:
    found = machine.this_machine()
    assert found.processor and found.instructions and found.cores >= 1 and found.threads >= 1
    peak = machine.peak_bytes()
    assert peak is None or peak > 10_000_000
