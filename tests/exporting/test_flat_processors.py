"""What transformers.js reads of a processor that Transformers 5 saved in one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers as hf

from trimodal.exporting.flat_processors import write_flat_processor
from trimodal.models.processors import find_processors
from trimodal.networks.tiny import write_miniature


def test_a_combined_processors_parts_are_written_flat(tmp_path: Path) -> None:
    hf.WhisperProcessor(hf.WhisperFeatureExtractor(feature_size=16, chunk_length=2), hf.WhisperTokenizer()).save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()  # else this file is no longer needed
    write_flat_processor(tmp_path)
    flat = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert {key: flat[key] for key in ("processor_class", "feature_extractor_type", "feature_size", "n_samples", "nb_max_frames")} == {
        "processor_class": "WhisperProcessor", "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": 16, "n_samples": 32000, "nb_max_frames": 200,
    }  # fmt: skip
    assert hf.WhisperFeatureExtractor.from_pretrained(tmp_path).nb_max_frames == 200
    assert find_processors(tmp_path).audio.feature_size == 16


@pytest.mark.parametrize("name", ["clip", "bert"])
def test_a_file_that_is_there_stays_and_none_is_made_of_nothing(name: str, tmp_path: Path) -> None:
    folder = write_miniature(name, tmp_path / name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_flat_processor(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
