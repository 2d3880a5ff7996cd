"""Recorded files: what is read, what is left out and said, what is refused."""

import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.columns import Layout
from edge_runtime.errors import ConfigError, RecordedFileError
from edge_runtime.recorded import (
    RecordedStream,
    list_files,
    read_streams,
    sample_period_ns,
)
from edge_runtime.times import parse_times

S = 1_000_000_000
T0 = 1_577_872_800 * S  # 2020-01-01 10:00:00 UTC
STAMPS = [f"2020-01-01 10:00:0{i}" for i in range(10)]


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(
    *paths: Path, layout: Layout | None = None, quiet: bool = True
) -> tuple[list[RecordedStream], list[str]]:
    """The streams and the notices, of which there must be none if ``quiet``."""
    notices: list[str] = []
    streams = read_streams(paths, layout or Layout(), on_notice=notices.append)
    if quiet:
        assert notices == []
    return streams, notices


def read_one(path: Path, layout: Layout | None = None) -> RecordedStream:
    (stream,), _ = read(path, layout=layout)
    return stream


def read_text(tmp_path: Path, text: str | bytes, layout: Layout | None = None) -> RecordedStream:
    return read_one(written(tmp_path / "pump.csv", text), layout)


def refused(path: Path, layout: Layout | None = None) -> str:
    with pytest.raises(RecordedFileError) as caught:
        read(path, layout=layout)
    message = str(caught.value)
    assert str(path) in message
    return message


def read_cells(tmp_path: Path, cells: Sequence[str]) -> tuple[list[float] | None, list[str]]:
    """A column ``x`` of these cells beside one that is numeric; None if it was left out."""
    lines = [f"{i + 10**9};1;{cell}" for i, cell in enumerate(cells)]
    path = written(tmp_path / "pump.csv", "\n".join(["time;one;x", *lines]))
    (stream,), notices = read(path, quiet=False)
    return (stream.column("x").tolist() if "x" in stream.columns else None), notices


# --- Dialects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " ", "   "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiter_is_found(tmp_path: Path, delimiter: str, end: str) -> None:
    rows = [["time", "a", "b"], ["2020-01-01T10:00:00", "1.5", "-2"]]
    rows.append(["2020-01-01T10:00:01", "2e3", "+4"])
    stream = read_text(tmp_path, end.join(delimiter.join(row) for row in rows) + end)
    assert stream.name == "pump"
    assert stream.path == tmp_path / "pump.csv"
    assert stream.columns == ("a", "b")
    assert stream.ts.tolist() == [T0, T0 + S]
    assert stream.values.tolist() == [[1.5, -2.0], [2000.0, 4.0]]
    assert stream.ts.dtype == np.int64
    assert stream.values.dtype == np.float64


@pytest.mark.parametrize(
    "header",
    ["time;Flow rate, l/s;Temp, C", 'time;"Flow, l/s";b', "time;Volume Flow;a b c"],
    ids=["comma", "quoted", "blanks"],
)
def test_delimiter_is_not_confused_by_names(tmp_path: Path, header: str) -> None:
    text = f"{header}\n2020-01-01 10:00:00;1,5;2\n2020-01-01 10:00:01;2,5;3\n"
    assert read_text(tmp_path, text).values.tolist() == [[1.5, 2.0], [2.5, 3.0]]


def test_delimiter_that_is_given(tmp_path: Path) -> None:
    text = "time:a\n1:2\n2:3\n"
    path = written(tmp_path / "pump.csv", text)
    (stream,), _ = read(path, layout=Layout(delimiter=":"), quiet=False)
    assert stream.values.tolist() == [[2.0], [3.0]]
    written(path, text.replace(":", "\t"))
    assert read(path, layout=Layout(delimiter="\\t"), quiet=False)[0][0].columns == ("a",)


def test_decimal_comma(tmp_path: Path) -> None:
    text = "Zeit;a;b;n\n2020-01-01 10:00:00,25;1,5;-0,25;7\n2020-01-01 10:00:00,5;2,5e1;,5;8\n"
    stream = read_text(tmp_path, text)
    assert stream.values.tolist() == [[1.5, -0.25, 7.0], [25.0, 0.5, 8.0]]
    assert stream.ts.tolist() == [T0 + S // 4, T0 + S // 2]


def test_decimal_comma_that_comes_after_many_whole_numbers(tmp_path: Path) -> None:
    whole = [f"{1_000_000_000 + i};{i}" for i in range(3000)]
    stream = read_text(tmp_path, "\n".join(["time;a", *whole, "1000003000;1,5"]))
    assert stream.values[-2:].tolist() == [[2999.0], [1.5]]


def test_thousands_are_never_taken_for_fractions(tmp_path: Path) -> None:
    with_comma = ["1,5"] * 29 + ["1.234"]
    values, notices = read_cells(tmp_path, with_comma)
    assert values is not None
    assert np.isnan(values[-1])
    assert notices == [
        f"{tmp_path / 'pump.csv'}: column 'x': 1 cells are not numbers and count as missing, "
        "the first at line 31: '1.234'"
    ]
    values, notices = read_cells(tmp_path, ["1.5"] * 29 + ["1,234"])
    assert values is not None
    assert np.isnan(values[-1])
    assert "line 31: '1,234'" in notices[0]


def test_quoted_cells(tmp_path: Path) -> None:
    text = 'time,"a, left",note\n"2020-01-01 10:00:00","1.5","he said ""no"""\n'
    (stream,), notices = read(written(tmp_path / "pump.csv", text), quiet=False)
    assert stream.columns == ("a, left",)
    assert stream.values.tolist() == [[1.5]]
    assert notices == [f"{tmp_path / 'pump.csv'}: columns left out: 'note' (not numbers)"]


def test_byte_order_marks(tmp_path: Path) -> None:
    text = "time;Größe\n2020-01-01 10:00:00;1\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert read_text(tmp_path, text.encode(encoding)).columns == ("Größe",)


def test_latin_1_is_not_silent(tmp_path: Path) -> None:
    text = "time;a;b\n2020-01-01 10:00:00;1;o\n2020-01-01 10:00:01;2;ä\n"
    path = written(tmp_path / "pump.csv", text.encode("latin-1"))
    _, notices = read(path, quiet=False)
    assert notices[0] == f"{path}: not UTF-8 (first in line 3), read as Latin-1"


def test_utf_8_that_is_cut_off_is_not_silent(tmp_path: Path) -> None:
    path = written(tmp_path / "pump.csv", "time;a;b\n2020-01-01 10:00:00;1;ä".encode()[:-1])
    assert "read as Latin-1" in read(path, quiet=False)[1][0]


def test_blank_lines_and_lines_inside_cells_keep_the_line_numbers(tmp_path: Path) -> None:
    text = '\ntime,a,s\n\n0,1,"two\nlines"\n1,x,\n'
    path = written(tmp_path / "pump.csv", text + "\n".join(f"{i},{i}," for i in range(2, 40)))
    _, notices = read(path, quiet=False)
    assert any("first at line 6: 'x'" in notice for notice in notices)


def test_a_column_without_a_name_is_no_sensor(tmp_path: Path) -> None:
    text = ",time,a,\n0,2020-01-01 10:00:00,5,\n1,2020-01-01 10:00:01,6,\n"
    (stream,), notices = read(written(tmp_path / "pump.csv", text), quiet=False)
    assert stream.columns == ("a",)
    assert "'Unnamed: 0', 'Unnamed: 3' (without a name)" in notices[0]
    # ... but may be the time: this is how a data frame with a time index is written.
    text = ",a\n2020-01-01 10:00:00,5\n2020-01-01 10:00:01,6\n"
    assert read_text(tmp_path, text).ts.tolist() == [T0, T0 + S]


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wanted a header and rows, got an empty file"),
        ("\n \n", "wanted a header and rows, got an empty file"),
        ("time,a\n", "wanted rows below the header, got none"),
        ("1,2.5\n2,3.5\n", "line 1: wanted a header with the names of the columns, got '1', '2.5'"),
        ("2020-01-01;RUN\n2020-01-02;RUN\n", "wanted a header"),
        ("1.5  2.5\n2.5  3.5\n", "wanted a header"),
        ("time,a,a\n1,2,3\n", "wanted different column names, got 'a' as column 2 and as column 3"),
        ("time,a\n1,2\n2,3,4\n", "line 3: wanted 2 cells as in the header, got 3: '2', '3', '4'"),
        ("time,a\n1,2\n\n2\n", "line 4: wanted 2 cells as in the header, got 1: '2'"),
        ("a,b\n1,2,3\n", "line 2: wanted 2 cells as in the header, got 3"),
        ("time,a\n1,x\n2,y\n", "wanted at least one column of numbers, got 'time', 'a'"),
        (f'time,a\n1,"{"x" * 200_000}"\n', "line 2: field larger than field limit"),
        (b"PK\3\4\0\0\0", "wanted CSV or Parquet, got a binary file"),
        (b"PAR1 and then nothing", "not a readable Parquet file"),
        (b"\xff\xfet\0i", "cannot be read"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refused(written(tmp_path / "pump.csv", text))


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    written(tmp_path / "pump1.csv", "time,a\n1,2\n")
    message = refused(tmp_path / "pump_1.csv")
    assert message.endswith("no such file; did you mean 'pump1.csv'?")
    assert "no such file" in refused(tmp_path / "nowhere" / "pump.csv")


def test_nothing_to_read(tmp_path: Path) -> None:
    assert "wanted *.csv or *.parquet files in this folder" in refused(tmp_path)
    with pytest.raises(RecordedFileError, match="wanted at least one recorded file, got none"):
        read()


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({"period_ms": 0.0}, "period_ms: wanted a number above 0, got 0.0"),
        ({"period_ms": float("nan")}, "period_ms: wanted a number above 0, got nan"),
        ({"delimiter": ",,"}, "delimiter: wanted one character, got ',,'"),
        ({"time_column": "a", "stream_column": "a"}, "time_column and stream_column: both are 'a'"),
    ],
)
def test_layouts_that_are_refused(layout: dict[str, str | float], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        Layout(**layout)  # type: ignore[arg-type]


# --- Time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "ns"),
    [
        ("2020-01-01 10:00:00", T0),
        ("2020-01-01T10:00:00Z", T0),
        ("2020-01-01T10:00:00+00:00", T0),
        ("2020-01-01 12:30:00 +02:30", T0),
        ("2020-01-01T05:00:00-0500", T0),
        ("2020-01-01T11:00+01", T0),
        ("2020/1/1 10:00:00 UTC", T0),
        ("1.1.2020 10:00:00", T0),
        ("01.01.2020 10:00:00,5", T0 + S // 2),
        ("2020-01-01 10:00:00.123456789", T0 + 123_456_789),
        ("2020-01-01 10:00:00.1234567899", T0 + 123_456_789),
        ("2020-01-01", T0 - 10 * 3600 * S),
        ("1969-12-31T23:59:59.9", -S // 10),
        ("1577872800", T0),
        ("1577872800.000000001", T0 + 1),
        ("1577872800000", T0),
        ("1577872800000.000001", T0 + 1),
        ("1577872800000001", T0 + 1000),
        ("1577872800000000001", T0 + 1),
        ("1.5778728e9", T0),
        ("0", 0),
        ("0.1", S // 10),
        ("0,1", S // 10),
        ("0.30000000000000004", 3 * S // 10),
        ("0.7999999999999999", 8 * S // 10),
        ("-2.5", -5 * S // 2),
        ("99999999", 99_999_999 * S),
        ("100000000", 100_000_000 * S),
        ("99999999999", None),  # the year 5138: beyond int64
        ("100000000000", 100_000_000 * S),
        ("2261-12-31 23:59:59", 9_214_646_399 * S),
        ("2262-01-01", None),
        ("1677-12-31", None),
        ("2020-02-30", None),
        ("2020-13-01", None),
        ("2020-01-01 24:00:00", None),
        ("2020-01-01 10:60:00", None),
        ("2020-01-01 10:00:00+19:00", None),
        ("10:00:00", None),
        ("20200101T100000", None),
        ("now", None),
        ("NaT", None),
        ("nan", None),
        ("inf", None),
        ("1_000", None),
        ("1e999999", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_times(cell: str, ns: int | None, rows: int) -> None:
    times = parse_times([cell] * rows)
    assert times.valid.tolist() == [ns is not None] * rows
    assert times.ns.tolist() == [ns or 0] * rows


def test_times_of_mixed_forms() -> None:
    cells = [
        "2020-01-01 10:00:00",
        " 2020-01-01T10:00:00.5Z ",
        "2020-01-01T12:00:01+02:00",
        "x",
        "",
    ]
    times = parse_times(cells)
    assert times.ns[times.valid].tolist() == [T0, T0 + S // 2, T0 + S]
    assert times.valid.tolist() == [True, True, True, False, False]
    # the same length and places, another offset or separator
    assert parse_times([f"2020-01-01T10:00:00{z}" for z in ("+02:00", "-01:00")]).ns.tolist() == [
        T0 - 7200 * S,
        T0 + 3600 * S,
    ]
    summer_ends = parse_times(["2020-10-25T02:59:59+02:00", "2020-10-25T02:00:00+01:00"])
    assert np.diff(summer_ends.ns).tolist() == [S]
    assert parse_times(["2020-01-01", "2020/01/02"]).valid.all()
    assert parse_times(["2020-01-01", "2020-0a-02", "2020-02-31"]).valid.tolist() == [1, 0, 0]


def test_one_unit_for_a_column() -> None:
    cells = ["1577872800000", "1577872800001", "0"]  # a clock that was not set yet
    assert parse_times(cells).ns.tolist() == [T0, T0 + 1_000_000, 0]
    assert parse_times([]).ns.tolist() == []
    assert parse_times(["99999999"]).relative
    assert not parse_times(["100000000"]).relative


@given(st.lists(st.datetimes(datetime(1678, 1, 1), datetime(2261, 12, 31)), min_size=1))
@settings(deadline=None)
def test_calendar_times_are_those_of_datetime(moments: list[datetime]) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    since = [moment.replace(tzinfo=UTC) - epoch for moment in moments]
    wanted = [((d.days * 86400 + d.seconds) * 10**6 + d.microseconds) * 1000 for d in since]
    uniform = parse_times([moment.isoformat(" ", "microseconds") for moment in moments])
    mixed = parse_times([moment.isoformat() for moment in moments])
    assert uniform.ns.tolist() == mixed.ns.tolist() == wanted
    assert uniform.valid.all()
    assert mixed.valid.all()


@given(st.lists(st.integers(10**17, 2**63 - 1), min_size=1), st.sampled_from([0, 3, 6, 9]))
def test_numbers_are_exact_to_the_nanosecond(moments: list[int], digits: int) -> None:
    cells = [f"{Decimal(ns).scaleb(-digits):f}" for ns in moments]
    assert parse_times(cells).ns.tolist() == moments


@pytest.mark.parametrize(
    "header",
    ["a,Time", "a,TIMESTAMP", "a,date_time", "a,_time", "a,ts", "x,Zeitstempel"],
)
def test_time_is_found_by_its_name(tmp_path: Path, header: str) -> None:
    stream = read_text(tmp_path, f"{header}\n3,{STAMPS[1]}\n4,{STAMPS[0]}\n")
    assert stream.ts.tolist() == [T0 + S, T0]  # neither sorted
    stream = read_text(tmp_path, f"{header}\n3,{STAMPS[1]}\n4,{STAMPS[1]}\n")
    assert stream.ts.tolist() == [T0 + S, T0 + S]  # nor freed of duplicates


def test_time_is_found_by_what_it_holds(tmp_path: Path) -> None:
    text = f"a,back,when\n1,{STAMPS[1]},{STAMPS[0]}\n2,{STAMPS[0]},{STAMPS[1]}\n"
    (stream,), notices = read(written(tmp_path / "pump.csv", text), quiet=False)
    assert stream.ts.tolist() == [T0, T0 + S]
    assert "'back' (not numbers)" in notices[0]


def test_a_temperature_called_t_is_not_the_time(tmp_path: Path) -> None:
    rows = [f"{STAMPS[i]},{20 + i % 2}" for i in range(10)]
    stream = read_text(tmp_path, "\n".join(["logged,t", *rows]))
    assert stream.columns == ("t",)
    assert sample_period_ns(stream.ts) == S


def test_a_date_beside_a_time_of_day_is_not_the_time(tmp_path: Path) -> None:
    rows = [f"2020-01-01,10:00:0{i},1" for i in range(10)]
    assert "no time column found" in refused(
        written(tmp_path / "pump.csv", "\n".join(["Date,Time,a", *rows]))
    )


def test_seconds_since_the_start(tmp_path: Path) -> None:
    path = written(tmp_path / "pump.csv", "t,a\n0.0,1\n0.1,2\n0.2,3\n")
    (stream,), notices = read(path, quiet=False)
    assert stream.ts.tolist() == [0, S // 10, S // 5]
    assert notices == [f"{path}: time column 't': small numbers, read as seconds since the start"]


def test_a_counter_is_not_the_time(tmp_path: Path) -> None:
    message = refused(written(tmp_path / "pump.csv", "count,a\n0,1\n1,2\n2,3\n"))
    assert "no time column found among 'count', 'a'" in message
    assert "--time-column" in message
    assert "--period-ms" in message


def test_time_column_that_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "pump.csv", f"time,Logged,a\n{STAMPS[0]},{STAMPS[5]},1\n")
    (stream,), _ = read(path, layout=Layout(time_column="Logged"), quiet=False)
    assert stream.ts.tolist() == [T0 + 5 * S]
    assert "did you mean 'Logged'?" in refused(path, Layout(time_column="loged"))
    assert "column 'a' holds no times: wanted ISO 8601" in refused(
        written(path, "a,b\nx,1\ny,2\n"), Layout(time_column="a")
    )


def test_rows_without_a_time_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "pump.csv", f"time,a\n{STAMPS[0]},1\n,2\nlate,3\n{STAMPS[1]},4\n")
    (stream,), notices = read(path, quiet=False)
    assert stream.values.tolist() == [[1.0], [4.0]]
    assert notices == [f"{path}: 2 rows without a time in 'time' are left out, the first at line 3"]


def test_period(tmp_path: Path) -> None:
    layout = Layout(period_ms=0.5)
    stream = read_text(tmp_path, "a,b\n1,2\n3,4\n5,6\n", layout)
    assert stream.ts.tolist() == [0, 500_000, 1_000_000]
    assert read_text(tmp_path, "a\n1\n2\n", layout).values.tolist() == [[1.0], [2.0]]
    path = written(tmp_path / "pump.csv", f"time,a\n{STAMPS[0]},1\n")
    (stream,), notices = read(path, layout=layout, quiet=False)
    assert stream.ts.tolist() == [T0]
    assert notices == [f"{path}: has the time column 'time', so the period given is not used"]


def test_sample_period() -> None:
    assert sample_period_ns(np.array([0, 10, 20, 20, 5, 15, 1000], np.int64)) == 10
    with pytest.raises(RecordedFileError, match="wanted times that increase, got 2 that never do"):
        sample_period_ns(np.array([5, 5], np.int64))


# --- Numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", ["", " ", "nan", "NaN", "null", "NA", "N/A", "None", "-", "inf", "-Infinity", "1e999"]
)
def test_missing_cells(tmp_path: Path, cell: str) -> None:
    values, notices = read_cells(tmp_path, ["1", cell, "3"])
    assert values is not None
    assert np.isnan(values).tolist() == [False, True, False]
    assert notices == []


def test_nine_of_ten(tmp_path: Path) -> None:
    values, notices = read_cells(tmp_path, [*"12", "", *"345", "Bad", *"6789"])
    assert values is not None
    assert np.isnan(values).tolist() == [False] * 2 + [True] + [False] * 3 + [True] + [False] * 4
    assert notices[0].endswith(
        "column 'x': 1 cells are not numbers and count as missing, the first at line 8: 'Bad'"
    )
    values, notices = read_cells(tmp_path, [*"12", "", *"345", "Bad", *"678"])
    assert values is None
    assert notices[0].endswith("columns left out: 'x' (not numbers)")


def test_the_first_odd_cell_may_come_late(tmp_path: Path) -> None:
    cells = ["1"] * 5000
    cells[2500] = cells[4000] = "1_000"
    _, notices = read_cells(tmp_path, cells)
    assert "2 cells" in notices[0]
    assert "line 2502: '1_000'" in notices[0]


def test_an_empty_column_is_left_out(tmp_path: Path) -> None:
    values, notices = read_cells(tmp_path, ["", "NA"])
    assert values is None
    assert notices[0].endswith("columns left out: 'x' (empty)")


def test_truth_values(tmp_path: Path) -> None:
    values, notices = read_cells(tmp_path, ["true", "False", "", "TRUE"])
    assert values is not None
    np.testing.assert_array_equal(values, [1, 0, np.nan, 1])
    assert notices == []
    values, notices = read_cells(tmp_path, ["1"] * 9 + ["true"] + ["2"] * 20)
    assert values is not None
    assert np.flatnonzero(np.isnan(values)).tolist() == [9]
    assert "1 cells are not numbers" in notices[0]
    assert "line 11: 'true'" in notices[0]


def test_left_out_columns_are_said_once_for_all_files(tmp_path: Path) -> None:
    for i in range(3):
        written(tmp_path / f"{i}.csv", f"time,a,s,u\n{STAMPS[i]},1,on,l/s\n")
    _, notices = read(tmp_path, quiet=False)
    assert notices == [f"{tmp_path / '0.csv'} and 2 more: columns left out: 's', 'u' (not numbers)"]


def test_ignored_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "pump.csv", f"time,a,s,b\n{STAMPS[0]},1,on,2\n")
    (stream,), notices = read(path, layout=Layout(ignore=("b", "s", "zzz")), quiet=False)
    assert stream.columns == ("a",)
    assert notices == ["no file has the column 'zzz' that is to be ignored"]
    assert "no time column" in refused(path, Layout(ignore=("time",)))


def test_column_by_name(tmp_path: Path) -> None:
    stream = read_text(tmp_path, f"time,Flow,b\n{STAMPS[0]},1,2\n{STAMPS[1]},3,4\n")
    assert stream.column("b").tolist() == [2.0, 4.0]
    with pytest.raises(RecordedFileError, match=r"no column 'flw' among .*; did you mean 'Flow'"):
        stream.column("flw")


# --- Streams ------------------------------------------------------------------------------------


def test_folders_are_read_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.csv", "2.csv", "1.CSV", ".2.csv", "notes.txt"):
        written(tmp_path / name, f"time,a\n{STAMPS[0]},1\n")
    (tmp_path / "3.csv").mkdir()
    done: list[Path] = []
    streams = read_streams([tmp_path], Layout(), on_notice=pytest.fail, on_file=done.append)
    assert [stream.name for stream in streams] == ["1", "2", "10"]
    assert done == [tmp_path / "1.CSV", tmp_path / "2.csv", tmp_path / "10.csv"]
    assert done == list_files([tmp_path, tmp_path / "2.csv", tmp_path / ".." / tmp_path.name])


def test_equal_stems_are_told_apart_by_folders(tmp_path: Path) -> None:
    text = f"time,a\n{STAMPS[0]},1\n"
    paths = [written(tmp_path / place, text) for place in ("x/a/0.csv", "x/b/0.csv", "x/b/1.csv")]
    assert [stream.name for stream in read(*paths)[0]] == ["a/0", "b/0", "1"]
    paths = [written(tmp_path / place, text) for place in ("x/a/0.csv", "y/a/0.csv")]
    assert [stream.name for stream in read(*paths)[0]] == ["x/a/0", "y/a/0"]
    paths = [written(tmp_path / place, text) for place in ("x/a/0.csv", "x/a/0.txt")]
    assert [stream.name for stream in read(*paths)[0]] == ["0.csv", "0.txt"]


def test_each_file_keeps_its_own_columns(tmp_path: Path) -> None:
    one = written(tmp_path / "1.csv", f"time,a\n{STAMPS[0]},1\n")
    two = written(tmp_path / "2.csv", f"time,b,a\n{STAMPS[0]},1,2\n")
    assert [stream.columns for stream in read(one, two)[0]] == [("a",), ("b", "a")]


def test_stream_column(tmp_path: Path) -> None:
    late = "time,machine,a\n" + "".join(
        f"{STAMPS[i]},{name},{i}\n" for i, name in ((5, "p2"), (6, " p1 "), (7, "p2"), (8, ""))
    )
    early = f"time,machine,b,a\n{STAMPS[0]},p1,9,0\n{STAMPS[1]},p3,9,1\n"
    paths = [written(tmp_path / "late.csv", late), written(tmp_path / "early.csv", early)]
    streams, notices = read(*paths, layout=Layout(stream_column="machine"), quiet=False)
    assert [stream.name for stream in streams] == ["p2", "p1", "p3"]
    p2, p1, p3 = streams
    assert (p2.path, p1.path, p3.path) == (paths[0], paths[1], paths[1])
    assert p2.ts.tolist() == [T0 + 5 * S, T0 + 7 * S]
    assert p2.columns == ("a",)
    assert p1.ts.tolist() == [T0, T0 + 6 * S]  # the files in the order of their first samples
    assert p1.columns == ("a", "b")
    np.testing.assert_array_equal(p1.values, [[0, 9], [6, np.nan]])
    assert p3.columns == ("b", "a")
    assert notices == [
        f"{paths[0]}: 1 rows without a stream in 'machine' are left out, the first at line 5",
        f"{paths[0]}: no column 'b', missing here in its streams",
    ]


def test_stream_column_with_numbers_and_a_common_clock(tmp_path: Path) -> None:
    rows = [f"2020-01-{day:02},{unit},{day * unit}" for day in range(1, 5) for unit in (1, 2, 3)]
    path = written(tmp_path / "fleet.csv", "\n".join(["date,unit,a", *rows]))
    streams, _ = read(path, layout=Layout(stream_column="unit"))
    assert [stream.name for stream in streams] == ["1", "2", "3"]
    assert streams[1].values.tolist() == [[2.0], [4.0], [6.0], [8.0]]


def test_stream_column_with_a_period_goes_on_in_the_next_file(tmp_path: Path) -> None:
    one = written(tmp_path / "1.csv", "m,a\np,1\nq,2\np,3\n")
    two = written(tmp_path / "2.csv", "m,a\np,4\n")
    layout = Layout(stream_column="m", period_ms=1000)
    (p, q), _ = read(one, two, layout=layout)
    assert p.ts.tolist() == [0, S, 2 * S]
    assert p.values.tolist() == [[1.0], [3.0], [4.0]]
    assert q.ts.tolist() == [0]
    written(two, f"m,time,a\np,{STAMPS[0]},4\n")
    with pytest.raises(RecordedFileError, match=r"2\.csv has a time column and another"):
        read(one, two, layout=layout)


def test_stream_column_that_does_not_fit(tmp_path: Path) -> None:
    path = written(tmp_path / "fleet.csv", f"time,machine,a\n{STAMPS[0]},,1\n")
    assert "did you mean 'machine'?" in refused(path, Layout(stream_column="machin"))
    assert "wanted streams in column 'machine', got empty cells" in refused(
        path, Layout(stream_column="machine")
    )


# --- Parquet ------------------------------------------------------------------------------------


def parquet(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_parquet_timestamps(tmp_path: Path, unit: str, zone: str | None) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    extra = 1 if unit == "ns" else 0
    stamps = [T0 // S * per_second + extra, None, (T0 // S + 1) * per_second]
    path = parquet(
        tmp_path / "pump.parquet",
        when=pa.array(stamps, pa.timestamp(unit, zone)),
        a=pa.array([1.0, 2.0, 3.0]),
    )
    layout = Layout(time_column="when")
    (stream,), notices = read(path, layout=layout, quiet=False)
    assert stream.ts.tolist() == [T0 + extra, T0 + S]
    assert stream.values.tolist() == [[1.0], [3.0]]
    assert "1 rows without a time in 'when' are left out, the first at row 2" in notices[0]


def test_parquet_columns(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "pump.parquet",
        moment=pa.array([T0, T0 + S, T0 + 2 * S], pa.timestamp("ns")),
        i=pa.array([1, None, 3], pa.int16()),
        u=pa.array([1, 2, 2**40], pa.uint64()),
        f=pa.array([1.5, float("inf"), None], pa.float32()),
        h=pa.array(np.array([1, 2, 3], np.float16)),
        d=pa.array([Decimal("1.25"), None, Decimal(3)], pa.decimal128(9, 2)),
        b=pa.array([True, None, False]),
        s=pa.array(["1", "-", "3.5"], pa.large_string()),
        c=pa.array(["on", "off", "on"]).dictionary_encode(),
        n=pa.array([None, None, None], pa.null()),
        e=pa.array([None, None, None], pa.float64()),
        day=pa.array([date(2020, 1, 1)] * 3),
        nested=pa.array([[1], [2], [3]]),
        __index_level_0__=pa.array([0, 1, 2]),
    )
    (stream,), notices = read(path, quiet=False)
    nan = np.nan
    wanted = {
        "i": [1, nan, 3],
        "u": [1, 2, 2**40],
        "f": [1.5, nan, nan],
        "h": [1, 2, 3],
        "d": [1.25, nan, 3],
        "b": [1, nan, 0],
        "s": [1, nan, 3.5],
    }
    assert stream.ts.tolist() == [T0, T0 + S, T0 + 2 * S]
    assert stream.columns == tuple(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(stream.column(name), values)
    assert notices == [
        f"{path}: columns left out: 'c' (not numbers); 'n', 'e' (empty); 'day' (date32[day]); "
        "'nested' (list<element: int64>); '__index_level_0__' (without a name)"
    ]


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        (pa.array([T0 // S, None], pa.int64()), [T0]),
        (pa.array([T0 // 1000 + 1], pa.int64()), [T0 + 1000]),
        (pa.array([T0 / S + 0.25]), [T0 + S // 4]),
        (pa.array(["2020-01-01T10:00:00Z"]).dictionary_encode(), [T0]),
        (pa.array([date(2020, 1, 1)], pa.date32()), [T0 - 36_000 * S]),
        (pa.array([date(2020, 1, 1)], pa.date64()), [T0 - 36_000 * S]),
        (pa.array([10**12, T0 // S], pa.timestamp("s")), [T0]),
    ],
)
def test_parquet_times(tmp_path: Path, cells: pa.Array, wanted: list[int]) -> None:
    path = parquet(tmp_path / "pump.parquet", time=cells, a=pa.array([1] * len(cells)))
    (stream,), _ = read(path, quiet=False)
    assert stream.ts.tolist() == wanted


def test_parquet_streams(tmp_path: Path) -> None:
    times = pa.array([T0, T0 + 1, T0 + 2], pa.timestamp("ns"))
    for machines in (
        pa.array(["7", "8", "7"]).dictionary_encode(),
        pa.array([7, 8, 7], pa.int8()),
    ):
        path = parquet(tmp_path / "fleet.pq", time=times, m=machines, a=pa.array([1, 2, 3]))
        streams, _ = read(path, layout=Layout(stream_column="m"))
        assert [(s.name, s.values.tolist()) for s in streams] == [
            ("7", [[1.0], [3.0]]),
            ("8", [[2.0]]),
        ]
    assert "column 'time' holds nothing that names a stream" in refused(
        path, Layout(stream_column="time", period_ms=1)
    )


def test_parquet_that_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "pump.parquet", time=pa.array([], pa.int64()))
    assert "wanted rows, got a table without any" in refused(path)
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    assert "got 'a' as column 1 and as column 2" in refused(path)
    assert "not a readable Parquet file" in refused(written(path, path.read_bytes()[:-3]))


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "pump.parquet", time=pa.array([1]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'andon[parquet]'" in refused(path)


def test_csv_is_read_without_pyarrow(tmp_path: Path) -> None:
    path = written(tmp_path / "pump.csv", f"time,a\n{STAMPS[0]},1\n")
    program = (
        "import sys; from pathlib import Path; from edge_runtime.recorded import *;"
        f"read_streams([Path({str(path)!r})], Layout(), on_notice=print);"
        "assert 'pyarrow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- Both formats, whatever they hold -----------------------------------------------------------

CELLS = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.tuples(st.integers(10**17, 2**62), st.lists(CELLS, min_size=width, max_size=width)),
        min_size=1,
        max_size=12,
    )
)


@given(TABLES, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["\n", "\r\n"]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read(
    tmp_path: Path, rows: list[tuple[int, list[float | None]]], delimiter: str, end: str
) -> None:
    width = len(rows[0][1])
    ts = [ns for ns, _ in rows]
    wanted = np.array([row for _, row in rows], np.float64).reshape(-1, width)
    full = [i for i in range(width) if not np.isnan(wanted[:, i]).all()]
    names = ["time", *(f"s {i}" for i in range(width)), "last"]
    lines = [
        delimiter.join(
            [str(np.datetime64(ns, "ns")), *("" if v is None else repr(v) for v in row), "1"]
        )
        for ns, row in rows
    ]
    csv_path = written(tmp_path / "a.csv", end.join([delimiter.join(names), *lines]))
    columns = [pa.array(ts, pa.timestamp("ns")), *(pa.array(wanted[:, i]) for i in range(width))]
    pq_path = tmp_path / "b.parquet"
    pq.write_table(pa.table([*columns, pa.array([1] * len(rows))], names=names), pq_path)
    for stream in read(csv_path, pq_path, quiet=False)[0]:
        assert stream.columns == (*(names[1 + i] for i in full), "last")
        assert stream.ts.tolist() == ts
        np.testing.assert_array_equal(stream.values[:, :-1], wanted[:, full])


PIECES = st.sampled_from(
    [
        *"0123456789,;|\t .:-_+eT\"'\n\r",
        "time",
        "a",
        "nan",
        "2020-01-01",
        "1,5",
        "true",
        "\0",
        "ä",
        "1e9",
    ]
)


@given(st.lists(PIECES, max_size=60), st.sampled_from(["", "time;a\n", "time,a,b\n", "a b\n"]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_holds_it_is_read_or_refused(
    tmp_path: Path, pieces: list[str], header: str
) -> None:
    path = written(tmp_path / "pump.csv", header + "".join(pieces))
    try:
        (stream,), _ = read(path, layout=Layout(period_ms=1.0), quiet=False)
    except RecordedFileError as error:
        assert str(path) in str(error)  # noqa: PT017 - both outcomes are good
    else:
        assert stream.values.shape == (len(stream.ts), len(stream.columns))
        assert not np.isinf(stream.values).any()
