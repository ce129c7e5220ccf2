"""The classes that samples are labelled with: numbers from 0, or names that become numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trimodal.core import Sample
from trimodal.data.fields import shorten_value
from trimodal.errors import DataError
from trimodal.models.model import Model

_SHOWN = 5


def collect_labels(samples: Sequence[Sample], path: str) -> list[int | None]:
    """What stands at `path` (`label`, or `labels.image`) in each sample; None where nothing does.

    Raises:
        DataError: `path` is neither.
    """
    if path == "label":
        return [sample.label for sample in samples]
    field, _, name = path.partition(".")
    if field != "labels" or not name:
        raise DataError(f"a label path is {path!r}; expected 'label' or 'labels.<name>'")
    return [sample.labels.get(name) for sample in samples]


def number_labels(samples: Sequence[Sample]) -> list[Sample]:
    """`samples` with a number for each class's name, counted in the order of the names, as torchvision and `datasets` count folders.

    Raises:
        DataError: some classes have names and others numbers.
    """
    names = sorted({sample.label_name for sample in samples if sample.label_name is not None})
    if not names:
        return list(samples)
    numbered = next((sample for sample in samples if sample.label is not None and sample.label_name is None), None)
    if numbered is not None:
        raise DataError(
            f"{numbered.where}: label is {numbered.label}, while others have names such as {shorten_value(names[0])}; "
            "give all classes a number or all a name"
        )
    return _set_labels(samples, {name: number for number, name in enumerate(names)})


def name_labels(model: Model, samples: Sequence[Sample]) -> list[Sample]:
    """`samples` with the number that `model` has for each class's name. Where its configuration names no classes, or as many as the
    samples have and none alike, they are counted in the order of their names.

    Raises:
        DataError: the model names its classes, and one of the samples' is not among them; or a number is beyond its classes.
    """
    numbered = _look_up_names(model, samples)
    _check_numbers(model, numbered)
    return numbered


def _look_up_names(model: Model, samples: Sequence[Sample]) -> list[Sample]:
    names = sorted({sample.label_name for sample in samples if sample.label_name is not None})
    known = _read_class_names(model) if names else {}
    if not names or not known:
        return list(samples)
    found = {name: known[_simplify(name)] for name in names if _simplify(name) in known}
    if not found and len(names) == len(set(known.values())):
        return list(samples)
    unknown = [name for name in names if name not in found]
    if unknown:
        where = next(sample.where for sample in samples if sample.label_name == unknown[0])
        shown = ", ".join([*list(known)[:_SHOWN], *(["…"] if len(known) > _SHOWN else [])])
        raise DataError(
            f"{where}: label is {shorten_value(unknown[0])}, which is no class of {model.name}; it knows {shown}: "
            "use its names or numbers, or leave labels out (--map label=)"
        )
    return _set_labels(samples, found)


def _check_numbers(model: Model, samples: Sequence[Sample]) -> None:
    """Refuse a class that the head has no score for: it could only ever count as answered wrongly, before and after."""
    classes = getattr(getattr(model.module, "config", None), "num_labels", None)
    if "Classification" not in type(model.module).__name__ or not isinstance(classes, int) or classes < 2:
        return  # choices, pairs and embeddings are not counted by the configuration
    if all(output.label != "label" for output in model.family.outputs(model.module)):
        return
    for sample in samples:
        if sample.label is not None and not 0 <= sample.label < classes:
            name = f" ({shorten_value(sample.label_name)})" if sample.label_name is not None else ""
            raise DataError(
                f"{sample.where}: label is {sample.label}{name}, but {model.name} has {classes} classes, 0 to {classes - 1}: "
                "use their numbers, or leave labels out (--map label=)"
            )


def _set_labels(samples: Sequence[Sample], numbers: Mapping[str, int]) -> list[Sample]:
    return [sample if sample.label_name is None else replace(sample, label=numbers[sample.label_name]) for sample in samples]


def _read_class_names(model: Model) -> dict[str, int]:
    """The numbers of the classes that the model's configuration names, by name; of `tench, Tinca tinca` by each part too. None
    where it has but Transformers' own `LABEL_0`."""
    config: Any = getattr(model.module, "config", None)
    given = getattr(config, "id2label", None)
    if not isinstance(given, Mapping) or all(str(name) == f"LABEL_{number}" for number, name in given.items()):
        return {}
    found: dict[str, int] = {}
    for number, name in given.items():
        for part in (str(name), *str(name).split(",")):
            found.setdefault(_simplify(part), int(number))
    return found


def _simplify(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()
