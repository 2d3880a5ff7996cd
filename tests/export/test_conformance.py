"""The conformance list over every cell, alone, stacked and both ways; ids read ``lstm:chunks``."""

from typing import Any, final

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

import checks
from checks import Array, Case, Check, Paper, Weights
from train.cell import Carried, Cell, bias, input_weights, recurrent_weights
from train.cells import CELLS


@pytest.mark.parametrize(
    ("case", "check"),
    [pytest.param(case, check, id=name) for name, case, check in checks.members()],
)
def test_conformance(case: Case, check: Check) -> None:
    check(case)


@final
class Newcomer(Cell):
    """A cell that nobody has heard of: two states, of which one is handed on as it came."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.carried = {"h": Carried((hidden,)), "before": Carried((hidden,))}
        self.W = input_weights(hidden, inputs, gates=2)
        self.U = recurrent_weights(hidden, gates=2)
        self.b = bias(2 * hidden)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Cell.step`."""
        h, before = state  # each [stream, hidden]
        blocks = F.linear(x, self.W, self.b) + F.linear(h, self.U)
        z, n = blocks.chunk(2, dim=1)
        after = torch.sigmoid(z) * before + (1 - torch.sigmoid(z)) * torch.tanh(n)
        return after, (after, h)


def newcomer(w: Weights, x: Array, state: Any, _: Any) -> tuple[Array, Any]:
    h, before = state
    net = checks.gates(w, "zn", x, h)
    z = checks.sigmoid(net["z"])
    after = z * before + (1 - z) * np.tanh(net["n"])
    return after, (after, h)


def test_a_cell_needs_one_line_in_the_table_to_be_exported_and_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CELLS, "newcomer", Newcomer)
    monkeypatch.setitem(checks.RECURRENT, "newcomer", ["Scan"])
    case = Case(("newcomer",))
    with pytest.raises(AssertionError, match="write the equations of newcomer's paper"):
        checks.check_paper(case)
    monkeypatch.setitem(checks.PAPERS, "newcomer", Paper(newcomer, (1, 1)))
    listed = [check for _, member, check in checks.members() if member == case]
    assert listed == list(checks.CHECKS)
    for check in listed:
        check(case)
