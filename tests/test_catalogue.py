"""The lists that are read without torch say what the methods and recipes themselves say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trimodal.catalogue import describe_methods, list_method_rows, list_recipes, name_recipe_steps
from trimodal.errors import RecipeError
from trimodal.methods.__main__ import build_catalogue_rows


def test_catalogue_is_up_to_date() -> None:
    assert list(list_method_rows()) == build_catalogue_rows(), "run: python -m trimodal.planning"


def test_one_method() -> None:
    (row,) = describe_methods("quantize.gptq")
    assert row["kind"] == "quantize" and "bits" in {option["name"] for option in row["options"]}
    assert describe_methods() == list_method_rows()


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("gptq", "did you mean 'quantize.gptq'?"),
        ("GPTQ", "did you mean 'quantize.gptq'?"),
        ("gtpq", "did you mean 'quantize.gptq'?"),
        ("quantise.gptq", "did you mean 'quantize.gptq'?"),
        ("compress.rtn", "did you mean 'quantize.rtn'?"),
        ("sparse-gpt", "did you mean 'prune.sparsegpt'?"),
        ("smoothquant", "did you mean 'quantize.smooth'?"),
        ("magnitude_prune", "did you mean 'prune.magnitude'?"),
        ("layers", "did you mean 'prune.layers' or 'share.layers'?"),
        ("factorize", "known: factorize.cp, factorize.eigen, factorize.svd, factorize.tucker"),
        ("nothing like it", "known: distill, distill.lora, factorize.cp"),
    ],
)
def test_method_that_was_meant(word: str, meant: str) -> None:
    with pytest.raises(RecipeError) as caught:
        describe_methods(word)
    assert str(caught.value).startswith(f"there is no method '{word}'; {meant}")


@pytest.mark.parametrize(("name", "steps"), [
    ("int8", ["W8A16"]), ("int8-full", ["operator fusion", "W8A16", "W8A8"]), ("int4-even", ["W4A16 g64"]),
    ("qat", ["W8A16", "W4A8", "W4A16 g64", "QAT, 300 steps"]),
    ("demo", ["60 % structured (MLP neurons)", "50 % structured (attention heads)", "KD, 300 steps", "W8A16", "W4A16 g64"]),
])  # fmt: skip
def test_recipes_in_the_words_of_the_field(name: str, steps: list[str]) -> None:
    assert name_recipe_steps(name) == steps


def test_recipes_stand_before_their_variants() -> None:
    names = list(list_recipes())
    assert names.index("int8") < names.index("int8-full") and names.index("int4") < names.index("int4-even")


def test_every_recipe_has_a_line() -> None:
    assert all(len(line) > 10 and name_recipe_steps(name) for name, line in list_recipes().items())


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, trimodal.cli, trimodal.machine; from trimodal.catalogue import *; describe_methods();"
        "read_recipe_schema(); [name_recipe_steps(n) for n in list_recipes()];"
        "trimodal.machine.describe_environment();"
        "print(sorted({'torch', 'transformers', 'numpy', 'safetensors', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
