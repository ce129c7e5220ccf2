"""Training on Transformers' Trainer: any module, any objective. It knows no task and no family.

From the Trainer come mixed precision, accumulation, schedules, clipping, processes of `torchrun`, trackers. What is ours:

    order        samples of every step are said beforehand (`order.py`), so nothing random is lost by a kill
    loss         the mean over all labels of a step, however it is parted into processes and accumulated batches
    evaluation   a function of the module that gives numbers by name
    checkpoints  whole or not counted (`checkpoints.py`)
    divergence   stops before the weights are harmed (`divergence.py`)
    place        the model stays on its device, and batches come to it; a batch that is too large goes through in parts
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME

from trimodal.errors import InputError, suggest_names
from trimodal.progress import Progress, ignore_progress, tell_nobody
from trimodal.training import checkpoints
from trimodal.training.divergence import DivergedError, explain_divergence
from trimodal.training.objective import Drawn, Objective
from trimodal.training.scaling import scale_losses_on_cpu_
from trimodal.training.settings import EngineSettings, RunFolder, check_device, count_processes, is_main_process
from trimodal.training.sharding import agree, gather_module_, is_sharded, read_scalar, shard_module_
from trimodal.training.steps import OnStep, ignore_step
from trimodal.training.telling import (
    ProgressTeller,
    StepMeter,
    describe_numbers,
    make_trackers,
    trim_curves,
    write_curve,
)

Measure = Callable[[], Mapping[str, float]]
_MEDIAN_WINDOW = 200


@dataclass(frozen=True)
class EngineResult:
    """What a run did: the steps it went through, resumed ones counted, whether it ended early, the last and the best evaluation."""

    steps: int
    stopped_early: bool
    best_step: int | None
    best_value: float | None
    is_main_process: bool


class _Stream(Dataset[Drawn]):
    """The samples of a whole run in their order."""

    def __init__(self, samples: Sequence[Any], order: Sequence[int]) -> None:
        self._samples, self._order = samples, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> Drawn:
        return place, self._samples[self._order[place]]


def train_module(
    module: nn.Module, objective: Objective, samples: Sequence[Any], order: Sequence[int], settings: EngineSettings, run: RunFolder,
    *, measure: Measure | None = None, resume: bool = False, progress: Progress = ignore_progress,
    tell: Callable[[str], None] = tell_nobody, on_step: OnStep = ignore_step,
) -> EngineResult:  # fmt: skip
    """Train `module` in place.

    Args:
        module: parameters with ``requires_grad`` are trained.
        objective: what for.
        samples: what `order` names by number, and the objective encodes.
        order: the samples of all steps, (steps · batch,).
        settings: how.
        run: where checkpoints and curves are kept.
        measure: gives numbers by name, `settings.metric` among them; called every `settings.evaluate_every` steps.
        resume: go on from the last whole checkpoint in `run`.
        progress: called with what is going on, how much is done, and how much there is.
        tell: called with each evaluation, in words.
        on_step: called with what each optimizer step did, after it.

    Raises:
        InputError: nothing can be trained, or the settings do not fit the model.
        DivergedError: the loss or its gradient is not finite; the last checkpoint is kept.
    """
    _check_trainable(module, settings)
    if is_main_process():  # another might be here before the first has looked whether there is a run
        run.path.mkdir(parents=True, exist_ok=True)
    last = _prepare_resume(run, resume)
    arguments = make_arguments(settings, run, measure is not None)
    if measure is not None and last is None and is_main_process():
        _measure_before(measure, settings, run, tell)
    if settings.fsdp:
        shard_module_(module, arguments.device, arguments.world_size)
    trainer = _Engine(module, arguments, objective, _Stream(samples, order), settings, run, measure)
    trainer.add_callback(ProgressTeller(progress, tell, settings.steps))
    trainer.add_callback(trainer.meter)
    trainer.meter.tell_steps_to(on_step)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        if settings.fsdp:
            gather_module_(module)
    finally:
        trainer.accelerator.unwrap_model(module, keep_fp32_wrapper=False)
        module.zero_grad(set_to_none=True)
        module.eval()
    state = trainer.state
    early = state.global_step < settings.steps
    best = state.best_global_step if settings.patience else None
    return EngineResult(state.global_step, early, best, state.best_metric if best else None, trainer.is_world_process_zero())


def _check_trainable(module: nn.Module, settings: EngineSettings) -> None:
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError("the model has no parameter that may be trained; leave some out of freeze")
    if settings.gradient_checkpointing and not getattr(module, "supports_gradient_checkpointing", False):
        raise InputError(f"{type(module).__name__} cannot checkpoint its activations; leave gradient_checkpointing out")


def _measure_before(measure: Measure, settings: EngineSettings, run: RunFolder, tell: Callable[[str], None]) -> None:
    """What `measure` says before the first step, as step 0 of the curves.

    Raises:
        InputError: what early stopping looks at is not among it.
    """
    found = {f"eval_{name}": float(value) for name, value in measure().items()}
    if settings.patience and f"eval_{settings.metric}" not in found:
        known = [name.removeprefix("eval_") for name in found]
        meant = suggest_names(settings.metric, known)
        raise InputError(f"early_stopping.metric is {settings.metric!r}, which is not evaluated here; {meant}")
    write_curve(run.curves, 0, found)
    tell(f"before: {describe_numbers(found)}")


def _prepare_resume(run: RunFolder, resume: bool) -> Path | None:
    """The checkpoint to go on from, with all that came after it taken away."""
    last = checkpoints.find_last_checkpoint(run.path) if resume else None
    if last is not None:
        checkpoints.check_unchanged(last)
    if not is_main_process():
        return last
    checkpoints.remove_broken_checkpoints(run.path)
    step = max((step for step, path in checkpoints.find_checkpoints(run.path).items() if path == last), default=0)
    trim_curves(run.curves, step)
    return last


def make_arguments(settings: EngineSettings, run: RunFolder, evaluated: bool) -> TrainingArguments:
    """The Trainer's arguments for `settings`.

    Raises:
        InputError: the batch cannot be parted among the processes, or the Trainer cannot be told to use the device.
    """
    check_device(settings.device)
    evaluated = evaluated and settings.evaluate_every > 0
    stops = evaluated and settings.patience > 0
    arguments = TrainingArguments(
        output_dir=str(run.path), max_steps=settings.steps, gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, max_grad_norm=settings.gradient_clip,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=round(settings.warmup * settings.steps), optim="adamw_torch",
        bf16=settings.precision == "bf16", fp16=settings.precision == "fp16",
        gradient_checkpointing=settings.gradient_checkpointing or None,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        eval_strategy="steps" if evaluated else "no", eval_steps=settings.evaluate_every or None,
        save_strategy="steps" if settings.checkpoint_every else "no", save_steps=settings.checkpoint_every or 500, save_total_limit=2,
        load_best_model_at_end=stops, metric_for_best_model=settings.metric if stops else None,
        greater_is_better=not settings.metric.endswith(("loss", "error_rate")) if stops else None,
        logging_steps=1, logging_nan_inf_filter=False, report_to=[t for t in settings.trackers if t != "tensorboard"] or "none",
        run_name=settings.name, disable_tqdm=True, remove_unused_columns=False, train_sampling_strategy="sequential",
        dataloader_pin_memory=False, restore_callback_states_from_checkpoint=True, seed=settings.seed % 2**32,
        use_cpu=settings.device == "cpu", ddp_backend="gloo" if settings.device == "cpu" and count_processes() > 1 else None,
    )  # fmt: skip
    arguments._n_gpu = min(arguments.n_gpu, 1)  # the Trainer would part batches among all GPUs by threads; `torchrun` does it better
    arguments.per_device_train_batch_size = settings.part_size(arguments.world_size)
    return arguments


class _Engine(Trainer):
    """The Trainer with our order of samples, loss, evaluation and checkpoints."""

    def __init__(
        self, module: nn.Module, arguments: TrainingArguments, objective: Objective, stream: _Stream, settings: EngineSettings,
        run: RunFolder, measure: Measure | None,
    ) -> None:  # fmt: skip
        self._settings, self._is_constructed = settings, False  # its parent's constructor asks for them
        super().__init__(
            module, arguments, data_collator=objective.encode, train_dataset=stream,
            eval_dataset=[0] if measure else None,  # the Trainer wants one where it evaluates; `measure` has its own
        )  # fmt: skip
        self._is_constructed = True
        self.loss_is_scaled_for_ga = True
        self._module, self._objective, self._run, self._measure = module, objective, run, measure
        self._device = next(module.parameters()).device
        self._norms: list[float] = []
        self.meter = StepMeter()
        self.accelerator.device_placement = False
        self.remove_callback(PrinterCallback)
        for tracker in make_trackers(settings.trackers, run):
            self.add_callback(tracker)
        if arguments.load_best_model_at_end:
            self.add_callback(EarlyStoppingCallback(settings.patience, settings.least))

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """The model stays where it is."""

    def _prepare_input(self, data: Any) -> Any:
        return send_to_device(data, self._device)

    def floating_point_ops(self, inputs: Any) -> int:
        """None: nobody reads how many there were, and batches may be of any form."""
        return 0

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Gradients of one batch, part after part; its share of the step's loss, a scalar."""
        total = torch.zeros((), device=self.args.device)
        part: Any
        for part in self._objective.part(inputs):
            total += super().training_step(model, part, num_items_in_batch).to(total.device)
        return total

    @property
    def is_distributed_loading_by_transformers(self) -> bool:
        """Whether the module is sharded already, so that Accelerate must not wrap it. The Trainer's constructor, which would refuse to
        write checkpoints of such a module, is not told: here they are written whole."""
        return self._settings.fsdp and self._is_constructed

    @is_distributed_loading_by_transformers.setter
    def is_distributed_loading_by_transformers(self, found: bool) -> None:
        """The Trainer looks for what `from_pretrained` did; here it was `shard_module_`."""

    def create_accelerator_and_postprocess(self) -> None:
        """Accelerate scales no losses on a processor, and would compute in float32 without a word."""
        super().create_accelerator_and_postprocess()
        if self.args.fp16 and self.args.device.type == "cpu":
            scale_losses_on_cpu_(self.accelerator)

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """Add up the gradients of a step's parts before they are parted among the processes."""
        self._module.set_requires_gradient_sync(False)  # type: ignore[operator]
        try:
            yield
        finally:
            self._module.set_requires_gradient_sync(True)  # type: ignore[operator]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        total = torch.tensor(float(sum(self._objective.count(batch) for batch in batch_samples)), device=device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The batch's share of the step's loss; gradients of processes are averaged, so it counts as often as there are processes."""
        if self._settings.frozen_noise:
            model.eval()
        parts = self._objective.loss(model, inputs)
        loss = parts["loss"]
        self._check_loss(loss, model, inputs)
        share = self._objective.count(inputs) / max(float(num_items_in_batch), 1.0)
        self.meter.add_losses(parts, share)
        return loss * (share * self.args.world_size)

    def _check_loss(self, loss: Tensor, model: nn.Module, inputs: Any) -> None:
        """Of a sharded module all processes stop together, since what explains it takes all of them."""
        is_finite = math.isfinite(value := float(loss.detach()))
        if not (agree(is_finite, self.args.device) if is_sharded(self._module) else is_finite):
            self._stop("loss of another process" if is_finite else "loss", math.nan if is_finite else value,
                       lambda: self._objective.loss(model, inputs), inputs)  # fmt: skip

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        norm = read_scalar(super()._get_grad_norm(model, grad_norm=grad_norm))
        if not math.isfinite(norm) and self._settings.precision != "fp16":  # whose scaler skips such a step by itself
            self._stop("gradient", norm, lambda: None, {})
        self._norms = [*self._norms[-_MEDIAN_WINDOW:], norm]
        self.meter.note_gradient(norm)
        return norm

    def _stop(self, what: str, value: float, run_again: Callable[[], Any], inputs: Mapping[str, Tensor]) -> None:
        known = inputs if isinstance(inputs, Mapping) else {}
        reason = explain_divergence(self._module, run_again, known, self._settings.precision, self._norms)
        last = checkpoints.find_last_checkpoint(self._run.path)
        kept = f"The last good checkpoint is {last}" if last else "No checkpoint had been written yet"
        raise DivergedError(f"the {what} is {value} at step {self.state.global_step + 1}; most likely {reason}. {kept}.")

    def evaluate(self, *given: Any, **options: Any) -> dict[str, float]:
        """What `measure` says, by names that begin with `eval_`; measured by one process, known to all."""
        found: list[Any] = [None]
        if self._measure is not None and (self._settings.fsdp or self.is_world_process_zero()):  # no process has a whole model
            found = [{f"eval_{name}": float(value) for name, value in self._measure().items()}]
        if self.args.world_size > 1:
            torch.distributed.broadcast_object_list(found)
        metrics: dict[str, float] = found[0] or {}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Tell the trackers, and write the curves."""
        logs.pop("epoch", None)
        super().log(logs, start_time)
        if self.is_world_process_zero():
            write_curve(self._run.curves, self.state.global_step, logs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if bad := checkpoints.find_bad_parameter(self._module):
            self._stop(f"weight {bad}", math.nan, lambda: None, {})
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            checkpoints.mark_complete(self._run.path / f"checkpoint-{self.state.global_step}")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The weights of a checkpoint; every process comes here, since each may hold a part of them."""
        checkpoints.write_weights(self._module, Path(output_dir or self._run.path), self.args.should_save)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The Trainer's way would write one process's part of a sharded module's moments."""
        if not is_sharded(self._module):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        checkpoints.write_moments(self._module, self._plain_optimizer, Path(output_dir), self.args.should_save)
        if self.args.should_save:
            torch.save(self._schedule.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded(self._module):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        checkpoints.read_moments_(self._module, self._plain_optimizer, Path(checkpoint))
        self._schedule.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    @property
    def _schedule(self) -> Any:
        """Of the learning rate; made by the Trainer before checkpoints are written or read."""
        return self.lr_scheduler

    @property
    def _plain_optimizer(self) -> Optimizer:
        """The optimizer without what Accelerate has put around it."""
        optimizer: Any = self.optimizer
        plain: Optimizer = getattr(optimizer, "optimizer", optimizer)
        return plain

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoints.read_weights_(model or self._module, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            checkpoints.read_weights_(self._module, Path(self.state.best_model_checkpoint))
