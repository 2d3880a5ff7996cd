"""Scores that know nothing of the sensors: what a detector must beat to have said anything."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluate.judge import Guess, Scorer
from evaluate.scenes import Scene


def random(scenes: Sequence[Scene], rng: np.random.Generator) -> Guess:
    """Every score is drawn from 0 to 1; above 0.5, so half of the time, a sample is flagged."""
    return Guess([rng.random(scene.rows) for scene in scenes], 0.5)


def all_ones(scenes: Sequence[Scene], rng: np.random.Generator) -> Guess:  # noqa: ARG001 - a Scorer
    """Every sample is flagged."""
    return Guess([np.ones(scene.rows) for scene in scenes], 0.5)


def row_counter(scenes: Sequence[Scene], rng: np.random.Generator) -> Guess:  # noqa: ARG001 - a Scorer
    """The score is the number of the row in what is shown, from 1.

    Everything after one row is flagged, the same row in all streams: the one that gives the best F1
    with the labels in hand. No clock can do better, and no detector has said much that does worse.
    """
    scores: list[NDArray[np.float64]] = [
        np.arange(1, scene.rows + 1, dtype=np.float64) for scene in scenes
    ]
    return Guess(scores, _best_level(scenes))


def _best_level(scenes: Sequence[Scene]) -> float:
    """Half a row before the first one to flag."""
    rows = max((scene.rows for scene in scenes), default=0)
    hits, others = np.zeros(rows), np.zeros(rows)
    for scene in scenes:
        hits[: scene.rows] += scene.label & scene.judged
        others[: scene.rows] += ~scene.label & scene.judged
    if not hits.any():
        return 0.5
    found, false = np.cumsum(hits[::-1])[::-1], np.cumsum(others[::-1])[::-1]
    f1 = 2 * found / (found + false + hits.sum())
    return int(np.argmax(f1)) + 0.5


YARDSTICKS: dict[str, Scorer] = {
    "random": random,
    "all ones": all_ones,
    "row counter": row_counter,
}
