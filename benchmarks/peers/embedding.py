"""What every peer's script does alike: read the texts, run an encoder over them by length, write vectors and a size.

These scripts run in environments of their own, without this package: they import one another by file name only.

A script is called with the model's folder, a file of texts, an output folder, and part of a name if only some rows are
wanted. The texts are JSON: `texts`, to be embedded, `calibration`, and `tokens`, how many of each text count. A script writes
one pair of files per row of the table: `NAME.npy` (texts, width) and `NAME.json` with `bytes`, the weights' size on disk,
`seconds` of compressing and the `version` that did it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
Forward = Callable[[Any, Any], Any]
"""(input_ids, attention_mask) int64 (batch, tokens) as numpy arrays -> last hidden states (batch, tokens, width)."""


@dataclass(frozen=True)
class Job:
    """What a script was called with, and where its results go."""

    model: Path
    texts: tuple[str, ...]
    calibration: tuple[str, ...]
    out: Path
    scratch: Path
    tokens: int
    only: str = ""  # rows with this in their name

    @staticmethod
    def from_arguments() -> Job:
        """The job that the command line describes."""
        model, texts, out = (Path(argument) for argument in sys.argv[1:4])
        data = json.loads(texts.read_text())
        scratch = out / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        return Job(model, tuple(data["texts"]), tuple(data["calibration"]), out, scratch, data["tokens"], *sys.argv[4:5])

    def batches(self, texts: Sequence[str], size: int = BATCH) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Places, token ids and mask of texts of about one length, at most `size` at a time."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.model / "tokenizer.json"))
        tokenizer.enable_truncation(self.tokens)
        tokenizer.no_padding()
        rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for start in range(0, len(order), size):
            places = order[start : start + size]
            longest = max(len(rows[place]) for place in places)
            ids = np.zeros((len(places), longest), dtype=np.int64)
            mask = np.zeros_like(ids)
            for line, place in enumerate(places):
                ids[line, : len(rows[place])] = rows[place]
                mask[line, : len(rows[place])] = 1
            yield places, ids, mask

    def vectors(self, forward: Forward) -> np.ndarray:
        """The mean of every text's last hidden states (texts, width), float32."""
        found: list[np.ndarray | None] = [None] * len(self.texts)
        for places, ids, mask in self.batches(self.texts):
            hidden = np.asarray(forward(ids, mask), dtype=np.float32)
            weights = mask[:, :, None].astype(np.float32)
            for place, vector in zip(places, (hidden * weights).sum(axis=1) / weights.sum(axis=1), strict=True):
                found[place] = vector
        return np.stack([vector for vector in found if vector is not None])

    def row(self, name: str, package: str, make: Callable[[], tuple[Forward, int]]) -> None:
        """Compress with `make`, which gives a forward function and the bytes on disk; embed; write the row.

        A peer that fails says so in its row and does not stop the others.
        """
        result: dict[str, Any] = {"version": metadata.version(package)}
        if self.only not in name:
            return
        start = time.perf_counter()
        try:
            forward, size = make()
            result |= {"bytes": size, "seconds": time.perf_counter() - start}
            np.save(self.out / f"{name}.npy", self.vectors(forward))
        except Exception as error:  # whatever a peer throws belongs in the table
            result = {"version": result["version"], "error": f"{type(error).__name__}: {error}"[:300]}
        (self.out / f"{name}.json").write_text(json.dumps(result))
        print(name, result, flush=True)


def torch_model(job: Job) -> Any:
    """The encoder in float32, in eval mode."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import AutoModel

    return AutoModel.from_pretrained(job.model, dtype="float32").eval()


def torch_forward(model: Any) -> Forward:
    """The forward function of a torch module."""
    import torch

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.no_grad():  # quanto's 4-bit tensors refuse inference mode
            hidden = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
        return hidden.float().numpy()

    return forward


def torch_bytes(job: Job, model: Any) -> int:
    """Bytes of the model's state as `torch.save` writes it: the one way that works for every torch peer's tensors."""
    import torch

    file = job.scratch / "state.pt"
    torch.save(model.state_dict(), file)
    size = file.stat().st_size
    file.unlink()
    return size
