"""A process that goes through every door into some folders, the original's and the compressed one's, and says what came.

    python doorway.py TASK

TASK is a JSON file: {"imported": whether trimodal is imported first, "cases": [{"original", "result", "reference", "expected",
"batch": paths, "task": of a pipeline or ""}, …]}. Without the import trimodal cannot even be found, as where it is not installed.
Prints a line of JSON per door: [number of the case, name of the door, what came].

A tensor is the same if what the module calculates with is equal to what the compressed model as it was measured has there; which
of the class's tensors is which of the model's is found from the original alone, by equal values.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

ANY = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError, IndexError, AssertionError,
    ArithmeticError,
)  # fmt: skip
Door = Callable[[str], Any]
ROUNDING = 1e-5  # of the largest output
SAME, AS_ORIGINAL = "same", "as the original"
REFUSALS = {
    "import first": "put the line `import trimodal` before",
    "other class": "which cannot be loaded as",
    "entropy": "the weights are entropy-coded",
    "copy instead": "save_pretrained cannot write a compressed model",
    "own class": "does not recognize this architecture",
}
TYPES = ("float16", "bfloat16", "float64")


def anything() -> tuple[type[Exception], ...]:
    """What a door may end with."""
    ours = sys.modules.get("trimodal")
    return ANY if ours is None else (*ANY, ours.TrimodalError)


def effective(module: nn.Module, name: str) -> Tensor | None:
    """The tensor that `module` calculates with under a name of its bare class; None where nothing is left of it."""
    here: Any = module
    for part in name.split("."):
        here = getattr(here, part, None)
    return here if isinstance(here, Tensor) else None


def head_classes(folder: str) -> Iterator[tuple[str, str]]:
    """All classes that Transformers has for the folder's configuration or one of its parts: (kind of door, name)."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    recorded = config.architectures[0]
    parts = {type(getattr(config, name)) for name in config.sub_configs if hasattr(config, name)} - {type(config)}
    for name in sorted(dir(transformers)):
        found = getattr(transformers, name, None) if name.startswith("AutoModel") else None
        if found is not None and type(config) in getattr(found, "_model_mapping", {}) and name != "AutoModel":
            yield "AutoModelFor", name
    for kind, configs in (("class", {type(config)}), ("tower", parts)):
        for wanted in sorted(configs, key=lambda c: c.__name__):
            package = wanted.__module__.rpartition(".")[0]
            for name in sorted(dir(transformers)):
                if not name.startswith(wanted.__name__[:3]) or name == recorded:
                    continue
                found = getattr(transformers, name, None)
                if inspect.isclass(found) and found.__module__.startswith(package) and issubclass(found, nn.Module):
                    own = getattr(found, "config_class", None) is wanted and not name.endswith("PreTrainedModel")
                    if own:
                        yield kind, name


def loader(name: str, **how: Any) -> Door:
    """`transformers.NAME.from_pretrained`."""

    def load(folder: str) -> Any:
        import transformers

        return getattr(transformers, name).from_pretrained(folder, output_loading_info=True, **how)

    return load


def compare(door: Door, case: Mapping[str, Any], dtype: str = "") -> str:
    """What comes of a door for the compressed folder, beside what comes for the original."""
    try:
        original, info = door(case["original"])
    except anything() as error:
        original, info = None, type(error).__name__
    try:
        found, _ = door(case["result"])
    except anything() as error:
        words = str(error)
        if original is None:
            return AS_ORIGINAL
        key = next((key for key, sentence in REFUSALS.items() if sentence in words), None)
        return f"refused: {key}" if key else f"WRONG: {type(error).__name__}: {' '.join(words.split())[:200]}"
    if original is None:
        return f"WRONG: the original is refused with {info}, the result is not"
    return _compared(original, set(info["missing_keys"]), found, case, dtype)


def _compared(original: nn.Module, missing: set[str], found: nn.Module, case: Mapping[str, Any], dtype: str) -> str:
    reference = load_file(case["reference"])
    as_cast = getattr(torch, dtype) if dtype else torch.float32
    sources = {_digest(t.to(as_cast)): name for name, t in load_file(case["source"]).items()}
    state = original.state_dict()
    known = {name: source for name, t in state.items() if (source := sources.get(_digest(t))) and name not in missing}
    wrong = []
    for name, source in known.items():
        have, want = effective(found, name), reference.get(source)
        if (have is None) != (want is None):
            wrong.append(name)
        elif have is not None and want is not None:
            want = want.to(have.dtype)
            if dtype and str(have.dtype) != f"torch.{dtype}" and have.is_floating_point():
                wrong.append(f"{name} in {have.dtype}")
            elif have.shape != want.shape or not _alike(have, want, found, name):
                wrong.append(name)
    if wrong:
        return f"WRONG: {len(wrong)} of {len(known)} tensors differ, first {wrong[:1]}"
    return SAME if len(known) == len(state) else f"{SAME} to {len(known)} of {len(state)}"


def _alike(have: Tensor, want: Tensor, module: nn.Module, name: str) -> bool:
    """Whether both are equal; the product of factors in another type is rounded once more."""
    layer: Any = module.get_submodule(name.rpartition(".")[0])
    while hasattr(layer, "lender"):
        layer = layer.lender
    if not hasattr(layer, "first") or have.dtype == torch.float32:
        return torch.equal(have, want)
    eps = max(torch.finfo(have.dtype).eps, torch.finfo(torch.float32).eps)
    return float((have.double() - want.double()).norm()) <= 4 * eps * float(want.double().norm())


def _digest(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().float().contiguous()
    return repr(tuple(plain.shape)).encode() + plain.numpy().tobytes()


def run(module: Any, batch: Mapping[str, Tensor], dtype: str = "") -> dict[str, Tensor]:
    """The outputs of a module."""
    fit = {k: v.to(getattr(torch, dtype)) if dtype and v.is_floating_point() else v for k, v in batch.items()}
    with torch.inference_mode():
        found = module.eval()(**fit)
    return {k: v for k, v in found.items() if isinstance(v, Tensor)}


def recorded(case: Mapping[str, Any], name: str) -> str:
    """The class that was recorded: the very same tensors, and the outputs that were measured."""
    came = compare(loader(name), case)
    if came != SAME:
        return came
    outputs = run(loader(name)(case["result"])[0], load_file(case["batch"]))
    expected = load_file(case["expected"])
    equal = outputs.keys() == expected.keys() and all(_add_up_alike(outputs[k], expected[k]) for k in expected)
    return SAME if equal else "WRONG: other outputs than those that were measured"


def _add_up_alike(found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs differ by no more than sums in another order do, as with another number of threads."""
    return found.shape == expected.shape and float((found - expected).abs().max()) <= ROUNDING * max(1.0, float(expected.abs().max()))


def cast(case: Mapping[str, Any], name: str, dtype: str, how: str) -> str:
    """The recorded class in another type, by `from_pretrained` or by a cast afterwards: right tensors, and it runs."""

    def load(folder: str) -> Any:
        if how == "from_pretrained":
            module, info = loader(name, dtype=getattr(torch, dtype))(folder)
        else:
            module, info = loader(name)(folder)
            {"half": lambda: module.half(), "to": lambda: module.to(getattr(torch, dtype)), "double": lambda: module.double()}[how]()
        run(module, load_file(case["batch"]), dtype)
        return module, info

    return compare(load, case, "" if dtype == "float64" else dtype)


def again(case: Mapping[str, Any], name: str) -> str:
    """What `save_pretrained` of a loaded result writes, loaded again."""

    def load(folder: str) -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            loader(name)(folder)[0].save_pretrained(scratch)
            return loader(name)(scratch)

    return compare(load, case)


def pipeline(case: Mapping[str, Any]) -> str:
    """`transformers.pipeline` of the usual task."""

    def load(folder: str) -> Any:
        import transformers

        return transformers.pipeline(case["task"], model=folder).model, {"missing_keys": []}

    return compare(load, case)


def sentence_transformers(case: Mapping[str, Any]) -> str:
    """`SentenceTransformer(FOLDER)`, where it is installed."""

    def load(folder: str) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(folder, device="cpu")[0].auto_model, {"missing_keys": []}

    return compare(load, case)


def ours(case: Mapping[str, Any]) -> str:
    """`trimodal.load`."""
    import transformers

    import trimodal

    (name,) = transformers.AutoConfig.from_pretrained(case["original"]).architectures

    def load(folder: str) -> Any:
        if folder == case["original"] and name != "FusionModel":
            return loader(name)(folder)
        return trimodal.load(folder), {"missing_keys": []}

    return compare(load, case)


def doors(case: Mapping[str, Any], imported: bool) -> Iterator[tuple[str, Callable[[], str]]]:
    """Every door by name."""
    import transformers

    if imported:
        yield "trimodal.load", lambda: ours(case)
    yield "AutoModel", lambda: compare(loader("AutoModel"), case)
    name = json.loads(Path(case["original"], "config.json").read_text())["architectures"][0]
    if hasattr(transformers, name):
        yield f"{name} (as compressed)", lambda: recorded(case, name)
        for dtype, how in (("float16", "from_pretrained"), ("bfloat16", "from_pretrained"), ("float16", "half"), ("bfloat16", "to"),
                           ("float64", "double")):  # fmt: skip
            said = {"from_pretrained": f"dtype={dtype}", "half": ".half()", "to": f".to({dtype})", "double": ".double()"}[how]
            yield f"{name}, {said}", lambda dtype=dtype, how=how: cast(case, name, dtype, how)
        yield "save_pretrained, and again", lambda: again(case, name)
        for _, other in dict.fromkeys(head_classes(case["original"])):
            yield other, lambda other=other: compare(loader(other), case)
    if case["task"]:
        yield f"pipeline({case['task']})", lambda: pipeline(case)
    if case["sentences"]:
        yield "SentenceTransformer", lambda: sentence_transformers(case)


def main() -> None:
    """Go through all doors of all cases."""
    task = json.loads(Path(sys.argv[1]).read_text())
    if task["imported"]:
        import trimodal  # noqa: F401
    else:
        sys.modules["trimodal"] = None  # type: ignore[assignment]
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity(50)
    transformers.utils.logging.disable_progress_bar()
    for number, case in enumerate(task["cases"]):
        for name, door in doors(case, task["imported"]):
            torch.manual_seed(0)
            print(json.dumps([number, name, door()]), flush=True)


if __name__ == "__main__":
    main()
