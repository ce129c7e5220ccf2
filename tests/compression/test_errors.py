"""Every place has an error: of an embedding that of the rows which were used, and of layers without a second moment too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trimodal.compression import compress_
from trimodal.core import Calibration, PlaceRecord, Plan, Sample, Source
from trimodal.loading.load import build_model
from trimodal.models.model import Model
from trimodal.planning import plan_edits, read_recipe

WIDTH, ROWS = 16, 64
USED = (3, 5, 5, 7)


class Speaker(nn.Module):
    """Looks rows up, adds positions in one of several ways, and reads the table again as its head."""

    def __init__(self, head: bool = False, positions: str = "call") -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, WIDTH)
        self.positions = nn.Embedding(32, WIDTH)
        self.middle = nn.Linear(WIDTH, WIDTH)
        self.mix = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=4)
        self.head = nn.Linear(WIDTH, ROWS, bias=False)
        self.how = positions
        if head:
            self.head.weight = self.table.weight

    def encode(self, samples: object) -> dict[str, Tensor]:
        return {"ids": torch.tensor([USED] * len(samples))}  # type: ignore[arg-type]

    def forward(self, ids: Tensor) -> Tensor:
        count = ids.shape[1]
        where = {
            "call": lambda: self.positions(torch.arange(count)),
            "slice": lambda: self.positions.weight[:count],
            "whole": lambda: torch.cat([self.positions.weight[None]])[0, :count],
        }[self.how]()
        x = self.middle(self.table(ids) + where)
        return self.head(self.mix(x.transpose(1, 2)).transpose(1, 2))


def compressed(module: Speaker, data: bool = True) -> tuple[Callable[[str], PlaceRecord], Model, dict[str, Tensor]]:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    model = build_model(module.eval(), "speaker")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    edits, _ = plan_edits(model.layout, read_recipe({"steps": [{"quantize.rtn": {"where": "*", "bits": 4}}]}), data=False)
    samples = [Sample(line=i, text="x") for i in range(4)] if data else []
    source = Source("speaker", "generic", "", 0, 0)
    plan = Plan(0, source, Calibration(len(samples), None, (), "modality"), edits, 0)
    records = [r for r in compress_(model, plan, samples, samples) if isinstance(r, PlaceRecord)]

    def of(path: str) -> PlaceRecord:
        name = model.layout.get_site(path).name
        return next(record for record in records if record.place == name)

    return of, model, before


def by_rows(before: Tensor, model: Model, path: str, counts: Tensor) -> float:
    after = model.module.get_submodule(path).weight.double()  # type: ignore[union-attr]
    change, energy = (before.double() - after).square().sum(1), before.double().square().sum(1)  # type: ignore[operator]
    return float(counts @ change / (counts @ energy))


def test_an_embeddings_error_is_that_of_the_rows_that_were_used() -> None:
    of, model, before = compressed(Speaker())
    counts = torch.bincount(torch.tensor(USED), minlength=ROWS).double()
    (error,) = of("table").error.values()
    assert error == pytest.approx(by_rows(before["table.weight"], model, "table", counts))
    assert of("table").tokens and set(of("table").tokens.values()) == {16}


@pytest.mark.parametrize(("how", "read"), [("call", 4), ("slice", 4), ("whole", 32)])
def test_positions_count_as_they_are_read(how: str, read: int) -> None:
    of, model, before = compressed(Speaker(positions=how))
    counts = torch.zeros(32).double()
    counts[:read] = 1
    (error,) = of("positions").error.values()
    assert error == pytest.approx(by_rows(before["positions.weight"], model, "positions", counts))


def test_a_tied_weight_has_the_error_of_where_it_does_worse() -> None:
    """A head whose input lies along a few directions errs otherwise than the rows that were looked up."""
    tied, model, before = compressed(Speaker(head=True))
    counts = torch.bincount(torch.tensor(USED), minlength=ROWS).double()
    looked_up = by_rows(before["table.weight"], model, "table", counts)
    (error,) = tied("table").error.values()
    assert error >= looked_up * (1 - 1e-9)


def test_a_convolution_in_groups_has_an_error() -> None:
    of, model, before = compressed(Speaker())
    seen: list[Tensor] = []
    middle = model.module.get_submodule("mix")
    middle.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        reference = build_model(Speaker().eval(), "again").module
        reference.load_state_dict(before)
        inputs: list[Tensor] = []
        reference.get_submodule("mix").register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        reference(torch.tensor([USED]))
        x = inputs[0]
        weight, bias = before["mix.weight"], before["mix.bias"]
        old = nn.functional.conv1d(x, weight, None, padding=1, groups=4)
        new = nn.functional.conv1d(x, middle.weight.float(), None, padding=1, groups=4)  # type: ignore[operator, union-attr]
    assert bias is not None
    (error,) = of("mix").error.values()
    # The layers before it are compressed when its input is seen, so the inputs differ a little from the original's.
    assert error == pytest.approx(float((old - new).square().sum() / old.square().sum()), rel=0.1)


def test_without_data_it_is_said_why_there_is_no_error() -> None:
    of, _, _ = compressed(Speaker(), data=False)
    assert of("table").error == {} and of("table").unmeasured == "no data was given"
