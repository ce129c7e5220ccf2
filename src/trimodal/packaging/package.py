"""The verb: a folder that can be served into the files of another program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimodal.errors import InputError, suggest_names
from trimodal.formats import open_atomic_folder
from trimodal.packaging.bundle import Bundle, read_bundle
from trimodal.packaging.compose import write_compose
from trimodal.packaging.docker import write_docker
from trimodal.packaging.kubernetes import write_kubernetes
from trimodal.packaging.ray import write_ray
from trimodal.packaging.triton import write_triton
from trimodal.packaging.writing import render


@dataclass(frozen=True)
class Kind:
    """What is written for one program, and the lines that a person runs next, in the folder."""

    write: Callable[[Bundle, Path], list[str]]
    commands: tuple[str, ...]


KINDS = {
    "docker": Kind(write_docker, ("docker build -t {image} .", "docker run --read-only --tmpfs /tmp -p 127.0.0.1:8080:8080 {image}")),
    "compose": Kind(write_compose, ("docker compose up --build --wait", "curl http://127.0.0.1:8080/v2/health/ready")),
    "kubernetes": Kind(write_kubernetes, ("docker build -t {image} server && docker push {image}", "kubectl apply -k .")),
    "triton": Kind(write_triton, ("tritonserver --model-repository models",)),
    "ray": Kind(write_ray, ("serve run serve_config.yaml",)),
}


@dataclass(frozen=True)
class Packaged:
    """What was written: the folder, for which program, its files below the folder, and what to run there."""

    folder: Path
    kind: str
    name: str
    files: tuple[str, ...]
    commands: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "folder": str(self.folder)}


def _describe(bundle: Bundle, kind: str, commands: Sequence[str], files: Sequence[str], place: Path) -> str:
    models = [place / file for file in files if "models" in Path(file).parts and not file.endswith("config.pbtxt")]
    size = sum(file.stat().st_size for file in models)
    return render("README.md.j2", bundle=bundle, kind=kind, commands=commands, files=files, size=size)


def package(folder: str | Path, out: str | Path, kind: str, *, force: bool = False, **chosen: Any) -> Packaged:
    """Write what `kind` needs to serve `folder`.

    Args:
        folder: an artifact or an exported folder.
        out: folder to write, whole afterwards or as it was.
        kind: one of `KINDS`.
        force: replace `out` if it is not empty.
        chosen: `name`, `image`, `replicas`, `workers` and `threads` of `read_bundle`.

    Raises:
        InputError: the kind is not known, the folder cannot be served so, or a name cannot be used.
        OutputError: `out` cannot be written.
    """
    found = KINDS.get(kind)
    if found is None:
        raise InputError(f"--for {kind!r:.40} is not known; {suggest_names(kind, KINDS)}")
    bundle = read_bundle(Path(folder), **chosen)
    commands = tuple(command.format(image=bundle.image) for command in found.commands)
    with open_atomic_folder(Path(out), force, needs_bytes=2 * bundle.bytes) as place:
        files = found.write(bundle, place)
        (place / "README.md").write_text(_describe(bundle, kind, commands, files, place), encoding="utf-8")
    return Packaged(Path(out), kind, bundle.name, ("README.md", *files), commands)
