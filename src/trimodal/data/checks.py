"""Whether samples suffice and fit the model, before any work begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trimodal.core import MODALITIES, Sample, is_signal
from trimodal.data.media import CHECKED_MEDIA
from trimodal.data.sample_encoding import are_arguments, encode_samples
from trimodal.errors import DataError, suggest_names
from trimodal.models.model import Model


def require_samples(samples: Sequence[Sample], count: int, what: str) -> None:
    """Check that there are at least `count` of `what`, such as `calibration samples`.

    Raises:
        DataError: there are fewer than `count`.
    """
    if len(samples) < count:
        raise DataError(f"the data has {len(samples)} {what}, and {count} are needed; add lines, or ask for fewer")


def check_modalities(model: Model, samples: Sequence[Sample]) -> None:
    """Check that `samples` and `model` fit together.

    They do not where every line has a modality that the model does not take, where one line has none that it takes, where no
    line has one that it does take, or where a line has a signal of another name than those that the model takes. A `target` counts
    as text.

    Raises:
        DataError: they do not fit.
    """
    if not samples or _are_inputs(samples) or are_arguments(model, samples):
        return
    takes = frozenset(model.modalities)
    if not takes:
        raise DataError(
            f"nothing says how the inputs of {model.name} ({model.family.name}) are made of {_list_modalities(samples[0].modalities)}; "
            "give its class the attributes modalities and encode(samples), which returns forward's keyword arguments, give rows of "
            "tensors as data, or use --data none"
        )
    surplus = frozenset[str].intersection(*(sample.modalities for sample in samples)) - takes
    about = f"{model.name} ({model.family.name}) takes {_list_modalities(takes)}"
    if surplus:
        raise DataError(
            f"{samples[0].where} and all others have {_list_modalities(surplus)}, but {about}; "
            "leave that field out or choose another model"
        )
    known = [*filter(is_signal, takes)]
    for sample in samples:
        unknown = [name for name in sample.signals if known and name not in known]
        if unknown:
            raise DataError(f"{sample.where} has {unknown[0]}, but {about}; {suggest_names(unknown[0], known)}")
        if not _modalities_of(sample) & takes:
            raise DataError(f"{sample.where} has only {_list_modalities(sample.modalities)}, but {about}; take the line out")
    lacking = takes - frozenset[str]().union(*(_modalities_of(sample) for sample in samples))
    if lacking:
        raise DataError(
            f"no line has {_list_modalities(lacking)}, but {about}; {samples[0].where} has "
            f"{_list_modalities(samples[0].modalities)}; add {_list_modalities(lacking)} to the data"
        )


def check_signals(model: Model, samples: Sequence[Sample], most: int = CHECKED_MEDIA) -> None:
    """Encode the signals of the first `most` of `samples` that have some, so that one which does not fit its stream is told before any
    work begins.

    Raises:
        DataError: one does not fit, or cannot be read.
    """
    takes = {*filter(is_signal, model.modalities)}
    having = (sample for sample in samples if takes & {*sample.signals})
    for _, sample in zip(range(most), having, strict=False):
        encode_samples(model, [replace(sample, image=None, audio=None, text=None, target=None)])


def _are_inputs(samples: Sequence[Sample]) -> bool:
    """Whether the samples are what forward is given, which only forward can check; all must be where one is."""
    other = next((sample for sample in samples if sample.inputs is None), None)
    given = next((sample for sample in samples if sample.inputs is not None), None)
    if given is not None and other is not None:
        raise DataError(f"{given.where} holds tensors for the model, and {other.where} does not; give rows of one kind")
    return given is not None


def _modalities_of(sample: Sample) -> frozenset[str]:
    return sample.modalities | ({"text"} if sample.target is not None else frozenset())


def _list_modalities(modalities: frozenset[str]) -> str:
    return " and ".join([*(m for m in MODALITIES if m in modalities), *sorted(filter(is_signal, modalities))])
