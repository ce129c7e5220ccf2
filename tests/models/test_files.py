"""What a model folder's loaders read, what travels with it, and what is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import trimodal
from trimodal import pipeline
from trimodal.errors import IntegrityError, ModelError
from trimodal.formats import measure_folder_size
from trimodal.loading.load import load_source
from trimodal.models import files
from trimodal.models.files import (
    find_companion_files,
    find_licence_files,
    find_unread_files,
    module_weight_files,
    weight_files,
)
from trimodal.networks.tiny import write_miniature

INT8 = {"steps": [{"quantize.rtn": {"where": "*", "bits": 8}}]}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature("bert", tmp_path_factory.mktemp("files") / "bert")


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bert, tmp_path / "model")


def put(folder: Path, name: str, content: Any = "x") -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def sentence_transformer(folder: Path) -> None:
    """What sentence-transformers writes beside a model: a pooling, a dense layer, and its own configuration."""
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Dense", "Dense"), ("3", "3_Normalize", "Normalize")]
    put(folder, "modules.json", [{"idx": n, "name": n, "path": p, "type": f"sentence_transformers.models.{t}"} for n, p, t in modules])
    put(folder, "1_Pooling/config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    put(folder, "2_Dense/config.json", {"in_features": 32, "out_features": 8, "bias": True})
    save_file({"linear.weight": torch.ones(8, 32), "linear.bias": torch.zeros(8)}, folder / "2_Dense" / "model.safetensors")
    put(folder, "2_Dense/pytorch_model.bin")
    put(folder, "sentence_bert_config.json", {"max_seq_length": 32})
    put(folder, "config_sentence_transformers.json", {"prompts": {}})


NEEDED = (
    "chat_template.jinja", "additional_chat_templates/tool_use.jinja", "vocab.txt", "merges.txt", "spiece.model", "source.spm",
    "qwen.tiktoken", "bpe.codes", "dict.txt", "added_tokens.json", "special_tokens_map.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "processor_config.json", "generation_config.json", "normalizer.json", "labels.txt",
    "id2label.json", "tekken.json", "sentencepiece.bpe.model",
)  # fmt: skip
NEEDLESS = (
    "trainer_state.json", "training_args.json", "all_results.json", "train.log", "notes.txt", "data.jsonl", "eval_results.txt",
    "classification_report.txt", "requirements.txt",
)  # fmt: skip


def test_what_a_loader_looks_for_travels_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    for name in (*NEEDED, *NEEDLESS, "checkpoint-5/optimizer.pt", "checkpoint-5/trainer_state.json", "onnx/model.onnx"):
        put(folder, name, "{}" if name.endswith(".json") else "x")
    found = set(map(str, find_companion_files(folder)))
    assert set(NEEDED) <= found and not found & set(NEEDLESS)
    assert set(find_unread_files(folder)) == {*NEEDLESS, "checkpoint-5/", "onnx/"}


def test_what_configurations_name_travels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    put(folder, "config.json", {**config, "auto_map": {"AutoModel": "own_code.OwnModel"}, "names_file": "lists/animals.json"})
    put(folder, "own_code.py", "import nothing")
    put(folder, "lists/animals.json", {"more": "lists/birds.txt"})
    put(folder, "lists/birds.txt")
    assert {"own_code.py", "lists/animals.json", "lists/birds.txt"} <= set(map(str, find_companion_files(folder)))


def test_modules_of_sentence_transformers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence_transformer(folder)
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    done = trimodal.compress(folder, INT8, None, tmp_path / "out")
    for name in ("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors",
                 "sentence_bert_config.json", "config_sentence_transformers.json"):  # fmt: skip
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes(), name
    assert done.verdict.left_out == ("2_Dense/pytorch_model.bin",)
    dense = (folder / "2_Dense" / "model.safetensors").stat().st_size
    assert [str(path) for path in module_weight_files(folder)] == ["2_Dense/model.safetensors"]
    assert done.verdict.size.weights_before_bytes == (folder / "model.safetensors").stat().st_size + dense
    assert done.verdict.size.weights_after_bytes == (tmp_path / "out" / "trimodal.safetensors").stat().st_size + dense
    put(tmp_path / "out", "2_Dense/config.json", {"in_features": 32, "out_features": 8, "bias": False})
    with pytest.raises(IntegrityError, match=r"2_Dense/config.json has changed"):
        trimodal.load(tmp_path / "out")


def test_a_pickle_travels_where_a_module_has_nothing_else(folder: Path) -> None:
    sentence_transformer(folder)
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert [str(path) for path in module_weight_files(folder)] == ["2_Dense/pytorch_model.bin"]


def test_a_module_that_is_a_model_of_its_own_is_refused(folder: Path, bert: Path) -> None:
    sentence_transformer(folder)
    shutil.copytree(bert, folder / "0_Transformer")
    put(folder, "modules.json", [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}])
    with pytest.raises(ModelError, match="0_Transformer, a whole model of its own"):
        find_companion_files(folder)


@pytest.mark.parametrize("name", [
    "consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx",
])  # fmt: skip
def test_a_second_copy_of_the_weights_counts_for_nothing(folder: Path, name: str) -> None:
    before = measure_folder_size(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copyfile(folder / "model.safetensors", folder / name)
    assert measure_folder_size(folder) == before and find_unread_files(folder) == (name if "/" not in name else "onnx/",)


def sharded(folder: Path, keep: bool) -> None:
    """The weights in two files and an index; with `keep` the single file stays."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    put(folder, "model.safetensors.index.json", {"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}})
    if not keep:
        (folder / "model.safetensors").unlink()


def test_the_index_or_the_one_file(folder: Path) -> None:
    sharded(folder, keep=True)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert list(map(str, weight_files(folder))) == ["model.safetensors"]
    assert find_unread_files(folder) == (*shards, "model.safetensors.index.json")
    (folder / "model.safetensors").unlink()
    assert list(map(str, weight_files(folder))) == shards and find_unread_files(folder) == ()
    total, weights = measure_folder_size(folder)
    assert weights == sum((folder / name).stat().st_size for name in shards)
    assert total == sum(path.stat().st_size for path in folder.iterdir())
    (folder / shards[0]).unlink()
    with pytest.raises(ModelError, match=r"index.json names model-00001-of-00002.safetensors, which is not there"):
        load_source(folder)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/tmp/outside.safetensors"])
def test_an_index_stays_in_the_folder(folder: Path, shard: str) -> None:
    (folder / "model.safetensors").unlink()
    put(folder, "model.safetensors.index.json", {"weight_map": {"a": shard}})
    with pytest.raises(ModelError, match="outside of the folder"):
        weight_files(folder)


def test_a_damaged_copy_that_nobody_reads_stops_nobody(folder: Path) -> None:
    put(folder, "consolidated.safetensors", "broken")
    assert load_source(folder).family.name == "bert"


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_is_to_be_merged_first(folder: Path, name: str) -> None:
    put(folder, name, {"peft_type": "LORA"})
    with pytest.raises(ModelError, match="merge it first"):
        load_source(folder)


def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    put(tmp_path, "secret.json", {"secret": 1})
    (folder / "chat_template.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ModelError, match=r"chat_template.json is a link out of the folder"):
        find_companion_files(folder)
    (folder / "chat_template.json").unlink()
    (folder / "notes.json").symlink_to(tmp_path / "secret.json")  # nobody would have read it
    (folder / "vocab.txt").symlink_to(folder / "tokenizer.json")
    assert "vocab.txt" in map(str, find_companion_files(folder)) and find_unread_files(folder) == ("notes.json",)


def test_a_module_behind_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    sentence_transformer(folder)
    shutil.move(folder / "2_Dense", tmp_path / "elsewhere")
    (folder / "2_Dense").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="2_Dense is a link out of the folder"):
        find_companion_files(folder)


def test_a_snapshot_of_the_hub_is_made_of_links(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    shutil.copytree(bert, blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert find_companion_files(snapshot) == find_companion_files(bert) and measure_folder_size(snapshot) == measure_folder_size(bert)
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    trimodal.compress(snapshot, INT8, None, tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_a_licence_travels_and_a_card_only_where_it_alone_names_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "README.md", "---\nlicense: mit\n---\n# A model\n")
    assert list(map(str, find_licence_files(folder))) == ["README.md"]
    put(folder, "LICENSE.txt", "MIT")
    assert list(map(str, find_licence_files(folder))) == ["LICENSE.txt"] and find_unread_files(folder) == ("README.md",)
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    trimodal.compress(folder, INT8, None, tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "MIT" and trimodal.load(tmp_path / "out")


def test_tensors_that_the_class_does_not_take_count_for_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors") | {"mtp.head.weight": torch.ones(100, 100), "cls.bias": torch.ones(7)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert load_source(folder).unused == {"mtp.head.weight": 40_000, "cls.bias": 28}
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    verdict = trimodal.compress(folder, INT8, None, tmp_path / "out").verdict
    assert verdict.size.weights_before_bytes == measure_folder_size(folder)[1] - 40_028
    assert verdict.left_out[0] == "2 tensors that BertModel does not take, first cls.bias"


def test_a_model_that_is_quantized_already_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    put(folder, "config.json", config | {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    with pytest.raises(ModelError, match="cannot be loaded as BertModel: it is quantized already"):
        load_source(folder)

def test_a_file_and_its_copies_are_read_through_once(folder: Path, tmp_path: Path) -> None:
    put(folder, "tokenizer.json", json.dumps({"model": {"vocab": {"a word that is in no other file": 0}}}))
    find_companion_files(folder)
    before = files._parse_json_strings.cache_info().misses
    shutil.copytree(folder, tmp_path / "copy")
    assert find_companion_files(tmp_path / "copy") == find_companion_files(folder)
    assert files._parse_json_strings.cache_info().misses == before
    put(folder, "more.txt", "named below")
    put(folder, "tokenizer.json", json.dumps({"file": "more.txt"}))
    assert Path("more.txt") in find_companion_files(folder)
