"""What is normal for one stream: a prior from all streams, moved by the first samples of this one.

Empirical Bayes (Efron & Morris 1973): how far a stream's own mean is believed depends on how much
streams differ, beside how much the means of one stream wander by themselves. Both are measured on
the history. After ``window`` samples the estimate is frozen, so a slow fault cannot teach it.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.delays import behind
from train.layers import State

NEVER = 1e12
"""The weight of a prior that no sample moves."""
SHORTEST = 8
"""Samples of a window that still has a mean."""
LEAST_VARIANCE = 1e-4
"""Of a sensor in a stream; in units of all streams, as everything here."""
REACH = 5.0
"""A sample teaches at most so many deviations: one outlier must not define a stream."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What streams have in common.

    Attributes:
        location: Weight of the pooled mean, in samples, ``[feature]``.
        spread: Weight of the pooled variance, in samples, ``[feature]``.
        variance: Within a stream, ``[feature]``.
    """

    location: NDArray[np.float64]
    spread: NDArray[np.float64]
    variance: NDArray[np.float64]


@final
class Adaptation(nn.Module):
    """Samples in units of all streams -> samples in units of this stream.

    ``location = sum x / (n + n0)`` and ``variance = (k v + sum (x - mean)^2) / (k + n)``, with n
    the samples so far, at most ``window``: the posterior means under the conjugate priors
    (Gelman et al., Bayesian Data Analysis, 3rd ed., section 3.3).

    Args:
        features: Length of a sample.
        window: Samples that teach.
        prefix: Of the name of the carried tensor.
        bounded: What comes never exceeds `REACH` and is in units of its own deviation: then only
            the location is adapted.

    Attributes:
        location: ``n0`` ``[feature]``; ``[1]`` where only the location is adapted.
        spread: ``k`` ``[feature]``.
        variance: ``v`` ``[feature]``.
        adapts: Whether a sample moves anything. Where nothing is known of other streams none does,
            and nothing is carried.
    """

    location: Tensor
    spread: Tensor
    variance: Tensor

    def __init__(
        self, features: int, window: int, prefix: str = "", *, bounded: bool = False
    ) -> None:
        super().__init__()
        self.features = features
        self.window = window
        self.scales = not bounded
        self.adapts = False
        self._name = prefix + "sums"
        self.register_buffer("location", torch.full((1 if bounded else features,), NEVER))
        self.register_buffer("spread", torch.full((features,), NEVER))
        self.register_buffer("variance", torch.ones(features))
        self.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]

    @property
    def state_names(self) -> tuple[str, ...]:
        """Name of the carried tensor."""
        return (self._name,) if self.adapts else ()

    def set(self, prior: Prior) -> None:
        """Takes over what was measured, in place."""
        self.location.copy_(torch.from_numpy(prior.location))
        self.spread.copy_(torch.from_numpy(prior.spread))
        self.variance.copy_(torch.from_numpy(prior.variance))
        self.look()

    def set_location(self, weight: float) -> None:
        """The weight of a location of 0, in samples, the same for each feature, in place."""
        self.location.fill_(weight)
        self.look()

    def look(self) -> None:
        """Finds out whether it adapts, after its tensors have changed."""
        self.adapts = bool((torch.cat([self.location, self.spread]) < NEVER / 2).any())

    def initial_state(self, streams: int) -> State:
        """Zeros: ``[1, stream, feature]``, twice as wide where the variance is adapted too."""
        width = self.features * (1 + self.scales)
        return {name: self.variance.new_zeros(1, streams, width) for name in self.state_names}

    def forward(
        self, x: Tensor, n: Tensor | None, state: State
    ) -> tuple[Tensor, Tensor | None, State]:
        """Adapts while there is something to learn, and applies.

        Args:
            x: ``[time, stream, feature]``.
            n: How many samples of the stream there are so far, with each; see `so_far`. None where
                nothing adapts.
            state: The tensors of `state_names`; others are ignored.

        Returns:
            ``x - location`` ``[time, stream, feature]``, the variance of that shape or, where
            nothing adapts, ``[feature]`` (None where it is 1), and the state after.
        """
        if n is None or not self.adapts:
            return x, self.variance if self.scales else None, {}
        taught = (self.window + 1.0 - n).clamp(0.0, 1.0)  # 1 up to the window, 0 after it
        n = n.clamp(max=float(self.window))
        if self.scales:
            taught = taught * x.clamp(-REACH, REACH)
            taught = torch.cat([taught, taught * taught], dim=2)
        else:
            taught = taught * x
        # One by one from what was carried, so that no cut into calls changes a bit.
        sums = behind(state[self._name], taught).cumsum(0)
        after, sums = {self._name: sums[-1:]}, sums[1:]
        if not self.scales:
            return x - sums / (n + self.location), None, after
        total, squares = torch.split(sums, self.features, dim=2)
        around = squares - total * total / n
        variance = (self.spread * self.variance + around) / (self.spread + n)
        # What stands still has a variance of rounding noise alone.
        variance = variance.clamp(min=LEAST_VARIANCE)
        return x - total / (n + self.location), variance, after


def _loaded(module: nn.Module, _: object) -> None:
    if isinstance(module, Adaptation):
        module.look()


def so_far(seen: Tensor, x: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Counts samples.

    Args:
        seen: How many there were before, ``[stream, 1]``.
        x: Samples ``[time, stream, feature]``.
        most: Beyond which it does not matter how many there were.

    Returns:
        How many there are with each sample, ``[time, stream, 1]``, and ``seen`` after them, at most
        ``most``.
    """
    n = seen + torch.ones_like(x[:, :1, :1]).cumsum(0)
    return n, n.clamp(max=float(most))[-1]


def fit_prior(streams: list[NDArray[np.float64]], window: int) -> Prior:
    """Measures how much streams differ, beside how much each wanders.

    Both are compared on windows of the length that adaptation has: ``n0`` is such that a window's
    mean gets the weight ``between / (between + within)``.

    Args:
        streams: Normal samples of each stream ``[row, feature]``, normalised over all.
        window: Samples that teach.

    Returns:
        The prior; of one stream nothing can be learnt about others, and it never moves.
    """
    features = streams[0].shape[1]
    never = np.full(features, NEVER)
    # Of short streams half must do: without two windows of one, nothing says how it wanders.
    window = min(window, max(len(s) for s in streams) // 2)
    if window < SHORTEST:
        window = len(max(streams, key=len)) + 1
    parts = [s[: len(s) // window * window].reshape(-1, window, features) for s in streams]
    parts = [part for part in parts if len(part)]
    pooled = np.concatenate([s - s.mean(axis=0) for s in streams])
    variance = np.maximum((pooled**2).mean(axis=0), LEAST_VARIANCE)
    if len(parts) < 2:  # noqa: PLR2004 - one beside another
        every = np.concatenate(streams)
        return Prior(never, never, np.maximum(every.var(axis=0), LEAST_VARIANCE))
    means = [part.mean(axis=1) for part in parts]  # each [window, feature]
    logs = [np.log(part.var(axis=1) + 1e-4) for part in parts]
    return Prior(_weight(means, window), _weight(logs, window), variance)


def _weight(values: list[NDArray[np.float64]], window: int) -> NDArray[np.float64]:
    """The prior's weight, from one figure of each window of each stream."""
    counts = np.array([len(v) for v in values], dtype=np.float64)
    centres = np.stack([v.mean(axis=0) for v in values])
    around = sum(((v - v.mean(axis=0)) ** 2).sum(axis=0) for v in values)
    within = around / (counts - 1).sum()
    between = centres.var(axis=0, ddof=1) - within * np.mean(1 / counts)
    between = np.maximum(between, 1e-3 * within + 1e-9)
    weight: NDArray[np.float64] = np.clip(window * within / between, 1e-3, NEVER)
    return weight
