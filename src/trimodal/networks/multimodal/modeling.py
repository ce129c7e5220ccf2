"""A model of any streams of image, audio, text and signals: a tower for each, a fusion of any kind, heads for any task.

B is the batch, D the width of the fusion. A stream that is not given, or that a sample has not, is masked: none of its tokens is looked
at, and gates and means are over those that are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput

from trimodal.networks.multimodal.configuration import MultimodalConfig, Stream
from trimodal.networks.multimodal.joining import LateFusion, make_fusion, normalise_embedding
from trimodal.networks.multimodal.losses import compute_contrastive_loss, compute_label_losses, compute_regression_loss
from trimodal.networks.multimodal.pretrained import sort_arguments
from trimodal.networks.multimodal.towers import OwnTower, TransformersTower, make_tower

_HIGHEST_SCALE = 100.0  # as CLIP's


@dataclass
class MultimodalOutput(ModelOutput):
    """What the model says; a field is None where its task is not the model's.

    `loss` is a scalar; `logits` (B, classes); `predictions` (B, targets) of a regression; `embeddings` (B, D) what the heads read. Further
    entries are `NAME_logits` (B, classes) for each of `label_sets`, and, of a model that retrieves, `NAME_embeds` (B, D) for each stream
    that is given, rows of length one.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    predictions: Tensor | None = None
    embeddings: Tensor | None = None


@dataclass(frozen=True)
class _Given:
    """One stream of a batch: its input, the mask of what of it is real, and which samples have it, (B,) bool."""

    stream: Stream
    value: Tensor
    mask: Tensor | None
    present: Tensor


class MultimodalModel(PreTrainedModel):  # type: ignore[no-untyped-call, unused-ignore]
    """Towers, a fusion and heads; see `MultimodalConfig`."""

    config_class = MultimodalConfig
    base_model_prefix = "trimodal_multimodal"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["StreamBlock"]  # noqa: RUF012 (the name and kind are those of the base class)
    _supports_sdpa = True

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__(config)
        self.by_name = {stream.name: stream for stream in config.list_streams()}
        if not self.by_name:
            raise ValueError("streams is empty; name at least one, such as {'image': {'modality': 'image'}}.")
        self.towers = nn.ModuleDict({name: make_tower(stream, config) for name, stream in self.by_name.items()})
        widths = {name: int(cast("OwnTower | TransformersTower", tower).width) for name, tower in self.towers.items()}
        self.fusion = make_fusion(config, widths)
        tasks, width = config.tasks or [], config.fusion_width
        self.head = nn.Linear(width, int(config.num_labels or 0)) if "classify" in tasks else None
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in (config.label_sets or {}).items()})
        self.regressor = nn.Linear(width, config.regression_targets) if "regress" in tasks else None
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init)) if "retrieve" in tasks else None
        self.post_init()  # type: ignore[no-untyped-call, unused-ignore]
        self.freeze_towers_()

    @classmethod
    def from_towers(cls, *, frozen: bool = False, **given: Any) -> Self:
        """A model whose towers are pretrained: `image="folder"`, or a loaded encoder; mappings are streams with towers of our own (see
        `Stream`), fields of `MultimodalConfig` are what they are there. `frozen`: the pretrained towers are not trained.

        Raises:
            ValueError: what is given is no stream, or a folder's model reads no one modality.
        """
        encoders, streams, settings = sort_arguments(given, frozen)
        model: Self = cls(MultimodalConfig(streams=streams, **settings))
        for name, encoder in encoders.items():
            model.towers[name].encoder = encoder
        model.freeze_towers_()
        model.eval()
        return model

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Read a folder; see `PreTrainedModel.from_pretrained`. Frozen towers are frozen."""
        found = super().from_pretrained(*args, **kwargs)
        (found[0] if isinstance(found, tuple) else found).freeze_towers_()
        return found

    def freeze_towers_(self) -> None:
        """Let the parameters of frozen towers want no gradient."""
        for name, stream in self.by_name.items():
            if stream.frozen:
                self.towers[name].requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As in torch; frozen towers stay in evaluation, so that they drop nothing and keep their statistics."""
        super().train(mode)
        for name, stream in self.by_name.items():
            if stream.frozen:
                self.towers[name].eval()
        return self

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights, zero biases, for what is ours; towers of Transformers have their own. Its `init` leaves weights that were loaded
        from a file alone."""
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="linear")
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.LayerNorm) and module.bias is not None:
            init.zeros_(module.bias)
        if isinstance(module, MultimodalModel) and module.logit_scale is not None:
            init.constant_(module.logit_scale, self.config.logit_scale_init)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        targets: Tensor | None = None,
        return_loss: bool = True,
        **more: Any,
    ) -> MultimodalOutput:
        """Run the streams that are given.

        The streams called `image`, `audio` and `text` are given as Transformers calls them, any other by its name. `NAME_mask` (B, frames
        or steps) says which of it are real, `NAME_present` (B,) which samples have the stream at all. `labels` int64 (B,) are classes,
        `NAME_labels` those of a further set, `targets` (B, n) the numbers of a regression, of which NaN counts for nothing.

        Raises:
            ValueError: no stream is given, or there is an argument that the model does not know.
        """
        named = {
            "pixel_values": pixel_values, "input_features": input_features, "audio_mask": audio_mask, "input_ids": input_ids,
            "attention_mask": attention_mask, **more,
        }  # fmt: skip
        given = self.sort_inputs(named)
        tokens, masks = self.run_towers(given)
        fused, embeds = self.fuse(tokens, masks)
        logits = {} if self.head is None else {"": self.head(fused)}
        logits |= {name: head(fused) for name, head in self.heads.items()}
        predictions = None if self.regressor is None else self.regressor(fused)
        asked = {"": labels, **{name: more.get(f"{name}_labels") for name in self.heads}}
        losses = compute_label_losses(
            logits, {name: label for name, label in asked.items() if label is not None}, self.config.label_set_weight
        )
        if targets is not None and predictions is not None:
            losses.append(compute_regression_loss(predictions, targets))
        if return_loss and self.logit_scale is not None and {*self.config.contrast} <= embeds.keys():
            losses.append(self.compare_streams(embeds, masks))
        output = MultimodalOutput(torch.stack(losses).sum() if losses else None, logits.pop("", None), predictions, fused)
        for name, found in {f"{name}_logits": score for name, score in logits.items()}.items():
            output[name] = found
        for name, found in embeds.items():
            output[f"{name}_embeds"] = found
        return output

    def sort_inputs(self, named: Mapping[str, Any]) -> dict[str, _Given]:
        """The streams that are among the arguments `named`, in the model's order.

        Raises:
            ValueError: there are none, or an argument that the model does not know.
        """
        known = {s for one in self.by_name.values() for s in (one.input_name, one.mask_name, one.present_name)}
        known |= {f"{name}_labels" for name in self.heads} | {"num_items_in_batch"}
        unknown = [name for name, value in named.items() if isinstance(value, Tensor) and name not in known]
        found = {
            name: _read_given(stream, named) for name, stream in self.by_name.items() if named.get(stream.input_name) is not None
        }
        if unknown or not found:
            inputs = ", ".join(stream.input_name for stream in self.by_name.values())
            what = f"{unknown[0]} is no input of this model" if unknown else "no stream is given"
            raise ValueError(f"{what}; it takes {inputs}, each with NAME_mask and NAME_present.")
        return found

    def run_towers(self, given: Mapping[str, _Given]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """By stream its tokens (B, T, W), and the mask (B, T) bool of those that are real and of samples that have it."""
        tokens, masks = {}, {}
        for name, one in given.items():
            tokens[name], real = self.towers[name](one.value, one.mask)
            masks[name] = real & one.present[:, None]
        return tokens, masks

    def find_token_masks(self, named: Mapping[str, Any]) -> dict[str, Tensor]:
        """By stream of the forward's arguments `named` the mask (B, T) bool of the tokens that will be looked at."""
        given = self.sort_inputs(named)
        towers: Any = self.towers
        return {name: towers[name].mask_tokens(one.value, one.mask) & one.present[:, None] for name, one in given.items()}

    def fuse(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens of the towers and their masks -> one vector per sample (B, D), and of a model that retrieves each stream's own, of length
        one."""
        if self.logit_scale is None or not isinstance(self.fusion, LateFusion):
            return self.fusion(tokens, masks), {}
        pooled = self.fusion.pool_streams(tokens, masks)
        return self.fusion.join_pooled(pooled, masks), {name: normalise_embedding(value) for name, value in pooled.items()}

    def compare_streams(self, embeds: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """The contrastive loss of the two streams that are told by each other, a scalar."""
        left, right = self.config.contrast
        assert self.logit_scale is not None, "the model retrieves"
        scale = self.logit_scale.exp().clamp(max=_HIGHEST_SCALE)
        return compute_contrastive_loss(embeds[left], embeds[right], scale, masks[left].any(dim=1) & masks[right].any(dim=1))


def _read_given(stream: Stream, named: Mapping[str, Any]) -> _Given:
    """A stream's input with what samples lack put to zero, so that not even NaN gets through where nobody looks."""
    value: Tensor = named[stream.input_name]
    mask, said = named.get(stream.mask_name), named.get(stream.present_name)
    present = torch.ones(value.shape[0], dtype=torch.bool, device=value.device) if said is None else said.bool()
    if mask is not None and stream.modality != "image":
        present = present & mask.bool().any(dim=1)
    if said is not None:
        value = torch.where(present.reshape(-1, *[1] * (value.dim() - 1)), value, torch.zeros_like(value))
    return _Given(stream, value, mask, present)
