"""From the bare architecture and the recorded steps to the compressed architecture."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from trimodal.core.model_edit import ModelEdit
from trimodal.edits.steps import replay_step_
from trimodal.graph.layout import find_layout
from trimodal.layers import open_layers_


def replay_steps_(module: nn.Module, steps: Sequence[ModelEdit]) -> None:
    """Bring the bare `module` into the compressed architecture, with tensors that have no values yet.

    Raises:
        IntegrityError: a step does not fit the module.
    """
    open_layers_(module)
    layout = find_layout(module)
    for number, step in enumerate(steps, start=1):
        layout = replay_step_(module, layout, step, number)
    tied = getattr(module, "all_tied_weights_keys", {})
    for name in (name for step in steps for name in step.aliases):  # Transformers need not look for what the file has under another name
        ignored = getattr(module, "_keys_to_ignore_on_load_missing", None) or ()
        module._keys_to_ignore_on_load_missing = [*ignored, f"^{re.escape(name)}$"]  # type: ignore[assignment]
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for target, origin in list(tied.items()):
        if target not in names or origin not in names:
            del tied[target]
