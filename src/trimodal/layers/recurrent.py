"""LSTM, GRU and RNN layers opened up, so that each of their weight matrices is a linear layer of its own.

PyTorch's `nn.LSTM`, `nn.GRU` and `nn.RNN` keep all matrices as plain parameters and never call a layer with them, so that nothing
can observe, replace or quantize one. `open_layers_` (`layers/opening.py`) puts a `Recurrent` in the place of each, with one `nn.Linear` per
matrix, all gates of a kind together as PyTorch has them:

    input.0   (gates · hidden, in)       what comes in from below      weight_ih_l0, bias_ih_l0
    hidden.0  (gates · hidden, hidden)   what it remembers             weight_hh_l0, bias_hh_l0
    project.0 (projection, hidden)       what it hands on              weight_hr_l0, of an LSTM with `proj_size`

numbered layer by layer, with `_reverse` behind the number for the other direction. It computes with the very same
operator on the very same weights, so that outputs are equal to the bit. Only where somebody must see or change the
inputs of a matrix (calibration's hooks, quantized inputs) does it go through time step by step and call the layers.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trimodal.layers.opened import has_hooks
from trimodal.layers.parametrization import quantizes_inputs

State = Tensor | tuple[Tensor, Tensor]
_KINDS: dict[type[nn.Module], str] = {nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn"}
_CELLS: dict[type[nn.Module], str] = {nn.LSTMCell: "lstm", nn.GRUCell: "gru", nn.RNNCell: "rnn"}
_NAMES = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size")


class Recurrent(nn.Module):
    """What an `nn.LSTM`, `nn.GRU` or `nn.RNN` computes; the same arguments, attributes and results, packed sequences too."""

    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int

    def __init__(self, old: nn.LSTM | nn.GRU | nn.RNN) -> None:
        super().__init__()
        self.kind = f"rnn_{old.nonlinearity}" if isinstance(old, nn.RNN) else _KINDS[type(old)]
        for name in _NAMES:
            setattr(self, name, getattr(old, name))
        self.input, self.hidden = nn.ModuleDict(), nn.ModuleDict()
        for number in self.numbers:
            self.input[number] = _make_linear(old, f"ih_l{number}")
            self.hidden[number] = _make_linear(old, f"hh_l{number}")
        if self.proj_size:
            self.project = nn.ModuleDict({number: _make_linear(old, f"hr_l{number}") for number in self.numbers})
        self.train(old.training)

    @property
    def numbers(self) -> list[str]:
        """What the pairs of matrices are called, in the order in which they run."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    def extra_repr(self) -> str:
        """For printing."""
        return self.kind

    def flatten_parameters(self) -> None:
        """Nothing to do: here for callers that call it on any recurrent layer."""

    def forward(
        self, input: Tensor | PackedSequence, hx: State | None = None
    ) -> tuple[Tensor | PackedSequence, State]:
        """Sequence (tokens, batch, columns) and first state -> sequence of the last layer's hidden states (tokens, batch, width),
        last state; as torch's own layers take and give them.

        Raises:
            ValueError: `input` is neither 2-d nor 3-d.
        """
        if isinstance(input, PackedSequence):
            first = self._permute_state(self._initial_state(hx, input.data, int(input.batch_sizes[0]), True), input.sorted_indices)
            y, last = self._run_layers(input.data, first, input.batch_sizes)
            packed = PackedSequence(y, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            return packed, self._permute_state(last, input.unsorted_indices)
        if input.dim() not in (2, 3):
            raise ValueError(f"{self.kind.upper()}: expected input to be 2D or 3D, got {input.dim()}D")
        batched, along = input.dim() == 3, 0 if self.batch_first else 1
        x = input if batched else input.unsqueeze(along)
        y, last = self._run_layers(x, self._initial_state(hx, x, x.shape[along], batched), None)
        if batched:
            return y, last
        return y.squeeze(along), last.squeeze(1) if isinstance(last, Tensor) else (last[0].squeeze(1), last[1].squeeze(1))

    def _initial_state(self, given: State | None, x: Tensor, batch: int, batched: bool) -> State:
        """The state before the first step, (layers · directions, batch, hidden) each, of an LSTM with a projection first that;
        zeros if none is given."""
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: 2 if self.kind == "lstm" else 1]
        shapes = [(len(self.numbers), batch, width) for width in widths]
        if given is None:
            zeros = [torch.zeros(shape, dtype=x.dtype, device=x.device) for shape in shapes]
            return (zeros[0], zeros[1]) if self.kind == "lstm" else zeros[0]
        states = [given] if isinstance(given, Tensor) else list(given)
        states = [state if batched else state.unsqueeze(1) for state in states]
        found = [tuple(state.shape) for state in states]
        if found != shapes:
            wanted = " and ".join(map(str, dict.fromkeys(shapes)))
            raise RuntimeError(f"{self.kind.upper()}: expected a first state of shape {wanted}, got {found}")
        return (states[0], states[1]) if self.kind == "lstm" else states[0]

    def _permute_state(self, state: State, order: Tensor | None) -> State:
        if order is None:
            return state
        if isinstance(state, Tensor):
            return state.index_select(1, order)
        return state[0].index_select(1, order), state[1].index_select(1, order)

    def _run_layers(self, x: Tensor, first: State, batch_sizes: Tensor | None) -> tuple[Tensor, State]:
        if any(_must_be_called(layer) for part in self.children() for layer in part.children()):
            return self._run_stepwise(x, first, batch_sizes)
        weights, biased = self._collect_weights()
        rest = (weights, biased, self.num_layers, self.dropout, self.training, self.bidirectional)
        operator: Any = getattr(torch._VF, self.kind)  # type: ignore[attr-defined]
        if batch_sizes is None:
            y, *last = operator(x, first, *rest, self.batch_first)
        else:
            y, *last = operator(x, batch_sizes, first, *rest)
        return y, (last[0], last[1]) if self.kind == "lstm" else last[0]

    def _collect_weights(self) -> tuple[list[Tensor], bool]:
        """All weights and biases as PyTorch's operators take them, and whether there are any biases."""
        layers = [(self.input[number], self.hidden[number]) for number in self.numbers]
        biased = any(layer.bias is not None for pair in layers for layer in pair)
        found: list[Tensor] = []
        for pair in layers:
            weights: list[Tensor] = [layer.weight for layer in pair]  # type: ignore[misc]
            found += weights
            if biased:
                biases = [layer.bias for layer in pair]
                found += [w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)]  # type: ignore[misc]
            if self.proj_size:
                found.append(self.project[self.numbers[len(found) // (5 if biased else 3)]].weight)  # type: ignore[arg-type]
        return found, biased

    def _run_stepwise(self, x: Tensor, first: State, batch_sizes: Tensor | None) -> tuple[Tensor, State]:
        """The same through calls of the layers: each input layer once with all that comes in, each hidden layer once per
        step with the rows that have not ended."""
        transposed = batch_sizes is None and not self.batch_first  # layers see (batch, time, n), as everywhere else
        x = x.transpose(0, 1) if transposed else x
        last: list[tuple[Tensor, ...]] = []
        per_layer = 2 if self.bidirectional else 1
        for number, name in enumerate(self.numbers):
            if number % per_layer == 0:
                if number and self.training and self.dropout:
                    x = nn.functional.dropout(x, self.dropout)
                outputs = []
            state: tuple[Tensor, ...]
            state = (first[number],) if isinstance(first, Tensor) else (first[0][number], first[1][number])
            gates = self.input[name](x)
            y, state = self._run_direction(gates, state, name, batch_sizes)
            outputs.append(y)
            last.append(state)
            if len(outputs) == per_layer:
                x = torch.cat(outputs, dim=-1)
        states = [torch.stack(parts) for parts in zip(*last, strict=True)]
        y = x.transpose(0, 1) if transposed else x
        return y, (states[0], states[1]) if self.kind == "lstm" else states[0]

    def _run_direction(
        self, gates: Tensor, state: tuple[Tensor, ...], name: str, batch_sizes: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Hidden states in the order of `gates` (batch, time, gates · hidden) or packed (rows, gates · hidden), and the
        last state, of one direction of one layer. Sequences of a pack are sorted, the longest first."""
        packed = batch_sizes is not None
        sizes = batch_sizes.tolist() if batch_sizes is not None else [gates.shape[0]] * gates.shape[1]
        starts = [0, *accumulate(sizes)]
        steps: list[Tensor] = [gates[:0]] * len(sizes)
        reverse = name.endswith("_reverse")
        for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
            now = gates[starts[t] : starts[t + 1]] if packed else gates[:, t]
            running, rest = tuple(s[: sizes[t]] for s in state), tuple(s[sizes[t] :] for s in state)
            new = run_cell(self.kind, now, running, self.hidden[name](running[0]))
            new = (self.project[name](new[0]), *new[1:]) if self.proj_size else new
            steps[t] = new[0]
            state = tuple(torch.cat(pair) for pair in zip(new, rest, strict=True)) if len(rest[0]) else new
        return torch.cat(steps) if packed else torch.stack(steps, dim=1), state


class RecurrentCell(nn.Module):
    """What an `nn.LSTMCell`, `nn.GRUCell` or `nn.RNNCell` computes, one step, through the linear layers `input` and `hidden`."""

    def __init__(self, old: nn.LSTMCell | nn.GRUCell | nn.RNNCell) -> None:
        super().__init__()
        self.kind = f"rnn_{old.nonlinearity}" if isinstance(old, nn.RNNCell) else _CELLS[type(old)]
        self.input_size, self.hidden_size = old.input_size, old.hidden_size
        self.input, self.hidden = _make_linear(old, "ih"), _make_linear(old, "hh")
        self.train(old.training)

    def extra_repr(self) -> str:
        """For printing."""
        return self.kind

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        """Input (batch, columns) or (columns,) and the state before -> the state after, as torch's own cells take and give them."""
        shape = (*input.shape[:-1], self.hidden_size)
        zeros = torch.zeros(shape, dtype=input.dtype, device=input.device)
        state = (zeros, zeros) if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
        found = run_cell(self.kind, self.input(input), state, self.hidden(state[0]))
        return (found[0], found[1]) if self.kind == "lstm" else found[0]


def run_cell(kind: str, below: Tensor, state: tuple[Tensor, ...], before: Tensor) -> tuple[Tensor, ...]:
    """One step: what both matrices give (batch, gates · hidden) and the old state -> the new state."""
    if kind == "lstm":
        i, f, g, o = (below + before).chunk(4, dim=-1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if kind != "gru":
        return ((below + before).tanh() if kind == "rnn_tanh" else (below + before).relu(),)
    r, z, n = below.chunk(3, dim=-1)
    hidden_r, hidden_z, hidden_n = before.chunk(3, dim=-1)
    reset, update = (r + hidden_r).sigmoid(), (z + hidden_z).sigmoid()
    new = (n + reset * hidden_n).tanh()
    return (new + update * (state[0] - new),)


def can_open_recurrent(part: nn.Module) -> bool:
    """Whether `part` is an `nn.LSTM`, `nn.GRU` or `nn.RNN`."""
    return type(part) in _KINDS


def can_open_cell(part: nn.Module) -> bool:
    """Whether `part` is an `nn.LSTMCell`, `nn.GRUCell` or `nn.RNNCell`."""
    return type(part) in _CELLS


def _make_linear(old: nn.Module, name: str) -> nn.Linear:
    """The matrix called `name` as a layer."""
    weight: nn.Parameter = getattr(old, f"weight_{name}")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = weight
    bias = getattr(old, f"bias_{name}", None)
    layer.bias = bias if isinstance(bias, nn.Parameter) else None  # type: ignore[assignment]
    return layer


def _must_be_called(layer: nn.Module) -> bool:
    """Whether it is not enough to use the layer's weight: somebody listens, or its input is quantized."""
    return any(has_hooks(part) or quantizes_inputs(getattr(part, "stored", None)) for part in layer.modules())
