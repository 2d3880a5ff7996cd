"""Bounded signals -> one level: Hotelling's T2 over several spans of time, joined."""

from collections.abc import Sequence
from functools import reduce
from typing import final

import torch
from torch import Tensor, nn

from train.delays import behind, boxcars, geometric
from train.horizons import one_over_positive
from train.layers import State

SPANS = (1, 4, 16)
KEEP, TAPS = 0.8, 16
"""How the level is smoothed: weight of the sample before, and how many count."""
FLOOR_LEVEL = 3.0
"""A member this far below its usual value, in deviations, counts as if it were there."""
CEILING = 1e3
"""Deviations beyond which nothing is told apart."""
TINY = 1e-12
"""Lost beside any real deviation."""
SLOPE = 0.5
"""Of the score at the alarm level, for each deviation of the level."""


def bounded(z: Tensor, reach: float, variance: Tensor | float = 1.0) -> Tensor:
    """Deviations as they are near 0, but never beyond ``reach``.

    A sensor that fails to its largest value then weighs no more than one that is plainly wrong. Of
    operators that IEEE 754 rounds correctly, unlike tanh.

    Args:
        z: Differences of any shape.
        reach: In deviations.
        variance: Of ``z``, of the same shape or one that is broadcast.

    Returns:
        ``y / sqrt(1 + (y / reach)^2)`` with y the deviations, ``z / sqrt(variance)``.
    """
    ratio = z * (1.0 / reach)
    return z / torch.sqrt(ratio * ratio + variance)


@final
class MultiScale(nn.Module):
    """Several signals over several spans -> how unusual, in deviations of what is usual.

    A *member* is one signal averaged over one span. Its distance is Hotelling's T2, the squared
    length of its whitened components (`train.scoring.Whitening`); the fourth root of a chi-squared
    number is nearly Gaussian (Hawkins & Wixley 1986), and is standardised by what is usual.
    Members are joined by a power mean, close to the largest of them, which is then smoothed.

    The members of one span lie side by side in one row, and what belongs to each of them is spread
    over its columns, or added up from them, by products with matrices of zeros and ones: every
    operation is then one for all members of a span, or for all there are.

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
        spread: Gives the columns of each member of a span what is its own
            ``[signal, signal * feature]``.
        gather: Adds up each feature over the members of a span, divided by the number of all
            members ``[signal * feature, feature]``.
        state_names: What is carried.
    """

    mean: Tensor
    matrix: Tensor
    centre: Tensor
    deviation: Tensor
    limit: Tensor
    spread: Tensor
    gather: Tensor

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
        spread = torch.eye(self.signals).repeat_interleave(features, dim=1)
        self.register_buffer("spread", spread, persistent=False)
        gather = torch.eye(features).repeat(self.signals, 1) / count
        self.register_buffer("gather", gather, persistent=False)
        self.state_names = ("last_sums", "last_levels")

    @property
    def stream_axes(self) -> dict[str, int]:
        """Which axis of each carried tensor is the stream."""
        return dict.fromkeys(self.state_names, 1)

    def initial_state(self, streams: int) -> State:
        """Zeros: a stream that has seen nothing stood at its mean, and its level was usual."""
        return {
            "last_sums": self.mean.new_zeros(SPANS[-1] - 1, streams, self.mean.shape[1]),
            "last_levels": self.mean.new_zeros(TAPS - 1, streams),
        }

    def components(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """Whitened components of every member, in such units that its usual root deviates by 1.

        Args:
            sums: Of all signals, over each span, ``[row, signal * feature]``.

        Returns:
            Of the members of each span, ``[row, signal * feature]``.
        """
        width, features = self.mean.shape[1], self.features
        own = torch.eye(self.signals).reshape(self.signals, 1, self.signals, 1)
        matrices = (self.matrix / self.deviation**2).reshape(len(SPANS), -1, features, 1, features)
        matrices = (matrices * own).reshape(-1, width, width)  # for each span, on its diagonal
        parts = []
        for total, span, mean, matrix in zip(sums, SPANS, self.mean, matrices, strict=True):
            parts.append(torch.addmm(-(mean @ matrix), total, matrix / span))
        return parts

    def distances(self, squared: Sequence[Tensor]) -> Tensor:
        """T2 of each member.

        Args:
            squared: The squares of `components`.

        Returns:
            ``[row, member]``, never 0.
        """
        return torch.cat([torch.matmul(part, self.spread.T) for part in squared], dim=1) + TINY

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
        sums, last_sums = boxcars(state["last_sums"], signals, SPANS)
        squared = [z * z for z in self.components([total.flatten(0, 1) for total in sums])]
        t2 = self.distances(squared)
        usual = (self.centre / self.deviation).flatten()  # [member]
        power = powers(root(t2) + (FLOOR_LEVEL - usual))
        weights = torch.split(power / t2, self.signals, dim=1)  # for each span [row, signal]
        weighted = [
            torch.matmul(weight, self.spread) * part
            for weight, part in zip(weights, squared, strict=True)
        ]
        # What a feature adds to the mean of all powers; the tiny summand gives 0 / 0 a meaning.
        parts = torch.matmul(reduce(torch.add, weighted), self.gather) + TINY**2
        total = parts.sum(dim=1, keepdim=True)  # [row, 1]
        joined = power_mean(total).reshape(time, streams)
        levels = behind(state["last_levels"], joined)
        after = {"last_sums": last_sums, "last_levels": levels[1 - TAPS :]}
        level = geometric(levels, KEEP, TAPS)
        return level, (parts / total).reshape(time, streams, self.features), after

    def score(self, level: Tensor) -> Tensor:
        """1.0 at the limit; a level of 0.73 deviations less scores 0.7, the gateway's ``leave``.

        0 where the level is thousands of deviations below it.
        """
        return one_over_positive((self.limit - level) * SLOPE)


def root(t2: Tensor) -> Tensor:
    """The fourth root of a distance."""
    return torch.sqrt(torch.sqrt(t2))


def powers(above: Tensor) -> Tensor:
    """What members are joined by: the eighth power of deviations above minus `FLOOR_LEVEL`."""
    # Never 0, so that there is something to divide by, and so that the power stays finite.
    above = torch.clamp(above, 1e-3, CEILING)
    square = above * above
    fourth = square * square
    return fourth * fourth


def power_mean(mean: Tensor) -> Tensor:
    """Power mean of order 8 of deviations, from the mean of their `powers`."""
    return torch.sqrt(torch.sqrt(torch.sqrt(mean))) - FLOOR_LEVEL
