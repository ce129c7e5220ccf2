"""A buffer that no file holds has its value after reloading, also in a layer whose weight is coded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf

import trimodal


def test_factor_of_an_embedding_outlives_reloading(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = hf.Gemma2ForCausalLM(hf.Gemma2Config(**sizes)).eval()
    module.save_pretrained(tmp_path / "model")
    trimodal.compress(tmp_path / "model", "int8", out=tmp_path / "out")
    ids = {"input_ids": torch.tensor([[2, 5, 6, 7, 3]])}
    for policy in ("speed", "memory"):
        loaded: Any = trimodal.load(tmp_path / "out", dequantize=policy)  # type: ignore[arg-type]
        assert float(loaded.model.embed_tokens.embed_scale) == 4.0  # √16
        with torch.no_grad():
            likeness = torch.cosine_similarity(loaded(**ids).logits.flatten(), module(**ids).logits.flatten(), dim=0)
        assert float(likeness) > 0.999
