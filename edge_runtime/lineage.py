"""What a state in the database belongs to: the model's digest, and what a stream's name means.

The contract is part of the model file, so its digest speaks for both. Streams of one model under
another topic pattern or naming are other streams. Of several pipelines that agree in all of that,
which differ in their alarms, the first is the first again: they are twins, numbered in order.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from edge_runtime.database import Database
from edge_runtime.errors import ConfigError, ModelError, StoreDamagedError, StoreRefusedError
from edge_runtime.records import opened
from edge_runtime.session import Session, session_from_bytes
from edge_runtime.settings import Settings

RETIRED_PIPELINES = 8  # of which the state is kept beside


class Lineage(NamedTuple):
    """What the state of a pipeline belongs to.

    Attributes:
        digest: SHA-256 of the model file.
        topic: Pattern of the topics.
        stream: Template of the streams' names.
        twin: How many pipelines before it have the same three.
    """

    digest: str
    topic: str
    stream: str
    twin: int


class Found(NamedTuple):
    """A pipeline in the database.

    Attributes:
        number: Its number there.
        cold: Why it has no state there; empty if it has.
        lost: A state is not used.
    """

    number: int
    cold: str = ""
    lost: bool = False


def lineages_of(pipelines: Iterable[tuple[str, str, str]]) -> list[Lineage]:
    """Numbers the twins.

    Args:
        pipelines: Model digest, topic and stream of each, in order of the configuration.
    """
    twins: Counter[tuple[str, str, str]] = Counter()
    lineages = []
    for key in pipelines:
        lineages.append(Lineage(*key, twins[key]))
        twins[key] += 1
    return lineages


def find_pipeline(
    sql: sqlite3.Connection,
    lineage: Lineage,
    configured: Collection[Lineage],
    model: bytes,
    now_ns: int,
) -> Found:
    """Finds a pipeline in the database, or adds it.

    Args:
        sql: A transaction.
        lineage: What its state belongs to.
        configured: Of all pipelines: two models on one topic do not take each other's place.
        model: Content of the model file, which the flight recorder needs.
        now_ns: Nanoseconds since 1970 UTC.
    """
    found = sql.execute(
        "SELECT id FROM pipeline WHERE digest = ? AND topic = ? AND stream = ? AND twin = ?",
        lineage,
    ).fetchone()
    if found:
        sql.execute("UPDATE pipeline SET used_ns = ? WHERE id = ?", (now_ns, found[0]))
        return Found(found[0])
    digests = sql.execute(
        "SELECT digest FROM pipeline WHERE topic = ? AND stream = ? AND twin = ? "
        "ORDER BY used_ns DESC",
        lineage[1:],
    ).fetchall()
    others = [d for (d,) in digests if Lineage(d, *lineage[1:]) not in configured]
    sql.execute("INSERT OR IGNORE INTO model VALUES (?, ?)", (lineage.digest, model))
    number = sql.execute(
        "INSERT INTO pipeline (digest, topic, stream, twin, used_ns) VALUES (?, ?, ?, ?, ?)",
        (*lineage, now_ns),
    ).lastrowid
    if not others:
        return Found(int(number or 0), "first start")
    ours, theirs = lineage.digest[:16], others[0][:16]
    return Found(
        int(number or 0),
        f"the model is {ours}, the state that of {theirs}; it is kept beside",
        True,
    )


def forget_retired(sql: sqlite3.Connection, active: Sequence[int]) -> None:
    """Of the pipelines that are not configured any more only the most recent keep their state.

    Of a row of the journal its number stays, as a missing one is damage; no pipeline has number 0.
    """
    retired = [
        number
        for (number,) in sql.execute("SELECT id FROM pipeline ORDER BY used_ns DESC")
        if number not in active
    ]
    streams = "IN (SELECT id FROM stream WHERE pipeline = ?)"
    for number in retired[RETIRED_PIPELINES:]:
        for statement in (
            f"DELETE FROM snapshot WHERE stream {streams}",  # noqa: S608 - ours
            f"DELETE FROM flag WHERE stream {streams}",  # noqa: S608
            "UPDATE journal SET pipeline = 0, data = x'' WHERE pipeline = ?",
            "DELETE FROM stream WHERE pipeline = ?",
            "DELETE FROM pipeline WHERE id = ?",
        ):
            sql.execute(statement, (number,))
    sql.execute("DELETE FROM model WHERE digest NOT IN (SELECT digest FROM pipeline)")


def settings_of(database: Database, epoch: int | None = None) -> dict[int, Settings]:
    """The settings under which an epoch was decided, by number of the pipeline.

    Args:
        database: The database.
        epoch: Which epoch; the newest by default. A fresh database has none.

    Raises:
        StoreDamagedError: If they cannot be read.
    """
    query = "SELECT id, first, settings FROM epoch WHERE id <= ? ORDER BY id DESC LIMIT 1"
    for number, first, row in database.rows(query, 2**62 if epoch is None else epoch):
        text = opened(row, f"{database.path}: epoch {number}", number, first)
        try:
            tables = json.loads(text).items()
            return {int(key): Settings.from_dict(table) for key, table in tables}
        except ConfigError as error:
            raise StoreRefusedError(
                f"{database.path}: was written by a newer Andon: {error}"
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise StoreDamagedError(
                f"{database.path}: the settings cannot be read: {error}"
            ) from error
    return {}


def session_of(database: Database, digest: str) -> Session:
    """A model, from the database.

    Args:
        database: The database.
        digest: SHA-256 of the model file.

    Raises:
        StoreDamagedError: If it is not the one of that digest.
        ModelError: If this processor does not reproduce its golden vectors.
    """
    for (content,) in database.rows("SELECT content FROM model WHERE digest = ?", digest):
        try:
            session = session_from_bytes(content)
        except ModelError as error:
            raise ModelError(f"{database.path}: model {digest[:16]}: {error}") from error
        if session.digest == digest:
            return session
    raise StoreDamagedError(f"{database.path}: does not hold the model {digest[:16]} as it was")
