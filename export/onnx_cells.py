"""How each cell is expressed in ONNX.

Two ways. A cell that ONNX has an operator for becomes that one operator, which is fast. Any other
becomes a ``Scan`` over its own `step`, so that what runs on the gateway is what the paper says and
training ran, line by line.

Elman has an operator too, ``RNN``, and is not given to it: onnxruntime's kernel rounds differently
with the number of streams in the batch (docs/decisions.md), and the promise is `==`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from train.cells import GRU, LSTM, Cell

OPSET = 18
"""The oldest that `torch.onnx.export` writes; every onnxruntime that we admit reads it."""

State = tuple[Tensor, ...]


def in_onnx(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Runs a cell over time in the form that is exported; a `train.layers.Unroll`.

    Args:
        cell: The cell.
        x: Inputs ``[time, stream, inputs]``.
        state: The cell's state, each ``[stream, hidden]``.

    Returns:
        Outputs ``[time, stream, hidden]`` and the state after the last sample.
    """
    return OPERATORS.get(type(cell), scanned)(cell, x, state)


def scanned(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """A ``Scan`` whose body is the cell's own step."""

    def body(carried: State, x_t: Tensor) -> tuple[State, Tensor]:
        y, after = cell.step(x_t, carried)
        # A Scan may not give one tensor twice, nor one that it was given.
        return tuple(value.clone() for value in after), y.clone()

    after, y = scan(body, state, x, dim=0)
    return y, after


def lstm(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One ``LSTM`` operator; its gates stand in the order i, o, f, c."""
    h, c = state  # [stream, hidden]
    order = _blocks(cell.hidden, (0, 3, 1, 2))  # ours: i, f, g, o
    bias = torch.cat([cell.b[order], torch.zeros_like(cell.b)])
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
        ),
        {"hidden_size": cell.hidden},
        dtypes=(x.dtype,) * 3,
        shapes=_shapes(cell, x, carried=2),
        version=OPSET,
    )
    return y.squeeze(1), (h_n.squeeze(0), c_n.squeeze(0))


def gru(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One ``GRU`` operator with the reset after the product; its gates stand as z, r, h."""
    if not isinstance(cell, GRU):
        raise TypeError(type(cell))
    (h,) = state  # [stream, hidden]
    order = _blocks(cell.hidden, (1, 0, 2))  # ours: r, z, n
    inside = torch.cat([torch.zeros_like(cell.b[: 2 * cell.hidden]), cell.b_U])
    y, h_n = torch.onnx.ops.symbolic_multi_out(
        "GRU",
        (
            x,
            cell.W[order].unsqueeze(0),
            cell.U[order].unsqueeze(0),
            torch.cat([cell.b[order], inside]).unsqueeze(0),
            None,
            h.unsqueeze(0),
        ),
        {"hidden_size": cell.hidden, "linear_before_reset": 1},
        dtypes=(x.dtype,) * 2,
        shapes=_shapes(cell, x, carried=1),
        version=OPSET,
    )
    return y.squeeze(1), (h_n.squeeze(0),)


OPERATORS: dict[type[nn.Module], Callable[[Cell, Tensor, State], tuple[Tensor, State]]] = {
    LSTM: lstm,
    GRU: gru,
}
"""The cells that become one operator."""


def operator_of(kind: type[nn.Module]) -> str:
    """Name of the ONNX operator that runs a kind of cell over time."""
    expressed = OPERATORS.get(kind)
    return "Scan" if expressed is None else expressed.__name__.upper()


def _blocks(hidden: int, order: tuple[int, ...]) -> Tensor:
    """Row numbers that put the stacked gates into another order."""
    rows = torch.arange(len(order) * hidden).reshape(len(order), hidden)
    return rows[list(order)].flatten()


def _shapes(cell: Cell, x: Tensor, carried: int) -> tuple[tuple[int, ...], ...]:
    streams = x.shape[1]
    sequence = (x.shape[0], 1, streams, cell.hidden)
    return (sequence, *[(1, streams, cell.hidden)] * carried)
