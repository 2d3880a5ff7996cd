"""Cells against their papers, against PyTorch's layers, and against themselves over time."""

from collections.abc import Callable
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.cells import CELLS, GRU, LSTM, Cell
from train.config import ModelConfig
from train.layers import over_time

Array = NDArray[np.float64]
INPUTS, HIDDEN, STREAMS, STEPS = 3, 5, 2, 7


def sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


def elman_by_hand(p: dict[str, Array], x: Array, h: Array) -> tuple[Array, ...]:
    return (np.tanh(p["W"] @ x + p["U"] @ h + p["b"]),)


def lstm_by_hand(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, ...]:
    i, f, g, o = np.split(p["W"] @ x + p["U"] @ h + p["b"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_by_hand(p: dict[str, Array], x: Array, h: Array) -> tuple[Array, ...]:
    (W_r, W_z, W_n), (U_r, U_z, U_n) = np.split(p["W"], 3), np.split(p["U"], 3)  # noqa: N806
    b_r, b_z, b_n = np.split(p["b"], 3)
    r = sigmoid(W_r @ x + U_r @ h + b_r)
    z = sigmoid(W_z @ x + U_z @ h + b_z)
    n = np.tanh(W_n @ x + b_n + r * (U_n @ h + p["b_U"]))
    return ((1 - z) * n + z * h,)


BY_HAND: dict[str, Callable[..., tuple[Array, ...]]] = {
    "elman": elman_by_hand,
    "lstm": lstm_by_hand,
    "gru": gru_by_hand,
}


def made(name: str) -> Cell:
    """A cell with random biases too, in double precision."""
    torch.manual_seed(3)
    cell = CELLS[name](INPUTS, HIDDEN).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.6)
    return cell


def random_input() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(STEPS, STREAMS, INPUTS, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", CELLS)
def test_cell_computes_what_its_paper_says(name: str) -> None:
    cell, x = made(name), random_input()
    parameters = {key: value.detach().numpy() for key, value in cell.named_parameters()}
    y, state = over_time(cell, x, cell.initial_state(STREAMS))
    for stream in range(STREAMS):
        by_hand: tuple[Array, ...] = tuple(np.zeros(HIDDEN) for _ in cell.state_names)
        for t in range(STEPS):
            by_hand = BY_HAND[name](parameters, x[t, stream].numpy(), *by_hand)
            np.testing.assert_allclose(y[t, stream].detach(), by_hand[0], atol=1e-12)
        for carried, expected in zip(state, by_hand, strict=True):
            np.testing.assert_allclose(carried[stream].detach(), expected, atol=1e-12)


def as_pytorch(cell: Cell, kind: type[nn.RNN | nn.LSTM | nn.GRU]) -> nn.RNNBase:
    """PyTorch's layer with the same weights; its gate order is ours."""
    layer = kind(INPUTS, HIDDEN).double()
    recurrent_bias = torch.zeros_like(cell.b)
    if isinstance(cell, GRU):
        recurrent_bias[2 * HIDDEN :] = cell.b_U
    layer.load_state_dict(
        {
            "weight_ih_l0": cell.W,
            "weight_hh_l0": cell.U,
            "bias_ih_l0": cell.b,
            "bias_hh_l0": recurrent_bias,
        }
    )
    return layer


@pytest.mark.parametrize(("name", "kind"), [("elman", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_cell_agrees_with_pytorch_in_value_and_gradient(
    name: str, kind: type[nn.RNN | nn.LSTM | nn.GRU]
) -> None:
    cell, x = made(name), random_input()
    layer = as_pytorch(cell, kind)
    y, _ = over_time(cell, x, cell.initial_state(STREAMS))
    theirs, _ = layer(x)
    torch.testing.assert_close(y, theirs)
    y.square().sum().backward()  # type: ignore[no-untyped-call]
    theirs.square().sum().backward()
    torch.testing.assert_close(cell.U.grad, layer.weight_hh_l0.grad)
    torch.testing.assert_close(cell.W.grad, layer.weight_ih_l0.grad)


def test_the_table_is_what_a_configuration_may_name() -> None:
    assert get_args(get_type_hints(ModelConfig)["cell"]) == tuple(CELLS)


def test_a_fresh_lstm_remembers() -> None:
    assert torch.equal(LSTM(INPUTS, HIDDEN).b[HIDDEN : 2 * HIDDEN], torch.ones(HIDDEN))


@pytest.mark.parametrize("name", CELLS)
def test_recurrent_weights_start_orthogonal_in_every_gate(name: str) -> None:
    for gate in CELLS[name](INPUTS, HIDDEN).U.split(HIDDEN):  # type: ignore[no-untyped-call]
        torch.testing.assert_close(gate @ gate.T, torch.eye(HIDDEN), atol=1e-5, rtol=0)


def test_the_abstract_cell_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="step"):
        Cell(1, 1)  # type: ignore[abstract]
