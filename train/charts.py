"""Control charts: what is known without a network, and what a network has to beat.

``t2``: Hotelling's T2 of each sample (Hotelling 1947). ``mewma``: of the exponentially weighted
mean of the samples (Lowry, Woodall, Champ & Rigdon 1992). ``ewma``: the exponentially weighted mean
of each sensor's distance from its own mean, averaged over the sensors, which knows nothing of how
they belong together.
"""

from collections.abc import Sequence
from typing import final

from torch import Tensor

from train.cell import Cell
from train.config import ModelConfig
from train.delays import behind, geometric
from train.layers import State, Unroll, over_time
from train.normalised import Normalised
from train.scoring import LEAVE, Whitening

KEEP, TAPS = 0.8, 32
"""Weight of the sample before, and after how many the mean ends; what is left out weighs 0.001."""


@final
class Chart(Normalised):
    """``(x, state) -> (score, contribution, state')``; an `export.model.Model`.

    Args:
        features: Names of the sensors, in the order of the last axis of ``x``.
        model: Says which chart.

    Attributes:
        scoring: From what is charted to distance and score.
        state_names: Names of the carried tensors.
    """

    look_ahead = 0
    target = None
    state_names: tuple[str, ...]
    cells: tuple[Cell, ...] = ()

    def __init__(self, features: Sequence[str], model: ModelConfig) -> None:
        super().__init__(features)
        self.model = model
        count = len(self.features)
        self.smooths = model.kind != "t2"
        self.whitens = model.kind != "ewma"
        self.scoring = Whitening(count)
        self.state_names = ("last_samples",) if self.smooths else ()

    @property
    def stream_axes(self) -> dict[str, int]:
        """Which axis of each carried tensor is the stream."""
        return dict.fromkeys(self.state_names, 1)

    def initial_state(self, streams: int) -> State:
        """Zeros: a stream that has seen nothing stood at its mean."""
        shape = (TAPS - 1, streams, len(self.features))
        return {name: self.mean.new_zeros(shape) for name in self.state_names}

    def charted(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What the distance is taken of.

        Args:
            x: Engineering units ``[time, stream, feature]``.
            state: The tensors of `state_names`.

        Returns:
            Normalised ``[time, stream, feature]``, and the state after.
        """
        xn = self.normalised(x)
        if not self.whitens:
            xn = xn.abs()
        if not self.smooths:
            return xn, {}
        line = behind(state["last_samples"], xn)
        return geometric(line, KEEP, TAPS), {"last_samples": line[x.shape[0] :]}

    def forward(
        self,
        x: Tensor,
        state: State,
        unroll: Unroll = over_time,  # noqa: ARG002 - no cells
    ) -> tuple[Tensor, Tensor, State]:
        """Scores samples and carries the state; see `train.detector.Detector.forward`."""
        charted, after = self.charted(x, state)
        distance, shares = self._distance(charted)
        return distance / self.scoring.limit, shares, after

    def level(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What the alarm level is chosen from: the distance ``[time, stream]``, and the state."""
        charted, after = self.charted(x, state)
        return self._distance(charted)[0], after

    def set_limit(self, level: float) -> None:
        """The distance that shall score 1.0; positive."""
        self.scoring.limit.fill_(level)

    def leaves(self, level: float) -> float:
        """The level below which a lamp goes out that went on above ``level``."""
        return LEAVE * level

    def _distance(self, charted: Tensor) -> tuple[Tensor, Tensor]:
        if self.whitens:
            return self.scoring.distance(charted)
        parts = charted + 1e-12
        total = parts.sum(dim=2, keepdim=True)  # [time, stream, 1]
        return (total / len(self.features)).squeeze(2), parts / total
