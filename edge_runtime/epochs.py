"""The flight recorder's epochs: how much of the journal is kept, and how the oldest part goes.

Where an epoch begins every stream's snapshot is kept, so that the journal can be run again from
there. The oldest epoch goes as a whole, but its journal a few rows with each transaction: freeing
the pages of a hundred megabytes at once would hold everything up.
"""

import sqlite3
from typing import NamedTuple

from edge_runtime.database import Database
from edge_runtime.records import sealed
from edge_runtime.recovery import snapshot_key, snapshot_row

EPOCHS = 8
_ROOM = 8 << 20  # and a sixteenth at most: four times that are free anyway within max_mb
_MOST_ROWS = 1 << 14
SOFT = 0.75  # of the largest size: where the recorder ends, so that there is always room for more


class Epoch(NamedTuple):
    """A part of the flight recorder.

    Attributes:
        id: Its number.
        first: The first row of the journal that belongs to it.
        started_ns: When it began, nanoseconds since 1970 UTC.
    """

    id: int
    first: int
    started_ns: int


class Epochs:
    """The epochs of one database.

    Args:
        max_bytes: Size that the database must not exceed.
        keep_ns: How long the journal is kept; 0 keeps what a start needs and no more.
    """

    def __init__(self, max_bytes: int, keep_ns: int) -> None:
        self._most = int(max_bytes * SOFT)
        self._keep_ns = keep_ns
        self._epochs: list[Epoch] = []
        self._bytes = 0
        self._trimmed = 0  # this epoch and those before it are not whole any more

    @property
    def current(self) -> Epoch:
        """The newest; there is one."""
        return self._epochs[-1]

    @property
    def dropping(self) -> bool:
        """Whether the oldest is on its way out."""
        return len(self._epochs) > 1 and self._epochs[0].id <= self._trimmed

    def load(self, database: Database) -> None:
        """Reads them."""
        query = "SELECT id, first, started_ns FROM epoch ORDER BY id"
        self._epochs = [Epoch(*row) for row in database.rows(query)]
        first = self._epochs[-1].first if self._epochs else 0
        query = "SELECT coalesce(sum(length(data)), 0) FROM journal WHERE seq >= ?"
        self._bytes = database.rows(query, first)[0][0]
        self._trimmed = trimmed_epoch(database)

    def are_in(self, database: Database) -> bool:
        """Whether the database has these and no others."""
        return database.rows("SELECT id FROM epoch ORDER BY id") == [(e.id,) for e in self._epochs]

    def grew(self, size: int) -> None:
        """The current epoch's journal has grown by so many bytes."""
        self._bytes += size

    def is_over(self, now_ns: int) -> bool:
        """Whether the next snapshot should begin another epoch."""
        if not self._keep_ns or self._bytes * EPOCHS > self._most:
            return True
        if self.current.id <= self._trimmed:
            return True
        return (now_ns - self.current.started_ns) * EPOCHS > self._keep_ns

    def begin(self, sql: sqlite3.Connection, first: int, now_ns: int, settings: str) -> Epoch:
        """Begins another, inside a transaction that has written the snapshots; `begun` follows.

        Args:
            sql: The transaction.
            first: The next row of the journal.
            now_ns: Nanoseconds since 1970 UTC.
            settings: Of all pipelines, as JSON.
        """
        number = self._epochs[-1].id + 1 if self._epochs else 1
        content = sealed(settings.encode(), number, first)
        sql.execute("INSERT INTO epoch VALUES (?, ?, ?, ?)", (number, first, now_ns, content))
        return Epoch(number, first, now_ns)

    def begun(self, epoch: Epoch) -> None:
        """It is committed."""
        self._epochs.append(epoch)
        self._bytes = 0

    def look(self, database: Database, now_ns: int) -> None:
        """Decides whether the oldest has to go."""
        if len(self._epochs) > 1 and not self.dropping:
            ended_ns = self._epochs[1].started_ns
            old = now_ns - ended_ns > self._keep_ns or not self._keep_ns
            if old or database.used_bytes() > self._most:
                oldest = self._epochs[0].id
                with database.transaction() as sql:
                    _mark(sql, oldest)
                self._trimmed = oldest

    def trim(self, sql: sqlite3.Connection, rows: int, grown: int) -> None:
        """Drops some rows of the oldest epoch's journal, if it is on its way out.

        Args:
            sql: The transaction.
            rows: How many rows, ...
            grown: ... or as many as hold twice these bytes, by which the journal has just grown.
        """
        if self.dropping:
            _trim(sql, self._epochs[1].first - 1, rows, 2 * grown)

    def make_room(self, database: Database, times: int = 1) -> bool:
        """Lets the recorder's oldest part go at once, where it is our own bound that was reached.

        Only what a start needs stays, if it must be. A disk that others have filled is not helped
        by that, as the file does not become smaller.

        Args:
            database: Which has refused to grow.
            times: How many times as much room as usual is wanted.

        Returns:
            Whether there is more room than before.
        """
        enough, more = times * min(self._most // 16, _ROOM), False
        while database.room_bytes() < enough:
            snapshot = snapshot_row(database)
            query = "SELECT seq FROM journal WHERE seq <= ? ORDER BY seq LIMIT 1"
            if not (rows := database.rows(query, snapshot)):
                return more
            with database.transaction() as sql:
                last = _trim(sql, snapshot, 1, enough)
                trimmed = max((e.id for e in self._epochs if e.first <= last), default=0)
                _mark(sql, trimmed)
            self._trimmed, more = max(self._trimmed, trimmed), bool(rows)
        return more

    def finish(self, sql: sqlite3.Connection) -> bool:
        """Drops what else belongs to the oldest epoch, once its journal is gone.

        Args:
            sql: A transaction in which every touched stream's snapshot has been written.

        Returns:
            Whether the epoch is gone; then `gone` must follow.
        """
        if not self.dropping:
            return False
        oldest, first = self._epochs[0].id, self._epochs[1].first
        if sql.execute("SELECT 1 FROM journal WHERE seq < ? LIMIT 1", (first,)).fetchone():
            return False
        # Of each stream the newest snapshot before the next epoch stays, unless it was evicted.
        below, above = snapshot_key(oldest, 0), snapshot_key(oldest + 1, 0)
        sql.execute(
            "DELETE FROM snapshot WHERE key < ?1 AND EXISTS "
            "(SELECT 1 FROM snapshot AS newer WHERE newer.key = ?1 + snapshot.stream)",
            (below,),
        )
        empty = "FROM snapshot WHERE key < ? AND length(record) = ?"
        query = f"SELECT stream {empty}"
        evicted = {stream for (stream,) in sql.execute(query, (above, len(sealed(b""))))}
        sql.execute(f"DELETE {empty}", (above, len(sealed(b""))))
        sql.execute("DELETE FROM flag WHERE seq < ?", (first,))
        if evicted:
            # A name goes with the last that was known of its stream.
            sql.execute("CREATE TEMP TABLE IF NOT EXISTS gone (id INTEGER PRIMARY KEY)")
            sql.executemany("INSERT OR IGNORE INTO gone VALUES (?)", [(one,) for one in evicted])
            sql.execute(
                "DELETE FROM stream WHERE id IN (SELECT id FROM gone "
                "EXCEPT SELECT stream FROM snapshot EXCEPT SELECT stream FROM flag)"
            )
            sql.execute("DELETE FROM gone")
        sql.execute("DELETE FROM epoch WHERE id = ?", (oldest,))
        return True

    def gone(self) -> None:
        """The oldest epoch has been dropped."""
        del self._epochs[0]


def trimmed_epoch(database: Database) -> int:
    """The newest epoch whose journal is not whole any more; what is before it is not either."""
    rows = database.rows("SELECT value FROM meta WHERE key = 'trimmed'")
    return int(rows[0][0]) if rows else 0


def _mark(sql: sqlite3.Connection, epoch: int) -> None:
    """Whoever runs a part of the journal again must know that its beginning is missing."""
    sql.execute("INSERT OR REPLACE INTO meta VALUES ('trimmed', ?)", (epoch,))


def _trim(sql: sqlite3.Connection, until: int, rows: int, size: int) -> int:
    """Drops the journal's oldest rows, so many or as many as hold so many bytes; the last's seq."""
    query = "SELECT seq, length(data) FROM journal WHERE seq <= ? ORDER BY seq LIMIT ?"
    last, freed = 0, 0
    for number, (seq, length) in enumerate(sql.execute(query, (until, _MOST_ROWS))):
        if number >= rows and freed >= size:
            break
        last, freed = seq, freed + length
    sql.execute("DELETE FROM journal WHERE seq <= ?", (last,))
    return last
