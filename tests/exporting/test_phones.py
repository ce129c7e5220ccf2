"""LiteRT and ExecuTorch: our codes in their files, computed from by their own runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import trimodal
from trimodal.errors import InputError
from trimodal.exporting import executorch, litert
from trimodal.exporting.mobile_graph.integer_weights import IntegerWeight, list_layouts
from trimodal.networks.tiny import make_miniature_batch, write_miniature, write_miniature_data
from trimodal.runtimes import RUNTIMES
from trimodal.runtimes.environment import Environment
from trimodal.runtimes.fixed_shapes import run_by_sample

RECIPE = {"steps": [
    {"quantize.rtn": {"where": "*embedding*", "optional": True, "bits": 8, "group": "channel"}}, {"quantize.smooth": {"mode": "token"}},
]}  # fmt: skip


ENVIRONMENTS = {"litert": litert.ENVIRONMENT, "executorch": executorch.ENVIRONMENT}


def _lacks_environment(name: str) -> bool:
    try:
        ENVIRONMENTS[name].find_python()
    except InputError:
        return True
    return False


FORMATS = [
    pytest.param(name, marks=[pytest.mark.slow, pytest.mark.skipif(_lacks_environment(name), reason=f"no environment for it: make {name}")])
    for name in ENVIRONMENTS
]


def test_codes_of_four_bits_lie_two_to_a_byte_the_lower_half_first() -> None:
    weight = IntegerWeight(torch.tensor([[-8, 7, 1, -1]], dtype=torch.int8), torch.ones(1), 4)
    assert list_layouts(weight, signed=True) == [bytes([0x78, 0xF1])]
    assert list_layouts(weight, signed=False) == [bytes([0xF0, 0x79])]


def test_short_texts_are_padded_and_cut() -> None:
    given = {"input_ids": np.array([[1, 2, 3], [4, 5, 6]])}
    found = run_by_sample(lambda one: {"y": one["input_ids"][..., None]}, given, {"input_ids": (1, 5)})
    assert found["y"][..., 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(InputError, match=r"\[1, 3\].*takes \[1, 2\]"):
        run_by_sample(lambda one: one, given, {"input_ids": (1, 2)})


def test_without_an_environment_it_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIMODAL_NOWHERE_PYTHON", raising=False)
    with pytest.raises(InputError, match="run make nowhere"):
        Environment("nowhere", ("no_such_module",)).find_python()
    monkeypatch.setenv("TRIMODAL_NOWHERE_PYTHON", str(tmp_path / "python"))
    with pytest.raises(InputError, match="is not there"):
        Environment("nowhere", ("no_such_module",)).find_python()


@pytest.mark.parametrize("form", FORMATS)
def test_outputs_are_the_simulations(form: str, tmp_path: Path) -> None:
    data = write_miniature_data(tmp_path / "data", 16, ("text",))
    trimodal.compress(write_miniature("bert", tmp_path / "bert"), RECIPE, data, tmp_path / "out")
    made = trimodal.export(tmp_path / "out", form)
    result = made.result
    assert len(result.coded) == 16 and not result.decoded
    batch = make_miniature_batch("bert", 2)
    with torch.no_grad():
        wanted = trimodal.load(tmp_path / "out")(**batch).last_hidden_state
    session = RUNTIMES[form](made.folder / result.components[0].files[0], 1)
    found = torch.from_numpy(session.run({name: value.numpy() for name, value in batch.items()})["last_hidden_state"])
    assert len(session.list_integer_nodes()) >= 12
    session.close()
    real = batch["attention_mask"].bool()
    assert torch.cosine_similarity(found[real].flatten(), wanted[real].flatten(), dim=0) > 0.99


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("name", "modality", "layers"), [("vit", "image", 14), ("resnet", "image", 16), ("ast", "audio", 14)])
def test_images_and_sounds_are_the_simulations(name: str, modality: str, layers: int, form: str, tmp_path: Path) -> None:
    data = write_miniature_data(tmp_path / "data", 16, (modality,))
    trimodal.compress(write_miniature(name, tmp_path / name), RECIPE, data, tmp_path / "out")
    made = trimodal.export(tmp_path / "out", form)
    result = made.result
    assert len(result.coded) == layers and not result.decoded
    torch.manual_seed(0)
    batch = {key: torch.randn(2, *(int(n) for n in shape[1:])) for key, shape in result.components[0].inputs.items()}
    with torch.no_grad():
        wanted = trimodal.load(tmp_path / "out")(**batch).logits
    session = RUNTIMES[form](made.folder / result.components[0].files[0], 1)
    found = torch.from_numpy(session.run({key: value.numpy() for key, value in batch.items()})["logits"])
    assert len(session.list_integer_nodes()) == layers
    session.close()
    assert (found - wanted).norm() < 0.1 * wanted.norm()
