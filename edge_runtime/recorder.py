"""The flight recorder: what the gateway's database says of the past. Read only.

The journal is run again through the pipeline that decided at the time: the model is in the
database, and so are the settings of each epoch. It may be read while a daemon writes it, and on
another computer from a copy of the file.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np

from edge_runtime.database import Database, read_database
from edge_runtime.ends import read_ends
from edge_runtime.epochs import Epoch, trimmed_epoch
from edge_runtime.errors import StoreDamagedError, StoreError
from edge_runtime.lineage import Lineage, session_of, settings_of
from edge_runtime.pipeline import Pipeline
from edge_runtime.records import Place, decode_admitted, opened, sealed
from edge_runtime.recovery import (
    NO_END,
    Part,
    Run,
    evicted_before,
    hand_over,
    load_snapshots,
    names_of,
    run_journal,
)
from edge_runtime.session import Session
from edge_runtime.settings import Settings
from edge_runtime.streams import NEVER

NS_PER_S = 1_000_000_000
_MB = 1_000_000


class Recorded(NamedTuple):
    """A pipeline in the database.

    Attributes:
        number: Its number there.
        lineage: What its state belongs to.
        streams: Names by number.
    """

    number: int
    lineage: Lineage
    streams: dict[int, str]


class RecordedFlag(NamedTuple):
    """A flag as it was published.

    Attributes:
        id: Its id.
        pipeline: Of which pipeline.
        stream: Name of the stream.
        ts: Nanoseconds since 1970 UTC.
        message: What was published.
    """

    id: str
    pipeline: Recorded
    stream: str
    ts: int
    message: dict[str, Any]


class Wanted(NamedTuple):
    """What of the journal is to be run again.

    Attributes:
        streams: Which streams; None for all.
        since_ns: What is before this time may be left out; None for all that there is.
        explain: With each sensor's share in each score.
    """

    streams: frozenset[str] | None = None
    since_ns: int | None = None
    explain: bool = False


class _Stretch(NamedTuple):
    """An epoch, as far as it concerns one pipeline."""

    epoch: int
    first: int  # row of the journal
    last: int
    settings: Settings


class Recorder:
    """An open database. Use as a context manager.

    Args:
        path: The gateway's database, or a copy of it.

    Raises:
        StoreError: If it cannot be read, is damaged, or is of another program or version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: Database = read_database(path)
        try:
            self._database.require_whole(("meta", "pipeline", "stream", "epoch"))
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def pipelines(self) -> list[Recorded]:
        """Every pipeline that it knows, also those that are not configured any more."""
        query = "SELECT id, digest, topic, stream, twin FROM pipeline ORDER BY id"
        return [
            Recorded(number, Lineage(*lineage), names_of(self._database, number))
            for number, *lineage in self._database.rows(query)
        ]

    def summary(self) -> str:
        """One line about what it holds."""
        streams = self._count("SELECT count(*) FROM stream")
        pipelines = self._count("SELECT count(*) FROM pipeline")
        waiting = self._count("SELECT count(*) FROM outbox")
        flags = self._count("SELECT count(*) FROM flag")
        size = self._database.used_bytes() / _MB
        since = (
            f", journal since {_utc(epochs[0].started_ns)}" if (epochs := self._epochs()) else ""
        )
        return (
            f"{streams} streams of {pipelines} pipelines, {flags} flags{since}, "
            f"{waiting} groups to be published, {size:.1f} MB"
        )

    def streams_of(self, lineage: Lineage) -> int:
        """How many streams a start with this lineage would go on with."""
        return self._count(
            "SELECT count(*) FROM stream JOIN pipeline ON pipeline.id = stream.pipeline "
            "WHERE digest = ? AND topic = ? AND pipeline.stream = ? AND twin = ? "
            "AND stream.id NOT IN (SELECT stream FROM "  # the newest record says that it is gone
            "(SELECT stream, record, max(key) FROM snapshot GROUP BY stream) "
            "WHERE length(record) <= ?)",
            *lineage,
            len(sealed(b"")),
        )

    def rows_of(self, recorded: Recorded) -> int:
        """How many rows of the journal there are for a pipeline."""
        return self._count("SELECT count(*) FROM journal WHERE pipeline = ?", recorded.number)

    def settings_of(self, recorded: Recorded) -> Settings:
        """The newest settings of a pipeline."""
        stretches = self._stretches(recorded)
        return stretches[-1].settings if stretches else Settings()

    def session(self, recorded: Recorded) -> Session:
        """The model of a pipeline, from the database.

        Raises:
            StoreDamagedError: If it is not the one of that digest.
            ModelError: If this processor does not reproduce its golden vectors.
        """
        return session_of(self._database, recorded.lineage.digest)

    def flag(self, name: str) -> RecordedFlag:
        """Finds a flag by its id, or by how its id begins.

        Raises:
            StoreError: If there is none, or more than one.
        """
        found = list(islice(self._flags("id >= ? AND id < ?", name, f"{name}~"), 2))
        if len(found) != 1 or not name:
            raise StoreError(self._no_flag(name, len(found)))
        return found[0]

    def flags(self, stream: str | None, since: int, until: int) -> Iterator[RecordedFlag]:
        """The flags of a time in the order in which they were raised and cleared.

        Args:
            stream: Name of the stream; None for all.
            since: Nanoseconds since 1970 UTC, included.
            until: Included, too.

        Raises:
            StoreDamagedError: If one is not what was written.
        """
        for flag in self._flags("ts BETWEEN ? AND ?", since, until):
            if stream in (None, flag.stream):
                yield flag

    def _flags(self, where: str, *values: object) -> Iterator[RecordedFlag]:
        known = {n: (one, name) for one in self.pipelines() for n, name in one.streams.items()}
        query = f"SELECT id, stream, ts, payload FROM flag WHERE {where} ORDER BY seq, ts"  # noqa: S608
        for flag, stream, ts, payload in self._database.each(query, *values):
            if stream not in known:
                raise StoreDamagedError(f"{self.path}: flag {flag} belongs to no stream")
            message = msgspec.json.decode(opened(payload, f"{self.path}: flag {flag}"))
            recorded, name = known[stream]
            yield RecordedFlag(flag, recorded, name, ts, message)

    def covers(self, recorded: Recorded, stream: str | None) -> tuple[int, int] | None:
        """Time of the first and of the last sample in the journal; None if there is none."""
        first, last = NO_END, -1
        query = "SELECT seq, data FROM journal WHERE pipeline = ? ORDER BY seq"
        for seq, data in self._database.each(query, recorded.number):
            row = decode_admitted(Place(seq, recorded.number), data)
            names = [recorded.streams.get(n) for n in row.streams.tolist()]
            wanted = np.array([stream in (None, name) for name in names], np.bool_)
            ts = row.ts[np.repeat(wanted, row.counts)] if len(row.ts) else row.ts
            if len(ts):
                first, last = min(first, int(ts.min())), max(last, int(ts.max()))
        return (first, last) if last >= 0 else None

    def replay(self, recorded: Recorded, wanted: Wanted, session: Session) -> Iterator[Run]:
        """Runs the journal of a pipeline again.

        Args:
            recorded: Which pipeline.
            wanted: What of it.
            session: Its model.

        Yields:
            The samples and what was decided, group by group, from before ``wanted.since_ns`` on.

        Raises:
            StoreError: If the database is damaged or cannot be read.
        """
        self._database.require_whole(("snapshot",))
        names = recorded.streams
        if wanted.streams is not None:
            names = {n: name for n, name in names.items() if name in wanted.streams}
        every = self._stretches(recorded)
        pipeline, first = self._begin(every, names, wanted, session)
        for stretch in every[first:]:
            if stretch.settings != pipeline.settings:
                present = Pipeline(session, stretch.settings, explain=wanted.explain)
                hand_over(pipeline, present)
                pipeline = present
            part = Part(recorded.number, stretch.first - 1, stretch.last, frozenset(names))
            yield from run_journal(self._database, pipeline, names, part)

    def _begin(
        self,
        stretches: Sequence[_Stretch],
        names: Mapping[int, str],
        wanted: Wanted,
        session: Session,
    ) -> tuple[Pipeline, int]:
        """The streams as they were at the newest beginning before all that is wanted."""
        pipeline = Pipeline(session, Settings())
        for index in range(len(stretches) - 1, -1, -1):
            stretch = stretches[index]
            pipeline = Pipeline(session, stretch.settings, explain=wanted.explain)
            load_snapshots(self._database, pipeline, names, stretch.epoch)
            newest = int(pipeline.streams.newest().max(initial=NEVER))
            if wanted.since_ns is None or newest >= wanted.since_ns:
                continue
            # What was evicted before cannot say how new it was; of all streams others were newer.
            if wanted.streams is None or not evicted_before(self._database, names, stretch.epoch):
                return pipeline, index
        return pipeline, 0

    def _stretches(self, recorded: Recorded) -> list[_Stretch]:
        """The epochs that know the pipeline."""
        epochs, end = self._epochs(), read_ends(self._database)
        ends = [*(epoch.first - 1 for epoch in epochs[1:]), end.journal]
        return [
            _Stretch(epoch.id, epoch.first, end, settings)
            for epoch, end in zip(epochs, ends, strict=False)
            if (settings := settings_of(self._database, epoch.id).get(recorded.number)) is not None
        ]

    def _epochs(self) -> list[Epoch]:
        query = "SELECT id, first, started_ns FROM epoch WHERE id > ? ORDER BY id"
        whole = trimmed_epoch(self._database)
        return [Epoch(*row) for row in self._database.rows(query, whole)]

    def _no_flag(self, name: str, found: int) -> str:
        if found:
            return f"{self.path}: several flags begin with {name!r}"
        query = "SELECT id FROM flag ORDER BY seq DESC LIMIT 3"
        newest = ", ".join(flag for (flag,) in self._database.rows(query))
        known = f"the newest are {newest}" if newest else "it holds none (see keep_h and max_mb)"
        return f"{self.path}: holds no flag {name!r}; {known}"

    def _count(self, query: str, *values: object) -> int:
        return int(self._database.rows(query, *values)[0][0])


def _utc(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns / NS_PER_S, UTC):%Y-%m-%d %H:%MZ}"
