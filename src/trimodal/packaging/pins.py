"""Which packages a server needs, in the versions that are installed here: what was tried is what is handed over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trimodal.errors import InputError

TORCH = "torch"
SERVED = (
    TORCH, "transformers", "safetensors", "numpy", "pyyaml", "typer", "pydantic", "rich", "jinja2", "pillow", "soundfile", "scipy",
    "onnx", "onnxruntime", "uvicorn", "starlette", "h11", "prometheus-client",
)  # fmt: skip
"""What every server imports."""
OPTIONAL = ("openvino", "python-multipart", "grpcio", "protobuf", "opentelemetry-api", "opentelemetry-sdk", "packaging")
"""What it uses where it is there."""
_NOT_FOR_CPU = ("nvidia-", "triton", "cuda-")


def list_pins(roots: Sequence[str] = SERVED, optional: Sequence[str] = OPTIONAL) -> list[str]:
    """`name==version` of the packages and of all that they need, sorted.

    Raises:
        InputError: one of `roots` is not installed.
    """
    found: dict[str, str] = {}
    for root in roots:
        if not _add(root, (), found):
            raise InputError(f"{root} is not installed here, so its version cannot be pinned; pip install 'trimodal[serve,audio,onnx]'")
    for name in optional:
        _add(name, (), found)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _add(name: str, extras: Iterable[str], found: dict[str, str]) -> bool:
    """Add a package and what it needs; False where it is not installed."""
    key = canonicalize_name(name)
    if key in found and not extras:
        return True
    if key.startswith(_NOT_FOR_CPU):
        return True
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    found[key] = package.version.partition("+")[0]
    for line in package.requires or ():
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            _add(needed.name, needed.extras, found)
    return True
