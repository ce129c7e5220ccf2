"""What the families of text must hold to beyond what all do: fused weights cut where they hold several axes, tables of positions that all
blocks share, experts, and `generate`, before and after saving."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from trimodal.core import Axis
from trimodal.core.site import is_width
from trimodal.edits.cut import cut_units_
from trimodal.formats import open_model, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.loading.load import build_model
from trimodal.models.model import LoadedSample, Model, Processors
from trimodal.networks.tiny import make_miniature, make_miniature_batch, make_tokenizer, write_miniature

GENERATING = ("gpt2", "gpt-neox", "opt", "phi", "phi3", "gemma2", "gemma3", "mixtral", "qwen2-moe", "gpt-oss", "olmoe", "t5", "bart")
HALF: list[dict[str, Any]] = [
    {step: {"sparsity": 0.5, "score": "magnitude"}} for step in ("prune.heads", "prune.neurons", "prune.width")
]
WIDTH = 8  # of a head


def made(name: str) -> Model:
    return build_model(make_miniature(name), name)


def say(module: Any, name: str) -> list[int]:
    """What the model goes on with from one text."""
    batch = {key: value[:1] for key, value in make_miniature_batch(name, 2, seed=5).items() if not key.startswith("decoder_")}
    found: list[int] = module.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False)[0].tolist()
    return found


def axis_of(model: Model, path: str) -> Axis:
    """What the rows of the weight at `path` are."""
    axis = model.layout.get_site(path).output_axis
    assert axis is not None
    return axis


@pytest.mark.parametrize(("name", "path", "rows"), [
    ("gpt2", "transformer.h.0.attn.c_attn", [*range(8, 16), *range(40, 48), *range(72, 80)]),  # query, key, value of head 1
    ("modernbert", "model.layers.1.attn.Wqkv", [*range(8, 16), *range(40, 48), *range(72, 80)]),
    ("gpt-neox", "gpt_neox.layers.0.attention.query_key_value", [*range(24, 48)]),  # all of head 1 together
    ("phi3", "model.layers.0.self_attn.qkv_proj", [*range(16, 32), *range(40, 48), *range(56, 64)]),  # two queries, one key, one value
])  # fmt: skip
def test_rows_of_one_head_in_a_fused_weight(name: str, path: str, rows: list[int]) -> None:
    assert axis_of(made(name), path).entry_indices([1]) == rows


@pytest.mark.parametrize(("name", "path", "rows"), [
    ("phi3", "model.layers.0.mlp.gate_up_proj", [3, 67]),
    ("modernbert", "model.layers.0.mlp.Wi", [3, 67]),
    ("mixtral", "model.layers.0.mlp.experts.matrices.gate_up_proj", [3, 67, 131, 195, 259, 323, 387, 451]),  # of each of four experts
    ("gpt-oss", "model.layers.0.mlp.experts.matrices.gate_up_proj", [6, 7, 134, 135, 262, 263, 390, 391]),  # gate and up together
])  # fmt: skip
def test_rows_of_one_neuron_in_a_fused_weight(name: str, path: str, rows: list[int]) -> None:
    assert axis_of(made(name), path).entry_indices([3]) == rows


def test_cross_attention_of_gpt2_has_a_query_and_a_weight_for_the_rest() -> None:
    config = hf.GPT2Config(n_embd=32, n_layer=1, n_head=4, n_positions=16, vocab_size=49, add_cross_attention=True)
    model = build_model(hf.GPT2LMHeadModel(config).eval(), "gpt2")
    names = [site.name for site in model.layout.find_label_sites("text.0.cross.heads")]
    assert names == ["text.0.cross.query", "text.0.cross.kv", "text.0.cross.output"]
    assert axis_of(model, "transformer.h.0.crossattention.c_attn").entry_indices([1]) == [*range(8, 16), *range(40, 48)]
    read, words = torch.randn(2, 5, 32), torch.randint(0, 49, (2, 6))
    cut_units_(model.module, model.layout, "text.0.cross.heads", (1, 2))
    with torch.no_grad():
        assert model.module(input_ids=words, encoder_hidden_states=read).logits.shape == (2, 6, 49)


def test_heads_of_one_block_of_phi3_are_its_own() -> None:
    """The class counts them in the configuration that all blocks have."""
    model = made("phi3")
    cut_units_(model.module, model.layout, "text.0.heads", (1,))
    first, second = (block.self_attn for block in model.module.model.layers)
    assert (first.config.num_attention_heads, second.config.num_attention_heads, model.module.config.num_attention_heads) == (2, 4, 4)
    assert (first.num_key_value_heads, second.num_key_value_heads) == (1, 2)
    model.module.set_attn_implementation("eager")
    assert first.config._attn_implementation == "eager"
    again = copy.deepcopy(model.module)
    again.config.attention_dropout = 0.25
    assert again.model.layers[0].self_attn.config.attention_dropout == 0.25 != first.config.attention_dropout
    assert again.model.layers[0].self_attn.config.num_attention_heads == 2


@pytest.mark.parametrize("name", ["gpt2", "phi3", "gpt-neox", "bart"])
def test_blocks_with_unlike_heads_reload_and_generate_the_same(name: str, compressed: Any, tmp_path: Path) -> None:
    """No configuration says it, so the recorded step does."""
    done = compressed(name, [{"prune.heads": {"where": "text.0.heads", "sparsity": 0.5}}])
    write_artifact(replace(done.model, folder=write_miniature(name, tmp_path / "a")), done.plan, tmp_path / "b", None)
    again = open_model(tmp_path / "b")
    assert again.steps and again.layout == done.model.layout
    assert say(again.module, name) == say(done.model.module, name)


@pytest.mark.parametrize("name", GENERATING)
def test_a_cut_model_generates_what_a_masked_one_does(name: str) -> None:
    model = made(name)
    cut, masked = copy.deepcopy(model.module), copy.deepcopy(model.module)
    for label in (label for label in model.layout.list_labels() if not is_width(label)):
        units = model.layout.count_units(label)
        for site in model.layout.find_label_sites(label):
            if site.reads_label(label) and site.input_axis is not None:
                weight: Any = masked.get_submodule(site.path).weight
                weight.data[:, site.input_axis.entry_indices(range(1, units, 2), label)] = 0.0
        cut_units_(cut, model.layout, label, range(0, units, 2))
    assert say(cut, name) == say(masked, name)


@pytest.mark.parametrize("name", ["gpt2", "t5", "t5-gated", "mixtral", "gpt-oss", "phi3", "gemma3", "marian"])
def test_all_axes_cut_and_codes_reload_to_the_same_outputs_and_tokens(name: str, compressed: Any, tmp_path: Path) -> None:
    """Among them Gemma's embedding, whose factor is in no file, and T5's, whose width is a factor that stays what it was."""
    done = compressed(name, [*HALF, {"quantize.rtn": {"bits": 8, "clip": "max"}}])
    write_artifact(replace(done.model, folder=write_miniature(name, tmp_path / "a")), done.plan, tmp_path / "b", None)
    again, batch = open_model(tmp_path / "b"), make_miniature_batch(name, 3, seed=9)
    found, expected = collect_outputs(again.module, batch), collect_outputs(done.model.module, batch)
    assert expected and all(torch.equal(found[key], expected[key]) for key in expected)
    assert say(again.module, name) == say(done.model.module, name)


def test_width_of_tied_t5_is_said_by_a_step_as_its_scale_must_stay(compressed: Any, tmp_path: Path) -> None:
    left = {}
    for name in ("t5", "t5-gated"):  # the gated one has a head of its own, and no scale
        done = compressed(name, [{"prune.width": {"score": "magnitude", "refit": False}}])
        write_artifact(replace(done.model, folder=write_miniature(name, tmp_path / name)), done.plan, tmp_path / f"{name} cut", None)
        left[name] = open_model(tmp_path / f"{name} cut")
    assert [len(model.steps) for model in left.values()] == [1, 0]
    assert left["t5"].module.model_dim == 32 and left["t5"].module.config.d_model == 32
    assert left["t5-gated"].module.config.d_model == 24


def test_heads_that_share_a_table_of_positions_go_in_all_blocks(compressed: Any) -> None:
    module = compressed("t5", [{"prune.heads": {"where": "text.heads", "sparsity": 0.5}}]).model.module
    attention = [block.layer[0].SelfAttention for block in module.encoder.block]
    assert [part.n_heads for part in attention] == [2, 2] and attention[0].relative_attention_bias.embedding_dim == 2
    assert [block.layer[0].SelfAttention.n_heads for block in module.decoder.block] == [4, 4]
    table = compressed("mpnet", [{"prune.heads": {"sparsity": 0.5}}]).model.module.mpnet.encoder.relative_attention_bias
    assert table.weight.shape == (32, 2)


def test_encoder_and_decoder_with_one_embedding_have_one_stream() -> None:
    layout = made("bart").layout
    assert [label for label in layout.list_labels() if is_width(label)] == ["text.width"]
    assert {site.tower for site in layout.find_label_sites("text.width")} == {"text", "text_decoder"}
    embedding = layout.get_site("model.encoder.embed_tokens")
    assert embedding.tied == ("lm_head", "model.decoder.embed_tokens", "model.shared") and embedding.is_read_again
    module: Any = make_miniature("t5")
    module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.detach().clone())
    untied = build_model(module, "t5").layout.get_site("encoder.embed_tokens")
    assert untied.tied_alike and untied.goes_with_tied and not untied.is_read_again


def test_what_cannot_be_cut_is_said() -> None:
    layouts = {name: made(name).layout for name in ("olmoe", "albert", "t5", "deberta-apart")}
    assert {fixed.label: fixed.reason for fixed in layouts["olmoe"].uncuttable} == dict.fromkeys(
        ("text.0.heads", "text.1.heads"), "its queries and keys are normed over all heads together"
    )
    reasons = [layouts[name].towers[0].whole_blocks for name in ("albert", "t5", "deberta-apart")]
    for reason, words in zip(reasons, ("runs many times", "the table of positions", "a convolution runs between"), strict=True):
        assert words in reason


def test_blocks_with_parameters_beside_their_layers_are_counted(compressed: Any) -> None:
    done = compressed("gpt-oss", [{"prune.layers": {"sparsity": 0.5}}])
    (place,) = done.plan.edits[0].places
    beside = 4 * (4 + 4 * 128 + 4 * 32)  # sinks, biases up and down of four experts, in float32
    assert place.bytes_before - sum(site.stored_bytes for site in done.original.layout.sites if site.tower == "text") == 2 * beside
    assert {bare.path.split(".")[2] for bare in done.model.layout.free_parameters} == {"0"}


def test_sinks_and_biases_of_gpt_oss_go_with_their_heads_and_neurons() -> None:
    model = made("gpt-oss")
    before = {name: value.clone() for name, value in model.module.named_parameters()}
    cut_units_(model.module, model.layout, "text.0.heads", (1,))
    cut_units_(model.module, model.layout, "text.0.experts.neurons", (0, 5))
    after = dict(model.module.named_parameters())
    sinks, bias = "model.layers.0.self_attn.sinks", "model.layers.0.mlp.experts.gate_up_proj_bias"
    assert torch.equal(after[sinks], before[sinks][2:4]) and torch.equal(after[bias], before[bias][:, [0, 1, 10, 11]])


def test_layers_that_read_the_stream_and_write_to_it_are_refitted(compressed: Any) -> None:
    """The head of a masked language model: narrow on both sides, and nearer to what it was than it is without."""
    errors = [compressed("roberta", [{"prune.width": {"refit": refit}}]) for refit in (True, False)]
    assert errors[0].model.module.lm_head.dense.weight.shape == (24, 24)
    whole, fitted, plain = (
        collect_outputs(model.module, make_miniature_batch("roberta", 16, seed=1))["logits"]
        for model in (errors[0].original, errors[0].model, errors[1].model)
    )
    assert (fitted - whole).square().mean() < (plain - whole).square().mean()


SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT: dict[str, Any] = {
    **SIZES, "vocab_size": 49, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
T5: dict[str, Any] = {
    "d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 49, "relative_attention_num_buckets": 8,
    "decoder_start_token_id": 0, "eos_token_id": 3,
}  # fmt: skip
BART: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 49, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    "decoder_start_token_id": 2, "max_position_embeddings": 40,
}  # fmt: skip
DISTIL: dict[str, Any] = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 49, "max_position_embeddings": 40}
APART: dict[str, Any] = {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False}
OTHERS: dict[str, Any] = {
    "xlm-roberta": lambda: hf.XLMRobertaForSequenceClassification(hf.XLMRobertaConfig(**TEXT)),
    "camembert": lambda: hf.CamembertForTokenClassification(hf.CamembertConfig(**TEXT)),
    "roberta decoder": lambda: hf.RobertaForCausalLM(hf.RobertaConfig(**TEXT, is_decoder=True)),
    "distilbert bare": lambda: hf.DistilBertModel(hf.DistilBertConfig(**DISTIL)),
    "distilbert masked": lambda: hf.DistilBertForMaskedLM(hf.DistilBertConfig(**DISTIL)),
    "mpnet classifier": lambda: hf.MPNetForSequenceClassification(hf.MPNetConfig(**TEXT)),
    "electra discriminator": lambda: hf.ElectraForPreTraining(hf.ElectraConfig(**TEXT, embedding_size=32)),
    "electra classifier": lambda: hf.ElectraForSequenceClassification(hf.ElectraConfig(**TEXT, embedding_size=16)),
    "albert classifier": lambda: hf.AlbertForSequenceClassification(hf.AlbertConfig(**TEXT, embedding_size=16)),
    "modernbert classifier": lambda: hf.ModernBertForSequenceClassification(
        hf.ModernBertConfig(**TEXT, cls_token_id=2, sep_token_id=3)
    ),
    "deberta answers": lambda: hf.DebertaV2ForQuestionAnswering(hf.DebertaV2Config(**TEXT, relative_attention=True, pos_att_type=["c2p"])),
    "deberta without": lambda: hf.DebertaV2ForTokenClassification(hf.DebertaV2Config(**TEXT)),
    "gpt2 classifier": lambda: hf.GPT2ForSequenceClassification(
        hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=40, vocab_size=49, pad_token_id=0)
    ),
    "gpt2 bare": lambda: hf.GPT2Model(hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=40, vocab_size=49)),
    "phi with norms": lambda: hf.PhiForCausalLM(hf.PhiConfig(**TEXT, qk_layernorm=True)),
    "mixtral bare": lambda: hf.MixtralModel(hf.MixtralConfig(**TEXT, num_key_value_heads=2, num_local_experts=4)),
    "t5 encoder": lambda: hf.T5EncoderModel(hf.T5Config(**T5)),
    "t5 tokens": lambda: hf.T5ForTokenClassification(hf.T5Config(**T5)),
    "mt5": lambda: hf.MT5ForConditionalGeneration(hf.MT5Config(**T5)),
    "bart bare": lambda: hf.BartModel(hf.BartConfig(**BART)),
    "bart decoder": lambda: hf.BartForCausalLM(hf.BartConfig(**BART)),
    "bart classifier": lambda: hf.BartForSequenceClassification(hf.BartConfig(**BART)),
    "marian with two vocabularies": lambda: hf.MarianMTModel(hf.MarianConfig(**BART, **APART)),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_classes_of_text_are_declared_in_order_and_cut(kind: str) -> None:
    torch.manual_seed(0)
    model = build_model(OTHERS[kind]().eval(), kind)
    layout = model.layout
    assert not [site.path for site in layout.sites if site.branch == site.path], "left to the end as undeclared"
    names, declared, fired = [site.name for site in layout.sites], [site.path for site in layout.sites], list[str]()
    assert len(set(names)) == len(names)
    handles = [
        model.module.get_submodule(path).register_forward_hook(lambda *_, path=path: fired.append(path)) for path in declared
    ]
    batch = {name: value[::2] for name, value in make_miniature_batch("bert", 4).items()}  # one length, one end each
    both = bool(model.module.config.is_encoder_decoder) and "decoder_input_ids" in model.example()
    batch |= {"decoder_input_ids": batch["input_ids"]} if both else {}
    found = collect_outputs(model.module, batch)
    assert all(output.field in found for output in model.family.outputs(model.module))
    assert list(dict.fromkeys(fired)) == [path for path in declared if path in fired]
    for handle in handles:
        handle.remove()
    for label in layout.list_labels():
        cut_units_(model.module, layout, label, range(8) if "mixtral" in kind and not label.endswith("heads") else (0,))
    collect_outputs(model.module, batch)


SAMPLES = [("a red cat sings", "the loud bird"), ("two small dog runs near the house", None)]


def encoded(name: str) -> tuple[Model, dict[str, Tensor]]:
    model = made(name)
    loaded = [LoadedSample(text=text, target=target) for text, target in SAMPLES]
    return model, model.family.encode(model.module, Processors(text=make_tokenizer()), loaded)


def test_a_decoder_reads_text_and_target_and_learns_the_target() -> None:
    model, batch = encoded("gpt2")
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert (batch["labels"][0] != -100).sum() == 4 and (batch["labels"][1] == -100).all()
    assert set(model.family.tokens(model.module, batch)) == {"text"}


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_reads_the_text_and_a_decoder_says_the_target(name: str) -> None:
    model, batch = encoded(name)
    start = model.module.config.decoder_start_token_id
    assert batch["decoder_input_ids"][:, 0].tolist() == [start, start]
    assert batch["decoder_attention_mask"].sum(1).tolist() == [4 + (start != 2), 8 + (start != 2)]  # BOS of the tokenizer, or T5's start
    kinds = model.family.tokens(model.module, batch)
    assert set(kinds) == {"text", "text_decoder", "text_decoder.cross"}
    assert torch.equal(kinds["text"], kinds["text_decoder.cross"])
    with torch.no_grad():
        assert model.module(**batch).logits.shape[:2] == batch["decoder_input_ids"].shape
        assert model.module(**model.example()).logits.shape[0] == 1


def test_a_start_token_that_the_configuration_lacks_is_the_padding_as_in_t5() -> None:
    module: Any = make_miniature("t5")
    delattr(module.config, "decoder_start_token_id")
    module.generation_config.decoder_start_token_id = None
    module.config.bos_token_id = None
    model = build_model(module, "t5")
    processors = Processors(text=make_tokenizer())
    batch = model.family.encode(model.module, processors, [LoadedSample(text="two birds", target="one")])
    assert batch["decoder_input_ids"][0, 0] == module.config.pad_token_id
    assert model.module(**batch).logits is not None
