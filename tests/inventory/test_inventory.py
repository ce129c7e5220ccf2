"""Counts of parameters, bytes and MACs, on miniatures and at real size."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors import safe_open
from torch import Tensor, nn

from trimodal.inventory import Inventory, inspect
from trimodal.loading.load import build_model
from trimodal.models.families import family_of
from trimodal.models.model import Model
from trimodal.networks.tiny import MINIATURES, PLAIN, make_miniature, make_miniature_batch, write_miniature

LLAVA_VISION = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip


def labels(n: int) -> dict[str, Any]:
    return {"num_labels": n}


def whisper(width: int, layers: int) -> nn.Module:
    heads: Any = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
                  (("layers", layers), ("attention_heads", width // 64), ("ffn_dim", 4 * width))}  # fmt: skip
    return hf.WhisperForConditionalGeneration(hf.WhisperConfig(d_model=width, **heads))


def llama_1b() -> nn.Module:
    config = hf.LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, tie_word_embeddings=True,
    )  # fmt: skip
    return hf.LlamaForCausalLM(config)


def llava_7b() -> nn.Module:
    text = {"model_type": "llama", "vocab_size": 32064}
    return hf.LlavaForConditionalGeneration(hf.LlavaConfig(vision_config=LLAVA_VISION, text_config=text))


# Parameters as published for these checkpoints; billions of multiply-accumulates as published or by hand.
REAL: dict[str, tuple[Callable[[], nn.Module], int, float | None]] = {
    "clip-vit-base-patch32": (lambda: hf.CLIPModel(hf.CLIPConfig()), 151_277_313, 7.39),
    "bert-base": (lambda: hf.BertModel(hf.BertConfig()), 109_482_240, 11.17),
    "vit-base-patch16": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**labels(1000))), 86_567_656, 17.56),
    "dinov2-base": (lambda: hf.Dinov2Model(hf.Dinov2Config(image_size=518)), 86_580_480, 151.7),
    "siglip-base-patch16": (lambda: hf.SiglipModel(hf.SiglipConfig()), 203_155_970, 23.2),
    "whisper-base": (lambda: whisper(512, 6), 72_593_920, 55.9),
    "whisper-small": (lambda: whisper(768, 12), 241_734_912, 214.9),
    "llama-3.2-1b": (llama_1b, 1_235_814_400, 159.2),
    "llava-1.5-7b": (llava_7b, 7_063_427_072, None),
    "resnet-50": (lambda: hf.ResNetForImageClassification(hf.ResNetConfig(**labels(1000))), 25_557_032, 4.09),
    "wav2vec2-base": (lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config()), 94_371_712, 74.1),
    "ast": (lambda: hf.ASTForAudioClassification(hf.ASTConfig(**labels(527))), 86_594_063, 130.5),
}


def inventory(module: nn.Module, name: str = "model") -> Inventory:
    family = family_of(module)
    return inspect(Model(module, family.describe(module), family, name))


@pytest.mark.parametrize("name", REAL)
def test_real_sizes_without_values(name: str) -> None:
    make, parameters, billions = REAL[name]
    with torch.device("meta"):
        module = make()
    found = inventory(module, name)
    assert found.parameters == parameters == sum(p.numel() for p in module.parameters())
    assert found.bytes == 4 * parameters
    if billions is None:
        assert found.macs is None and "looks at values" in found.macs_note
    else:
        assert found.macs is not None
        assert found.macs / 1e9 == pytest.approx(billions, rel=5e-3)
        # The similarity of one image with one text is computed in no tower.
        outside = {"clip": 512, "siglip": 768}.get(found.family, 0)
        assert sum(tower.macs or 0 for tower in found.towers) == found.macs - outside


@pytest.mark.parametrize("name", [name for name in MINIATURES if name not in PLAIN])
def test_counts_agree_with_the_checkpoint_file(name: str, tmp_path: Path) -> None:
    folder = write_miniature(name, tmp_path / name)
    found = inventory(make_miniature(name))
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert found.bytes + found.buffer_bytes == sum(tensor.nbytes for tensor in tensors.values())
    buffers = ("running_mean", "running_var", "batches_tracked", "position_ids", "token_type_ids", "position_index")
    running = [tensor for key, tensor in tensors.items() if key.endswith(buffers)]
    assert found.buffer_bytes == sum(tensor.nbytes for tensor in running)
    assert found.parameters == sum(t.numel() for t in tensors.values()) - sum(t.numel() for t in running)


@pytest.mark.parametrize("name", MINIATURES)
def test_totals_are_sums_and_shares_add_up(name: str) -> None:
    module = make_miniature(name)
    found = inventory(module)
    assert found.parameters == sum(p.numel() for p in module.parameters())
    homeless = [row for row in found.other if not row.tower]
    assert sum(t.parameters for t in found.towers) + sum(r.parameters for r in homeless) == found.parameters
    assert sum(t.bytes for t in found.towers) + sum(r.bytes for r in homeless) == found.bytes
    assert sum(t.share for t in found.towers) + sum(r.bytes for r in homeless) / found.bytes == pytest.approx(1.0)
    assert sum(t.sites for t in found.towers) == len(found.sites)
    assert json.loads(json.dumps(found.to_json()))["towers"][0]["name"] == found.towers[0].name


@pytest.mark.parametrize("name", [name for name in MINIATURES if name not in PLAIN])
def test_macs_of_a_miniature_are_counted(name: str) -> None:
    found = inventory(make_miniature(name))
    assert found.macs is not None and found.macs > 0
    assert all(tower.macs for tower in found.towers)
    patches = {"pixel_values"} if "image_grid_thw" in found.input_shapes else set()  # of all images, one after the other
    assert all(shape[0] == 1 for key, shape in found.input_shapes.items() if key not in patches)


def test_macs_of_one_linear_layer_by_hand() -> None:
    module = make_miniature("generic")
    family = replace(family_of(module), example=lambda module: {})
    model = Model(module, family.describe(module), family, "mixture")
    none = inspect(model)
    assert none.macs is None and "give a batch" in none.macs_note
    found = inspect(model, make_miniature_batch("generic", 4))
    tower = next(t for t in found.towers if t.name == "model")
    assert tower.macs == 32 * 24 + 24 * 2


def test_macs_of_a_tower_leave_out_those_of_another_inside_of_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = nn.Module()
            self.visual.blocks, self.visual.merger = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), nn.Linear(4, 8)
            self.heads = nn.ModuleDict({"text": nn.ModuleList([nn.Linear(8, 3)])})  # lists are never called
            self.last = nn.Linear(3, 2)

        def example(self) -> dict[str, Tensor]:
            return {"x": torch.zeros(1, 4)}

        def forward(self, x: Tensor) -> Tensor:
            for block in self.visual.blocks:
                x = block(x)
            y: Tensor = self.last(self.heads["text"][0](self.visual.merger(x)))
            return y

    found = inventory(Net())
    assert {tower.name: tower.macs for tower in found.towers} == {"image": 32, "fusion": 32, "text": 24, "model": 6}
    assert found.macs == 32 + 32 + 24 + 6


def test_parameters_of_no_site_are_listed() -> None:
    found = inventory(make_miniature("clip"))
    assert {(row.name, row.tower) for row in found.other} == {
        ("logit_scale", ""), ("vision_model.embeddings.class_embedding", "image"),
    }  # fmt: skip
    recurrent = [row for row in inventory(make_miniature("generic")).other if row.name.startswith("text_recurrent")]
    assert len(recurrent) == 4 and {row.tower for row in recurrent} == {"text"}


def test_inspecting_changes_nothing() -> None:
    module = make_miniature("resnet").train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    inventory(module)
    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_images_that_are_no_squares() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "patch_size": 8}
    found = inspect(build_model(hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=(32, 48))).eval(), "vit"))
    assert found.input_shapes == {"pixel_values": (1, 3, 32, 48)} and found.macs


def test_macs_are_unknown_where_the_forward_wants_other_inputs() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 50, "l_layers": 1, "x_layers": 1}
    found = inspect(build_model(hf.LxmertModel(hf.LxmertConfig(**sizes, r_layers=1, visual_feat_dim=16)).eval(), "lxmert"))
    assert found.macs is None and all(tower.macs is None for tower in found.towers)
    assert found.macs_note.startswith("the forward pass of LxmertModel on input_ids (1, 128) failed (")


def test_macs_of_choices() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 50}
    found = inspect(build_model(hf.BertForMultipleChoice(hf.BertConfig(**sizes)).eval(), "bert"))
    assert found.input_shapes == {"input_ids": (1, 2, 128)} and found.macs


def test_inspecting_changes_nothing_where_parts_are_shared() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)
            self.alias, self.many = self.a, nn.ModuleList([self.a] * 3)
            self.table = nn.Embedding(4, 8, max_norm=0.1)  # changed by every forward on values

        def forward(self, x: Tensor, index: Tensor) -> Any:
            for layer in self.many:
                x = layer(x)
            return self.alias(x) + self.table(index)

        def example(self) -> dict[str, Tensor]:
            return {"x": torch.zeros(1, 8), "index": torch.zeros(1, dtype=torch.long)}

    module = Shared().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = inspect(build_model(module, "shared"))
    assert found.macs == 4 * 64 and found.parameters == 72 + 32
    assert module.training and all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_an_example_may_hold_more_than_tensors() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, twice: bool, parts: list[Tensor], x: Tensor) -> Any:
            return self.a(x) + self.a(parts[0]) if twice else x

        def example(self) -> dict[str, Any]:
            return {"twice": True, "parts": [torch.zeros(1, 8)], "x": torch.zeros(1, 8)}

    assert inspect(build_model(Several(), "several")).macs == 2 * 64
