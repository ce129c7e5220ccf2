"""The sub-commands that say what there is: `methods`, `recipes`, `targets`, `doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimodal.application import add_command, print_result
from trimodal.arguments import JsonOption
from trimodal.catalogue import describe_methods, list_recipes, name_recipe_steps, read_recipe_schema
from trimodal.core import json_text
from trimodal.installed import METHODS, has_added
from trimodal.lazy import lazy_module
from trimodal.listings import (
    list_machine_rows,
    make_method_row,
    make_method_table,
    make_table,
    make_target_row,
    make_target_table,
)
from trimodal.machine import describe_environment, warnings_of
from trimodal.targets import list_targets, read_target

if TYPE_CHECKING:
    from trimodal import writing
    from trimodal.methods import description as descriptions
else:
    writing, descriptions = lazy_module("trimodal.writing"), lazy_module("trimodal.methods.description")


@add_command
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, to see its options.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods: paper, options, on what each works, and what the field calls it as it is by default."""
    found = descriptions.describe_known_methods(name) if has_added(METHODS) else describe_methods(name)
    if as_json:
        print_result(list(found))
    elif name is None:
        print_result(make_table(("method", "by default", "what it does", "works on"), [make_method_row(row) for row in found]))
        print_result("`trimodal methods NAME` shows the options of one.")
    else:
        print_result(make_method_table(found[0]))


@add_command
def recipes(
    as_json: JsonOption = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a recipe, for editors.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the schema to this file.", show_default=False)
    ] = None,
) -> None:
    """List the built-in recipes, with the field's short names for their steps."""
    if output is not None and not schema:
        raise typer.BadParameter("it says where the schema goes, and goes with --schema", param_hint="--output")
    if output is not None:
        writing.write_text_atomically(output, json_text(read_recipe_schema(), indent=1, ensure_ascii=False) + "\n")
        return
    if schema:
        print_result(read_recipe_schema())
        return
    known = list_recipes()
    rows = [(name, " + ".join(name_recipe_steps(name)), what) for name, what in known.items()]
    print_result(known if as_json else make_table(("recipe", "in short", "what it does"), rows))


@add_command
def targets(
    name: Annotated[str | None, typer.Argument(help="One target, or a YAML file, to see what it takes.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the targets: what can run a result, and what each takes."""
    if name is None:
        known = list_targets()
        rows = [make_target_row(read_target(one)) for one in known]
        print_result(known if as_json else make_table(("target", "format", "what it is", "this machine"), rows))
    else:
        found = read_target(name)
        print_result(json.loads(json_text(asdict(found))) if as_json else make_target_table(found))


@add_command
def doctor(as_json: JsonOption = False) -> None:
    """Show what a run depends on: versions, processor, threads, free memory and disk, optional parts and how to get them."""
    found = describe_environment()
    if as_json:
        print_result({**found.to_json(), "warnings": warnings_of(found)})
        return
    print_result(make_table(("", ""), list_machine_rows(found)))
    print_result(make_table(("optional part", "for", "there", "install with"), [
        (part.name, part.what, "yes" if part.is_installed else f"no: {', '.join(part.missing)}", "" if part.is_installed else part.install)
        for part in found.parts
    ]))  # fmt: skip
    for warning in warnings_of(found):
        print_result(f"careful: {warning}")
