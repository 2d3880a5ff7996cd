"""Half-space trees as a detector; see `train.half_space`."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from train.cell import Cell
from train.config import ModelConfig
from train.half_space import grown
from train.layers import State, Unroll, over_time
from train.normalised import Normalised
from train.scoring import LEAVE

TREES_SEED = 0
"""Trees are grown at random but not anew: two runs over one history give one file."""


@final
class Trees(Normalised):
    """``(x, state) -> (score, None, state')``; an `export.model.Model`. It explains nothing.

    Args:
        features: Names of the sensors, in the order of the last axis of ``x``.
        model: Kept for the checkpoint.

    Attributes:
        limit: The trees' score that scores 1.0, a scalar.
        state_names: Names of the carried tensors.
    """

    limit: Tensor
    look_ahead = 0
    target = None
    state_names: tuple[str, ...]

    def __init__(self, features: Sequence[str], model: ModelConfig) -> None:
        super().__init__(features)
        self.model = model
        count = len(self.features)
        self.register_buffer("limit", torch.ones(()))
        self.trees = grown(count, TREES_SEED)
        self.state_names = tuple(self.trees.carried)

    @property
    def stream_axes(self) -> dict[str, int]:
        """Which axis of each carried tensor is the stream."""
        return dict.fromkeys(self.state_names, 0)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The trees."""
        return (self.trees,)

    def initial_state(self, streams: int) -> State:
        """Zeros: no mass anywhere."""
        return dict(zip(self.state_names, self.trees.initial_state(streams), strict=True))

    def forward(
        self, x: Tensor, state: State, unroll: Unroll = over_time
    ) -> tuple[Tensor, None, State]:
        """Scores samples and carries the state; see `train.detector.Detector.forward`."""
        level, after = self.level(x, state, unroll)
        return level / self.limit, None, after

    def level(self, x: Tensor, state: State, unroll: Unroll = over_time) -> tuple[Tensor, State]:
        """What the alarm level is chosen from.

        Args:
            x: Samples in engineering units ``[time, stream, feature]``.
            state: The tensors of `state_names`.
            unroll: How a cell runs over time.

        Returns:
            The trees' score, 0 to 1, ``[time, stream]``, and the state after.
        """
        xn = self.normalised(x)
        found, after = unroll(self.trees, xn, tuple(state[name] for name in self.state_names))
        return found.squeeze(2), dict(zip(self.state_names, after, strict=True))

    def set_limit(self, level: float) -> None:
        """The level that shall score 1.0; positive."""
        self.limit.fill_(level)

    def leaves(self, level: float) -> float:
        """The level below which a lamp goes out that went on above ``level``."""
        return LEAVE * level
