"""The model that learns to write down what it hears: a small Whisper, tested on voices that it has not heard."""

from __future__ import annotations

from pathlib import Path

from benchmarks.trained import RECIPES, MadeData, TrainedModel
from examples.training import speak_sentences

TRAINING, TEST = 6_000, 600
SPEECH = MadeData(
    "speech", lambda folder: speak_sentences.write_speech(folder, TRAINING, TEST), (Path(speak_sentences.__file__),),
    {"training": TRAINING, "test": TEST},
)  # fmt: skip
WHISPER = TrainedModel("speech-whisper", RECIPES / "speech_whisper.yaml", SPEECH, "speech.jsonl")
