"""How a tower's blocks are called, what one batch becomes on its way through them, and who counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache

from trimodal.core import Tower
from trimodal.errors import ModelError, TrimodalError
from trimodal.models.foreign import StopForward, run_forward
from trimodal.models.model import Batch

Call = tuple[tuple[Any, ...], dict[str, Any]]

_PER_BLOCK = ("layer_types", "no_rope_layers")  # lists in configurations with one entry per block


def split_block_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The hidden states and the further arguments of a block's call."""
    if args:
        return args[0], args[1:], kwargs
    name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
    return kwargs[name], (), {key: value for key, value in kwargs.items() if key != name}


def drop_cache(argument: Any) -> Any:
    """None for a decoder's cache: a block that runs again would attend to what it wrote there the first time."""
    return None if isinstance(argument, Cache) else argument


def get_hidden_states(output: Any) -> Any:
    """The hidden states that a block returns, alone or before others."""
    return output if isinstance(output, Tensor) else output[0]


@dataclass
class BlockTrace:
    """One batch's way through the blocks of a tower: `states` (batch, tokens, width), what went into the first block and
    what each one gave, and the further arguments of every call."""

    blocks: Sequence[nn.Module]
    states: list[Tensor]
    calls: list[Call]

    def run_block(self, number: int, hidden: Tensor) -> Tensor:
        """What block `number` makes of `hidden` (batch, tokens, width); the other arguments are those of the traced call."""
        args, kwargs = self.calls[number]
        found: Tensor = get_hidden_states(self.blocks[number](hidden, *args, **kwargs))
        return found


def trace_blocks(module: nn.Module, paths: Sequence[str], batch: Batch) -> BlockTrace | None:
    """The way of `batch` through the blocks at `paths`; None if it does not reach them.

    Raises:
        TrimodalError: a block is given something else than what the one before it gave.
    """
    found = BlockTrace([module.get_submodule(path) for path in paths], [], [])

    def before(number: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, rest, named = split_block_inputs(args, kwargs)
            if number == 0:
                found.states, found.calls = [hidden], []
            elif len(found.calls) != number or hidden is not found.states[-1]:
                raise TrimodalError(f"{paths[number]} is not given what {paths[number - 1]} gives, so that none can be spared")
            found.calls.append((tuple(map(drop_cache, rest)), {k: drop_cache(v) for k, v in named.items()}))

        return hook

    def after(_: nn.Module, args: Any, output: Any) -> None:
        found.states.append(get_hidden_states(output))
        if len(found.states) > len(paths):
            raise StopForward

    handles = [b.register_forward_pre_hook(before(i), with_kwargs=True) for i, b in enumerate(found.blocks)]
    handles += [block.register_forward_hook(after) for block in found.blocks]
    try:
        with suppress(StopForward):
            run_forward(module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found if found.states else None


def count_read_blocks(module: nn.Module, tower: Tower) -> int:
    """How many blocks the tower's states run through before they are read the last time; those behind are idle."""
    settings = [value for config in _iter_configs(module) for value in _read_layer_setting(config, tower)]
    numbers = [_to_block_counts(value, len(tower.blocks)) for value in settings]
    return max((max(places) for places in numbers), default=len(tower.blocks))


def renumber_blocks_(module: nn.Module, tower: Tower, kept: Sequence[int]) -> None:
    """Let configurations and blocks count anew, after all blocks of `tower` but those with the numbers `kept` are gone.
    `module` has the new blocks already."""
    for config in _iter_configs(module):
        for value in list(_read_layer_setting(config, tower)):
            places = [sum(number < place for number in kept) for place in _to_block_counts(value, len(tower.blocks))]
            left = [place - len(kept) - 1 for place in places]  # counted from the end, as 0 stands for the embedding
            setattr(config, tower.read_by, left if isinstance(value, list | tuple) else left[0])
    for config in _iter_tower_configs(module, tower):
        for name in _PER_BLOCK:
            entries = getattr(config, name, None)
            if isinstance(entries, list | tuple) and len(entries) == len(tower.blocks):
                setattr(config, name, [entries[number] for number in kept])
        if hasattr(config, tower.counted):
            setattr(config, tower.counted, len(kept))
    for number, path in enumerate(tower.blocks[: len(kept)]):
        for part in module.get_submodule(path).modules():
            if isinstance(vars(part).get("layer_idx"), int):
                part.layer_idx = number  # type: ignore[assignment]


def block_list_of(module: nn.Module, tower: Tower) -> nn.ModuleList:
    """The list that holds all blocks of `tower` and nothing else.

    Raises:
        ModelError: there is no such list.
    """
    path = tower.blocks[0].rpartition(".")[0]
    found = module.get_submodule(path)
    if not isinstance(found, nn.ModuleList) or [f"{path}.{i}" for i in range(len(found))] != list(tower.blocks):
        raise ModelError(f"the blocks of {tower.name} do not stand in one list")
    return found


def _iter_configs(module: nn.Module) -> Iterator[Any]:
    """All configurations in the module, each once, with those inside of others."""
    seen: set[int] = set()
    waiting = [part.config for part in module.modules() if hasattr(part, "config")]
    while waiting:
        config = waiting.pop(0)
        if id(config) not in seen:
            seen.add(id(config))
            waiting += [getattr(config, name) for name in getattr(config, "sub_configs", {}) if hasattr(config, name)]
            yield config


def _iter_tower_configs(module: nn.Module, tower: Tower) -> Iterator[Any]:
    """The configurations that tell how many blocks the tower has: its own, and copies of it in other places."""
    path, own = tower.blocks[0], None
    while own is None and path:
        path = path.rpartition(".")[0]
        own = getattr(module.get_submodule(path), "config", None)
    kind = getattr(own, "model_type", None)
    return (config for config in _iter_configs(module) if own is not None and getattr(config, "model_type", None) == kind)


def _read_layer_setting(config: Any, tower: Tower) -> Iterator[Any]:
    """What `config` says of the blocks after which the tower is read."""
    value = getattr(config, tower.read_by, None) if tower.read_by else None
    if isinstance(value, int | list | tuple):
        yield value


def _to_block_counts(value: Any, blocks: int) -> list[int]:
    """After how many of the `blocks` each state is read: 0 and -blocks-1 stand for what the first one is given."""
    values = value if isinstance(value, list | tuple) else [value]
    return [number if number >= 0 else blocks + 1 + number for number in values]
