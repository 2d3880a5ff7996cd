"""Cells over time, and layers of them on top of each other."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from train.cells import Cell

Unroll = Callable[[Cell, Tensor, tuple[Tensor, ...]], tuple[Tensor, tuple[Tensor, ...]]]
"""How a cell runs over time: ``(cell, x [time, stream, inputs], state) -> (y, state)``."""


def over_time(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Takes one step of the cell for each sample.

    Args:
        cell: The cell.
        x: Inputs ``[time, stream, inputs]``.
        state: The cell's state before the first sample, each ``[stream, hidden]``.

    Returns:
        Outputs ``[time, stream, hidden]`` and the state after the last sample.
    """
    outputs = []
    for x_t in x.unbind(0):  # [stream, inputs]
        y_t, state = cell.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs), state


class Stack(nn.Module):
    """Layers on top of each other; each reads the hidden vectors of the one below.

    Args:
        cell: Kind of every layer.
        inputs: Length of an input vector.
        hidden: Length of a hidden vector, the same in every layer.
        layers: Number of layers.

    Attributes:
        cells: The layers, lowest first.
        state_names: What is carried: ``h, c`` for one layer, ``h_1, c_1, h_2, ...`` for several.
    """

    def __init__(self, cell: type[Cell], inputs: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.cells = nn.ModuleList(
            cell(hidden if layer else inputs, hidden) for layer in range(layers)
        )
        numbers = [""] if layers == 1 else [f"_{layer}" for layer in range(1, layers + 1)]
        self._names_of = [tuple(name + number for name in cell.state_names) for number in numbers]
        self.state_names = tuple(name for names in self._names_of for name in names)

    def initial_state(self, streams: int) -> dict[str, Tensor]:
        """The state of streams that have seen nothing, each ``[stream, hidden]``."""
        return {
            name: zeros
            for cell, names in self._layers()
            for name, zeros in zip(names, cell.initial_state(streams), strict=True)
        }

    def forward(
        self, x: Tensor, state: dict[str, Tensor], unroll: Unroll = over_time
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs all layers over all samples.

        Args:
            x: Inputs ``[time, stream, inputs]``.
            state: The tensors of `state_names`; others are ignored.
            unroll: How a cell runs over time; the exporter brings its own.

        Returns:
            The highest layer's outputs ``[time, stream, hidden]`` and the state after them.
        """
        after: dict[str, Tensor] = {}
        for cell, names in self._layers():
            x, carried = unroll(cell, x, tuple(state[name] for name in names))
            after.update(zip(names, carried, strict=True))
        return x, after

    def _layers(self) -> list[tuple[Cell, tuple[str, ...]]]:
        """Each layer with the names of what it carries."""
        return list(zip((cast(Cell, cell) for cell in self.cells), self._names_of, strict=True))
