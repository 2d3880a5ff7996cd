"""What is exported, whoever wrote it: one pure function with what must be known about it."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from train.layers import Unroll, over_time

Float32 = NDArray[np.float32]
Samples = Callable[[int, int, int], Float32]
"""Made-up samples ``[time, stream, feature]``, for so many steps, so many streams and a seed."""


class Sensors(Protocol):
    """What a model reads.

    Attributes:
        features: Names of the sensors, in the order of the last axis of ``x``.
        mean: Where they usually are ``[feature]``, engineering units.
        scale: How far they usually are from there ``[feature]``.
    """

    features: tuple[str, ...]
    mean: Tensor
    scale: Tensor


class Model(Sensors, Protocol):
    """``(x, state) -> (score, contribution, state')`` in PyTorch, in evaluation mode.

    `train.detector.Detector` is one as it stands; `export.stepwise.Stepwise` makes one of any
    module that offers a step.
    """

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the carried tensors, in a fixed order."""

    @property
    def look_ahead(self) -> int:
        """Samples by which a score lags behind what came in."""

    @property
    def stream_axes(self) -> dict[str, int]:
        """Which axis of each carried tensor is the stream."""

    def initial_state(self, streams: int) -> dict[str, Tensor]:
        """The state of streams that have seen nothing, by name."""

    def state_dict(self) -> dict[str, Any]:
        """Parameters and buffers by name."""

    def __call__(
        self, x: Tensor, state: dict[str, Tensor], unroll: Unroll = over_time
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Scores ``x [time, stream, feature]`` and carries the state; see `Detector.forward`."""
