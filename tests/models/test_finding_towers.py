"""Towers of models that nobody declared: every layer is in the tower that its part is, two and three levels deep."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from trimodal.core import Tower
from trimodal.layers import open_layers_
from trimodal.models import generic
from trimodal.models.families import family_of
from trimodal.models.finding_towers import find_towers
from trimodal.networks.tiny import make_miniature
from trimodal.planning.planner import plan_edits
from trimodal.planning.recipe import read_recipe

COUNTS = (
    "num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "num_decoder_layers",
    "speech_encoder_layers", "depth", "n_layer",
)  # fmt: skip

# Class -> tower -> the parts that are in it, and after a bar the lists that its blocks are in; a longer path wins over a shorter one.
MODELS: Mapping[str, Mapping[str, str]] = {
    "Qwen2VLForConditionalGeneration": {
        "image": "model.visual | model.visual.blocks",
        "fusion": "model.visual.merger | model.visual.merger.mlp",
        "text": "model.language_model lm_head | model.language_model.layers",
    },
    "Qwen2_5_VLForConditionalGeneration": {
        "image": "model.visual | model.visual.blocks",
        "fusion": "model.visual.merger | model.visual.merger.mlp",
        "text": "model.language_model lm_head | model.language_model.layers",
    },
    "Qwen3VLForConditionalGeneration": {
        "image": "model.visual | model.visual.blocks",
        "fusion": "model.visual.merger model.visual.deepstack_merger_list | model.visual.deepstack_merger_list",
        "text": "model.language_model lm_head | model.language_model.layers",
    },
    "Gemma3ForConditionalGeneration": {
        "image": "model.vision_tower | model.vision_tower.encoder.layers",
        "fusion": "model.multi_modal_projector |",
        "text": "model.language_model lm_head | model.language_model.layers",
    },
    "PaliGemmaForConditionalGeneration": {
        "image": "model.vision_tower | model.vision_tower.encoder.layers",
        "fusion": "model.multi_modal_projector |",
        "text": "model.language_model lm_head | model.language_model.layers",
    },
    "SmolVLMForConditionalGeneration": {
        "image": "model.vision_model | model.vision_model.encoder.layers",
        "fusion": "model.connector |",
        "text": "model.text_model lm_head | model.text_model.layers",
    },
    "Idefics2ForConditionalGeneration": {
        "image": "model.vision_model | model.vision_model.encoder.layers",
        "fusion": "model.connector | model.connector.perceiver_resampler.layers",
        "text": "model.text_model lm_head | model.text_model.layers",
    },
    "LlavaNextForConditionalGeneration": {
        "image": "model.vision_tower | model.vision_tower.encoder.layers",
        "fusion": "model.multi_modal_projector |",
        "text": "model.language_model lm_head | model.language_model.layers",
    },
    "LlavaOnevisionForConditionalGeneration": {
        "image": "model.vision_tower | model.vision_tower.encoder.layers",
        "fusion": "model.multi_modal_projector |",
        "text": "model.language_model lm_head | model.language_model.layers",
    },
    "Blip2ForConditionalGeneration": {
        "image": "vision_model | vision_model.encoder.layers",
        "fusion": "qformer language_projection | qformer.encoder.layer",
        "text": "language_model | language_model.model.decoder.layers",
    },
    "Qwen2AudioForConditionalGeneration": {
        "audio": "model.audio_tower | model.audio_tower.layers",
        "fusion": "model.multi_modal_projector |",
        "text": "model.language_model lm_head | model.language_model.layers",
    },
    "Qwen2_5OmniThinkerForConditionalGeneration": {
        "audio": "model.audio_tower | model.audio_tower.layers",
        "image": "model.visual | model.visual.blocks",
        "fusion": "model.visual.merger | model.visual.merger.mlp",
        "text": "model.language_model lm_head | model.language_model.layers",
    },
    "OwlViTForObjectDetection": {
        "text": "owlvit.text_model owlvit.text_projection | owlvit.text_model.encoder.layers",
        "image": "owlvit.vision_model owlvit.visual_projection | owlvit.vision_model.encoder.layers",
        "fusion": "class_head box_head layer_norm |",
    },
    "AlignModel": {
        "text": "text_model text_projection | text_model.encoder.layer",
        "image": "vision_model | vision_model.encoder.blocks",
    },
    "AltCLIPModel": {
        "text": "text_model text_projection | text_model.roberta.encoder.layers",
        "image": "vision_model visual_projection | vision_model.encoder.layers",
    },
    "ChineseCLIPModel": {
        "text": "text_model text_projection | text_model.encoder.layer",
        "image": "vision_model visual_projection | vision_model.encoder.layers",
    },
    "FlavaModel": {
        "text": "text_model text_projection | text_model.encoder.layer",
        "image": "image_model image_projection | image_model.encoder.layer",
        "fusion": "multimodal_model image_to_mm_projection text_to_mm_projection | multimodal_model.encoder.layer",
    },
    "Speech2TextForConditionalGeneration": {
        "audio": "model.encoder | model.encoder.conv.conv_layers model.encoder.layers",
        "text": "model.decoder lm_head | model.decoder.layers",
    },
    "SpeechT5ForTextToSpeech": {
        "text": "speecht5.encoder | speecht5.encoder.wrapped_encoder.layers",
        "audio": "speecht5.decoder speech_decoder_postnet | speecht5.decoder.prenet.layers speecht5.decoder.wrapped_decoder.layers "
        "speech_decoder_postnet.layers",
    },
    "SeamlessM4Tv2ForSpeechToText": {
        "text": "shared text_decoder lm_head | text_decoder.layers",
        "audio": "speech_encoder | speech_encoder.encoder.layers speech_encoder.adapter.layers",
    },
    "GitForCausalLM": {
        "text": "git.embeddings git.encoder output | git.encoder.layer",
        "image": "git.image_encoder git.visual_projection | git.image_encoder.vision_model.encoder.layers "
        "git.visual_projection.visual_projection",
    },
    "LayoutLMv3ForTokenClassification": {"fusion": "layoutlmv3 dropout classifier | layoutlmv3.encoder.layer"},
    "WhisperForAudioClassification": {"audio": "encoder projector classifier | encoder.layers"},
    "T5ForConditionalGeneration": {"text": "shared encoder | encoder.block", "text_decoder": "decoder lm_head | decoder.block"},
    "M2M100ForConditionalGeneration": {
        "text": "model.shared model.encoder | model.encoder.layers",
        "text_decoder": "model.decoder lm_head | model.decoder.layers",
    },
    "BartForCausalLM": {"text": "model lm_head | model.decoder.layers"},
    "Florence2ForConditionalGeneration": {
        "image": "model.vision_tower | model.vision_tower.convs model.vision_tower.blocks",
        "fusion": "model.multi_modal_projector |",
        "text": "model.language_model.shared model.language_model.encoder lm_head | model.language_model.encoder.layers",
        "text_decoder": "model.language_model.decoder | model.language_model.decoder.layers",
    },
    "GPT2LMHeadModel": {"text": "transformer lm_head | transformer.h"},
    "BeitForImageClassification": {"image": "beit classifier | beit.layers"},
    "Data2VecAudioForCTC": {
        "audio": "data2vec_audio lm_head | data2vec_audio.feature_extractor.conv_layers data2vec_audio.encoder.pos_conv_embed.layers "
        "data2vec_audio.encoder.layers",
    },
    "DecisionTransformerModel": {
        "model": "encoder embed_timestep embed_return embed_state embed_action embed_ln predict_state predict_action predict_return "
        "| encoder.h predict_action",
    },
}  # fmt: skip


def shorten_(config: PretrainedConfig) -> PretrainedConfig:
    """Two blocks per stack, in every part of the configuration."""
    for name in COUNTS:
        if isinstance(getattr(config, name, None), int) and getattr(config, name) > 2:
            setattr(config, name, 2)
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[:2]
    for name in getattr(config, "sub_configs", {}):
        if isinstance(getattr(config, name, None), PretrainedConfig):
            shorten_(getattr(config, name))
    return config


def make_bare(name: str) -> PreTrainedModel:
    """The model of the usual size, without values."""
    kind = getattr(transformers, name)
    with torch.device("meta"):
        module: PreTrainedModel = kind(shorten_(kind.config_class()))
    assert isinstance(open_layers_(module), PreTrainedModel)
    return module


def check_towers(module: nn.Module, expected: Mapping[str, str]) -> None:
    """Check towers, the tower of every layer, and the lists of blocks against a row of the table."""
    layout = generic.describe(module)
    assert [tower.name for tower in layout.towers] == list(expected)
    parts = {part: name for name, told in expected.items() for part in told.partition("|")[0].split()}
    for site in layout.sites:
        around = [part for part in parts if f"{site.path}.".startswith(f"{part}.")]
        assert around, site.path
        assert site.tower == parts[max(around, key=len)], site.path
    for tower in layout.towers:
        assert tower.modality == {"model": "all", "text_decoder": "text"}.get(tower.name, tower.name)
        lists = expected[tower.name].partition("|")[2].split()
        assert tower.blocks == tuple(f"{path}.{child}" for path in lists for child, _ in module.get_submodule(path).named_children())
        assert ("several lists" in tower.whole_blocks) == (len(lists) > 1)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_in_the_tower_that_its_part_is(name: str) -> None:
    check_towers(make_bare(name), MODELS[name])


@pytest.mark.parametrize(
    ("pattern", "begin", "end"),
    [
        ("image.*", "model.visual.", ""),
        ("fusion.*", "model.visual.merger.", ""),
        ("text.1.*", "model.language_model.layers.1.", ""),
        ("*.query", "model.language_model.layers.", ".q_proj"),
        ("text.*.down", "model.language_model.layers.", ".down_proj"),
        ("*.head", "lm_head", ""),
    ],
)
def test_patterns_of_recipes_find_the_tower(pattern: str, begin: str, end: str) -> None:
    layout = generic.describe(make_bare("Qwen2VLForConditionalGeneration"))
    edits, _ = plan_edits(layout, read_recipe({"steps": [{"quantize.rtn": {"where": pattern, "bits": 8}}]}), data=False)
    paths = [path for place in edits[0].places for path in place.paths]
    assert paths and all(path.startswith(begin) and path.endswith(end) for path in paths)
    assert not (pattern == "image.*" and any("merger" in path for path in paths))


def test_declared_families_call_their_towers_alike() -> None:
    for name in ("clip", "siglip", "vit", "dinov2", "bert", "whisper", "llama", "qwen3", "llava", "clap", "wav2vec2", "ast", "resnet"):
        module = make_miniature(name)
        declared, found = family_of(module).describe(module), generic.describe(module)
        assert {(tower.name, tower.modality) for tower in declared.towers} == {(tower.name, tower.modality) for tower in found.towers}
        assert {site.path: site.tower for site in declared.sites} == {site.path: site.tower for site in found.sites}, name


def test_both_halves_of_a_pair_of_models_are_told_by_their_own_kinds() -> None:
    seeing = transformers.ViTConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    hearing = transformers.Wav2Vec2Config(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    speaking = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}
    trocr = transformers.TrOCRConfig(**speaking, cross_attention_hidden_size=32)
    with torch.device("meta"):
        module = transformers.VisionEncoderDecoderModel(
            transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(seeing, trocr)
        )
        dictation = transformers.SpeechEncoderDecoderModel(
            transformers.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(hearing, trocr)
        )
    check_towers(module, {"image": "encoder | encoder.layers", "text": "decoder | decoder.model.decoder.layers"})
    assert {site.tower for site in generic.describe(dictation).sites if site.path.startswith("encoder.")} == {"audio"}
    assert {site.tower for site in generic.describe(dictation).sites if site.path.startswith("decoder.")} == {"text"}


def test_prompts_and_masks_are_where_image_and_prompt_meet() -> None:
    layout = generic.describe(make_bare("SamModel"))
    towers = {site.path.partition(".")[0]: site.tower for site in layout.sites}
    assert towers == {"vision_encoder": "image", "prompt_encoder": "fusion", "mask_decoder": "fusion"}


def test_speech_that_is_made_is_audio_like_speech_that_is_heard() -> None:
    layout = generic.describe(make_bare("Qwen2_5OmniForConditionalGeneration"))
    found = {}
    for site in layout.sites:
        found.setdefault(site.tower, set()).add(".".join(site.path.split(".")[:3 if site.path.startswith("thinker.model") else 1]))
    assert found == {
        "audio": {"thinker.model.audio_tower", "talker", "token2wav"}, "image": {"thinker.model.visual"},
        "fusion": {"thinker.model.visual"}, "text": {"thinker.model.language_model", "thinker"},
    }  # fmt: skip


class Own(nn.Module):
    """Layers under the given names, dotted as deep as one likes."""

    def __init__(self, *paths: str) -> None:
        super().__init__()
        for path in paths:
            *above, name = path.split(".")
            part: nn.Module = self
            for step in above:
                part.add_module(step, getattr(part, step, nn.Module()))
                part = part.get_submodule(step)
            part.add_module(name, nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("paths", "towers"),
    [
        ("net.visionEncoder.a net.text_net.b net.head", "image text model"),
        ("trunks.audio.a trunks.img.b heads.audio heads.img", "audio image audio image"),
        ("vision_tower.a mm_projector.0 llm.b", "image fusion text"),
        ("image_encoder.a image_encoder.text_gate image_encoder.merger text_encoder.b", "image image fusion text"),
        ("image_text_block.a image_encoder.b text_encoder.c", "fusion image text"),
        ("context.a supervision.b decoder.c", "model model model"),
        ("vision.a projector.b head", "image model model"),
        ("fusion.a head", "model model"),
    ],
)
def test_own_modules_are_told_by_the_names_of_their_parts(paths: str, towers: str) -> None:
    module = Own(*paths.split())
    found = {site.path: site.tower for site in generic.describe(module).sites}
    assert [found[path] for path in paths.split()] == towers.split()


def test_a_block_stays_whole_whatever_its_parts_are_called() -> None:
    module = Own("image_encoder.a", "text_encoder.b")
    module.layers = nn.ModuleList([Own("text_attention", "visual_attention", "projector") for _ in range(2)])
    layout = generic.describe(module)
    assert {site.tower for site in layout.sites if site.path.startswith("layers")} == {"model"}
    assert layout.get_tower("model").blocks == ("layers.0", "layers.1")


def test_models_of_transformers_are_known_inside_of_own_modules() -> None:
    module = nn.Module()
    module.seer, module.reader = make_miniature("vit"), make_miniature("bert")
    module.both, module.score = make_miniature("llava"), nn.Linear(4, 4)
    assert {site.path.split(".")[0]: site.tower for site in generic.describe(module).sites if not site.path.startswith("both")} == {
        "seer": "image", "reader": "text", "score": "model",
    }  # fmt: skip
    inside = {s.path.removeprefix("both."): s.tower for s in generic.describe(module).sites if s.path.startswith("both.")}
    alone = {site.path: site.tower for site in generic.describe(module.both).sites}
    assert inside == alone


def test_parameters_in_no_layer_belong_to_the_part_around_them() -> None:
    module = Own("image_encoder.a", "text_encoder.b")
    module.image_encoder.mask = nn.Parameter(torch.zeros(4))
    (tower,) = (t for t in find_towers(module, ["image_encoder.a", "text_encoder.b"]).towers if t.name == "image")
    assert tower == Tower("image", "image", (), ("image_encoder",))


@pytest.mark.parametrize("name", ["clip", "vit", "bert", "whisper", "qwen3", "llava", "ast"])
def test_layers_have_the_roles_that_their_names_tell(name: str) -> None:
    module = make_miniature(name)
    declared, found = family_of(module).describe(module), generic.describe(module)
    assert {site.path: site.role for site in declared.sites} == {site.path: site.role for site in found.sites}


def test_outside_of_blocks_only_heads_patches_poolers_and_projectors_have_roles() -> None:
    names = ("fc1", "query", "head.score", "pooler.dense", "text_projection", "mm_projector.linear_1", "projection")
    roles = [site.role for site in generic.describe(Own(*names)).sites]
    assert roles == ["linear", "linear", "head", "pooler", "projector", "projector", "linear"]
