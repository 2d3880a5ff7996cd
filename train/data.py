"""Files -> streams -> segments.

A *stream* is one machine's samples in order of time. A *segment* is a part of it in which every
sample follows the one before; it is never joined to another.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_runtime.columns import Layout
from edge_runtime.errors import TrainingError
from edge_runtime.recorded import (
    RecordedStream,
    list_files,
    read_streams,
    sample_period_ns,
)
from edge_runtime.tables import did_you_mean
from train.config import DataConfig, Files
from train.scoring import FLOOR

Use = Literal["fit", "validation", "calibration"]
Notice = Callable[[str], None]

FIT_SHARE, VALIDATION_SHARE = 0.70, 0.15
CALIBRATION_SHARE = 1 - FIT_SHARE - VALIDATION_SHARE
GAP_PERIODS = 5
SHORTEST = 8  # rows; what is shorter says more about the gap than about the machine


@dataclass(frozen=True, slots=True)
class Segment:
    """Samples of one stream that follow each other without a break.

    Attributes:
        stream: Name of the stream.
        values: Engineering units ``[row, feature]``, all finite.
        fit_rows: The weights see the rows before this one ...
        validation_rows: ... and early stopping those from there to this one.
        target: The target column ``[row]``, or None.
    """

    stream: str
    values: NDArray[np.float64]
    fit_rows: int
    validation_rows: int
    target: NDArray[np.float64] | None = None

    def rows(self, use: Use) -> tuple[int, int]:
        """The one place that says which rows count for what: ``[start, stop)``.

        Time runs from fit to validation to calibration; nothing is shuffled.
        """
        bounds = (0, self.fit_rows, self.validation_rows, len(self.values))
        at = ("fit", "validation", "calibration").index(use)
        return bounds[at], bounds[at + 1]


@dataclass(frozen=True, slots=True)
class History:
    """Recorded normal operation, ready to be trained on.

    Attributes:
        features: Names of the sensors, in the order of the columns of every segment.
        segments: Of all streams, in order.
        period_ms: Time between two samples.
        max_gap_ms: Longer silences have cut a stream.
        files: Names of the files, without their folders.
        digest: SHA-256 over the contents of the files, in order.
        target: Name of the column that is to be read off the sensors, or None.
    """

    features: tuple[str, ...]
    segments: tuple[Segment, ...]
    period_ms: float
    max_gap_ms: float
    files: tuple[str, ...]
    digest: str
    target: str | None = None

    def rows(self, use: Use) -> int:
        """How many rows there are for a use, in all segments."""
        return sum(stop - start for start, stop in (s.rows(use) for s in self.segments))

    def hours(self, rows: int) -> float:
        """How long it takes to record so many rows of one stream."""
        return rows * self.period_ms / 3_600_000


def read_history(config: DataConfig, groups: Sequence[Files], on_notice: Notice) -> History:
    """Reads the files and cuts them into segments.

    Args:
        config: Which columns, and what a gap is.
        groups: The files.
        on_notice: Called with one sentence for each thing that was left out or cut.

    Returns:
        The history; it may be too short to train on, which `require_enough` says.

    Raises:
        RecordedFileError: For a file that cannot be read.
        TrainingError: For files that have no sensor in common.
    """
    rows_of = {path: group.first_rows for group in groups for path in list_files(group.paths)}
    streams = _read(config, rows_of, on_notice)
    features = _common_features(streams, config.features, config.target, on_notice)
    period_ns = config.period_ms * 1e6 if config.period_ms else _common_period(streams)
    max_gap_ns = config.max_gap_ms * 1e6 if config.max_gap_ms else GAP_PERIODS * period_ns
    return History(
        features=features,
        target=config.target,
        segments=_segments(streams, (*features, config.target), max_gap_ns, on_notice),
        period_ms=period_ns / 1e6,
        max_gap_ms=max_gap_ns / 1e6,
        files=tuple(path.name for path in rows_of),
        digest=_digest(rows_of),
    )


def normaliser(
    history: History, on_notice: Notice
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and scale of each sensor over the rows that the weights see.

    The scale is the standard deviation. A sensor that stood still has none; a tenth of its value
    takes the place, so that it may tremble in its last digits without an alarm.

    Args:
        history: With rows to fit on.
        on_notice: Told about sensors that stood still.

    Returns:
        Mean and scale ``[feature]``, engineering units.
    """
    rows = np.concatenate([s.values[slice(*s.rows("fit"))] for s in history.segments])
    mean, scale = rows.mean(axis=0), rows.std(axis=0)  # each [feature]
    for at, name in enumerate(history.features):
        if scale[at] <= 1e-5 * abs(mean[at]):  # finer than float32 tells apart in the graph
            scale[at] = 0.1 * abs(mean[at]) or 1.0
            on_notice(
                f"{name} stood still at {mean[at]:g}: nothing can be learnt from it, and only a "
                f"change of more than about {scale[at] * FLOOR:.2g} will count"
            )
    return mean, scale


def _read(
    config: DataConfig, rows_of: Mapping[Path, int | None], on_notice: Notice
) -> list[RecordedStream]:
    """All files at once, so that no two streams get the same name."""
    layout = Layout(
        time_column=config.time_column,
        stream_column=config.stream_column,
        ignore=config.ignore,
        period_ms=config.period_ms,
    )
    streams = []
    for stream in read_streams(tuple(rows_of), layout, on_notice=on_notice):
        rows = slice(rows_of[stream.path])
        streams.append(replace(stream, ts=stream.ts[rows], values=stream.values[rows]))
    return streams


def _common_features(
    streams: Sequence[RecordedStream],
    wanted: Sequence[str],
    target: str | None,
    on_notice: Notice,
) -> tuple[str, ...]:
    """The sensors asked for, or all that every stream has values of; the target is none."""
    offered = Counter(name for stream in streams for name in _filled(stream))
    known = list(dict.fromkeys(name for stream in streams for name in stream.columns))
    for name in (*wanted, *([] if target is None else [target])):
        if offered[name] < len(streams):
            lacking = next(s.name for s in streams if name not in _filled(s))
            hint = "has no value of it" if name in known else did_you_mean(name, known)
            what = "target" if name == target else "sensor"
            raise TrainingError(f"{lacking}: no {what} {name!r}: {hint}")
    if wanted:
        return tuple(dict.fromkeys(wanted))
    known = [name for name in known if name != target]
    common = tuple(name for name in known if offered[name] == len(streams))
    partly = [name for name in known if offered[name] < len(streams)]
    if not common:
        raise TrainingError(
            f"no numeric column has values in all {len(streams)} streams; found: "
            f"{', '.join(known) or 'none'}"
        )
    if partly:
        on_notice(f"left out, because not every stream has values of it: {', '.join(partly)}")
    return common


def _filled(stream: RecordedStream) -> set[str]:
    """Columns with at least one value."""
    filled = np.isfinite(stream.values)  # [row, column]
    return {name for at, name in enumerate(stream.columns) if filled[:, at].any()}


def _common_period(streams: Sequence[RecordedStream]) -> float:
    """The median of the streams' sample periods, in nanoseconds."""
    periods = [sample_period_ns(stream.ts) for stream in streams if len(stream.ts) > 1]
    if not periods:
        raise TrainingError("no stream has two samples, so there is no sample period; record more")
    period = float(np.median(periods))
    if max(periods) > 1.5 * period or min(periods) < period / 1.5:
        raise TrainingError(
            f"sample periods differ from stream to stream, {min(periods) / 1e6:g} to "
            f"{max(periods) / 1e6:g} ms; one detector suits one period. Train on the streams of "
            "one period, or say with --period-ms which one counts"
        )
    return period


def _segments(
    streams: Sequence[RecordedStream],
    wanted: tuple[str | None, ...],
    max_gap_ns: float,
    on_notice: Notice,
) -> tuple[Segment, ...]:
    """Cuts all streams, drops what is too short, and divides the rest by use.

    ``wanted`` are the sensors and, last, the target or None.
    """
    causes: Counter[str] = Counter()
    found: list[Segment] = []
    for stream in streams:
        columns = [stream.columns.index(name) for name in wanted if name is not None]
        runs = _runs(stream.ts, stream.values[:, columns], max_gap_ns, causes)
        long = [run for run in runs if len(run) >= SHORTEST]
        causes[f"segments shorter than {SHORTEST} rows left out"] += len(runs) - len(long)
        found.extend(_divide(stream.name, long, with_target=wanted[-1] is not None))
    told = [f"{cause}: {number:,}" for cause, number in causes.items() if number]
    if told:
        hint = (
            ". Does a file hold several machines? Name the column that tells them apart with "
            "--stream-column"
            if causes["steps back in time"]
            else ""
        )
        on_notice(f"{'; '.join(told)}. What is left: segments: {len(found):,}{hint}")
    return tuple(found)


def _runs(
    ts: NDArray[np.int64], values: NDArray[np.float64], max_gap_ns: float, causes: Counter[str]
) -> list[NDArray[np.float64]]:
    """Runs of rows that follow each other; what cut them is added to ``causes``."""
    new = np.ones(len(ts), dtype=bool)
    new[1:] = np.diff(ts) != 0  # the second sample of an instant: a gateway rejects it too
    causes["rows that repeat a timestamp left out"] += int(np.sum(~new))
    ts, values = ts[new], values[new]
    step = np.diff(ts)  # nanoseconds
    # A number beyond float32 is as good as none: no model and no gateway can take it.
    usable = np.abs(values) <= np.finfo(np.float32).max  # [row, feature], False for NaN
    missing = np.logical_not(usable.all(axis=1))  # [row]
    causes["rows with a missing value left out"] += int(missing.sum())
    causes[f"gaps longer than {max_gap_ns / 1e6:g} ms"] += int(np.sum(step > max_gap_ns))
    causes["steps back in time"] += int(np.sum(step < 0))
    cut = np.zeros(len(ts), dtype=bool)
    cut[1:] = (step > max_gap_ns) | (step < 0) | missing[:-1]
    (rows,) = np.nonzero(~missing)
    run = np.cumsum(cut)[rows]  # number of the run that each row belongs to
    return np.split(values[rows], np.flatnonzero(np.diff(run)) + 1) if len(rows) else []


def _divide(
    stream: str, runs: Sequence[NDArray[np.float64]], *, with_target: bool
) -> Iterator[Segment]:
    """Divides a stream by time: its first rows to fit, its last ones to calibrate."""
    total = sum(map(len, runs))
    fit = round(total * FIT_SHARE)
    validation = round(total * (FIT_SHARE + VALIDATION_SHARE))
    before = 0
    for run in runs:
        seen, judged = (min(max(edge - before, 0), len(run)) for edge in (fit, validation))
        values, target = (run[:, :-1], run[:, -1]) if with_target else (run, None)
        yield Segment(stream, values, seen, judged, target)
        before += len(run)


def _digest(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
