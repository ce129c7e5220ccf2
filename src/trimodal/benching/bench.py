"""The verb: what the user named, in every runtime, timed in turn on this machine.

    sources → variants (exported where nothing is) → for each component, batch and length: inputs, outputs compared, calls timed in turn
            → for each variant: a fresh process for load time, memory and integer nodes
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from trimodal.benching.conditions import Conditions, read_conditions
from trimodal.benching.fidelity import compare_outputs
from trimodal.benching.probe import Facts
from trimodal.benching.probing import probe_component
from trimodal.benching.timing import ROUNDS, Timing, Timings, time_in_turn
from trimodal.benching.torch_session import use_torch_threads
from trimodal.benching.variants import (
    Source,
    Variant,
    list_runtimes,
    list_variants,
    read_source,
)
from trimodal.errors import InputError
from trimodal.runtimes import Session
from trimodal.runtimes.example_inputs import make_inputs, varies_with_tokens
from trimodal.runtimes.model_limits import count_safe_words, limit_tokens

Tell = Callable[[str], None]
_THREADS = 2


@dataclass(frozen=True)
class Row:
    """One variant's component at one size.

    `ratio` is how many times as fast as the first row of its table, None where that cannot be told from noise; `cosines` are those to
    the first row's outputs on the same inputs, None where shapes differ. `file` is what was opened, `disk_bytes` its size with what
    lies beside it.
    """

    variant: str
    runtime: str
    component: str
    batch: int
    tokens: int | None
    timing: Timing
    ratio: float | None
    cosines: dict[str, float | None]
    file: str
    disk_bytes: int
    facts: Facts | None = None


@dataclass(frozen=True)
class Bench:
    """What was measured: rows in tables of one component, batch and length each, `noise` by table as a share of the time."""

    conditions: Conditions
    reference: str
    rows: tuple[Row, ...]
    noise: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "conditions": self.conditions.to_json()}


@dataclass(frozen=True)
class Size:
    """How much is given at once: samples, and tokens where texts are taken."""

    batch: int
    tokens: int

    def name(self, component: str, with_tokens: bool) -> str:
        """The table of a component at this size."""
        return f"{component}, batch {self.batch}" + (f", {self.tokens} tokens" if with_tokens else "")


def bench(
    out: str | Path, *models: str | Path, runtime: str | Sequence[str] | None = None, batch: Sequence[int] = (1,),
    tokens: Sequence[int] = (32,), threads: int | None = None, rounds: int = ROUNDS, tell: Tell | None = None,
) -> Bench:  # fmt: skip
    """Time what is named, side by side on this machine.

    Args:
        out: an artifact, a model's folder, or a folder that `trimodal export` wrote.
        models: others to compare with. A model as it was published is the reference if there is one, else `out` is.
        runtime: `onnxruntime`, `openvino`, `torch`, or several; `auto` for all that there are.
        batch: samples at once, one or more sizes.
        tokens: lengths of texts, for components that take any length.
        threads: for every runtime; by default two, or one where the machine has but one core.
        rounds: how often each is timed.
        tell: is told what goes on.

    Raises:
        InputError: something named cannot be used.
    """
    threads = min(_THREADS, os.cpu_count() or 1) if threads is None else threads
    sizes = _check_sizes(batch, tokens, threads, rounds)
    with tempfile.TemporaryDirectory() as scratch:
        sources = order_sources([read_source(named) for named in dict.fromkeys((str(out), *map(str, models)))])
        variants = list_variants(sources, list_runtimes(runtime), Path(scratch))
        return measure_variants(variants, sizes, read_conditions(threads), rounds, tell)


def order_sources(sources: Sequence[Source]) -> list[Source]:
    """The first model as it was published before all others: what they are compared with. Those of one name are called by their paths."""
    names = Counter(source.name for source in sources)
    named = [source if names[source.name] == 1 else replace(source, name=str(source.path)) for source in sources]
    first = next((source for source in named if source.plain), named[0])
    return [first, *(source for source in named if source is not first)]


def measure_variants(
    variants: Sequence[Variant], sizes: Sequence[Size], conditions: Conditions, rounds: int = ROUNDS, tell: Tell | None = None
) -> Bench:
    """Time every component that the first variant has, in all variants that have it too."""
    use_torch_threads(conditions.threads)
    sizes = _shorten_sizes(sizes, limit_tokens(variants[0].folder), tell)
    rows: list[Row] = []
    noise: dict[str, float] = {}
    for component in variants[0].files:
        having = [variant for variant in variants if component in variant.files]
        facts = {v.name: probe_component(v, component, sizes[0].batch, sizes[0].tokens, conditions.threads) for v in having}
        with ExitStack() as opened:
            sessions = {variant.name: _open(variant, component, conditions.threads, opened) for variant in having}
            for size in _list_sizes(variants[0], component, sizes):
                _tell(tell, f"timing {component}, batch {size.batch}, {len(having)} variants")
                made, found = _measure_size(having, sessions, component, size, conditions, rounds)
                rows += [replace(row, facts=facts[row.variant]) for row in made]
                noise[size.name(component, varies_with_tokens(variants[0].shapes[component]))] = found.noise
    return Bench(conditions, variants[0].name, tuple(rows), noise)


def _measure_size(
    variants: Sequence[Variant], sessions: dict[str, Session], component: str, size: Size, conditions: Conditions, rounds: int
) -> tuple[list[Row], Timings]:
    first = variants[0]
    inputs = make_inputs(first.shapes[component], size.batch, size.tokens, count_safe_words(first.folder))
    outputs = {variant.name: sessions[variant.name].run(inputs) for variant in variants}
    found = time_in_turn({name: partial(session.run, inputs) for name, session in sessions.items()}, conditions, rounds)
    texts = varies_with_tokens(first.shapes[component])
    rows = []
    for variant in variants:
        ratio = found.ratio_of(variant.name, first.name)
        cosines = compare_outputs(outputs[variant.name], outputs[first.name])
        shown = ratio if variant is first or found.is_told_apart(ratio) else None
        rows.append(Row(
            variant.name, variant.runtime, component, size.batch, size.tokens if texts else None, found.by_name[variant.name], shown,
            cosines, str(variant.files[component]), variant.sizes[component],
        ))  # fmt: skip
    return rows, found


def _shorten_sizes(sizes: Sequence[Size], limit: int | None, tell: Tell | None) -> list[Size]:
    """Texts no longer than the model takes them, each size once."""
    if limit is None or all(size.tokens <= limit for size in sizes):
        return list(sizes)
    _tell(tell, f"the model takes texts of at most {limit} tokens: longer ones are cut")
    return list(dict.fromkeys(Size(size.batch, min(size.tokens, limit)) for size in sizes))


def _list_sizes(variant: Variant, component: str, sizes: Sequence[Size]) -> list[Size]:
    """All sizes; where no text is taken, one for each batch."""
    if varies_with_tokens(variant.shapes[component]):
        return list(sizes)
    return list({size.batch: size for size in reversed(sizes)}.values())[::-1]


def _open(variant: Variant, component: str, threads: int, opened: ExitStack) -> Session:
    session = variant.open_session(component, threads)
    opened.callback(session.close)
    return session


def _check_sizes(batch: Sequence[int], tokens: Sequence[int], threads: int, rounds: int) -> list[Size]:
    """Every batch with every length.

    Raises:
        InputError: a number is less than one.
    """
    for name, numbers in (("batch", batch), ("tokens", tokens), ("threads", [threads]), ("rounds", [rounds])):
        if not numbers or any(number < 1 for number in numbers):
            raise InputError(f"{name} is {', '.join(map(str, numbers)) or 'empty'}; give numbers from 1")
    return [Size(one, length) for one in batch for length in tokens]


def _tell(tell: Tell | None, what: str) -> None:
    if tell is not None:
        tell(what)
