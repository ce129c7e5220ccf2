"""What a runtime can take, as data: one YAML file per target, which planning, the simulation's tests and the exporters all ask."""

from __future__ import annotations

from trimodal.targets.answer import MEANINGS, Answer, Level
from trimodal.targets.read import list_targets, read_target
from trimodal.targets.target import LayerKind, Target

__all__ = ["MEANINGS", "Answer", "LayerKind", "Level", "Target", "list_targets", "read_target"]
