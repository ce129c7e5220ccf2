"""Models that are trained from scratch on data made here: trained once, kept in a cache that git ignores, and used by other benchmarks.

    folder = get_trained(CLIP)                      trains it, or finds it; a run that was killed goes on
    data = make_data(SCENES)                        the same for its data

What is kept is called by what it was made of: the configuration, the code that makes its data, the seed, and whatever it starts from. If
one of them changes, it is made anew. `trimodal`'s own code is not among them: remove the folder to train with another version of that.
`python -m benchmarks.trained` says what the models can do.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CACHE = Path(".cache") / "trained"
RECIPES = Path(__file__).parents[2] / "examples" / "training"


@dataclass(frozen=True)
class MadeData:
    """Data that code makes: `write(folder)` puts the files into an empty folder. `code` are the files that say what comes of it."""

    name: str
    write: Callable[[Path], Any]
    code: tuple[Path, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Of the code and the settings."""
        return _digest(self.name, dict(self.settings), *(path.read_text(encoding="utf-8") for path in self.code))


@dataclass(frozen=True)
class TrainedModel:
    """A model that a configuration of `trimodal train` makes.

    Attributes:
        name: of its folder.
        config: the YAML file.
        data: what it learns from.
        file: of the data's folder, the file that it is given.
        parts: where it starts from other trained models, `model.parts` by path.
        changes: keys in place of the configuration's, such as fewer steps.
        code: files that make the model, where it is a module of one's own.
    """

    name: str
    config: Path
    data: MadeData
    file: str
    parts: Mapping[str, TrainedModel] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    code: tuple[Path, ...] = ()

    def read_config(self, seed: int) -> dict[str, Any]:
        """The configuration with the changes and the seed, without paths."""
        found = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        return {**{key: value for key, value in found.items() if key not in ("data", "output")}, **self.changes, "seed": seed}

    def find_key(self, seed: int) -> str:
        """Of all that it is made of."""
        parts = {path: part.find_key(seed) for path, part in self.parts.items()}
        return _digest(self.read_config(seed), self.data.key, self.file, parts, *(path.read_text(encoding="utf-8") for path in self.code))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


def make_data(data: MadeData, cache: Path = CACHE) -> Path:
    """The folder with `data`, made now unless it is there."""
    folder = cache / f"{data.name}-{data.key}"
    done = folder / ".complete"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        data.write(folder)
        done.touch()
    return folder


def get_trained(model: TrainedModel, seed: int = 0, cache: Path = CACHE, tell: Callable[[str], None] = print) -> Path:
    """The folder of `model`, trained now unless it is there; what it starts from is trained first. Seconds, steps and what was measured are
    in its `training.json`."""
    from trimodal import train

    folder = cache / f"{model.name}-{model.find_key(seed)}"
    if (folder / "training.json").is_file():
        return folder
    config = model.read_config(seed)
    starts = {path: str(get_trained(part, seed, cache, tell)) for path, part in model.parts.items()}
    if starts:
        config["model"] = {**config["model"], "parts": starts}
    data = make_data(model.data, cache) / model.file
    running, started = Path(f"{folder}.run"), time.perf_counter()
    tell(f"training {model.name}, seed {seed}, in {folder}")
    train(config, data=str(data), out=folder, resume=running.is_dir(), tell=tell)
    tell(f"{model.name}, seed {seed}: {time.perf_counter() - started:.0f} s")
    return folder


def read_training(folder: Path) -> dict[str, Any]:
    """What `training.json` of a trained folder says."""
    found: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return found
