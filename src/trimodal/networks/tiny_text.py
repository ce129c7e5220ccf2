"""Miniatures of the families of text models; `networks/tiny.py` says how large all are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers as hf
from torch import nn

Sizes = Mapping[str, Any]


def _make_roberta(words: Sizes) -> nn.Module:
    return hf.RobertaForMaskedLM(hf.RobertaConfig(**words))


def _make_distilbert(words: Sizes) -> nn.Module:
    sizes: dict[str, Any] = {"dim": words["hidden_size"], "hidden_dim": words["intermediate_size"], "n_layers": 2, "n_heads": 4}
    rest: dict[str, Any] = {name: words[name] for name in ("vocab_size", "pad_token_id", "max_position_embeddings")}
    return hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**sizes, **rest))


def _make_mpnet(words: Sizes) -> nn.Module:
    return hf.MPNetForMaskedLM(hf.MPNetConfig(**words))


def _make_electra(words: Sizes) -> nn.Module:
    return hf.ElectraForMaskedLM(hf.ElectraConfig(**words, embedding_size=16))


def _make_albert(words: Sizes) -> nn.Module:
    return hf.AlbertForMaskedLM(hf.AlbertConfig(**words, embedding_size=16))


def _make_modernbert(words: Sizes) -> nn.Module:
    special: dict[str, Any] = {"cls_token_id": words["bos_token_id"], "sep_token_id": words["eos_token_id"]}
    special |= {"global_attn_every_n_layers": 2, "local_attention": 8}
    return hf.ModernBertForMaskedLM(hf.ModernBertConfig(**words, **special))


def _make_deberta(words: Sizes) -> nn.Module:
    sizes: dict[str, Any] = {
        "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0, "position_biased_input": False, "share_att_key": True,
    }  # fmt: skip
    return hf.DebertaV2ForMaskedLM(hf.DebertaV2Config(**words, **sizes))


def _make_deberta_apart(words: Sizes) -> nn.Module:
    """With keys and queries of positions made by layers of their own, and a convolution."""
    sizes: dict[str, Any] = {
        "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "share_att_key": False,
        "conv_kernel_size": 3, "type_vocab_size": 0,
    }  # fmt: skip
    return hf.DebertaV2ForSequenceClassification(hf.DebertaV2Config(**words, **sizes))


def _make_gpt2(words: Sizes) -> nn.Module:
    sizes: dict[str, Any] = {"n_embd": words["hidden_size"], "n_inner": words["intermediate_size"], "n_layer": 2, "n_head": 4}
    rest: dict[str, Any] = {name: words[name] for name in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, **rest, n_positions=32))


def _make_opt(words: Sizes, **options: Any) -> nn.Module:
    sizes: dict[str, Any] = {name: value for name, value in words.items() if name != "intermediate_size"}
    options = {"word_embed_proj_dim": words["hidden_size"], **options}
    return hf.OPTForCausalLM(hf.OPTConfig(**sizes, ffn_dim=words["intermediate_size"], **options))


def _make_opt_projected(words: Sizes) -> nn.Module:
    """With narrower embeddings and norms behind the layers, as OPT-350m has them."""
    return _make_opt(words, word_embed_proj_dim=16, do_layer_norm_before=False)


def _make_neox(words: Sizes) -> nn.Module:
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**words))


def _make_phi(words: Sizes) -> nn.Module:
    return hf.PhiForCausalLM(hf.PhiConfig(**words))


def _make_phi3(words: Sizes) -> nn.Module:
    return hf.Phi3ForCausalLM(hf.Phi3Config(**words, num_key_value_heads=2))


def _make_gemma2(words: Sizes) -> nn.Module:
    return hf.Gemma2ForCausalLM(hf.Gemma2Config(**words, num_key_value_heads=2, head_dim=8, sliding_window=8))


def _make_gemma3(words: Sizes) -> nn.Module:
    return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**words, num_key_value_heads=2, head_dim=8, sliding_window=8))


def _make_mixtral(words: Sizes) -> nn.Module:
    sizes: dict[str, Any] = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    return hf.MixtralForCausalLM(hf.MixtralConfig(**words, **sizes))


def _make_qwen2_moe(words: Sizes) -> nn.Module:
    """The first block has one MLP for all tokens."""
    sizes: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32}
    config = hf.Qwen2MoeConfig(**words, **sizes, num_key_value_heads=2, mlp_only_layers=[0])
    return hf.Qwen2MoeForCausalLM(config)


def _make_qwen3_moe(words: Sizes) -> nn.Module:
    sizes: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 16}
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**words, **sizes, num_key_value_heads=2))


def _make_olmoe(words: Sizes) -> nn.Module:
    return hf.OlmoeForCausalLM(hf.OlmoeConfig(**words, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2))


def _make_gpt_oss(words: Sizes) -> nn.Module:
    sizes: dict[str, Any] = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 8}
    return hf.GptOssForCausalLM(hf.GptOssConfig(**words, **sizes))


def _make_t5(words: Sizes, **options: Any) -> nn.Module:
    sizes: dict[str, Any] = {"d_model": words["hidden_size"], "d_ff": words["intermediate_size"], "d_kv": 8, "num_layers": 2}
    rest: dict[str, Any] = {name: words[name] for name in ("vocab_size", "pad_token_id", "eos_token_id")}
    distances: dict[str, Any] = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "decoder_start_token_id": 0}
    return hf.T5ForConditionalGeneration(hf.T5Config(**sizes, num_heads=4, **rest, **distances, **options))


def _make_t5_gated(words: Sizes) -> nn.Module:
    return _make_t5(words, feed_forward_proj="gated-gelu", tie_word_embeddings=False)


def _make_seq2seq(kind: str) -> Callable[[Sizes], nn.Module]:
    """BART and those built like it, whose configurations have the same names."""

    def make(words: Sizes) -> nn.Module:
        width, inner = words["hidden_size"], words["intermediate_size"]
        ends = {f"{end}_{what}": n for end in ("encoder", "decoder") for what, n in (
            ("layers", 2), ("attention_heads", 4), ("ffn_dim", inner),
        )}  # fmt: skip
        rest = {name: words[name] for name in ("vocab_size", "pad_token_id", "eos_token_id", "max_position_embeddings")}
        config = getattr(hf, f"{kind}Config")(
            d_model=width, **ends, **rest, bos_token_id=words["bos_token_id"], decoder_start_token_id=words["bos_token_id"],
            forced_eos_token_id=None, scale_embedding=False,
        )  # fmt: skip
        found: nn.Module = getattr(hf, f"{kind}MTModel" if kind == "Marian" else f"{kind}ForConditionalGeneration")(config)
        return found

    return make


SEQ2SEQ: Mapping[str, Callable[[Sizes], nn.Module]] = {
    "t5": _make_t5, "t5-gated": _make_t5_gated, "bart": _make_seq2seq("Bart"), "mbart": _make_seq2seq("MBart"),
    "marian": _make_seq2seq("Marian"), "pegasus": _make_seq2seq("Pegasus"),
}  # fmt: skip
TEXT: Mapping[str, Callable[[Sizes], nn.Module]] = {
    "roberta": _make_roberta, "distilbert": _make_distilbert, "mpnet": _make_mpnet, "electra": _make_electra,
    "albert": _make_albert, "modernbert": _make_modernbert, "deberta": _make_deberta, "deberta-apart": _make_deberta_apart,
    "gpt2": _make_gpt2, "opt": _make_opt, "opt-projected": _make_opt_projected, "gpt-neox": _make_neox, "phi": _make_phi,
    "phi3": _make_phi3, "gemma2": _make_gemma2, "gemma3": _make_gemma3, "mixtral": _make_mixtral, "qwen2-moe": _make_qwen2_moe,
    "qwen3-moe": _make_qwen3_moe, "olmoe": _make_olmoe, "gpt-oss": _make_gpt_oss, **SEQ2SEQ,
}  # fmt: skip
