"""Small models of any Transformers class: its configuration with every size that it has a field for made small."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import transformers as hf
from torch import nn

from trimodal.networks.tiny import BOS, EOS, IMAGE_TOKEN, PAD, VOCABULARY

WIDTH, SIDE, PATCH = 64, 32, 8
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "projection_dim", "project_dim", "embed_dim", "projection_size"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "d_inner", "encoder_ffn_dim", "decoder_ffn_dim"), 2 * WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    "num_key_value_heads": 2, "head_dim": 16, "d_kv": 16, "vocab_size": VOCABULARY, "max_position_embeddings": 128, "n_positions": 128,
    "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "image_size": SIDE, "patch_size": PATCH, "image_token_id": IMAGE_TOKEN,
    "image_token_index": IMAGE_TOKEN,
}  # fmt: skip


def make_config(kind: str, **given: Any) -> Any:
    """The configuration class called `kind`, small, with what is `given`."""
    found: Any = getattr(hf, kind)
    names = {field.name for field in dataclasses.fields(found)}
    return found(**{**{name: value for name, value in SIZES.items() if name in names}, **given})


def make_part(kind: str, **given: Any) -> dict[str, Any]:
    """The same as the content of a sub-configuration."""
    found: dict[str, Any] = make_config(kind, **given).to_dict()
    return found


def make_model(kind: str, **given: Any) -> Any:
    """The class called `kind`, small, its weights drawn from a fixed seed with variance 1 / inputs, in evaluation mode."""
    found: Any = getattr(hf, kind)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = given.pop("config", None) or make_config(found.config_class.__name__, **given)
        module = found(config)
        _draw_weights_(module)
    return module.eval()


def _draw_weights_(module: nn.Module) -> None:
    """Larger weights than training starts from, so that every part shows in the output; what is kept as a logarithm stays."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1 and "original0" not in name:
                inputs = parameter.shape[-1] if "experts" in name else math.prod(parameter.shape[1:])
                parameter.copy_(torch.randn_like(parameter) / math.sqrt(max(1, inputs)))
            elif parameter.dim() == 1 and not name.endswith(("A_log", "dt_bias")):
                parameter.add_(0.1 * torch.randn_like(parameter))
