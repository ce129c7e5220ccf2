"""What every method says of itself."""

from __future__ import annotations

import importlib
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from trimodal.core import Place, Site
from trimodal.errors import RecipeError
from trimodal.methods import METHODS, get_method, works_on
from trimodal.methods.method import needs_dense
from trimodal.methods.options import Option

EACH = pytest.mark.parametrize("known", METHODS, ids=lambda m: m.name)


def test_names_are_unique_and_found() -> None:
    names = [known.name for known in METHODS]
    assert len(set(names)) == len(names)
    assert all(get_method(known.name) is known for known in METHODS)


@pytest.mark.parametrize(("name", "hint"), [("quantize.gtpq", "quantize.gptq"), ("wanda", "prune.wanda")])
def test_wrong_name_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=rf"recipe: step 2: there is no method '{name}'; did you mean '{hint}'\?"):
        get_method(name, "recipe: step 2")


@EACH
def test_method_says_what_it_works_on(known: Any) -> None:
    assert works_on(known)


@EACH
def test_method_is_complete(known: Any) -> None:
    assert known.name.split(".")[0] == known.kind
    assert len(known.paper) > 20 and known.idea.endswith((".", "data."))
    assert [known.solve, known.fit, known.survey, known.adapt].count(None) == 3
    assert (known.on == "axis") == bool(known.unit)
    assert (known.on == "model") == (known.fit is not None)


@EACH
def test_every_option_is_declared(known: Any) -> None:
    assert is_dataclass(known.config) and known.config.__dataclass_params__.frozen
    assert 2 <= len(fields(known.config)) <= 13 or known.on == "axis" or known.kind == "factorize"
    for f in fields(known.config):
        assert isinstance(f.metadata.get("option"), Option), f.name
        assert len(f.metadata["option"].help) > 5


@EACH
def test_docstring_teaches_the_method(known: Any) -> None:
    functions = known.solve or known.fit or known.survey or known.adapt.begin
    text = importlib.import_module(functions.__module__).__doc__
    for part in ("Problem", "Algorithm", "Cost", "By hand"):
        assert part in text, part
    assert "Fails" in text or "Loses" in text


@pytest.mark.parametrize(("kind", "stored", "reason"), [
    ("norm", "dense", "norm"), ("linear", "quantized", "already quantized"), ("linear", "sparse", "already sparse"),
    ("linear", "dense", None),
])  # fmt: skip
def test_what_needs_a_plain_weight(kind: Any, stored: Any, reason: str | None) -> None:
    found = needs_dense(Site("a", "text", 0, "up", kind, (4, 4), stored=stored))
    assert found is None if reason is None else reason in (found or "")


@pytest.mark.parametrize("known", [m for m in METHODS if m.on == "site"], ids=lambda m: m.name)
@pytest.mark.parametrize(("site", "words"), [
    (Site("a", "text", 0, "norm", "norm", (4,)), "norm"),
    (Site("a", "text", 0, "up", "linear", (64, 64), stored="quantized"), "already quantized"),
])  # fmt: skip
def test_methods_on_weights_leave_the_rest_alone(known: Any, site: Site, words: str) -> None:
    reason = known.refuse(Place(site.name, (site,)), known.config())
    if known.adapt is not None and words == "already quantized":  # a pair stands beside the codes
        assert reason is None
    else:
        assert words in (reason or "")


@pytest.mark.parametrize("name", ["quantize.awq", "quantize.learned", "quantize.smooth", "prune.wanda", "factorize.eigen"])
@pytest.mark.parametrize("kind", ["conv", "experts"])
def test_methods_on_one_input_refuse_what_reads_several(name: str, kind: Any) -> None:
    shape = (64, 2, 3) if kind == "conv" else (64, 6)
    site = Site("a", "audio", None, "a", kind, shape, groups=16)
    known = get_method(name)
    assert "several inputs" in (known.refuse(Place("a", (site,)), known.config()) or "") or name == "prune.wanda"
    assert known.refuse(Place("a", (site,)), known.config()) is not None
    for other in map(get_method, ("quantize.rtn", "quantize.gptq", "prune.magnitude")):
        assert other.refuse(Place("a", (site,)), other.config()) is None
