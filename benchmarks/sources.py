"""The same data from every kind of source: the same artifact, byte for byte.

`python -m benchmarks.sources` writes 40 pictures, texts and sounds with labels, brings each in every form that data can have, and
compresses a miniature (ViT, BERT, AST) with them by the same recipe. All that the folder needs to run must be the same bytes: weights,
configuration, processors and what is stored where. The plan says what data it was made with, so it may differ, and seconds do. What was
measured must be the same numbers. Last comes a module in memory with a metric of its own, by examples/module_in_memory.py.

As a control, the same rows in another order, of which others calibrate, must give another artifact. Needs
`pip install 'trimodal[data]'`; three minutes.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.passlines import PassLine, finish, table

SAMPLES = 40
MODELS = {"image": "vit", "text": "bert", "audio": "ast"}
CLASSES = ("cat", "dog")
RECIPE = {
    "calibration": {"samples": 24},
    "steps": [{"prune.wanda": {"where": "*", "sparsity": 0.25}}, {"quantize.gptq": {"where": "*", "bits": 4, "group": 16}}],
}
TOLD = ("plan.json", "record.jsonl", "verdict.json", "report.html", "checks.sha256", "trimodal.json")
"""What says how the run went; of trimodal.json what is stored is compared."""
COLUMNS = {"label": "kind"}
OTHER = "control: rows in another order"
EXAMPLE = Path(__file__).parents[1] / "examples" / "module_in_memory.py"


def write_rows(folder: Path, modality: str) -> list[dict[str, Any]]:
    """The data: rows with a file's path or a text, and a class. Files lie in a folder per class, in the order of the rows."""
    from trimodal.networks.tiny import write_miniature_data

    lines = write_miniature_data(folder / "made", SAMPLES, (modality,)).read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(map(json.loads, lines)):
        kind = number * len(CLASSES) // SAMPLES
        value = line[modality]
        if modality != "text":
            path = folder / "files" / CLASSES[kind] / f"{number:03}{Path(value).suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "made" / value, path)
            value = f"files/{CLASSES[kind]}/{path.name}"
        else:
            value = f"{value} {number}"
        rows.append({modality: value, "kind": kind})
    return rows


def list_sources(folder: Path, modality: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name of each form of the same data, and what makes it, for `data=`."""
    import trimodal

    def mapped(data: Any) -> Any:
        return trimodal.open_data(data, map=COLUMNS)

    yield "JSONL", lambda: mapped(write_jsonl(folder, rows))
    yield ("text file", lambda: write_text(folder, rows)) if modality == "text" else ("folder", lambda: folder / "files")
    yield "CSV", lambda: mapped(write_csv(folder, rows))
    yield "Parquet", lambda: mapped(write_parquet(folder, rows))
    yield "Parquet of datasets", lambda: mapped(write_embedded(folder, modality, rows))
    yield "datasets, in memory", lambda: mapped(write_dataset(folder, modality, rows).with_format(None))
    yield "datasets, on disk", lambda: mapped(save_dataset(folder, modality, rows))
    yield "list of dicts", lambda: mapped(make_list(folder, modality, rows))
    yield "generator", lambda: mapped(row for row in make_list(folder, modality, rows))
    yield "DataLoader of dicts", lambda: mapped(make_loader(make_list(folder, modality, rows)))
    if modality != "text":
        yield "list of tensors", lambda: make_tensors(folder, modality, rows)
        yield "DataLoader of tensors", lambda: make_tensor_loader(make_tensors(folder, modality, rows))
    yield OTHER, lambda: mapped(make_list(folder, modality, [*rows[1:], rows[0]]))


def write_jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_text(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The texts alone: what a BERT is calibrated with, which has no classes."""
    file = folder / "rows.txt"
    file.write_text("".join(f"{row['text']}\n" for row in rows), encoding="utf-8")
    return file


def write_embedded(folder: Path, modality: str, rows: list[dict[str, Any]]) -> Path:
    """A Parquet file as `datasets` writes it, with the files' bytes in it."""
    write_dataset(folder, modality, rows).to_parquet(folder / "embedded.parquet")
    return folder / "embedded.parquet"


def write_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=7)
    return folder / "rows.parquet"


def write_dataset(folder: Path, modality: str, rows: list[dict[str, Any]]) -> Any:
    """A dataset whose pictures and sounds are the bytes of their files."""
    import datasets

    values = [row[modality] if modality == "text" else {"bytes": (folder / row[modality]).read_bytes(), "path": None} for row in rows]
    made = datasets.Dataset.from_dict({modality: values, "kind": [row["kind"] for row in rows]})
    kind = {"image": datasets.Image(decode=False), "audio": datasets.Audio(decode=False)}.get(modality)
    return made if kind is None else made.cast_column(modality, kind)


def save_dataset(folder: Path, modality: str, rows: list[dict[str, Any]]) -> Path:
    write_dataset(folder, modality, rows).save_to_disk(folder / "saved")
    return folder / "saved"


def make_list(folder: Path, modality: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with a PIL image, or a waveform and its rate."""
    import soundfile
    from PIL import Image

    read: Mapping[str, Callable[[Path], Any]] = {
        "image": lambda path: Image.open(path).convert("RGB"), "audio": lambda path: soundfile.read(path, dtype="float32"),
    }  # fmt: skip
    return [{**row, modality: read[modality](folder / row[modality])} if modality in read else row for row in rows]


def make_loader(rows: list[dict[str, Any]]) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(rows, batch_size=8, collate_fn=list)  # type: ignore[arg-type]


def make_tensors(folder: Path, modality: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the model's own processor makes of each row."""
    from trimodal.data import encode_samples, read_samples
    from trimodal.formats import open_model

    model = open_model(folder / "model")
    samples = read_samples([{modality: row[modality]} for row in make_list(folder, modality, rows)])
    encoded = [encode_samples(model, [sample]) for sample in samples]
    return [{name: tensor[0] for name, tensor in one.items()} | {"label": row["kind"]} for one, row in zip(encoded, rows, strict=True)]


def make_tensor_loader(rows: list[dict[str, Any]]) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(rows, batch_size=8)  # type: ignore[arg-type]


def digest_artifact(folder: Path) -> dict[str, str]:
    """sha256 of each file that is needed to run the model, and of what trimodal.json says is stored."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name not in TOLD]
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    stored = json.loads((folder / "trimodal.json").read_text(encoding="utf-8"))["stored"]
    return {**found, "stored": hashlib.sha256(json.dumps(stored).encode()).hexdigest()}


def compare_sources(folder: Path, modality: str) -> list[tuple[str, str, str, str]]:
    """A row for each source: modality, source, the weights' sha256, and which files or measurements differ from the first's."""
    import trimodal
    from trimodal.networks.tiny import write_miniature

    model = write_miniature(MODELS[modality], folder / "model")
    rows = write_rows(folder, modality)
    first: tuple[dict[str, str], Any] | None = None
    found = []
    for number, (name, make) in enumerate(list_sources(folder, modality, rows)):
        out = folder / f"out-{number}"
        result = trimodal.compress(model, RECIPE, make(), out)
        here = digest_artifact(out), result.verdict.metrics
        first = first or here
        differing = [file for file in {**first[0], **here[0]} if first[0].get(file) != here[0].get(file)]
        differing += ["metrics"] if here[1] != first[1] else []
        weights = next(value for file, value in here[0].items() if file.endswith(".safetensors"))
        found.append((modality, name, weights[:12], ", ".join(differing) or "none"))
    return found


def run_example(folder: Path) -> bool:
    """Whether the example of a module in memory ends well."""
    done = subprocess.run([sys.executable, str(EXAMPLE), str(folder)], capture_output=True, text=True)
    print(done.stdout if done.returncode == 0 else done.stderr)
    return done.returncode == 0


def main() -> None:
    """Compare all sources, and run the example."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for modality in MODELS:
            rows += compare_sources(Path(scratch) / modality, modality)
        print(table(("data", "source", "weights, sha256", "differs from JSONL"), rows), "\n")
        ran = run_example(Path(scratch) / "example")
    same, other = ([differs for _, name, _, differs in rows if (name == OTHER) == control] for control in (False, True))
    finish([
        PassLine("sources that give another artifact or other numbers", sum(differs != "none" for differs in same), most=0),
        PassLine("controls that give another artifact", sum(".safetensors" in differs for differs in other), least=len(MODELS)),
        PassLine("sources tried", len(same), least=34),
        PassLine("example of a module in memory runs", ran, least=1),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
