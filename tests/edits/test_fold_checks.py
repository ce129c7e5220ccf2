"""Hostile folds in a file: a clear error, and nothing of the model is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from torch import nn

from trimodal.edits.fold_checks import UnfitStepError, check_fold_form
from trimodal.errors import IntegrityError
from trimodal.networks.tiny import make_miniature
from trimodal.stock.replaying import replay_steps_

BLOCK = "vision_model.encoder.layers.0"


def fold(what: Any, path: Any, *into: Any, **more: Any) -> dict[str, Any]:
    return {"what": what, "path": path, "into": list(into), **more}


BAD_FORM: Mapping[str, Any] = {
    "further-key": fold("norm", "a", "b", code="print()"),
    "no-into": {"what": "norm", "path": "a"},
    "path-of-number": fold("norm", 1, "b"),
    "unknown": fold("pickle", "a", "b"),
    "removed-into-another": fold("idle", "a", "b"),
    "what-of-list": fold(["norm"], "a", "b"),
    "into-nothing": fold("norm", "a"),
    "into-text": {"what": "norm", "path": "a", "into": "b"},
    "into-number": fold("affine", "a", 1),
    "into-two": fold("norm", "a", "b", "c"),
    "into-itself": fold("affine", "a", "a"),
    "into-one-twice": fold("affine", "a", "b", "b"),
}


@pytest.mark.parametrize("case", BAD_FORM)
def test_folds_of_no_known_form(case: str) -> None:
    with pytest.raises(UnfitStepError, match="fold"):
        check_fold_form(BAD_FORM[case])


BAD_FIT: Mapping[str, Any] = {
    "path-outside": fold("norm", "__class__", "visual_projection"),
    "into-outside": fold("affine", f"{BLOCK}.layer_norm1", "__class__"),
    "a-norm-that-does-not-run": fold("norm", f"{BLOCK}.layer_norm1", f"{BLOCK}.self_attn.q_proj"),
    "a-block": fold("scale", BLOCK, f"{BLOCK}.self_attn.q_proj"),
    "an-affine-of-a-layer": fold("affine", f"{BLOCK}.mlp.fc1", f"{BLOCK}.mlp.fc2"),
    "an-affine-of-another-width": fold("affine", f"{BLOCK}.layer_norm1", f"{BLOCK}.mlp.fc2"),
    "a-layer-of-another-width": fold("linear", f"{BLOCK}.mlp.fc1", f"{BLOCK}.mlp.fc1"[:-1] + "1.x"),
    "a-larger-product": fold("linear", "visual_projection", f"{BLOCK}.mlp.fc1"),
    "a-scale-of-an-embedding": fold("scale", f"{BLOCK}.layer_norm1", "text_model.embeddings.token_embedding"),
    "a-twin-of-another-shape": fold("twin", "visual_projection.weight", "logit_scale"),
    "removes-a-block": fold("idle", BLOCK),
    "removes-all": fold("idle", ""),
    "removes-a-method": fold("idle", "forward"),
    "removes-what-has-no-weights": fold("idle", f"{BLOCK}.mlp.activation_fn"),
    "a-twin-of-a-method": fold("twin", "forward", "logit_scale"),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_folds_that_do_not_fit_the_model(case: str) -> None:
    module = make_miniature("clip")
    before = module.state_dict()
    with pytest.raises(IntegrityError, match=r"recorded step 1 .* not recorded for this CLIPModel"):
        replay_steps_(module, [{"fold": BAD_FIT[case]}])
    assert {name: id(t) for name, t in module.state_dict().items()}.keys() == before.keys()


def test_a_product_may_not_be_larger_than_both() -> None:
    module = nn.Sequential(nn.Linear(64, 2), nn.Linear(2, 64))
    with pytest.raises(IntegrityError, match="folds 0, here a Linear, into 1, which does not fit"):
        replay_steps_(module, [{"fold": fold("linear", "0", "1")}])
