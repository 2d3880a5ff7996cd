"""How each cell is expressed in ONNX.

A cell without memory is written once, for all samples together. One that ONNX has an operator for
becomes that operator. Of the others, several are a ``GRU`` some of whose gates do not move:

    h' = (1 - z) * n + z * h,   n = g(W x + r * (U h) + b)

With ``z`` held at 0 and ``r`` at 1 this is an Elman network, with ``z`` a bit of a clock it is a
clockwork module, and with ``z`` held at alpha and no ``U`` it is the slow context of an SCRN. A
gate is held by giving it the identity for an activation, no weights, and its value as the bias, so
it is that value to the last bit.

Any other cell becomes a ``Scan`` over its own `Cell.step`, so that what runs on the gateway is what
the paper says and training ran, line by line, at some ten times the cost for a stream alone.

ONNX's own ``RNN`` is not used: onnxruntime's kernel rounds differently with the number of streams
in the batch (docs/decisions.md), and the promise is `==`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor
from torch._higher_order_ops.scan import scan

from train.cell import Cell
from train.cells import GRU, IRNN, LSTM, SCRN, Clockwork, Dense, Elman, Jordan, PeepholeLSTM

OPSET = 18
"""The oldest that `torch.onnx.export` writes; every onnxruntime that we admit reads it."""

State = tuple[Tensor, ...]
AnyCell = TypeVar("AnyCell", bound=Cell)
Form = Callable[[AnyCell, Tensor, State], tuple[Tensor, State]]


class Expressed(NamedTuple):
    """How a kind of cell is written.

    Attributes:
        form: Runs it over time; a `train.layers.Unroll`.
        operators: The recurrent operators in it.
    """

    form: Form[Any]
    operators: tuple[str, ...]


def in_onnx(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Runs a cell over time in the form that is exported; a `train.layers.Unroll`.

    Args:
        cell: The cell.
        x: Inputs ``[time, stream, inputs]``.
        state: The cell's state, each ``[stream, ...]``.

    Returns:
        Outputs ``[time, stream, outputs]`` and the state after the last sample.
    """
    return expressed(type(cell)).form(cell, x, state)


def expressed(kind: type[Cell]) -> Expressed:
    """How a kind of cell is written."""
    return FORMS.get(kind, Expressed(scanned, ("Scan",)))


def scanned(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """A ``Scan`` whose body is the cell's own step."""
    return _scan(cell.step, x, state)


def memoryless(cell: Dense, x: Tensor, state: State) -> tuple[Tensor, State]:
    """All samples are one batch to a cell that carries nothing."""
    return cell.step(x, state)


def lstm(cell: LSTM, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One ``LSTM`` operator."""
    squash = {"tanh": "Tanh", "identity": "Affine"}[cell.squash]
    return _lstm(cell, x, state, squash, None)


def peephole_lstm(cell: PeepholeLSTM, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One ``LSTM`` operator with peepholes, which stand in the order i, o, f."""
    peepholes = cell.P[_blocks(cell.hidden, (0, 2, 1))]  # ours: i, f, o
    return _lstm(cell, x, state, "Tanh", peepholes.unsqueeze(0))


def gru(cell: GRU, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One ``GRU`` operator; its gates stand as z, r, h."""
    order = _blocks(cell.hidden, (1, 0, 2))  # ours: r, z, n
    after = cell.reset == "after"
    inside = cell.b_U if after else torch.zeros(cell.hidden)
    weights = _Gru(cell.W[order], cell.U[order], cell.b[order], inside)
    y, (h,) = _gru(weights, x, state[0], {"linear_before_reset": int(after)})
    return y, (h,)


def elman(cell: Elman, x: Tensor, state: State) -> tuple[Tensor, State]:
    """A ``GRU`` whose gates let everything through."""
    y, (h,) = _held(_open_gates(cell.W, cell.U, cell.b), x, state[0], "Tanh")
    return y, (h,)


def irnn(cell: IRNN, x: Tensor, state: State) -> tuple[Tensor, State]:
    """As `elman`, with a rectifier."""
    y, (h,) = _held(_open_gates(cell.W, cell.U, cell.b), x, state[0], "Relu")
    return y, (h,)


def clockwork(cell: Clockwork, x: Tensor, state: State) -> tuple[Tensor, State]:
    """A ``GRU`` that keeps a unit whose module rests: ``z`` is 1 where the clock does not tick.

    Which modules rest is known before the first step, so it is one more input for each module, and
    the identity as activation makes it the gate.
    """
    h, clock = state  # [stream, hidden], [stream] int64
    modules = len(cell.periods)
    steps = torch.arange(x.shape[0]).unsqueeze(1) + clock.unsqueeze(0)  # [time, stream]
    rests = steps.unsqueeze(2) % torch.tensor(cell.periods) != 0  # [time, stream, module]
    width = cell.hidden // modules
    of_module = torch.eye(modules).repeat_interleave(width, dim=0)  # [hidden, module]
    gates = _open_gates(cell.W, cell.U * cell.mask, cell.b)
    inputs = torch.zeros(3 * cell.hidden, modules)
    inputs[: cell.hidden] = of_module
    gates = gates._replace(W=torch.cat([gates.W, inputs], dim=1))
    y, (h,) = _held(gates, torch.cat([x, rests.to(x.dtype)], dim=2), h, "Tanh")
    return y, (h, (clock + x.shape[0]) % cell.cycle)


def scrn(cell: SCRN, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Two ``GRU``: the context with ``z`` held at alpha, and the fast units with open gates."""
    h, s = state  # [stream, hidden], [stream, context]
    none = torch.zeros(cell.context, cell.context)
    slow = _open_gates(cell.B, none, torch.zeros(cell.context))
    slow.b[: cell.context] = cell.alpha
    context, (s,) = _held(slow, x, s, "Affine")  # [time, stream, context]
    fast = _open_gates(torch.cat([cell.A, cell.P], dim=1), cell.R, cell.b)
    y, (h,) = _held(fast, torch.cat([x, context], dim=2), h, "Sigmoid")
    return torch.cat([y, context], dim=2), (h, s)


def jordan(cell: Jordan, x: Tensor, state: State) -> tuple[Tensor, State]:
    """A ``Scan`` over its step, with ``W x + b`` of all samples in one product before it."""

    def body(carried: State, wx_t: Tensor) -> tuple[Tensor, State]:
        (y,) = carried
        h = torch.tanh(wx_t + F.linear(y, cell.U))
        y = torch.tanh(F.linear(h, cell.V, cell.c))
        return y, (y,)

    return _scan(lambda wx_t, carried: body(carried, wx_t), F.linear(x, cell.W, cell.b), state)


FORMS: dict[type[Cell], Expressed] = {
    Dense: Expressed(memoryless, ()),
    Elman: Expressed(elman, ("GRU",)),
    Jordan: Expressed(jordan, ("Scan",)),
    IRNN: Expressed(irnn, ("GRU",)),
    LSTM: Expressed(lstm, ("LSTM",)),
    PeepholeLSTM: Expressed(peephole_lstm, ("LSTM",)),
    GRU: Expressed(gru, ("GRU",)),
    Clockwork: Expressed(clockwork, ("GRU",)),
    SCRN: Expressed(scrn, ("GRU", "GRU")),
}
"""The cells that have a form of their own; any other is `scanned`."""


class _Gru(NamedTuple):
    """The weights of a ``GRU`` operator, with its gates in the order z, r, n.

    Attributes:
        W: ``[3 * hidden, inputs]``.
        U: ``[3 * hidden, hidden]``.
        b: ``[3 * hidden]``.
        inside: Bias of the candidate that the reset gate multiplies ``[hidden]``.
    """

    W: Tensor
    U: Tensor
    b: Tensor
    inside: Tensor


def _open_gates(w: Tensor, u: Tensor, b: Tensor) -> _Gru:
    """Weights of a candidate as those of a ``GRU`` with ``z = 0`` and ``r = 1``."""
    hidden = len(b)
    nothing = torch.zeros(2 * hidden, w.shape[1]), torch.zeros(2 * hidden, hidden)
    z_and_r = torch.cat([torch.zeros(hidden), torch.ones(hidden)])
    return _Gru(
        torch.cat([nothing[0], w]),
        torch.cat([nothing[1], u]),
        torch.cat([z_and_r, b]),
        torch.zeros(hidden),
    )


def _held(weights: _Gru, x: Tensor, h: Tensor, activation: str) -> tuple[Tensor, State]:
    """A ``GRU`` whose gates are what their weights say, unsquashed."""
    activations = ["Affine", activation]
    affine = activations.count("Affine")
    attributes = {
        "linear_before_reset": 1,
        "activations": activations,
        "activation_alpha": [1.0] * affine,
        "activation_beta": [0.0] * affine,
    }
    return _gru(weights, x, h, attributes)


def _gru(weights: _Gru, x: Tensor, h: Tensor, attributes: dict[str, Any]) -> tuple[Tensor, State]:
    hidden = h.shape[1]
    no_bias = torch.zeros(2 * hidden)
    y, h_n = torch.onnx.ops.symbolic_multi_out(
        "GRU",
        (
            x,
            weights.W.unsqueeze(0),
            weights.U.unsqueeze(0),
            torch.cat([weights.b, no_bias, weights.inside]).unsqueeze(0),
            None,
            h.unsqueeze(0),
        ),
        {"hidden_size": hidden, **attributes},
        dtypes=(x.dtype,) * 2,
        shapes=_shapes(x, hidden, carried=1),
        version=OPSET,
    )
    return y.squeeze(1), (h_n.squeeze(0),)


def _lstm(
    cell: LSTM | PeepholeLSTM, x: Tensor, state: State, squash: str, peepholes: Tensor | None
) -> tuple[Tensor, State]:
    """One ``LSTM`` operator; its gates stand in the order i, o, f, c."""
    h, c = state  # [stream, hidden]
    order = _blocks(cell.hidden, (0, 3, 1, 2))  # ours: i, f, g, o
    bias = torch.cat([cell.b[order], torch.zeros_like(cell.b)])
    attributes: dict[str, Any] = {"hidden_size": cell.hidden}
    if squash == "Affine":
        attributes["activations"] = ["Sigmoid", squash, squash]
        attributes |= {"activation_alpha": [1.0, 1.0], "activation_beta": [0.0, 0.0]}
    y, h_n, c_n = torch.onnx.ops.symbolic_multi_out(
        "LSTM",
        (
            x,
            cell.W[order].unsqueeze(0),
            cell.U[order].unsqueeze(0),
            bias.unsqueeze(0),
            None,
            h.unsqueeze(0),
            c.unsqueeze(0),
            peepholes,
        ),
        attributes,
        dtypes=(x.dtype,) * 3,
        shapes=_shapes(x, cell.hidden, carried=2),
        version=OPSET,
    )
    return y.squeeze(1), (h_n.squeeze(0), c_n.squeeze(0))


def _scan(
    step: Callable[[Tensor, State], tuple[Tensor, State]], x: Tensor, state: State
) -> tuple[Tensor, State]:
    def body(carried: State, x_t: Tensor) -> tuple[State, Tensor]:
        y, after = step(x_t, carried)
        # A Scan may not give one tensor twice, nor one that it was given, nor in another layout.
        return tuple(_copied(value) for value in after), _copied(y)

    after, y = scan(body, state, x, dim=0)
    return y, cast(State, after)


def _copied(value: Tensor) -> Tensor:
    return value.clone(memory_format=torch.contiguous_format)


def _blocks(hidden: int, order: tuple[int, ...]) -> Tensor:
    """Row numbers that put the stacked gates into another order."""
    rows = torch.arange(len(order) * hidden).reshape(len(order), hidden)
    return rows[list(order)].flatten()


def _shapes(x: Tensor, hidden: int, carried: int) -> tuple[tuple[int, ...], ...]:
    streams = x.shape[1]
    sequence = (x.shape[0], 1, streams, hidden)
    return (sequence, *[(1, streams, hidden)] * carried)
