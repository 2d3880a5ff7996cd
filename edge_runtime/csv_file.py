"""CSV in whatever dialect a historian or a spreadsheet wrote.

Delimiter and encoding are found. Where the comma does not separate the cells, a file's decimal sign
is the one that most of its first fractions have.
"""

import codecs
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.columns import (
    MISSING,
    Column,
    Layout,
    Numbers,
    NumbersBuilder,
    Table,
    check_header,
    is_unnamed,
    keeps_text,
    listed,
    text_numbers,
)
from edge_runtime.csv_arrow import Wanted, read_plain
from edge_runtime.errors import RecordedFileError
from edge_runtime.times import CALENDAR, parse_times

DELIMITERS = ("\t", ";", "|", ",", " ")  # " " stands for any run of blanks
CHUNK_ROWS = 1024  # more would leave the processor's cache: a third slower
SNIFFED_ROWS = 50

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+(?:[eE][+-]?\d+)?")


def read_csv(path: Path, layout: Layout, note: Callable[[str], None]) -> Table:
    """Reads a CSV file.

    Args:
        path: The file.
        layout: What it does not say itself.
        note: Told what was assumed.

    Returns:
        Its columns.

    Raises:
        RecordedFileError: With line, what was wanted and what came.
    """
    encoding = _encoding(path, note)
    delimiter = layout.delimiter or _delimiter(path, encoding)
    delimiter = "\t" if delimiter == "\\t" else delimiter
    builders: list[_ColumnBuilder] = []
    lines: list[NDArray[np.int64]] = []
    comma = False if delimiter == "," else None
    with path.open(encoding=encoding, newline="") as file:
        reader = _reader(file, delimiter)
        try:
            names = _header(path, reader)
            header_line = reader.line_num
            for columns, their_lines in _chunks(path, reader, len(names)):
                if comma is None:
                    comma = _has_decimal_comma(columns)
                if not builders:
                    builders = list(map(_ColumnBuilder, names, columns, repeat(layout)))
                    if encoding == "utf-8-sig" and len(their_lines) == CHUNK_ROWS:
                        table = _plain_table(path, delimiter, header_line, builders, columns)
                        if table is not None:
                            return table
                for builder, cells in zip(builders, columns, strict=True):
                    builder.add(cells, comma or False)
                lines.append(their_lines)
        except csv.Error as error:
            raise RecordedFileError(f"{path}, line {reader.line_num}: {error}") from error
    if not lines:
        raise RecordedFileError(f"{path}: wanted rows below the header, got none")
    columns_read = tuple(builder.column(comma or False) for builder in builders)
    return Table(path, columns_read, np.concatenate(lines), "line")


def _plain_table(
    path: Path,
    delimiter: str,
    header_line: int,
    builders: Sequence["_ColumnBuilder"],
    columns: Sequence[Sequence[str]],
) -> Table | None:
    """The whole file at once, if it is so plain that this makes no difference.

    Args:
        path: The file.
        delimiter: Between its cells.
        header_line: Number of the line with the names.
        builders: Of all columns, empty so far.
        columns: The first rows.
    """
    wanted = [
        Wanted(builder.name, builder.as_text or _is_text(cells))
        for builder, cells in zip(builders, columns, strict=True)
    ]
    found = read_plain(path, delimiter, header_line, wanted)
    if found is None:
        return None
    read = [builder.of(cells) for builder, cells in zip(builders, found, strict=True)]
    lines = np.arange(header_line + 1, header_line + 1 + len(found[0]))
    return Table(path, tuple(read), lines, "line")


def _is_text(cells: Sequence[str]) -> bool:
    """Whether a column holds something else than numbers."""
    numbers = text_numbers(cells, comma=False)
    return bool(numbers.odd) or (numbers.values is None and numbers.reason != "empty")


def _encoding(path: Path, note: Callable[[str], None]) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with path.open("rb") as file:
        start = file.read(4096)
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        if b"\0" in start:
            raise RecordedFileError(f"{path}: wanted CSV or Parquet, got a binary file")
        file.seek(0)
        block = start
        while block:
            block = file.read(1 << 20)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                # The decoder may have prepended up to three bytes, none of them a line's end.
                line += error.object.count(b"\n", 0, error.start)
                note(f"not UTF-8 (first in line {line}), read as Latin-1")
                return "latin-1"
            line += block.count(b"\n")
    return "utf-8-sig"


def _reader(lines: Iterable[str], delimiter: str) -> Any:  # noqa: ANN401 - csv's type has no name
    if delimiter == " ":
        lines = (" ".join(line.split()) for line in lines)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _delimiter(path: Path, encoding: str) -> str:
    """The one by which most of the first rows have as many cells as the header."""
    with path.open(encoding=encoding, newline="") as file:
        lines = list(islice((line for line in file if line.strip()), SNIFFED_ROWS))
    best, most = ",", (0, 1)
    for delimiter in DELIMITERS:
        try:
            header, *widths = [len(row) for row in _reader(lines, delimiter)] or [0]
        except csv.Error:
            continue
        alike = widths.count(header) if header > 1 else 0
        # Where no row fits, the header tells, but a name such as "Flow rate" has a blank as well.
        merit = (alike, 0) if alike or delimiter == " " else (0, header)
        if merit > most:
            best, most = delimiter, merit
    return best


def _header(path: Path, reader: Any) -> list[str]:  # noqa: ANN401 - csv's type has no name
    row = next((row for row in reader if any(cell.strip() for cell in row)), None)
    if row is None:
        raise RecordedFileError(f"{path}: wanted a header and rows, got an empty file")
    row = [cell.strip() for cell in row]
    # A number may be a name, a date is none, and a row of numbers is no header.
    if any(map(CALENDAR.fullmatch, row)) or parse_times([cell for cell in row if cell]).valid.all():
        raise RecordedFileError(
            f"{path}, line {reader.line_num}: wanted a header with the names of the columns, got "
            f"{listed(row)}"
        )
    names = [cell or f"Unnamed: {place}" for place, cell in enumerate(row)]
    check_header(path, names)
    return names


def _chunks(
    path: Path,
    reader: Any,  # noqa: ANN401 - csv's type has no name
    width: int,
) -> Iterator[tuple[list[tuple[str, ...]], NDArray[np.int64]]]:
    """The columns' cells and the rows' line numbers, some thousand rows at a time."""
    while True:
        before = reader.line_num
        rows = list(islice(reader, CHUNK_ROWS))
        if not rows:
            return
        lines = np.arange(before + 1, before + 1 + len(rows))
        if reader.line_num - before != len(rows):  # a quoted cell goes over several lines
            spans = [1 + sum(cell.count("\n") for cell in row) for row in rows]
            lines = before + 1 + np.cumsum([0, *spans[:-1]])
        odd = [i for i, row in enumerate(rows) if len(row) != width]
        for i in odd:
            if rows[i] not in ([], [""]):
                raise RecordedFileError(
                    f"{path}, line {lines[i]}: wanted {width} cells as in the header, got "
                    f"{len(rows[i])}: {listed(rows[i])}"
                )
        if odd:
            blank = set(odd)
            rows = [row for i, row in enumerate(rows) if i not in blank]
            lines = np.delete(lines, odd)
        if rows:
            yield list(zip(*rows, strict=True)), lines


def _has_decimal_comma(columns: Sequence[Sequence[str]]) -> bool | None:
    """Whether more numbers have a comma than a point; None while none has either."""
    commas = points = 0
    for cells in columns:
        joined = "".join(cells)
        if "," in joined:
            commas += sum(1 for cell in cells if _DECIMAL_COMMA.fullmatch(cell))
        if "." in joined:
            points += sum(1 for cell in cells if _DECIMAL_POINT.fullmatch(cell))
    return commas > points if commas or points else None


class _ColumnBuilder:
    """Collects a column of text, as numbers at once unless its text may be asked for.

    Args:
        name: Of the column.
        cells: Of the first rows; they are not added yet.
        layout: Tells which columns are asked for.
    """

    def __init__(self, name: str, cells: Sequence[str], layout: Layout) -> None:
        first = next((cell for cell in cells if cell.strip().lower() not in MISSING), "")
        self.name = name
        self.as_text = keeps_text(name, first, layout)
        self._texts: list[str] = []
        self._numbers = NumbersBuilder()
        self._ignored = name in layout.ignore

    def add(self, cells: Sequence[str], comma: bool) -> None:
        if self.as_text:
            self._texts.extend(cells)
        elif not self._ignored:
            self._numbers.add(cells, comma)

    def column(self, comma: bool) -> Column:
        numbers: Callable[[], Numbers] = self._numbers.finish
        if self.as_text:
            numbers = partial(text_numbers, self._texts, comma)
        texts = self._texts if self.as_text else None
        return Column(self.name, numbers, texts, unnamed=is_unnamed(self.name))

    def of(self, cells: NDArray[np.float64] | list[str]) -> Column:
        """The column that these are all cells of."""
        if isinstance(cells, np.ndarray):
            numbers = partial(_as_numbers, cells)
        else:
            numbers = partial(text_numbers, cells, comma=False)
        texts = cells if self.as_text and isinstance(cells, list) else None
        return Column(self.name, numbers, texts, unnamed=is_unnamed(self.name))


def _as_numbers(values: NDArray[np.float64]) -> Numbers:
    return Numbers(None, "empty") if np.isnan(values).all() else Numbers(values)
