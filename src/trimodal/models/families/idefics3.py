"""Idefics3 and SmolVLM: a SigLIP tower over pieces of an image, of which squares of patches are joined and projected, and a Llama
decoder. Laurençon et al. 2024, arXiv 2408.12637; Marafioti et al. 2025, arXiv 2504.05299."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import config_of, root_of
from trimodal.models.families import vision_language as pairs
from trimodal.models.families.prompts import finish_batch, spell_token, tokenize_prompts, write_prompts
from trimodal.models.model import Family, LoadedSample, Processors
from trimodal.models.parts import LayerPart, TowerPart

AROUND, WHOLE = "<fake_token_around_image>", "<global-img>"
JOINED = "its projector reads squares of patches side by side, each as wide as the stream"


def describe(module: nn.Module) -> Layout:
    """Words, vision tower (`image`), projector (`fusion`), decoder (`text`)."""
    inner = "model." if root_of(module, "model") else ""
    line = LayerPart("connector.modality_projection.proj", "projector", stream=("", "text"))
    fusion = TowerPart("fusion", "fusion", inner.strip("."), head=(line,))
    words = f"{inner}text_model"
    vision = pairs.declare_vision(module, f"{inner}vision_model", whole_width=JOINED, **pairs.let_read(f"{inner}connector", words))
    return pairs.build_pair(module, words, vision, fusion)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, pieces, channels, height, width) with `pixel_attention_mask` (batch, pieces, height, width), `input_ids`,
    `attention_mask`, and with targets `labels`, all (batch, tokens). Made of the image processor and the tokenizer: SmolVLM's whole
    processor holds one for videos too, which needs torchvision."""
    encoding.require_modalities(loaded, "image", "text")
    images = [[sample.image] for sample in loaded]
    found = encoding.get_processor(processors, "image")(images=images, return_row_col_info=True, return_tensors="pt")
    image, tokens = spell_token(processors, config_of(module), "image_token_id"), count_piece_tokens(module)
    runs = [spell_image(image, tokens, int(rows[0]), int(cols[0])) for rows, cols in zip(found["rows"], found["cols"], strict=True)]
    prompts = [p.replace(image, run, 1) for p, run in zip(write_prompts(loaded, image), runs, strict=True)]
    return finish_batch(module, processors, loaded, {**found, **tokenize_prompts(processors, prompts)})


def spell_image(image: str, tokens: int, rows: int, cols: int) -> str:
    """What stands in the prompt for an image in `rows` × `cols` pieces, row by row, and the whole of it, or the whole alone where there
    are none: each with so many `tokens` called `image`."""
    whole = f"{AROUND}{WHOLE}{image * tokens}{AROUND}"
    if not rows and not cols:
        return whole
    lines = ["".join(f"{AROUND}<row_{r + 1}_col_{c + 1}>{image * tokens}" for c in range(cols)) for r in range(rows)]
    return "\n".join([*lines, "", whole])


def count_piece_tokens(module: nn.Module) -> int:
    """How many tokens the model makes of one piece of an image."""
    config, vision = config_of(module), config_of(module).vision_config
    return int((vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2)


def example(module: nn.Module) -> dict[str, Tensor]:
    """One white image in one piece (1, 1, channels, height, width), as a black one counts as padding, and a text of 128 tokens behind it,
    (1, tokens)."""
    vision = config_of(module).vision_config
    batch = pairs.make_blank_prompt(module, count_piece_tokens(module))
    pixels = encoding.make_blank_image(module, vision.num_channels, vision.image_size)
    return batch | {"pixel_values": pixels["pixel_values"][:, None] + 1}


FAMILY = Family(
    "idefics3", ("idefics3", "smolvlm"), describe, pairs.outputs, pairs.modalities, encode, pairs.tokens, example, fits=pairs.fits
)  # fmt: skip
