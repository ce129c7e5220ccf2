"""Miniatures: folders that the stock loaders read, batches that run, data that encodes."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from trimodal.core import is_signal
from trimodal.errors import InputError
from trimodal.models.families import family_of
from trimodal.models.model import LoadedSample, Processors
from trimodal.models.processors import find_processors
from trimodal.networks.fusion import register
from trimodal.networks.tiny import (
    FURTHER,
    MEDIA,
    MINIATURES,
    PLAIN,
    make_miniature,
    make_miniature_batch,
    write_miniature,
    write_miniature_data,
)
from trimodal.networks.tiny_text import TEXT

FOLDERS = [name for name in (*MINIATURES, *FURTHER) if name not in PLAIN]
PARTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "image": (hf.AutoImageProcessor, ("clip", "siglip", "vit", "dinov2", "resnet", "resnet-basic")),
    "audio": (hf.AutoFeatureExtractor, ("whisper", "clap", "wav2vec2", "ast")),
    "text": (hf.AutoTokenizer, ("clip", "siglip", "bert", "llama", "qwen3", "whisper", "clap", *TEXT)),
    "whole": (hf.AutoProcessor, ("llava", "fusion")),
}


def loaded(data: Path) -> list[LoadedSample]:
    return [_loaded(data.parent, json.loads(line)) for line in data.read_text().splitlines()]


def _loaded(folder: Path, line: dict[str, Any]) -> LoadedSample:
    with wave.open(str(folder / line["audio"])) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        rate = file.getframerate()
    return LoadedSample(Image.open(folder / line["image"]).convert("RGB"), sound, rate, line["text"], line["target"])


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_reads_back_and_runs_on_real_files(name: str, tmp_path: Path) -> None:
    register()
    folder = write_miniature(name, tmp_path / "model")
    module = make_miniature(name)
    assert isinstance(module, hf.PreTrainedModel)
    reader: Any = type(module)
    again = reader.from_pretrained(folder).eval()
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    parts = Processors(**{part: auto.from_pretrained(folder) for part, (auto, names) in PARTS.items() if name in names})
    parts = find_processors(folder) if name in MEDIA else parts
    samples = loaded(write_miniature_data(tmp_path / "data", 3, ("image", "audio", "text")))
    family = family_of(again)
    batch = family.encode(again, parts, samples)
    with torch.no_grad():
        found = again(**batch)
    for output in family.outputs(again):
        assert len(found[output.field]) == 3 and found[output.field].isfinite().all()
        assert not output.mask or output.mask in batch
    assert {one for one in family.modalities(again) if not is_signal(one)} <= {"image", "audio", "text"}
    for codes in family.tokens(again, batch).values():
        assert codes.dtype == torch.long and codes.shape[0] == 3


@pytest.mark.parametrize("name", MINIATURES)
def test_same_seed_same_weights_and_outputs_that_differ_by_sample(name: str) -> None:
    one, two, other = make_miniature(name), make_miniature(name), make_miniature(name, seed=1)
    state = two.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())
    assert any(not torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    with torch.no_grad():
        found = one(**make_miniature_batch(name, 2))
    first = found if isinstance(found, torch.Tensor) else found[family_of(one).outputs(one)[0].field]
    assert len(first) == 2 and not torch.allclose(first[0], first[1], atol=1e-3)


def test_making_a_miniature_leaves_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make_miniature("vit")
    assert torch.rand(1) == expected


def test_data_holds_what_was_asked_for(tmp_path: Path) -> None:
    path = write_miniature_data(tmp_path, 5, ("text",))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 5 and all("image" not in line and line["text"] for line in lines)
    assert {line["label"] for line in lines} == {0, 1}
    assert path.read_bytes() == write_miniature_data(tmp_path / "again", 5, ("text",)).read_bytes()


def test_unknown_name_and_folderless_module(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'llama'"):
        make_miniature("lama")
    with pytest.raises(InputError, match="is a plain module"):
        write_miniature("generic", tmp_path)
