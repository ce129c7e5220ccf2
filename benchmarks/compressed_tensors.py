"""Folders of the format compressed-tensors, loaded by stock Transformers where trimodal is not installed.

`python -m benchmarks.compressed_tensors` needs the environment (`python -m benchmarks.peers compressed-tensors`); `--work FOLDER` keeps
what is compressed there for the next run, `--only TEXT` takes the rows with TEXT in their name.

Every row is a model and a recipe: it is compressed, exported, loaded in the other environment in both modes (`default`, where weights
are decoded at the first call, and `dequantize`, where they are decoded while loading; `run_compressed=False` is its older name), by
`AutoModel` and by the class that config.json names. All weights that the other model has then, and its outputs, are compared with
`trimodal.load(OUT, dequantize=True)`. With quantized inputs the outputs in the mode `default` are compared with
`trimodal.load(OUT)`, which simulates the same rounding, by cosine: codes at the edge between two numbers fall either way, and of a
layer whose input is one vector per sample compressed-tensors takes one range for the batch. Layers whose input the format leaves in
float (convolutions) have it in float in the simulation too.

In bfloat16 Transformers rounds the scales to that type in the mode `default`: the weights of those rows are exact only while decoding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import trimodal
from benchmarks.minilm import model_folder
from benchmarks.passlines import PassLine, finish, table
from benchmarks.peers import python_of
from trimodal.exporting.export import export
from trimodal.networks.tiny import make_miniature_batch, write_miniature, write_miniature_data

PEER = "compressed-tensors"
SCRIPT = Path(__file__).parent / "peers" / "compressed_tensors_load.py"
MODES = ("default", "dequantize")
_EMBEDDINGS = {"quantize.rtn": {"where": "*embedding*", "optional": True, "bits": 8, "group": "channel"}}
RECIPES: Mapping[str, list[dict[str, Any]]] = {
    "w8": [{"quantize.rtn": {"where": "*", "optional": True, "bits": 8, "group": "channel", "clip": "max"}}],
    "w4": [{"quantize.rtn": {"where": "*", "optional": True, "bits": 4, "group": 32}}],
    "w3": [{"quantize.rtn": {"where": "*", "optional": True, "bits": 3, "group": "channel"}}],
    "w8a8": [_EMBEDDINGS, {"quantize.smooth": {"where": "*", "optional": True, "bits": 8, "mode": "token", "strength": 0}}],
    "w8a8s": [_EMBEDDINGS, {"quantize.smooth": {"where": "*", "optional": True, "bits": 8, "mode": "static", "strength": 0}}],
}
MODALITIES = {"clip": ("image", "text"), "whisper": ("audio", "text"), "llama": ("text",), "llava": ("image", "text"), "bert": ("text",)}
TYPES = {"llama-bfloat16": torch.bfloat16, "llama-float16": torch.float16}
LEAST_COSINE = 0.999
MOST_BFLOAT16 = 0.01  # two roundings to 8 bits of mantissa, of weights around 1


SUMS = {name: os.environ[name] for name in ("MKL_CBWR", "ATEN_CPU_CAPABILITY") if name in os.environ}
"""What decides in which order sums are added: the same in both processes, or no difference could be 0."""


@dataclass(frozen=True)
class Job:
    """One load in the other environment."""

    row: str
    artifact: Path
    folder: Path
    kind: str
    mode: str
    probe: Path
    result: Path

    def to_json(self) -> dict[str, str]:
        """What the script reads."""
        return {"folder": str(self.folder), "class": self.kind, "mode": self.mode, "probe": str(self.probe), "result": str(self.result)}


@dataclass(frozen=True)
class Found:
    """What a job gave: the largest difference of any weight and output, the least cosine to the simulation, and what was said."""

    weights: float
    outputs: float
    cosine: float
    said: str


def write_source(name: str, work: Path) -> tuple[Path, Path]:
    """A model folder and its data."""
    folder, base = work / name, name.partition("-")[0]
    data = write_miniature_data(work / f"{base}-data", 10, MODALITIES[base])
    if not folder.exists():
        write_miniature(base, folder)
        if name in TYPES:
            _convert_folder_(folder, TYPES[name])
    return folder, data


def _convert_folder_(folder: Path, dtype: torch.dtype) -> None:
    """Let the model in `folder` be one of `dtype`."""
    file, config = folder / "model.safetensors", folder / "config.json"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    said = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**said, "dtype": str(dtype).removeprefix("torch.")}), encoding="utf-8")


def list_rows(work: Path, only: str) -> Iterator[tuple[str, Path, Path]]:
    """Name, artifact and probe of every row; artifacts are made where they are not there."""
    names = [f"{base}-{recipe}" for base in MODALITIES for recipe in RECIPES]
    names += [f"{base}-{recipe}" for base in TYPES for recipe in ("w8", "w4")]
    for row in [name for name in names if only in name]:
        source, _, recipe = row.rpartition("-")
        out, probe = work / row, work / f"{source}.probe"
        if not out.exists():
            folder, data = write_source(source, work)
            trimodal.compress(str(folder), {"steps": RECIPES[recipe]}, str(data), str(out))
        batch = make_miniature_batch(source.partition("-")[0], 2)
        dtype = TYPES.get(source, torch.float32)
        save_file({name: t.to(dtype) if t.is_floating_point() else t for name, t in batch.items()}, probe)
        yield row, out, probe
    if only in "minilm-int8":
        out, probe = work / "minilm-int8", work / "minilm.probe"
        if not out.exists():
            trimodal.compress(str(model_folder()), "int8", None, str(out))
        save_file({"input_ids": torch.randint(1000, 20000, (2, 24)), "attention_mask": torch.ones(2, 24, dtype=torch.long)}, probe)
        yield "minilm-int8", out, probe


def list_jobs(row: str, artifact: Path, probe: Path, work: Path) -> Iterator[Job]:
    """Every class in every mode; the older name of `dequantize` once."""
    folder = work / f"{row}.exported"
    export(artifact, PEER, folder, force=True)
    named = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    classes = ["AutoModel", named] if named.endswith(("CausalLM", "Generation")) else ["AutoModel"]
    modes = (*MODES, "run_compressed") if row == "clip-w4" else MODES
    for kind in classes:
        for mode in modes:
            yield Job(row, artifact, folder, kind, mode, probe, work / f"{row}.{kind}.{mode}.safetensors")


def run_jobs(jobs: list[Job], work: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """All jobs in one process of the other environment: the versions, and what was said of each."""
    (work / "jobs.json").write_text(json.dumps([job.to_json() for job in jobs]), encoding="utf-8")
    done = subprocess.run(
        [str(python_of(PEER)), str(SCRIPT), str(work / "jobs.json")], capture_output=True, text=True, check=False, cwd=work,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", **SUMS, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    versions, *said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return versions, said


def compare(job: Job, said: Mapping[str, Any]) -> Found:
    """The result of a job beside our own model."""
    if "error" in said:
        return Found(float("inf"), float("inf"), 0.0, said["error"])
    decoded, simulated = (_load(job, dequantize) for dequantize in (True, False))
    batch, found = load_file(job.probe), load_file(job.result)
    with torch.inference_mode():
        expected, rounded = (_take_tensors(module(**batch)) for module in (decoded, simulated))
    state = {name: tensor for name, tensor in decoded.state_dict().items() if tensor.is_floating_point()}
    there = {name.removeprefix("tensor."): t for name, t in found.items() if name.startswith("tensor.")}
    lacking = sorted(state.keys() - there.keys())
    weights = max([_difference(there[name], state[name]) for name in state.keys() & there.keys()], default=float("inf"))
    pairs = [(t, name.removeprefix("output.")) for name, t in found.items() if name.removeprefix("output.") in expected]
    outputs = max([_difference(t, expected[name]) for t, name in pairs], default=float("inf"))
    cosine = min([_cosine(t, rounded[name]) for t, name in pairs], default=0.0)
    missing = [*lacking[:2], *said.get("missing_keys", ())[:2]]
    return Found(float("inf") if missing else weights, outputs, cosine, ", ".join(missing))


def _load(job: Job, dequantize: bool) -> nn.Module:
    """Our own model, or of one with a head the part that AutoModel gives."""
    module = trimodal.load(str(job.artifact), dequantize=dequantize)
    for path in () if dequantize else json.loads((job.folder / "export.json").read_text(encoding="utf-8"))["float_inputs"]:
        object.__setattr__(module.get_submodule(path).stored, "fake_quantize_input", lambda x: x)
    headed = job.kind == "AutoModel" and type(module).__name__.endswith(("CausalLM", "Generation"))
    return module.get_submodule(str(module.base_model_prefix)) if headed else module


def _take_tensors(output: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in output.items() if isinstance(value, Tensor)}


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


def main() -> None:
    """All rows, the table, the lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", default="")
    told = parser.parse_args()
    if python_of(PEER) is None:
        raise SystemExit(f"there is no environment; run python -m benchmarks.peers {PEER}")
    with tempfile.TemporaryDirectory() as scratch:
        torch.set_num_threads(1)
        work = (told.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        jobs = [job for row, out, probe in list_rows(work, told.only) for job in list_jobs(row, out, probe, work)]
        versions, said = run_jobs(jobs, work)
        print(", ".join(f"{name} {found}" for name, found in versions.items()))
        report(jobs, [compare(job, one) for job, one in zip(jobs, said, strict=True)])


def report(jobs: list[Job], found: list[Found]) -> None:
    """The table and the lines."""
    rows = [
        (job.row, job.kind, job.mode, f"{one.weights:g}", f"{one.outputs:.3g}", f"{one.cosine:.6f}", one.said)
        for job, one in zip(jobs, found, strict=True)
    ]
    print(table(("row", "class", "mode", "weights", "outputs", "cosine to the simulation", "said"), rows))
    lines = []
    for row in dict.fromkeys(job.row for job in jobs):
        mine = [(job, one) for job, one in zip(jobs, found, strict=True) if job.row == row]
        rounds, coarse = row.endswith(("w8a8", "w8a8s")), "bfloat16" in row
        exact = [one for job, one in mine if not coarse or job.mode != "default"]
        lines.append(PassLine(f"{row}: difference of weights", max(one.weights for one in exact), most=0.0))
        if coarse:
            lines.append(PassLine(f"{row}: difference of weights by default", max(one.weights for _, one in mine), most=MOST_BFLOAT16))
        same = [one.outputs for job, one in mine if not (rounds or coarse) or job.mode != "default"]
        lines.append(PassLine(f"{row}: difference of outputs with float inputs", max(same), most=0.0))
        if rounds:
            cosines = [one.cosine for job, one in mine if job.mode == "default"]
            lines.append(PassLine(f"{row}: cosine to the simulation, inputs quantized", min(cosines), least=LEAST_COSINE))
    finish(lines)


if __name__ == "__main__":
    main()
