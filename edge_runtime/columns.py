"""Columns of a recorded file before it is known what they are for.

A column is numeric when at least nine of ten of its cells that are not missing are numbers, or when
all of them are ``true`` or ``false`` (1 and 0).
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError, RecordedFileError
from edge_runtime.times import Times, parse_times

# Names of a time column, in lower case and without anything but letters and digits.
TIME_NAMES = frozenset(
    ["time", "timestamp", "datetime", "date", "ts", "t", "epoch", "unixtime", "zeit", "datum"]
) | {"utc", "utctime", "timeutc", "timestamputc", "datetimeutc", "zeitstempel"}
MISSING = frozenset(("", "nan", "null", "na", "n/a", "none", "-"))

# An index that a data frame wrote beside its columns: it may be the time, it is never a sensor.
_UNNAMED = re.compile(r"Unnamed: \d+|__index_level_\d+__")
_SWAPPED = str.maketrans(",.", ".,")


@dataclass(frozen=True, slots=True)
class Layout:
    r"""How to read the files, as far as they do not say it themselves.

    Attributes:
        time_column: Its name; None finds it.
        stream_column: Rows are grouped by its values; None makes each file one stream.
        ignore: Columns to leave out.
        period_ms: Distance of the rows, for files without a time column: row i is at i periods.
        delimiter: One character, or ``\t`` as typed in a shell; a blank is any run of blanks. None
            finds it.

    Raises:
        ConfigError: If a value cannot be meant.
    """

    time_column: str | None = None
    stream_column: str | None = None
    ignore: tuple[str, ...] = ()
    period_ms: float | None = None
    delimiter: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.period_ms is not None and not 0 < self.period_ms < math.inf:
            problems.append(f"period_ms: wanted a number above 0, got {self.period_ms}")
        if self.delimiter is not None and not re.fullmatch(r'[^\r\n"]|\\t', self.delimiter):
            problems.append(f"delimiter: wanted one character, got {self.delimiter!r}")
        if self.time_column is not None and self.time_column == self.stream_column:
            problems.append(f"time_column and stream_column: both are {self.time_column!r}")
        if problems:
            raise ConfigError(problems)


class Numbers(NamedTuple):
    """A column read as numbers: ``values`` ``[row]``, or None and the reason."""

    values: NDArray[np.float64] | None
    reason: str = ""
    odd: int = 0
    first_row: int = 0
    first_text: str = ""


class Texts(Sequence[str]):
    """Cells of a column that mostly repeat themselves.

    Args:
        distinct: The different texts, in the order in which they first appear.
        codes: ``[row]``, which of them the cell is.
    """

    def __init__(self, distinct: list[str], codes: NDArray[np.intp]) -> None:
        self.distinct = distinct
        self.codes = codes

    @classmethod
    def of(cls, cells: Sequence[str]) -> "Texts":
        """The same for cells that are given one by one."""
        if isinstance(cells, cls):
            return cells
        places = {text: place for place, text in enumerate(dict.fromkeys(cells))}
        return cls(list(places), np.fromiter(map(places.__getitem__, cells), np.intp, len(cells)))

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> "Texts": ...
    def __getitem__(self, row: int | slice) -> "str | Texts":
        if isinstance(row, slice):
            return Texts(self.distinct, self.codes[row])
        return self.distinct[int(self.codes[row])]

    def __iter__(self) -> Iterator[str]:
        return map(self.distinct.__getitem__, self.codes.tolist())


@dataclass(frozen=True, slots=True)
class Column:
    """A column before it is known what it is for.

    Attributes:
        name: Never empty.
        numbers: Reads it as numbers.
        texts: The cells, where the column may be the time or the stream.
        times: The times, where the file format says that it holds times.
        unnamed: Whether the file gives it no name, or one that a program made up.
    """

    name: str
    numbers: Callable[[], Numbers]
    texts: Sequence[str] | None = None
    times: Times | None = None
    unnamed: bool = False

    def as_times(self) -> Times | None:
        """Reads it as times; None where neither the format nor the text allows that."""
        if self.times is not None or self.texts is None:
            return self.times
        return parse_times(self.texts)


@dataclass(frozen=True, slots=True)
class Table:
    """A file's columns; ``lines`` ``[row]`` are the numbers by which a person finds a row."""

    path: Path
    columns: tuple[Column, ...]
    lines: NDArray[np.int64]
    line_word: str

    def names(self) -> str:
        """The columns, for a message."""
        return listed([column.name for column in self.columns])

    def where(self, row: int) -> str:
        """A row by the number under which a person finds it."""
        return f"{self.line_word} {self.lines[row]}"

    def require(self, name: str) -> Column:
        """The column of that name.

        Raises:
            RecordedFileError: If there is none; the message names the closest.
        """
        for column in self.columns:
            if column.name == name:
                return column
        known = [column.name for column in self.columns]
        raise RecordedFileError(f"{self.path}: {no_column(name, known)}")


def check_header(path: Path, names: Sequence[str]) -> None:
    """Makes sure that each column has a name of its own.

    Raises:
        RecordedFileError: With the name that stands twice.
    """
    seen: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if name in seen:
            raise RecordedFileError(
                f"{path}: wanted different column names, got {name!r} as column {seen[name]} "
                f"and as column {place}"
            )
        seen[name] = place


def keeps_text(name: str, first_cell: str, layout: Layout) -> bool:
    """Whether a column can turn out to be the time or the stream.

    Text is large, so the cells of other columns are not kept.
    """
    if name in (layout.time_column, layout.stream_column) or is_time_name(name):
        return True
    first = parse_times([first_cell])
    return bool(first.valid[0]) and not first.relative


def is_unnamed(name: str) -> bool:
    """Whether a program made the name up, for a column or for an index."""
    return _UNNAMED.fullmatch(name) is not None


def is_time_name(name: str) -> bool:
    """Whether a column of that name is usually the time."""
    return re.sub(r"[\W_]", "", name.lower()) in TIME_NAMES


def no_column(name: str, known: Sequence[str]) -> str:
    """Says that a column is missing, and which are there."""
    return f"no column {name!r} among {listed(known)}{did_you_mean(name, known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The closest of the known names, as the end of a sentence; empty if none is close."""
    folded = {other.lower(): other for other in known}
    close = get_close_matches(name.lower(), folded, 1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first twelve of them."""
    shown = 12
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more


class NumbersBuilder:
    """Collects a column's numbers, some thousand cells at a time.

    Until the end an infinity stands for a truth value, since a cell that says infinity is missing.
    """

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float64]] = []
        self._rows = 0
        self._odd = 0
        self._first: tuple[int, str] = (0, "")

    def add(self, cells: Sequence[str], comma: bool) -> None:
        """Reads further cells; ``comma`` says that it is the decimal sign."""
        joined = "\n".join(cells)
        plain: Sequence[str] = cells
        if comma and ("," in joined or "." in joined):
            # Swapped, so that the point of 1.234 is not taken for a decimal point.
            plain = joined.translate(_SWAPPED).split("\n")
            if len(plain) != len(cells):  # a cell of several lines
                plain = [cell.translate(_SWAPPED) for cell in cells]
        try:
            values = np.fromiter(map(float, plain), np.float64, len(plain))
            values[~np.isfinite(values)] = np.nan
        except ValueError:
            values = self._one_by_one(cells, plain)
        else:
            if "_" in joined:  # Python takes 1_000 for a number, no instrument does
                values = self._one_by_one(cells, plain)
        self._parts.append(values)
        self._rows += len(cells)

    def _one_by_one(self, cells: Sequence[str], plain: Sequence[str]) -> NDArray[np.float64]:
        """Each different text once: a column with text mostly repeats itself."""
        value_of = {text: _value(text) for text in set(plain)}
        odd = {text for text, value in value_of.items() if value is None}
        if odd:
            rows = [row for row, text in enumerate(plain) if text in odd]
            if not self._odd:
                self._first = (self._rows + rows[0], cells[rows[0]][:60])
            self._odd += len(rows)
        known = {text: math.nan if value is None else value for text, value in value_of.items()}
        return np.fromiter(map(known.__getitem__, plain), np.float64, len(plain))

    def finish(self) -> Numbers:
        """The whole column, if it is numeric."""
        values = np.concatenate(self._parts)
        words = np.isinf(values)
        numbers = int(np.count_nonzero(np.isfinite(values)))
        odd, first = self._odd, self._first
        if words.any() and not numbers and not odd:
            return Numbers(np.where(words, values > 0, values).astype(np.float64))
        if words.any():
            row = int(np.argmax(words))
            if not odd or row < first[0]:
                first = (row, "true" if values[row] > 0 else "false")
            odd += int(np.count_nonzero(words))
            values[words] = np.nan
        if not numbers + odd:
            return Numbers(None, "empty")
        if 10 * numbers < 9 * (numbers + odd):
            return Numbers(None, "not numbers")
        return Numbers(values, "", odd, *first)


def text_numbers(cells: Sequence[str], comma: bool) -> Numbers:
    """Reads a column of text as numbers; ``comma`` says that it is the decimal sign."""
    builder = NumbersBuilder()
    builder.add(cells, comma)
    return builder.finish()


def _value(text: str) -> float | None:
    """A cell's number, NaN if it is missing, an infinity for a truth value, None for other text."""
    folded = text.strip().lower()
    if folded in MISSING:
        return math.nan
    if folded in ("true", "false"):
        return math.inf if folded == "true" else -math.inf
    try:
        value = float(folded)
    except ValueError:
        return None
    if "_" in folded:
        return None
    return value if math.isfinite(value) else math.nan
