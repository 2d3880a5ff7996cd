"""From engineering units to deviations: the first thing that every detector does."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.scoring import BOUND


class Normalised(nn.Module):
    """What `Hybrid`, `Chart` and `Trees` have in common.

    Args:
        features: Names of the sensors, in the order of the last axis of ``x``.

    Attributes:
        mean: Of each sensor over all streams, engineering units ``[feature]``.
        scale: And its standard deviation ``[feature]``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Sequence[str]) -> None:
        super().__init__()
        self.features = tuple(features)
        self.register_buffer("mean", torch.zeros(len(self.features)))
        self.register_buffer("scale", torch.ones(len(self.features)))

    def normalise_by(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        """Sets the normaliser, in place.

        Args:
            mean: ``[feature]``, engineering units.
            scale: ``[feature]``, engineering units, positive.
        """
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))

    def normalised(self, x: Tensor) -> Tensor:
        """Engineering units ``[..., feature]`` in deviations, cut off at `BOUND`."""
        return torch.clamp((x - self.mean) / self.scale, -BOUND, BOUND)
