"""One step of each recurrent cell, written as in its paper, and the table of all cells.

The parameters carry the papers' names; where a paper has none, ``W`` acts on the input, ``U`` on
what was carried, ``b`` is the bias. Gates are stacked along the first axis, in the order in which
`Cell.step` splits them. In the formulas ``*`` is element by element and a prime marks what is new.
"""

from collections.abc import Callable, Sequence
from math import lcm
from typing import Any, Literal, final

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from train.cell import (
    Carried,
    Cell,
    bias,
    gaussian_weights,
    input_weights,
    recurrent_weights,
)

State = tuple[Tensor, ...]

PERIODS = (1, 2, 4, 8)
LONGEST_CYCLE = 2**31


@final
class Dense(Cell):
    """No memory: each sample by itself. The baseline that shows why memory matters.

    ``y = tanh(W x + b)``
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.W = input_weights(hidden, inputs)  # [hidden, inputs]
        self.b = bias(hidden)  # [hidden]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Cell.step`."""
        return torch.tanh(F.linear(x, self.W, self.b)), state


@final
class Elman(Cell):
    """The simple recurrent network (Elman 1990, "Finding structure in time").

    ``h' = tanh(W x + U h + b)``
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.carried = {"h": Carried((hidden,))}
        self.W = input_weights(hidden, inputs)  # [hidden, inputs]
        self.U = recurrent_weights(hidden)  # [hidden, hidden]
        self.b = bias(hidden)  # [hidden]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Cell.step`."""
        (h,) = state  # [stream, hidden]
        h = torch.tanh(F.linear(x, self.W, self.b) + F.linear(h, self.U))
        return h, (h,)


@final
class Jordan(Cell):
    """The network that is fed its own output (Jordan 1986, "Serial order").

    What is carried is not what the hidden units held but what the output units said. They squash,
    as the paper's do, so that what is fed back stays bounded.

    ``h = tanh(W x + U y + b)``, ``y' = tanh(V h + c)``
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.carried = {"y": Carried((hidden,))}
        self.W = input_weights(hidden, inputs)  # [hidden, inputs]
        self.U = recurrent_weights(hidden)  # [hidden, hidden]
        self.b = bias(hidden)  # [hidden]
        self.V = recurrent_weights(hidden)  # [hidden, hidden]: V and U are one loop
        self.c = bias(hidden)  # [hidden]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Cell.step`."""
        (y,) = state  # [stream, hidden]
        h = torch.tanh(F.linear(x, self.W, self.b) + F.linear(y, self.U))
        y = torch.tanh(F.linear(h, self.V, self.c))
        return y, (y,)


@final
class IRNN(Cell):
    """Rectified linear units that begin as a perfect memory (Le, Jaitly & Hinton 2015).

    ``U`` starts as the identity and ``b`` as zero, so that a fresh cell adds up what it is given;
    ``W`` starts small, with a deviation of 0.001, all as in section 3 of the paper. Nothing bounds
    ``h``: clip the gradient, and keep the learning rate low.

    ``h' = relu(W x + U h + b)``
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.carried = {"h": Carried((hidden,))}
        self.W = gaussian_weights(hidden, inputs, 0.001)  # [hidden, inputs]
        self.U = torch.nn.Parameter(torch.eye(hidden))  # [hidden, hidden]
        self.b = bias(hidden)  # [hidden]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Cell.step`."""
        (h,) = state  # [stream, hidden]
        h = torch.relu(F.linear(x, self.W, self.b) + F.linear(h, self.U))
        return h, (h,)


@final
class LSTM(Cell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) with a forget gate (Gers et al. 2000).

    No peepholes. Blocks ``i, f, g, o``: input gate, forget gate, candidate, output gate. The forget
    bias starts at 1, so that a fresh cell remembers (Gers et al. 2000; Jozefowicz et al. 2015).

    ``c' = f * c + i * squash(g)``, ``h' = o * squash(c')``

    Args:
        inputs: Length of an input vector.
        hidden: Length of a hidden vector.
        squash: Of the cell's input and output: ``"tanh"``, or ``"identity"``, the cell of textbook
            examples, which adds up numbers as they are.
    """

    options = ("squash",)

    def __init__(
        self, inputs: int, hidden: int, squash: Literal["tanh", "identity"] = "tanh"
    ) -> None:
        super().__init__(inputs, hidden)
        self.squash = squash
        self.carried = {"h": Carried((hidden,)), "c": Carried((hidden,))}
        self.W = input_weights(hidden, inputs, gates=4)  # [4 * hidden, inputs]
        self.U = recurrent_weights(hidden, gates=4)  # [4 * hidden, hidden]
        self.b = bias(4 * hidden)  # [4 * hidden]
        with torch.no_grad():
            self.b[hidden : 2 * hidden] = 1.0

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Cell.step`."""
        h, c = state  # each [stream, hidden]
        squash = SQUASHES[self.squash]
        blocks = F.linear(x, self.W, self.b) + F.linear(h, self.U)  # [stream, 4 * hidden]
        i, f, g, o = blocks.chunk(4, dim=1)  # each [stream, hidden]
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * squash(g)
        h = torch.sigmoid(o) * squash(c)
        return h, (h, c)


@final
class PeepholeLSTM(Cell):
    """An LSTM whose gates see the memory that they guard (Gers & Schmidhuber 2000).

    Input and forget gate see the old memory, the output gate the new one, each unit only its own,
    through the weights ``P``. Blocks of ``W``, ``U`` and ``b`` as in `LSTM`; ``P`` holds ``i, f,
    o``.

    ``i = sigmoid(W_i x + U_i h + P_i * c + b_i)``, ``f`` likewise,
    ``c' = f * c + i * tanh(W_g x + U_g h + b_g)``,
    ``o = sigmoid(W_o x + U_o h + P_o * c' + b_o)``, ``h' = o * tanh(c')``
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.carried = {"h": Carried((hidden,)), "c": Carried((hidden,))}
        self.W = input_weights(hidden, inputs, gates=4)  # [4 * hidden, inputs]
        self.U = recurrent_weights(hidden, gates=4)  # [4 * hidden, hidden]
        self.b = bias(4 * hidden)  # [4 * hidden]
        self.P = bias(3 * hidden)  # [3 * hidden]: a fresh gate does not peep
        with torch.no_grad():
            self.b[hidden : 2 * hidden] = 1.0

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Cell.step`."""
        h, c = state  # each [stream, hidden]
        blocks = F.linear(x, self.W, self.b) + F.linear(h, self.U)  # [stream, 4 * hidden]
        i, f, g, o = blocks.chunk(4, dim=1)  # each [stream, hidden]
        P_i, P_f, P_o = self.P.chunk(3)  # noqa: N806 - the paper's names; each [hidden]
        c_new = torch.sigmoid(f + P_f * c) * c + torch.sigmoid(i + P_i * c) * torch.tanh(g)
        h = torch.sigmoid(o + P_o * c_new) * torch.tanh(c_new)
        return h, (h, c_new)


@final
class GRU(Cell):
    """Gated recurrent unit (Cho et al. 2014).

    Blocks ``r, z, n``: reset gate, update gate, candidate. The paper resets ``h`` before it
    multiplies. PyTorch and cuDNN reset the product, with a bias of its own inside, which lets all
    three products be one.

    ``h' = (1 - z) * n + z * h`` with, for ``reset = "before"``,
    ``n = tanh(W x + U (r * h) + b)``, and for ``reset = "after"``
    ``n = tanh(W x + b + r * (U h + b_U))``

    Args:
        inputs: Length of an input vector.
        hidden: Length of a hidden vector.
        reset: ``"after"`` the product or ``"before"`` it.
    """

    options = ("reset",)

    def __init__(
        self, inputs: int, hidden: int, reset: Literal["after", "before"] = "after"
    ) -> None:
        super().__init__(inputs, hidden)
        self.reset = reset
        self.carried = {"h": Carried((hidden,))}
        self.W = input_weights(hidden, inputs, gates=3)  # [3 * hidden, inputs]
        self.U = recurrent_weights(hidden, gates=3)  # [3 * hidden, hidden]
        self.b = bias(3 * hidden)  # [3 * hidden]
        if reset == "after":
            self.b_U = bias(hidden)  # [hidden]: of the candidate only

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Cell.step`."""
        (h,) = state  # [stream, hidden]
        hidden = self.hidden
        r_x, z_x, n_x = F.linear(x, self.W, self.b).chunk(3, dim=1)  # each [stream, hidden]
        r_h, z_h = F.linear(h, self.U[: 2 * hidden]).chunk(2, dim=1)
        r = torch.sigmoid(r_x + r_h)
        z = torch.sigmoid(z_x + z_h)
        U_n = self.U[2 * hidden :]  # noqa: N806 - the paper's name; [hidden, hidden]
        if self.reset == "after":
            n = torch.tanh(n_x + r * F.linear(h, U_n, self.b_U))
        else:
            n = torch.tanh(n_x + F.linear(r * h, U_n))
        h = (1 - z) * n + z * h
        return h, (h,)


@final
class Clockwork(Cell):
    """Modules that move at different speeds (Koutnik, Greff, Gomez & Schmidhuber 2014).

    The hidden vector is divided into modules of equal width, the fastest first. Module ``k`` moves
    only at steps that ``periods[k]`` divides, counted from a stream's first sample, which moves
    all; else it keeps what it holds. It hears itself and the slower modules, never a faster one, so
    ``U`` counts where its block lies on or above the diagonal. All weights begin with a deviation
    of 0.1, as in section 4 of the paper.

    ``h'_k = tanh(W_k x + sum_{j >= k} U_kj h_j + b_k)`` where ``clock mod periods[k] == 0``, else
    ``h'_k = h_k``; ``clock' = clock + 1``, from 0 again where all periods begin anew.

    Args:
        inputs: Length of an input vector.
        hidden: Length of a hidden vector; the number of periods divides it.
        periods: In samples, ascending.
    """

    options = ("periods",)
    mask: Tensor
    ticks_at: Tensor

    def __init__(self, inputs: int, hidden: int, periods: Sequence[int] = PERIODS) -> None:
        reason = self.impossible(hidden, periods=periods)
        if reason:
            raise ValueError(reason)
        super().__init__(inputs, hidden)
        self.periods = tuple(periods)
        self.cycle = lcm(*self.periods)
        self.carried = {"h": Carried((hidden,)), "clock": Carried((), torch.int64)}
        self.W = gaussian_weights(hidden, inputs, 0.1)  # [hidden, inputs]
        self.U = gaussian_weights(hidden, hidden, 0.1)  # [hidden, hidden], masked
        self.b = bias(hidden)  # [hidden]
        width = hidden // len(self.periods)
        module = torch.arange(hidden) // width  # [hidden], the module of each unit
        slower = module.unsqueeze(0) >= module.unsqueeze(1)  # [to, from]
        self.register_buffer("mask", slower.to(torch.float32), persistent=False)
        period_of = torch.tensor(self.periods)[module]  # [hidden]
        self.register_buffer("ticks_at", period_of, persistent=False)

    @classmethod
    def impossible(cls, hidden: int, **options: Any) -> str | None:  # noqa: ANN401
        """See `Cell.impossible`."""
        periods = tuple(options.get("periods", PERIODS))
        if not periods or sorted(set(periods)) != list(periods) or periods[0] < 1:
            return f"wanted ascending periods of one sample or more, got {list(periods)}"
        if lcm(*periods) > LONGEST_CYCLE:
            return f"wanted periods that all begin anew within 2^31 samples, got {list(periods)}"
        if hidden % len(periods):
            return (
                f"{len(periods)} periods {list(periods)} divide the hidden vector into modules of "
                f"equal width: wanted a multiple of {len(periods)}, got hidden = {hidden}"
            )
        return None

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Cell.step`."""
        h, clock = state  # [stream, hidden], [stream] int64
        ticks = clock.unsqueeze(1) % self.ticks_at == 0  # [stream, hidden]
        moved = torch.tanh(F.linear(x, self.W, self.b) + F.linear(h, self.U * self.mask))
        h = torch.where(ticks, moved, h)
        return h, (h, (clock + 1) % self.cycle)


@final
class SCRN(Cell):
    """The structurally constrained network: a slow context beside an Elman cell.

    Mikolov, Joulin, Chopra, Mathieu & Ranzato 2015, "Learning longer memory in recurrent neural
    networks", section 3. The context forgets at a fixed rate, so what it holds fades as slowly as
    ``alpha`` says and no gradient through it explodes. The output is both, ``[h', s']``; what reads
    it is the paper's ``U`` and ``V``.

    ``s' = (1 - alpha) B x + alpha s``, ``h' = sigmoid(P s' + A x + R h + b)``

    Args:
        inputs: Length of an input vector.
        hidden: Length of the fast hidden vector.
        context: Length of the slow one; None: a quarter of ``hidden``.
        alpha: What is kept of the context from one sample to the next.
    """

    options = ("context", "alpha")

    def __init__(
        self, inputs: int, hidden: int, context: int | None = None, alpha: float = 0.95
    ) -> None:
        super().__init__(inputs, hidden)
        self.context = context or max(1, hidden // 4)
        self.alpha = alpha
        self.outputs = hidden + self.context
        self.carried = {"h": Carried((hidden,)), "s": Carried((self.context,))}
        self.B = input_weights(self.context, inputs)  # [context, inputs]
        self.P = input_weights(hidden, self.context)  # [hidden, context]
        self.A = input_weights(hidden, inputs)  # [hidden, inputs]
        self.R = recurrent_weights(hidden)  # [hidden, hidden]
        self.b = bias(hidden)  # [hidden]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Cell.step`."""
        h, s = state  # [stream, hidden], [stream, context]
        s = (1 - self.alpha) * F.linear(x, self.B) + self.alpha * s
        h = torch.sigmoid(F.linear(s, self.P) + F.linear(x, self.A, self.b) + F.linear(h, self.R))
        return torch.cat([h, s], dim=1), (h, s)


SQUASHES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "identity": lambda value: value,
}

CELLS: dict[str, type[Cell]] = {
    "dense": Dense,
    "elman": Elman,
    "jordan": Jordan,
    "irnn": IRNN,
    "lstm": LSTM,
    "lstm_peephole": PeepholeLSTM,
    "gru": GRU,
    "clockwork": Clockwork,
    "scrn": SCRN,
}
