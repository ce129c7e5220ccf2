"""The working folder of a pipeline, `OUTPUT.run`: what its stages left, and by which inputs each is known.

    OUTPUT.run/
      pipeline.json      the inputs of `train` and of `compress`, and what came of them
      0-train/           the trained model; 0-train.run while it is trained
      1-prune/  2-distill/  3-quantize/      what the recipe's stages left, each an artifact

It stays when the output is there: whoever changes the recipe goes on from the trained model.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimodal.core import json_text
from trimodal.data import Data, digest_samples, is_no_data, read_samples
from trimodal.errors import IntegrityError, OutputError
from trimodal.formats import check_output_place, is_artifact, write_text_atomically
from trimodal.manifest import MANIFEST
from trimodal.models.files import weight_files
from trimodal.writing.sums import sha256

_BOOK = "pipeline.json"
TRAINED = "0-train"


@dataclass(frozen=True)
class WorkingFolder:
    """`OUTPUT.run`, beside `output`."""

    output: Path

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.output.parent / f"{self.output.name}.run"

    @property
    def trained(self) -> Path:
        """The trained model."""
        return self.path / TRAINED

    def open(self, resume: bool, force: bool) -> None:
        """Make it, or find that it may be gone on with.

        Raises:
            OutputError: there is one that neither resume nor force speaks of, or the output's place is taken by something else.
        """
        if self.path.exists() and not (resume or force):
            raise OutputError(f"{self.path} holds what an earlier run left; go on from there with --resume, or begin anew with --force")
        ours = resume and self.path.exists() and is_artifact(self.output)
        check_output_place(self.output, force or ours)
        if force and not resume and self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)

    def read(self, part: str) -> Any:
        """What was written down of `part`; None if nothing was.

        Raises:
            IntegrityError: it cannot be read.
        """
        return self._read_book().get(part)

    def write(self, part: str, said: Any) -> None:
        """Write down of `part` what its inputs are, or what came of it."""
        write_text_atomically(self.path / _BOOK, json_text({**self._read_book(), part: said}, indent=1) + "\n")

    def _read_book(self) -> dict[str, Any]:
        file = self.path / _BOOK
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{file} cannot be read ({error}); begin anew with --force") from error
        return found


def digest_data(data: Data | None) -> str | None:
    """sha256 of all samples; None where there are none."""
    return None if data is None or is_no_data(data) else digest_samples(read_samples(data))


def digest_start(model: Any) -> dict[str, str]:
    """sha256 of the weights that a training begins with, by file; empty where it begins at random."""
    start = model.get("from") if isinstance(model, Mapping) else model
    folder = Path(start) if isinstance(start, str) else None
    return digest_weights(folder) if folder is not None and folder.is_dir() else {}


def digest_weights(folder: Path) -> dict[str, str]:
    """sha256 of each weight file of a model's folder."""
    return {str(path): sha256(folder / path) for path in weight_files(folder)}


def digest_output(folder: Path) -> str | None:
    """sha256 of an artifact's manifest, which has those of all that decides; None where there is none."""
    return sha256(folder / MANIFEST) if is_artifact(folder) else None


def digest_content(content: Any) -> str:
    """sha256 of plain data."""
    return hashlib.sha256(json_text(content, sort_keys=True).encode()).hexdigest()
