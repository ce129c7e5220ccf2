"""What tidying does to an exported graph: nodes, time to open, time to run, before and after, and whether the outputs are the same.

`python -m benchmarks.graphs` traces float models of four blocks at their real widths (random weights with a fixed seed), writes each
graph as it was traced and as it is exported, opens both in ONNX Runtime and in OpenVINO, and times them in turn. `--model NAME` takes those
with NAME in their name.

    nodes      of the graph; `as traced` is without our steps of `exporting/onnx_graph/tidy.py`
    distance   of the outputs, relative: ‖tidied − traced‖ / ‖traced‖, the largest over the outputs
    times      as traced over tidied; the line leaves room for twice the noise: what one file differs by from itself, timed twice in the
               same session or opened twice
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.passlines import PassLine, finish, table
from benchmarks.speed.models import Inputs, make_images, make_sounds, make_texts, seeded

MOST_DISTANCE = 1e-5
_PAST_TOKENS, _WORDS = 64, 8000
COLUMNS = ("model", "runtime", "nodes as traced", "nodes tidied", "distance", "opens in ms", "then", "runs in ms", "then", "times", "noise")
_FOUR = {"num_hidden_layers": 4}
_DECODER = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8000, **_FOUR}
_TOWERS = {"text_config": _FOUR, "vision_config": _FOUR}


def make_whisper_encoder() -> Any:
    """Four blocks of the encoder of Whisper-small."""
    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(0)
    return WhisperEncoder(WhisperConfig(d_model=768, encoder_layers=4, encoder_attention_heads=12, encoder_ffn_dim=3072)).eval()


def make_pair() -> Inputs:
    """One image and one text of 77 tokens."""
    return {**make_texts(1, 0, 77, 49000), **make_images(1, 0)}


MODELS: Mapping[str, tuple[Callable[[], Any], Callable[[], Inputs]]] = {
    "ViT": (seeded("ViTForImageClassification", "ViTConfig", **_FOUR), partial(make_images, 1, 0)),
    "CLIP": (seeded("CLIPModel", "CLIPConfig", **_TOWERS), make_pair),
    "BERT": (seeded("BertModel", "BertConfig", **_FOUR), partial(make_texts, 1, 0, 128)),
    "Whisper encoder": (make_whisper_encoder, partial(make_sounds("input_features", (80, 3000)), 1, 0)),
    "AST": (seeded("ASTForAudioClassification", "ASTConfig", num_labels=527, **_FOUR),
            partial(make_sounds("input_values", (1024, 128)), 1, 0)),
    "Llama-like decoder": (seeded("LlamaForCausalLM", "LlamaConfig", **_DECODER), partial(make_texts, 1, 0, 64, 8000)),
    "ResNet-26": (seeded("ResNetForImageClassification", "ResNetConfig", depths=[2, 2, 2, 2]), partial(make_images, 1, 0)),
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """One component: the file as traced and as tidied, how many nodes each has, and the shapes of its inputs."""

    traced: Path
    tidied: Path
    before: int
    after: int
    shapes: Mapping[str, Sequence[int | str]]


def write_graphs(make: Callable[[], Any], folder: Path) -> dict[str, Written]:
    """What was written, by component."""
    import torch

    from trimodal.exporting.export import prepare_source
    from trimodal.exporting.onnx import build_graph, save_graph
    from trimodal.loading.load import build_model

    source = prepare_source(build_model(make(), "graphs"))
    found = {}
    with torch.no_grad():
        for component in source.components:
            made = []
            for name, tidy in (("traced", False), ("tidied", True)):
                file = folder / name / f"{component.name}.onnx"
                file.parent.mkdir(exist_ok=True)
                made.append((file, save_graph(build_graph(component, source, tidy=tidy)[0], component.name, file, folder)))
            (traced, first), (tidied, second) = made
            found[component.name] = Written(traced, tidied, first.nodes, second.nodes, second.inputs)
    return found


def measure(label: str, runtime: str, files: Written, inputs: Inputs) -> tuple[tuple[str, ...], list[PassLine]]:
    """One row of the table, and its lines. A decoder says one token after a past of 64."""
    import torch

    from trimodal.benching.conditions import read_conditions
    from trimodal.benching.timing import time_in_turn
    from trimodal.exporting.self_check import measure_distance
    from trimodal.runtimes import RUNTIMES
    from trimodal.runtimes.example_inputs import make_inputs as fill_shapes

    sessions, opened = [], []
    for file in (files.traced, files.tidied, files.traced):
        start = time.process_time()
        sessions.append(RUNTIMES[runtime](file, 1))
        opened.append((time.process_time() - start) * 1e3)
    feed = fill_shapes(files.shapes, 1, _PAST_TOKENS, _WORDS)
    if not any(name.startswith("past") for name in files.shapes):
        feed |= {name: value.numpy() for name, value in inputs.items() if name in feed}
        if "token_type_ids" in feed:
            feed["token_type_ids"] = feed["input_ids"] * 0
    outputs = [{name: torch.tensor(value) for name, value in session.run(feed).items()} for session in sessions[:2]]
    distance = measure_distance(outputs[1], outputs[0])
    calls = {name: partial(session.run, feed) for name, session in zip(("traced", "tidied", "again"), sessions)}
    times = time_in_turn(calls, read_conditions(1))
    for session in sessions:
        session.close()
    noise = max(times.noise, abs(times.ratio_of("again", "traced") - 1))
    ratio, ms = times.ratio_of("tidied", "traced"), {name: f"{one.median * 1e3:.2f}" for name, one in times.by_name.items()}
    row = (
        label, runtime, str(files.before), str(files.after), f"{distance:.1e}", f"{opened[0]:.0f}", f"{opened[1]:.0f}",
        ms["traced"], ms["tidied"], f"{ratio:.3f}", f"{noise:.1%}",
    )  # fmt: skip
    return row, [
        PassLine(f"{label} in {runtime}: distance", distance, most=MOST_DISTANCE),
        PassLine(f"{label} in {runtime}: as traced over tidied, with room for twice the noise", ratio * (1 + 2 * noise), least=1.0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="models with this text in their name")
    chosen = parser.parse_args()
    from trimodal.benching.conditions import read_conditions

    print(read_conditions(1).describe(), flush=True)
    rows: list[tuple[str, ...]] = []
    lines: list[PassLine] = []
    for name, (make, make_inputs) in MODELS.items():
        if chosen.model not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for component, files in write_graphs(make, Path(folder)).items():
                for runtime in ("onnxruntime", "openvino"):
                    row, found = measure(name if component == "model" else f"{name}, {component}", runtime, files, make_inputs())
                    rows.append(row)
                    lines += found
    print(table(COLUMNS, rows))
    finish(lines)


if __name__ == "__main__":
    main()
