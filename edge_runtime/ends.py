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
from edge_runtime.records import opened, sealed_number

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
    sql.execute(_PUT, ("ends", sealed_number(*ends)))


def read_ends(database: Database) -> Ends:
    """What the last commit has left.

    Raises:
        StoreDamagedError: If it is not what was written.
    """
    what = f"{database.path}: where the journal ends"
    content = opened(database.meta("ends"), what)
    if len(content) != _ENDS.size:
        raise StoreDamagedError(f"{what} is not what was written")
    return Ends(*_ENDS.unpack(content))


def count_snapshots(sql: sqlite3.Connection) -> None:
    """Writes down how many snapshots there are, inside a transaction that has changed that."""
    ((count,),) = sql.execute("SELECT count(*) FROM snapshot")
    sql.execute(_PUT, ("snapshots", sealed_number(count)))
