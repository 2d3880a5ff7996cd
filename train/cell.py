"""What a cell is, and how its weights begin.

A cell is a pure function ``(x, state) -> (y, state')``. `Cell` is all that the rest of the project
knows of one: layers run it over time, the exporter writes it as a graph, the contract names what it
carries. `docs/adding-a-cell.md` walks through a new one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class Carried(NamedTuple):
    """One tensor that a cell carries from step to step, for one stream; it begins at zero.

    Attributes:
        shape: Without the stream axis, which comes first.
        dtype: None: that of the weights.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None


class Cell(nn.Module, ABC):
    """One step in time of a recurrent layer.

    Args:
        inputs: Length of an input vector.
        hidden: Length of a hidden vector.

    Attributes:
        options: What a configuration may say about this kind of cell, beside its width.
        outputs: Length of an output vector.
        carried: What is carried, by the name that it has in the model file.
        cycle: Steps after which the cell is back in its own rhythm; 1 for one that has none.
    """

    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.hidden = hidden
        self.outputs = hidden
        self.carried: Mapping[str, Carried] = {}
        self.cycle = 1

    @classmethod
    def impossible(cls, hidden: int, **options: Any) -> str | None:  # noqa: ANN401, ARG003
        """Says why there can be no such cell, as ``what was wanted, what came``; None if it can."""
        return None

    def initial_state(self, streams: int) -> tuple[Tensor, ...]:
        """The state of streams that have seen nothing: zeros ``[stream, ...]``, as `carried`."""
        weight = next(self.parameters())
        return tuple(
            weight.new_zeros(streams, *shape, dtype=dtype) for shape, dtype in self.carried.values()
        )

    @abstractmethod
    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One sample of every stream.

        Args:
            x: Inputs ``[stream, inputs]``.
            state: One ``[stream, ...]`` for each of `carried`, in order.

        Returns:
            The output ``[stream, outputs]`` and the state after this sample.
        """


def input_weights(outputs: int, inputs: int, gates: int = 1) -> nn.Parameter:
    """Glorot & Bengio 2010, each gate on its own: stacking them must not change the scale.

    Args:
        outputs: Rows of a gate.
        inputs: Columns.
        gates: Blocks stacked along the first axis.

    Returns:
        ``[gates * outputs, inputs]``.
    """
    blocks = [nn.init.xavier_uniform_(torch.empty(outputs, inputs)) for _ in range(gates)]
    return nn.Parameter(torch.cat(blocks))


def recurrent_weights(hidden: int, gates: int = 1) -> nn.Parameter:
    """Orthogonal in every gate, so that a step neither grows nor shrinks what it repeats.

    Saxe, McClelland & Ganguli 2014.

    Args:
        hidden: Rows of a gate, and columns.
        gates: Blocks stacked along the first axis.

    Returns:
        ``[gates * hidden, hidden]``.
    """
    blocks = [nn.init.orthogonal_(torch.empty(hidden, hidden)) for _ in range(gates)]
    return nn.Parameter(torch.cat(blocks))


def bias(length: int) -> nn.Parameter:
    """Zeros ``[length]``."""
    return nn.Parameter(torch.zeros(length))


def gaussian_weights(outputs: int, inputs: int, deviation: float) -> nn.Parameter:
    """Independent normal numbers with mean zero, ``[outputs, inputs]``."""
    return nn.Parameter(torch.randn(outputs, inputs) * deviation)
