"""From forecast error to a calibrated score: whitening, one distance, and an alarm level."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# An error's standard deviation is at least this part of its sensor's scale, and a correlation's
# eigenvalue at least its square: a sensor that was foretold perfectly, or two that moved as one,
# would otherwise turn rounding noise into alarms.
FLOOR = 1e-2

# Normalised samples are cut off here. Healthy ones stay within a few units; a sensor that fails to
# its largest float would otherwise overflow to infinity and stay in the state for ever.
BOUND = 1e3

# The score at which the gateway's lamp goes out, unless it is told otherwise.
LEAVE = 0.7


@final
class Whitening(nn.Module):
    """Forecast error -> score and each sensor's share in it.

    ZCA-cor whitening, ``z = P^-1/2 V^-1/2 (e - m)`` with ``P`` the correlation and ``V`` the
    variances of the errors in normal operation (Kessy, Lewin & Strimmer 2018), gives independent
    components that stay as close to the sensors as can be. So ``sum z^2`` is Hotelling's T2 and
    ``z_i^2 / sum z^2`` is sensor i's share of it: never negative, one in total (Garthwaite & Koch
    2016, corr-max).

    Args:
        features: Length of a sample.

    Attributes:
        mean: ``m`` ``[feature]``.
        matrix: ``V^-1/2 P^-1/2`` ``[feature, feature]``, to be applied to a row from the right.
        limit: The distance that scores 1.0, a scalar.
    """

    mean: Tensor
    matrix: Tensor
    limit: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("matrix", torch.eye(features))
        self.register_buffer("limit", torch.ones(()))

    def forward(self, error: Tensor) -> tuple[Tensor, Tensor]:
        """Scores each sample by itself.

        Args:
            error: Sample minus forecast, normalised, ``[time, stream, feature]``.

        Returns:
            The score ``[time, stream]``, 1.0 at the alarm level, and the contribution
            ``[time, stream, feature]``; equal shares where there is no error at all.
        """
        distance, shares = self.distance(error)
        return distance / self.limit, shares

    def distance(self, error: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, before the limit is known."""
        z = torch.matmul(error - self.mean, self.matrix)  # [time, stream, feature]
        # The tiny summand gives 0 / 0 a meaning and is lost beside any real error.
        squared = z * z + 1e-12
        total = squared.sum(dim=2, keepdim=True)  # [time, stream, 1]
        distance = torch.sqrt(total / error.shape[2]).squeeze(2)  # [time, stream]
        return distance, squared / total

    def set(self, fit: "WhiteningFit", limit: float) -> None:
        """Takes over what was calibrated, in place.

        Args:
            fit: Mean and matrix.
            limit: The distance that shall score 1.0; positive.
        """
        self.mean.copy_(torch.from_numpy(fit.mean))
        self.matrix.copy_(torch.from_numpy(fit.matrix))
        self.limit.fill_(limit)


@dataclass(frozen=True, slots=True)
class WhiteningFit:
    """What `fit_whitening` found.

    Attributes:
        mean: ``[feature]`` float64.
        matrix: ``[feature, feature]`` float64, see `Whitening`.
        shrinkage: Part of the correlation that was replaced by none, 0 to 1.
        floored: Per sensor, whether its variance was raised to the floor, ``[feature]`` bool.
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]
    shrinkage: float
    floored: NDArray[np.bool_]


def fit_whitening(errors: NDArray[np.float64]) -> WhiteningFit:
    """Mean, variance and shrunk correlation of forecast errors in normal operation.

    The correlation is shrunk towards none (OAS, Chen, Wiesel, Eldar & Hero 2010) because the
    stretch may be short; variances are not, as each sensor has samples enough for its own.

    Args:
        errors: Normalised errors ``[sample, feature]``, two samples at least.

    Returns:
        What `Whitening` needs.
    """
    mean = errors.mean(axis=0)
    covariance, shrinkage = shrunk_covariance(errors - mean)
    return whitening_of(mean, covariance, shrinkage)


def shrunk_covariance(
    deviations: NDArray[np.float64], taken: int = 0
) -> tuple[NDArray[np.float64], float]:
    """Covariance with a correlation that is shrunk towards none (OAS).

    Args:
        deviations: From the mean ``[sample, feature]``.
        taken: Degrees of freedom that the mean has taken.

    Returns:
        ``[feature, feature]``, and how much of the correlation was replaced by none, 0 to 1.
    """
    samples = len(deviations) - taken
    scale = np.sqrt((deviations**2).sum(axis=0) / samples)  # [feature]
    standard = deviations / np.where(scale > 0, scale, 1.0)
    correlation = standard.T @ standard / samples
    np.fill_diagonal(correlation, 1.0)  # also for a sensor that stood still
    shrinkage = _oas(correlation, samples)
    shrunk = (1 - shrinkage) * correlation + shrinkage * np.eye(len(scale))
    return shrunk * np.outer(scale, scale), shrinkage


def whitening_of(
    mean: NDArray[np.float64], covariance: NDArray[np.float64], shrinkage: float
) -> WhiteningFit:
    """The whitening of a covariance; what is smaller than the floors is raised to them.

    Args:
        mean: ``[feature]``.
        covariance: ``[feature, feature]``.
        shrinkage: Kept for the record.

    Returns:
        What `Whitening` needs.
    """
    deviation = np.sqrt(np.diag(covariance))
    scale = np.maximum(deviation, FLOOR)  # [feature]
    correlation = covariance / np.outer(scale, scale)
    np.fill_diagonal(correlation, 1.0)
    values, vectors = np.linalg.eigh(correlation)
    root = vectors / np.sqrt(np.maximum(values, FLOOR**2)) @ vectors.T  # P^-1/2
    return WhiteningFit(mean, root / scale[:, None], shrinkage, deviation < FLOOR)


def _oas(correlation: NDArray[np.float64], samples: int) -> float:
    """The oracle approximating shrinkage (Chen et al. 2010, equation 23) of a correlation."""
    p = correlation.shape[0]
    square = float(np.sum(correlation**2))  # tr(S S)
    trace = float(np.trace(correlation)) ** 2
    spread = (samples + 1 - 2 / p) * (square - trace / p)
    if spread <= 0:
        return 1.0
    shrinkage: float = ((1 - 2 / p) * square + trace) / spread
    return min(1.0, shrinkage)
