"""The parts that a family declares: layers, attentions, perceptrons, and towers of them. `models/declare.py` makes sites of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trimodal.core import Tower

OWN = "."  # the stream of the tower that a part is declared in


@dataclass(frozen=True)
class LayerPart:
    """One module with a weight. `branch` tells it apart from others of its role in the same block; `channels` names
    the label that its input and output channels carry, each empty if none. `stream` names the towers whose streams it
    reads and writes to, `OWN` for its own and empty for none, where that is not what its role says; a norm on a stream
    writes to it. `sizes` are attributes that say how wide the stream is that it reads."""

    path: str
    role: str
    branch: str = ""
    channels: tuple[str, str] = ("", "")
    stream: tuple[str, str] | None = None
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttentionPart:
    """Query, key, value and output projection, which share the axis `heads`. Paths that are the same mean one weight for all
    of them, in that order; where it is `interleaved`, query, key and value of one head stand together.

    `width` is the attribute that holds the width of one head; without it the heads cannot be cut. A unit is one
    key-value head together with all query heads that read from it. `heads` are attributes that count query heads,
    `sizes` attributes that count entries; both change when heads are cut. The norms are those of query and key
    before their product, where there are any. `memory` is the tower whose stream keys and values read, empty if none.

    Attributes named `heads`, `key_heads` (which count key-value heads) and `sizes` may be of the attention's own
    configuration (`self_attn.config.num_attention_heads`). `positions` are layers that make keys, and then queries, of
    positions, `table` is an embedding of a number per head for each distance, `per_head` are bare parameters of a number per
    query head. `together`: the heads of all blocks are cut together, as something that they share counts them.
    `whole_heads` is the reason why they cannot be cut; then there is no `width`. `late_norms`: those of query and key run when
    all three are made.
    """

    query: str
    key: str
    value: str
    output: str
    width: str = ""
    heads: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    branch: str = ""
    query_norm: str = ""
    key_norm: str = ""
    memory: str = OWN
    interleaved: bool = False
    key_heads: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    table: str = ""
    per_head: tuple[str, ...] = ()
    together: bool = False
    whole_heads: str = ""
    late_norms: bool = False


def declare_attention(
    path: str, query: str, key: str, value: str, output: str, *, width: str = "", heads: tuple[str, ...] = (),
    key_heads: tuple[str, ...] = (), sizes: tuple[str, ...] = (), norms: tuple[str, str] = ("", ""), positions: tuple[str, ...] = (),
    table: str = "", per_head: tuple[str, ...] = (), branch: str = "", memory: str = OWN, interleaved: bool = False,
    late_norms: bool = False, together: bool = False, whole_heads: str = "",
) -> AttentionPart:  # fmt: skip
    """The attention whose layers and attributes stand below `path`; `norms` are those of query and key."""

    def below(name: str) -> str:
        return f"{path}.{name}" if name else ""

    def all_below(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(below, names))

    return AttentionPart(
        below(query), below(key), below(value), below(output), below(width), all_below(heads), all_below(sizes), branch,
        below(norms[0]), below(norms[1]), memory, interleaved, all_below(key_heads), all_below(positions), below(table),
        all_below(per_head), together, whole_heads, late_norms,
    )  # fmt: skip


@dataclass(frozen=True)
class MlpPart:
    """Layer up (and gate), activation, layer down, which share the axis `neurons`. `up` runs after `gate`, or is the same
    weight: first all of the gate and then all of up, or the other way round; `interleaved` if those of one neuron stand together.

    `roles` are those of up and down where they are not just that, such as a projector's, and `stream` names the towers
    whose streams it reads and writes to. `biases` are bare parameters that are added to what up and down of fused experts give.
    """

    up: str
    down: str
    gate: str = ""
    branch: str = ""
    roles: tuple[str, str] = ("up", "down")
    stream: tuple[str, str] = (OWN, OWN)
    interleaved: bool = False
    biases: tuple[str, str] = ("", "")


AnyPart = LayerPart | AttentionPart | MlpPart


@dataclass(frozen=True)
class TowerPart:
    """One tower: `stem`, then each of the `blocks`, then `head`, all paths from `root`; then `after`, whose paths start
    at the model.

    `blocks` is a path that may hold `*` for each child of a list (`stages.*.layers.*`); `block` says what one holds,
    and parts that a block lacks are skipped. `between` holds parts that run after the block at that path, paths from
    `root`. `whole_tokens`, `protected` and `restored` say whether and how its tokens can be merged, see `ModalityTower`; so do
    `whole_blocks`, `counted` and `read_by` for removing blocks, and `whole_reading`, `projector` and `reader`, two paths from the
    model, `placeholder` and `handed`, for a decoder that reads fewer of them. `whole_width` is the reason why none of its stream's
    dimensions can be removed, empty if they can. Those of the piece with the blocks count. `free_parameters` are parameters in no
    part whose last dimension is the stream's, by their names from `root`. `stream` is the tower whose stream runs through this
    one too: encoder and decoder that use one embedding are cut together. `held` are attributes, paths from the model, that hold how wide
    the stream once was and are calculated with, so that they stay.
    """

    name: str
    modality: str
    root: str = ""
    stem: tuple[AnyPart, ...] = ()
    blocks: str = ""
    block: tuple[AnyPart, ...] = ()
    between: Mapping[str, tuple[AnyPart, ...]] = field(default_factory=dict)
    head: tuple[AnyPart, ...] = ()
    after: tuple[AnyPart, ...] = ()
    whole_tokens: str = Tower.whole_tokens
    protected: int = 0
    restored: bool = False
    whole_reading: str = Tower.whole_reading
    projector: str = ""
    reader: str = ""
    placeholder: str = ""
    handed: int = 0
    whole_blocks: str = ""
    counted: str = "num_hidden_layers"
    read_by: str = ""
    whole_width: str = "nobody has declared which layers read its stream and which write to it"
    free_parameters: tuple[str, ...] = ()
    stream: str = OWN
    held: tuple[str, ...] = ()
