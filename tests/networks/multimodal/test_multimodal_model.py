"""The multimodal model: what is masked changes nothing, a sample is what it is alone, and every task has its loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from trimodal.networks.multimodal import MultimodalConfig, MultimodalModel
from trimodal.networks.multimodal.joining import make_cross_mask
from trimodal.networks.multimodal.losses import compute_contrastive_loss

FUSIONS = ["early", "late", "hybrid", "layerwise"]
NAMES = {
    "image": ("pixel_values",), "caption": ("caption", "caption_mask"), "audio": ("input_features", "audio_mask"),
    "vitals": ("vitals", "vitals_mask"), "table": ("table",),
}  # fmt: skip


def without(batch: dict[str, Tensor], *streams: str) -> dict[str, Tensor]:
    """The batch without some streams."""
    gone = {name for stream in streams for name in NAMES[stream]}
    return {name: value for name, value in batch.items() if name not in gone}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_answers_and_all_of_it_learns(fusion: str, make_model: Callable[..., Any], batch: dict[str, Tensor]) -> None:
    model = make_model(fusion, label_sets={"mood": 3})
    found = model(**batch, labels=torch.tensor([0, 3, 1, -100]), mood_labels=torch.tensor([0, 1, 2, 0]))
    assert found.logits.shape == (4, 4) and found["mood_logits"].shape == (4, 3) and found.embeddings.shape == (4, 16)
    found.loss.backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert [name for name in silent if not name.endswith("key.bias")] == []  # a softmax does not see what is added to all keys


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("stream", list(NAMES))
def test_a_sample_without_a_stream_is_as_if_nobody_had_it(
    fusion: str, stream: str, make_model: Callable[..., Any], batch: dict[str, Tensor]
) -> None:
    """Whatever stands in its place, numbers that are none included; and the other samples do not notice."""
    model = make_model(fusion)
    present = torch.tensor([1, 0, 1, 0])
    name = NAMES[stream][0]
    rubbish = batch[name].masked_fill(present.reshape(-1, *[1] * (batch[name].dim() - 1)) == 0, 19 if stream == "caption" else float("nan"))
    mixed = model(**{**batch, name: rubbish, f"{stream}_present": present}).logits
    torch.testing.assert_close(mixed[::2], model(**batch).logits[::2], atol=1e-5, rtol=1e-5)
    alone = model(**{key: value[1::2] for key, value in without(batch, stream).items()}).logits
    torch.testing.assert_close(mixed[1::2], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone, model(**batch).logits[1::2], atol=1e-3), "the stream had an effect"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_unlike_subsets_in_one_batch_are_what_each_is_alone(
    fusion: str, make_model: Callable[..., Any], batch: dict[str, Tensor]
) -> None:
    model, chosen = make_model(fusion), (["image"], ["caption", "vitals"], ["audio", "table", "image"], ["vitals"])
    present = {f"{name}_present": torch.tensor([name in one for one in chosen]).long() for name in NAMES}
    together = model(**batch, **present).logits
    for row, one in enumerate(chosen):
        alone = {key: value[row : row + 1] for key, value in without(batch, *(set(NAMES) - {*one})).items()}
        torch.testing.assert_close(together[row : row + 1], model(**alone).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_padding_is_never_looked_at(fusion: str, make_model: Callable[..., Any], batch: dict[str, Tensor]) -> None:
    model = make_model(fusion)
    other = {key: value.clone() for key, value in batch.items()}
    other["caption"][1::2, 4:] = 3
    other["input_features"][1::2, :, 5:] = float("inf")
    other["vitals"][1::2, 4:] = float("nan")
    torch.testing.assert_close(model(**other).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_folder_gives_the_same_model(
    fusion: str, make_model: Callable[..., Any], batch: dict[str, Tensor], tmp_path: Path
) -> None:
    model = make_model(fusion)
    model.save_pretrained(tmp_path)
    loaded = hf.AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is MultimodalModel and list(loaded.by_name) == list(model.by_name)
    assert type(hf.AutoConfig.from_pretrained(tmp_path)) is MultimodalConfig
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, atol=1e-6, rtol=1e-6)


def test_tokens_of_a_hybrid_first_look_at_others_only() -> None:
    allowed = torch.tensor([[True, True, True, True, False]])
    found = make_cross_mask([1, 2, 2], allowed)[0]  # the class token, two streams of two tokens, of which the last is padding
    assert found.tolist() == [
        [True, True, True, True, False],
        [True, False, False, True, False],
        [True, False, False, True, False],
        [True, True, True, False, False],
        [True, True, True, False, False],
    ]  # fmt: skip


def test_streams_of_a_layerwise_fusion_meet_at_the_chosen_depths_only(make_model: Callable[..., Any], batch: dict[str, Tensor]) -> None:
    """Nothing of a stream reaches the others where they do not exchange; where they do, it does."""
    changed = {**batch, "pixel_values": batch["pixel_values"] + 1.0}
    for depths, reached in (([], False), ([0], False), ([0, 1], True)):
        model = make_model("layerwise", exchange_at=depths)
        states: list[Tensor] = []
        model.fusion.streams["vitals"][2].register_forward_hook(lambda _, args, output, states=states: states.append(output[:, 4:]))
        model(**batch)
        model(**changed)
        assert torch.equal(states[0], states[1]) is not reached, depths


def test_gates_add_up_over_those_that_are_there(make_model: Callable[..., Any], batch: dict[str, Tensor]) -> None:
    """One stream alone has all of the weight, so that its projection is what the perceptron is given."""
    for joining in ("gated", "concat"):
        model = make_model("late", joining=joining)
        seen: list[Tensor] = []
        model.fusion.norm_2.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        alone = {name: batch[name] for name in NAMES["vitals"]}
        masks = model.run_towers(model.sort_inputs(alone))
        model(**alone)
        times = 1 if joining == "gated" else 5  # as large as all five side by side
        torch.testing.assert_close(seen[0], times * model.fusion.pool_streams(*masks)["vitals"])


def test_numbers_are_regressed_where_they_are_known(make_model: Callable[..., Any], batch: dict[str, Tensor]) -> None:
    model = make_model("early", tasks=["regress"], regression_targets=2)
    found = model(**batch, targets=torch.full((4, 2), float("nan")).index_fill(0, torch.tensor([0]), 1.0))
    assert found.logits is None
    torch.testing.assert_close(found.loss, ((found.predictions[0] - 1.0) ** 2).mean())
    found.loss.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())


def test_two_streams_are_told_by_each_other(make_model: Callable[..., Any], batch: dict[str, Tensor]) -> None:
    model = make_model("late", contrast=["image", "caption"])
    found = model(**batch)
    assert found.logits is None
    image, caption = found["image_embeds"], found["caption_embeds"]
    torch.testing.assert_close(image.norm(dim=1), torch.ones(4))
    scores = model.logit_scale.exp() * image @ caption.T
    own = torch.arange(4)
    expected = (torch.nn.functional.cross_entropy(scores, own) + torch.nn.functional.cross_entropy(scores.T, own)) / 2
    torch.testing.assert_close(found.loss, expected)
    assert model(**batch, return_loss=False).loss is None


def test_rows_without_their_pair_are_no_question_and_no_answer() -> None:
    left, right = torch.eye(3), torch.eye(3)[[0, 2, 1]]
    both = torch.tensor([True, False, True])
    found = compute_contrastive_loss(left, right, torch.tensor(2.0), both)
    expected = compute_contrastive_loss(left[both], right[both], torch.tensor(2.0), torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(found, expected)


def test_features_are_channels_of_one_step_or_steps_of_one_channel(make_model: Callable[..., Any]) -> None:
    model = make_model("early")
    assert model.towers["table"](torch.zeros(2, 5))[0].shape == (2, 5, 16)
    assert model.towers["vitals"](torch.zeros(2, 3))[0].shape == (2, 1, 16)
    with pytest.raises(ValueError, match=r"vitals has the shape \(2, 10, 4\); expected \(batch, steps, 3\)"):
        model(vitals=torch.zeros(2, 10, 4))
    with pytest.raises(ValueError, match="vitals makes 5 tokens, and this stream takes 4"):
        model(vitals=torch.zeros(2, 15, 3))


def test_a_signal_is_standardised_by_its_channels() -> None:
    stream = {"modality": "signal", "channels": 2, "length": 3, "width": 16, "blocks": 0, "mean": [1.0, 2.0], "std": [1.0, 4.0]}
    model = MultimodalModel(MultimodalConfig(streams={"sensor": stream}, fusion_width=16, fusion_blocks=1))
    found = model.towers["sensor"].shape_signal(torch.tensor([[[2.0, 10.0]]]))
    assert found.tolist() == [[[1.0], [2.0]]]


def test_unknown_inputs_and_none_are_refused(make_model: Callable[..., Any], batch: dict[str, Tensor]) -> None:
    model = make_model("early")
    with pytest.raises(ValueError, match="no stream is given; it takes pixel_values, caption, input_features, vitals, table"):
        model()
    with pytest.raises(ValueError, match="lidar is no input of this model"):
        model(**batch, lidar=torch.zeros(4, 3))
    with pytest.raises(ValueError, match="mood_labels is no input"):
        model(**batch, mood_labels=torch.zeros(4).long())


@pytest.mark.parametrize("fusion", ["hybrid", "layerwise"])
def test_activations_can_be_computed_anew(fusion: str, make_model: Callable[..., Any], batch: dict[str, Tensor]) -> None:
    gradients = []
    for again in (False, True):
        model = make_model(fusion).train()
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch, labels=torch.arange(4)).loss.backward()
        gradients.append([value.grad for value in model.parameters() if value.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert model.is_gradient_checkpointing


def test_the_stock_trainer_trains_it(make_model: Callable[..., Any], batch: dict[str, Tensor], tmp_path: Path) -> None:
    """Its batches are by the streams' own names, of which its signature does not tell."""
    rows = [{**{name: value[i] for name, value in batch.items()}, "labels": i} for i in range(4)]
    options = hf.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2, remove_unused_columns=False, report_to=[],
        use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    model = make_model("late")
    before = model(**batch, labels=torch.arange(4)).loss.item()
    hf.Trainer(model, options, train_dataset=rows).train()
    assert model.eval()(**batch, labels=torch.arange(4)).loss.item() < before
