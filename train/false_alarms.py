"""The alarm level that keeps to a rate of false alarms: episodes of the lamp a day and machine.

The lamp (`edge_runtime.alarm`) goes on after ``hold`` samples in a row above the level and off
after as many below a lower one. So what counts is not how many samples exceed a level but how often
the lamp goes on at it in normal operation. Where that was seen often enough, it is counted. Towards
rarer alarms a tail is fitted to the heights of the highest episodes: peaks over threshold (Davison
& Smith 1990; Coles 2001, chapters 4 and 5), with the lamp's rule in place of a run length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.lamp import Bools, Floats, Lamp, Rises, Watched, watch
from train.tail import DRAWS, Tail, fit_tail

Method = Literal["counted", "fitted", "extrapolated", "largest"]

# A limit so low is rounding noise: the sensors stood still. In deviations of the normal error.
LOWEST_LIMIT = 0.1
# A tail is fitted to so many episodes, or to this share of the most that any level raises: nearer
# to those the lamp is on as often as off, which is no tail. Never to fewer than so few.
TAIL_EPISODES, TAIL_SHARE, LEAST_EPISODES = 40, 1 / 3, 5
# The rarest alarms that a level is sought for: one episode in so many times the data. Beyond, the
# interval of what to expect spans orders of magnitude, and real faults are missed for nothing.
MOST_EXTRAPOLATION = 3
# Data support a rate if the interval of this probability lies within this factor of it ...
COVERAGE, SUPPORT_FACTOR = 0.9, 2.0
# ... which takes so many episodes where they are counted and independent of each other.
LEAST_COUNTED = 6.33
# From one level at which episodes are counted to the next, so many times the samples lie above.
RUNG = 1.05
# No level is lower than the one at which the lamp could go on at this share of all samples.
MOST_LIT = 0.5
# Counts are compared between so many stretches, and between machine-days and sequences. Of few
# stretches the variance is uncertain: it is averaged with so many that vary by chance alone.
STRETCHES, DOUBT = (4, 8, 16), 2.0
SEED = 0
# Rates at which the tail's interval is looked at, to find the lowest that is supported.
TRIED = 25
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Level:
    """The alarm level and what it rests on. Rates are in episodes per day and machine.

    Attributes:
        distance: What scores 1.0.
        episodes: Alarms that the calibration sequences themselves raise at it.
        days: Machine-days counted.
        per_day: Rate expected at this level.
        interval: In which that rate lies with the probability `COVERAGE`.
        supported_per_day: The lowest rate whose interval lies within `SUPPORT_FACTOR` of it.
        method: ``counted``; ``fitted``: from the tail, where there still are episodes;
            ``extrapolated``: from the tail, at less than one episode in all the data;
            ``largest``: the largest distance, and as far beyond it as the distances themselves
            say, because there are too few episodes for a tail.
    """

    distance: float
    episodes: int
    days: float
    per_day: float
    interval: tuple[float, float]
    supported_per_day: float
    method: Method


def count_episodes(
    sequences: Sequence[Floats], counts: Sequence[Bools], level: float, lamp: Lamp
) -> int:
    """How often the lamp goes on, with `edge_runtime.alarm`'s very rule.

    Args:
        sequences: Distances, each from a dark lamp, ``[sequence][time]``.
        counts: Whether a sample's status is ``ok``, ``[sequence][time]``.
        level: What a distance must exceed.
        lamp: The rule.

    Returns:
        Episodes in all sequences.

    Raises:
        ValueError: As for `choose_level`.
    """
    return _count(watch(sequences, counts, lamp.hold).rises, level, lamp)


def choose_level(
    sequences: Sequence[Floats],
    counts: Sequence[Bools],
    per_day: float,
    period_ms: float,
    lamp: Lamp,
) -> Level:
    """The level at which normal operation lights the lamp as often as asked for.

    Say the rate asked for is ``a`` episodes in all these data. For an ``a`` of `TAIL_EPISODES` or
    more the level is the lowest that raises at most ``a`` episodes, as do all above it. For less, a
    tail is fitted to the heights of `TAIL_EPISODES` episodes; a height is the highest level that
    the lamp would still go on at. Below ``1 / MOST_EXTRAPOLATION`` the level is the one for that.

    Within the tail, an episode counts as one however high the level. In truth it may be several at
    a higher one: what falls below ``leave`` of that level in between puts the lamp out.
    `Level.episodes` is therefore counted anew, by the rule.

    Episodes may come in bursts, or from one machine more than from others. The variance of their
    number between stretches, over that of independent ones, is what it takes of them to count as
    one, in the interval and in the tail.

    Args:
        sequences: Distances of normal operation, ``[sequence][time]``. Each is from one machine and
            starts with a dark lamp; a machine may have several, between its gaps.
        counts: Whether a sample's status is ``ok``, ``[sequence][time]``. Others neither count nor
            break a row.
        per_day: Rate asked for, in episodes per day and machine.
        period_ms: Time between two samples of a machine.
        lamp: Its rule.

    Returns:
        The level. It does not depend on the order of the sequences and never rises with the rate.

    Raises:
        ValueError: No sample counts, one that counts is not finite, shapes differ, the rate is not
            positive, ``leave`` exceeds the level, or ``hold`` is below 1.
    """
    if not per_day > 0:
        raise ValueError(f"the rate of false alarms must be positive, got {per_day} a day")
    watched = watch(sequences, counts, lamp.hold)
    a_day = SECONDS_PER_DAY * 1000 / period_ms  # samples
    days = int(watched.lengths.sum()) / a_day
    asked = per_day * days
    rungs, most = _ladder(watched.rises, lamp)
    wanted = max(LEAST_EPISODES, min(TAIL_EPISODES, TAIL_SHARE * most[-1]))
    # The highest of the levels from which on there are as many: at it there are no fewer.
    base = float(rungs[np.searchsorted(most, most[most <= wanted][-1])])
    top = _episodes(watched, base, lamp, a_day)
    tail = _EpisodeTail.fitted(top) if len(top.heights) >= LEAST_EPISODES else None
    if most[-1] and asked >= (tail.number if tail else LEAST_EPISODES):
        allowed = asked * (1 + 1e-9)  # 864 episodes in 86,400 samples are 864, not 863
        level = float(rungs[most <= allowed][-1])
        found = _counted(_episodes(watched, level, lamp, a_day), tail, asked)
    elif tail:
        found = _from_tail(tail, asked)
    else:
        found = _beyond_largest(watched, asked)
    return Level(
        distance=found.distance,
        episodes=_count(watched.rises, found.distance, lamp),
        days=days,
        per_day=found.expected / days,
        interval=(found.interval[0] / days, found.interval[1] / days),
        supported_per_day=found.supported / days,
        method=found.method,
    )


def advice(level: Level, per_day: float, share: float = 1.0) -> str | None:
    """One sentence for when the data cannot support the rate asked for, else None.

    Args:
        level: What was found.
        per_day: Rate asked for, in episodes per day and machine.
        share: Part of a recording that calibration gets.

    Returns:
        What was asked, what the data support, what the level is worth, and what to do.
    """
    if level.supported_per_day <= per_day * (1 + 1e-9):
        return None
    more = 24 * level.days * (level.supported_per_day / per_day - 1) / share
    supported = _rounded_up(level.supported_per_day)
    low, high = level.interval
    hours = _rounded_up(24 * level.days)
    return (
        f"asked for {per_day:g} false alarms per day and machine; {hours} machine-hours of "
        f"calibration data support {supported}, and the alarm level {_ORIGIN[level.method]}: "
        f"expect {level.per_day:.2g} per day, between {low:.2g} and {high:.2g} with {COVERAGE:.0%} "
        f"probability. Record about {_rounded_up(more)} more machine-hours of normal operation, or "
        f"accept --false-alarms-per-day {supported.replace(',', '')}"
    )


_ORIGIN: dict[Method, str] = {
    "counted": "was counted on few or uneven episodes",
    "fitted": "was read off a tail fitted to their highest episodes",
    "extrapolated": "was extrapolated beyond their highest episodes",
    "largest": "lies by the largest distance in them, as there were too few episodes",
}


def _rounded_up(x: float) -> str:
    """With two significant digits, or whole above 100, and never less than ``x``."""
    unit = 10.0 ** min(0, math.floor(math.log10(x)) - 1)
    return f"{math.ceil(x / unit - 1e-9) * unit:,.{max(0, round(-math.log10(unit)))}f}"


class _Episodes(NamedTuple):
    """What a level raises.

    Attributes:
        level: The level.
        heights: The highest level that would still light the lamp, ``[episode]``.
        dispersion: Variance of their number over that of independent ones, at least 1.
    """

    level: float
    heights: Floats
    dispersion: float


class _Found(NamedTuple):
    """A level; rates as episodes in all the data."""

    distance: float
    expected: float
    interval: tuple[float, float]
    supported: float
    method: Method


def _count(rises: Rises, level: float, lamp: Lamp) -> int:
    return int(rises.above(level).first(level, lamp).sum())


def _ladder(rises: Rises, lamp: Lamp) -> tuple[Floats, NDArray[np.int64]]:
    """Levels downward, to the one that raises most, and the most episodes from each one upward.

    Returns:
        Levels ``[rung]``, descending, and episodes ``[rung]``, from 0 on, ascending.
    """
    descending = np.sort(rises.heights)[::-1]
    last = math.ceil(MOST_LIT * len(descending)) - 1
    ranks = [0]
    while ranks[-1] < last:
        ranks.append(min(last, max(ranks[-1] + 1, int(ranks[-1] * RUNG))))
    rungs = np.unique(np.maximum(descending[ranks] if len(descending) else 0.0, LOWEST_LIMIT))
    episodes = []
    for level in rungs.tolist():  # ascending: each level sifts what the one below has left
        rises = rises.above(level)
        episodes.append(int(rises.first(level, lamp).sum()))
    most = np.maximum.accumulate(np.array(episodes)[::-1])
    end = int(np.argmax(most)) + 1
    return rungs[::-1][:end], most[:end]


def _episodes(watched: Watched, level: float, lamp: Lamp, a_day: float) -> _Episodes:
    """The episodes at a level; ``a_day`` is in samples."""
    rises = watched.rises.above(level)
    (first,) = np.nonzero(rises.first(level, lamp))
    if not len(first):
        return _Episodes(level, rises.heights, 1.0)
    heights = np.maximum.reduceat(rises.heights, first)
    return _Episodes(level, heights, _dispersion(rises.at[first], watched.lengths, a_day))


def _dispersion(at: NDArray[np.int64], lengths: NDArray[np.int64], a_day: float) -> float:
    """How much more the number of episodes varies between stretches than chance explains.

    Args:
        at: Counting samples before each episode, ``[episode]``, at least one.
        lengths: Counting samples, ``[sequence]``.
        a_day: Samples.

    Returns:
        The largest ratio of variances, over sequences, their days, and shorter stretches of them;
        at least 1.
    """
    total, starts = int(lengths.sum()), np.cumsum(lengths) - lengths
    ratios = [1.0]
    for longest in (total, a_day, *(total / number for number in STRETCHES)):
        parts = np.maximum(1, np.rint(lengths / longest)).astype(np.int64)  # [sequence]
        long = np.repeat(lengths / parts, parts)  # [stretch]
        part = np.arange(len(long)) - np.repeat(np.cumsum(parts) - parts, parts)
        found, _ = np.histogram(at, np.append(np.repeat(starts, parts) + part * long, total))
        # fsum: the same in whatever order the sequences come.
        shares = long / total
        by_chance = len(at) * math.fsum(shares * (1 - shares))
        free = 1 / math.fsum(shares**2) - 1  # stretches less one, if they are equal
        if len(shares) > 1:
            ratio = math.fsum((found - len(at) * shares) ** 2) / by_chance
            ratios.append((DOUBT + free * ratio) / (DOUBT + free))
    return max(ratios)


@dataclass(frozen=True, slots=True)
class _EpisodeTail:
    """How many episodes are higher than a level, above that of the first `TAIL_EPISODES`.

    Attributes:
        tail: Of their heights.
        number: Episodes that it was fitted to.
        dispersion: What it takes of them to count as one.
        numbers: Equally likely draws of how many to expect in so much data, ``[draw]``.
    """

    tail: Tail
    number: int
    dispersion: float
    numbers: Floats

    @classmethod
    def fitted(cls, episodes: _Episodes) -> "_EpisodeTail":
        tail = fit_tail(episodes.heights, episodes.level, 1 / episodes.dispersion)
        number, dispersion = len(episodes.heights), episodes.dispersion
        # The posterior of a Poisson mean under Jeffreys' prior.
        draws = np.random.default_rng(SEED).standard_gamma(number / dispersion + 0.5, DRAWS)
        return cls(tail, number, dispersion, draws * dispersion)

    def level(self, expected: float) -> float:
        return self.tail.level(min(1.0, expected / self.number))

    def interval(self, level: float) -> tuple[float, float]:
        low, high = np.quantile(self.numbers * self.tail.shares(level), _ENDS).tolist()
        return low, high

    def supported(self, asked: float) -> float:
        """The fewest expected episodes from which on all intervals are narrow enough."""
        within = min(max(asked, 1 / MOST_EXTRAPOLATION), self.number)
        tried = np.unique(np.append(np.geomspace(1, self.number, TRIED), within))
        wide = [not _supports(self.interval(self.level(x)), x) for x in tried.tolist()]
        enough = max((k + 1 for k, is_wide in enumerate(wide) if is_wide), default=0)
        return float(tried[enough]) if enough < len(tried) else LEAST_COUNTED * self.dispersion


def _supports(interval: tuple[float, float], expected: float) -> bool:
    return expected <= SUPPORT_FACTOR * interval[0] and interval[1] <= SUPPORT_FACTOR * expected


def _counted(episodes: _Episodes, tail: _EpisodeTail | None, asked: float) -> _Found:
    number, dispersion = len(episodes.heights), episodes.dispersion
    # Jeffreys' interval, which begins at 0 where nothing was seen.
    low, high = (dispersion * _gamma_quantile(p, number / dispersion + 0.5) for p in _ENDS)
    low = low if number else 0.0
    needed = LEAST_COUNTED * dispersion
    supported = tail.supported(asked) if tail else needed
    if asked < needed:
        supported = max(supported, needed)
    return _Found(episodes.level, float(number), (low, high), supported, "counted")


def _from_tail(tail: _EpisodeTail, asked: float) -> _Found:
    expected = max(asked, 1 / MOST_EXTRAPOLATION)
    level = tail.level(expected)
    method: Method = "fitted" if expected >= 1 else "extrapolated"
    interval = tail.interval(level)
    return _Found(level, expected, interval, tail.supported(asked), method)


def _beyond_largest(watched: Watched, asked: float) -> _Found:
    """Of n values of one kind the largest is exceeded by about Exp(1) of n more.

    For fewer than that, an exponential tail with the mean excess of the high distances.
    """
    expected = min(1.0, max(asked, 1 / MOST_EXTRAPOLATION))
    level = watched.largest + watched.mean_excess * math.log(1 / expected)
    low, high = (-math.log(1 - p) * expected for p in _ENDS)
    return _Found(max(level, LOWEST_LIMIT), expected, (low, high), LEAST_COUNTED, "largest")


_ENDS = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)


def _gamma_quantile(probability: float, shape: float) -> float:
    """Of a gamma variable of scale 1, as Wilson & Hilferty 1931 approximate it."""
    z = NormalDist().inv_cdf(probability)
    return shape * max(0.0, 1 - 1 / (9 * shape) + z / (3 * math.sqrt(shape))) ** 3
