"""Where the tables of a gateway's database end, written down in another place with each commit.

A page that stands in another's place can be a sound table by itself, with other rows or fewer: the
first leaf of the journal, as its root, is a journal that ended long ago. Nothing inside the table
says so. The entry is one more page in the log for each commit, whatever the size of the group.
"""

import sqlite3
import struct
from typing import NamedTuple

from edge_runtime.database import Database
from edge_runtime.errors import StoreDamagedError
from edge_runtime.records import opened, sealed, sealed_number

_ENDS = struct.Struct("<qq")
_PUT = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


class Ends(NamedTuple):
    """What a commit has left.

    Attributes:
        journal: The last row that the journal has ever had; the oldest go, never the newest.
        outbox: How many rows the outbox holds.
    """

    journal: int
    outbox: int


def write_ends(sql: sqlite3.Connection, ends: Ends) -> None:
    """Writes them down, inside the transaction that has moved them."""
    sql.execute(_PUT, ("ends", sealed(_ENDS.pack(*ends))))


def read_ends(database: Database) -> Ends | None:
    """What the last commit has left; None in a database of an earlier Andon.

    Raises:
        StoreDamagedError: If it is not what was written.
    """
    for (row,) in database.rows("SELECT value FROM meta WHERE key = 'ends'"):
        content = opened(row, f"{database.path}: where the journal ends")
        if len(content) == _ENDS.size:
            return Ends(*_ENDS.unpack(content))
        raise StoreDamagedError(f"{database.path}: where the journal ends is not what was written")
    return None


def count_snapshots(sql: sqlite3.Connection) -> None:
    """Writes down how many snapshots there are, inside a transaction that has changed that."""
    ((count,),) = sql.execute("SELECT count(*) FROM snapshot")
    sql.execute(_PUT, ("snapshots", sealed_number(count)))
