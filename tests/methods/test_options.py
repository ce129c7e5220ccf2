"""What a user may write behind an option's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from trimodal.errors import RecipeError
from trimodal.methods import METHODS
from trimodal.methods import get_method as by_name
from trimodal.methods.options import build_config, config_to_dict, describe_options, make_options_model, option

PLACE = "r.yaml: step 1 (quantize.rtn)"


def made(method: str, **values: Any) -> Any:
    return build_config(by_name(method).config, values, PLACE)


@pytest.mark.parametrize("values", [
    {"bits": 2}, {"bits": 8}, {"group": 8}, {"group": "channel"}, {"group": "tensor"}, {"group": 4096},
    {"grid": "asymmetric"}, {"clip": "max"}, {"bits": 16}, {},
])  # fmt: skip
def test_allowed_values_are_taken(values: dict[str, Any]) -> None:
    config = made("quantize.rtn", **values)
    assert {name: getattr(config, name) for name in values} == values


@pytest.mark.parametrize(("name", "values", "message"), [
    ("quantize.rtn", {"bits": 0}, r"bits is 0, but must be 2 to 8, or 16 bits"),
    ("quantize.rtn", {"bits": 17}, r"bits is 17, but must be 2 to 8, or 16 bits"),
    ("quantize.rtn", {"bits": -4}, r"bits is -4"),
    ("quantize.rtn", {"bits": 4.0}, r"bits is 4.0, but must be 2 to 8, or 16 \(int\)"),
    ("quantize.rtn", {"bits": "4"}, r"bits is '4', but must be 2 to 8, or 16 \(int\)"),
    ("quantize.rtn", {"bits": True}, r"bits is True"),
    ("quantize.rtn", {"bits": None}, r"bits is None"),
    ("quantize.rtn", {"bits": [4]}, r"bits is \[4\]"),
    ("quantize.rtn", {"bit": 4}, r"has no option 'bit'; did you mean 'bits'\?"),
    ("quantize.rtn", {"colour": "red"}, r"has no option 'colour'; known: bias, bits, clip, grid, group, outliers, rank"),
    ("quantize.rtn", {"group": "chanel"}, r"group is 'chanel', .*did you mean 'channel'\?"),
    ("quantize.rtn", {"group": 7}, r"group is 7, but must be 8 or more, or one of channel, tensor, tower columns"),
    ("quantize.rtn", {"group": True}, r"group is True"),
    ("quantize.rtn", {"clip": "entropy"}, r"clip is 'entropy', but must be one of max, mse"),
    ("quantize.rtn", {"grid": "nf4"}, r"grid is 'nf4', .*did you mean 'nf'\?"),
    ("quantize.rtn", {"bias": "yes"}, r"bias is 'yes', but must be bool"),
    ("quantize.rtn", {"bias": 1}, r"bias is 1, but must be bool"),
    ("prune.magnitude", {"sparsity": 1.5}, r"sparsity is 1.5, but must be 0 to 1"),
    ("prune.magnitude", {"sparsity": -0.1}, r"sparsity is -0.1"),
    ("prune.magnitude", {"sparsity": float("nan")}, r"sparsity is nan, but must be 0 to 1"),
    ("prune.magnitude", {"sparsity": True}, r"sparsity is True"),
    ("prune.magnitude", {"sparsity": "half"}, r"sparsity is 'half'"),
    ("prune.magnitude", {"scope": "model"}, r"scope is 'model', but must be one of layer, row"),
    ("prune.wanda", {"kept": 0}, r"kept is 0, but must be 1 or more"),
    ("prune.wanda", {"of": 1.5}, r"of is 1.5"),
    ("factorize.eigen", {"rank": 0}, r"rank is 0, but must be 1 or more"),
    ("distill", {"steps": 0}, r"steps is 0, but must be 1 or more steps"),
    ("distill", {"temperature": 0}, r"temperature is 0, but must be 0.1 to 20"),
    ("distill", {"learning_rate": float("inf")}, r"learning_rate is inf"),
    ("distill", {"logits": float("inf")}, r"logits is inf, but must be 0 or more"),
    ("quantize.rtn", {1: 4}, r"has no option '1'; known: "),
    ("quantize.rtn", {"bits": 1, "bias": 1, "bitz": 1}, r"has no option 'bitz'; did you mean 'bits'\?$"),
    ("distill", {"learning_rate": "1e-3"}, r"learning_rate is '1e-3', .*write 1.0e-3"),
])  # fmt: skip
def test_mistake_is_named_with_its_place_and_what_is_expected(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        build_config(by_name(name).config, values, PLACE)
    assert str(caught.value).startswith(PLACE)


def test_whole_number_where_a_fraction_is_meant_is_kept_as_one() -> None:
    config = made("prune.magnitude", sparsity=1)
    assert type(config.sparsity) is float and config_to_dict(config)["sparsity"] == 1.0
    assert config_to_dict(made("prune.wanda", kept=2, of=4))["kept"] == 2


def test_option_without_default_must_be_given() -> None:
    @dataclass(frozen=True)
    class Config:
        rank: int = option(..., "how many", low=1)
        mode: Literal["a", "b"] = option("a", "which", choices=("a", "b"))

    with pytest.raises(RecipeError, match="here needs the option 'rank': how many"):
        build_config(Config, {}, "here")
    assert describe_options(Config)[0]["required"] is True


def test_model_says_what_the_options_say() -> None:
    @dataclass(frozen=True)
    class Config:
        rank: int = option(..., "how many", low=1, unit="columns")
        bits: int = option(8, "per weight", low=2, high=8, choices=(16,), search=(4, 8))
        group: int | str = option("channel", "that share", low=8, choices=("channel",))
        energy: float | None = option(None, "to keep", low=0.0, high=1.0)

    schema = make_options_model(Config).model_json_schema()
    assert schema["required"] == ["rank"] and schema["additionalProperties"] is False
    found = {name: {key: value for key, value in part.items() if key != "title"} for name, part in schema["properties"].items()}
    assert found == {
        "rank": {"type": "integer", "minimum": 1, "description": "how many (columns)"},
        "bits": {
            "anyOf": [{"type": "integer", "minimum": 2, "maximum": 8}, {"const": 16, "type": "integer"}],
            "default": 8, "description": "per weight", "examples": [4, 8],
        },
        "group": {
            "anyOf": [{"type": "integer", "minimum": 8}, {"const": "channel", "type": "string"}],
            "default": "channel", "description": "that share",
        },
        "energy": {
            "anyOf": [{"type": "number", "minimum": 0.0, "maximum": 1.0}, {"type": "null"}], "default": None, "description": "to keep",
        },
    }  # fmt: skip


@pytest.mark.parametrize("known", METHODS, ids=lambda m: m.name)
def test_plain_config_builds_the_same_config_again(known: Any) -> None:
    config = build_config(known.config, {}, "here")
    assert build_config(known.config, config_to_dict(config), "again") == config


@pytest.mark.parametrize("known", METHODS, ids=lambda m: m.name)
def test_values_worth_searching_are_allowed_and_so_is_the_default(known: Any) -> None:
    for row in describe_options(known.config):
        for value in (*row["search"], *(() if row["default"] is None else (row["default"],))):
            assert config_to_dict(build_config(known.config, {row["name"]: value}, "here"))[row["name"]] == value
        assert row["help"] and row["type"]
