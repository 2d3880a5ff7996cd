"""How a start finds every stream where it was: each pipeline's newest snapshot and its journal.

Also those of pipelines that are not configured any more: the snapshot moves on past what was
journalled of them, and they may come back.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from edge_runtime.database import Database
from edge_runtime.ends import read_ends
from edge_runtime.errors import ModelError, StoreDamagedError
from edge_runtime.lineage import session_of
from edge_runtime.pipeline import Pipeline
from edge_runtime.recovery import (
    OF_A_PIPELINE,
    Part,
    load_snapshots,
    names_of,
    run_journal,
    snapshot_row,
)
from edge_runtime.settings import Settings
from edge_runtime.streams import Streams
from edge_runtime.tracks import Numbers, Track

log = logging.getLogger("andon")

_NEWEST = 1 << 30  # an epoch that never begins
_MOST_STREAMS = 1 << 32


class Recovered(NamedTuple):
    """A pipeline as it was.

    Attributes:
        past: With the settings that held then, and its streams.
        samples: Samples of the journal that were run again for that.
    """

    past: Pipeline
    samples: int


class Retired(NamedTuple):
    """A pipeline that is not configured any more.

    Attributes:
        streams: Its streams; None if its model cannot be run, so that they start afresh.
        numbers: Their numbers.
    """

    streams: Streams | None
    numbers: Numbers


def last_row(database: Database) -> int:
    """The last row of the journal.

    Raises:
        StoreDamagedError: If rows that a start needs are missing.
    """
    ends, last = read_ends(database), snapshot_row(database)
    missing = f"{database.path}: rows of the journal are missing after "
    query = f"SELECT seq FROM journal WHERE seq > ? AND {OF_A_PIPELINE} ORDER BY seq"  # noqa: S608
    for (seq,) in database.each(query, last):
        if seq != last + 1:
            raise StoreDamagedError(f"{missing}{last}")
        last = seq
    if last != ends.journal:
        raise StoreDamagedError(f"{missing}{last}, it had {ends.journal}")
    return last


def recover(
    database: Database, track: Track, numbers: Numbers, settings: Settings | None
) -> Recovered:
    """One pipeline's streams as they were, under the settings that held then.

    Args:
        database: Where they are.
        track: The pipeline as it is configured now.
        numbers: Its numbers; those of its streams are filled in.
        settings: Those that held then; None if the database does not know the pipeline.

    Raises:
        StoreDamagedError: If a snapshot or a row of the journal is not what was written.
    """
    then = settings or track.pipeline.settings
    past = Pipeline(track.pipeline.session, _without_limit(then))
    return Recovered(past, _run_again(database, past, numbers))


def recover_retired(
    database: Database, active: Sequence[Numbers], settings: Mapping[int, Settings]
) -> list[Retired]:
    """What was journalled since the snapshot of pipelines that are not configured any more.

    Args:
        database: Where it is.
        active: The pipelines that are.
        settings: Of all pipelines, as they held then.

    Raises:
        StoreDamagedError: If a snapshot, a row of the journal or a model is not what was written.
    """
    known = {numbers.pipeline for numbers in active}
    retired: list[Retired] = []
    query = (
        "SELECT id, digest FROM pipeline "
        "WHERE id IN (SELECT DISTINCT pipeline FROM journal WHERE seq > ?)"
    )
    for number, digest in database.rows(query, snapshot_row(database)):
        if number in known or number not in settings:
            continue
        numbers = Numbers(number)
        try:
            past = Pipeline(session_of(database, digest), _without_limit(settings[number]))
        except ModelError as error:
            log.error("%s; its streams will start afresh", error)  # noqa: TRY400 - said whole
            numbers.evicted = set(names_of(database, number))
            retired.append(Retired(None, numbers))
        else:
            _run_again(database, past, numbers)
            retired.append(Retired(past.streams, numbers))
    return retired


def _run_again(database: Database, past: Pipeline, numbers: Numbers) -> int:
    """Fills a pipeline without streams; how many samples were run again for that."""
    names = names_of(database, numbers.pipeline)
    load_snapshots(database, past, names, _NEWEST)
    stored = set(past.streams.names)
    part = Part(numbers.pipeline, snapshot_row(database))
    samples = sum(run.samples for run in run_journal(database, past, names, part))
    known = {name: number for number, name in names.items()}
    kept = [name for name in past.streams.names if name is not None]
    numbers.evicted = {known[name] for name in stored.difference(kept) if name is not None}
    numbers.known = {name: known[name] for name in kept}
    return samples


def _without_limit(settings: Settings) -> Settings:
    """What was admitted is admitted again, whatever the limit is now."""
    return replace(settings, max_streams=_MOST_STREAMS)
