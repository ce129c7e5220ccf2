"""Which samples a plan looks at, and which are held out to measure what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimodal.core import Plan, Sample
from trimodal.data import (
    Data,
    batch_samples,
    check_media,
    check_modalities,
    check_signals,
    choose_samples,
    digest_samples,
    encode_samples,
    is_no_data,
    name_labels,
    read_samples,
    require_samples,
    split_calibration_and_held_out,
)
from trimodal.errors import DataError, RecipeError
from trimodal.models.model import Batch, Model
from trimodal.planning.request import Request

_STATISTICS_SAMPLES = 256
_PROBE_SAMPLES = 4


@dataclass(frozen=True)
class SampleSets:
    """Samples by use: for statistics, for gradient methods (all of calibration, with their sha256), and held out for
    verification."""

    statistics: Sequence[Sample] = ()
    calibration: Sequence[Sample] = ()
    held_out: Sequence[Sample] = ()
    sha256: str | None = None


def prepare_samples(model: Model, request: Request, data: Data | None) -> SampleSets:
    """The samples of `data` by use, none where it is None or `none`.

    Raises:
        DataError: they cannot be read, do not fit the model, or are fewer than asked for.
        RecipeError: a plan was made for other calibration data.
    """
    if data is None or is_no_data(data):
        _check_same_calibration(request.plan, None)
        return SampleSets()
    samples = name_labels(model, read_samples(data))
    check_modalities(model, samples)
    calibration, held_out = split_calibration_and_held_out(samples, request.seed)
    sha256 = digest_samples(calibration)  # reads every file, so once
    _check_same_calibration(request.plan, sha256)
    wanted = min(_STATISTICS_SAMPLES, len(calibration)) if request.samples is None else request.samples
    require_samples(calibration, max(wanted, 1), "calibration samples")
    chosen = choose_samples(calibration, wanted, request.seed)
    check_media([*chosen, *held_out, *calibration])
    check_signals(model, [*chosen, *held_out, *calibration])
    encode_samples(model, calibration[:1])  # a model that cannot be given samples is refused while planning
    return SampleSets(chosen, calibration, held_out, sha256)


def require_data(data: Data | None) -> None:
    """Refuse `none` where both models are to be measured.

    Raises:
        DataError: there is no data.
    """
    if is_no_data(data):
        raise DataError("verify measures both models, which needs data; give a file, a folder or rows (docs/guide.md)")


def _check_same_calibration(plan: Plan | None, found: str | None) -> None:
    """Refuse data that the plan was not made for."""
    if plan is None or plan.calibration.sha256 == found:
        return
    expected, anew = plan.calibration.sha256, "make a new plan: trimodal plan MODEL --recipe RECIPE --data DATA -o plan.json"
    if expected is None:
        raise RecipeError(f"the plan was made without data, and here is some; give --data none, or {anew}")
    here = "there is none" if found is None else f"these calibration samples have sha256 {found[:12]}"
    raise RecipeError(f"the plan was made for calibration samples with sha256 {expected[:12]} and seed {plan.seed}, but {here}; {anew}")


def check_floors_can_be_judged(request: Request, samples: SampleSets, evaluated: bool = False) -> None:
    """Refuse floors that somebody asked for where nothing can be measured against them, unless a metric of the user's own is
    `evaluated`.

    Raises:
        DataError: there are no held-out samples.
    """
    if request.floors and not samples.held_out and not request.built_in and not evaluated:
        raise DataError(
            f"{request.name} sets floors, but there are no held-out samples to measure against them; give more --data"
        )


def select_verification_samples(model: Model, plan: Plan, data: Data) -> Sequence[Sample]:
    """What a result of `plan` can be measured with: of the data that it was calibrated with the held-out part, of other data
    all but the lines with `split: train`.

    Raises:
        DataError: there is none of it, or it does not fit the model.
    """
    samples = name_labels(model, read_samples(data))
    check_modalities(model, samples)
    calibration, held_out = split_calibration_and_held_out(samples, plan.seed)
    if digest_samples(calibration) != plan.calibration.sha256:
        held_out = [sample for sample in samples if sample.split != "train"]
    require_samples(held_out, 1, "verification samples")
    check_media(held_out)
    check_signals(model, held_out)
    return held_out


def make_probe_batch(model: Model, samples: SampleSets) -> Batch | None:
    """A few samples that a result is tried on, held out where there are such."""
    probe = list(samples.held_out or samples.calibration)[:_PROBE_SAMPLES]
    return batch_samples(model, probe, _PROBE_SAMPLES)[0] if probe else None
