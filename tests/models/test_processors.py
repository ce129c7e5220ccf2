"""Processors are loaded when data is encoded, and say which package they lack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import trimodal
from trimodal.errors import DataError, ModelError
from trimodal.loading.load import load_source
from trimodal.models.processors import find_missing_package, find_processors
from trimodal.networks.tiny import write_miniature, write_miniature_data

_TORCHVISION = "\nXImageProcessor requires the Torchvision library but it was not found in your environment. Check out …\n"


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No processor can be loaded for want of a package; the list tells which were asked for."""
    asked: list[str] = []
    for name in ("AutoImageProcessor", "AutoFeatureExtractor", "AutoTokenizer", "AutoProcessor"):

        def refuse(*args: Any, name: str = name, **kwargs: Any) -> None:
            asked.append(name)
            raise ImportError(_TORCHVISION)

        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", refuse)
    return asked


def test_nothing_is_loaded_before_data_is_encoded(lacking: list[str], tmp_path: Path) -> None:
    folder, out = write_miniature("clip", tmp_path / "clip"), tmp_path / "out"
    trimodal.inspect(str(folder))
    trimodal.plan(str(folder), "int8")
    trimodal.compress(str(folder), "int8", None, out)
    trimodal.load(out)
    assert lacking == []
    assert {"preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"} <= {path.name for path in out.iterdir()}


@pytest.mark.parametrize("verb", ["compress", "verify"])
def test_data_names_the_package(verb: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder, out = write_miniature("vit", tmp_path / "vit"), tmp_path / "out"
    data = write_miniature_data(tmp_path / "data", 10, ["image"])
    if verb == "verify":
        trimodal.compress(str(folder), "int8", None, out)
    request.getfixturevalue("lacking")
    with pytest.raises(ModelError, match=r"its image processor needs the package torchvision.* `pip install torchvision`"):
        if verb == "verify":
            trimodal.verify(out, str(folder), data)
        else:
            trimodal.compress(str(folder), "int8", data, out)


def test_what_one_part_lacks_does_not_keep_the_others_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_miniature("clip", tmp_path / "clip")
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ImportError(_TORCHVISION)

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", refuse)
    found = find_processors(folder)
    assert found.text is not None and found.image is not None
    with pytest.raises(ModelError, match="its processor needs the package torchvision"):
        _ = found.whole


def test_it_is_loaded_once(tmp_path: Path) -> None:
    found = load_source(str(write_miniature("bert", tmp_path / "bert"))).processors
    assert found.text is found.text and found.image is None and found.audio is None


def test_a_damaged_file_is_told_at_once(tmp_path: Path) -> None:
    folder = write_miniature("bert", tmp_path / "bert")
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is not valid JSON"):
        find_processors(folder)


@pytest.mark.parametrize(("error", "package"), [
    (ImportError(_TORCHVISION), "torchvision"),
    (ImportError("SpeechT5Tokenizer requires the SentencePiece library but it was not found"), "sentencepiece"),
    (ValueError("… Missing optional dependencies: torchvision. Please install the missing dependencies"), "torchvision"),
    (ValueError("`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`."), "tiktoken"),
    (ModuleNotFoundError("No module named 'google.protobuf'", name="google.protobuf"), "protobuf"),
    (ImportError("No module named 'phonemizer'"), "phonemizer"),
    (ValueError("Unrecognized image processor"), None),
    (DataError("install nothing"), None),
])  # fmt: skip
def test_missing_package(error: Exception, package: str | None) -> None:
    assert find_missing_package(error) == package


def test_missing_package_of_the_cause() -> None:
    error = ValueError("it cannot be loaded")
    error.__cause__ = ImportError(_TORCHVISION)
    assert find_missing_package(error) == "torchvision"


def test_a_tokenizer_class_that_lacks_a_package_does_not_keep_files_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Needy(type):
        def __getattribute__(cls, name: str) -> Any:
            raise ImportError("NeedyTokenizer requires the SentencePiece library but it was not found")

    monkeypatch.setattr(transformers, "NeedyTokenizer", Needy("NeedyTokenizer", (), {}), raising=False)
    folder = write_miniature("bert", tmp_path / "bert")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NeedyTokenizer"}))
    (folder / "spiece.model").write_bytes(b"pieces")
    out = trimodal.compress(str(folder), "int8", None, tmp_path / "out").folder
    assert (out / "spiece.model").read_bytes() == b"pieces"
