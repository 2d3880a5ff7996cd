"""How each cell is expressed in ONNX.

A cell without memory is written once, for all samples together. One that ONNX has an operator for
becomes that operator. Any other becomes a ``Scan`` over its own `Cell.step`, so that what runs on
the gateway is what the paper says and training ran, line by line; `export.hoist` then takes out of
the loop what needs no loop.

ONNX's own ``RNN`` is not used: onnxruntime's kernel rounds differently with the number of streams
in the batch (docs/decisions.md), and the promise is `==`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

from train.cell import Cell
from train.cells import GRU, LSTM, Dense, PeepholeLSTM

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

    def body(carried: State, x_t: Tensor) -> tuple[State, Tensor]:
        y, after = cell.step(x_t, carried)
        # A Scan may not give one tensor twice, nor one that it was given, nor in another layout.
        return tuple(_copied(value) for value in after), _copied(y)

    after, y = scan(body, state, x, dim=0)
    return y, after


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
    """One ``GRU`` operator; its gates stand in the order z, r, h."""
    (h,) = state  # [stream, hidden]
    order = _blocks(cell.hidden, (1, 0, 2))  # ours: r, z, n
    after = cell.reset == "after"
    inside = cell.b_U if after else torch.zeros(cell.hidden)
    bias = torch.cat([cell.b[order], torch.zeros(2 * cell.hidden), inside])
    y, h_n = torch.onnx.ops.symbolic_multi_out(
        "GRU",
        (
            x,
            cell.W[order].unsqueeze(0),
            cell.U[order].unsqueeze(0),
            bias.unsqueeze(0),
            None,
            h.unsqueeze(0),
        ),
        {"hidden_size": cell.hidden, "linear_before_reset": int(after)},
        dtypes=(x.dtype,) * 2,
        shapes=_shapes(x, cell.hidden, carried=1),
        version=OPSET,
    )
    return y.squeeze(1), (h_n.squeeze(0),)


FORMS: dict[type[Cell], Expressed] = {
    Dense: Expressed(memoryless, ()),
    LSTM: Expressed(lstm, ("LSTM",)),
    PeepholeLSTM: Expressed(peephole_lstm, ("LSTM",)),
    GRU: Expressed(gru, ("GRU",)),
}
"""The cells that have a form of their own; any other is `scanned`."""


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
