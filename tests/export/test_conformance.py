"""The conformance list over every cell, with one layer and with two; ids read ``lstm:chunks``."""

from typing import final

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

import checks
from checks import Array, Case, Check, Paper, Weights
from train.cells import CELLS, Cell


@pytest.mark.parametrize(
    ("case", "check"),
    [pytest.param(case, check, id=name) for name, case, check in checks.members()],
)
def test_conformance(case: Case, check: Check) -> None:
    check(case)


@final
class Newcomer(Cell):
    """A cell that nobody has heard of: two states, of which one is handed on as it came."""

    state_names = ("h", "before")
    gates = 2

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Cell.step`."""
        h, before = state  # each [stream, hidden]
        blocks = F.linear(x, self.W, self.b) + F.linear(h, self.U)
        z, n = blocks.chunk(2, dim=1)
        after = torch.sigmoid(z) * before + (1 - torch.sigmoid(z)) * torch.tanh(n)
        return after, (after, h)


def newcomer(w: Weights, x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    h, before = state
    z = checks.sigmoid(w.total("z", x, h))
    return z * before + (1 - z) * np.tanh(w.total("n", x, h)), h


def test_a_cell_needs_one_line_in_the_table_to_be_exported_and_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CELLS, "newcomer", Newcomer)
    case = Case("newcomer", 1)
    with pytest.raises(AssertionError, match="write the equations of newcomer's paper"):
        checks.check_paper(case)
    monkeypatch.setitem(checks.PAPERS, "newcomer", Paper("zn", newcomer))
    listed = [check for _, member, check in checks.members() if member == case]
    assert listed == list(checks.CHECKS)
    for check in listed:
        check(case)
