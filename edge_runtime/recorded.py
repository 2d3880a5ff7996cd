"""Recorded files to streams: the one reader of ``andon train`` and ``andon replay``.

CSV in whatever dialect a historian or a spreadsheet wrote, and Parquet. What a file means is
decided by these rules; whatever they leave out is counted and said in a notice.

Time
    ISO 8601, or ``31.12.2024 10:00:00``; without an offset it is UTC. Or numbers, all in one unit,
    chosen by the column's median magnitude m: m < 1e8 seconds since the start of the recording
    (which becomes 1970), < 1e11 seconds since 1970, < 1e14 milliseconds, < 1e17 microseconds, else
    nanoseconds. That reads every date from March 1973 on. Decimal text becomes nanoseconds without
    passing through a float.
Numbers
    A column is numeric when at least nine of ten of its cells that are not missing are numbers, or
    when all of them are ``true`` or ``false`` (1 and 0). Where the comma does not separate the
    cells, a file's decimal sign is the one that most of its first fractions have.
"""

import codecs
import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError, RecordedFileError

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
NS_PER_DAY = 86_400 * NS_PER_S
EPOCH_ORDINAL = datetime(1970, 1, 1).toordinal()
FIRST_YEAR, LAST_YEAR = 1678, 2261  # the whole years that int64 nanoseconds hold

# Names of a time column, in lower case and without anything but letters and digits.
TIME_NAMES = frozenset(
    ["time", "timestamp", "datetime", "date", "ts", "t", "epoch", "unixtime", "zeit", "datum"]
) | {"utc", "utctime", "timeutc", "timestamputc", "datetimeutc", "zeitstempel"}
MISSING = frozenset(("", "nan", "null", "na", "n/a", "none", "-"))
DELIMITERS = ("\t", ";", "|", ",", " ")  # " " stands for any run of blanks
CHUNK_ROWS = 1024  # more would leave the processor's cache: a third slower
SNIFFED_ROWS = 50

ARROW_TEXTS = ("string", "large_string", "string_view")
ARROW_NUMBERS = ("int", "uint", "halffloat", "float", "double", "decimal", "bool", "null")
ARROW_TIMES = ("timestamp", "date")

# An index that a data frame wrote beside its columns: it may be the time, it is never a sensor.
_UNNAMED = re.compile(r"Unnamed: \d+|__index_level_\d+__")
_TIME = re.compile(
    r"(?:(\d{4})[-/](\d\d?)[-/](\d\d?)|(\d\d?)\.(\d\d?)\.(\d{4}))"
    r"(?:[T ](\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?\s?"
    r"(Z|UTC|[+-](?:0\d|1[0-8])(?::?[0-5]\d)?)?)?",
    re.ASCII | re.IGNORECASE,
)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+(?:[eE][+-]?\d+)?")
_SWAPPED = str.maketrans(",.", ".,")
_RELATIVE_BELOW = 1e8
# The median magnitude is below ..., so the unit is so many decimal digits above the nanosecond.
_UNITS = ((1e11, 9), (1e14, 6), (1e17, 3), (math.inf, 0))


@dataclass(frozen=True, slots=True)
class RecordedStream:
    """What one machine recorded.

    Attributes:
        name: The file's stem, or the value of the stream column.
        path: The (first) file it came from.
        ts: ``[row]`` nanoseconds since 1970 UTC, in the order of the files; neither sorted nor
            freed of duplicates.
        columns: The numeric columns in file order, without time, stream and ignored columns.
        values: ``[row, column]``; NaN where the cell is empty or is not a number.
    """

    name: str
    path: Path
    ts: NDArray[np.int64]
    columns: tuple[str, ...]
    values: NDArray[np.float64]

    def column(self, name: str) -> NDArray[np.float64]:
        """One column's values, ``[row]``.

        Raises:
            RecordedFileError: If there is none of that name; the message names the closest.
        """
        if name not in self.columns:
            raise RecordedFileError(
                f"{self.path}: stream {self.name!r}: {_no_column(name, self.columns)}"
            )
        return self.values[:, self.columns.index(name)]


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


class Times(NamedTuple):
    """A column read as times.

    Attributes:
        ns: ``[row]`` nanoseconds since 1970 UTC; 0 where ``valid`` is false.
        valid: ``[row]`` whether the cell is a time.
        relative: Whether the numbers count from the start of the recording, not from 1970.
    """

    ns: NDArray[np.int64]
    valid: NDArray[np.bool_]
    relative: bool


def _silent(_: Path) -> None:
    """Nobody watches the progress."""


def read_streams(
    paths: Sequence[Path],
    layout: Layout,
    *,
    on_notice: Callable[[str], None],
    on_file: Callable[[Path], None] = _silent,
) -> list[RecordedStream]:
    """Reads recorded files.

    Args:
        paths: CSV and Parquet files, or folders of them.
        layout: What the files do not say themselves.
        on_notice: Called with one sentence for each thing that was left out or assumed; files of
            which the same is to be said share a sentence.
        on_file: Called after each file, in the order of `list_files`.

    Returns:
        The streams, in the order in which they first appear.

    Raises:
        RecordedFileError: With file, line, what was wanted and what came.
    """
    files = list_files(paths)
    names = _stream_names(files)
    notices = _Notices()
    parts: dict[str, list[_Part]] = {}
    unused = set(layout.ignore)
    for path in files:
        note = partial(notices.add, path)
        table = _read_table(path, layout, note)
        unused.difference_update(column.name for column in table.columns)
        for name, part in _split(table, names[path], layout, note):
            parts.setdefault(name, []).append(part)
        on_file(path)
    streams = [_join(name, its, layout.period_ms, notices) for name, its in parts.items()]
    for text in notices.sentences():
        on_notice(text)
    for name in layout.ignore:
        if name in unused:
            on_notice(f"no file has the column {name!r} that is to be ignored")
    return streams


def list_files(paths: Sequence[Path]) -> list[Path]:
    """The files to read, each once.

    A folder stands for its ``*.csv`` and ``*.parquet``, ``2.csv`` before ``10.csv``.

    Raises:
        RecordedFileError: If a path does not exist, or nothing is there to be read.
    """
    files: dict[Path, Path] = {}
    for given in map(Path, paths):
        for path in _files_in(given) if given.is_dir() else [given]:
            if not path.is_file():
                near = [p.name for p in path.parent.glob("*")]
                raise RecordedFileError(f"{path}: no such file{_did_you_mean(path.name, near)}")
            files.setdefault(path.resolve(), path)
    if not files:
        raise RecordedFileError("wanted at least one recorded file, got none")
    return list(files.values())


def sample_period_ns(ts: NDArray[np.int64]) -> int:
    """The usual distance between samples: the median of the positive differences.

    Args:
        ts: ``[row]`` nanoseconds.

    Raises:
        RecordedFileError: If no time is later than the one before it.
    """
    steps = np.diff(ts)
    steps = steps[steps > 0]
    if not steps.size:
        raise RecordedFileError(
            f"no sample period: wanted times that increase, got {len(ts)} that never do"
        )
    return round(float(np.median(steps)))


# --- From files to streams ----------------------------------------------------------------------


class _Notices:
    """What is to be said, so that one remark about sixteen files is one sentence."""

    def __init__(self) -> None:
        self._files: dict[str, list[Path]] = {}

    def add(self, path: Path, text: str) -> None:
        self._files.setdefault(text, []).append(path)

    def sentences(self) -> Iterator[str]:
        for text, paths in self._files.items():
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            yield f"{paths[0]}{more}: {text}"


@dataclass(frozen=True, slots=True)
class _Part:
    """What one file holds of one stream; ``ts`` is None where the file has no time column."""

    path: Path
    ts: NDArray[np.int64] | None
    columns: tuple[str, ...]
    values: NDArray[np.float64]


def _files_in(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".csv", ".parquet")
        and not path.name.startswith(".")
        and path.is_file()
    ]
    if not found:
        raise RecordedFileError(f"{folder}: wanted *.csv or *.parquet files in this folder")
    return sorted(sorted(found), key=_natural)


def _natural(path: Path) -> list[tuple[str, int]]:
    return [
        (text.lower(), int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", path.name)
    ]


def _stream_names(files: Sequence[Path]) -> dict[Path, str]:
    """File stems, and where they are equal the shortest ends of the paths that are not."""
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        by_stem.setdefault(path.stem, []).append(path)
    names = {}
    for same in by_stem.values():
        places = [Path(os.path.abspath(path)).with_suffix("").parts for path in same]  # noqa: PTH100 - resolves '..', not links
        if len(set(places)) < len(places):
            places = [(*place[:-1], path.name) for place, path in zip(places, same, strict=True)]
        depth = 1
        while len({place[-depth:] for place in places}) < len(places):
            depth += 1
        for path, place in zip(same, places, strict=True):
            names[path] = "/".join(place[-depth:])
    return names


def _split(
    table: "_Table", name: str, layout: Layout, note: Callable[[str], None]
) -> Iterator[tuple[str, _Part]]:
    """A file's rows as parts of streams; rows without a time or a stream are left out."""
    if layout.stream_column is not None:
        table.require(layout.stream_column)
    time = _find_time(table, layout)
    row_kept = np.ones(len(table.lines), np.bool_)
    if time is not None:
        row_kept &= time[1].valid
        _note_rows(table, ~time[1].valid, f"without a time in {time[0].name!r}", note)
        if time[1].relative:
            note(f"time column {time[0].name!r}: small numbers, read as seconds since the start")
        if layout.period_ms is not None:
            note(f"has the time column {time[0].name!r}, so the period given is not used")
    groups = {name: np.flatnonzero(row_kept)}
    if layout.stream_column is not None:
        groups = _groups(table, layout.stream_column, row_kept, note)
    taken = {layout.stream_column, None if time is None else time[0].name}
    columns, values = _numeric(table, taken | set(layout.ignore), note)
    for stream, rows in groups.items():
        ts = None if time is None else time[1].ns[rows]
        yield stream, _Part(table.path, ts, columns, values[rows])


def _groups(
    table: "_Table", name: str, row_kept: NDArray[np.bool_], note: Callable[[str], None]
) -> dict[str, NDArray[np.intp]]:
    """Rows by the value of the stream column, both in the order of the file."""
    codes: dict[str, int] = {"": 0}
    cells = table.require(name).texts
    if cells is None:
        raise RecordedFileError(f"{table.path}: column {name!r} holds nothing that names a stream")
    texts = [cell.strip() for cell in cells]
    code = np.fromiter((codes.setdefault(text, len(codes)) for text in texts), np.intp, len(texts))
    _note_rows(table, row_kept & (code == 0), f"without a stream in {name!r}", note)
    kept = np.flatnonzero(row_kept & (code > 0))
    if not kept.size:
        raise RecordedFileError(f"{table.path}: wanted streams in column {name!r}, got empty cells")
    ordered = kept[np.argsort(code[kept], kind="stable")]
    ends = np.cumsum(np.bincount(code[kept], minlength=len(codes)))
    split = np.split(ordered, ends[:-1])
    return {stream: split[i] for stream, i in codes.items() if split[i].size}


def _note_rows(
    table: "_Table", left_out: NDArray[np.bool_], why: str, note: Callable[[str], None]
) -> None:
    if left_out.any():
        first = table.where(int(np.argmax(left_out)))
        note(f"{np.count_nonzero(left_out)} rows {why} are left out, the first at {first}")


def _numeric(
    table: "_Table", taken: set[str | None], note: Callable[[str], None]
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """The sensors' names and values, ``[row, column]``."""
    names, arrays = [], []
    left_out: dict[str, list[str]] = {}
    for column in table.columns:
        if column.name in taken:
            continue
        numbers = column.numbers()
        if column.unnamed or numbers.values is None:
            why = "without a name" if column.unnamed else numbers.reason
            left_out.setdefault(why, []).append(column.name)
            continue
        if numbers.odd:
            note(
                f"column {column.name!r}: {numbers.odd} cells are not numbers and count as "
                f"missing, the first at {table.where(numbers.first_row)}: {numbers.first_text!r}"
            )
        names.append(column.name)
        arrays.append(numbers.values)
    if left_out:
        said = "; ".join(f"{_listed(its)} ({why})" for why, its in left_out.items())
        note(f"columns left out: {said}")
    if not names:
        raise RecordedFileError(
            f"{table.path}: wanted at least one column of numbers, got {table.names()}"
        )
    return tuple(names), np.column_stack(arrays)


def _join(
    name: str, parts: Sequence[_Part], period_ms: float | None, notices: _Notices
) -> RecordedStream:
    """One stream from its files, those in the order of their first samples."""
    timed = [(part.ts, part) for part in parts if part.ts is not None]
    if timed and len(timed) < len(parts):
        raise RecordedFileError(
            f"stream {name!r}: {timed[0][1].path} has a time column and another of its files none"
        )
    timed.sort(key=lambda pair: int(pair[0][0]))
    ordered = [part for _, part in timed] or parts
    columns = tuple(dict.fromkeys(column for part in parts for column in part.columns))
    blocks = []
    for part in ordered:
        block = np.full((len(part.values), len(columns)), np.nan)
        block[:, [columns.index(column) for column in part.columns]] = part.values
        blocks.append(block)
        absent = [column for column in columns if column not in part.columns]
        if absent:
            notices.add(part.path, f"no column {_listed(absent)}, missing here in its streams")
    values = np.concatenate(blocks)
    if timed:
        ts = np.concatenate([ts for ts, _ in timed])
    else:
        ts = np.rint(np.arange(len(values)) * ((period_ms or 0) * NS_PER_MS)).astype(np.int64)
    return RecordedStream(name, ordered[0].path, ts, columns, values)


# --- Tables -------------------------------------------------------------------------------------


class _Numbers(NamedTuple):
    """A column read as numbers: ``values`` ``[row]``, or None and the reason."""

    values: NDArray[np.float64] | None
    reason: str = ""
    odd: int = 0
    first_row: int = 0
    first_text: str = ""


@dataclass(frozen=True, slots=True)
class _Column:
    """A column before it is known what it is for.

    Attributes:
        name: Never empty.
        numbers: Reads it as numbers.
        texts: The cells, where the column may be the time or the stream.
        times: The times, where the file format says that it holds times.
        unnamed: Whether the file gives it no name, or one that a program made up.
    """

    name: str
    numbers: Callable[[], _Numbers]
    texts: Sequence[str] | None = None
    times: Times | None = None
    unnamed: bool = False

    def as_times(self) -> Times | None:
        if self.times is not None or self.texts is None:
            return self.times
        return parse_times(self.texts)


@dataclass(frozen=True, slots=True)
class _Table:
    """A file's columns; ``lines`` ``[row]`` are the numbers by which a person finds a row."""

    path: Path
    columns: tuple[_Column, ...]
    lines: NDArray[np.int64]
    line_word: str

    def names(self) -> str:
        return _listed([column.name for column in self.columns])

    def where(self, row: int) -> str:
        return f"{self.line_word} {self.lines[row]}"

    def require(self, name: str) -> _Column:
        for column in self.columns:
            if column.name == name:
                return column
        known = [column.name for column in self.columns]
        raise RecordedFileError(f"{self.path}: {_no_column(name, known)}")


def _read_table(path: Path, layout: Layout, note: Callable[[str], None]) -> _Table:
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1" or path.suffix.lower() == ".parquet"
        return _read_parquet(path, layout) if is_parquet else _read_csv(path, layout, note)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordedFileError(f"{path}: cannot be read: {error}") from error


def _check_header(path: Path, names: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if name in seen:
            raise RecordedFileError(
                f"{path}: wanted different column names, got {name!r} as column {seen[name]} "
                f"and as column {place}"
            )
        seen[name] = place


def _keeps_text(name: str, first_cell: str, layout: Layout) -> bool:
    """Whether a column can turn out to be the time or the stream.

    Text is large, so the cells of other columns are not kept.
    """
    if name in (layout.time_column, layout.stream_column) or _is_time_name(name):
        return True
    first = parse_times([first_cell])
    return bool(first.valid[0]) and not first.relative


def _is_unnamed(name: str) -> bool:
    return _UNNAMED.fullmatch(name) is not None


def _is_time_name(name: str) -> bool:
    return re.sub(r"[\W_]", "", name.lower()) in TIME_NAMES


def _find_time(table: _Table, layout: Layout) -> tuple[_Column, Times] | None:
    """The time column and its times; None if there is none and the rows have a period."""
    if layout.time_column is not None:
        column = table.require(layout.time_column)
        times = column.as_times()
        if times is None or not times.valid.any():
            first = "" if not column.texts else f", got {column.texts[0][:60]!r} first"
            raise RecordedFileError(
                f"{table.path}: column {column.name!r} holds no times: wanted ISO 8601 or seconds, "
                f"ms, us or ns since 1970{first}"
            )
        return column, times
    free = [column for column in table.columns if column.name not in layout.ignore]
    free = [column for column in free if column.name != layout.stream_column]
    for fits, among in (
        (_fits_its_name, [column for column in free if _is_time_name(column.name)]),
        (_increases, [column for column in free if not _is_time_name(column.name)]),
    ):
        for column in among:
            times = column.as_times()
            if times is not None and fits(times, layout.stream_column is not None):
                return column, times
    if layout.period_ms is not None:
        return None
    raise RecordedFileError(
        f"{table.path}: no time column found among {table.names()}: name it with --time-column, or "
        f"give the distance between rows with --period-ms"
    )


def _fits_its_name(times: Times, grouped: bool) -> bool:
    """Tells the time from a temperature called ``t`` and from a date beside a time of day."""
    ns = times.ns[times.valid]
    if 2 * ns.size < times.valid.size:
        return False
    steps = np.diff(ns)
    if not steps.size:
        return True
    if times.relative:
        return bool(steps.any() and 10 * np.count_nonzero(steps < 0) <= steps.size)
    days_only = not (ns % NS_PER_DAY).any()
    return grouped or not days_only or bool(2 * np.count_nonzero(steps) >= steps.size)


def _increases(times: Times, grouped: bool) -> bool:  # noqa: ARG001 - as `_fits_its_name`
    if times.relative or not times.valid.all():
        return False
    ns = times.ns
    return ns.size == 1 or bool((np.diff(ns) >= 0).all() and ns[-1] > ns[0])


def _no_column(name: str, known: Sequence[str]) -> str:
    return f"no column {name!r} among {_listed(known)}{_did_you_mean(name, known)}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    folded = {other.lower(): other for other in known}
    close = get_close_matches(name.lower(), folded, 1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def _listed(names: Sequence[str]) -> str:
    shown = 12
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more


# --- CSV ----------------------------------------------------------------------------------------


def _read_csv(path: Path, layout: Layout, note: Callable[[str], None]) -> _Table:
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
            for columns, their_lines in _chunks(path, reader, len(names)):
                if comma is None:
                    comma = _has_decimal_comma(columns)
                builders = builders or list(map(_ColumnBuilder, names, columns, repeat(layout)))
                for builder, cells in zip(builders, columns, strict=True):
                    builder.add(cells, comma or False)
                lines.append(their_lines)
        except csv.Error as error:
            raise RecordedFileError(f"{path}, line {reader.line_num}: {error}") from error
    if not lines:
        raise RecordedFileError(f"{path}: wanted rows below the header, got none")
    columns_read = tuple(builder.column(comma or False) for builder in builders)
    return _Table(path, columns_read, np.concatenate(lines), "line")


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
    if any(map(_TIME.fullmatch, row)) or parse_times([cell for cell in row if cell]).valid.all():
        raise RecordedFileError(
            f"{path}, line {reader.line_num}: wanted a header with the names of the columns, got "
            f"{_listed(row)}"
        )
    names = [cell or f"Unnamed: {place}" for place, cell in enumerate(row)]
    _check_header(path, names)
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
                    f"{len(rows[i])}: {_listed(rows[i])}"
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
        self._name = name
        self._texts: list[str] | None = [] if _keeps_text(name, first, layout) else None
        self._numbers = _NumbersBuilder()
        self._ignored = name in layout.ignore

    def add(self, cells: Sequence[str], comma: bool) -> None:
        if self._texts is not None:
            self._texts.extend(cells)
        elif not self._ignored:
            self._numbers.add(cells, comma)

    def column(self, comma: bool) -> _Column:
        numbers = self._numbers.finish
        if self._texts is not None:
            numbers = partial(_text_numbers, self._texts, comma)
        return _Column(self._name, numbers, self._texts, unnamed=_is_unnamed(self._name))


# --- Numbers ------------------------------------------------------------------------------------


class _NumbersBuilder:
    """Collects a column's numbers, some thousand cells at a time.

    Until the end an infinity stands for a truth value, since a cell that says infinity is missing.
    """

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float64]] = []
        self._rows = 0
        self._odd = 0
        self._first: tuple[int, str] = (0, "")

    def add(self, cells: Sequence[str], comma: bool) -> None:
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

    def finish(self) -> _Numbers:
        values = np.concatenate(self._parts)
        words = np.isinf(values)
        numbers = int(np.count_nonzero(np.isfinite(values)))
        odd, first = self._odd, self._first
        if words.any() and not numbers and not odd:
            return _Numbers(np.where(words, values > 0, values).astype(np.float64))
        if words.any():
            row = int(np.argmax(words))
            if not odd or row < first[0]:
                first = (row, "true" if values[row] > 0 else "false")
            odd += int(np.count_nonzero(words))
            values[words] = np.nan
        if not numbers + odd:
            return _Numbers(None, "empty")
        if 10 * numbers < 9 * (numbers + odd):
            return _Numbers(None, "not numbers")
        return _Numbers(values, "", odd, *first)


def _text_numbers(cells: Sequence[str], comma: bool) -> _Numbers:
    builder = _NumbersBuilder()
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


# --- Times --------------------------------------------------------------------------------------


def parse_times(cells: Sequence[str]) -> Times:
    """Reads a column's cells as times, by the rules at the top of this module.

    Args:
        cells: ``[row]``.

    Returns:
        The times; a cell that is empty, is no time or lies beyond the years 1678 to 2261 is not
        ``valid``.
    """
    uniform = _uniform_calendar_times(cells)
    if uniform is not None:
        return uniform
    calendar = [_calendar_ns(cell) for cell in cells]
    if any(ns is not None for ns in calendar):
        return _times(calendar, relative=False)
    return _whole_numbers(cells) or _decimal_numbers(cells)


def _times(ns: Sequence[int | None], relative: bool) -> Times:
    valid = np.fromiter((n is not None for n in ns), np.bool_, len(ns))
    return Times(np.fromiter((n or 0 for n in ns), np.int64, len(ns)), valid, relative)


def _uniform_calendar_times(cells: Sequence[str]) -> Times | None:
    """The usual case, many times faster: all cells have the form of the first.

    By hand, since numpy's parser crashes the process at some cells that it cannot read.
    """
    match = _TIME.fullmatch(cells[0]) if cells else None
    figures = None if match is None else _figures(cells, match)
    if match is None or figures is None:
        return None

    def number(start: int, end: int) -> NDArray[np.int64]:
        total = np.zeros(len(cells), np.int64)
        for place in range(start, end):
            total = total * 10 + figures[:, place]
        return total

    year, month, day = (number(*match.span(i)) for i in ((1, 2, 3) if match[1] else (6, 5, 4)))
    hour, minute, second = (number(*match.span(i)) for i in (7, 8, 9))
    months = (year - 1970) * 12 + month - 1
    first_day, next_first = (_first_day(m) for m in (months, months + 1))
    valid = (year >= FIRST_YEAR) & (year <= LAST_YEAR) & (month >= 1) & (month <= 12)  # noqa: PLR2004
    valid &= (day >= 1) & (day <= next_first - first_day)
    valid &= (hour < 24) & (minute < 60) & (second < 60)  # noqa: PLR2004
    seconds = ((first_day + day - 1) * 24 + hour) * 3600 + minute * 60 + second
    start, end = match.span(10)
    shown = min(end - start, 9)
    fraction = number(start, start + shown) * 10 ** (9 - shown)
    ns = (seconds - _offset_s(match[11])) * NS_PER_S + fraction
    return Times(np.where(valid, ns, 0), valid, relative=False)


def _figures(cells: Sequence[str], match: re.Match[str]) -> NDArray[np.uint8] | None:
    """The cells' characters as figures ``[row, place]``, if they differ in nothing else.

    Args:
        cells: ``[row]``.
        match: What `_TIME` finds in the first cell.
    """
    joined = "".join(cells)
    if not joined.isascii() or set(map(len, cells)) != {len(cells[0])}:
        return None
    figures = np.frombuffer(joined.encode(), np.uint8).reshape(len(cells), -1) - np.uint8(ord("0"))
    may_differ = figures[0] <= 9  # noqa: PLR2004 - what comes before "0" wraps around
    if match[11]:
        may_differ[match.start(11) :] = False
    alike = (figures[:, ~may_differ] == figures[0, ~may_differ]).all()
    return figures if alike and (figures[:, may_differ] <= 9).all() else None  # noqa: PLR2004


def _first_day(months: NDArray[np.int64]) -> NDArray[np.int64]:
    """Days from 1970 to the first of a month, counted from January 1970."""
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


def _calendar_ns(cell: str) -> int | None:
    match = _TIME.fullmatch(cell.strip())
    if match is None:
        return None
    year, month, day = match.group(1, 2, 3) if match[1] else match.group(6, 5, 4)
    hour, minute, second, fraction, zone = match.group(7, 8, 9, 10, 11)
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0)
        )
    except ValueError:
        return None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        return None
    days = moment.toordinal() - EPOCH_ORDINAL
    seconds = (days * 24 + moment.hour) * 3600 + moment.minute * 60 + moment.second
    return (seconds - _offset_s(zone)) * NS_PER_S + int((fraction or "0")[:9].ljust(9, "0"))


def _offset_s(zone: str | None) -> int:
    """Seconds that a zone such as ``+01:30`` is ahead of UTC."""
    if zone is None or zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -seconds if zone[0] == "-" else seconds


def _whole_numbers(cells: Sequence[str]) -> Times | None:
    try:
        numbers = np.fromiter(map(int, cells), np.int64, len(cells))
    except (ValueError, OverflowError):
        return None
    digits, relative = _unit(np.abs(numbers.astype(np.float64)))
    limit = np.iinfo(np.int64).max // 10**digits
    if "_" in "".join(cells) or not ((numbers >= -limit) & (numbers <= limit)).all():
        return None
    return Times(numbers * 10**digits, np.ones(len(cells), np.bool_), relative)


def _decimal_numbers(cells: Sequence[str]) -> Times:
    numbers = [_decimal(cell) for cell in cells]
    sizes = np.array([abs(float(number)) for number in numbers if number is not None])
    digits, relative = _unit(sizes)
    scaled = [None if n is None else round(n.scaleb(digits)) for n in numbers]
    limit = np.iinfo(np.int64).max
    return _times([n if n is not None and abs(n) <= limit else None for n in scaled], relative)


def _decimal(cell: str) -> Decimal | None:
    try:
        number = Decimal(cell.replace(",", "."))
    except InvalidOperation:
        return None
    # 20 digits is beyond what any unit can hold, and 1e999999 would fill the memory as an integer.
    if not number.is_finite() or number.adjusted() >= 20 or "_" in cell:  # noqa: PLR2004
        return None
    return number


def _unit(sizes: NDArray[np.float64]) -> tuple[int, bool]:
    """Decimal digits down to nanoseconds, and whether the numbers count from the start."""
    size = float(np.median(sizes)) if sizes.size else 0.0
    digits = next(digits for below, digits in _UNITS if size < below)
    return digits, size < _RELATIVE_BELOW


# --- Parquet ------------------------------------------------------------------------------------


def _read_parquet(path: Path, layout: Layout) -> _Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise RecordedFileError(
            f"{path}: reading Parquet needs pyarrow: pip install 'andon[parquet]'"
        ) from error
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        _check_header(path, table.column_names)
        columns = [
            _arrow_column(name or f"Unnamed: {place}", column, layout)
            for place, (name, column) in enumerate(
                zip(table.column_names, table.columns, strict=True)
            )
        ]
    except (pa.ArrowException, OSError) as error:
        raise RecordedFileError(f"{path}: not a readable Parquet file: {error}") from error
    if not table.num_rows:
        raise RecordedFileError(f"{path}: wanted rows, got a table without any")
    return _Table(path, tuple(columns), np.arange(1, table.num_rows + 1), "row")


def _arrow_column(name: str, column: Any, layout: Layout) -> _Column:  # noqa: ANN401 - an extra's type
    if str(column.type).startswith("dictionary"):
        column = column.cast(column.type.value_type)
    kind = str(column.type)
    numbers: Callable[[], _Numbers] = partial(_Numbers, None, kind)
    times = texts = None
    is_number = kind.startswith(ARROW_NUMBERS)
    if kind in ARROW_TEXTS or is_number:
        first = str(*column.drop_null().slice(0, 1).to_pylist())
        if kind in ARROW_TEXTS or _keeps_text(name, first, layout):
            texts = column.cast("string").fill_null("").to_pylist()
    elif kind.startswith(ARROW_TIMES):
        times = _arrow_times(column)
    if is_number:
        numbers = partial(_arrow_numbers, column)
    elif texts is not None:
        numbers = partial(_text_numbers, texts, comma=False)
    return _Column(name, numbers, texts, times, _is_unnamed(name))


def _arrow_numbers(column: Any) -> _Numbers:  # noqa: ANN401 - an extra's type
    values = np.array(column.to_numpy(), np.float64)
    values[~np.isfinite(values)] = np.nan
    return _Numbers(None, "empty") if np.isnan(values).all() else _Numbers(values)


def _arrow_times(column: Any) -> Times:  # noqa: ANN401 - an extra's type
    """Times of whatever unit; what int64 nanoseconds cannot hold is not valid."""
    unit = getattr(column.type, "unit", None)
    if unit is None:  # a date
        column, unit = column.cast("timestamp[s]"), "s"
    factor = {"s": NS_PER_S, "ms": NS_PER_MS, "us": 1000, "ns": 1}[unit]
    whole = column.cast("int64").fill_null(0).to_numpy()
    limit = np.iinfo(np.int64).max // factor
    valid = column.is_valid().to_numpy() & (whole >= -limit) & (whole <= limit)
    return Times(np.where(valid, whole, 0) * factor, valid, relative=False)
