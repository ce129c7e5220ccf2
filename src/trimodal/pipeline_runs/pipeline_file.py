"""What stands in a pipeline file, as pydantic models.

    data: shapes/shapes.jsonl         of all parts that name none of their own
    seed: 0                           of all parts; it says which samples are held out too
    train: {model: …, task: classify, steps: 800}      a training configuration; or `model: ./folder` in its place
    compress: {recipe: int8}          a built-in recipe, a file, or its steps here
    export: onnx                      a format, or a list of them
    output: shape-vit-small
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimodal.core.record import PackName
from trimodal.core.validation import Mistake, format_location, get_first_mistake
from trimodal.errors import RecipeError, suggest_names
from trimodal.planning import LARGEST_SEED, read_recipe
from trimodal.training_runs.config_file import read_config, read_yaml_mapping

_RULES = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_LARGEST = min(LARGEST_SEED, 2**32 - 1)
_NEEDED = "a pipeline needs output, compress, and either train or model"


class CompressKeys(BaseModel):
    """What becomes of the trained model."""

    model_config = _RULES

    recipe: Annotated[Any, Field(description="a built-in recipe, a YAML file, or its content: steps, floors, calibration")]
    data: Annotated[str | None, Field(description="in place of the pipeline's; `none` for none")] = None
    map: Annotated[dict[str, str | None], Field(description="which column is which field")] = {}
    pack: Annotated[PackName | None, Field(description="in place of what the recipe says")] = None
    target: Annotated[str | None, Field(description="what is to run the result")] = None


class PipelineKeys(BaseModel):
    """A model, trained here or brought, what becomes of it, and where the result goes."""

    model_config = _RULES

    output: Annotated[str | None, Field(description="folder to write; what stages leave lies in OUTPUT.run beside it")] = None
    data: Annotated[str | None, Field(description="of all parts that name none of their own")] = None
    map: Annotated[dict[str, str | None], Field(description="which column is which field")] = {}
    model: Annotated[Any, Field(description="a model that is there already, in place of `train`")] = None
    train: Annotated[dict[str, Any] | None, Field(description="a training configuration")] = None
    compress: Annotated[CompressKeys, Field(description="a recipe, and the data that it needs")]
    export: Annotated[str | list[str], Field(description="formats to write as well")] = []
    seed: Annotated[int, Field(ge=0, le=_LARGEST, description="of all parts")] = 0
    device: Annotated[str, Field(min_length=1, description="where to compute")] = "cpu"

    def list_exports(self) -> list[str]:
        """The formats to write."""
        return [self.export] if isinstance(self.export, str) else list(self.export)


_EXPECTED = {
    "output": "the name of a folder", "train": "a training configuration", "export": "a format, or a list of them",
    "compress": "a mapping with a recipe", "seed": f"a whole number, 0 to {_LARGEST}", "compress.pack": "plain or entropy",
    "data": "the name of a file or folder", "compress.data": "the name of a file or folder",
}  # fmt: skip


def read_pipeline(source: str | Path | Mapping[str, Any]) -> tuple[str, PipelineKeys]:
    """The pipeline's name and content, all parts checked as far as that goes without model and data.

    Raises:
        RecipeError: naming the file, the key, and what is wrong with it.
    """
    name, content = ("pipeline", source) if isinstance(source, Mapping) else read_yaml_mapping(Path(source), "pipeline", f"; {_NEEDED}")
    try:
        found = PipelineKeys.model_validate(dict(content))
    except ValidationError as error:
        raise RecipeError(f"{name}: {_describe_mistake(get_first_mistake(error))}") from error
    if (found.train is None) == (found.model is None):
        raise RecipeError(f"{name}: {'neither train nor' if found.train is None else 'both train and'} model; {_NEEDED}")
    if found.train is not None:
        _check_train_part(found.train, name)
        read_config(make_train_config(found))
    _name_the_file(name, "compress.recipe", lambda: read_recipe(found.compress.recipe))
    return name, found


def make_train_config(keys: PipelineKeys) -> dict[str, Any]:
    """The training configuration, with what the pipeline says for all parts. Unasked it holds out as much as `compress` does, so
    that both hold out the same samples."""
    given = dict(keys.train or {})
    shared = {} if "data" in given or keys.data is None else {"data": keys.data, "map": keys.map}
    return {"held_out": HELD_OUT, "device": keys.device, **shared, **given, "seed": keys.seed}


HELD_OUT = 0.2
"""The share that `compress` holds out where lines have no split."""


def _check_train_part(given: Mapping[str, Any], name: str) -> None:
    for key in ("output", "seed"):
        if key in given:
            raise RecipeError(f"{name}: train says {key}, which holds for all parts; put it at the top of the file")
    model = given.get("model")
    if callable(model) or (isinstance(model, str) and ":" in model):
        raise RecipeError(
            f"{name}: train.model is a function; what is trained of it has no configuration that the next part could read. "
            "Train it by itself, and give a function that loads the weights as model"
        )


def _name_the_file(name: str, part: str, read: Callable[[], Any]) -> None:
    try:
        read()
    except RecipeError as error:
        raise RecipeError(f"{name}: {part}: {error}") from error


def _describe_mistake(mistake: Mistake) -> str:
    key, place = str(mistake.location[-1]), format_location(mistake.location)
    inside = mistake.location[0] == "compress" and len(mistake.location) > 1
    if mistake.is_unknown_key:
        model = CompressKeys if inside else PipelineKeys
        return f"unknown key '{key}'{' in compress' if inside else ''}; {suggest_names(key, model.model_fields)}"
    if mistake.is_missing_key:
        return f"there is no key '{place}'; {_NEEDED}"
    return f"{place} is {mistake.found!r:.60}, but must be {_EXPECTED.get(place, mistake.expected)}"
