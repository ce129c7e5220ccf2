"""Everything that is written is whole, or as it was: folders, files, and scratch folders that no dead run leaves for ever.

    place/                       what stands under the name is the old folder or the whole new one, at every moment
    .trimodal.TOKEN.part/        beside it, while a run is at work: its workplace
        lock                     held by the run for as long as it lives; names the place
        new/                     what is being written
        old/                     what stood in the place, for a moment, where a file system cannot exchange two names

A kill leaves a workplace whose lock is free. The next run that writes into the same folder takes the lock and clears it away.
"""

from trimodal.writing.file import write_text_atomically
from trimodal.writing.folder import open_atomic_folder
from trimodal.writing.places import check_disk_space, check_not_replaced, check_output_place, check_writable
from trimodal.writing.scratch import open_scratch_folder
from trimodal.writing.sums import replace_files
from trimodal.writing.workplace import is_partial_name

__all__ = [
    "check_output_place", "check_not_replaced", "check_writable", "check_disk_space", "is_partial_name",
    "replace_files", "open_scratch_folder", "open_atomic_folder", "write_text_atomically",
]  # fmt: skip
