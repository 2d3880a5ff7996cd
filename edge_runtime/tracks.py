"""The pipelines of a gateway and the numbers that their streams have in its database."""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from edge_runtime.pipeline import Pipeline
from edge_runtime.records import sealed
from edge_runtime.recovery import snapshot_key
from edge_runtime.streams import Streams

_AT_ONCE = 4096  # streams that are written down at a time, which bounds the memory it takes


@dataclass(frozen=True, slots=True)
class Track:
    """A pipeline and what its state belongs to: the model, and what a stream's name means.

    Attributes:
        pipeline: The pipeline.
        topic: Pattern of its topics.
        stream: Template of its streams' names.
    """

    pipeline: Pipeline
    topic: str
    stream: str


@dataclass(slots=True)
class Numbers:
    """Numbers of one pipeline and its streams in the database."""

    pipeline: int
    known: dict[str, int] = field(default_factory=dict)
    evicted: set[int] = field(default_factory=set)  # since the last snapshot

    def of(self, sql: sqlite3.Connection, names: Iterable[str]) -> list[int]:
        """Looks the streams up, and adds those that are new."""
        return [self.known.get(name) or self._find(sql, name) for name in names]

    def back(self, names: Iterable[str]) -> None:
        """Takes note of streams, known ones, that are not evicted any more."""
        if self.evicted:
            self.evicted.difference_update(self.known[name] for name in names)

    def _find(self, sql: sqlite3.Connection, name: str) -> int:
        key = (self.pipeline, name)
        found = sql.execute("SELECT id FROM stream WHERE pipeline = ? AND name = ?", key).fetchone()
        number = (
            found[0]
            if found
            else sql.execute("INSERT INTO stream (pipeline, name) VALUES (?, ?)", key).lastrowid
        )
        self.known[name] = int(number or 0)
        return self.known[name]


def snapshots(
    sql: sqlite3.Connection, epoch: int, numbers: Numbers, streams: Streams | None
) -> Iterator[tuple[int, int, bytes]]:
    """Rows of the table ``snapshot``: of each stream that was touched, and of each evicted one.

    Args:
        sql: A transaction; streams that are new are added in it.
        epoch: The present one.
        numbers: Of the pipeline.
        streams: Its streams; None if there is nothing to remember of any of them.
    """
    for number in numbers.evicted:
        key = snapshot_key(epoch, number)
        yield key, number, sealed(b"", key, number)
    if streams is None:
        return
    touched = np.flatnonzero(streams.touched).tolist()
    slots = [slot for slot in touched if streams.names[slot] is not None]
    for at in range(0, len(slots), _AT_ONCE):
        some = slots[at : at + _AT_ONCE]
        found = numbers.of(sql, [streams.names[slot] or "" for slot in some])
        for number, record in zip(found, streams.dump(some), strict=True):
            key = snapshot_key(epoch, number)
            yield key, number, sealed(record, key, number)
