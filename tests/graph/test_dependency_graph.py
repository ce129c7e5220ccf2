"""Couplings found by watching a forward pass: every label that is found is cut, and the result compared with the model
that does not listen to what was cut. The cases are those of Torch-Pruning's suite, with modules of our own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.edits.cut import cut_units_
from trimodal.graph.layout import find_layout


class Module(nn.Module):
    """A module that can say what its forward takes."""

    shape: tuple[int, ...] = (2, 3, 8, 8)

    def example(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(1, *self.shape[1:])}

    def inputs(self) -> dict[str, Tensor]:
        return {name: torch.randn(2, *value.shape[1:]) for name, value in self.example().items()}


class ConcatSplit(Module):
    """Two branches are joined, read together, and split again."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.norm, self.both = nn.BatchNorm2d(10), nn.Conv2d(10, 12, 1)
        self.one, self.other = nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.left(x), self.right(x)), dim=1)
        one, other = self.both(self.norm(joined).relu()).chunk(2, dim=1)
        out: Tensor = self.head((self.one(one.relu()) * self.other(other.relu())).mean((2, 3)))
        return out


class SplitApart(ConcatSplit):
    """The halves are added, so that the split stays in the middle whatever is cut."""

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.left(x), self.right(x)), dim=1)
        one, other = self.both(self.norm(joined).relu()).chunk(2, dim=1)
        out: Tensor = self.head(self.one(one + other.relu()).mean((2, 3)))
        return out


class Flattened(Module):
    """A map becomes a vector: each channel is a block of height · width columns; and back again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6)
        self.pool, self.narrow = nn.MaxPool2d(2), nn.Linear(6 * 9, 20)
        self.wide, self.last = nn.Linear(20, 5 * 4), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(functional.silu(self.norm(self.conv(x)))).flatten(1)
        y = self.wide(functional.gelu(self.narrow(y))).reshape(len(x), -1, 2, 2)
        out: Tensor = self.last(y.relu())
        return out


class ChannelsLast(Module):
    """The map is flattened with its channels last, after they were permuted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(x).relu().permute(0, 2, 3, 1).reshape(len(x), -1))
        return out


class Unwrapped(Module):
    """A parameter outside of all layers is added to one stream and none to the other."""

    shape = (2, 5, 8)

    def __init__(self) -> None:
        super().__init__()
        self.up, self.scale, self.down = nn.Linear(8, 12), nn.Parameter(torch.ones(12)), nn.Linear(12, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.down((self.up(x) * self.scale).relu()).relu())
        return out


class TwoInTwoOut(Module):
    """Two inputs meet; there are two outputs, one of them an inner one."""

    def __init__(self) -> None:
        super().__init__()
        self.sees, self.reads = nn.Conv1d(4, 10, 3), nn.Linear(7, 10)
        self.inner, self.head, self.second = nn.Linear(10, 8), nn.Linear(8, 2), nn.Linear(10, 9)

    def example(self) -> dict[str, Tensor]:
        return {"sound": torch.zeros(1, 4, 20), "words": torch.zeros(1, 7)}

    def forward(self, sound: Tensor, words: Tensor) -> dict[str, Tensor]:
        joint = functional.adaptive_avg_pool1d(self.sees(sound), 1).squeeze(-1) + self.reads(words)
        inner = self.inner(joint.tanh())
        return {"scores": self.head(inner), "embedding": inner, "other": self.second(joint).relu().sum(1)}


class Scaled(nn.Module):
    """A layer of a kind that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.matrix).sort(dim=-1).values


class Customised(Module):
    """An unknown layer between known ones: what touches it stays."""

    shape = (2, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.own, self.second, self.third = nn.Linear(8, 6), Scaled(), nn.Linear(6, 10), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.third(self.second(self.own(self.first(x))).relu())
        return out


class Shared(Module):
    """One convolution runs twice, and so do its norm and its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.norm = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for _ in range(2):
            y = self.norm(self.twice(y)).relu()
        out: Tensor = self.head(y)
        return out


class Grouped(Module):
    """Pointwise, depthwise, grouped with two channels in and three out per group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.norm, self.point = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.grouped, self.head = nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.point(self.norm(self.depthwise(self.stem(x).relu())).relu())
        out: Tensor = self.head(self.grouped(y.relu()).relu())
        return out


class Residual(Module):
    """A residual stream through two blocks, with a gate from its mean (squeeze and excitation)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(8, 10, 3, padding=1) for _ in range(2))
        self.down = nn.ModuleList(nn.Conv2d(10, 8, 3, padding=1) for _ in range(2))
        self.squeeze, self.excite, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            y = y + down(up(y).relu())
        y = y * self.excite(functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        out: Tensor = self.head(functional.adaptive_avg_pool2d(y, 1).flatten(1))
        return out


class Attention(Module):
    """Attention whose code takes the number of heads from the weights; an embedding; a layer norm on the stream."""

    def __init__(self, heads: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.words, self.norm = nn.Embedding(11, 16), nn.LayerNorm(16)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.output, self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 24), nn.Linear(12, 16)

    def example(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(1, 5, dtype=torch.long)}

    def inputs(self) -> dict[str, Tensor]:
        return {"x": torch.randint(11, (2, 5))}

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x)
        shape = (*x.shape, self.heads or -1, 4 if not self.heads else self.query.out_features // self.heads)
        q, k, v = (layer(self.norm(y)).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        y = y + self.output(mixed.transpose(1, 2).reshape(*x.shape, -1))
        out: Tensor = y + self.down(functional.glu(self.up(y)))
        return out


class FixedSize(Module):
    """Code that names a size in a way that goes wrong without an error: groups of a fixed number are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y.view(len(x), 4, -1, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
        out: Tensor = self.head(y)
        return out


def layout_of(module: nn.Module) -> Layout:
    return find_layout(module)


def made(kind: Callable[[], Module]) -> Module:
    module = kind().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    return module


def run(module: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        found = module(**inputs)
    return [found] if isinstance(found, Tensor) else list(found.values())


EXPECTED: dict[type[Module], tuple[str, ...]] = {
    ConcatSplit: ("model.left.channels", "model.right.channels", "model.one.channels"),
    SplitApart: ("model.left.channels", "model.right.channels", "model.both.channels", "model.one.channels"),
    Flattened: ("model.conv.channels", "model.narrow.neurons", "model.wide.channels"),
    ChannelsLast: ("model.conv.channels",),
    Unwrapped: ("model.down.neurons",),
    TwoInTwoOut: ("model.sees.channels",),
    Customised: ("model.second.neurons",),
    Shared: ("model.stem.channels",),
    Grouped: ("model.stem.channels", "model.point.channels"),
    Residual: ("model.stem.channels", "model.0.channels", "model.1.channels", "model.squeeze.channels"),
    Attention: ("model.query.heads", "model.up.neurons"),
    FixedSize: (),
}


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
def test_labels_are_those_that_can_be_cut(kind: type[Module]) -> None:
    assert set(layout_of(made(kind)).list_labels()) == set(EXPECTED[kind])


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("kept_of", [lambda units: units[::2], lambda units: units[:1]], ids=["half", "one"])
def test_cut_model_equals_the_masked_one(kind: type[Module], kept_of: Callable[[range], range]) -> None:
    """For each label alone, and for all one after the other."""
    module = made(kind)
    layout, inputs = layout_of(module), module.inputs()
    cut_all, masked_all, reached = copy.deepcopy(module), copy.deepcopy(module), layout
    for label in layout.list_labels():
        consumers = [site for site in layout.sites if site.reads_label(label)]
        assert consumers[0].input_axis is not None
        units = range(consumers[0].input_axis.units_of(label))
        kept = list(kept_of(units))
        masked, cut = copy.deepcopy(module), copy.deepcopy(module)
        cut_units_(cut, layout, label, kept)
        cut_units_(cut_all, reached, label, kept)
        reached = reached.cut_units(label, kept)
        with torch.no_grad():
            for site in consumers:
                assert site.input_axis is not None
                gone = site.input_axis.entry_indices([unit for unit in units if unit not in kept], label)
                for whole in (masked, masked_all):
                    whole.get_parameter(f"{site.path}.weight")[:, gone] = 0.0
        for found, expected, before in zip(run(cut, inputs), run(masked, inputs), run(module, inputs), strict=True):
            assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)
            assert found.shape == before.shape
        assert any(
            not torch.allclose(a, b, atol=1e-4) for a, b in zip(run(cut, inputs), run(module, inputs), strict=True)
        )
        assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in module.parameters())
    for found, expected in zip(run(cut_all, inputs), run(masked_all, inputs), strict=True):
        assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)
    for site in reached.sites:
        assert tuple(cut_all.get_parameter(f"{site.path}.weight").shape) == site.shape


def fixed(kind: Callable[[], Module]) -> dict[str, str]:
    return {found.label: found.reason for found in layout_of(made(kind)).uncuttable}


def test_what_cannot_be_cut_says_why() -> None:
    assert "scale stands outside of all layers" in fixed(Unwrapped)["model.up.neurons"]
    assert "the model's output" in fixed(TwoInTwoOut)["model.inner.neurons"]
    assert "sum runs over it" in fixed(TwoInTwoOut)["model.second.neurons"]
    assert "own.matrix stands outside of all layers" in fixed(Customised)["model.first.neurons"]
    assert "a layer norm runs over it" in fixed(Attention)["model.words.neurons"]
    assert "names a size" in fixed(FixedSize)["model.conv.channels"]
    assert "names a size" in fixed(ConcatSplit)["model.both.channels"]
    assert fixed(Grouped)["model.head.channels"] == "it is the model's output"


def test_heads_whose_number_stands_in_the_code_are_left() -> None:
    layout = layout_of(made(lambda: Attention(heads=4)))
    assert layout.list_labels() == ("model.up.neurons",)
    assert "names a size" in {f.label: f.reason for f in layout.uncuttable}["model.query.heads"]


def test_joined_layers_are_several_axes_of_one_dimension() -> None:
    layout = layout_of(made(SplitApart))
    axis = layout.get_site("both").input_axis
    assert axis is not None and [(part.label, part.units) for part in axis.parts] == [
        ("model.left.channels", 4), ("model.right.channels", 6),
    ]  # fmt: skip
    assert axis.entry_indices([0, 2], "model.right.channels") == [4, 6]
    assert axis.kept_entry_indices([0, 2], "model.right.channels") == [0, 1, 2, 3, 4, 6]
    out = layout.get_site("both").output_axis
    assert out is not None and (out.units, out.width, out.repeats) == (6, 1, 2)
    assert Layout.from_json(layout.to_json()) == layout


def test_flattened_and_grouped_units_are_blocks() -> None:
    flat, last, grouped = (layout_of(made(kind)) for kind in (Flattened, ChannelsLast, Grouped))
    narrow, head, many = (
        flat.get_site("narrow").input_axis,
        last.get_site("head").input_axis,
        grouped.get_site("grouped").output_axis,
    )
    assert narrow is not None and (narrow.units, narrow.width, narrow.repeats) == (3, 18, 1)  # two channels a group
    assert head is not None and (head.units, head.width, head.repeats) == (6, 1, 9)
    assert many is not None and (many.units, many.width) == (4, 3)


def test_groups_are_counted_anew() -> None:
    module = made(Grouped)
    layout = layout_of(module)
    cut_units_(module, layout, "model.stem.channels", [1, 2, 5])
    cut_units_(module, layout, "model.point.channels", [0, 3])
    assert (module.depthwise.groups, module.depthwise.in_channels) == (3, 3)  # type: ignore[union-attr]
    assert (module.grouped.groups, module.grouped.in_channels) == (2, 4)  # type: ignore[union-attr]


def test_without_an_example_nothing_is_labelled() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    assert layout_of(module).list_labels() == () and layout_of(module).uncuttable == ()


def test_a_module_that_looks_at_values_says_so() -> None:
    class Looks(Module):
        shape = (2, 4)

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.down(self.up(x)) * (2.0 if float(x.sum()) > 0 else 1.0)
            return out

    layout = layout_of(Looks())
    assert layout.list_labels() == () and "does not run on tensors without values" in layout.uncuttable[0].reason


def test_tied_weights_stay() -> None:
    class Tied(Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.scores = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.scores.weight = self.words.weight

        def example(self) -> dict[str, Tensor]:
            return {"x": torch.zeros(1, 3, dtype=torch.long)}

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.scores(self.words(x))
            return out

    assert [f.reason for f in layout_of(Tied()).uncuttable] == ["its weight is tied to scores"]
