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
    while x.shape[0] > 1:
        half, odd = divmod(x.shape[0], 2)
        pairs = x[:half] + x[half : 2 * half]
        x = torch.cat([pairs, x[2 * half :]]) if odd else pairs
    return x.squeeze(0)


@final
class MultiScale(nn.Module):
    """Several signals over several spans -> how unusual, in deviations of what is usual.

    A *member* is one signal averaged over one span. Its distance is Hotelling's T2, the squared
    length of its whitened components (`train.scoring.Whitening`); the fourth root of a chi-squared
    number is nearly Gaussian (Hawkins & Wixley 1986), and is standardised by what is usual.
    Members are joined by a power mean, close to the largest of them, which is then smoothed.

    All signals lie side by side in one tensor, and the members of one span beside one another:
    every operation is then one for all of them, but for the product with a member's own matrix.

    Args:
        signals: Names of the signals.
        features: Length of a sample.

    Attributes:
        members: Names, span by span.
        mean: Of all signals at each span ``[span, signal * feature]``.
        matrix: Whitens each member, from the right, ``[member, feature, feature]``.
        centre: Usual fourth root ``[member, 1, 1]``.
        deviation: And its standard deviation ``[member, 1, 1]``.
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
        self.signals = len(signals)
        self.members = tuple(f"{name} over {span}" for span in SPANS for name in signals)
        count = len(self.members)
        self.register_buffer("mean", torch.zeros(len(SPANS), self.signals * features))
        self.register_buffer("matrix", torch.eye(features).repeat(count, 1, 1))
        self.register_buffer("centre", torch.zeros(count, 1, 1))
        self.register_buffer("deviation", torch.ones(count, 1, 1))
        self.register_buffer("limit", torch.zeros(()))
        self.state_names = ("last_signals", "last_levels")

    @property
    def stream_axes(self) -> dict[str, int]:
        """Which axis of each carried tensor is the stream."""
        return dict.fromkeys(self.state_names, 1)

    def initial_state(self, streams: int) -> State:
        """Zeros: a stream that has seen nothing stood at its mean, and its level was usual."""
        return {
            "last_signals": self.mean.new_zeros(SPANS[-1] - 1, streams, self.mean.shape[1]),
            "last_levels": self.mean.new_zeros(TAPS - 1, streams),
        }

    def components(self, averages: Sequence[Tensor]) -> Tensor:
        """Whitened components of every member.

        Args:
            averages: Of all signals, for each span, ``[row, signal * feature]``.

        Returns:
            ``[member, row, feature]``.
        """
        # Each by its own matrix: onnxruntime's product of stacks rounds one row otherwise than many
        parts = [
            part
            for average, mean in zip(averages, self.mean, strict=True)
            for part in torch.split(average - mean, self.features, dim=1)
        ]
        z = [torch.matmul(part, matrix) for part, matrix in zip(parts, self.matrix, strict=True)]
        return torch.cat(z).reshape(len(z), -1, self.features)

    def levels(self, signals: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """How unusual the last samples are.

        Args:
            signals: Side by side ``[time, stream, signal * feature]``.
            state: The tensors of `state_names`; others are ignored.

        Returns:
            The level ``[time, stream]``, the contribution ``[time, stream, feature]``, and the
            state after.
        """
        time, streams = signals.shape[:2]
        line = behind(state["last_signals"], signals)
        z = self.components([mean.flatten(0, 1) for mean in boxcars(line, SPANS)])
        # The tiny summand gives 0 / 0 a meaning and is lost beside any real deviation.
        squared = z * z + 1e-12
        t2 = squared.sum(dim=2, keepdim=True)  # [member, row, 1]
        power = powers((root(t2) - self.centre) / self.deviation)
        total = added(torch.cat([squared * (power / t2), power], dim=2))  # [row, feature + 1]
        parts, power = torch.split(total, self.features, dim=1)
        contribution = parts / parts.sum(dim=1, keepdim=True)
        levels = behind(state["last_levels"], power_mean(power, len(z)).reshape(time, streams))
        after = {"last_signals": line[time:], "last_levels": levels[time:]}
        level = geometric(levels, KEEP, TAPS)
        return level, contribution.reshape(time, streams, self.features), after

    def score(self, level: Tensor) -> Tensor:
        """1.0 at the limit; a level of 0.73 deviations less scores 0.7, the gateway's ``leave``."""
        return positive((level - self.limit) * SLOPE)


def root(t2: Tensor) -> Tensor:
    """The fourth root of a distance."""
    return torch.sqrt(torch.sqrt(t2))


def powers(g: Tensor) -> Tensor:
    """What members are joined by: the eighth power of deviations above `FLOOR_LEVEL`."""
    # Never 0, so that there is something to divide by, and so that the power stays finite.
    above = torch.clamp(g + FLOOR_LEVEL, 1e-3, CEILING)
    square = above * above
    fourth = square * square
    return fourth * fourth


def power_mean(total: Tensor, count: int) -> Tensor:
    """Power mean of order 8 of ``count`` deviations whose `powers` add up to ``total``."""
    return torch.sqrt(torch.sqrt(torch.sqrt(total / count))) - FLOOR_LEVEL
