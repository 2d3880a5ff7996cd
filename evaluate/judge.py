"""Detectors over scenes: models through the gateway's own pipeline, others through `Scorer`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.alarm import QUIET, advance
from edge_runtime.config import AlarmConfig
from edge_runtime.contract import Contract
from edge_runtime.payload import FLOAT32_OVERFLOW
from edge_runtime.pipeline import Pipeline
from edge_runtime.pipeline import Settings as PipelineSettings
from edge_runtime.replay import Readings, readings_of, replay
from edge_runtime.results import OK
from edge_runtime.session import Session
from edge_runtime.summary import Summary
from evaluate.scenes import Scene

UNSCORED = 3
"""Beside the statuses of `edge_runtime.results`: refused, or the score has not come."""


@dataclass(frozen=True, slots=True)
class Series:
    """What a detector said of one scene; every array is ``[row]``.

    Attributes:
        score: Float64 that holds the float32 of a model exactly; NaN where there is none.
        status: As in `edge_runtime.results`, or `UNSCORED`.
        lit: Whether the lamp was lit; False where there is no score.
        enter: The detector's own alarm level: above it a sample is flagged.
    """

    score: NDArray[np.float64]
    status: NDArray[np.uint8]
    lit: NDArray[np.bool_]
    enter: float

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Rows whose score counts."""
        ok: NDArray[np.bool_] = self.status == OK
        return ok

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Rows whose score counts and exceeds the alarm level."""
        above: NDArray[np.bool_] = np.nan_to_num(self.score) > self.enter
        return self.ok & above

    @property
    def raised(self) -> NDArray[np.bool_]:
        """Rows at which the lamp went on."""
        scored = np.flatnonzero(self.status != UNSCORED)
        lit = self.lit[scored]
        marks = np.zeros(len(self.lit), np.bool_)
        marks[scored] = lit & ~np.concatenate([[False], lit[:-1]])
        return marks


class Guess(NamedTuple):
    """The scores of something that is no model.

    Attributes:
        scores: One array ``[row]`` for each scene.
        enter: Its alarm level, above 0.
    """

    scores: Sequence[NDArray[np.float64]]
    enter: float


class Scorer(Protocol):
    """Something beside the models that scores scenes; it sees all of each scene, labels too."""

    def __call__(self, scenes: Sequence[Scene], rng: np.random.Generator) -> Guess:
        """Scores every row of every scene.

        Args:
            scenes: What the models are shown.
            rng: Whatever is drawn comes from it.

        Returns:
            One finite score for each row, and the alarm level.
        """


def readings_for(scenes: Sequence[Scene], contract: Contract, label: str) -> list[Readings]:
    """The sensors of a model, found by name; notices about further columns are not repeated here.

    Raises:
        RecordedFileError: If a sensor or the label is missing.
    """
    return readings_of([scene.recorded for scene in scenes], contract, label, _silent)


def _silent(_: str) -> None:
    pass


def run_model(session: Session, readings: Sequence[Readings], alarm: AlarmConfig) -> list[Series]:
    """Runs a model over streams, side by side, as the gateway would.

    Args:
        session: The model.
        readings: The streams, in the contract's order.
        alarm: From score to lamp.

    Returns:
        One series for each stream, a row for each of its rows.
    """
    settings = PipelineSettings(alarm=alarm, max_streams=max(1, len(readings)))
    summary = Summary(alarm.enter, keep=True)
    for result in replay(Pipeline(session, settings), readings, _uncounted):
        summary.add(result)
    return [_aligned(stream, summary, alarm.enter) for stream in readings]


def _uncounted(_: int) -> None:
    pass


def _aligned(stream: Readings, summary: Summary, enter: float) -> Series:
    """Puts each score to the row that it belongs to.

    The pipeline takes what is complete and later than all before it, so among such rows a time
    stands once.
    """
    rows = len(stream.ts)
    usable = np.flatnonzero((np.abs(stream.values) < FLOAT32_OVERFLOW).all(axis=1))
    newest = np.maximum.accumulate(stream.ts[usable]) if len(usable) else stream.ts[usable]
    first = np.ones(len(usable), np.bool_)
    first[1:] = newest[1:] > newest[:-1]
    taken = usable[first]
    scored = summary.series(stream.stream)
    at = taken[np.searchsorted(stream.ts[taken], scored.ts)]
    score = np.full(rows, np.nan)
    status = np.full(rows, UNSCORED, np.uint8)
    lit = np.zeros(rows, np.bool_)
    score[at], status[at], lit[at] = scored.score, scored.status, scored.alarm
    return Series(score, status, lit, enter)


def run_scorer(
    scorer: Scorer,
    scenes: Sequence[Scene],
    like: Sequence[Series],
    alarm: AlarmConfig,
    rng: np.random.Generator,
) -> list[Series]:
    """Runs something that is no model over the same rows.

    Args:
        scorer: Gives scores and the alarm level.
        scenes: The streams.
        like: A detector's series of the same scenes: what counts for it counts here.
        alarm: Its hold, and its leave in proportion to enter.
        rng: For the scorer.

    Returns:
        One series for each scene.

    Raises:
        ValueError: If scores are of another length than their scene, or not finite.
    """
    guess = scorer(scenes, rng)
    own = AlarmConfig(
        enter=guess.enter,
        leave=guess.enter * alarm.leave / alarm.enter,
        hold_steps=alarm.hold_steps,
    )
    series = []
    for scene, scores, other in zip(scenes, guess.scores, like, strict=True):
        if scores.shape != (scene.rows,) or not np.isfinite(scores).all():
            raise ValueError(
                f"{scene.name}: wanted {scene.rows} finite scores, got {list(scores.shape)}"
            )
        exact = scores.astype(np.float32)
        _, _, lit = advance(QUIET, exact, other.ok, own)
        series.append(Series(exact.astype(np.float64), other.status, lit, guess.enter))
    return series
