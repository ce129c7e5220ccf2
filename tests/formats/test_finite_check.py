"""Nothing that is written, and nothing that comes out, may have ceased to be finite."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from trimodal.core import Check
from trimodal.formats import finite_outputs_check, finite_weights_check


def test_weights_are_looked_at_as_stored_and_as_decoded(compressed: Any) -> None:
    done = compressed("clip", [{"quantize.rtn": {"bits": 8}}], data=False)
    good = finite_weights_check(done.model)
    assert good.passed and good.name == "weights finite"
    site = next(site for site in done.model.layout.sites if site.stored == "quantized")
    stored: Any = done.model.module.get_submodule(site.path)
    scale = next(tensor for name, tensor in stored.named_buffers() if name.endswith("scale"))
    scale[0] = torch.inf  # a buffer may be infinite; what it decodes to may not
    bad = finite_weights_check(done.model)
    assert bad.failed and site.path in bad.detail


def test_outputs_must_be_finite_where_they_were(tiny_model: Any, compressed: Any) -> None:
    done = compressed("bert", [{"quantize.rtn": {"bits": 8}}])
    assert finite_outputs_check(done.original, done.model, done.batches[0]).passed
    assert finite_outputs_check(done.original, done.model, None) == Check("outputs finite", "not run", "there are no samples to run")
    broken = replace(done.model, module=copy.deepcopy(done.original.module))
    with torch.no_grad():
        next(broken.module.parameters()).fill_(torch.nan)
    found = finite_outputs_check(done.original, broken, done.batches[0])
    assert found.failed and "not finite" in found.detail
    own = finite_outputs_check(broken, broken, done.batches[0])  # the model's own affair, but not kept quiet about
    assert own.passed and "are not finite in the original either" in own.detail
