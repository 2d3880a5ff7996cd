"""A gateway without network, for tests of its journal."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import edge_runtime.journal
from edge_runtime.config import AlarmConfig, StateConfig
from edge_runtime.journal import Journal
from edge_runtime.payload import encode_flag, encode_score
from edge_runtime.pipeline import Pipeline
from edge_runtime.recorder import Recorder, Wanted
from edge_runtime.results import Block, Result
from edge_runtime.session import Session
from edge_runtime.settings import Settings
from edge_runtime.store import Group, Publication, Raised
from edge_runtime.tracks import Track
from pipelines import side_by_side
from plant import wave

SECOND = 1_000_000_000
START = 1_767_225_600 * SECOND
ALARM = AlarmConfig(enter=1.0, leave=0.9, hold_steps=1)  # restless


class Site:
    """A gateway without network: pipelines, a journal, and what has left it.

    Args:
        path: The database.
        sessions: One pipeline for each.
        settings: Of each pipeline.
        state: Further keys of the ``[state]`` table.
    """

    def __init__(
        self,
        path: Path,
        sessions: Sequence[Session],
        settings: Settings | None = None,
        **state: Any,
    ) -> None:
        settings = settings or Settings(alarm=ALARM)
        self.config = StateConfig(path=path, **state)
        self.pipelines = [Pipeline(session, settings) for session in sessions]
        self.journal = self._journal()
        self.lines: list[bytes] = []
        self._groups = 0

    def _journal(self) -> Journal:
        tracks = [Track(p, f"t{n}/{{m}}", "{m}") for n, p in enumerate(self.pipelines)]
        return Journal(self.config, tracks, lambda: START)

    def open(self) -> "Site":
        self.journal.open()
        return self

    def process(self, blocks: dict[int, list[Block]]) -> tuple[Group, list[Result]]:
        group, results = Group(), []
        for number, some in blocks.items():
            # Every other group as samples that lie side by side, as the daemon has them.
            self._groups += 1
            rest, abreast = side_by_side(some) if self._groups % 2 else (some, [])
            result = self.pipelines[number].process(rest, START * 2, abreast)
            results.append(result)
            group.add(number, result)
            group.publications += [
                Publication(f"s{number}", encode_score(line))
                for part in result.parts
                for line in part.lines()
            ]
            for flag in result.flags:
                payload = encode_flag(flag)
                group.publications.append(Publication(f"f{number}", payload))
                group.flags.append(Raised(number, flag, payload))
        return group, results

    def take(self, blocks: dict[int, list[Block]]) -> list[Result]:
        group, results = self.process(blocks)
        self.journal.commit(group)
        return results

    def snapshot(self) -> None:
        self.journal._snapshot_at = -1e9
        self.journal._since = edge_runtime.journal.MOST_SAMPLES
        before = self.journal.snapshots
        self.journal.tidy(START)
        assert self.journal.snapshots == before + 1

    def kill(self) -> None:
        """As a process that ends: no last snapshot, and nothing in memory survives."""
        self.journal._close_database()
        if self.journal._lock is not None:
            self.journal._lock.release()

    def states(self) -> dict[tuple[int, str], bytes]:
        """Everything that is remembered, by pipeline and stream."""
        found = {}
        for number, pipeline in enumerate(self.pipelines):
            for slot, name in enumerate(pipeline.streams.names):
                if name is not None:
                    (found[number, name],) = pipeline.streams.dump([slot])
        return found


def story(seed: int, streams: int = 5, steps: int = 60) -> list[list[Block]]:
    """Groups of single samples of several machines, in random order."""
    rng = np.random.default_rng(seed)
    values = wave(rng, streams, steps).astype(np.float32)
    blocks = [
        Block(f"m{s}", np.array([START + t * SECOND]), values[s, t : t + 1])
        for t in range(steps)
        for s in rng.permutation(streams)
    ]
    edges = np.sort(rng.choice(len(blocks), 25, replace=False))
    return [list(part) for part in np.split(np.array(blocks, object), edges) if len(part)]


def lines_of(results: Sequence[Result]) -> list[bytes]:
    return [encode_score(line) for r in results for part in r.parts for line in part.lines()]


def waiting(journal: Journal) -> list[bytes]:
    return [publication.payload for publication, _ in journal.outbox()]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process writes and does not come to an end."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


def recorded_lines(path: Path, session: Session, wanted: Wanted) -> list[bytes]:
    with Recorder(path) as recorder:
        (recorded,) = recorder.pipelines()
        return lines_of([run.result for run in recorder.replay(recorded, wanted, session)])
