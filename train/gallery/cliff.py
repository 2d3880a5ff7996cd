"""Why it is hard: what a thousand steps do to a number, and the cliff that they build.

The surface is that of figure 6 of Pascanu, Mikolov & Bengio 2013, "On the difficulty of training
recurrent neural networks", with tanh for the logistic function: one unit, 50 steps, no input.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.cells import IRNN, Elman
from train.config import TrainingConfig
from train.loop import clip

FACTORS = (1.0, 1.01, 0.99, 0.01)
POWER = 1000

STEPS = 50
BEGIN, GOAL = 0.5, 0.7  # the unit before the first step, and where it should be after the last
EDGE = (1.5, -0.20087)  # w and b, before the edge of the cliff
LEARNING_RATE = 0.05
CLIP_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Jump:
    """One step of gradient descent.

    Attributes:
        start: ``w`` and ``b`` before.
        end: After.
        norm: Of the gradient, before clipping.
        error_before: At ``start``.
        error_after: At ``end``.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    norm: float
    error_before: float
    error_after: float

    @property
    def reach(self) -> float:
        """How far the weights moved."""
        return float(np.hypot(*np.subtract(self.end, self.start)))


def powers(factor: float, steps: int = POWER) -> NDArray[np.float64]:
    """``factor ** t`` in float32, for every ``t`` from 0 on, as a recurrent unit makes it.

    Args:
        factor: The recurrent weight of a rectified linear unit that hears nothing and holds 1.
        steps: The last ``t``.

    Returns:
        ``[steps + 1]``.
    """
    cell = IRNN(1, 1)
    with torch.no_grad():
        cell.U.fill_(factor)
        h = torch.ones(1, 1)
        held = [h]
        for _ in range(steps):
            h, _ = cell.step(torch.zeros(1, 1), (h,))
            held.append(h)
    return torch.cat(held).flatten().double().numpy()


def unit(w: float, b: float) -> Elman:
    """One Elman unit with recurrent weight ``w`` and bias ``b``."""
    cell = Elman(1, 1).double()
    with torch.no_grad():
        cell.U.fill_(w)
        cell.b.fill_(b)
    return cell


def error(cell: Elman) -> Tensor:
    """``(h_50 - 0.7)^2``, a scalar."""
    h = cell.b.new_full((1, 1), BEGIN)
    for _ in range(STEPS):
        h, _ = cell.step(h.new_zeros(1, 1), (h,))
    return (h - GOAL).square().squeeze()


def surface(w: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The error at every ``w`` and ``b``; the same arithmetic as `error`, all at once.

    Args:
        w: Any shape.
        b: The same.

    Returns:
        The same.
    """
    h = np.full_like(w, BEGIN)
    for _ in range(STEPS):
        h = np.tanh(w * h + b)
    return np.square(h - GOAL)


def jump(start: tuple[float, float], *, clipped: bool) -> Jump:
    """One step down the gradient.

    Args:
        start: ``w`` and ``b``.
        clipped: By the training loop's own clipping, to a norm of `CLIP_NORM`.

    Returns:
        Where it leads.
    """
    cell = unit(*start)
    before = error(cell)
    before.backward()  # type: ignore[no-untyped-call] # PyTorch has no annotation here
    norm = clip([cell.U, cell.b], TrainingConfig(clip_norm=CLIP_NORM if clipped else 0.0))
    optimiser = torch.optim.SGD([cell.U, cell.b], lr=LEARNING_RATE)
    optimiser.step()
    end = cell.U.item(), cell.b.item()
    return Jump(start, end, norm, before.item(), error(cell).item())
