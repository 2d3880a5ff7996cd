"""Cells over time, layers of them on top of each other, and two stacks that read both ways."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from train.cell import Cell
from train.cells import CELLS, GRU, LSTM

Unroll = Callable[[Cell, Tensor, tuple[Tensor, ...]], tuple[Tensor, tuple[Tensor, ...]]]
"""How a cell runs over time: ``(cell, x [time, stream, inputs], state) -> (y, state)``."""

State = dict[str, Tensor]


def over_time(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Takes one step of the cell for each sample.

    Args:
        cell: The cell.
        x: Inputs ``[time, stream, inputs]``.
        state: The cell's state before the first sample, each ``[stream, ...]``.

    Returns:
        Outputs ``[time, stream, outputs]`` and the state after the last sample.
    """
    outputs = []
    for x_t in x.unbind(0):  # [stream, inputs]
        y_t, state = cell.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs), state


def in_one_call(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `over_time` but for rounding, in PyTorch's own loop where it has one: for training."""
    own = (True, 1, 0.0, False, False, False)  # biases, layers, dropout, train, both ways, batch
    before = [value.unsqueeze(0) for value in state]
    if isinstance(cell, GRU) and cell.reset == "after":
        inside = torch.cat([torch.zeros_like(cell.b[: 2 * cell.hidden]), cell.b_U])
        y, *after = torch.gru(x, before[0], [cell.W, cell.U, cell.b, inside], *own)
    elif isinstance(cell, LSTM) and cell.squash == "tanh":
        weights = [cell.W, cell.U, cell.b, torch.zeros_like(cell.b)]
        y, *after = torch.lstm(x, before, weights, *own)
    else:
        return over_time(cell, x, state)
    return y, tuple(value.squeeze(0) for value in after)


@final
class Stack(nn.Module):
    """Layers on top of each other; each reads the outputs of the one below (deep: Graves 2013).

    Args:
        kinds: Keys of `train.cells.CELLS`, lowest layer first.
        inputs: Length of an input vector.
        hidden: Length of a hidden vector, the same in every layer.
        options: What the configuration says about the cells; each takes what is its own.

    Attributes:
        cells: The layers, lowest first.
        outputs: Length of the highest layer's output vector.
        state_names: What is carried: ``h, c`` for one layer, ``h_1, c_1, h_2, ...`` for several.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        inputs: int,
        hidden: int,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        cells: list[Cell] = []
        for kind in kinds:
            own = {
                key: value for key, value in (options or {}).items() if key in CELLS[kind].options
            }
            cells.append(CELLS[kind](cells[-1].outputs if cells else inputs, hidden, **own))
        self.cells = nn.ModuleList(cells)
        self.outputs = cells[-1].outputs
        numbers = [""] if len(cells) == 1 else [f"_{layer}" for layer in range(1, len(cells) + 1)]
        self._names_of = [
            tuple(name + number for name in cell.carried)
            for cell, number in zip(cells, numbers, strict=True)
        ]
        self.state_names = tuple(name for names in self._names_of for name in names)

    def initial_state(self, streams: int) -> State:
        """The state of streams that have seen nothing: zeros, each ``[stream, ...]``."""
        return {
            name: zeros
            for cell, names in self._layers()
            for name, zeros in zip(names, cell.initial_state(streams), strict=True)
        }

    def forward(self, x: Tensor, state: State, unroll: Unroll = over_time) -> tuple[Tensor, State]:
        """Runs all layers over all samples.

        Args:
            x: Inputs ``[time, stream, inputs]``.
            state: The tensors of `state_names`; others are ignored.
            unroll: How a cell runs over time; the exporter brings its own.

        Returns:
            The highest layer's outputs ``[time, stream, outputs]`` and the state after them.
        """
        after: State = {}
        for cell, names in self._layers():
            x, carried = unroll(cell, x, tuple(state[name] for name in names))
            after.update(zip(names, carried, strict=True))
        return x, after

    def _layers(self) -> list[tuple[Cell, tuple[str, ...]]]:
        """Each layer with the names of what it carries."""
        return list(zip((cast(Cell, cell) for cell in self.cells), self._names_of, strict=True))


class Reading(NamedTuple):
    """What layers made of some samples.

    Attributes:
        due: The samples that it is about ``[time, stream, inputs]``.
        past: Outputs after each of them ``[time, stream, n]``.
        future: Outputs of the stack that came back to each of them from the samples behind it, that
            one not included, ``[time, stream, m]``; None where nothing looks ahead.
    """

    due: Tensor
    past: Tensor
    future: Tensor | None


@final
class Causal(nn.Module):
    """One stack that reads forward.

    Args:
        forth: The stack.
    """

    look_ahead = 0

    def __init__(self, forth: Stack) -> None:
        super().__init__()
        self.forth = forth
        self.outputs = (forth.outputs, 0)
        self.state_names = forth.state_names

    def initial_state(self, streams: int) -> State:
        """See `Stack.initial_state`."""
        return self.forth.initial_state(streams)

    def forward(self, x: Tensor, state: State, unroll: Unroll = over_time) -> tuple[Reading, State]:
        """See `BothWays.forward`; every sample is due at once."""
        past, after = self.forth(x, state, unroll)
        return Reading(x, past, None), after


@final
class BothWays(nn.Module):
    """Bidirectional with a bounded look-ahead (Schuster & Paliwal 1997).

    The forward stack is carried on for ever. The backward stack starts cold ``look_ahead`` samples
    behind the one that is due and runs back to the one after it, so what is due lags that many
    samples behind what came in. The two stacks meet at the very top and nowhere below (as in Peters
    et al. 2018): in layers that exchange what they read, a forecast would have seen what it
    foretells.

    The samples that wait are carried in ``buffer``. A stream that has seen nothing is taken to have
    stood at its mean, which is zero, so its first ``look_ahead`` readings are about no sample.

    Args:
        forth: The stack that reads forward.
        back: The stack that reads backward.
        inputs: Length of an input vector.
        look_ahead: Samples that the backward stack reads, at least one.

    Attributes:
        outputs: Lengths of ``past`` and ``future``.
        state_names: Those of ``forth``, and ``buffer``.
    """

    def __init__(self, forth: Stack, back: Stack, inputs: int, look_ahead: int) -> None:
        super().__init__()
        self.forth = forth
        self.back = back
        self.inputs = inputs
        self.look_ahead = look_ahead
        self.outputs = (forth.outputs, back.outputs)
        self.state_names = (*forth.state_names, "buffer")

    def initial_state(self, streams: int) -> State:
        """Zeros, each ``[stream, ...]``; ``buffer`` is ``[look_ahead, stream, inputs]``."""
        weight = next(self.parameters())
        buffer = weight.new_zeros(self.look_ahead, streams, self.inputs)
        return {**self.forth.initial_state(streams), "buffer": buffer}

    def forward(self, x: Tensor, state: State, unroll: Unroll = over_time) -> tuple[Reading, State]:
        """Reads samples, and hands out what became due.

        Args:
            x: Inputs ``[time, stream, inputs]``.
            state: The tensors of `state_names`; others are ignored.
            unroll: How a cell runs over time; the exporter brings its own.

        Returns:
            The reading of the ``time`` samples that became due, and the state after them.
        """
        time, streams = x.shape[0], x.shape[1]
        line = torch.cat([state["buffer"], x])  # [look_ahead + time, stream, inputs]
        due = line[:time]
        past, after = self.forth(due, state, unroll)
        # Sample t is due; its backward run reads t + look_ahead first and t + 1 last.
        ahead = torch.stack([line[k : k + time] for k in range(self.look_ahead, 0, -1)])
        runs = ahead.flatten(1, 2)  # [look_ahead, time * stream, inputs]
        back, _ = self.back(runs, self.back.initial_state(time * streams), unroll)
        future = back[-1].reshape(time, streams, -1)
        return Reading(due, past, future), {**after, "buffer": line[time:]}
