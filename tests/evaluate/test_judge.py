"""Models and scorers over scenes: which score belongs to which row, and what the yardsticks say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipelines
from edge_runtime.config import AlarmConfig
from edge_runtime.pipeline import Pipeline
from edge_runtime.pipeline import Settings as PipelineSettings
from edge_runtime.recorded import RecordedStream
from edge_runtime.replay import Readings, replay
from edge_runtime.results import OK, WARMING_UP
from evaluate.judge import UNSCORED, Guess, Series, readings_for, run_model, run_scorer
from evaluate.scenes import Scene, whole_scenes
from evaluate.settings import Settings
from evaluate.yardsticks import YARDSTICKS, all_ones, random, row_counter
from pipelines import SECOND, START

ALARM = AlarmConfig(enter=1.0, leave=0.7, hold_steps=3)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def a_reading(rows: int, seed: int, features: int = 3) -> Readings:
    """With cells missing, values beyond a float32, times that stand twice or go back."""
    draw = np.random.default_rng(seed)
    values = draw.normal(2, 3, (rows, features))
    values[draw.random(values.shape) < 0.05] = np.nan
    values[draw.random(values.shape) < 0.02] = 1e39
    ts = START + np.cumsum(draw.choice([1, 1, 1, 1, 0, -2, 4], rows)) * SECOND
    return Readings(f"s{seed}", ts, values, None)


@pytest.mark.parametrize("name", ["lstm", "one ahead", "five ahead"])
def test_each_score_stands_at_its_row(name: str) -> None:
    session = pipelines.model(name)
    readings = [a_reading(n, n, len(session.contract.features)) for n in (150, 80, 0, 1)]
    series = run_model(session, readings, ALARM)
    pipeline = Pipeline(session, PipelineSettings(alarm=ALARM))
    parts = [p for result in replay(pipeline, readings, lambda _: None) for p in result.scored]
    assert sum(len(p.ts) for p in parts) > 80
    for stream, its in zip(readings, series, strict=True):
        mine = [p for p in parts if p.stream == stream.stream]
        rows = np.flatnonzero(its.status != UNSCORED)
        for which, got in (
            ("ts", stream.ts), ("score", its.score), ("status", its.status), ("alarm", its.lit)
        ):  # fmt: skip
            wanted = [value for p in mine for value in getattr(p, which).tolist()]
            assert got[rows].tolist() == wanted
        usable = np.logical_and.reduce(np.abs(stream.values) < 1e38, axis=1)
        assert usable[rows].all()
        assert np.isnan(its.score[its.status == UNSCORED]).all()
        # Of rows with one time the first complete one is scored, so no earlier one is left.
        for row in rows:
            assert not usable[:row][stream.ts[:row] >= stream.ts[row]].any()


def test_flags_and_raised() -> None:
    status = np.array([WARMING_UP, OK, UNSCORED, OK, OK], np.uint8)
    lit = np.array([False, True, False, True, False])
    series = Series(np.array([9, 9, np.nan, 1.0, 1.1]), status, lit, 1.0)
    assert series.ok.tolist() == [False, True, False, True, True]
    assert series.flagged.tolist() == [False, True, False, False, True]
    assert series.raised.tolist() == [False, True, False, False, False]


def scenes(*labels: str, lead: int = 0) -> list[Scene]:
    streams = [
        RecordedStream(
            str(number),
            Path("a.csv"),
            START + np.arange(len(label)) * SECOND,
            ("anomaly",),
            np.array([[c == "x"] for c in label], np.float64).reshape(-1, 1),
        )
        for number, label in enumerate(labels)
    ]
    return whole_scenes(streams, Settings(label="anomaly", lead=lead))


def like(some: list[Scene], status: int = OK) -> list[Series]:
    return [
        Series(np.zeros(s.rows), np.full(s.rows, status, np.uint8), np.zeros(s.rows, np.bool_), 1.0)
        for s in some
    ]


def test_the_row_counter_takes_the_row_that_the_labels_like_best() -> None:
    #                     1234567890    flagged from row 5 on: 5 hits, 2 false, 1 missed
    some = scenes("....xxx...", "...xxx", "")
    guess = row_counter(some, rng())
    assert [score.tolist() for score in guess.scores] == [
        [float(row) for row in range(1, count + 1)] for count in (10, 6, 0)
    ]
    found = {}
    for first in range(1, 11):
        hits = sum(int(s.label[first - 1 :].sum()) for s in some)
        false = sum(int((~s.label[first - 1 :]).sum()) for s in some)
        found[first] = 2 * hits / (hits + false + 6)
    assert guess.enter == max(found, key=lambda first: found[first]) - 0.5
    # What is not judged has no say: without row 4 of both, 5 is best, or 4, which is the same.
    assert row_counter(scenes("xxxx..", lead=4), rng()).enter == 0.5
    assert row_counter(scenes("...."), rng()).enter == 0.5


def test_all_ones_and_random() -> None:
    some = scenes("." * 1000)
    (ones,) = run_scorer(all_ones, some, like(some), ALARM, rng())
    assert ones.flagged.all()
    assert ones.raised.tolist() == [False, False, True] + [False] * 997
    (chance,) = run_scorer(random, some, like(some), ALARM, rng())
    assert 450 < chance.flagged.sum() < 550
    assert list(YARDSTICKS) == ["random", "all ones", "row counter"]


def test_a_scorer_counts_where_the_model_does_and_holds_as_it_does() -> None:
    some = scenes("........")
    series = like(some)
    series[0].status[:3] = WARMING_UP
    series[0].status[4] = UNSCORED
    (found,) = run_scorer(lambda s, _: Guess([np.full(8, 20.0)], 10.0), some, series, ALARM, rng())
    assert found.status.tolist() == series[0].status.tolist()
    assert found.raised.tolist() == [False] * 6 + [True, False]
    # It leaves at 7, which is 0.7 of its own level.
    fading = np.array([20.0, 20, 20, 7.5, 7.5, 6.9, 6.9, 6.9])
    (found,) = run_scorer(lambda s, _: Guess([fading], 10.0), some, like(some), ALARM, rng())
    assert found.lit.tolist() == [False, False, True, True, True, True, True, False]


@pytest.mark.parametrize("scores", [np.zeros(3), np.full(8, np.nan), np.zeros((8, 1))])
def test_scores_of_another_length_or_that_are_none_are_refused(scores: Any) -> None:
    some = scenes("........")
    with pytest.raises(ValueError, match="0: wanted 8 finite scores, got"):
        run_scorer(lambda s, _: Guess([scores], 1.0), some, like(some), ALARM, rng())


def test_sensors_are_found_by_name() -> None:
    session = pipelines.model("lstm")
    names = (*reversed(session.contract.feature_names), "anomaly")
    stream = RecordedStream(
        "a",
        Path("a.csv"),
        START + np.arange(5) * SECOND,
        names,
        np.arange(20, dtype=np.float64).reshape(5, 4),
    )
    some = whole_scenes([stream], Settings(label="anomaly"))
    (readings,) = readings_for(some, session.contract, "anomaly")
    assert readings.values.tolist() == stream.values[:, 2::-1].tolist()
