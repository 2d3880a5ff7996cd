"""Recorded files through the gateway's own pipeline.

`replay` is a source like the broker is: it yields groups of samples and hands them to
`Pipeline.process`. What a score is, which status it has and when the lamp goes on is decided there,
so a replay gives the same bits as the live run.
"""

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import Contract
from edge_runtime.errors import RecordedFileError
from edge_runtime.payload import FLOAT32_OVERFLOW
from edge_runtime.pipeline import MAX_CALL_ROWS, Pipeline
from edge_runtime.recorded import RecordedStream
from edge_runtime.results import NO_SEQ, Block, Rejected, Result, counted

LARGEST_CHUNK = 4096
EXACT = 2**53  # a float64 holds every whole number up to here


class Readings(NamedTuple):
    """The sensors of one recorded stream, in the contract's order.

    Attributes:
        stream: Its name.
        ts: ``[row]``, nanoseconds since 1970 UTC.
        values: ``[row, feature]``; NaN where the cell is missing.
        label: ``[row]``, True where the label column says that something was wrong; or None.
        seq: ``[row]``, the device's own count, `NO_SEQ` where the cell is missing; or None.
    """

    stream: str
    ts: NDArray[np.int64]
    values: NDArray[np.float64]
    label: NDArray[np.bool_] | None
    seq: NDArray[np.int64] | None = None


def readings_of(
    recorded: Sequence[RecordedStream],
    contract: Contract,
    label: str | None,
    on_notice: Callable[[str], None],
    seq: str | None = None,
) -> list[Readings]:
    """Finds the model's sensors in recorded streams, by name.

    Args:
        recorded: What was read.
        contract: Says which sensors, and in which order.
        label: Column that is not 0 where something was wrong.
        on_notice: Told once which further columns are ignored.
        seq: Column with the device's own count.

    Returns:
        One entry for each stream.

    Raises:
        RecordedFileError: If a sensor or one of the two columns is missing, or a count is none.
    """
    wanted = [*contract.feature_names, *(name for name in (label, seq) if name)]
    ignored: dict[str, None] = {}
    readings = []
    for stream in recorded:
        for name in wanted:
            _require(stream, name)
        ignored |= dict.fromkeys(name for name in stream.columns if name not in wanted)
        index = [stream.columns.index(name) for name in contract.feature_names]
        marks = None if label is None else np.nan_to_num(stream.column(label)) != 0
        counts = None if seq is None else _counts(stream, seq)
        in_order = index == list(range(len(stream.columns)))
        values = stream.values if in_order else stream.values[:, index]
        readings.append(Readings(stream.name, stream.ts, values, marks, counts))
    if ignored:
        on_notice(f"ignored, not in the model: {', '.join(ignored)}")
    return readings


def _counts(stream: RecordedStream, name: str) -> NDArray[np.int64]:
    """A column of whole numbers; files are read as float64, which holds them up to 2^53."""
    column = stream.column(name)
    counts = np.where(np.isnan(column), NO_SEQ, column)
    wrong = (counts < NO_SEQ) | (counts > EXACT) | (counts % 1 != 0) | (column == NO_SEQ)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise RecordedFileError(
            f"{stream.path}: column {name!r}: wanted whole numbers of 0 to {EXACT}, "
            f"got {column[row]:g} in row {row}"
        )
    return counts.astype(np.int64)


def _require(stream: RecordedStream, name: str) -> None:
    if name not in stream.columns:
        close = get_close_matches(name, stream.columns, 1)
        advice = f"; did it become {close[0]!r}?" if close else ""
        raise RecordedFileError(
            f"{stream.path}: wanted a column {name!r} with numbers, "
            f"got {', '.join(stream.columns) or 'none'}{advice}"
        )


def replay(
    pipeline: Pipeline, readings: Sequence[Readings], on_rows: Callable[[int], None]
) -> Iterator[Result]:
    """Runs recorded streams through a pipeline, all of them side by side.

    Args:
        pipeline: Freshly made.
        readings: The streams.
        on_rows: Told how many rows were done since the last call.

    Yields:
        What the pipeline decided, group by group. A row with a missing value is refused, as the
        message without that value would have been.
    """
    rows = max((len(r.ts) for r in readings), default=0)
    chunk = max(1, min(LARGEST_CHUNK, MAX_CALL_ROWS // max(1, len(readings))))
    for start in range(0, rows, chunk):
        window = slice(start, start + chunk)
        blocks, refused, done = [], [], 0
        for stream in readings:
            block, rejected = _complete(stream, window, pipeline.session.contract)
            done += len(stream.ts[window])
            blocks.append(block)
            refused += rejected
        result = pipeline.process(blocks, now_ns=None)
        result.rejected.extend(refused)
        on_rows(done)
        yield result


def _complete(stream: Readings, window: slice, contract: Contract) -> tuple[Block, list[Rejected]]:
    ts, values = stream.ts[window], stream.values[window]
    seq = None if stream.seq is None else stream.seq[window]
    # A cell that is missing is neither.
    if len(ts) and values.min() > -FLOAT32_OVERFLOW and values.max() < FLOAT32_OVERFLOW:
        counts = None if seq is None else counted(seq)
        return Block(stream.stream, ts, values.astype(np.float32), counts), []
    missing = np.isnan(values)
    beyond = np.abs(values) >= FLOAT32_OVERFLOW
    beyond[missing.any(axis=1)] = False  # a row is refused once
    usable = ~(missing | beyond).any(axis=1)
    rejected = []
    for cause, cells in (("missing_feature", missing), ("not_finite", beyond)):
        if cells.any():
            row, column = np.argwhere(cells)[0]
            name = contract.feature_names[column]
            got = f"got {values[row, column]} in row {window.start + row}"
            detail = f"wanted a float32 for {name!r}, {got}"
            samples = int(cells.any(axis=1).sum())
            rejected.append(Rejected(stream.stream, cause, samples, detail))
    counts = None if seq is None else counted(seq[usable])
    block = Block(stream.stream, ts[usable], values[usable].astype(np.float32), counts)
    return block, rejected
