"""Plain CSV through pyarrow, beside the reader that goes cell by cell: never another table."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import edge_runtime.csv_file
from edge_runtime.columns import Layout, Table
from edge_runtime.csv_arrow import read_plain
from edge_runtime.csv_file import read_csv
from edge_runtime.errors import RecordedFileError

NUMBERS = [
    "0",
    "-0.0",
    "1.5",
    "-2e-3",
    "12345678901234567890",
    "0.1",
    "1e400",
    "4.9e-324",
    ".5",
    "1.",
]
MISSING = ["", "nan", "NaN", "NA", "null", "None", "-", "N/A", "n/A"]
ODD = [
    "+1.5",
    "inf",
    "-Infinity",
    "1_000",
    "true",
    "False",
    "1,5",
    " 2",
    "2 ",
    "x",
    "0x10",
    "1e",
    "٣",
]
BREAKS = ['"3"', '"a\nb"', '"', "a\rb", "a\0b", "a\vb", "a\x85b", "#"]
TIMES = ["2026-01-01T00:00:00Z", "2026-01-01 00:00:01", "31.12.2025 10:00:00", "17", "1.5"]

few = st.sampled_from([*NUMBERS * 4, *MISSING])
cells = st.one_of(few, few, few, st.sampled_from([*ODD, *BREAKS, *TIMES]), st.text(max_size=3))
rows = st.lists(st.tuples(st.sampled_from([*TIMES, *MISSING]), few, few, cells), max_size=20)
plain_rows = st.lists(st.tuples(st.sampled_from(TIMES[:1]), few, few, few), min_size=5, max_size=20)


def text_of(table: Sequence[tuple[str, ...]], delimiter: str, end: str, tail: str) -> str:
    lines = [delimiter.join(("time", "a", "b", "c")), *(delimiter.join(row) for row in table)]
    return end.join(lines) + tail


def read(path: Path, layout: Layout, *, arrow: bool) -> Any:
    """Everything that a table says, or the error."""
    none = patch.object(edge_runtime.csv_file, "read_plain", return_value=None)
    said: list[str] = []
    with patch.object(edge_runtime.csv_file, "CHUNK_ROWS", 4):
        try:
            if arrow:
                table = read_csv(path, layout, said.append)
            else:
                with none:
                    table = read_csv(path, layout, said.append)
        except RecordedFileError as error:
            return str(error)
    return [*said, *contents(table, layout)]


def contents(table: Table, layout: Layout) -> list[Any]:
    found: list[Any] = [table.lines.tolist(), table.line_word]
    for column in table.columns:
        found += [column.name, column.unnamed, None if column.texts is None else [*column.texts]]
        if column.name not in layout.ignore:
            values, *rest = column.numbers()
            found += [None if values is None else values.tobytes(), *map(str, rest)]
    return found


@settings(deadline=None)  # the first one imports pyarrow
@example([("17", "1.5", "", "nan")] * 9, ",", "\n", "", ())
@example([("17", "1.5", "", "x")] * 9, ",", "\n", "\n", ())
@example([("17", "0", "0", "0")] * 5, ",", "\n", "\n\n", ())
@example([("17", "1.5", "1,5", "2")] * 9, ";", "\n", "\n", ())
@example([("17", "1.5", "2", "2")] * 9, ",", "\r\n", "\r\n", ("c",))
@example([("17", "1", "2", "2")] * 5 + [("17", "1", '"2"', "2")], ",", "\n", "", ())
@given(
    st.one_of(rows, plain_rows),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\n\n", "\r"]),
    st.sampled_from(["", "\n", "\n\n", "\n ", "\n,"]),
    st.sampled_from([(), ("c",), ("time",)]),
)
def test_both_readers_say_the_same(
    table: list[tuple[str, ...]], delimiter: str, end: str, tail: str, ignore: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(text_of(table, delimiter, end, tail).encode("utf-8", "surrogatepass"))
        for layout in (Layout(ignore=ignore), Layout(ignore=ignore, delimiter=delimiter)):
            assert read(path, layout, arrow=True) == read(path, layout, arrow=False)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_is_plain_is_read_by_pyarrow(tmp_path: Path, delimiter: str, end: str) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((50, 2)) * 10.0 ** rng.integers(-300, 300, (50, 2))
    table = [(TIMES[0], repr(a), repr(b), "nan") for a, b in values.tolist()]
    path = tmp_path / "a.csv"
    path.write_text(text_of(table, delimiter, end, end), newline="")
    taken: list[Any] = []

    def spied(*args: Any) -> Any:
        taken.append(read_plain(*args))
        return taken[-1]

    with (
        patch.object(edge_runtime.csv_file, "read_plain", spied),
        patch.object(edge_runtime.csv_file, "CHUNK_ROWS", 4),
    ):
        columns = read_csv(path, Layout(), lambda _: None).columns
    ((texts, *_),) = taken
    assert texts == [TIMES[0]] * 50
    for column, wanted in zip(columns[1:3], values.T, strict=True):
        numbers = column.numbers().values
        assert numbers is not None
        assert numbers.tobytes() == wanted.tobytes()
    assert columns[3].numbers().reason == "empty"
    assert math.isnan(taken[0][3][0])


@pytest.mark.parametrize(
    "head", [b'time,"a\rb"\n', b"\rtime,a\n", b"\r\r\ntime,a\n", b'time,"a\nb"\n']
)
def test_the_first_row_is_behind_the_header_whatever_ends_a_line(
    tmp_path: Path, head: bytes
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(head + b"".join(b"%d,%d\n" % (row, row) for row in range(9)))
    assert read(path, Layout(), arrow=True) == read(path, Layout(), arrow=False)


def test_without_pyarrow_nothing_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text_of([(TIMES[0], "1", "2", "3")] * 9, ",", "\n", ""))
    whole = read(path, Layout(), arrow=True)
    with patch.dict("sys.modules", {"pyarrow": None}):
        assert read(path, Layout(), arrow=True) == whole
