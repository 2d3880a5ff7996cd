"""Whether a detector looks ahead: cutting the input must change no score that was there before."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.replay import Readings
from evaluate.judge import UNSCORED, Series

CUTS = 4
"""For each stream."""

Run = Callable[[Sequence[Readings]], Sequence[Series]]
"""Scores streams, side by side."""


class Leak(NamedTuple):
    """A score that depends on what came after it.

    Attributes:
        stream: Whose.
        row: Its row, from 0.
        cut: The row before which the input ended, when it was another.
        whole: The score with all of the input; NaN where there was none.
        alone: The score without the rows from ``cut`` on.
    """

    stream: str
    row: int
    cut: int
    whole: float
    alone: float

    def __str__(self) -> str:
        """A sentence."""
        return (
            f"{self.stream}: the score of row {self.row} is {self.alone!r} when the input ends "
            f"before row {self.cut}, and {self.whole!r} with what follows: the detector looks ahead"
        )


class Causality(NamedTuple):
    """What the check has found.

    Attributes:
        cuts: How often the input was cut.
        compared: How many scores were compared with ``==``.
        leak: The first that was another, by stream and row; None if there is none.
    """

    cuts: int
    compared: int
    leak: Leak | None


def check_causal(
    run: Run, readings: Sequence[Readings], rng: np.random.Generator, cuts: int = CUTS
) -> Causality:
    """Cuts every stream at several rows and compares all that the detector had said by then.

    Score, status and lamp are compared bit for bit. A score that comes late because the model says
    that it looks ahead is compared once it has come.

    Args:
        run: Scores streams from the beginning.
        readings: The streams.
        rng: Draws where to cut.
        cuts: How often each stream is cut.

    Returns:
        What was compared, and the first difference.
    """
    whole = run(readings)
    leaks: list[tuple[int, Leak]] = []
    compared = made = 0
    for places in _places(readings, rng, cuts):
        shortened = [_cut(stream, at) for stream, at in zip(readings, places, strict=True)]
        for number, (series, full) in enumerate(zip(run(shortened), whole, strict=True)):
            at = int(places[number])
            there = series.status != UNSCORED
            compared += int(there.sum())
            made += at < len(readings[number].ts)
            other = np.flatnonzero(there & _differs(series, full, at))
            if len(other):
                row = int(other[0])
                pair = float(full.score[row]), float(series.score[row])
                leaks.append((number, Leak(readings[number].stream, row, at, *pair)))
    first = min(leaks, key=lambda found: (found[0], found[1].row), default=(0, None))[1]
    return Causality(made, compared, first)


def _places(readings: Sequence[Readings], rng: np.random.Generator, cuts: int) -> NDArray[np.int64]:
    """Where to cut, ``[cut, stream]``: one place in each of as many equal parts of the stream."""
    rows = np.array([len(stream.ts) for stream in readings], np.int64)
    shares = (np.arange(cuts)[:, None] + rng.random((cuts, len(rows)))) / cuts
    places: NDArray[np.int64] = np.clip((shares * rows).astype(np.int64), 1, np.maximum(rows, 1))
    return places


def _cut(stream: Readings, at: int) -> Readings:
    label = None if stream.label is None else stream.label[:at]
    return Readings(stream.stream, stream.ts[:at], stream.values[:at], label)


def _differs(cut: Series, whole: Series, at: int) -> NDArray[np.bool_]:
    differs: NDArray[np.bool_] = cut.score.view(np.int64) != whole.score[:at].view(np.int64)
    differs |= cut.status != whole.status[:at]
    differs |= cut.lit != whole.lit[:at]
    return differs
