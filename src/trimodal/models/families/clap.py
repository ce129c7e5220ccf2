"""CLAP: a Swin Transformer over spectrograms and a RoBERTa text encoder that meet in two projections. Wu et al. 2022,
arXiv 2211.06687; HTS-AT: Chen et al. 2022, arXiv 2202.00874."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.families import bert, text
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
from trimodal.models.parts import AnyPart, AttentionPart, LayerPart, MlpPart, TowerPart
from trimodal.models.process import draw_from_seed

# Every head has a column in the table of relative positions, a plain parameter of the attention.
SWIN_BLOCK = (
    LayerPart("layernorm_before", "norm", "attention"),
    AttentionPart(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        width="attention.self.attention_head_size",
        heads=("attention.self.num_attention_heads",),
        sizes=("attention.self.all_head_size",),
        per_head=("attention.self.relative_position_bias_table",),
    ),
    LayerPart("layernorm_after", "norm", "mlp"),
    MlpPart("intermediate.dense", "output.dense"),
)
FUSED_STEM = tuple(
    LayerPart(f"patch_embed.fusion_model.{half}.{i}", role, f"{half}.{i}")
    for half, first in (("local_att", 0), ("global_att", 1))
    for i, role in ((first, "conv"), (first + 1, "norm"), (first + 3, "conv"), (first + 4, "norm"))
)


def declare_audio_tower(module: nn.Module, root: str) -> TowerPart:
    """The Swin Transformer at `root`. Between its stages the patches are merged, four to one."""
    return TowerPart(
        "audio",
        "audio",
        root,
        stem=(
            LayerPart("batch_norm", "norm", "input"),
            LayerPart("patch_embed.proj", "patch"),
            LayerPart("patch_embed.mel_conv2d", "patch", "local"),
            *FUSED_STEM,
            LayerPart("patch_embed.norm", "norm", "stem"),
        ),
        blocks="layers.*.blocks.*",
        block=SWIN_BLOCK,
        between=_find_patch_merges(module.get_submodule(root)),
        head=(LayerPart("norm", "norm", "final"),),
        whole_tokens="its attention works in windows of a fixed grid",
        whole_blocks="its blocks come in stages of different width, and every other one shifts its windows",
        whole_width="its stages are of different width, each made of the one before",
    )


def declare_projection(modality: str) -> TowerPart:
    """The two linear layers into the shared space. Both run after both towers."""
    layers = MlpPart(f"{modality}_projection.linear1", f"{modality}_projection.linear2", roles=("projector", "projector"),
                 stream=("", ""))  # fmt: skip
    return TowerPart(modality, modality, "", after=(layers,))


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Both for the whole model, one for a class that holds one tower."""
    return tuple(m for m in ("audio", "text") if m in getattr(module, "input_modalities", ()))


def describe(module: nn.Module) -> Layout:
    """Audio, text, then the projections, as in `ClapModel.forward`."""
    towers = []
    if "audio" in modalities(module):
        towers.append(declare_audio_tower(module, root_of(module, "audio_model.audio_encoder", "audio_encoder")))
    if "text" in modalities(module):
        fixed = explain_fixed_width(o.field for o in outputs(module))
        towers.append(bert.declare_text_tower(root_of(module, "text_model"), fixed, pooled=True))
    return build_layout(module, [*towers, *(declare_projection(m) for m in modalities(module))])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """The projected embeddings, or the pooled states of a class without a projection."""
    return tuple(
        Output(f"{m}_embeds" if hasattr(module, f"{m}_projection") else "pooler_output", m, "embedding")
        for m in modalities(module)
    )


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_features` (batch, views, frames, mels), `is_longer` (batch, 1), `input_ids` and `attention_mask` (batch, tokens), as
    far as the class takes them."""
    encoding.require_modalities(loaded, *modalities(module))
    batch: dict[str, Tensor] = {}
    if "audio" in modalities(module):
        batch |= _encode_sounds(processors, loaded)
    if "text" in modalities(module):
        batch |= encoding.encode_texts(processors, loaded, text.position_limit(module))
    return encoding.cast_floats(module, batch)


def _encode_sounds(processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """Each sound as it is alone, and twice the same: the extractor crops long sounds at random, or (`fusion`) takes views of them at random
    and says of one short sound in each batch, whichever, that it is long. Here a crop is the beginning, views are those of one seed, and
    short sounds are short."""
    extractor = encoding.get_processor(processors, "audio")
    rate, most, hop = int(extractor.sampling_rate), int(extractor.nb_max_samples), int(extractor.hop_length)
    waves = encoding.collect_waveforms(loaded, rate)
    if extractor.truncation != "fusion":
        return encoding.encode_audio(processors, [LoadedSample(audio=wave[:most], sampling_rate=rate) for wave in waves])
    found = []
    for wave in waves:
        with draw_from_seed(0):
            found.append(encoding.encode_audio(processors, [LoadedSample(audio=wave, sampling_rate=rate)])["input_features"])
    longer = [[len(wave) // hop > most // hop] for wave in waves]
    return {"input_features": torch.cat(found), "is_longer": torch.tensor(longer)}


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Text (batch, tokens) with its padding left out."""
    return {"text": encoding.mark_text_tokens(batch)} if "input_ids" in batch else {}


def example(module: nn.Module) -> dict[str, Tensor]:
    """Ten seconds of sound (1, views, frames, mels), one text of 77 tokens (1, tokens)."""
    config = getattr(config_of(module), "audio_config", config_of(module))
    batch: dict[str, Tensor] = {}
    if "audio" in modalities(module):
        views, mels = 4 if config.enable_fusion else 1, config.num_mel_bins
        frames = config.spec_size**2 // mels - 23  # 1001 of 1024 as published
        batch["input_features"] = encoding.make_zero_input(module, views, frames, mels)
        batch["is_longer"] = batch["input_features"].new_zeros(1, 1, dtype=torch.bool)
    if "text" in modalities(module):
        batch |= encoding.make_blank_text(module, min(77, text.position_limit(module)))
    return batch


def _find_patch_merges(encoder: nn.Module) -> Mapping[str, tuple[AnyPart, ...]]:
    """Path of a stage's last block -> the merge of patches that follows it."""
    found: dict[str, tuple[AnyPart, ...]] = {}
    for stage, layer in encoder.get_submodule("layers").named_children():
        last = len(list(layer.get_submodule("blocks").children())) - 1
        merge = f"layers.{stage}.downsample"
        found[f"layers.{stage}.blocks.{last}"] = (
            LayerPart(f"{merge}.norm", "norm", f"merge{stage}"),
            LayerPart(f"{merge}.reduction", "patch", f"merge{stage}"),
        )
    return found


FAMILY = Family(
    "clap", ("clap", "clap_audio_model", "clap_text_model"), describe, outputs, modalities, encode, tokens, example
)
