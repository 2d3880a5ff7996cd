"""The recommended detector: what the sensors say over several spans, and what a network foretold.

Each sample is brought into the units of its own stream (`train.adaptation`) and bounded. Together
with the network's standardised forecast errors of three horizons it is judged by Hotelling's T2
over several spans of time (`train.multiscale`). The network has to earn its place: where it
foretells validation data hardly better than their own distribution does, it is left out.
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from train.adaptation import Adaptation, so_far
from train.cell import Cell
from train.config import ModelConfig
from train.horizons import HORIZONS, Horizons
from train.layers import State, Unroll, over_time
from train.multiscale import SLOPE, SPANS, TAPS, MultiScale, bounded
from train.normalised import Normalised
from train.scoring import LEAVE

REACH, ERROR_REACH = 8.0, 4.0
"""Bounds of a sample and of a forecast error, in deviations."""
WINDOW, ERROR_WINDOW = 100, 200
"""Samples that teach what is normal for a stream, and how its forecasts are usually off."""
WARM_UP = SPANS[-1] + TAPS
"""Samples after which the longest span and the smoothing are full."""


@final
class Hybrid(Normalised):
    """``(x, state) -> (score, contribution, state')``; an `export.model.Model`.

    Args:
        features: Names of the sensors, in the order of the last axis of ``x``.
        model: The network's cells and width.
        network: Whether there is one.

    Attributes:
        most: So many samples of a stream are counted.
        adaptation: From units of all streams to those of one.
        network: Foretells; None where it was left out.
        error_adaptation: How forecasts of one stream are usually off.
        scoring: From signals to a level and a score.
    """

    look_ahead = 0
    target = None

    def __init__(self, features: Sequence[str], model: ModelConfig, *, network: bool) -> None:
        super().__init__(features)
        self.model = model
        count = len(self.features)
        self.adaptation = Adaptation(count, WINDOW)
        self.network: Horizons | None = None
        signals = ["samples"]
        self.most = WINDOW
        if network:
            self.network = Horizons(model.cells, count, model.hidden, model.options)
            self.error_adaptation = Adaptation(
                len(HORIZONS) * count, ERROR_WINDOW, "errors_", bounded=True
            )
            self.most = ERROR_WINDOW
            signals += [f"errors_{k}" for k in HORIZONS]
        self.scoring = MultiScale(signals, count)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the carried tensors, in a fixed order."""
        network = () if self.network is None else self.network.state_names
        return (*self._kept, *network, *self.scoring.state_names)

    @property
    def kept_names(self) -> frozenset[str]:
        """What is about the machine: a gap in its samples changes nothing in it."""
        return frozenset(self._kept)

    @property
    def _kept(self) -> tuple[str, ...]:
        adaptations = [self.adaptation]
        if self.network is not None:
            adaptations.append(self.error_adaptation)
        names = [name for part in adaptations for name in part.state_names]
        return ("seen", *names) if names else ()

    @property
    def stream_axes(self) -> dict[str, int]:
        """Which axis of each carried tensor is the stream."""
        axes = {name: int(name != "seen") for name in self.state_names}
        return axes if self.network is None else axes | self.network.stream_axes

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The network's, lowest first."""
        return tuple(part for part in self.modules() if isinstance(part, Cell))

    def initial_state(self, streams: int) -> State:
        """The state of streams that have seen nothing, by name, with zeros in it."""
        parts: list[Adaptation | Horizons | MultiScale] = [self.adaptation, self.scoring]
        if self.network is not None:
            parts += [self.network, self.error_adaptation]
        seen = {"seen": self.mean.new_zeros(streams, 1)} if self._kept else {}
        return seen | {
            name: zeros for part in parts for name, zeros in part.initial_state(streams).items()
        }

    def forward(
        self, x: Tensor, state: State, unroll: Unroll = over_time
    ) -> tuple[Tensor, Tensor, State]:
        """Scores samples and carries the state; see `train.detector.Detector.forward`."""
        signals, carried = self.signals(x, state, unroll)
        level, contribution, after = self.scoring.levels(signals, state)
        return self.scoring.score(level), contribution, {**carried, **after}

    def level(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What the alarm level is chosen from: deviations ``[time, stream]``, and the state."""
        signals, carried = self.signals(x, state)
        level, _, after = self.scoring.levels(signals, state)
        return level, {**carried, **after}

    def set_limit(self, level: float) -> None:
        """The level that shall score 1.0."""
        self.scoring.limit.fill_(level)

    def leaves(self, level: float) -> float:
        """The level below which a lamp goes out that went on above ``level``."""
        return level + math.sinh(math.log(LEAVE)) / SLOPE

    def samples(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Samples as the network is shown them.

        Args:
            x: Engineering units ``[time, stream, feature]``.
            state: The tensors of `state_names`.

        Returns:
            In deviations of their own stream, bounded, and the state after of what that takes.
        """
        u, _, after = self._samples(x, state)
        return u, after

    def signals(self, x: Tensor, state: State, unroll: Unroll = over_time) -> tuple[Tensor, State]:
        """What is judged: the samples, and the forecast errors of each horizon.

        Args:
            x: Engineering units ``[time, stream, feature]``.
            state: The tensors of `state_names`.
            unroll: How a cell runs over time.

        Returns:
            Side by side ``[time, stream, signal * feature]``, and the state after of all but the
            scoring.
        """
        u, n, after = self._samples(x, state)
        if self.network is None:
            return u, after
        errors, told = self.network(u, state, unroll)
        own, _, usual = self.error_adaptation(bounded(errors, ERROR_REACH), n, state)
        return torch.cat([u, own], dim=2), {**after, **told, **usual}

    def _samples(self, x: Tensor, state: State) -> tuple[Tensor, Tensor | None, State]:
        """Bounded samples, how many there are so far (if that matters), and the state after."""
        n, seen = None, {}
        if self._kept:
            n, seen["seen"] = so_far(state["seen"], x, self.most)
        apart, variance, after = self.adaptation(self.normalised(x), n, state)
        return bounded(apart, REACH, variance), n, seen | after
