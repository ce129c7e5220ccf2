"""Damage an artifact in random ways, and see whether it is refused: by `trimodal.load` where what decides the result was touched, by
`trimodal verify` where what only tells was. A part of `python -m benchmarks.kills`."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.passlines import PassLine, table

TELLERS = ("plan.json", "record.jsonl", "verdict.json", "report.html", "checks.sha256")
RECIPES = {
    "packed": ([{"quantize.rtn": {"where": "*", "bits": 4, "group": 16}}], "plain"),
    "only cut": ([{"prune.neurons": {"where": "*", "sparsity": 0.5, "score": "magnitude"}}], "plain"),
    "entropy-coded": ([{"quantize.rtn": {"where": "*", "bits": 4, "group": 16}}], "entropy"),
}
ADDED = ("generation_config.json", "special_tokens_map.json", "model.safetensors.index.json", "added_tokens.json", "pytorch_model.bin")
UNLISTED = ("model-00002-of-00002.safetensors", "modeling_clip.py", "adapter_config.json", "adapter_model.safetensors", "vocab.txt")


@dataclass(frozen=True)
class Damage:
    """What was done to which file, and whether that file decides the result."""

    kind: str
    file: str
    decides: bool


def flip(folder: Path, chance: random.Random) -> Damage:
    """One bit of one file."""
    file = _any_file(folder, chance)
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
    return _damage("bit flipped", folder, file)


def truncate(folder: Path, chance: random.Random) -> Damage:
    """One file ends early."""
    file = _any_file(folder, chance)
    data = file.read_bytes()
    file.write_bytes(data[: chance.randrange(len(data))])
    return _damage("cut short", folder, file)


def swap(folder: Path, chance: random.Random) -> Damage:
    """Two files change names."""
    one, other = _any_file(folder, chance), _any_file(folder, chance)
    if one.read_bytes() == other.read_bytes():
        return swap(folder, chance)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    names = [str(file.relative_to(folder)) for file in (one, other)]
    return Damage("two swapped", " and ".join(names), any(name not in TELLERS for name in names))


def remove(folder: Path, chance: random.Random) -> Damage:
    """One file is gone."""
    file = _any_file(folder, chance)
    file.unlink()
    return _damage("removed", folder, file)


def add(folder: Path, chance: random.Random) -> Damage:
    """A file that a loader reads where it is there."""
    return _added("added", folder, [name for name in ADDED if not (folder / name).exists()], chance)


def add_unlisted(folder: Path, chance: random.Random) -> Damage:
    """A file of another kind of model, which our manifest never lists."""
    return _added("unlisted added", folder, list(UNLISTED), chance)


DAMAGES: tuple[Callable[[Path, random.Random], Damage], ...] = (flip, truncate, swap, remove, add, add_unlisted)


def _added(kind: str, folder: Path, names: list[str], chance: random.Random) -> Damage:
    file = folder / chance.choice(names)
    file.write_bytes(b"{}" if file.suffix == ".json" else chance.randbytes(100))
    return _damage(kind, folder, file)


def _any_file(folder: Path, chance: random.Random) -> Path:
    return chance.choice([path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size])


def _damage(kind: str, folder: Path, file: Path) -> Damage:
    name = str(file.relative_to(folder))
    return Damage(kind, name, name not in TELLERS)


def make_artifacts(root: Path) -> dict[str, Path]:
    """The three kinds of artifact, from one small model and data."""
    from trimodal import pipeline
    from trimodal.networks.tiny import write_miniature, write_miniature_data

    model = root / "model"
    write_miniature("clip", model)
    write_miniature_data(root / "data", 12, ("image", "text"))
    for name, (steps, pack) in RECIPES.items():
        pipeline.compress(str(model), {"steps": steps}, None, root / name, pack=pack)  # type: ignore[arg-type]
    return {name: root / name for name in RECIPES}


def refused(folder: Path, root: Path, damage: Damage) -> bool:
    """Whether the damage is noticed where it should be."""
    import trimodal
    from trimodal import pipeline

    try:
        if damage.decides:
            trimodal.load(folder)
            return False
        verdict = pipeline.verify(folder, str(root / "model"), root / "data")
        return verdict.integrity == "failed"
    except trimodal.errors.TrimodalError:
        return True


def damage_many(root: Path, count: int, chance: random.Random) -> tuple[list[PassLine], str]:
    """Damage the artifacts in turns; what must hold, and a table."""
    root = root / "damages"
    artifacts = make_artifacts(root)
    done: Counter[tuple[str, str, bool]] = Counter()
    missed: list[str] = []
    for number in range(count):
        name = list(artifacts)[number % len(artifacts)]
        copy = root / "copy"
        shutil.copytree(artifacts[name], copy)
        damage = DAMAGES[number // len(artifacts) % len(DAMAGES)](copy, chance)
        done[damage.kind, name, damage.decides] += 1
        if not refused(copy, root, damage):
            missed.append(f"{'decides' if damage.decides else 'tells'}: {name}: {damage.file} {damage.kind}")
        shutil.rmtree(copy)
    kinds = dict.fromkeys(kind for kind, _, _ in done)
    rows = [
        (kind, *(f"{done[kind, name, True]} + {done[kind, name, False]}" for name in artifacts)) for kind in kinds
    ]
    shown = table(("damage (to what decides + to what only tells)", *artifacts), rows)
    shown += "".join(f"\nnot noticed: {what}" for what in missed)
    decisive = [what for what in missed if what.startswith("decides")]
    return [
        PassLine("damages to what decides, not refused by load", len(decisive), most=0),
        PassLine("damages to what only tells, not found by verify", len(missed) - len(decisive), most=0),
    ], shown
