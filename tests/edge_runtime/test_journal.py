"""The journal: what is committed survives, what survives gives the same bits.

A `Gateway` of its own kind stands in for the daemon: pipelines and a journal, ended at any moment
by being forgotten. Kills of real processes are in tests/torture.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_runtime.journal
import edge_runtime.tracks
from edge_runtime.config import AlarmConfig
from edge_runtime.database import open_database
from edge_runtime.epochs import EPOCHS
from edge_runtime.errors import (
    StoreDamagedError,
    StoreRefusedError,
    StoreUnavailableError,
)
from edge_runtime.journal import Journal
from edge_runtime.recorder import Recorder, Wanted
from edge_runtime.results import Block
from edge_runtime.session import Session, load_model
from edge_runtime.settings import Settings
from edge_runtime.store import Group
from edge_runtime.tracks import Track
from journals import ALARM, SECOND, START, Site, lines_of, locked, recorded_lines, story, waiting
from plant import wave
from sample_models import sample_model


@pytest.fixture(scope="module")
def sessions() -> dict[str, Session]:
    return {cell: load_model(sample_model(cell)) for cell in ("lstm", "gru")}


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_gateway_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, sessions: dict[str, Session], seed: int
) -> None:
    """Two models, killed and started again at random groups, with snapshots in between."""
    rng = np.random.default_rng(seed)
    both = list(sessions.values())
    undisturbed = Site(tmp_path / "a.db", both).open()
    site = Site(tmp_path / "b.db", both).open()
    run_again = 0
    for some, other in zip(story(seed), story(seed + 100), strict=True):
        blocks = {0: some, 1: other}
        assert lines_of(undisturbed.take(blocks)) == lines_of(site.take(blocks))
        if rng.random() < 0.3:
            site.snapshot()
        if rng.random() < 0.4:
            site.kill()
            site = Site(tmp_path / "b.db", both).open()
            assert not any(start.cold for start in site.journal.starts)
            run_again += sum(start.samples for start in site.journal.starts)
            assert site.states() == undisturbed.states()
    assert run_again > 50
    assert site.states() == undisturbed.states()


@pytest.mark.parametrize(
    ("per_stream", "most", "most_per_stream", "groups"),
    [(16, 10, 3, 3), (16, 20, 3, 4), (2, 10, 3, 2)],
)
def test_a_snapshot_is_due_after_so_many_samples(
    tmp_path: Path,
    sessions: dict[str, Session],
    monkeypatch: pytest.MonkeyPatch,
    per_stream: int,
    most: int,
    most_per_stream: int,
    groups: int,
) -> None:
    """Of five streams, a sample of each in a group."""
    monkeypatch.setattr(edge_runtime.journal, "SNAPSHOT_EVERY_S", -1.0)
    monkeypatch.setattr(edge_runtime.journal, "SAMPLES_PER_STREAM", per_stream)
    monkeypatch.setattr(edge_runtime.journal, "MOST_SAMPLES", most)
    monkeypatch.setattr(edge_runtime.journal, "MOST_PER_STREAM", most_per_stream)
    site = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    blocks, before = [block for some in story(1) for block in some], site.journal.snapshots
    for group in range(1, groups + 1):
        assert site.journal.snapshots == before
        site.take({0: blocks[5 * group - 5 : 5 * group]})
        site.journal.tidy(START)
    assert site.journal.snapshots == before + 1


def test_a_snapshot_comes_before_the_journal_fills_max_mb(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was journalled since the last one can go; without one nothing would fit."""
    monkeypatch.setattr(edge_runtime.journal, "SNAPSHOT_EVERY_S", -1.0)
    monkeypatch.setattr(edge_runtime.journal, "SAMPLES_PER_STREAM", 1 << 30)
    monkeypatch.setattr(edge_runtime.journal, "MOST_SAMPLES", 1 << 30)
    site = Site(tmp_path / "a.db", [sessions["gru"]], max_mb=16).open()
    before, rows = site.journal.snapshots, 1 << 14
    values = wave(np.random.default_rng(0), 1, rows)[0].astype(np.float32)
    for number in range(15):  # of 330 kB each
        ts = START + SECOND * (number * rows + np.arange(rows))
        group = Group()  # which leads to nothing that would have to be published
        group.add(0, site.pipelines[0].process([Block("m0", ts, values)], START * 2))
        site.journal.commit(group)
        site.journal.tidy(START)
    assert site.journal.snapshots == before + 2


def test_many_streams_are_written_down_some_at_a_time(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_runtime.tracks, "_AT_ONCE", 2)
    site = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    for some in story(2):
        site.take({0: some})
    before = site.states()
    site.snapshot()
    site.kill()
    site = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    assert site.journal.starts[0].samples == 0
    assert site.states() == before
    assert len(before) == 5


def test_what_has_not_left_leaves_after_the_start_in_order(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    site = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    groups = story(1)
    for some in groups[:4]:
        site.take({0: some})
    sent = list(site.journal.outbox())
    first = [token for _, token in sent if token == sent[0][1]]
    site.journal.delivered(first[:-1])  # all but one of the first group
    site.take({0: groups[4]})
    more = [publication.payload for publication, _ in site.journal.outbox()]
    site.kill()
    again = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    assert waiting(again.journal) == [publication.payload for publication, _ in sent] + more
    again.journal.delivered(first)
    again.take({0: groups[5]})  # the row goes with the next transaction
    again.kill()
    left = waiting(Site(tmp_path / "a.db", [sessions["gru"]]).open().journal)
    expected = [publication.payload for publication, token in sent if token != first[0]] + more
    assert left[: len(expected)] == expected


def test_an_idle_gateway_forgets_what_was_delivered(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_runtime.journal, "_IDLE_S", 0.0)
    site = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    site.take({0: story(1)[0]})
    site.journal.delivered([token for _, token in site.journal.outbox()])
    site.journal.tidy(START)
    site.kill()
    assert waiting(Site(tmp_path / "a.db", [sessions["gru"]]).open().journal) == []


@contextmanager
def full(path: Path) -> Iterator[None]:
    """Nothing fits any more."""
    assert path.stat().st_size
    with pytest.MonkeyPatch.context() as patch:
        small = lambda path, **options: open_database(path, **{**options, "max_bytes": 0})  # noqa: E731
        patch.setattr(edge_runtime.journal, "open_database", small)
        yield


@contextmanager
def folder_gone(path: Path) -> Iterator[None]:
    """A disk that is not mounted."""
    aside = path.parent.with_name("elsewhere")
    path.parent.rename(aside)
    yield
    aside.rename(path.parent)


@pytest.mark.parametrize("fault", [locked, folder_gone])
def test_a_group_that_cannot_be_made_safe_is_refused_and_tried_again(
    tmp_path: Path, sessions: dict[str, Session], fault: Any
) -> None:
    (tmp_path / "state").mkdir()
    path = tmp_path / "state" / "b.db"
    undisturbed = Site(tmp_path / "a.db", [sessions["lstm"]]).open()
    site = Site(path, [sessions["lstm"]]).open()
    for number, some in enumerate(story(3)):
        undisturbed.take({0: some})
        group, _ = site.process({0: some})
        if number % 6 == 2:
            if fault is folder_gone:
                site.journal._close_database()
            with fault(path):
                for _ in range(3):
                    with pytest.raises(StoreUnavailableError, match=r"b\.db"):
                        site.journal.commit(group)
        site.journal.commit(group)
    assert site.journal.aside == []
    site.kill()
    again = Site(path, [sessions["lstm"]]).open()
    assert again.states() == undisturbed.states()
    assert waiting(again.journal) == waiting(undisturbed.journal)


def test_a_full_database_refuses_and_loses_nothing(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path = tmp_path / "b.db"
    undisturbed = Site(tmp_path / "a.db", [sessions["lstm"]]).open()
    site = Site(path, [sessions["lstm"]]).open()
    site.journal._close_database()
    refused = 0
    for some in story(4, steps=400):
        undisturbed.take({0: some})
        group, _ = site.process({0: some})
        site.journal._close_database()
        with full(path):
            with suppress(StoreUnavailableError):
                site.journal.commit(group)
                continue
            refused += 1
            with pytest.raises(StoreUnavailableError, match="no room"):
                site.journal.commit(group)
        site.journal.commit(group)
    assert refused > 3
    site.kill()
    assert Site(path, [sessions["lstm"]]).open().states() == undisturbed.states()


def test_the_database_may_be_away_at_the_start(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["gru"]]).open()
    site.take({0: story(1)[0]})
    states = site.states()
    site.kill()
    again = Site(path, [sessions["gru"]])
    with locked(path), pytest.raises(StoreUnavailableError, match="locked by another process"):
        again.open()
    assert again.states() == {}
    assert again.open().states() == states


@pytest.mark.parametrize("how", ["removed", "replaced", "overwritten"])
def test_a_database_that_is_lost_while_running_is_written_anew_from_memory(
    tmp_path: Path, sessions: dict[str, Session], how: str
) -> None:
    path = tmp_path / "b.db"
    undisturbed = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    site = Site(path, [sessions["gru"]]).open()
    groups = story(2)
    for some in groups[:10]:
        undisturbed.take({0: some})
        site.take({0: some})
    if how == "removed":
        path.unlink()
    elif how == "replaced":
        other = Site(tmp_path / "c.db", [sessions["gru"]]).open()
        other.journal.close()
        (tmp_path / "c.db").replace(path)
    else:
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
        Path(f"{path}-wal").write_bytes(b"")
        site.journal._close_database()
    for some in groups[10:]:
        undisturbed.take({0: some})
        site.take({0: some})
    assert len(site.journal.aside) == 1
    asides = [found for found in tmp_path.glob("b.db.damaged-*") if found.name[-4] != "-"]
    assert len(asides) == (how != "removed")
    assert all(site.journal.aside[0].startswith(f"{found.name}: ") for found in asides)
    site.kill()
    again = Site(path, [sessions["gru"]]).open()
    assert again.states() == undisturbed.states()
    assert waiting(again.journal) == waiting(undisturbed.journal)


def places(path: Path) -> dict[str, int]:
    """Where in the file the content of each table begins to hold something of ours."""
    with sqlite3.connect(path) as sql:
        found = {
            "journal": sql.execute("SELECT data FROM journal ORDER BY seq DESC").fetchone()[0],
            "snapshot": sql.execute("SELECT record FROM snapshot").fetchone()[0],
            "outbox": sql.execute("SELECT data FROM outbox").fetchone()[0],
        }
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sql.close()
    content = path.read_bytes()
    return {"page": 4096, "header": 2, **{k: content.index(v[:60]) + 40 for k, v in found.items()}}


@pytest.mark.parametrize("place", ["journal", "snapshot", "outbox", "page", "header", "truncated"])
def test_a_damaged_database_is_set_aside_at_the_start_and_never_deleted(
    tmp_path: Path, sessions: dict[str, Session], place: str
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["lstm"]]).open()
    groups = story(5)
    for some in groups[:8]:
        site.take({0: some})
    site.snapshot()
    for some in groups[8:14]:
        site.take({0: some})
    sent = waiting(site.journal)
    site.kill()
    at = places(path).get(place, 0)
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    if place == "truncated":
        content = content[: len(content) // 2]
    path.write_bytes(content)
    again = Site(path, [sessions["lstm"]]).open()
    (start,) = again.journal.starts
    assert start.lost
    assert "damaged" in start.cold
    assert start.streams == 0
    (aside,) = tmp_path.glob("a.db.damaged-*")
    assert aside.read_bytes() == content
    if place in ("journal", "snapshot"):
        assert waiting(again.journal) == sent  # which could still be read
    again.take({0: groups[14]})
    again.kill()
    assert not Site(path, [sessions["lstm"]]).open().journal.starts[0].cold


def test_an_empty_file_is_damage_and_a_strangers_database_is_left_alone(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    empty, other = tmp_path / "empty.db", tmp_path / "other.db"
    empty.touch()
    assert Site(empty, [sessions["gru"]]).open().journal.starts[0].lost
    with sqlite3.connect(other) as sql:
        sql.execute("CREATE TABLE recipes (name)")
    sql.close()
    before = other.read_bytes()
    with pytest.raises(StoreRefusedError, match="of another program"):
        Site(other, [sessions["gru"]]).open()
    assert other.read_bytes() == before


def test_a_database_of_a_newer_version_is_left_alone(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path = tmp_path / "a.db"
    Site(path, [sessions["gru"]]).open().journal.close()
    with sqlite3.connect(path) as sql:
        sql.execute("PRAGMA user_version = 3")
    sql.close()
    with pytest.raises(StoreRefusedError, match=r"version 2, got 3: .* newer"):
        Site(path, [sessions["gru"]]).open()


def test_a_second_daemon_is_refused(tmp_path: Path, sessions: dict[str, Session]) -> None:
    site = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    with pytest.raises(StoreRefusedError, match="another daemon uses it"):
        Site(tmp_path / "a.db", [sessions["gru"]]).open()
    site.journal.close()
    Site(tmp_path / "a.db", [sessions["gru"]]).open()


def test_a_log_without_its_database_is_set_aside(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    site = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    site.take({0: story(1)[0]})
    log = Path(f"{site.config.path}-wal").read_bytes()
    site.kill()
    site.config.path.unlink()
    Path(f"{site.config.path}-wal").write_bytes(log)
    again = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    assert again.states() == {}
    (aside,) = tmp_path.glob("a.db.damaged-*-wal")
    assert aside.read_bytes() == log


def test_the_state_of_another_model_is_not_used_and_kept_beside(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["gru"]]).open()
    groups = story(1)
    for some in groups[:5]:
        site.take({0: some})
    states = site.states()
    site.journal.close()
    other = Site(path, [sessions["lstm"]]).open()
    (start,) = other.journal.starts
    assert start.lost
    assert sessions["gru"].digest[:16] in start.cold
    assert other.states() == {}
    other.take({0: groups[5]})
    other.journal.close()
    back = Site(path, [sessions["gru"]]).open()
    assert not back.journal.starts[0].cold
    assert back.states() == states


def test_pipelines_that_differ_in_their_alarms_alone_are_told_apart(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    def twins() -> Site:
        site = Site(tmp_path / "a.db", [sessions["gru"]] * 2)
        tracks = [Track(pipeline, "t/{m}", "{m}") for pipeline in site.pipelines]
        site.journal = Journal(site.config, tracks, lambda: START)
        return site.open()

    first = twins()
    first.take({0: story(1)[0], 1: story(2)[0] + story(2)[1]})
    states = first.states()
    first.kill()
    assert twins().states() == states


def test_settings_that_change_hold_from_the_start_on_and_not_before(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    """What was decided stays decided, although it is decided again in order to start."""
    gentle = Settings(alarm=replace(ALARM, enter=5.0))
    path, groups = tmp_path / "b.db", story(6)
    undisturbed = Site(tmp_path / "a.db", [sessions["lstm"]]).open()
    site = Site(path, [sessions["lstm"]]).open()
    for some in groups[:12]:
        undisturbed.take({0: some})
        site.take({0: some})
    assert site.pipelines[0].streams.raised.any()
    site.kill()
    again = Site(path, [sessions["lstm"]], gentle).open()
    assert again.states() == undisturbed.states()
    live = lines_of([r for some in groups[12:] for r in again.take({0: some})])
    again.journal.close()
    with Recorder(path) as recorder:
        (recorded,) = recorder.pipelines()
        runs = list(recorder.replay(recorded, Wanted(), sessions["lstm"]))
    assert [run.settings for run in runs] == [Settings(alarm=ALARM), gentle]
    assert sorted(lines_of([runs[1].result])) == sorted(live)


def test_fewer_streams_than_there_are_is_refused(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    site = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    site.take({0: [block for some in story(1) for block in some]})
    site.kill()
    few = Site(tmp_path / "a.db", [sessions["gru"]], Settings(max_streams=2))
    with pytest.raises(StoreRefusedError, match=r"holds 5 streams of model .*, max_streams is 2"):
        few.open()


def test_an_evicted_stream_stays_evicted(tmp_path: Path, sessions: dict[str, Session]) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["gru"]]).open()
    groups = story(1)
    site.take({0: [block for some in groups[:20] for block in some]})
    site.snapshot()
    for when in ("journal", "snapshot", "back again"):
        if when == "journal":
            site.pipelines[0].evict(["m1", "m2"])
            site.journal.commit(Group(evicted={0: ["m1", "m2"]}))
        elif when == "snapshot":
            site.snapshot()
        else:
            site.take({0: [b for some in groups[20:] for b in some if b.stream != "m2"]})
            site.snapshot()
        states = site.states()
        assert ((0, "m1") in states) == (when == "back again")
        site.kill()
        site = Site(path, [sessions["gru"]]).open()
        assert site.states() == states


def test_the_journal_gives_the_live_scores_again(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["lstm"]]).open()
    live = []
    for number, some in enumerate(story(7)):
        live += lines_of(site.take({0: some}))
        if number % 9 == 5:
            site.snapshot()
    assert sorted(recorded_lines(path, sessions["lstm"], Wanted())) == sorted(live)
    one = recorded_lines(path, sessions["lstm"], Wanted(frozenset(["m3"])))
    assert one == [line for line in live if json.loads(line)["stream"] == "m3"]


def test_the_recorder_keeps_as_much_as_it_may(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest epochs go; what is left gives the live scores again, and the state survives."""
    monkeypatch.setattr(edge_runtime.epochs, "SOFT", 0.04)  # of 16 MB
    path = tmp_path / "b.db"
    quiet = Settings(alarm=AlarmConfig(enter=1e9))  # flags are kept too
    undisturbed = Site(tmp_path / "a.db", [sessions["gru"]], quiet).open()
    site = Site(path, [sessions["gru"]], quiet, max_mb=16).open()
    live: list[bytes] = []
    sizes = []
    for number in range(14):
        shift = number * 4000 * SECOND
        for some in story(number, steps=600):
            blocks = [replace(block, ts=block.ts + shift) for block in some]
            undisturbed.take({0: blocks})
            live += lines_of(site.take({0: blocks}))
            site.journal.delivered([token for _, token in site.journal.outbox()])
        for _ in range(5):
            site.snapshot()
        with sqlite3.connect(path) as sql:
            sizes.append(sql.execute("SELECT sum(length(data)) FROM journal").fetchone()[0])
            epochs = sql.execute("SELECT count(*) FROM epoch").fetchone()[0]
        sql.close()
        assert epochs <= 2 * EPOCHS
    assert max(sizes) < 0.06 * 16e6
    assert sizes[-1] > 0.3 * max(sizes)
    lines = recorded_lines(path, sessions["gru"], Wanted())
    assert 1000 < len(lines) < len(live)
    newest = set(live)
    assert all(line in newest for line in lines)
    assert sorted(lines)[-1000:] == sorted(live)[-1000:]
    site.kill()
    again = Site(path, [sessions["gru"]], quiet, max_mb=16).open()
    assert again.states() == undisturbed.states()


def test_a_recorder_that_keeps_nothing_keeps_what_a_start_needs(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["gru"]], keep_h=0).open()
    for number, some in enumerate(story(8, steps=300)):
        site.take({0: some})
        site.journal.delivered([token for _, token in site.journal.outbox()])
        if number % 3 == 0:
            site.snapshot()
    for _ in range(8):  # each drops some rows
        site.snapshot()
    states = site.states()
    with sqlite3.connect(path) as sql:
        assert sql.execute("SELECT count(*) FROM journal").fetchone()[0] < 5
        assert sql.execute("SELECT count(*) FROM snapshot").fetchone()[0] <= 10
        assert sql.execute("SELECT count(*) FROM flag").fetchone()[0] < 5
    sql.close()
    site.kill()
    assert Site(path, [sessions["gru"]], keep_h=0).open().states() == states


def test_the_journal_begins_where_it_is_asked_for(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["lstm"]], keep_h=1000, max_mb=16).open()
    live = []
    for number, some in enumerate(story(9, steps=200)):
        live += lines_of(site.take({0: some}))
        if number % 8 == 7:
            site.journal._epochs._bytes = 10**9
            site.snapshot()
    since = START + 170 * SECOND
    lines = recorded_lines(path, sessions["lstm"], Wanted(since_ns=since))
    assert len(lines) < 0.8 * len(live)  # it did not begin at the beginning
    late = [line for line in live if json.loads(line)["ts"] * 1_000_000 >= since]
    assert sorted(line for line in lines if line in set(late)) == sorted(late)


def test_a_journal_whose_model_was_changed_by_hand_is_refused(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["gru"]]).open()
    site.take({0: story(1)[0]})
    site.journal.close()
    with sqlite3.connect(path) as sql:
        sql.execute("UPDATE model SET content = ?", (sessions["lstm"].content,))
    sql.close()
    with (
        Recorder(path) as recorder,
        pytest.raises(StoreDamagedError, match="does not hold the model"),
    ):
        recorder.session(recorder.pipelines()[0])
