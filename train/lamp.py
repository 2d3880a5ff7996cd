"""When the lamp would go on, at any level: `edge_runtime.alarm`'s rule for recordings."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HIGH = 0.9
"""The distances above this quantile say how the largest ones fall off."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Lamp(NamedTuple):
    """How the lamp follows the distances (`edge_runtime.alarm`).

    Attributes:
        leave: From the level to the one below which the lamp goes off, never above the level.
        hold: Counting samples in a row that it takes, either way.
    """

    leave: Callable[[float], float]
    hold: int = 3


class Rises(NamedTuple):
    """Where the lamp could go on.

    Attributes:
        heights: The highest level below which it can: the least of the last ``hold`` distances,
            ``[rise]``.
        valleys: The level above which it could go off since the rise before: the least, over the
            samples since, of the largest of ``hold`` distances; -inf where a sequence begins,
            ``[rise]``.
        at: Counting samples before it, in all sequences, ``[rise]``.
    """

    heights: Floats
    valleys: Floats
    at: NDArray[np.int64]

    def above(self, level: float) -> "Rises":
        """The rises that light the lamp at a level, with what lies between them."""
        (on,) = np.nonzero(self.heights > level)
        if not len(on):
            return Rises(self.heights[on], self.valleys[on], self.at[on])
        since = np.append(0, on[:-1] + 1)
        valleys = np.minimum.reduceat(self.valleys[: on[-1] + 1], since)
        return Rises(self.heights[on], valleys, self.at[on])

    def first(self, level: float, lamp: Lamp) -> Bools:
        """Which of the rises above a level find the lamp dark, ``[rise]``.

        That is the first of a sequence and each after a valley, for the samples that light the
        lamp are above ``leave`` and in no row that puts it out.

        Raises:
            ValueError: ``leave`` exceeds the level.
        """
        leave = lamp.leave(level)
        if not leave <= level:
            raise ValueError(f"leave must not exceed the level, got {leave} > {level}")
        dark: Bools = self.valleys < leave
        return dark


class Watched(NamedTuple):
    """All sequences.

    Attributes:
        rises: Where the lamp could go on.
        lengths: Counting samples, ``[sequence]``, none 0.
        largest: The largest distance.
        mean_excess: Of the distances above their quantile `HIGH`, over it.
    """

    rises: Rises
    lengths: NDArray[np.int64]
    largest: float
    mean_excess: float


def watch(sequences: Sequence[Floats], counts: Sequence[Bools], hold: int) -> Watched:
    """Finds all that a level needs to be judged.

    Args:
        sequences: Distances, each from a dark lamp, ``[sequence][time]``.
        counts: Whether a sample's status is ``ok``, ``[sequence][time]``; others neither count nor
            break a row.
        hold: Counting samples in a row that move the lamp.

    Returns:
        The rises of all sequences.

    Raises:
        ValueError: No sample counts, one that counts is not finite, shapes differ, or ``hold`` is
            below 1.
    """
    if hold < 1:
        raise ValueError(f"hold must be at least 1, got {hold}")
    if [len(s) for s in sequences] != [len(c) for c in counts]:
        raise ValueError("each sequence wants as many distances as marks of what counts")
    counting = [np.asarray(s, np.float64)[c] for s, c in zip(sequences, counts, strict=True)]
    counting = [x for x in counting if len(x)]
    if not counting:
        raise ValueError(f"no sample of {len(sequences)} sequences counts: nothing to calibrate on")
    largest = max(float(x.max()) for x in counting)
    if not (math.isfinite(largest) and all(np.isfinite(x).all() for x in counting)):
        raise ValueError("a distance that counts is not a finite number")
    parts, before = [], 0
    for x in counting:
        heights, valleys = _over_rows(x, hold, np.minimum), _over_rows(x, hold, np.maximum)
        valleys[:1] = -np.inf
        parts.append(Rises(heights, valleys, before + hold - 1 + np.arange(len(heights))))
        before += len(x)
    rises = Rises(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    every = np.concatenate(counting)
    high = float(np.quantile(every, HIGH))
    above = every[every > high]
    excess = float(above.mean()) - high if len(above) else 0.0
    return Watched(rises, np.array([len(x) for x in counting]), largest, excess)


def _over_rows(x: Floats, hold: int, least_or_most: np.ufunc) -> Floats:
    """The least or largest of each ``hold`` values in a row, ``[time] -> [row]``."""
    rows = max(0, len(x) - hold + 1)
    result = x[:rows].copy()
    for later in range(1, hold):
        least_or_most(result, x[later : later + rows], out=result)
    return result
