"""Long sounds in windows of the length that a model hears at once, cut where it is quietest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SEARCHED = 5.0  # seconds before a window's end in which a quiet place is looked for
_FRAME = 0.05  # seconds over which loudness is measured


def split_sound(wave: NDArray[np.float32], rate: int, seconds: float) -> list[NDArray[np.float32]]:
    """`wave` float32 (frames,) at `rate` Hz in parts of at most `seconds`, which together are all of it. Each but the last ends where it
    is quietest in its last five seconds, or last sixth if that is shorter."""
    most, frame = int(seconds * rate), max(int(_FRAME * rate), 1)
    searched = min(int(_SEARCHED * rate), most // 6)
    parts, begin = [], 0
    while len(wave) - begin > most:
        end = begin + most
        if searched >= frame:
            tail = wave[end - searched : end]
            loudness = (tail[: len(tail) // frame * frame].reshape(-1, frame).astype(np.float64) ** 2).sum(axis=1)
            end = end - searched + int(loudness.argmin()) * frame + frame // 2
        parts.append(wave[begin:end])
        begin = end
    return [*parts, wave[begin:]]
