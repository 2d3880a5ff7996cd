"""The journal at odd moments: two things at once, and what only a long life brings."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_runtime.database
import edge_runtime.journal
import edge_runtime.starting
from edge_runtime.config import AlarmConfig
from edge_runtime.database import Database, create_database, open_database, set_aside
from edge_runtime.errors import (
    ModelError,
    StoreDamagedError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
)
from edge_runtime.journal import Journal
from edge_runtime.past import Span, reasons_for, rows_of
from edge_runtime.recorder import Recorder, Wanted
from edge_runtime.results import Block
from edge_runtime.session import Session, load_model
from edge_runtime.settings import Settings
from edge_runtime.store import Group
from edge_runtime.tracks import Track
from journals import SECOND, START, Site, lines_of, locked, recorded_lines, story, waiting
from sample_models import sample_model


@pytest.fixture(scope="module")
def sessions() -> dict[str, Session]:
    return {cell: load_model(sample_model(cell)) for cell in ("lstm", "gru")}


def test_a_group_that_is_not_safe_at_the_end_comes_again_with_all_that_follows(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    """Memory has seen it, so no snapshot may be taken: its scores would never be published."""
    path, groups = tmp_path / "a.db", story(1)
    site = Site(path, [sessions["gru"]]).open()
    for some in groups[:5]:
        site.take({0: some})
    states, sent = site.states(), waiting(site.journal)
    group, results = site.process({0: groups[5]})
    with locked(path), pytest.raises(StoreUnavailableError):
        site.journal.commit(group)
    with pytest.raises(AssertionError):
        site.snapshot()
    site.journal.close()
    again = Site(path, [sessions["gru"]]).open()
    assert again.states() == states
    assert waiting(again.journal) == sent
    assert lines_of(again.take({0: groups[5]})) == lines_of(results)


def test_what_was_lost_is_written_anew_at_the_end(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["gru"]]).open()
    site.take({0: story(1)[0]})
    site.snapshot()
    states = site.states()
    site.journal._lose("was removed")
    path.unlink()
    site.journal.close()
    assert Site(path, [sessions["gru"]]).open().states() == states


def test_a_kill_while_a_database_is_set_aside_leaves_no_old_state_behind(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file without its write-ahead log is whole, and of the past."""
    path, groups = tmp_path / "a.db", story(1)
    site = Site(path, [sessions["gru"]]).open()
    for some in groups[:5]:
        site.take({0: some})
    site.snapshot()
    site.journal._open_database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for some in groups[5:9]:
        site.take({0: some})
    site.journal._close_database = lambda: None  # type: ignore[method-assign]
    site.kill()
    rename, renamed = Path.rename, list[Path]()

    def once(self: Path, target: Path) -> Path:
        if renamed:
            raise KeyboardInterrupt
        renamed.append(self)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", once)
        with pytest.raises(KeyboardInterrupt):
            set_aside(path)
    again = Site(path, [sessions["gru"]]).open()
    assert again.states() == {}
    assert "log without its database" in again.journal.aside[0]


def retired(tmp_path: Path, sessions: dict[str, Session]) -> tuple[Path, Site]:
    """A pipeline that was killed, and took the last of its samples without a snapshot."""
    path, groups = tmp_path / "a.db", story(1)
    site = Site(path, [sessions["gru"]]).open()
    for number, some in enumerate(groups[:9]):
        site.take({0: some})
        if number == 4:
            site.snapshot()
    site.kill()
    other = Site(path, [sessions["lstm"]]).open()
    other.take({0: groups[9]})
    other.journal.close()
    return path, site


def test_a_pipeline_that_was_killed_and_taken_away_comes_back_whole(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    """The snapshot of those that went on must not move past its part of the journal."""
    path, site = retired(tmp_path, sessions)
    back = Site(path, [sessions["gru"]]).open()
    assert not back.journal.starts[0].cold
    assert back.states() == site.states()


def test_a_model_that_this_processor_does_not_run_any_more_starts_afresh(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Session:
        raise ModelError("a.db: model 39eb: does not give its golden vectors")

    monkeypatch.setattr(edge_runtime.starting, "session_of", refuse)
    path, _ = retired(tmp_path, sessions)
    assert Site(path, [sessions["gru"]]).open().states() == {}


def test_a_pipeline_comes_back_with_too_few_streams_and_nothing_is_set_aside(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path, site = retired(tmp_path, sessions)
    few = Site(path, [sessions["gru"]], Settings(max_streams=2))
    with pytest.raises(StoreRefusedError, match=r"holds 5 streams of model .*, max_streams is 2"):
        few.open()
    few.kill()
    assert Site(path, [sessions["gru"]]).open().states() == site.states()


def test_two_models_on_one_topic_do_not_take_each_others_place(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    site = Site(tmp_path / "a.db", [sessions["gru"], sessions["lstm"]])
    tracks = [Track(pipeline, "t/{m}", "{m}") for pipeline in site.pipelines]
    site.journal = Journal(site.config, tracks, lambda: START)
    site.open()
    assert [(start.cold, start.lost) for start in site.journal.starts] == [
        ("first start", False)
    ] * 2


def damage_journal(path: Path) -> None:
    """One bit of a row that a start needs."""
    with sqlite3.connect(path) as sql:
        (data,) = sql.execute("SELECT data FROM journal ORDER BY seq DESC").fetchone()
        changed = data[:-1] + bytes([data[-1] ^ 1])
        sql.execute("UPDATE journal SET data = ? WHERE data = ?", (changed, data))
    sql.close()


def test_what_could_be_read_of_a_damaged_outbox_survives_the_next_kill(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path, groups = tmp_path / "a.db", story(1)
    site = Site(path, [sessions["gru"]]).open()
    sent = [lines_of(site.take({0: some})) for some in groups[:5]]
    site.kill()
    damage_journal(path)
    with sqlite3.connect(path) as sql:
        sql.execute("UPDATE outbox SET data = x'00' WHERE id = 2")
    sql.close()
    again = Site(path, [sessions["gru"]]).open()
    assert again.journal.starts[0].lost
    expected = waiting(again.journal)
    lines = [line for line in expected if b"event" not in line]
    assert lines == [line for some in (sent[0], *sent[2:]) for line in some]
    again.kill()
    third = Site(path, [sessions["gru"]]).open()
    assert waiting(third.journal) == expected


def test_damage_that_is_found_late_leaves_nothing_half(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams that were read already are not in the fresh database, so not in memory either."""
    path, groups = tmp_path / "a.db", story(1)
    site = Site(path, [sessions["gru"]]).open()
    site.take({0: groups[0]})
    site.kill()
    inner, tried = Journal._write_start, list[Journal]()

    def late(self: Journal, *args: Any) -> None:
        tried.append(self)
        if len(tried) == 1:
            raise StoreDamagedError("a.db: is damaged: the free list")
        if len(tried) == 2:
            raise StoreUnavailableError("a.db: no room")
        inner(self, *args)

    monkeypatch.setattr(Journal, "_write_start", late)
    again = Site(path, [sessions["gru"]])
    with pytest.raises(StoreUnavailableError):
        again.open()
    again.open()
    (start,) = again.journal.starts
    assert start.lost
    assert "damaged" in start.cold
    assert again.states() == {}
    again.take({0: groups[1]})
    states = again.states()
    again.kill()
    assert Site(path, [sessions["gru"]]).open().states() == states


def test_a_cold_start_is_said_though_it_has_to_be_tried_again(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    Site(path, [sessions["gru"]]).open().journal.close()
    other = Site(path, [sessions["lstm"]])

    def refuse(*_: Any) -> None:
        raise StoreUnavailableError("a.db: no room")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write_start", refuse)
        with pytest.raises(StoreUnavailableError):
            other.open()
    (start,) = other.open().journal.starts
    assert start.lost
    assert "kept beside" in start.cold


def later(blocks: list[Block], number: int) -> list[Block]:
    """The same samples of another time."""
    return [replace(block, ts=block.ts + number * 4000 * SECOND) for block in blocks]


def test_an_epoch_that_is_half_gone_is_not_run_again(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    """From the state at its beginning the rest of it would give other scores."""
    path = tmp_path / "a.db"
    site = Site(path, [sessions["gru"]], keep_h=1000).open()
    live = []
    for number, some in enumerate(story(9, steps=200)):
        live += lines_of(site.take({0: some}))
        if number % 12 == 11:
            site.journal._epochs._bytes = 10**9  # another begins
            site.snapshot()
    whole = recorded_lines(path, sessions["gru"], Wanted())
    site.journal._epochs._keep_ns = 1
    site.journal._epochs.look(site.journal._open_database, START + 2)
    for restarted in (False, True):
        if restarted:
            site.kill()
            site = Site(path, [sessions["gru"]], keep_h=1000).open()
        assert site.journal._epochs.dropping
        live += lines_of(site.take({0: later(story(1)[int(restarted)], 1)}))
        lines = recorded_lines(path, sessions["gru"], Wanted())
        assert 300 < len(lines) < len(whole)
        assert set(lines) <= set(live)
    with sqlite3.connect(path) as sql:
        ((kept, first),) = sql.execute(
            "SELECT (SELECT count(*) FROM journal WHERE seq < first), first FROM epoch WHERE id = 2"
        )
    sql.close()
    assert 0 < kept < first - 1


@contextmanager
def max_bytes(most: int) -> Iterator[None]:
    """As if max_mb were so small."""
    with pytest.MonkeyPatch.context() as patch:
        small = lambda path, **options: open_database(path, **{**options, "max_bytes": most})  # noqa: E731
        patch.setattr(edge_runtime.journal, "open_database", small)
        patch.setattr(edge_runtime.journal, "_MB", most // 16)
        yield


@pytest.mark.parametrize(("end", "epochs"), [("stopped", 1), ("killed", 11)])
def test_a_smaller_max_mb_costs_the_recorder_and_nothing_else(
    tmp_path: Path, sessions: dict[str, Session], end: str, epochs: int
) -> None:
    path, quiet = tmp_path / "a.db", Settings(alarm=AlarmConfig(enter=1e9))
    site = Site(path, [sessions["gru"]], quiet, keep_h=1000).open()
    live = []

    def take(number: int) -> None:
        for some in story(number, steps=600):
            live.extend(lines_of(site.take({0: later(some, number)})))
            site.journal.delivered([token for _, token in site.journal.outbox()])

    for number in range(12):
        take(number)
        if number < epochs:
            site.journal._epochs._bytes = 10**9 * (epochs > 1)
            site.snapshot()
    if end == "stopped":
        site.journal.close()
    else:
        site.kill()
    with max_bytes(700_000):
        site = Site(path, [sessions["gru"]], quiet, max_mb=16, keep_h=1000).open()
        assert site.journal._open_database.used_bytes() > 1_000_000
        for number in range(12, 18):
            take(number)
            site.snapshot()
        for _ in range(20):
            site.snapshot()
        assert site.journal._open_database.used_bytes() < 700_000
        lines = recorded_lines(path, sessions["gru"], Wanted())
        assert 1000 < len(lines) < len(live)
        assert set(lines) <= set(live)
        states = site.states()
        site.kill()
        again = Site(path, [sessions["gru"]], quiet, max_mb=16, keep_h=1000).open()
        assert again.states() == states


def test_a_disk_that_others_have_filled_does_not_cost_the_recorder(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, groups = tmp_path / "a.db", story(1)
    site = Site(path, [sessions["gru"]]).open()
    live = [line for some in groups[:9] for line in lines_of(site.take({0: some}))]
    site.snapshot()

    def refuse(*_: Any, **__: Any) -> None:
        raise StoreFullError("a.db: no room: the disk or max_mb is full")

    group, _ = site.process({0: groups[9]})
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write_here", refuse)
        with pytest.raises(StoreFullError):
            site.journal.commit(group)
    assert sorted(recorded_lines(path, sessions["gru"], Wanted())) == sorted(live)


def test_small_groups_of_the_past_make_room_for_large_ones(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    """A machine that has sent one sample at a time catches up with a backlog."""
    path, quiet = tmp_path / "a.db", Settings(alarm=AlarmConfig(enter=1e9))
    site = Site(path, [sessions["gru"]], quiet, keep_h=1000).open()
    for some in story(1, steps=300):
        for block in some:
            site.take({0: [block]})
    site.journal._epochs._bytes = 10**9
    site.snapshot()
    site.journal._epochs._keep_ns = 1
    site.journal._epochs.look(site.journal._open_database, START + 2)

    def size() -> int:
        with sqlite3.connect(path) as sql:
            (found,) = sql.execute("SELECT sum(length(data)) FROM journal").fetchone()
        sql.close()
        return int(found)

    before = size()
    for some in story(2, steps=300):
        site.take({0: later(some, 1)})
    assert size() < before


@pytest.mark.parametrize("what", ["group", "snapshot"])
def test_a_commit_that_was_reported_as_failed_and_is_there_counts_once(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The disk has it, but did not say so: an I/O error of the last fsync."""
    path, groups = tmp_path / "b.db", story(1)
    undisturbed = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    site = Site(path, [sessions["gru"]]).open()
    inner = Database.transaction

    @contextmanager
    def unsure(self: Database) -> Iterator[sqlite3.Connection]:
        with inner(self) as sql:
            yield sql
        raise StoreUnavailableError("b.db: I/O error (disk I/O error)")

    live = []
    for number, some in enumerate(groups):
        undisturbed.take({0: some})
        group, results = site.process({0: some})
        live += lines_of(results)
        if number == 8 and what == "group":
            with monkeypatch.context() as patch:
                patch.setattr(Database, "transaction", unsure)
                with pytest.raises(StoreUnavailableError):
                    site.journal.commit(group)
        site.journal.commit(group)
        if number == 8 and what == "snapshot":
            site.journal._epochs._bytes = 10**10
            with monkeypatch.context() as patch:
                patch.setattr(Database, "transaction", unsure)
                with pytest.raises(StoreUnavailableError):
                    site.snapshot()
    assert site.journal.aside == []
    assert sorted(recorded_lines(path, sessions["gru"], Wanted())) == sorted(live)
    assert site.journal._epochs.current.id == (2 if what == "snapshot" else 1)
    site.snapshot()
    site.kill()
    again = Site(path, [sessions["gru"]]).open()
    assert again.states() == undisturbed.states()
    assert waiting(again.journal) == waiting(undisturbed.journal)


def test_an_epoch_that_had_to_go_while_it_lasted_makes_way_for_another(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path, groups = tmp_path / "a.db", story(1)
    site = Site(path, [sessions["gru"]]).open()
    for some in groups[:5]:
        site.take({0: some})
    site.snapshot()
    assert site.journal._epochs.make_room(site.journal._open_database, 10**6)
    site.take({0: groups[5]})
    assert recorded_lines(path, sessions["gru"], Wanted()) == []
    site.snapshot()
    live = lines_of(site.take({0: groups[6]}))
    assert sorted(recorded_lines(path, sessions["gru"], Wanted())) == sorted(live)
    states = site.states()
    site.kill()
    assert Site(path, [sessions["gru"]]).open().states() == states


def ids_of(path: Path, stream: str) -> list[str]:
    with sqlite3.connect(path) as sql:
        query = "SELECT flag.id FROM flag JOIN stream ON stream.id = flag.stream WHERE name = ?"
        found = [one for (one,) in sql.execute(query, (stream,))]
    sql.close()
    return found


def test_a_flag_of_a_stream_that_is_forgotten_by_now_is_explained(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path, groups = tmp_path / "a.db", story(1)
    site = Site(path, [sessions["gru"]]).open()
    for some in groups[:12]:
        site.take({0: some})

    def another_epoch() -> None:
        site.journal._epochs._bytes = 10**10
        site.snapshot()

    another_epoch()
    site.pipelines[0].evict(["m1"])
    site.journal.commit(Group(evicted={0: ["m1"]}))
    for some in groups[12:]:
        site.take({0: [block for block in some if block.stream != "m1"]})
        another_epoch()
    flags = ids_of(path, "m1")
    assert len(flags) > 3
    with Recorder(path) as recorder:
        for one in flags:
            reasons = reasons_for(recorder, recorder.flag(one), lambda ts, _: Span(ts - SECOND, ts))
            assert reasons.flag.id == one


def test_samples_of_one_time_are_told_apart_by_their_count(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["gru"]]).open()
    sent = [block for some in story(1, streams=1) for block in some]
    for number, block in enumerate(sent):
        ts = block.ts // (4 * SECOND) * (4 * SECOND)
        site.take({0: [replace(block, ts=ts, seq=np.array([number]))]})
    flags = ids_of(path, "m0")
    assert len(flags) > 10
    with Recorder(path) as recorder:
        for one in flags:
            flag = recorder.flag(one)
            reasons = reasons_for(recorder, flag, lambda ts, _: Span(ts - 9 * SECOND, ts))
            (row,) = rows_of(reasons, 0, 0)
            assert str(row.score) == str(np.float32(flag.message["score"]))
            assert list(row.values.values()) == sent[flag.message["seq"]].values[0].tolist()


def test_a_database_is_made_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is left undone when it is closed, such as a log that could not be moved."""
    path, inner, others = tmp_path / "a.db", edge_runtime.database._connection, []

    def with_a_reader(place: Path, options: str = "") -> sqlite3.Connection:
        connection = inner(place, options)
        others.append(sqlite3.connect(place, isolation_level=None))
        others[-1].execute("BEGIN")
        others[-1].execute("SELECT * FROM sqlite_schema").fetchall()
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(edge_runtime.database, "_connection", with_a_reader)
        with pytest.raises(StoreUnavailableError, match="locked"):
            create_database(path)
    assert list(tmp_path.iterdir()) == []
    for other in others:
        other.close()
    create_database(path)
    assert [found.name for found in tmp_path.iterdir()] == ["a.db"]
    open_database(path, synchronous="full", max_bytes=10**8).require_whole()


def test_a_file_system_without_a_log_is_said_and_a_file_without_one_gets_it(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, inner = tmp_path / "a.db", edge_runtime.database._connection
    with monkeypatch.context() as patch:
        patch.setattr(
            edge_runtime.database, "_connection", lambda p, _="": inner(p, "?vfs=unix-none")
        )
        site = Site(path, [sessions["gru"]])
        with pytest.raises(StoreUnavailableError, match="wanted a file system on which"):
            site.open()
        site.kill()
    Site(path, [sessions["gru"]]).open().journal.close()
    with sqlite3.connect(path) as sql:
        assert sql.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    sql.close()
    site = Site(path, [sessions["gru"]]).open()
    assert site.journal._open_database.rows("PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE snapshot SET stream = 9 WHERE key = (SELECT max(key) FROM snapshot)",
        "UPDATE snapshot SET key = key + (1 << 33) WHERE key = 1 << 32 | 3",
        "UPDATE journal SET pipeline = 9 WHERE seq = (SELECT max(seq) - 1 FROM journal)",
        "UPDATE journal SET pipeline = 2 WHERE seq = (SELECT max(seq) - 1 FROM journal)",
        "DELETE FROM journal WHERE seq = (SELECT max(seq) - 1 FROM journal)",
        "UPDATE epoch SET first = first + 1",
        "UPDATE meta SET value = x'00' WHERE key = 'snapshot'",
        "UPDATE outbox SET id = 99 WHERE id = 3",
        "the name of a stream in the index that finds it",
    ],
)
def test_what_says_where_a_row_belongs_is_checked_too(
    tmp_path: Path, sessions: dict[str, Session], change: str
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["gru"], sessions["lstm"]]).open()
    for number, some in enumerate(story(1)[:12]):
        site.take({0: some})
        if number in (4, 7):
            site.journal._epochs._bytes = 10**9 * (number == 4)
            site.snapshot()
    site.kill()
    with sqlite3.connect(path) as sql:
        if change.startswith("the name"):
            query = "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_stream_1'"
            (root,) = sql.execute(query).fetchone()
        else:
            sql.execute(change)
            assert sql.total_changes
    sql.close()
    if change.startswith("the name"):
        content = bytearray(path.read_bytes())
        content[content.index(b"m3", (root - 1) * 4096) + 1] ^= 1
        path.write_bytes(content)
    again = Site(path, [sessions["gru"], sessions["lstm"]]).open()
    assert all(start.lost for start in again.journal.starts)
    assert again.states() == {}
