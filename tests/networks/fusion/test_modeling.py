"""The fused model: which modality gives what, padding that has no effect, and parts that can be cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trimodal.networks.fusion import FusionConfig, FusionModel
from trimodal.networks.fusion.modeling import SelfAttention

INPUTS = {
    "image": ("pixel_values",),
    "audio": ("input_features", "audio_mask"),
    "text": ("input_ids", "attention_mask"),
}


def cut(linear: nn.Linear, kept: Tensor, dim: int) -> nn.Linear:
    """The linear map with only the rows (dim 0) or columns (dim 1) in `kept`."""
    weight = linear.weight.index_select(dim, kept)
    smaller = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        smaller.weight.copy_(weight)
        smaller.bias.copy_(linear.bias[kept] if dim == 0 else linear.bias)
    return smaller


def cut_heads(attention: SelfAttention, heads: list[int]) -> None:
    """Keep only some heads, by slicing weights."""
    size = attention.head_dim
    kept = torch.cat([torch.arange(head * size, (head + 1) * size) for head in heads])
    for name in ("query", "key", "value"):
        setattr(attention, name, cut(getattr(attention, name), kept, 0))
    attention.output = cut(attention.output, kept, 1)


@pytest.mark.parametrize("fusion", ["hybrid", "late", "early"])
def test_every_fusion_answers_and_learns(fusion: str, config: FusionConfig, batch: dict[str, Tensor]) -> None:
    config.fusion = fusion
    model = FusionModel(config)
    labels = torch.tensor([0, 3, 6])
    output = model(**batch, labels=labels, image_labels=labels, audio_labels=labels, text_labels=labels % 5)
    assert output.logits.shape == (3, 7)
    assert (output.image_logits.shape, output.text_logits.shape) == ((3, 10), (3, 5))
    output.loss.backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert silent == []


@pytest.mark.parametrize("name", ["image", "audio", "text"])
def test_one_modality_alone_gives_what_it_gives_in_company(
    name: str, model: FusionModel, batch: dict[str, Tensor]
) -> None:
    alone = model(**{key: batch[key] for key in INPUTS[name]})
    together = model(**batch)
    assert alone.logits is None
    assert alone[f"{name}_logits"].equal(together[f"{name}_logits"])
    assert [key for key in alone if key.endswith("_logits")] == [f"{name}_logits"]


def test_no_input_is_refused(model: FusionModel) -> None:
    with pytest.raises(ValueError, match="No input"):
        model()


def test_an_answer_label_without_all_modalities_is_refused(model: FusionModel, batch: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="answer"):
        model(pixel_values=batch["pixel_values"], labels=torch.zeros(3, dtype=torch.long))


def test_a_text_that_is_too_long_is_refused(model: FusionModel) -> None:
    with pytest.raises(ValueError, match="9 tokens, this tower takes 8"):
        model(input_ids=torch.ones(1, 9, dtype=torch.long))


def test_padding_words_change_nothing(model: FusionModel, batch: dict[str, Tensor]) -> None:
    ids, mask = batch["input_ids"].clone(), batch["attention_mask"]
    ids[mask == 0] = 5
    assert torch.allclose(model(**batch).logits, model(**{**batch, "input_ids": ids}).logits, atol=1e-5)


@pytest.mark.parametrize("tower", ["image", "audio", "text", "fusion"])
def test_cut_heads_equal_silenced_heads(tower: str, model: FusionModel, batch: dict[str, Tensor]) -> None:
    attention = getattr(model, tower).blocks[0].attention
    size = attention.head_dim
    before = model(**batch).logits
    with torch.no_grad():
        attention.output.weight[:, size : 2 * size] = 0
    silenced = model(**batch).logits
    assert not torch.allclose(before, silenced, atol=1e-4)
    heads = attention.query.out_features // size
    cut_heads(attention, [head for head in range(heads) if head != 1])
    assert torch.allclose(model(**batch).logits, silenced, atol=1e-5)


def test_cut_hidden_units_equal_silenced_units(model: FusionModel, batch: dict[str, Tensor]) -> None:
    mlp = model.fusion.blocks[1].mlp
    with torch.no_grad():
        mlp.down.weight[:, ::2] = 0
    silenced = model(**batch).logits
    kept = torch.arange(1, mlp.up.out_features, 2)
    mlp.up, mlp.down = cut(mlp.up, kept, 0), cut(mlp.down, kept, 1)
    assert torch.allclose(model(**batch).logits, silenced, atol=1e-5)


def test_a_block_can_be_taken_out(model: FusionModel, batch: dict[str, Tensor]) -> None:
    del model.image.blocks[0]
    assert model(**batch).logits.shape == (3, 7)


def test_the_layout_names_every_token(model: FusionModel, batch: dict[str, Tensor]) -> None:
    layout = model.fusion_layout(batch)
    assert layout.shape == (3, 1 + 16 + 13 + 6)
    assert layout[:, 0].tolist() == [3, 3, 3]
    counts = [[int((row == kind).sum()) for kind in (0, 1, 2, -1)] for row in layout]
    assert counts == [[16, 13, 6, 0], [16, 6, 2, 11], [16, 1, 4, 14]]


def test_the_layout_matches_the_joint_mask(model: FusionModel, batch: dict[str, Tensor]) -> None:
    seen: list[Tensor] = []
    model.fusion.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    model(**batch)
    assert seen[0].equal(model.fusion_layout(batch) >= 0)


def test_a_saved_model_gives_the_same_outputs(tmp_path: Path, model: FusionModel, batch: dict[str, Tensor]) -> None:
    model.save_pretrained(tmp_path)
    again = FusionModel.from_pretrained(tmp_path).eval()
    assert again(**batch).logits.equal(model(**batch).logits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
