"""What is told of the machine and of memory."""

from __future__ import annotations

from trimodal.verification import footprint


def test_names_the_instructions_that_are_there() -> None:
    assert footprint._list_instructions(("avx2", "fma", "avx512f", "avx512_vnni")) == "AVX2, AVX-512, AVX-512 VNNI"
    assert footprint._list_instructions(()) != ""


def test_tells_what_it_runs_on() -> None:
    found = footprint.detect_machine()
    assert found.processor and found.instructions and found.cores >= 1 and found.threads >= 1
    peak = footprint.peak_memory_bytes()
    assert peak is None or peak > 10_000_000
