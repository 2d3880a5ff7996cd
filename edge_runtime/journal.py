"""The gateway's durable store: journal, snapshots, outbox.

One transaction for each group of messages appends what the pipelines took to the journal and what
follows from it to the outbox. Now and then the streams that were touched are written down whole,
and only the journal behind that is needed to start again; the journal before it is the flight
recorder, and is kept as long as the configuration says (see `edge_runtime.epochs`).

What is in memory is always right. So a database that turns out to be damaged while the daemon runs
is set aside, and a fresh one is written from memory, in one transaction with the group in hand.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from edge_runtime.config import StateConfig
from edge_runtime.database import (
    Database,
    Lock,
    create_database,
    leftovers,
    open_database,
    remove,
    set_aside,
)
from edge_runtime.ends import (
    Ends,
    count_snapshots,
    read_ends,
    write_ends,
)
from edge_runtime.epochs import Epoch, Epochs
from edge_runtime.errors import (
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from edge_runtime.lineage import (
    Found,
    Lineage,
    find_pipeline,
    forget_retired,
    lineages_of,
    settings_of,
)
from edge_runtime.outbox import Outbox
from edge_runtime.payload import NS_PER_MS
from edge_runtime.records import (
    Place,
    encode_abreast,
    encode_admitted,
    encode_evicted,
    sealed,
    sealed_number,
)
from edge_runtime.recovery import hand_over
from edge_runtime.settings import Settings
from edge_runtime.starting import Retired, last_row, recover, recover_retired
from edge_runtime.store import Group, Publication, Start
from edge_runtime.tracks import Numbers, Track, snapshots

log = logging.getLogger("andon")

SNAPSHOT_EVERY_S = 5.0  # at most so often ...
SNAPSHOT_WITHIN_S = 300.0  # ... and at least
SAMPLES_PER_STREAM = 16  # a snapshot is worth so many samples of each touched stream ...
MOST_SAMPLES = 100_000  # ... or so many in all, which a start runs again in a second ...
MOST_PER_STREAM = 8  # ... or so many of each touched stream, if that is more ...
MOST_OF_ROOM = 8  # ... but never more than an eighth of max_mb: till then nothing of it can go
TRIM_ROWS = 4  # rows of an old journal that go with each transaction
TRIM_IDLE_ROWS = 256
MORE_ROOM = 1, 4  # when max_mb is reached: how much of the journal goes, one after the other

_MB = 1_000_000
_HOUR_NS = 3_600_000 * NS_PER_MS
_NEWEST = 1 << 30  # an epoch that never begins
_IDLE_S = 1.0
_MOST_STREAMS = 1 << 32


class _Written(NamedTuple):
    """What a transaction has written, to be noted once it is committed."""

    seq: int
    size: int
    samples: int
    outgoing: bytes
    cleared: list[int]

    @property
    def rows(self) -> int:
        """By how many rows the outbox has grown."""
        return bool(self.outgoing) - len(self.cleared)


class Journal:
    """The store of a running gateway (see `edge_runtime.store.Store`).

    Args:
        config: Where, how durable, how much.
        tracks: The pipelines, without streams; `open` fills them.
        clock: The gateway's clock, nanoseconds since 1970 UTC.

    Attributes:
        starts: How each pipeline has started; empty before `open`.
        aside: What was set aside since the start, each with the reason.
        topics: Topic patterns that the database knows, also of former pipelines.
        samples: Samples in the journal since the start.
        snapshots: Snapshots since the start.
    """

    def __init__(
        self, config: StateConfig, tracks: Sequence[Track], clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._config = config
        self._path = config.path
        self._tracks = tuple(tracks)
        self._clock = clock
        self._lock: Lock | None = None
        self._database: Database | None = None
        self._identity = ""
        self._numbers: list[Numbers] = []
        self._epochs = Epochs(config.max_mb * _MB, round(config.keep_h * _HOUR_NS))
        self._outbox = Outbox()
        self._seq = 0
        self._lost = False  # the database is, and is to be written anew from memory
        self._damaged = ""  # why every stream starts afresh
        self._cold: dict[Lineage, Found] = {}  # what `open` has found, however often it is tried
        self._ahead = False  # memory has seen a group that is not safe yet
        self._since = 0  # samples since the last snapshot
        self._since_bytes = 0  # and how much they take in the journal
        self._snapshot_at = self._written_at = time.monotonic()
        self.is_open = False
        self.starts: list[Start] = []
        self.aside: list[str] = []
        self.topics: list[str] = []
        self.samples = 0
        self.snapshots = 0

    def open(self) -> None:
        """Opens the database and brings every stream to where it was. May be tried again.

        Raises:
            StoreUnavailableError: If that is not possible now.
            StoreRefusedError: If the database is in use, of another version, or not ours.
        """
        if self._lock is None:
            self._lock = Lock(self._path)
        while not self.is_open:
            try:
                self._database = self._prepare()
                self._database.require_whole()
                found = self._register(self._database)
                if self._damaged:
                    found = [one._replace(cold=self._damaged, lost=True) for one in found]
                self._recover(self._database, found)
                rows = self._database.rows("SELECT DISTINCT topic FROM pipeline")
                self.topics = [topic for (topic,) in rows]
                self.is_open = True
            except StoreDamagedError as error:
                if self.aside[2:]:  # one after the other: the disk itself cannot be trusted
                    raise StoreUnavailableError(str(error)) from error
                if self._database is not None:
                    self._outbox.rescue(self._database)
                self._set_aside(str(error))
                self._damaged = "the database was damaged and is set aside"
            finally:
                if not self.is_open:
                    self._close_database()

    def commit(self, group: Group) -> None:
        """See `Store.commit`."""
        if group.empty:
            return
        self._ahead = True
        self._write(group, snapshot=False)
        self._ahead = False

    def outbox(self) -> Iterator[tuple[Publication, int]]:
        """See `Store.outbox`."""
        return self._outbox.take()

    def delivered(self, tokens: Sequence[int]) -> None:
        """See `Store.delivered`."""
        self._outbox.delivered(tokens)

    def tidy(self, now_ns: int) -> None:
        """See `Store.tidy`: snapshots, the recorder's end, and the rows of an idle outbox."""
        if self._ahead:  # a snapshot would hold samples without what follows from them
            return
        now = time.monotonic()
        if self._is_snapshot_due(now):
            self._snapshot_at = now
            self._write(Group(), snapshot=True, now_ns=now_ns)
        elif now - self._written_at >= _IDLE_S and (self._outbox.done or self._epochs.dropping):
            self._write(Group(), snapshot=False)

    def close(self) -> None:
        """Writes a last snapshot, so that the next start has no journal to run, and closes.

        None if a group is not safe yet: it is as if it had never come, and comes again.

        Raises:
            StoreUnavailableError: If the snapshot cannot be written; the journal does as well.
        """
        try:
            more = self._since or self._outbox.done or self._lost
            if self.is_open and more and not self._ahead:
                self._write(Group(), snapshot=bool(self._since))
        finally:
            self._close_database()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def _is_snapshot_due(self, now: float) -> bool:
        elapsed = now - self._snapshot_at
        if elapsed < SNAPSHOT_EVERY_S or not (self._since or self._epochs.dropping):
            return False
        if elapsed >= SNAPSHOT_WITHIN_S or self._epochs.dropping:
            return True
        if self._since_bytes * MOST_OF_ROOM >= self._config.max_mb * _MB:
            return True
        touched = sum(int(track.pipeline.streams.touched.sum()) for track in self._tracks)
        most = max(MOST_SAMPLES, MOST_PER_STREAM * touched)
        return self._since >= min(SAMPLES_PER_STREAM * touched, most)

    def _write(self, group: Group, *, snapshot: bool, now_ns: int | None = None) -> None:
        """One transaction with the group, and a snapshot of what was touched behind it."""
        now_ns = self._clock() if now_ns is None else now_ns
        if self._database is None and not self._lost:
            self._open_again()
        if self._database is not None and not self._database.is_in_place():
            self._lose("was removed or replaced while in use")
        if not self._lost:
            try:
                write = partial(self._write_here, group, snapshot=snapshot, now_ns=now_ns)
                self._making_room(self._open_database, write)
            except StoreDamagedError as error:
                self._lose(str(error))
            except BaseException:
                self._forget_numbers()
                self._close_database()
                raise
        if self._lost:
            self._write_anew(group, now_ns)

    def _making_room(self, database: Database, write: Callable[[Database], None]) -> None:
        """Writes; if max_mb is reached, again when the recorder has made room."""
        try:
            write(database)
        except StoreFullError:
            self._forget_numbers()
            for times in MORE_ROOM:
                if self._epochs.make_room(database, times):
                    log.warning("%s: max_mb is reached; the journal's oldest part goes", self._path)
                    with suppress(StoreFullError):
                        return write(database)
                    self._forget_numbers()
            raise

    def _write_here(self, group: Group, database: Database, *, snapshot: bool, now_ns: int) -> None:
        epoch, dropped = None, False
        with database.transaction() as sql:
            written = self._append(sql, group)
            if snapshot:
                self._write_snapshots(sql, written.seq)
                if self._epochs.is_over(now_ns):
                    epoch = self._epochs.begin(sql, written.seq + 1, now_ns, self._settings())
                dropped = self._epochs.finish(sql)
                count_snapshots(sql)
            write_ends(sql, Ends(written.seq, self._outbox.stored + written.rows))
            idle = group.empty
            self._epochs.trim(sql, TRIM_IDLE_ROWS if idle else TRIM_ROWS, written.size)
        self._note(group, written)
        if snapshot:
            self._note_snapshots(epoch)
            if dropped:
                self._epochs.gone()
            self._epochs.look(database, now_ns)

    def _append(self, sql: sqlite3.Connection, group: Group) -> _Written:
        seq, size, samples = self._seq, 0, 0
        rows: list[tuple[Place, bytes]] = []
        for index, names in group.evicted.items():
            numbers, seq = self._numbers[index], seq + 1
            place = Place(seq, numbers.pipeline)
            rows.append((place, encode_evicted(place, numbers.of(sql, names))))
        for index, parts in group.abreast.items():
            for part in parts:
                numbers, seq = self._numbers[index], seq + 1
                place = Place(seq, numbers.pipeline)
                rows.append((place, encode_abreast(place, numbers.of(sql, part.streams), part)))
                samples += len(part)
        for index, blocks in group.admitted.items():
            numbers, seq = self._numbers[index], seq + 1
            streams = numbers.of(sql, [block.stream for block in blocks])
            place = Place(seq, numbers.pipeline)
            rows.append((place, encode_admitted(place, streams, blocks)))
            samples += sum(len(block.ts) for block in blocks)
        for place, data in rows:
            size += len(data)
            sql.execute("INSERT INTO journal VALUES (?, ?, ?)", (*place, data))
        self._append_flags(sql, group, seq)
        outgoing = self._outbox.write(sql, group.publications)
        return _Written(seq, size, samples, outgoing, self._outbox.clear(sql))

    def _append_flags(self, sql: sqlite3.Connection, group: Group, seq: int) -> None:
        for index, flag, payload in group.flags:
            (stream,) = self._numbers[index].of(sql, [flag.stream])
            sql.execute(
                "INSERT OR REPLACE INTO flag VALUES (?, ?, ?, ?, ?)",
                (flag.id, seq, stream, flag.ts, sealed(payload)),
            )

    def _note(self, group: Group, written: _Written) -> None:
        """The transaction is committed."""
        for index, names in group.evicted.items():
            numbers = self._numbers[index]
            numbers.evicted.update(numbers.known.pop(name) for name in names)
        for index, parts in group.abreast.items():
            self._numbers[index].back(name for part in parts for name in part.streams)
        for index, blocks in group.admitted.items():
            self._numbers[index].back(block.stream for block in blocks)
        self._seq = written.seq
        self._epochs.grew(written.size)
        self._since += written.samples
        self._since_bytes += written.size
        self.samples += written.samples
        self._outbox.added(written.outgoing, group.publications)
        self._outbox.cleared(written.cleared)
        self._written_at = time.monotonic()

    def _write_snapshots(
        self, sql: sqlite3.Connection, seq: int, more: Iterable[Retired] = ()
    ) -> None:
        epoch = self._epochs.current.id
        ours = zip((track.pipeline.streams for track in self._tracks), self._numbers, strict=True)
        for streams, numbers in (*ours, *more):
            rows = snapshots(sql, epoch, numbers, streams)
            sql.executemany("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?)", rows)
        sql.execute("UPDATE meta SET value = ? WHERE key = 'snapshot'", (sealed_number(seq),))

    def _note_snapshots(self, epoch: Epoch | None) -> None:
        for track, numbers in zip(self._tracks, self._numbers, strict=True):
            track.pipeline.streams.touched[:] = False
            numbers.evicted.clear()
        if epoch is not None:
            self._epochs.begun(epoch)
        self._since = self._since_bytes = 0
        self._snapshot_at = time.monotonic()
        self.snapshots += 1

    def _settings(self) -> str:
        pairs = zip(self._numbers, self._tracks, strict=True)
        return json.dumps({n.pipeline: t.pipeline.settings.as_dict() for n, t in pairs})

    # From here on: opening, starting again, and what to do about a database that is lost.

    @property
    def _open_database(self) -> Database:
        if self._database is None:
            raise AssertionError(f"{self._path} is not open")
        return self._database

    def _prepare(self) -> Database:
        """The database, made if there is none."""
        if leftovers(self._path):
            self._set_aside("a log without its database")
        if not self._path.exists():
            create_database(self._path)
        return self._open_file()

    def _open_file(self) -> Database:
        return open_database(
            self._path,
            synchronous=self._config.synchronous,
            max_bytes=self._config.max_mb * _MB,
        )

    def _register(self, database: Database) -> list[Found]:
        """Finds the pipelines in the database, or adds them."""
        self._identity = database.meta("identity")
        now_ns = self._clock()
        lineages = lineages_of(
            (track.pipeline.session.digest, track.topic, track.stream) for track in self._tracks
        )
        with database.transaction() as sql:
            found = []
            for track, lineage in zip(self._tracks, lineages, strict=True):
                content = track.pipeline.session.content
                one = find_pipeline(sql, lineage, lineages, content, now_ns)
                if one.cold:
                    self._cold[lineage] = one
                found.append(self._cold.get(lineage, one)._replace(number=one.number))
            forget_retired(sql, [pipeline.number for pipeline in found])
            count_snapshots(sql)
        self._numbers = [Numbers(pipeline.number) for pipeline in found]
        return found

    def _recover(self, database: Database, pipelines: Sequence[Found]) -> None:
        """Every stream as it was, under the settings that held then."""
        self._epochs.load(database)
        self._seq = last_row(database)
        before = settings_of(database)
        found = [
            recover(database, track, numbers, before.get(numbers.pipeline))
            for track, numbers in zip(self._tracks, self._numbers, strict=True)
        ]
        retired = recover_retired(database, self._numbers, before)
        self._outbox.load(database)
        for track, (past, _) in zip(self._tracks, found, strict=True):
            present = track.pipeline  # which may hold what an attempt before this one has read
            present.evict([name for name in present.streams.names if name is not None])
            hand_over(past, present)
        self._since = sum(samples for _, samples in found)
        self._making_room(database, partial(self._write_start, before, retired))
        self.starts = [
            Start(len(past.streams), samples, pipeline.cold, pipeline.lost)
            for (past, samples), pipeline in zip(found, pipelines, strict=True)
        ]

    def _write_start(
        self, before: dict[int, Settings], retired: Sequence[Retired], database: Database
    ) -> None:
        """A snapshot of what was just run, and an epoch of its own where settings are others."""
        pairs = zip(self._numbers, self._tracks, strict=True)
        now = {numbers.pipeline: track.pipeline.settings for numbers, track in pairs}
        changed = now != before
        evicted = any(numbers.evicted for numbers in self._numbers)
        if not (changed or evicted or self._since or retired or self._outbox.rescued):
            return
        epoch = None
        rescued = self._outbox.rescued
        with database.transaction() as sql:
            if rescued:
                self._outbox.write_again(sql)
                write_ends(sql, Ends(self._seq, self._outbox.rows))
            if before:
                self._write_snapshots(sql, self._seq, retired)
                count_snapshots(sql)
            if changed:
                epoch = self._epochs.begin(sql, self._seq + 1, self._clock(), self._settings())
        if rescued:
            self._outbox.renewed()
        self._note_snapshots(epoch)

    def _open_again(self) -> None:
        """After it could not be written: is it there again, and is it ours?"""
        if not self._path.exists() and self._path.parent.is_dir():
            self._lose("was removed while in use")
            return
        try:
            database = self._open_file()
            try:
                if database.meta("identity") != self._identity:
                    self._lose("was replaced while in use")
                    database.close()
                else:
                    self._take_back(database)
                    self._database = database
            except BaseException:
                database.close()
                raise
        except StoreUnavailableError:
            raise
        except StoreError as error:
            self._lose(str(error))

    def _take_back(self, database: Database) -> None:
        """A commit that was reported as failed may be there all the same; it is made once more."""
        if read_ends(database) != Ends(self._seq, self._outbox.stored):
            with database.transaction() as sql:
                sql.execute("DELETE FROM journal WHERE seq > ?", (self._seq,))
                self._outbox.take_back(sql)
                write_ends(sql, Ends(self._seq, self._outbox.rows))
            self._outbox.renewed()
        if not self._epochs.are_in(database):
            self._epochs.load(database)

    def _lose(self, cause: str) -> None:
        log.error("%s: %s; it is written anew from memory", self._path, cause)
        self._close_database()
        self._forget_numbers()
        self._lost = True
        self.aside.append(cause)

    def _write_anew(self, group: Group, now_ns: int) -> None:
        """A fresh database that holds all that is in memory, with the group's consequences."""
        if self._path.exists() or leftovers(self._path):
            aside = set_aside(self._path)
            log.error("%s is set aside as %s", self._path, aside)
            self.aside[-1] = f"{aside.name}: {self.aside[-1]}"
        create_database(self._path)
        try:
            database = self._open_file()
            try:
                self._write_all(database, group, now_ns)
            except BaseException:
                database.close()
                raise
        except BaseException:
            remove(self._path)  # nothing of ours is in it yet
            raise
        self._database, self._lost = database, False

    def _write_all(self, database: Database, group: Group, now_ns: int) -> None:
        self._register(database)
        self._epochs.load(database)
        for track in self._tracks:
            streams = track.pipeline.streams
            for slot, name in enumerate(streams.names):
                streams.touched[slot] = name is not None
        with database.transaction() as sql:
            first = self._epochs.begin(sql, self._seq + 1, now_ns, self._settings())
            self._epochs.begun(first)
            self._outbox.write_again(sql)
            outgoing = self._outbox.write(sql, group.publications)
            self._append_flags(sql, group, self._seq)
            self._write_snapshots(sql, self._seq)
            count_snapshots(sql)
            write_ends(sql, Ends(self._seq, self._outbox.rows + bool(outgoing)))
        self._outbox.renewed()
        self._outbox.added(outgoing, group.publications)
        self._note_snapshots(None)
        self._written_at = time.monotonic()

    def _set_aside(self, cause: str) -> None:
        self._close_database()
        aside = set_aside(self._path)
        log.error("%s: %s; it is set aside as %s", self._path, cause, aside.name)
        self.aside.append(f"{aside.name}: {cause}")

    def _forget_numbers(self) -> None:
        """Those that a transaction has added may be gone with it; they are looked up again."""
        for numbers in self._numbers:
            numbers.known.clear()

    def _close_database(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
