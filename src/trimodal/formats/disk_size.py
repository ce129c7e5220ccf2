"""What a model takes on disk, and what of its folder is not counted."""

from __future__ import annotations

from pathlib import Path

from trimodal.core import DiskSize
from trimodal.formats.folder_files import find_uncarried_files, measure_folder_size
from trimodal.models.model import Model
from trimodal.models.tensors import tensor_bytes, unique_tensors


def measure_disk_size(model: Model) -> tuple[int, int]:
    """Bytes on disk of the model's running files and weights, without tensors that nobody reads; for a module without files,
    those of its tensors."""
    if model.folder is not None:
        files, weights = measure_folder_size(model.folder)
        unused = sum(model.unused.values())
        return files - unused, weights - unused
    total = tensor_bytes(unique_tensors(model.module).values())
    return total, total


def compare_disk_sizes(before: tuple[int, int], folder: Path) -> DiskSize:
    """Bytes of running files and weights `before`, as `measure_disk_size` has them, beside those in `folder`."""
    after = measure_folder_size(folder)
    return DiskSize(before[0], after[0], before[1], after[1])


def find_left_out(model: Model) -> tuple[str, ...]:
    """What lies in the model's folder and was neither counted nor carried over: tensors that its class does not take, files."""
    if model.folder is None:
        return ()
    kind, count = type(model.module).__name__, len(model.unused)
    what = "1 tensor" if count == 1 else f"{count:,} tensors"
    tensors = [f"{what} that {kind} does not take, first {min(model.unused)}"] if count else []
    return (*tensors, *find_uncarried_files(model.folder))
