"""ExecuTorch: our codes in its file, computed from by its own runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import trimodal
from trimodal.errors import InputError
from trimodal.exporting.executorch import ENVIRONMENT
from trimodal.networks.tiny import make_miniature_batch, write_miniature, write_miniature_data
from trimodal.runtimes import RUNTIMES

RECIPE = {"steps": [
    {"quantize.rtn": {"where": "*embedding*", "optional": True, "bits": 8, "group": "channel"}}, {"quantize.smooth": {"mode": "token"}},
]}  # fmt: skip


def _lacks_environment() -> bool:
    try:
        ENVIRONMENT.find_python()
    except InputError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(_lacks_environment(), reason="no environment has executorch: make executorch")
def test_outputs_are_the_simulations(tmp_path: Path) -> None:
    data = write_miniature_data(tmp_path / "data", 16, ("text",))
    trimodal.compress(write_miniature("bert", tmp_path / "bert"), RECIPE, data, tmp_path / "out")
    result = trimodal.export(tmp_path / "out", "executorch").result
    assert len(result.coded) == 16 and not result.decoded
    batch = make_miniature_batch("bert", 2)
    with torch.no_grad():
        wanted = trimodal.load(tmp_path / "out")(**batch).last_hidden_state
    session = RUNTIMES["executorch"](tmp_path / "out" / "executorch" / "model.pte", 1)
    found = torch.from_numpy(session.run({name: value.numpy() for name, value in batch.items()})["last_hidden_state"])
    assert len(session.list_integer_nodes()) >= 12
    session.close()
    real = batch["attention_mask"].bool()
    assert torch.cosine_similarity(found[real].flatten(), wanted[real].flatten(), dim=0) > 0.99


@pytest.mark.slow
@pytest.mark.skipif(_lacks_environment(), reason="no environment has executorch: make executorch")
@pytest.mark.parametrize(("name", "modality", "layers"), [("vit", "image", 14), ("resnet", "image", 16), ("ast", "audio", 14)])
def test_images_and_sounds_are_the_simulations(name: str, modality: str, layers: int, tmp_path: Path) -> None:
    data = write_miniature_data(tmp_path / "data", 16, (modality,))
    trimodal.compress(write_miniature(name, tmp_path / name), RECIPE, data, tmp_path / "out")
    result = trimodal.export(tmp_path / "out", "executorch").result
    assert len(result.coded) == layers and not result.decoded
    torch.manual_seed(0)
    batch = {key: torch.randn(2, *(int(n) for n in shape[1:])) for key, shape in result.components[0].inputs.items()}
    with torch.no_grad():
        wanted = trimodal.load(tmp_path / "out")(**batch).logits
    session = RUNTIMES["executorch"](tmp_path / "out" / "executorch" / "model.pte", 1)
    found = torch.from_numpy(session.run({key: value.numpy() for key, value in batch.items()})["logits"])
    assert len(session.list_integer_nodes()) == layers
    session.close()
    assert (found - wanted).norm() < 0.1 * wanted.norm()
