"""Training with quantization in the loop (QAT), from where the quantizers left off.

Idea. Rounding after training cannot repair what it breaks below 4 bits. Train on with the rounding inside: every forward sees the codes,
scales and ranges that will be stored, every backward goes to float weights behind them.

Problem. With teacher t, the original, and the student s_q, whose coded weights are Ŵ = Q(V; s, z), minimise over the float weights V, the
grids' scales s (and zero-points z, levels L, input ranges) and all that was never coded (norms, biases)

    E_x distance(t(x), s_q(x; Q(V; s, z)))              the distances of `distill`; no labels needed

Algorithm.
    1. V begins as the original weight, as far as the codes that the quantizers chose allow; the first forward is exactly theirs
    2. batch norms see the calibration data once and take their statistics anew (`batch_norms`)
    3. per step: Ŵ by the quantizer that is stored (float16 scales, whole zero-points, the same groups), inputs by theirs; gradients
       straight through (`maths/straight_through.py`): V where it is not clipped; s by LSQ (Esser et al. 2020, arXiv 1902.08153), weighed by
       1/√(n·Q_P); with `lsq+` z too (Bhalgat et al. 2020, arXiv 2004.09576); ends of static input ranges by `lsq`, `lsq+` or `pact`
       (Choi et al. 2018, arXiv 1805.06085); learned codebooks by the weights that share a level, codes assigned anew (`codebook`)
    4. codes, scales, zero-points, levels and ranges are written back in the types they had: what is stored is what the last forward saw

Cost. That of `distill`, some passes over each weight per step more, and two float32 copies of each coded weight with Adam's moments.
Fails where the data are few (it fits them), and where the learning rate is as large as a step of the grid: weights then jump
between two codes and nothing settles. Refused where no step before has quantized anything.

Departs from the papers: scales start from the quantizer's, which were searched, and not from 2·E|v|/√Q_P. Adam's steps do not see how
large a gradient is, so that LSQ's weight only keeps scales from filling the clipped gradient; how fast they move is said by `rate`,
relative to their own size. PACT's α has no decay, since it begins at a calibrated range, and there is a lower end too. Ranges per
token stay as they are computed. The grid has no new zero-points: `lsq+` learns those that are stored. A pruned weight's mask holds.

By hand. One weight, V = 0.3, s = 0.5, z = 2, 2 bits: r = 2.6, code 3, Ŵ = 0.5. With ∂L/∂Ŵ = 1: ∂L/∂V = 1 and ∂L/∂s = 1 − 0.6 = 0.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimodal.core import FitRecord, Layout
from trimodal.core.storage import CODED
from trimodal.layers.input_range import InputRule
from trimodal.layers.trained_codes import LearnedParts, LevelRule, StepRule, train_codes
from trimodal.methods.distill.recover import TeachingOptions, train_student
from trimodal.methods.method import Method
from trimodal.methods.options import option
from trimodal.models.model import Batch, Model
from trimodal.training.batch_norms import BatchNormRule, estimate_batch_norms_


@dataclass(frozen=True)
class QuantizedTrainingConfig(TeachingOptions):
    """Options of `train.quantized`."""

    learning_rate: float = option(2e-4, "highest learning rate of the float weights", low=1e-8, high=1.0, search=(1e-4, 2e-4, 5e-4))
    grid: StepRule = option(
        "lsq", "what is learned of the weights' grids: `lsq` (scales), `lsq+` (zero-points too, where there are some) or `fixed` (nothing)",
        choices=("lsq", "lsq+", "fixed"), search=("lsq", "lsq+"),
    )  # fmt: skip
    inputs: InputRule = option(
        "lsq", "what is learned of static input ranges: `lsq` (scale), `lsq+` (zero-point too), `pact` (both ends, by what is clipped) "
        "or `fixed`", choices=("lsq", "lsq+", "pact", "fixed"), search=("lsq", "pact"),
    )  # fmt: skip
    codebook: LevelRule = option(
        "hard", "how the levels of k-means learn: by the weights that have them (`hard`), by all that are near (`soft`), or not (`fixed`)",
        choices=("hard", "soft", "fixed"), search=("hard", "soft"),
    )  # fmt: skip
    rate: float = option(1.0, "how fast scales and ranges move, relative to their size, in learning rates", low=0.0, high=1000.0)
    batch_norms: BatchNormRule = option(
        "estimate", "whether batch norms take their statistics anew before training", choices=("estimate", "keep")
    )


def explain_unready(layout: Layout, config: QuantizedTrainingConfig) -> str | None:
    """Why there is nothing to train: no site is coded."""
    if any(site.stored in CODED for site in layout.sites):
        return None
    return "no step before it quantizes anything; put a quantizer such as quantize.gptq before it, or use distill"


def fit(
    student: Model, teacher: Model, batches: Callable[[int], Sequence[Batch]], config: QuantizedTrainingConfig, seed: int
) -> Iterator[FitRecord]:
    """Train the coded `student` in place towards `teacher`; `batches(size)` gives all calibration data in batches of `size` samples."""
    if config.batch_norms == "estimate":
        estimate_batch_norms_(student.module, batches(config.batch))
    parts = LearnedParts(config.grid, config.codebook, config.inputs, config.rate)
    with train_codes(student.module, parts, lambda path: _find_original(student, teacher, path)):
        records = train_student(student, teacher, batches, config, seed)
    for record in records:
        yield FitRecord(0, METHOD.name, record.step, {"loss": record.loss, **record.parts}, record.seconds)


def _find_original(student: Model, teacher: Model, path: str) -> Tensor | None:
    """The weight in the original of what stands at `path` in the student; None where there is no such layer any more."""
    layers: dict[str, nn.Module] = dict(teacher.module.named_modules())
    weight = getattr(layers.get(student.layout.find_original_path(teacher.layout, path)), "weight", None)
    return weight.detach() if isinstance(weight, torch.Tensor) else None


METHOD = Method(
    name="train.quantized",
    kind="train",
    paper="LSQ, Esser et al. 2020, arXiv 1902.08153; LSQ+, Bhalgat et al. 2020, arXiv 2004.09576; PACT, Choi et al. 2018, arXiv 1805.06085",
    idea="Train on with the stored quantizer inside every forward, towards the original's answers; no labels needed.",
    config=QuantizedTrainingConfig,
    on="model",
    unready=explain_unready,
    fit=fit,
)
