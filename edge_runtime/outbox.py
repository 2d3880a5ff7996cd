"""What is to leave the gateway and has not left it yet, in memory and in the database.

A row of the outbox is what one group of messages leads to. It goes when the broker has all of it
for good; after a start whatever is left is published again, in order, with the ids it had.
"""

import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

from edge_runtime.database import Database
from edge_runtime.ends import read_ends
from edge_runtime.errors import StoreDamagedError, StoreError
from edge_runtime.records import decode_outgoing, encode_outgoing
from edge_runtime.store import Publication


class Outbox:
    """The publications of one gateway that the broker does not have yet, oldest first."""

    def __init__(self) -> None:
        self._rows: dict[int, bytes] = {}
        self._missing: dict[int, int] = {}  # publications of each row without an acknowledgement
        self._waiting: deque[tuple[Publication, int]] = deque()
        self._done: list[int] = []
        self._last = 0
        self._stored = 0
        self._rescued = False

    def __len__(self) -> int:
        return sum(self._missing.values())

    @property
    def done(self) -> int:
        """How many rows can go from the database."""
        return len(self._done)

    @property
    def last(self) -> int:
        """Number of the newest row that there has been."""
        return self._last

    @property
    def rows(self) -> int:
        """How many rows are not done."""
        return len(self._rows)

    @property
    def stored(self) -> int:
        """How many rows the database holds, also those that can go."""
        return self._stored

    def load(self, database: Database) -> None:
        """Takes what a run before this one has left in the database.

        Raises:
            StoreDamagedError: If a row is missing, or is not what was written.
        """
        ends, rows = read_ends(database), database.rows("SELECT id, data FROM outbox ORDER BY id")
        if len(rows) != ends.outbox:
            raise StoreDamagedError(
                f"{database.path}: the outbox holds {len(rows)} rows of {ends.outbox}"
            )
        for row, data in rows:
            if row not in self._rows:
                self._add(row, data, [Publication(*m) for m in decode_outgoing(row, data)])
            else:  # it was written again by a commit that was reported as failed
                self._rescued = False
        self._stored = len(rows)

    def rescue(self, database: Database) -> None:
        """Takes what can still be read from a damaged database; a fresh one does not have it."""
        with suppress(StoreError):
            for row, data in database.each("SELECT id, data FROM outbox ORDER BY id"):
                with suppress(StoreDamagedError):
                    if row not in self._rows:
                        self._add(row, data, [Publication(*m) for m in decode_outgoing(row, data)])
        self._rescued = bool(self._rows)

    @property
    def rescued(self) -> bool:
        """Whether rows were, and no database has them."""
        return self._rescued

    def write(self, sql: sqlite3.Connection, publications: Sequence[Publication]) -> bytes:
        """Writes a row, inside a transaction; `added` must follow when it is committed."""
        if not publications:
            return b""
        data = encode_outgoing(self._last + 1, publications)
        sql.execute("INSERT INTO outbox VALUES (?, ?)", (self._last + 1, data))
        return data

    def added(self, data: bytes, publications: Sequence[Publication]) -> None:
        """The row is safe: its publications may go out."""
        if data:
            self._stored += 1
            self._add(self._last + 1, data, publications)

    def write_again(self, sql: sqlite3.Connection) -> None:
        """Writes every row into a fresh database, inside a transaction; `renewed` must follow."""
        sql.executemany("INSERT INTO outbox VALUES (?, ?)", self._rows.items())

    def clear(self, sql: sqlite3.Connection) -> list[int]:
        """Deletes the rows that are done, inside a transaction; `cleared` must follow."""
        done = list(self._done)
        sql.executemany("DELETE FROM outbox WHERE id = ?", [(row,) for row in done])
        return done

    def cleared(self, rows: Sequence[int]) -> None:
        """These rows are gone from the database."""
        del self._done[: len(rows)]
        self._stored -= len(rows)

    def take_back(self, sql: sqlite3.Connection) -> None:
        """Deletes what is not to be there, inside a transaction; `renewed` must follow.

        After a commit that was reported as failed and may be there all the same.
        """
        sql.execute("DELETE FROM outbox WHERE id > ?", (self._last,))
        self.clear(sql)

    def renewed(self) -> None:
        """The database holds the rows that are not done, and no others."""
        self._done.clear()
        self._stored = len(self._rows)
        self._rescued = False

    def take(self) -> Iterator[tuple[Publication, int]]:
        """Gives each publication once, with the number of its row."""
        while self._waiting:
            yield self._waiting.popleft()

    def delivered(self, rows: Sequence[int]) -> None:
        """Takes note of publications that the broker has, by the numbers of their rows."""
        for row in rows:
            if row not in self._missing:
                continue
            self._missing[row] -= 1
            if not self._missing[row]:
                del self._missing[row], self._rows[row]
                self._done.append(row)

    def _add(self, row: int, data: bytes, publications: Sequence[Publication]) -> None:
        self._rows[row] = data
        self._missing[row] = len(publications)
        self._waiting.extend((publication, row) for publication in publications)
        self._last = max(self._last, row)
