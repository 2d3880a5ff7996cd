"""Whether a rate of false alarms is the one that was asked for."""

from collections.abc import Iterable

from scipy.stats import chi2

from benchmarks.quality.detectors import Promise

FACTOR = 2.0
"""The measured rate may be so many times higher or lower."""


def poisson_interval(count: float, exposure: float) -> tuple[float, float]:
    """The rates at which ``count`` alarms or fewer, or so many or more, come in 2.5 % of the cases.

    Exact for independent alarms (Garwood, Biometrika 28, 1936); a count that is a mean over seeds
    takes the same formula.

    Args:
        count: Alarms.
        exposure: Time in which they came, above 0.

    Returns:
        Lowest and highest rate, in alarms per unit of ``exposure``.
    """
    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low) / exposure, float(chi2.ppf(0.975, 2 * count + 2)) / 2 / exposure


def verdict(promises: Iterable[Promise], count: float, days: float) -> str:
    """Whether the promise was kept.

    Args:
        promises: Of each seed.
        count: Alarms, the mean over the seeds.
        days: Of normal operation in which they came.

    Returns:
        ``yes``: within a factor of 2. ``too few to tell``: it is not, but its interval reaches
        there. ``said so``: the training had said of every seed that its data cannot show the rate.
        Else ``no``.
    """
    promised = list(promises)
    least, most = promised[0].asked / FACTOR, promised[0].asked * FACTOR
    if least <= count / days <= most:
        return "yes"
    if not any(promise.supported for promise in promised):
        return "said so"
    low, high = poisson_interval(count, days)
    return "too few to tell" if low <= most and high >= least else "no"
