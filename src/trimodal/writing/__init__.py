"""Everything that is written is whole, or as it was: folders, files, and scratch folders that no dead run leaves for ever.

    place/                       what stands under the name is the old folder or the whole new one, at every moment
    .trimodal.TOKEN.part/        beside it, while a run is at work: its workplace
        lock                     held by the run for as long as it lives; names the place
        new/                     what is being written
        old/                     what stood in the place, for a moment, where a file system cannot exchange two names

A kill leaves a workplace whose lock is free. The next run that writes into the same folder takes the lock and clears it away.
"""

from trimodal.writing.file import write_whole
from trimodal.writing.folder import whole_folder
from trimodal.writing.places import check_free, check_keeps, check_open, check_room
from trimodal.writing.scratch import scratch_folder
from trimodal.writing.sums import replace_files
from trimodal.writing.workplace import is_part

__all__ = [
    "check_free", "check_keeps", "check_open", "check_room", "is_part", "replace_files", "scratch_folder", "whole_folder",
    "write_whole",
]  # fmt: skip
