"""Checkpoints of a run: whole ones are marked, so that a kill while one is written leaves the one before to go on from.

    RUN/checkpoint-40/     model.safetensors (all tensors under their names in memory), optimizer.pt, scheduler.pt, rng_state.pth,
                           trainer_state.json, and last of all `complete`, with the sha256 of each
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from torch.optim import Optimizer

from trimodal.errors import IntegrityError
from trimodal.training.sharding import (
    gather_moments,
    gather_weights,
    get_class,
    is_sharded,
    part_moments_,
    part_weights_,
    read_scalar,
)
from trimodal.writing.file import write_text_atomically
from trimodal.writing.sums import sha256

WEIGHTS, MOMENTS = "model.safetensors", "optimizer.pt"
_COMPLETE = "complete"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(checkpoint: Path) -> None:
    """Say that all of `checkpoint` is written, and what."""
    sums = {file.name: sha256(file) for file in sorted(checkpoint.iterdir()) if file.is_file()}
    write_text_atomically(checkpoint / _COMPLETE, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def check_unchanged(checkpoint: Path) -> None:
    """Refuse a checkpoint whose files are not those that were written.

    Raises:
        IntegrityError: naming the first that is another or is gone.
    """
    for line in (checkpoint / _COMPLETE).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        file = checkpoint / name
        if not file.is_file() or sha256(file) != digest:
            what = "is damaged" if file.is_file() else "is gone"
            raise IntegrityError(f"{file} {what}; remove {checkpoint} to go on from the checkpoint before it, or begin anew with --force")


def find_checkpoints(run: Path) -> dict[int, Path]:
    """The whole checkpoints of a run by their step, the first first."""
    if not run.is_dir():
        return {}
    named = ((_NAME.fullmatch(path.name), path) for path in run.iterdir())
    found = {int(match[1]): path for match, path in named if match and (path / _COMPLETE).is_file()}
    return dict(sorted(found.items()))


def find_last_checkpoint(run: Path) -> Path | None:
    """The last whole checkpoint of a run; None where there is none."""
    return next(reversed(find_checkpoints(run).values()), None)


def remove_broken_checkpoints(run: Path) -> None:
    """Take away what a kill has left half-written."""
    whole = set(find_checkpoints(run).values())
    for path in list(run.glob("checkpoint-*")):
        if path not in whole:
            shutil.rmtree(path)


def write_weights(module: nn.Module, folder: Path, writes: bool = True) -> None:
    """All tensors of `module` under their names in memory, each stored once; a class's own `save_pretrained` may rename them.

    Where the module is sharded all processes must come here, and that which `writes` gets all of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_sharded(module):
        whole = gather_weights(module, writes)
        if writes:
            save_file(whole, str(folder / WEIGHTS), metadata={"format": "pt"})
    elif writes:
        save_model(module, str(folder / WEIGHTS), metadata={"format": "pt"})


def read_weights_(module: nn.Module, folder: Path) -> None:
    """Put the weights of a checkpoint into `module`.

    Raises:
        IntegrityError: they are damaged, or those of another model.
    """
    try:
        if is_sharded(module):
            part_weights_(module, load_file(str(folder / WEIGHTS)))
        else:
            load_model(module, str(folder / WEIGHTS), strict=True, device="cpu")
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        what = f"{folder / WEIGHTS} cannot be read into {get_class(module).__name__}"
        raise IntegrityError(f"{what} ({error}); begin anew with --force") from error


def write_moments(module: nn.Module, optimizer: Optimizer, folder: Path, writes: bool) -> None:
    """What `optimizer` keeps for each parameter of a sharded module, whole; all processes must come here, and one `writes`."""
    whole = gather_moments(module, optimizer, writes)
    if writes:
        torch.save(whole, folder / MOMENTS)


def read_moments_(module: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Put what `write_moments` wrote into the optimizer of a sharded module."""
    part_moments_(module, optimizer, torch.load(folder / MOMENTS, map_location="cpu", weights_only=True))


def find_bad_parameter(module: nn.Module) -> str | None:
    """The name of the first parameter that holds a number that is not finite; None if all are."""
    finite = {name: read_scalar(torch.isfinite(value).all()) for name, value in module.named_parameters()}  # of all processes, so in each
    return next((name for name, is_finite in finite.items() if not is_finite), None)
