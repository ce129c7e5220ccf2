"""Our own model of any streams (`networks/multimodal/`): towers of Transformers, declared with their own families, or small ones of our
own, and a fusion of one of four kinds.

A stream is a tower of its name. With layer-wise fusion the blocks of each stream are towers of their own, `fusion_NAME`, since their tokens
are of the stream and not of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import MODALITIES, TOKEN_KINDS, Layout, name_signal
from trimodal.core.site import width_label
from trimodal.errors import DataError
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of
from trimodal.models.families import (
    ast,
    bert,
    clip,
    convnext,
    dinov2,
    encoders,
    fusion,
    resnet,
    siglip,
    swin,
    text,
    vit,
    wav2vec2,
    wav2vec2_bert,
    whisper,
)  # fmt: skip
from trimodal.models.families.multimodal_signals import encode_signals
from trimodal.models.families.rerooting import reroot_layout
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
from trimodal.models.parts import OWN, AnyPart, LayerPart, MlpPart, TowerPart
from trimodal.networks.multimodal.configuration import MultimodalConfig, Stream
from trimodal.networks.multimodal.modeling import MultimodalModel

OTHERS = "its blocks tell streams apart by where their tokens stand"
PASSED = "its blocks pass tokens to those of other streams, so none can be spared"
READ_WHOLE = "a projector of the fusion reads what it hands out, which must stay as wide as it is"
COMPARED = "the model hands out the embeddings of its streams, which must stay as wide as they are"
INNER: tuple[Family, ...] = (
    clip.FAMILY, siglip.FAMILY, vit.FAMILY, dinov2.FAMILY, resnet.FAMILY, swin.FAMILY, convnext.FAMILY, bert.FAMILY, *encoders.FAMILIES,
    whisper.FAMILY, wav2vec2.FAMILY, wav2vec2_bert.FAMILY, ast.FAMILY,
)  # fmt: skip
"""The families of which an encoder alone can be a tower."""
FUSION = TOKEN_KINDS.index("fusion")


def describe(module: nn.Module) -> Layout:
    """The towers in the order of their streams, then the fusion and the heads."""
    model = _cast(module)
    inner = {name: _describe_encoder(tower.encoder, model.by_name[name]) for name, tower in model.towers.items() if _is_foreign(tower)}
    towers = [_declare_tower(stream, stream.name in inner) for stream in model.by_name.values()]
    outer = build_layout(module, [*towers, *_declare_fusion(model)])
    parts = [inner[name].sites if name in inner else [s for s in outer.sites if s.tower == name] for name in model.by_name]
    rest = [site for site in outer.sites if site.tower not in model.by_name]
    found = [*inner.values()]
    return Layout(
        tuple(inner[tower.name].towers[0] if tower.name in inner else tower for tower in outer.towers),
        (*(site for part in parts for site in part), *rest),
        (*(one for layout in found for one in layout.size_attributes), *outer.size_attributes),
        (*(one for layout in found for one in layout.uncuttable), *outer.uncuttable),
        free_parameters=(*(one for layout in found for one in layout.free_parameters), *outer.free_parameters),
    )


def _describe_encoder(encoder: Any, stream: Stream) -> Layout:
    """The layout of a tower of Transformers, by its own family. The fusion reads all of its tokens, and the whole of their width."""
    layout = reroot_layout(_family_of(encoder).describe(encoder), f"towers.{stream.name}.encoder", stream.name, stream.modality)
    label = width_label(stream.name)
    if label in layout.list_labels():
        layout = layout.mark_uncuttable(label, READ_WHOLE)
    fixed = tuple(replace(units, reason=READ_WHOLE) if units.label == label else units for units in layout.uncuttable)
    return replace(layout, towers=tuple(replace(tower, restored=True) for tower in layout.towers), uncuttable=fixed)


def _declare_tower(stream: Stream, foreign: bool) -> TowerPart:
    """A tower of our own; of one of Transformers only where it stands."""
    root = f"towers.{stream.name}"
    if foreign:
        return TowerPart(stream.name, stream.modality, f"{root}.encoder", head=(LayerPart("", "norm"),))
    stem = LayerPart("stem", "embedding" if stream.modality == "text" else "patch")
    return TowerPart(
        stream.name,
        stream.modality,
        root,
        stem=(stem, LayerPart("position", "embedding", "position")),
        blocks="blocks",
        block=fusion.BLOCK,
        head=(LayerPart("norm", "norm", "final"),),
        whole_tokens="" if stream.modality in ("image", "audio") else "words and steps are not merged, only images and sounds",
        restored=True,
        counted="",
        whole_width="",
    )


def _declare_fusion(model: MultimodalModel) -> Iterator[TowerPart]:
    """The fusion and the heads, in pieces."""
    config, names = config_of(model), list(model.by_name)
    kinds = LayerPart("kinds", "embedding", "kind")
    further = (LayerPart(f"heads.{name}", "head", name) for name in model.heads)
    heads = (LayerPart("head", "head"), *further, LayerPart("regressor", "head", "values"))
    norm = LayerPart("norm", "norm", "final")
    if config.fusion == "layerwise":
        yield from _declare_exchange(names, heads, kinds, norm)
        return
    projectors = tuple(LayerPart(f"projectors.{name}", "projector", name, stream=(name, OWN)) for name in names)
    late = config.fusion == "late"
    joined: tuple[AnyPart, ...] = (
        LayerPart("gate", "projector", "gate", stream=(OWN, "")), LayerPart("norm_2", "norm", "mlp"), MlpPart("mlp.up", "mlp.down"), norm,
    )  # fmt: skip
    crossing = config.fusion == "hybrid"
    yield TowerPart(
        "fusion", "fusion", "fusion", stem=projectors if late else (kinds, *projectors), blocks="blocks", block=fusion.BLOCK,
        head=joined if late else (norm,), after=heads, whole_tokens=OTHERS if crossing or late else "", protected=1,
        whole_blocks=OTHERS if crossing else "", counted="fusion_blocks", whole_width=COMPARED if config.contrast else "",
    )  # fmt: skip


def _declare_exchange(names: Sequence[str], heads: Sequence[LayerPart], kinds: LayerPart, norm: LayerPart) -> Iterator[TowerPart]:
    """Layer-wise fusion: one stream runs through the blocks of all."""
    carrier = f"fusion_{names[0]}"
    into, out = ("", carrier), (carrier, "")
    projectors = (LayerPart(f"projectors.{name}", "projector", name, stream=(name, carrier)) for name in names)
    bottleneck = LayerPart("bottleneck", "embedding", "bottleneck", stream=into)
    yield TowerPart("fusion", "fusion", "fusion", stem=(replace(kinds, stream=into), *projectors, bottleneck))
    for name in names:
        yield TowerPart(
            f"fusion_{name}", "fusion", f"fusion.streams.{name}", blocks="*", block=fusion.BLOCK, whole_tokens=OTHERS, whole_blocks=PASSED,
            whole_width="", stream=OWN if name == names[0] else carrier,
        )  # fmt: skip
    yield TowerPart("fusion", "fusion", "fusion", head=(replace(norm, stream=into),), after=tuple(replace(h, stream=out) for h in heads))


def fits(module: nn.Module) -> bool:
    """Whether all towers of Transformers are of kinds that are declared, as models of one tower."""
    towers: Any = module.towers.values() if isinstance(module, MultimodalModel) else ()
    found = [(tower.encoder, _find_family(tower.encoder)) for tower in towers if _is_foreign(tower)]
    return bool(towers) and all(family is not None and family.fits(encoder) for encoder, family in found)


def _find_family(encoder: Any) -> Family | None:
    return next((family for family in INNER if encoder.config.model_type in family.model_types), None)


def _family_of(encoder: Any) -> Family:
    found = _find_family(encoder)
    assert found is not None, "fits() was asked before"
    return found


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """What each head says, and of a model that retrieves the embeddings of the two streams."""
    model = _cast(module)
    config = config_of(module)
    found = [Output("logits", "all", "logits", label="label")] if model.head is not None else []
    found += [Output(f"{name}_logits", "all", "logits", label=f"labels.{name}") for name in model.heads]
    found += [Output("predictions", "all", "embedding")] if model.regressor is not None else []
    if model.logit_scale is not None:
        found += [Output(f"{name}_embeds", model.by_name[name].modality, "embedding") for name in config.contrast]
    return tuple(found) or (Output("embeddings", "all", "embedding"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Those of the streams called `image`, `audio` and `text`, and signals by their fields; others come as tensors only."""
    streams = _cast(module).by_name
    named = [m for m in MODALITIES if m in streams and streams[m].modality == m]
    return (*named, *(name_signal(stream.name) for stream in streams.values() if stream.modality == "signal"))


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """Of the streams that all samples hold what the folder's processors make, with masks, and which samples have them; as
    `MultimodalModel.forward` takes it.

    Raises:
        DataError: they hold none together, or a signal does not fit its stream.
    """
    model, batch = _cast(module), dict[str, Tensor]()
    held = [m for m in MODALITIES if m in modalities(module) and all(getattr(sample, m) is not None for sample in loaded)]
    signals = [s for s in model.by_name.values() if s.modality == "signal" and all(name_signal(s.name) in x.signals for x in loaded)]
    if not held and not signals:
        known = ", ".join(modalities(module))
        raise DataError(f"samples hold none of {known} together; other streams come as rows of tensors by their names")
    for name in held:
        batch |= _ENCODERS[name](model, processors, loaded)
    for stream in signals:
        batch |= encode_signals(stream, loaded)
    for name in (*held, *(stream.name for stream in signals)):
        batch[model.by_name[name].present_name] = torch.ones(len(loaded), dtype=torch.long)
    return encoding.cast_floats(module, batch)


def _encode_images(model: MultimodalModel, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    stream = model.by_name["image"]
    grey = stream.tower is None and stream.channels == 1
    made = [replace(s, image=s.image.convert("L")) if grey and s.image is not None else s for s in loaded]
    return encoding.encode_images(processors, made)


def _encode_sounds(model: MultimodalModel, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    stream = model.by_name["audio"]
    found = encoding.encode_audio(processors, loaded, return_attention_mask=True)
    names = {stream.input_name: stream.input_name, "attention_mask": stream.mask_name}
    return {names[name]: value for name, value in found.items() if name in names}


def _encode_texts(model: Any, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    stream, tower = model.by_name["text"], model.towers["text"]
    limit = stream.length if stream.tower is None else text.position_limit(tower.encoder)
    return encoding.encode_texts(processors, loaded, limit)


_ENCODERS = {"image": _encode_images, "audio": _encode_sounds, "text": _encode_texts}


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Of each stream's tower, and of the fusion's, what every token is: int64 (batch, tokens), -1 for what nobody looks at."""
    model, config = _cast(module), config_of(module)
    masks = model.find_token_masks(batch)
    own = {
        name: torch.where(mask, TOKEN_KINDS.index(model.by_name[name].modality), encoding.PADDING) for name, mask in masks.items()
    }
    if config.fusion == "late":
        return own
    first = next(iter(own.values()))
    shared = first.new_full((len(first), config.bottleneck_tokens if config.fusion == "layerwise" else 1), FUSION)
    if config.fusion == "layerwise":
        return own | {f"fusion_{name}": torch.cat([shared, codes], dim=1) for name, codes in own.items()}
    return own | {"fusion": torch.cat([shared, *own.values()], dim=1)}


def example(module: nn.Module) -> dict[str, Tensor]:
    """One blank sample with all streams, each of full length, (1, …)."""
    model = _cast(module)
    return {stream.input_name: _make_blank(model, stream) for stream in model.by_name.values()}


def _make_blank(model: Any, stream: Stream) -> Tensor:
    """The input of one stream, zeros (1, …)."""
    tower = model.towers[stream.name]
    if stream.tower is not None:
        return _family_of(tower.encoder).example(tower.encoder)[tower.encoder.main_input_name]
    if stream.modality == "text":
        return encoding.make_blank_text(model, min(encoding.USUAL_TOKENS, stream.length))["input_ids"]
    sizes = {
        "image": (stream.channels, stream.length, stream.length), "audio": (stream.channels, stream.length),
        "signal": (stream.length, stream.channels),
    }  # fmt: skip
    return encoding.make_zero_input(model, *sizes[stream.modality])


def _is_foreign(tower: nn.Module) -> bool:
    return hasattr(tower, "encoder")


def _cast(module: nn.Module) -> Any:
    assert isinstance(module, MultimodalModel)  # family_of says so; for the type checker
    return module


FAMILY = Family(
    "multimodal", (MultimodalConfig.model_type,), describe, outputs, modalities, encode, tokens, example, classes=(MultimodalModel,),
    fits=fits,
)  # fmt: skip
