"""From the database back to streams: a snapshot, and the journal behind it once more.

The journal goes through `Pipeline.process` like everything else, so what comes out is bit for bit
what came out live. The same two functions serve the daemon that starts again, from the newest
snapshot, and the analyst who looks back (`edge_runtime.recorder`), from the beginning of an epoch.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from edge_runtime.database import Database
from edge_runtime.errors import StateError, StoreDamagedError, StoreRefusedError
from edge_runtime.pipeline import Pipeline
from edge_runtime.records import Admitted, Place, decode_admitted, opened, opened_number, sealed
from edge_runtime.results import NO_SEQ, Block, Result
from edge_runtime.settings import Settings

SAMPLES_AT_ONCE = 1 << 16  # that are run again in one go, or ...
SAMPLES_OF_EACH = 4  # ... so many of each stream, if that is more: short blocks cost most
NO_END = 2**63 - 1

_STREAM_BITS = 32

OF_A_PIPELINE = "(pipeline IN (SELECT id FROM pipeline) OR pipeline = 0 AND data = x'')"
"""SQL: a row of the journal is of a pipeline, or of one that is forgotten and has left it empty."""


class Part(NamedTuple):
    """A part of the journal.

    Attributes:
        pipeline: Number of the pipeline in the database.
        after: It begins behind this row ...
        until: ... and ends with this one.
        streams: Numbers of the streams that are wanted; None for all.
    """

    pipeline: int
    after: int
    until: int = NO_END
    streams: frozenset[int] | None = None


class Run(NamedTuple):
    """Some of the journal that was run.

    Attributes:
        blocks: The samples.
        result: What the pipeline decided ...
        settings: ... under these settings.
        rows: How many rows of the journal it was.
    """

    blocks: list[Block]
    result: Result
    settings: Settings
    rows: int

    @property
    def samples(self) -> int:
        """How many."""
        return sum(len(block.ts) for block in self.blocks)


def snapshot_key(epoch: int, stream: int) -> int:
    """Key of a stream's snapshot in the table of the same name."""
    return epoch << _STREAM_BITS | stream


def snapshot_row(database: Database) -> int:
    """The row of the journal up to which the newest snapshots have everything.

    Raises:
        StoreDamagedError: If it is not what was written.
    """
    return opened_number(database.meta("snapshot"), f"{database.path}: the snapshot's place")


def names_of(database: Database, pipeline: int) -> dict[int, str]:
    """The streams of a pipeline, by their number in the database."""
    return dict(database.rows("SELECT id, name FROM stream WHERE pipeline = ?", pipeline))


def load_snapshots(
    database: Database, pipeline: Pipeline, names: Mapping[int, str], before_epoch: int
) -> None:
    """Gives a fresh pipeline the streams as they were when an epoch began.

    Args:
        database: Where the snapshots are.
        pipeline: Without streams so far.
        names: The streams that are wanted, by number.
        before_epoch: The epoch; one that has not begun yet for the newest snapshots.

    Raises:
        StoreDamagedError: If a record is not what was written.
    """
    query = "SELECT key, stream, record FROM snapshot WHERE key < ? ORDER BY key"
    rows = database.each(query, snapshot_key(before_epoch, 0))
    newest = {stream: (key, record) for key, stream, record in rows if stream in names}
    what = f"{database.path}: a snapshot"
    records = {
        names[stream]: opened(row, what, key, stream) for stream, (key, row) in newest.items()
    }
    kept = {name: record for name, record in records.items() if record}
    try:
        pipeline.streams.load(list(kept), list(kept.values()))
    except StateError as error:
        raise StoreDamagedError(f"{database.path}: {error}") from error


def evicted_before(database: Database, streams: Collection[int], epoch: int) -> bool:
    """Whether one of these streams was evicted before an epoch began, and had not come back."""
    query = "SELECT stream, length(record) FROM snapshot WHERE key < ? ORDER BY key"
    newest = dict(database.rows(query, snapshot_key(epoch, 0)))
    empty = len(sealed(b""))
    return any(newest.get(stream) == empty for stream in streams)


def run_journal(
    database: Database, pipeline: Pipeline, names: Mapping[int, str], part: Part
) -> Iterator[Run]:
    """Runs a part of the journal through a pipeline.

    Args:
        database: Where the journal is.
        pipeline: With the streams as they were where the part begins.
        names: The streams, by number.
        part: Which part.

    Yields:
        The samples and what the pipeline decided, group by group.

    Raises:
        StoreDamagedError: If a row is missing, or is not what was written.
    """
    rows: list[Admitted] = []
    waiting, at_once = 0, max(SAMPLES_AT_ONCE, SAMPLES_OF_EACH * len(pipeline.streams))
    for place, data in _rows_of(database, part):
        row = decode_admitted(place, data)
        if row.evicted:
            yield from _run(rows, pipeline, names, part)
            rows, waiting = [], 0
            known = [names[s] for s in row.streams.tolist() if s in names]
            pipeline.evict([name for name in known if pipeline.streams.find(name) is not None])
            continue
        rows.append(row)
        waiting += len(row.ts)
        if waiting >= at_once:
            yield from _run(rows, pipeline, names, part)
            rows, waiting = [], 0
    yield from _run(rows, pipeline, names, part)


def _rows_of(database: Database, part: Part) -> Iterator[tuple[Place, bytes]]:
    """The pipeline's rows, of a part that has all of its rows, whichever pipeline's they are."""
    query = (
        "SELECT seq, CASE WHEN pipeline = ?1 THEN data END FROM journal "  # noqa: S608 - ours
        f"WHERE seq > ?2 AND seq <= ?3 AND {OF_A_PIPELINE} ORDER BY seq"
    )
    last, missing = part.after, f"{database.path}: rows of the journal are missing"
    for seq, data in database.each(query, part.pipeline, part.after, part.until):
        if seq != last + 1:
            raise StoreDamagedError(
                f"{database.path}: rows of the journal are missing before {seq}"
            )
        last = seq
        if data is not None:
            yield Place(seq, part.pipeline), data
    if last < part.until < NO_END:
        raise StoreDamagedError(f"{missing} after {last}")


def _run(
    rows: list[Admitted], pipeline: Pipeline, names: Mapping[int, str], part: Part
) -> Iterator[Run]:
    if not rows:
        return
    # How samples are grouped changes nothing, so few large blocks; but a device without a clock
    # is known by its messages, and a message is a block.
    blocks = _as_blocks(rows, names, part, by_stream=not pipeline.settings.arrival)
    if blocks:
        result = pipeline.process(blocks, now_ns=None)
        yield Run(blocks, result, pipeline.settings, len(rows))


def hand_over(past: Pipeline, present: Pipeline) -> None:
    """Gives the streams of one pipeline to another of the same model, which has none.

    Raises:
        StoreRefusedError: If there are more than the other may have.
    """
    if len(past.streams) > present.settings.max_streams:
        raise StoreRefusedError(
            f"the database holds {len(past.streams)} streams of model "
            f"{present.session.digest[:16]}, max_streams is {present.settings.max_streams}: "
            "raise it; evict_after_h lets go of streams that are silent"
        )
    slots = [slot for slot, name in enumerate(past.streams.names) if name is not None]
    names = [past.streams.names[slot] or "" for slot in slots]
    present.streams.load(names, past.streams.dump(slots))
    for name, slot in zip(names, slots, strict=True):
        if past.streams.touched[slot]:
            present.streams.touched[present.streams.admit(name)] = True


def _as_blocks(
    rows: list[Admitted], names: Mapping[int, str], part: Part, *, by_stream: bool
) -> list[Block]:
    streams = np.concatenate([np.repeat(row.streams, row.counts) for row in rows])
    ts, seq, values = (
        np.concatenate([row[column] for row in rows])
        for column in (Admitted._fields.index(name) for name in ("ts", "seq", "values"))
    )
    if by_stream:
        order = np.argsort(streams, kind="stable")
        streams, ts, seq, values = streams[order], ts[order], seq[order], values[order]
        edges = np.flatnonzero(np.diff(streams)) + 1
    else:
        edges = np.cumsum(np.concatenate([row.counts for row in rows]))[:-1]
    starts = np.concatenate([[0], edges]).astype(int)
    blocks = []
    for start, stop in zip(starts.tolist(), [*edges.tolist(), len(ts)], strict=True):
        stream = int(streams[start])
        if part.streams is not None and stream not in part.streams:
            continue
        if stream not in names:
            raise StoreDamagedError(
                f"the journal holds samples of stream {stream}, which has no name"
            )
        counted = seq[start:stop]
        blocks.append(
            Block(
                names[stream],
                ts[start:stop],
                values[start:stop],
                None if (counted == NO_SEQ).all() else counted,
            )
        )
    return blocks
