"""From files to windows: what is cut, what is left out, and which rows count for what."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.errors import TrainingError
from train.config import DataConfig, Files
from train.data import SHORTEST, History, Segment, Use, normaliser, read_history
from train.experiment import require_enough
from train.windows import Piece, lay_out, pieces

USES: tuple[Use, ...] = ("fit", "validation", "calibration")


def stamp(second: float) -> str:
    return (
        np.datetime_as_string(np.datetime64("2026-01-05T06:00:00.000") + int(second * 1000)) + "Z"
    )


def write(
    path: Path, seconds: Sequence[float], columns: Mapping[str, Sequence[float | str]]
) -> Path:
    """A CSV file with a time column and sensors."""
    lines = [",".join(["time", *columns])]
    rows = zip(*columns.values(), strict=True)
    lines += [
        ",".join([stamp(second), *map(str, row)]) for second, row in zip(seconds, rows, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def read(
    *paths: Path, first_rows: int | None = None, **config: object
) -> tuple[History, list[str]]:
    notices: list[str] = []
    data = DataConfig(**config)  # type: ignore[arg-type]
    return read_history(data, [Files(paths, first_rows)], notices.append), notices


def counting(rows: int) -> list[float]:
    return [float(row) for row in range(rows)]


def first_sensor(history: History) -> list[list[float]]:
    return [segment.values[:, 0].tolist() for segment in history.segments]


def test_an_unbroken_file_is_one_segment(tmp_path: Path) -> None:
    path = write(tmp_path / "pump.csv", counting(100), {"a": counting(100), "b": [1.5] * 100})
    history, _ = read(path)
    assert history.features == ("a", "b")
    assert first_sensor(history) == [counting(100)]
    assert (history.period_ms, history.max_gap_ms) == (1000.0, 5000.0)
    assert history.files == ("pump.csv",)
    assert [history.rows(use) for use in USES] == [70, 15, 15]
    inner = hashlib.sha256(path.read_bytes()).digest()
    assert history.digest == hashlib.sha256(inner).hexdigest()


def test_a_gap_cuts_and_a_shorter_silence_does_not(tmp_path: Path) -> None:
    seconds = [*range(20), *range(24, 44), *range(50, 70)]  # silences of 5 and 7 seconds
    path = write(tmp_path / "pump.csv", seconds, {"a": counting(60)})
    history, notices = read(path)
    assert first_sensor(history) == [counting(40), counting(60)[40:]]
    assert any("gaps longer than 5000 ms: 1" in notice for notice in notices)
    one, _ = read(path, max_gap_ms=8000.0)
    assert len(one.segments) == 1


def test_a_missing_cell_cuts_and_its_row_is_left_out(tmp_path: Path) -> None:
    values: list[float | str] = [*counting(30)]
    values[12] = ""
    history, notices = read(write(tmp_path / "pump.csv", counting(30), {"a": values}))
    assert first_sensor(history) == [counting(12), counting(30)[13:]]
    assert any("rows with a missing value left out: 1" in notice for notice in notices)


def test_a_number_that_no_model_can_take_is_a_missing_one(tmp_path: Path) -> None:
    values = counting(30)
    values[12] = 1e39
    history, _ = read(write(tmp_path / "pump.csv", counting(30), {"a": values}))
    assert [len(segment.values) for segment in history.segments] == [12, 17]


def test_a_short_segment_is_left_out_and_counted(tmp_path: Path) -> None:
    seconds = [*range(20), *range(100, 100 + SHORTEST - 1), *range(200, 220)]
    path = write(tmp_path / "pump.csv", seconds, {"a": counting(len(seconds))})
    history, notices = read(path)
    assert [len(segment.values) for segment in history.segments] == [20, 20]
    assert any(f"segments shorter than {SHORTEST} rows left out: 1" in n for n in notices)


def test_streams_are_divided_by_time_each_by_itself(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{name}.csv", counting(rows), {"a": counting(rows)})
        for name, rows in (("one", 100), ("two", 40))
    ]
    history, _ = read(*paths)
    assert [(s.stream, s.rows("fit")) for s in history.segments] == [
        ("one", (0, 70)),
        ("two", (0, 28)),
    ]
    assert [s.rows("calibration") for s in history.segments] == [(85, 100), (34, 40)]


def test_only_the_first_rows_of_a_stream(tmp_path: Path) -> None:
    path = write(tmp_path / "pump.csv", counting(100), {"a": counting(100)})
    history, _ = read(path, first_rows=40)
    assert first_sensor(history) == [counting(40)]


def test_a_column_that_not_every_file_has_is_named_and_left_out(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", counting(30), {"a": counting(30), "anomaly": [0.0] * 30})
    two = write(tmp_path / "two.csv", counting(30), {"a": counting(30)})
    history, notices = read(one, two)
    assert history.features == ("a",)
    assert any("not every stream has values of it: anomaly" in notice for notice in notices)


def test_sensors_asked_for_keep_their_order(tmp_path: Path) -> None:
    columns = {"a": counting(30), "b": counting(30), "c": counting(30)}
    history, _ = read(write(tmp_path / "pump.csv", counting(30), columns), features=("c", "a"))
    assert history.features == ("c", "a")


def test_a_misspelt_sensor_is_refused_with_the_right_name(tmp_path: Path) -> None:
    path = write(tmp_path / "pump.csv", counting(30), {"pressure": counting(30)})
    with pytest.raises(TrainingError, match=r"no sensor 'presure': did you mean pressure\?"):
        read(path, features=("presure",))


def test_a_sensor_that_stood_still_gets_a_scale_and_a_notice(tmp_path: Path) -> None:
    columns = {"a": counting(100), "flow": [32.0] * 100, "off": [0.0] * 100}
    history, _ = read(write(tmp_path / "pump.csv", counting(100), columns))
    notices: list[str] = []
    mean, scale = normaliser(history, notices.append)
    assert mean.tolist() == [34.5, 32.0, 0.0]
    assert scale.tolist() == [pytest.approx(np.arange(70).std()), 3.2, 1.0]
    assert [notice.split(":")[0] for notice in notices] == [
        "flow stood still at 32",
        "off stood still at 0",
    ]


def test_too_little_data_says_how_much_there_is_and_is_wanted(tmp_path: Path) -> None:
    history, _ = read(write(tmp_path / "pump.csv", counting(100), {"a": counting(100)}))
    with pytest.raises(
        TrainingError,
        match=r"wanted at least 200 samples for fit, 30 .*; got 69 for fit, 15 .*100 rows",
    ):
        require_enough(history)


def numbered(lengths: Sequence[int]) -> tuple[list[Segment], NDArray[np.float64]]:
    """Segments of one stream in which every row holds its number."""
    rows = np.arange(sum(lengths), dtype=float)
    fit, validation = round(0.7 * len(rows)), round(0.85 * len(rows))
    segments, start = [], 0
    for length in lengths:
        seen, judged = (min(max(edge - start, 0), length) for edge in (fit, validation))
        segments.append(Segment("s", rows[start : start + length, None], seen, judged))
        start += length
    return segments, rows


LAYOUTS = st.tuples(
    st.lists(st.integers(SHORTEST, 90), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(2, 9),
)


@settings(max_examples=60, deadline=None)
@given(LAYOUTS)
def test_every_row_counts_once_and_for_one_use(layout: tuple[list[int], int, int]) -> None:
    lengths, lanes, window = layout
    segments, rows = numbered(lengths)
    starts = {float(start) for start in np.cumsum([0, *lengths[:-1]])}
    counted: list[float] = []
    for use in USES:
        parts = pieces(segments, use, lanes, warm=1)
        if parts:
            windows = lay_out(parts, window, lanes)
            counted += windows.x[..., 0][windows.counts.bool()].tolist()
    # Only the first row of a segment, which no forecast was made for, counts for nothing.
    assert sorted(counted) == sorted(set(rows.tolist()) - starts)


@settings(max_examples=60, deadline=None)
@given(LAYOUTS, st.integers(1, 30))
def test_a_lane_runs_through_rows_that_follow_each_other(
    layout: tuple[list[int], int, int], warm: int
) -> None:
    lengths, lanes, window = layout
    segments, rows = numbered(lengths)
    starts = set(np.cumsum([0, *lengths[:-1]]).tolist())
    last = {"fit": round(0.7 * len(rows)), "validation": round(0.85 * len(rows))}
    for use in USES:
        parts = pieces(segments, use, lanes, warm)
        for part in parts:
            numbers = part.values[:, 0]
            assert np.all(np.diff(numbers) == 1)
            assert part.first >= warm
            assert not starts & set(numbers[1:].astype(int).tolist())
            assert numbers[-1] < last.get(use, len(rows))  # the weights never see what is later
        if parts:
            check_lanes(parts, window, lanes)


def check_lanes(parts: list[Piece], window: int, lanes: int) -> None:
    """Following the lanes from one fresh start to the next gives back the pieces."""
    windows = lay_out(parts, window, lanes)
    assert windows.x.shape[1] == window
    assert windows.lanes <= lanes
    found = []
    for lane in range(windows.lanes):
        begins = torch.nonzero(windows.fresh[:, lane]).flatten().tolist()
        for begin, end in zip(begins, [*begins[1:], len(windows)], strict=True):
            x = windows.x[begin:end, :, lane, 0].flatten()
            counts = windows.counts[begin:end, :, lane].flatten()
            found.append(x[counts.bool()].tolist())
            assert counts.diff().ne(0).sum() <= 2  # warm up, count, pad
    assert sorted(found) == sorted(part.values[part.first :, 0].tolist() for part in parts)
