"""Recorded files to streams: the one reader of ``andon train`` and ``andon replay``.

CSV (`edge_runtime.csv_file`) and Parquet (`edge_runtime.parquet_file`). What a file means is
decided by the rules there, in `edge_runtime.times` and in `edge_runtime.columns`; whatever they
leave out is counted and said in a notice.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.columns import (
    Column,
    Layout,
    Table,
    Texts,
    did_you_mean,
    is_time_name,
    listed,
    no_column,
)
from edge_runtime.csv_file import read_csv
from edge_runtime.errors import RecordedFileError
from edge_runtime.parquet_file import read_parquet
from edge_runtime.times import NS_PER_DAY, NS_PER_MS, Times


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
                f"{self.path}: stream {self.name!r}: {no_column(name, self.columns)}"
            )
        return self.values[:, self.columns.index(name)]


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
                raise RecordedFileError(f"{path}: no such file{did_you_mean(path.name, near)}")
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
    table: "Table", name: str, layout: Layout, note: Callable[[str], None]
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
    whole = row_kept.all() and layout.stream_column is None
    groups: dict[str, Any] = {name: slice(None) if whole else np.flatnonzero(row_kept)}
    if layout.stream_column is not None:
        groups = _groups(table, layout.stream_column, row_kept, note)
    taken = {layout.stream_column, None if time is None else time[0].name}
    columns, values = _numeric(table, taken | set(layout.ignore), note)
    for stream, rows in groups.items():
        ts = None if time is None else time[1].ns[rows]
        yield stream, _Part(table.path, ts, columns, values[rows])


def _groups(
    table: "Table", name: str, row_kept: NDArray[np.bool_], note: Callable[[str], None]
) -> dict[str, NDArray[np.intp]]:
    """Rows by the value of the stream column, both in the order of the file."""
    numbers: dict[str, int] = {"": 0}
    cells = table.require(name).texts
    if cells is None:
        raise RecordedFileError(f"{table.path}: column {name!r} holds nothing that names a stream")
    texts = Texts.of(cells)
    of_text = [numbers.setdefault(text.strip(), len(numbers)) for text in texts.distinct]
    code = np.array(of_text, np.min_scalar_type(len(numbers)))[texts.codes]  # small ones sort fast
    _note_rows(table, row_kept & (code == 0), f"without a stream in {name!r}", note)
    kept = np.flatnonzero(row_kept & (code > 0))
    if not kept.size:
        raise RecordedFileError(f"{table.path}: wanted streams in column {name!r}, got empty cells")
    ordered = kept[np.argsort(code[kept], kind="stable")]
    ends = np.cumsum(np.bincount(code[kept], minlength=len(numbers)))
    split = np.split(ordered, ends[:-1])
    return {stream: split[i] for stream, i in numbers.items() if split[i].size}


def _note_rows(
    table: "Table", left_out: NDArray[np.bool_], why: str, note: Callable[[str], None]
) -> None:
    if left_out.any():
        first = table.where(int(np.argmax(left_out)))
        note(f"{np.count_nonzero(left_out)} rows {why} are left out, the first at {first}")


def _numeric(
    table: "Table", taken: set[str | None], note: Callable[[str], None]
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
        said = "; ".join(f"{listed(its)} ({why})" for why, its in left_out.items())
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
        if part.columns == columns:
            blocks.append(part.values)
            continue
        block = np.full((len(part.values), len(columns)), np.nan)
        block[:, [columns.index(column) for column in part.columns]] = part.values
        blocks.append(block)
        absent = [column for column in columns if column not in part.columns]
        if absent:
            notices.add(part.path, f"no column {listed(absent)}, missing here in its streams")
    values = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    if timed:
        ts = np.concatenate([ts for ts, _ in timed])
    else:
        ts = np.rint(np.arange(len(values)) * ((period_ms or 0) * NS_PER_MS)).astype(np.int64)
    return RecordedStream(name, ordered[0].path, ts, columns, values)


def _read_table(path: Path, layout: Layout, note: Callable[[str], None]) -> Table:
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1" or path.suffix.lower() == ".parquet"
        return read_parquet(path, layout) if is_parquet else read_csv(path, layout, note)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordedFileError(f"{path}: cannot be read: {error}") from error


def _find_time(table: Table, layout: Layout) -> tuple[Column, Times] | None:
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
        (_fits_its_name, [column for column in free if is_time_name(column.name)]),
        (_increases, [column for column in free if not is_time_name(column.name)]),
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
