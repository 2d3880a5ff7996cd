"""Bounded signals -> one level: Hotelling's T2 over several spans of time, joined."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from train.delays import behind, boxcars, geometric
from train.horizons import positive
from train.layers import State

SPANS = (1, 2, 4, 8, 16)
KEEP, TAPS = 0.8, 16
"""How the level is smoothed: weight of the sample before, and how many count."""
FLOOR_LEVEL = 3.0
"""A member this far below its usual value, in deviations, counts as if it were there."""
CEILING = 1e3
"""Deviations beyond which nothing is told apart."""
SLOPE = 0.5
"""Of the score at the alarm level, for each deviation of the level."""


def bounded(z: Tensor, reach: float) -> Tensor:
    """``z / sqrt(1 + (z / reach)^2)``: z near 0, never beyond ``reach``.

    A sensor that fails to its largest value then weighs no more than one that is plainly wrong. Of
    operators that IEEE 754 rounds correctly, unlike tanh.
    """
    ratio = z * (1.0 / reach)
    return z / torch.sqrt(ratio * ratio + 1.0)


def added(x: Tensor) -> Tensor:
    """Sum over the first axis, always in the same order, ``[n, ...] -> [...]``."""
    while x.shape[0] % 2 == 0:
        x = x[: x.shape[0] // 2] + x[x.shape[0] // 2 :]
    first, *others = x.unbind(0)
    for other in others:
        first = first + other
    return first


@final
class MultiScale(nn.Module):
    """Several signals over several spans -> how unusual, in deviations of what is usual.

    A *member* is one signal averaged over one span. Its distance is Hotelling's T2, the squared
    length of its whitened components (`train.scoring.Whitening`); the fourth root of a chi-squared
    number is nearly Gaussian (Hawkins & Wixley 1986), and is standardised by what is usual.
    Members are joined by a power mean, close to the largest of them, which is then smoothed.

    Args:
        signals: Names of the signals.
        features: Length of a sample.

    Attributes:
        mean: Of each member ``[member, 1, feature]``.
        matrix: Whitens each member, from the right, ``[member, feature, feature]``.
        centre: Usual fourth root ``[member, 1]``.
        deviation: And its standard deviation ``[member, 1]``.
        limit: The level that scores 1.0, a scalar.
        state_names: What is carried.
    """

    mean: Tensor
    matrix: Tensor
    centre: Tensor
    deviation: Tensor
    limit: Tensor

    def __init__(self, signals: Sequence[str], features: int) -> None:
        super().__init__()
        self.features = features
        self.members = tuple(f"{name} over {span}" for name in signals for span in SPANS)
        count = len(self.members)
        self.register_buffer("mean", torch.zeros(count, 1, features))
        self.register_buffer("matrix", torch.eye(features).repeat(count, 1, 1))
        self.register_buffer("centre", torch.zeros(count, 1))
        self.register_buffer("deviation", torch.ones(count, 1))
        self.register_buffer("limit", torch.zeros(()))
        self.lines = tuple(f"last_{name}" for name in signals)
        self.state_names = (*self.lines, "last_levels")

    @property
    def stream_axes(self) -> dict[str, int]:
        """Which axis of each carried tensor is the stream."""
        return dict.fromkeys(self.state_names, 1)

    def initial_state(self, streams: int) -> State:
        """Zeros: a stream that has seen nothing stood at its mean, and its level was usual."""
        line = (SPANS[-1] - 1, streams, self.features)
        state = {name: self.mean.new_zeros(line) for name in self.lines}
        return {**state, "last_levels": self.mean.new_zeros(TAPS - 1, streams)}

    def averages(self, signals: Sequence[Tensor], state: State) -> tuple[Tensor, State]:
        """Each member before it is whitened.

        Args:
            signals: Each ``[time, stream, feature]``.
            state: The tensors of `state_names`; others are ignored.

        Returns:
            ``[member, time * stream, feature]``, and the lines after.
        """
        means, after = [], {}
        for name, signal in zip(self.lines, signals, strict=True):
            line = behind(state[name], signal)
            means += boxcars(line, SPANS)
            after[name] = line[signal.shape[0] :]
        return torch.stack(means).flatten(1, 2), after

    def roots(self, averages: Tensor) -> tuple[Tensor, Tensor]:
        """Distances of the members.

        Args:
            averages: ``[member, row, feature]``.

        Returns:
            Fourth root of T2 ``[member, row]``, and the squared components ``[member, row,
            feature]``.
        """
        # Each by its own matrix: onnxruntime's product of stacks rounds one row otherwise than many
        members = zip(averages - self.mean, self.matrix, strict=True)
        z = torch.stack([torch.matmul(member, matrix) for member, matrix in members])
        # The tiny summand gives 0 / 0 a meaning and is lost beside any real deviation.
        squared = z * z + 1e-12
        return torch.sqrt(torch.sqrt(squared.sum(dim=2))), squared

    def levels(self, signals: Sequence[Tensor], state: State) -> tuple[Tensor, Tensor, State]:
        """How unusual the last samples are.

        Args:
            signals: Each ``[time, stream, feature]``.
            state: The tensors of `state_names`; others are ignored.

        Returns:
            The level ``[time, stream]``, the contribution ``[time, stream, feature]``, and the
            state after.
        """
        time, streams = signals[0].shape[:2]
        averages, after = self.averages(signals, state)
        root, squared = self.roots(averages)
        joined, weight = join((root - self.centre) / self.deviation)  # [row], [member, row]
        parts = added(squared * (weight / (root * root * root * root)).unsqueeze(2))
        contribution = parts / parts.sum(dim=1, keepdim=True)
        line = behind(state["last_levels"], joined.reshape(time, streams))
        after["last_levels"] = line[time:]
        level = geometric(line, KEEP, TAPS)
        return level, contribution.reshape(time, streams, self.features), after

    def score(self, level: Tensor) -> Tensor:
        """1.0 at the limit; a level of 0.73 deviations less scores 0.7, the gateway's ``leave``."""
        return positive((level - self.limit) * SLOPE)


def join(g: Tensor) -> tuple[Tensor, Tensor]:
    """Power mean of order 8.

    Args:
        g: ``[member, row]``, in deviations.

    Returns:
        The mean ``[row]``, and the weight of each member in it ``[member, row]``.
    """
    # Never 0, so that there is something to divide by, and so that the eighth power stays finite.
    above = torch.clamp(g + FLOOR_LEVEL, 1e-3, CEILING)
    square = above * above
    fourth = square * square
    eighth = fourth * fourth
    total = added(eighth)
    mean = total / g.shape[0]
    return torch.sqrt(torch.sqrt(torch.sqrt(mean))) - FLOOR_LEVEL, eighth / total
