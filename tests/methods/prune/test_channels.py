"""Channels that several layers write and read: by group norm where no single consumer can be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from trimodal.core import Axis, Place, Site
from trimodal.methods.options import build_config
from trimodal.methods.prune.structured import CHANNELS, compute_group_norms, uses_hessian

STAGE = Axis("image.stage.0.channels", 3)


def site(path: str, shape: tuple[int, ...], kind: Any = "conv", **axes: Axis) -> Site:
    return Site(path, "image", 0, "conv", kind, shape, **axes)  # type: ignore[arg-type]


def residual() -> tuple[Place, dict[str, torch.Tensor]]:
    """Two convolutions write three channels, a norm scales them, two layers read them."""
    sites = (
        site("one", (3, 2, 1, 1), output_axis=STAGE),
        site("norm", (3,), "norm", output_axis=STAGE),
        site("other", (3, 1, 1, 1), output_axis=STAGE),
        site("reads", (1, 3, 1, 1), input_axis=STAGE),
        site("head", (1, 6), "linear", input_axis=Axis("", 3, then=(STAGE,))),
    )
    weights = {
        "one.weight": torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]]).view(3, 2, 1, 1),
        "norm.weight": torch.tensor([1.0, 2.0, 0.5]),
        "other.weight": torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1, 1),
        "reads.weight": torch.tensor([1.0, 0.0, 3.0]).view(1, 3, 1, 1),
        "head.weight": torch.tensor([[9.0, 9.0, 9.0, 1.0, 1.0, 0.0]]),
    }
    return Place(STAGE.label, sites, STAGE.label), weights


def test_worked_example() -> None:
    """Unit 0: 1+4 + 1 + 0 + 1 + 1; unit 1: 1 + 4 + 1 + 0 + 1; unit 2: 1 + 0.25 + 1 + 9 + 0."""
    place, weights = residual()
    assert compute_group_norms(place, weights).tolist() == pytest.approx([8.0, 7.0, 11.25])
    change = CHANNELS.solve(place, weights, None, build_config(CHANNELS.config, {"sparsity": 0.34}, ""))  # type: ignore[misc]
    assert change.cut is not None and change.cut.kept == (0, 2) and change.cut.weight is None
    assert change.notes == ("chosen by magnitude: no single consumer",)


def test_several_consumers_need_no_data_and_one_does() -> None:
    place, _ = residual()
    config = build_config(CHANNELS.config, {}, "")
    assert CHANNELS.wants(place, config) is None
    single = replace(place, sites=place.sites[:4])
    assert uses_hessian(single, config) and CHANNELS.wants(single, config) == "moment"
    assert CHANNELS.wants(single, build_config(CHANNELS.config, {"score": "magnitude"}, "")) is None


def test_a_layer_that_reads_its_own_units_goes_by_magnitude() -> None:
    own = site("own", (3, 3, 1, 1), input_axis=STAGE, output_axis=STAGE)
    place = Place(STAGE.label, (own,), STAGE.label)
    assert not uses_hessian(place, build_config(CHANNELS.config, {}, ""))


def test_forecast_cuts_only_the_labelled_part_of_a_joined_dimension() -> None:
    place, _ = residual()
    after = {s.path: s for s in CHANNELS.forecast(place, build_config(CHANNELS.config, {"sparsity": 0.34}, ""))}
    assert {path: s.shape for path, s in after.items()} == {
        "one": (2, 2, 1, 1), "norm": (2,), "other": (2, 1, 1, 1), "reads": (1, 2, 1, 1), "head": (1, 5),
    }  # fmt: skip


def test_update_of_one_part_leaves_the_other_part_of_a_joined_input(layer: Any, solve: Any) -> None:
    """Second order on the last 48 of 96 joined columns: the first 48 stay, and make up for what goes."""
    assert CHANNELS.solve is not None
    label = "image.0.channels"
    joined = site("layer", (64, 96), "linear", input_axis=Axis("", 48, then=(Axis(label, 48),)))
    config = build_config(CHANNELS.config, {"sparsity": 0.5}, "")
    change = CHANNELS.solve(Place(label, (joined,), label), {"layer.weight": layer.weight}, layer.moment, config)
    assert change.cut is not None and change.cut.weight is not None and change.cut.weight.shape == (64, 72)
    whole, plain = torch.zeros_like(layer.weight), torch.zeros_like(layer.weight)
    columns = joined.input_axis.kept_entry_indices(change.cut.kept, label)  # type: ignore[union-attr]
    whole[:, columns] = change.cut.weight
    plain[:, columns] = layer.weight[:, columns]
    assert layer.error(whole) < 0.5 * layer.error(plain)


@pytest.mark.parametrize("name", ["resnet", "resnet-basic"])
def test_streams_of_residual_stages_are_cut_through_all_their_blocks(compressed: Any, name: str) -> None:
    done = compressed(name, [{"prune.channels": {"where": "image.stage.*", "sparsity": 0.25}}])
    (edit,) = done.plan.edits
    assert [place.name for place in edit.places] == [f"image.stage.{number}.channels" for number in range(3)]
    widths = {name: module.out_channels for name, module in done.model.module.named_modules() if hasattr(module, "out_channels")}
    assert {width for path, width in widths.items() if path.endswith("shortcut.convolution")} == {12, 24}
    assert all(record.error and max(record.error.values()) < 1 for record in done.records)


def test_without_data_channels_go_by_magnitude(compressed: Any) -> None:
    done = compressed("resnet", [{"prune.channels": {"score": "magnitude"}}], data=False)
    assert len(done.records) == len(done.model.layout.list_labels()) and not any(record.notes for record in done.records)
