"""One step of each recurrent cell, written as in its paper, and the table of all cells.

A cell is a pure function ``(x, state) -> (y, state')``; its parameters carry the papers' names.
``W`` acts on the input, ``U`` on the previous hidden vector, ``b`` is the bias. Gates are stacked
along the first axis, in the order in which `step` splits them.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn


class Cell(nn.Module, ABC):
    """One step in time of a recurrent layer.

    Args:
        inputs: Length of an input vector.
        hidden: Length of a hidden vector.

    Attributes:
        state_names: What is carried from step to step; the output ``y`` is the first of them.
        gates: Number of blocks stacked in ``W``, ``U`` and ``b``.
        W: Input weights ``[gates * hidden, inputs]``.
        U: Recurrent weights ``[gates * hidden, hidden]``.
        b: Bias ``[gates * hidden]``.
    """

    state_names: ClassVar[tuple[str, ...]]
    gates: ClassVar[int]

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.hidden = hidden
        self.W = nn.Parameter(torch.empty(self.gates * hidden, inputs))
        self.U = nn.Parameter(torch.empty(self.gates * hidden, hidden))
        self.b = nn.Parameter(torch.zeros(self.gates * hidden))
        # Each gate on its own: stacking them is a matter of layout and must not change the scale.
        for gate in range(self.gates):
            block = slice(gate * hidden, (gate + 1) * hidden)
            nn.init.xavier_uniform_(self.W[block])  # Glorot & Bengio 2010
            nn.init.orthogonal_(self.U[block])  # Saxe, McClelland & Ganguli 2014

    def initial_state(self, streams: int) -> tuple[Tensor, ...]:
        """The state of streams that have seen nothing: zeros, each ``[stream, hidden]``."""
        return tuple(self.U.new_zeros(streams, self.hidden) for _ in self.state_names)

    @abstractmethod
    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One sample of every stream.

        Args:
            x: Inputs ``[stream, inputs]``.
            state: One ``[stream, hidden]`` for each of `state_names`.

        Returns:
            The output ``[stream, hidden]`` and the state after this sample.
        """


@final
class Elman(Cell):
    """The simple recurrent network (Elman 1990, "Finding structure in time").

    ``h' = tanh(W x + U h + b)``
    """

    state_names = ("h",)
    gates = 1

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Cell.step`."""
        (h,) = state  # [stream, hidden]
        h = torch.tanh(F.linear(x, self.W, self.b) + F.linear(h, self.U))
        return h, (h,)


@final
class LSTM(Cell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) with a forget gate (Gers et al. 2000).

    No peepholes. Blocks ``i, f, g, o``: input gate, forget gate, candidate, output gate. The forget
    bias starts at 1, so that a fresh cell remembers (Gers et al. 2000; Jozefowicz et al. 2015).

    ``c' = f * c + i * g``, ``h' = o * tanh(c')``
    """

    state_names = ("h", "c")
    gates = 4

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        with torch.no_grad():
            self.b[hidden : 2 * hidden] = 1.0

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Cell.step`."""
        h, c = state  # each [stream, hidden]
        blocks = F.linear(x, self.W, self.b) + F.linear(h, self.U)  # [stream, 4 * hidden]
        i, f, g, o = blocks.chunk(4, dim=1)  # each [stream, hidden]
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


@final
class GRU(Cell):
    """Gated recurrent unit (Cho et al. 2014), with the reset gate applied after the product.

    Blocks ``r, z, n``: reset gate, update gate, candidate. The paper resets ``h`` before it
    multiplies, ``U (r * h)``; here, as in PyTorch and cuDNN, the product is reset, with a bias of
    its own inside, ``r * (U h + b_U)``, which lets all three products be one.

    ``n = tanh(W x + b + r * (U h + b_U))``, ``h' = (1 - z) * n + z * h``

    Attributes:
        b_U: Bias inside the reset product ``[hidden]``; it belongs to the candidate only.
    """

    state_names = ("h",)
    gates = 3

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.b_U = nn.Parameter(torch.zeros(hidden))

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Cell.step`."""
        (h,) = state  # [stream, hidden]
        r_x, z_x, n_x = F.linear(x, self.W, self.b).chunk(3, dim=1)  # each [stream, hidden]
        r_h, z_h, n_h = F.linear(h, self.U).chunk(3, dim=1)
        r = torch.sigmoid(r_x + r_h)
        z = torch.sigmoid(z_x + z_h)
        n = torch.tanh(n_x + r * (n_h + self.b_U))
        h = (1 - z) * n + z * h
        return h, (h,)


CELLS: dict[str, type[Cell]] = {"elman": Elman, "lstm": LSTM, "gru": GRU}
