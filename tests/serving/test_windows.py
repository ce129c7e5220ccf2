"""Long sounds in windows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trimodal.serving.windows import split_sound


def test_a_window_ends_where_it_is_quiet() -> None:
    wave = np.ones(35 * 100, np.float32)
    wave[2800:2820] = 0  # 0.2 s of silence at 28 s
    first, second = split_sound(wave, 100, 30)
    assert 2800 <= len(first) <= 2820 and len(first) + len(second) == len(wave)


@given(st.integers(0, 5000), st.integers(1, 200), st.floats(0.5, 30))
def test_nothing_is_lost_and_no_window_is_too_long(frames: int, rate: int, seconds: float) -> None:
    wave = np.random.default_rng(frames).standard_normal(frames).astype(np.float32)
    if int(seconds * rate) < 1:
        return
    parts = split_sound(wave, rate, seconds)
    assert np.array_equal(np.concatenate(parts), wave)
    assert all(len(part) <= int(seconds * rate) for part in parts)
    assert all(len(part) for part in parts[:-1])
