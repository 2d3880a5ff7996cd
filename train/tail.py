"""The tail of a distribution beyond a base: generalised Pareto, for few exceedances.

Peaks over threshold: Davison & Smith 1990; Coles 2001, chapter 4. With twenty exceedances the
likelihood says little about the shape, so it gets a weak prior, as in Martins & Stedinger 2000,
here normal around an exponential tail. Posterior on a grid, no iterations.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Shapes in (-0.5, 0.5), normal around 0: below, the likelihood is not regular; above, the variance
# is infinite.
MOST_SHAPE, PRIOR_DEVIATION = 0.5, 0.2
SHAPE_CELLS, SCALE_CELLS = 60, 61
# The grid of log scales reaches so many standard errors 1 / sqrt(n) to either side.
SCALE_REACH = 6.0
DRAWS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """P(height > base + x | height > base) = (1 + shape x / scale)^(-1 / shape).

    Attributes:
        base: Where it begins, in the units of the heights.
        shape: Posterior mean, without unit.
        scale: Exponential of the posterior mean of the logarithm, in the units of the heights.
        shapes: Equally likely draws of the posterior, ``[draw]``.
        scales: Their scales, ``[draw]``.
    """

    base: float
    shape: float
    scale: float
    shapes: Floats
    scales: Floats

    def level(self, share: float) -> float:
        """What a share in (0, 1] of the heights exceeds."""
        log = -math.log(share)
        excess = log if self.shape == 0 else math.expm1(self.shape * log) / self.shape
        return self.base + self.scale * excess

    def shares(self, level: float) -> Floats:
        """The share of the heights above a level, by each draw, ``[draw]``."""
        inside = np.maximum(1 + self.shapes * ((level - self.base) / self.scales), 0)
        with np.errstate(divide="ignore"):  # 0 ** -2: a tail that ends is never exceeded there
            shares: Floats = np.where(inside > 0, inside ** (-1 / self.shapes), 0.0)
        return shares


def fit_tail(heights: Floats, base: float, weight: float = 1.0) -> Tail:
    """Fits the tail above ``base``.

    Args:
        heights: All above ``base``, ``[height]``, at least one.
        base: Where the tail begins.
        weight: What one height counts, at most 1: less where they are not independent.

    Returns:
        The tail.
    """
    excess = np.sort(heights) - base  # sorted: the sums do not depend on the order
    mean = float(excess.mean())
    x = excess / mean  # [height]
    n = weight * len(x)
    cells = (np.arange(SHAPE_CELLS) + 0.5) / SHAPE_CELLS  # in the middle: never a shape of 0
    reach = SCALE_REACH / math.sqrt(n)
    shape, log_scale = np.meshgrid(
        MOST_SHAPE * (2 * cells - 1), np.linspace(-reach, reach, SCALE_CELLS), indexing="ij"
    )  # [shape, scale]
    # Around the scale at which the tail has the mean 1.
    log_scale = log_scale + np.log1p(-shape)
    inside = 1 + (shape / np.exp(log_scale))[..., None] * x  # [shape, scale, height]
    possible = inside.min(axis=-1) > 0
    logs = np.log(np.where(possible[..., None], inside, 1.0)).mean(axis=-1)
    log_posterior = -n * (log_scale + (1 + 1 / shape) * logs) - (shape / PRIOR_DEVIATION) ** 2 / 2
    log_posterior = np.where(possible, log_posterior, -np.inf)
    weights = np.exp(log_posterior - log_posterior.max()).ravel()
    weights /= weights.sum()
    drawn = np.searchsorted(np.cumsum(weights), (np.arange(DRAWS) + 0.5) / DRAWS)
    drawn = np.minimum(drawn, len(weights) - 1)  # a cumulative sum may end below 1
    return Tail(
        base=base,
        shape=float(weights @ shape.ravel()),
        scale=mean * math.exp(float(weights @ log_scale.ravel())),
        shapes=shape.ravel()[drawn],
        scales=mean * np.exp(log_scale.ravel()[drawn]),
    )
