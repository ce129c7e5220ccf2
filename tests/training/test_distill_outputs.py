"""The teacher's outputs on disk: whole or absent part by part, the same as asked live, refused where there is no room."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from trimodal.core import Sample
from trimodal.data import encode_samples, read_samples
from trimodal.errors import InputError, OutputError
from trimodal.loading.load import build_model, load_source
from trimodal.models.model import Model
from trimodal.networks.tiny import make_miniature, make_miniature_batch, write_miniature, write_miniature_data
from trimodal.training.distilling import teacher_outputs
from trimodal.training.distilling.attention_states import find_attentions, is_causal
from trimodal.training.distilling.states import StateReader
from trimodal.training.distilling.teacher_outputs import Teacher, TeacherOutputs


def encode(model: Model, drawn: Sequence[tuple[int, Sample]]) -> dict[str, torch.Tensor]:
    return encode_samples(model, [sample for _, sample in drawn])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Teacher, list[Sample]]:
    folder = tmp_path_factory.mktemp("teacher")
    model = load_source(write_miniature("bert", folder / "bert"))
    samples = read_samples(str(write_miniature_data(folder / "data", 10, ["text"])))
    blocks = model.layout.get_tower("text").blocks
    reader = StateReader(model, embeddings=True, blocks=blocks[:1], attentions=find_attentions(model.layout, blocks[1:]))
    return Teacher(reader, partial(encode, model)), samples


def test_parts_are_made_where_they_are_missing(
    teacher: tuple[Teacher, list[Sample]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_outputs, "_PART_BYTES", 1)  # a sample per part
    asked, samples = teacher
    first = TeacherOutputs(asked, samples, tmp_path / "kept", "fp32")
    first.fill()
    files = sorted((tmp_path / "kept").glob("outputs-*.safetensors"))
    assert len(files) == len(samples)
    before = [path.read_bytes() for path in files]
    files[3].unlink()
    files[7].unlink()
    stamp = files[4].stat().st_mtime_ns
    again = TeacherOutputs(asked, samples, tmp_path / "kept", "fp32")
    again.fill()
    assert [path.read_bytes() for path in files] == before and files[4].stat().st_mtime_ns == stamp


def test_what_is_kept_is_what_is_said(teacher: tuple[Teacher, list[Sample]], tmp_path: Path) -> None:
    asked, samples = teacher
    live = TeacherOutputs(asked, samples).fetch([5, 0, 7])
    assert live["features." + asked.reader.blocks[0]].values.dtype == torch.float32
    (block,) = asked.reader.attentions
    inside = {f"{kind}.{block}" for kind in ("query", "key", "value")}
    assert set(live) == {"embedding.last_hidden_state", f"features.{asked.reader.blocks[0]}", *inside}
    counts = live[f"query.{block}"].counts.tolist()
    words = [int(encode_samples(asked.reader.model, [samples[n]])["attention_mask"].sum()) for n in (5, 0, 7)]
    assert counts == words  # padding is not kept
    for stored, apart in (("fp32", 1e-5), ("fp16", 2e-3)):
        kept = TeacherOutputs(asked, samples, tmp_path / stored, stored)  # type: ignore[arg-type]
        size = kept.measure_bytes()
        kept.fill()
        found = kept.fetch([5, 0, 7])
        assert set(found) == set(live)
        for name, rows in live.items():
            assert found[name].counts.tolist() == rows.counts.tolist()
            assert torch.allclose(found[name].values, rows.values, atol=apart, rtol=apart)
        written = sum(path.stat().st_size for path in (tmp_path / stored).glob("*.safetensors"))
        assert 0.5 < written / size < 2


def test_there_is_no_room(teacher: tuple[Teacher, list[Sample]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"teacher's outputs need about .* GB, but 0.0 GB are free .* distill.top: 64, or cache: none"):
        TeacherOutputs(*teacher, tmp_path / "kept").fill()
    assert not list((tmp_path / "kept").glob("*.safetensors"))


def test_numbers_that_half_precision_cannot_hold() -> None:
    with pytest.raises(InputError, match=r"features.a of the teacher has numbers that half precision cannot hold; give distill.stored"):
        teacher_outputs._check_finite("features.a", torch.tensor([1e6]).half())
    teacher_outputs._check_finite("logits.a", torch.tensor([float("-inf"), 1.0]))


@pytest.mark.parametrize(("name", "causal"), [("bert", False), ("llama", True), ("clip", True), ("whisper", True)])
def test_causal_towers_are_found_by_running(name: str, causal: bool) -> None:
    model = build_model(make_miniature(name), name)
    batch: Any = make_miniature_batch(name, 2)
    (block, *_) = model.layout.get_tower("text").blocks
    assert is_causal(model.module.eval(), block, batch) is causal


@pytest.mark.parametrize("name", ["bert", "llama", "whisper", "vit", "gpt2", "phi3", "gpt-neox"])
def test_queries_keys_and_values_whatever_makes_them(name: str) -> None:
    """Parts of fused layers are those that the model itself makes of them: heads times their width, in the order of the class."""
    model = build_model(make_miniature(name), name)
    tower = next(tower for tower in model.layout.towers if tower.blocks)
    place = find_attentions(model.layout, tower.blocks)[tower.blocks[0]]
    made = {role: torch.randn(1, 3, model.layout.get_site(path).rows) for role, path in place.paths.items()}
    parts = place.part_outputs(made)
    assert set(parts) == {"query", "key", "value"}
    unit = parts["key"].shape[-1] // place.heads
    assert parts["query"].shape[-1] == unit * place.heads * place.group and parts["value"].shape == parts["key"].shape
    if name == "gpt-neox":  # head by head: query, key, value
        assert torch.equal(parts["query"][..., :unit], made["qkv"][..., :unit])
        assert torch.equal(parts["query"][..., unit : 2 * unit], made["qkv"][..., 3 * unit : 4 * unit])
    elif "qkv" in made:
        assert torch.equal(torch.cat([parts[kind] for kind in ("query", "key", "value")], dim=-1), made["qkv"])
