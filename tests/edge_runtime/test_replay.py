"""Recorded rows through the pipeline, and what the summary makes of them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime import replay as replay_module
from edge_runtime.config import AlarmConfig
from edge_runtime.errors import RecordedFileError
from edge_runtime.payload import Flag
from edge_runtime.pipeline import Pipeline, Settings
from edge_runtime.recorded import RecordedStream
from edge_runtime.replay import Readings, readings_of, replay
from edge_runtime.results import OK, UNCERTAIN, WARMING_UP, Block, Rejected, Reset, Result, Scored
from edge_runtime.session import load_model
from edge_runtime.summary import Summary, judge
from sample_models import FEATURES, sample_model

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
ALARM = AlarmConfig(enter=1.0, leave=0.9, hold_steps=2)


def a_pipeline() -> Pipeline:
    return Pipeline(load_model(sample_model()), Settings(alarm=ALARM))


def recorded(
    name: str, columns: tuple[str, ...], rows: int = 4, path: str = "data/tuesday.csv"
) -> RecordedStream:
    values = np.arange(rows * len(columns), dtype=np.float64).reshape(rows, len(columns))
    ts = START + np.arange(rows) * SECOND
    return RecordedStream(name=name, path=Path(path), ts=ts, columns=columns, values=values)


def some_readings(name: str, rows: int, seed: int, missing: float = 0.0) -> Readings:
    rng = np.random.default_rng(seed)
    values = rng.normal(2, 3, (rows, len(FEATURES)))
    values[rng.random(values.shape) < missing] = np.nan
    ts = START + np.cumsum(rng.choice([1, 1, 1, 1, 1, 0, 7], rows)) * SECOND
    return Readings(name, ts, values, None)


def replayed(readings: list[Readings]) -> tuple[list[Result], int]:
    done = 0

    def on_rows(rows: int) -> None:
        nonlocal done
        done += rows

    results = list(replay(a_pipeline(), readings, on_rows))
    return results, done


def of_stream(results: list[Result], stream: str) -> dict[str, Any]:
    """Everything about one stream, bit by bit."""
    scored = [part for result in results for part in result.scored if part.stream == stream]
    rejected: Counter[str] = Counter()
    for result in results:
        for refused in result.rejected:
            if refused.stream == stream:
                rejected[refused.cause] += refused.samples
    return {
        "ts": np.concatenate([part.ts for part in scored]).tolist(),
        "score": np.concatenate([part.score for part in scored]).tobytes(),
        "status": np.concatenate([part.status for part in scored]).tolist(),
        "alarm": np.concatenate([part.alarm for part in scored]).tolist(),
        "flags": [flag for result in results for flag in result.flags if flag.stream == stream],
        "resets": [r for result in results for r in result.resets if r.stream == stream],
        "rejected": rejected,
    }


# --- finding the sensors


def test_sensors_are_found_by_name_in_any_order() -> None:
    contract = load_model(sample_model()).contract
    columns = ("vibration", "note", *FEATURES[:2], "anomaly")
    stream = recorded("p", columns)
    notices: list[str] = []
    (readings,) = readings_of([stream], contract, "anomaly", notices.append)
    assert readings.stream == "p"
    assert np.array_equal(readings.values, stream.values[:, [2, 3, 0]])
    assert readings.label is not None
    assert readings.label.tolist() == [True, True, True, True]
    assert notices == ["ignored, not in the model: note"]


def test_a_label_is_true_where_it_is_neither_zero_nor_missing() -> None:
    contract = load_model(sample_model()).contract
    stream = recorded("p", (*FEATURES, "anomaly"))
    stream.values[:, 3] = [0, 1, np.nan, -2]
    (readings,) = readings_of([stream], contract, "anomaly", lambda _: None)
    assert readings.label is not None
    assert readings.label.tolist() == [False, True, False, True]


def test_further_columns_are_named_once() -> None:
    contract = load_model(sample_model()).contract
    streams = [recorded(n, (*FEATURES, "rpm", extra)) for n, extra in (("a", "x"), ("b", "y"))]
    notices: list[str] = []
    readings_of(streams, contract, None, notices.append)
    assert notices == ["ignored, not in the model: rpm, x, y"]
    readings_of([recorded("a", FEATURES)], contract, None, notices.append)
    assert len(notices) == 1


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (("Current", "pressure", "vibration"), ["'current'", "'Current'"]),
        (("pressure", "vibrations", "current"), ["'vibration'", "'vibrations'"]),
        ((), ["'current'", "got none"]),
    ],
)
def test_a_missing_sensor_names_the_file_and_the_closest_column(
    columns: tuple[str, ...], words: list[str]
) -> None:
    contract = load_model(sample_model()).contract
    streams = [recorded("a", FEATURES), recorded("b", columns, path="data/monday.csv")]
    with pytest.raises(RecordedFileError) as caught:
        readings_of(streams, contract, None, lambda _: None)
    assert all(word in str(caught.value) for word in ["data/monday.csv", *words])


def test_a_missing_label_column_is_named() -> None:
    contract = load_model(sample_model()).contract
    with pytest.raises(RecordedFileError, match=r"'anomaly'.*'anomalies'"):
        readings_of([recorded("a", (*FEATURES, "anomalies"))], contract, "anomaly", lambda _: None)


# --- replay


def row_by_row(readings: Readings) -> list[Result]:
    """As the daemon would: one message for each complete row."""
    pipeline = a_pipeline()
    results = []
    for ts, values in zip(readings.ts, readings.values, strict=True):
        if np.isnan(values).any():
            missing = [Rejected(readings.stream, "missing_feature", 1, "")]
            results.append(Result([], [], missing, []))
        else:
            block = Block(readings.stream, np.array([ts]), values[None].astype(np.float32))
            results.append(pipeline.process([block], None))
    return results


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_a_replay_equals_the_messages_one_by_one(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "LARGEST_CHUNK", chunk)
    readings = [
        some_readings("a", 90, seed=1),
        some_readings("b", 37, seed=2, missing=0.1),
        some_readings("c", 1, seed=3),
    ]
    results, done = replayed(readings)
    assert done == 128
    for stream in readings:
        assert of_stream(results, stream.stream) == of_stream(row_by_row(stream), stream.stream)
    rejected = of_stream(results, "b")["rejected"]
    assert rejected["missing_feature"] == np.isnan(readings[1].values).any(axis=1).sum() > 5


def test_a_row_with_a_missing_cell_changes_nothing_else() -> None:
    whole = some_readings("a", 60, seed=4)
    holes = [3, 20, 21, 59]
    values = np.insert(whole.values, holes, 2.0, axis=0)
    at = np.array(holes) + np.arange(len(holes))
    values[at, 1] = np.nan
    ts = np.insert(whole.ts, holes, whole.ts[holes] - 1)
    with_holes = of_stream(replayed([Readings("a", ts, values, None)])[0], "a")
    without = of_stream(replayed([whole])[0], "a")
    assert with_holes.pop("rejected") == without.pop("rejected") + Counter(missing_feature=4)
    assert with_holes == without


def test_a_refused_row_says_which_sensor_and_counts_once() -> None:
    readings = some_readings("a", 6, seed=5)
    readings.values[2, 1] = np.nan
    readings.values[3, 2] = np.inf
    readings.values[4] = [np.nan, 1e39, 1.0]
    results, _ = replayed([readings])
    refused = [r for r in results[0].rejected if r.cause not in {"late", "duplicate"}]
    assert [(r.cause, r.samples) for r in refused] == [("missing_feature", 2), ("not_finite", 1)]
    assert refused[0].detail == "wanted a float32 for 'pressure', got nan in row 2"
    assert refused[1].detail == "wanted a float32 for 'vibration', got inf in row 3"


def test_the_largest_float32_is_a_value() -> None:
    readings = some_readings("a", 2, seed=6)
    readings.ts[:] = [START, START + SECOND]
    readings.values[0, 0] = 3.4028235e38  # as it is printed; a little above it in float64
    results, _ = replayed([readings])
    assert results[0].rejected == []
    assert np.isfinite(results[0].scored[0].score).all()


def test_nothing_to_replay() -> None:
    assert replayed([]) == ([], 0)
    empty = Readings("a", np.empty(0, np.int64), np.empty((0, len(FEATURES))), None)
    assert replayed([empty]) == ([], 0)
    results, done = replayed([empty, some_readings("b", 3, seed=7)])
    assert done == 3
    assert [scored.stream for scored in results[0].scored] == ["b"]


# --- the summary


def scored(
    stream: str,
    score: list[float],
    alarm: str = "",
    status: list[int] | None = None,
    start: int = 0,
) -> Scored:
    count = len(score)
    return Scored(
        stream,
        START + (start + np.arange(count)) * SECOND,
        np.array(score, np.float32),
        np.array([OK] * count if status is None else status, np.uint8),
        np.array([c == "#" for c in alarm.ljust(count, ".")], np.bool_),
    )


def flag(stream: str, second: int, event: str = "raised") -> Flag:
    return Flag(
        id=f"{stream}-{second}",
        stream=stream,
        ts=START + second * SECOND,
        event=event,
        score=np.float32(1.5),
        status="ok",
        top=(),
        model="",
    )


def test_the_summary_adds_up() -> None:
    summary = Summary(1.0, keep=True)
    status = [WARMING_UP, UNCERTAIN, OK, OK]
    first = scored("a", [9.0, 9.0, 1.5, 0.5], "..##", status)
    second = scored("a", [2.5, 0.1], "#.", start=4)
    other = scored("b", [9.0], status=[WARMING_UP])
    late = Rejected("a", "late", 3, "")
    summary.add(Result([first, other], [flag("a", 2)], [late], [Reset("a", START, "gap")]))
    summary.add(Result([second], [flag("a", 5, "cleared")], [late], []))
    found = summary.streams["a"]
    assert (found.samples, found.above, found.raised, found.lit, found.resets) == (6, 2, 1, 3, 1)
    assert found.status == {"warming_up": 1, "uncertain": 1, "ok": 4}
    assert found.largest == (2.5, START + 4 * SECOND)
    assert summary.streams["b"].largest is None
    assert summary.rejected == {"late": 6}
    assert list(summary.streams) == ["a", "b"]
    series = summary.series("a")
    assert series.score.tolist() == pytest.approx([9.0, 9.0, 1.5, 0.5, 2.5, 0.1])
    assert series.alarm.tolist() == [False, False, True, True, True, False]
    assert series.ts.tolist() == [START + n * SECOND for n in range(6)]


def test_a_stream_without_a_score_has_an_empty_series() -> None:
    series = Summary(1.0, keep=True).series("nobody")
    assert len(series.ts) == 0
    assert series.score.dtype == np.float32
    assert series.alarm.dtype == np.bool_


def test_nothing_is_kept_that_nobody_wants() -> None:
    summary = Summary(1.0, keep=False)
    summary.add(Result([scored("a", [1.0])], [], [], []))
    assert len(summary.series("a").ts) == 0
    assert summary.streams["a"].samples == 1


@pytest.mark.parametrize("enter", [0.1, 0.7])
def test_above_means_what_the_alarm_means(enter: float) -> None:
    summary = Summary(enter, keep=False)
    score = float(np.float32(enter))
    summary.add(Result([scored("a", [score])], [], [], []))
    assert summary.streams["a"].above == (score > enter)


# --- flags against labels


def labelled(stream: str, label: str) -> Readings:
    marks: NDArray[np.bool_] = np.array([c == "x" for c in label])
    ts = START + np.arange(len(label)) * SECOND
    return Readings(stream, ts, np.zeros((len(label), 1)), marks)


def test_events_delays_and_false_alarms() -> None:
    #                 0         1         2
    #                 0123456789012345678901234567
    label = labelled("a", "....xxxxx.....xxx....xxx...x")
    alarm = "......####.#.......#####...."
    summary = Summary(1.0, keep=True)
    flags = [flag("a", second) for second in (6, 11, 19)] + [flag("a", 10, "cleared")]
    summary.add(Result([scored("a", [0.0] * 28, alarm)], flags, [], []))
    verdict = judge([label], summary, SECOND)
    assert [(e.onset, e.end) for e in verdict.events] == [
        (START + first * SECOND, START + last * SECOND)
        for first, last in ((4, 8), (14, 16), (21, 23), (27, 27))
    ]
    assert [e.delay_ns for e in verdict.events] == [2 * SECOND, None, None, None]
    assert [e.lit_before for e in verdict.events] == [False, False, True, False]
    assert (verdict.detected, verdict.lit_before) == (1, 1)
    assert verdict.false_alarms == 2
    assert verdict.normal_hours == pytest.approx(16 / 3600)
    assert verdict.false_alarms_per_hour == pytest.approx(2 / (16 / 3600))


def test_streams_are_judged_apart() -> None:
    summary = Summary(1.0, keep=True)
    flags = [flag("a", 1), flag("b", 1)]
    lamps = [scored("a", [0.0] * 4, ".###"), scored("b", [0.0] * 4, ".##.")]
    summary.add(Result(lamps, flags, [], []))
    readings = [labelled("a", "xxxx"), labelled("b", "...."), labelled("c", "..xx")]
    readings.append(labelled("d", "....")._replace(label=None))
    verdict = judge(readings, summary, SECOND // 2)
    assert [(e.stream, e.delay_ns) for e in verdict.events] == [("a", SECOND), ("c", None)]
    assert verdict.false_alarms == 1
    assert verdict.normal_hours == pytest.approx(6 * 0.5 / 3600)


def test_no_normal_operation_means_no_rate() -> None:
    verdict = judge([labelled("a", "xx")], Summary(1.0, keep=True), SECOND)
    assert (verdict.false_alarms, verdict.false_alarms_per_hour, verdict.detected) == (0, 0.0, 0)
