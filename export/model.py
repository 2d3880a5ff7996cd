"""What is exported, whoever wrote it: one pure function with what must be known about it."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Float32 = NDArray[np.float32]
Samples = Callable[[int, int, int], Float32]
"""Made-up samples ``[time, stream, feature]``, for so many steps, so many streams and a seed."""


class Model(Protocol):
    """``(x, state) -> (score, contribution, state')`` in PyTorch, in evaluation mode.

    `train.detector.Detector` is one as it stands; `export.stepwise.Stepwise` makes one of any module
    that offers a step.

    Attributes:
        features: Names of the sensors, in the order of the last axis of ``x``.
        state_names: Names of the carried tensors, in a fixed order.
        mean: Where the sensors usually are ``[feature]``, engineering units.
        scale: How far they usually are from there ``[feature]``.
    """

    features: tuple[str, ...]
    state_names: tuple[str, ...]
    mean: Tensor
    scale: Tensor

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
        self, x: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """``x [time, stream, feature]`` and the carried tensors.

        Takes ``unroll`` as well: how a cell runs over time (`train.layers.Unroll`).
        """
