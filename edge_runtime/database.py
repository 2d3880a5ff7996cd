"""The gateway's SQLite file: made whole or not at all, written in transactions, never deleted.

Everything that sqlite3 raises becomes one of three errors, because they are answered differently:
what may go away by itself is tried again (`StoreUnavailableError`), a damaged file is set aside
(`StoreDamagedError`), and what is not ours is left alone (`StoreRefusedError`).

Write-ahead logging, so that `andon explain` can read while the daemon writes. With ``full`` a
commit is on the disk when it returns (SQLite documentation, "PRAGMA synchronous", and
"Write-Ahead Logging", section 3.2); with ``normal`` a power cut may take the last commits back.
"""

import fcntl
import os
import secrets
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

from edge_runtime.errors import (
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreInUseError,
    StoreRefusedError,
    StoreUnavailableError,
)
from edge_runtime.files import replacing
from edge_runtime.records import opened_number, sealed_number

Synchronous: TypeAlias = Literal["full", "normal"]
"""What a commit waits for: the disk, or the operating system."""

SCHEMA_VERSION = 2  # 1 did not say where its tables end
APPLICATION_ID = 0x416E646E  # "Andn"

TABLES = "meta", "pipeline", "stream", "epoch", "snapshot", "outbox"
"""What a start needs to be whole, beside the journal."""

_BUSY_MS = 100  # the connection to the broker waits meanwhile
_WAL_LIMIT = 16 << 20
_COMPANIONS = ("", "-wal", "-shm")
_DAMAGED = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_FORMAT,
}
_UNAVAILABLE = {
    sqlite3.SQLITE_READONLY: "is read-only",
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked",
    sqlite3.SQLITE_IOERR: "I/O error",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PERM: "no permission",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_PROTOCOL: "is locked by another process",
}

# `journal` holds what the pipelines admitted, in order. `snapshot` holds what is remembered of each
# stream, as it was after all of the journal up to meta.snapshot; an empty record: it was evicted.
# Its key is epoch << 32 | stream: within an epoch a stream's snapshot is written over, so that what
# it was when the epoch began is kept, for as long as the epoch's part of the journal is.
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE model (digest TEXT PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE pipeline (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL REFERENCES model,
    topic TEXT NOT NULL,
    stream TEXT NOT NULL,
    twin INTEGER NOT NULL,
    used_ns INTEGER NOT NULL,
    UNIQUE (digest, topic, stream, twin)
);
CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    pipeline INTEGER NOT NULL REFERENCES pipeline,
    name TEXT NOT NULL,
    UNIQUE (pipeline, name)
);
CREATE TABLE epoch (
    id INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    started_ns INTEGER NOT NULL,
    settings BLOB NOT NULL
);
CREATE TABLE journal (seq INTEGER PRIMARY KEY, pipeline INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE snapshot (key INTEGER PRIMARY KEY, stream INTEGER NOT NULL, record BLOB NOT NULL);
CREATE TABLE outbox (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE flag (
    id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    payload BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX flag_seq ON flag (seq);
"""


class Lock:
    """Keeps a second daemon away from a database, for as long as the process lives.

    The file beside the database is never deleted: two processes could then hold a lock each.

    Args:
        path: The database.

    Raises:
        StoreInUseError: If another process has it.
        StoreUnavailableError: If the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        name = path.with_name(f"{path.name}.lock")
        try:
            self._file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreUnavailableError(f"{name}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise StoreInUseError(f"{path}: another daemon uses it") from error

    def release(self) -> None:
        """Lets another daemon have it."""
        os.close(self._file)


class Database:
    """An open database. Make it with `open_database` or `create_database`.

    Args:
        path: The file.
        connection: To it, in autocommit mode.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._inode = _inode(path)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is executed inside, or nothing.

        Raises:
            StoreUnavailableError: If it cannot be written now.
            StoreDamagedError: If the file is damaged.
        """
        with translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # some errors have rolled back already
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: object) -> list[Any]:
        """Reads.

        Raises:
            StoreUnavailableError: If it cannot be read now.
            StoreDamagedError: If the file is damaged.
        """
        with translated(self.path):
            return self._connection.execute(query, values).fetchall()

    def each(self, query: str, *values: object) -> Iterator[Any]:
        """Reads row by row; raises as `rows` does."""
        with translated(self.path):
            yield from self._connection.execute(query, values)

    def meta(self, key: str) -> Any:  # noqa: ANN401 - a text or a number
        """One entry of the table ``meta``.

        Raises:
            StoreDamagedError: If it is not there.
        """
        for (value,) in self.rows("SELECT value FROM meta WHERE key = ?", key):
            return value
        raise StoreDamagedError(f"{self.path}: has no {key}")

    def require_whole(self, tables: Collection[str] = TABLES) -> None:
        """Looks at all that a start needs but the journal, which has checksums and may be large.

        Names and keys have none: each stands in a table and in an index, which must agree.

        Args:
            tables: Those that are needed.

        Raises:
            StoreUnavailableError: If it cannot be read now.
            StoreDamagedError: If the file is damaged.
        """
        for table in tables:
            (found,) = self.rows(f"PRAGMA integrity_check({table})")[0]
            if found != "ok":
                raise StoreDamagedError(f"{self.path}: is damaged: {found}")
        if "snapshot" in tables:
            self._require_snapshots()

    def _require_snapshots(self) -> None:
        if self.rows("SELECT 1 FROM snapshot WHERE stream != key & 0xffffffff LIMIT 1"):
            raise StoreDamagedError(f"{self.path}: a snapshot is of another stream than it says")
        wanted = opened_number(self.meta("snapshots"), f"{self.path}: the number of snapshots")
        ((count,),) = self.rows("SELECT count(*) FROM snapshot")
        if count != wanted:
            raise StoreDamagedError(f"{self.path}: holds {count} snapshots of {wanted}")

    def used_bytes(self) -> int:
        """What it holds, without the room that is free inside the file."""
        pages, free, size = (
            self.rows(f"PRAGMA {name}")[0][0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def room_bytes(self) -> int:
        """What it may still take before its own bound is reached, whatever the disk has."""
        pages, most, size = (
            self.rows(f"PRAGMA {name}")[0][0]
            for name in ("page_count", "max_page_count", "page_size")
        )
        free = self.rows("PRAGMA freelist_count")[0][0]
        return int((most - pages + free) * size)

    def is_in_place(self) -> bool:
        """Whether what is written still reaches the file of that name."""
        return self._inode == _inode(self.path)

    def close(self) -> None:
        """Closes it; what was not committed is forgotten."""
        with suppress(sqlite3.Error):
            self._connection.close()


def open_database(path: Path, *, synchronous: Synchronous, max_bytes: int) -> Database:
    """Opens a database to write.

    Args:
        path: The file, which exists.
        synchronous: What a commit waits for.
        max_bytes: The file does not grow beyond this; a commit that would make it is refused.

    Raises:
        StoreUnavailableError: If it cannot be opened or written now.
        StoreDamagedError: If it is no database, or empty.
        StoreRefusedError: If it is of another program or version.
    """
    with translated(path):
        if not path.stat().st_size:
            raise StoreDamagedError(f"{path}: is empty")
        connection = _connection(path)
        try:
            _require_ours(path, connection)
            _require_log(path, connection)
            size = connection.execute("PRAGMA page_size").fetchone()[0]
            for pragma in (
                f"synchronous = {synchronous}",
                f"max_page_count = {max(max_bytes // size, 64)}",
                f"journal_size_limit = {_WAL_LIMIT}",
                "cell_size_check = ON",
            ):
                connection.execute(f"PRAGMA {pragma}")
            # Says at once whether it can be written.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
    return Database(path, connection)


def create_database(path: Path) -> None:
    """Makes a fresh database beside ``path`` and renames it, so that a half-made one never exists.

    Raises:
        StoreUnavailableError: If it cannot be written.
    """
    with translated(path), replacing(path) as temporary:
        connection = _connection(temporary)
        try:
            # Without a log so far: closing would have to move it into the file, and says nothing
            # if that fails.
            connection.executescript(f"BEGIN; {_SCHEMA}")
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [
                    ("identity", secrets.token_hex(16)),
                    ("snapshot", sealed_number(0)),
                    ("snapshots", sealed_number(0)),
                    ("ends", sealed_number(0, 0)),
                ],
            )
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        finally:
            connection.close()


def read_database(path: Path) -> Database:
    """Opens a database to look at, also while a daemon writes it.

    A copy may be where nothing can be written.

    Raises:
        StoreUnavailableError: If it cannot be read.
        StoreDamagedError: If it is no database, or empty.
        StoreRefusedError: If it is of another program or version.
    """
    with translated(path):
        if path.is_dir():
            raise StoreRefusedError(f"{path}: wanted a gateway's database, got a folder")
        if not path.stat().st_size:
            raise StoreDamagedError(f"{path}: is empty")
    try:
        return _view(path, path, "mode=ro")
    except StoreUnavailableError:
        if Path(f"{path}-shm").exists():  # it is open somewhere
            raise
    return _read_at_rest(path)


def _read_at_rest(path: Path) -> Database:
    """Reads what nobody writes, where SQLite cannot make the index that a log needs beside it."""
    with translated(path):
        log = Path(f"{path}-wal")
        if not log.exists() or not log.stat().st_size:
            return _view(path, path, "immutable=1")
        with TemporaryDirectory() as folder:
            place = Path(folder, path.name)
            shutil.copyfile(path, place)
            shutil.copyfile(log, f"{place}-wal")
            return _view(path, place, "mode=ro")  # which goes on when the names are gone


def _view(path: Path, place: Path, options: str) -> Database:
    """One view of a database for all that is read, whatever the daemon writes meanwhile."""
    with translated(path):
        connection = _connection(place, f"?{options}")
        try:
            _require_ours(path, connection)
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM meta").fetchall()
        except BaseException:
            connection.close()
            raise
    return Database(path, connection)


def set_aside(path: Path) -> Path:
    """Renames a database and what belongs to it, so that a fresh one can take its place.

    Returns:
        The new name.

    Raises:
        StoreUnavailableError: If it cannot be renamed.
    """
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    aside, number = path.with_name(f"{path.name}.damaged-{stamp}"), 1
    while any(Path(f"{aside}{end}").exists() for end in _COMPANIONS):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    with translated(path):
        # The log last: whoever is killed in between leaves a log without its database, which is
        # noticed. A database without its log would be a good one, of the day before yesterday.
        for end in _COMPANIONS:
            with suppress(FileNotFoundError):
                Path(f"{path}{end}").rename(f"{aside}{end}")
    return aside


def remove(path: Path) -> None:
    """Deletes a database that nothing was written into."""
    with suppress(OSError):
        for end in _COMPANIONS:
            Path(f"{path}{end}").unlink(missing_ok=True)


def leftovers(path: Path) -> bool:
    """Whether a log without its database lies there, which a fresh one would take for its own."""
    return not path.exists() and any(Path(f"{path}{end}").exists() for end in _COMPANIONS)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns what sqlite3 and the file system raise into a `StoreError`."""
    try:
        yield
    except StoreError:
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            what = "is no database of a gateway, or its beginning is damaged"
            raise StoreDamagedError(f"{path}: {what}") from error
        # Our statements are right, so one that fails as such has met other tables than ours; what
        # is no text has no code at all.
        wrong = isinstance(error, sqlite3.OperationalError) and code in (0, sqlite3.SQLITE_ERROR)
        if code in _DAMAGED or wrong:
            raise StoreDamagedError(f"{path}: is damaged: {error}") from error
        if code == sqlite3.SQLITE_FULL:
            text = f"{path}: no room: the disk or max_mb is full ({error})"
            raise StoreFullError(text) from error
        if code in _UNAVAILABLE:
            raise StoreUnavailableError(f"{path}: {_UNAVAILABLE[code]} ({error})") from error
        raise
    except UnicodeDecodeError as error:  # in a message of SQLite about damage
        raise StoreDamagedError(f"{path}: is damaged: {error}") from error
    except OSError as error:
        raise StoreUnavailableError(f"{path}: {error.strerror or error}") from error


def _connection(path: Path, options: str = "") -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}{options}", uri=True, isolation_level=None
    )
    try:
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def _require_log(path: Path, connection: sqlite3.Connection) -> None:
    """The file is told once that it has a write-ahead log; not every file system allows it."""
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreUnavailableError(
            f"{path}: wanted a file system on which SQLite can keep a write-ahead log (a local "
            f"one), got journal mode {mode}"
        )


def _require_ours(path: Path, connection: sqlite3.Connection) -> None:
    program, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version")
    )
    if version == SCHEMA_VERSION:
        ours = program == APPLICATION_ID, _schema(connection) == _our_schema()
        if all(ours):
            return
        if any(ours):
            raise StoreDamagedError(f"{path}: its header and its tables do not fit together")
    if program != APPLICATION_ID:
        raise StoreRefusedError(f"{path}: is a database of another program")
    raise StoreRefusedError(
        f"{path}: wanted schema version {SCHEMA_VERSION}, got {version}: it was written by "
        f"{'a newer' if version > SCHEMA_VERSION else 'an older'} Andon"
    )


def _schema(connection: sqlite3.Connection) -> list[Any]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"
    return connection.execute(query).fetchall()


@cache
def _our_schema() -> list[Any]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(_SCHEMA)
        return _schema(fresh)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
