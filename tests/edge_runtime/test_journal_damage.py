"""Damaged databases: what is noticed, and that nothing is taken for what it is not."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.database import Database
from edge_runtime.errors import StoreDamagedError, StoreUnavailableError
from edge_runtime.lineage import RETIRED_PIPELINES
from edge_runtime.recorder import Recorder, Wanted
from edge_runtime.session import Session, load_model
from journals import Site, lines_of, recorded_lines, story, waiting
from sample_models import sample_model

PAGE = 4096
INTERIOR = 5  # SQLite file format, section 1.6: a page of a table that leads to others


@pytest.fixture(scope="module")
def sessions() -> dict[str, Session]:
    return {cell: load_model(sample_model(cell)) for cell in ("lstm", "gru")}


def is_noticed(
    folder: Path,
    changed: bytes,
    session: Session,
    states: dict[tuple[int, str], bytes],
    sent: list[bytes],
) -> bool:
    """Starts from a damaged database: set aside and cold, or everything as it was."""
    folder.mkdir()
    (folder / "a.db").write_bytes(changed)
    again = Site(folder / "a.db", [session]).open()
    lost = again.journal.starts[0].lost
    if lost:
        assert again.states() == {}
        assert [p.read_bytes() for p in folder.glob("a.db.damaged-*")] == [changed]
    else:
        assert again.states() == states, folder.name
        assert waiting(again.journal) == sent, folder.name
    again.kill()
    return lost


def test_a_flipped_bit_is_noticed_or_does_not_matter(
    tmp_path: Path, sessions: dict[str, Session], caplog: pytest.LogCaptureFixture
) -> None:
    """Of the tables and of the names, numbers and keys in them: never other states in silence."""
    caplog.set_level("CRITICAL")
    site = Site(tmp_path / "a.db", [sessions["gru"]]).open()
    for number, some in enumerate(story(1)[:12]):
        site.take({0: some})
        if number in (4, 7):
            site.journal._epochs._bytes = 10**9 * (number == 7)
            site.snapshot()
    states, sent = site.states(), waiting(site.journal)
    site.journal._open_database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = (tmp_path / "a.db").read_bytes()
    with sqlite3.connect(tmp_path / "a.db") as sql:
        pages = {
            p for (p,) in sql.execute("SELECT rootpage FROM sqlite_schema WHERE name != 'model'")
        }
    sql.close()
    site.kill()
    used = [at for at, byte in enumerate(content) if byte and at // 4096 + 1 in {1, *pages}]
    rng, noticed = np.random.default_rng(7), 0
    for number in range(150):
        changed = bytearray(content)
        changed[rng.choice(used)] ^= 1 << rng.integers(8)
        noticed += is_noticed(tmp_path / str(number), bytes(changed), sessions["gru"], states, sent)
    assert 40 < noticed < 110


def damaged_site(path: Path, session: Session, snapshot_after: int) -> tuple[Site, bytes]:
    """One that was killed, and its database with everything in the file itself."""
    site = Site(path, [session]).open()
    for number, some in enumerate(story(1)[:20]):
        site.take({0: some})
        if number in (3, snapshot_after):
            site.journal._epochs._bytes = 10**9 * (number == snapshot_after)
            site.snapshot()
    site.journal._open_database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    site.kill()
    return site, content


def pages_of(path: Path, table: str) -> tuple[int, int]:
    """Numbers of a table's root page and of its last leaf."""
    with sqlite3.connect(path) as sql:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        ((root,),) = sql.execute(query, (table,))
    sql.close()
    content, leaf = path.read_bytes(), root
    while content[(leaf - 1) * PAGE] == INTERIOR:
        leaf = int.from_bytes(content[(leaf - 1) * PAGE + 8 :][:4])
    return root, leaf


def replaced(content: bytes, target: int, source: int) -> bytes:
    """A page stands where another one belongs."""
    page = content[(source - 1) * PAGE : source * PAGE]
    return content[: (target - 1) * PAGE] + page + content[target * PAGE :]


@pytest.mark.parametrize("snapshot_after", [7, 11, 19])
def test_a_page_in_anothers_place_is_noticed_or_does_not_matter(
    tmp_path: Path,
    sessions: dict[str, Session],
    caplog: pytest.LogCaptureFixture,
    snapshot_after: int,
) -> None:
    """Also one that is a sound table by itself, such as the journal's first leaf as its root."""
    caplog.set_level("CRITICAL")
    site, content = damaged_site(tmp_path / "a.db", sessions["gru"], snapshot_after)
    sent = waiting(site.journal)
    root, leaf = pages_of(tmp_path / "a.db", "journal")
    assert root != leaf
    pages = range(2, len(content) // PAGE + 1)
    pairs = [(target, source) for target in (root, leaf) for source in pages if source != target]
    pairs += np.random.default_rng(11).integers(2, pages.stop, (100, 2)).tolist()
    noticed = 0
    for number, (target, source) in enumerate(pairs):
        changed = replaced(content, target, source)
        folder = tmp_path / f"{number}-page-{source}-in-the-place-of-{target}"
        noticed += is_noticed(folder, changed, sessions["gru"], site.states(), sent)
    assert noticed > 30


def test_what_is_run_again_of_a_damaged_past_is_as_it_was_or_an_error(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    _, content = damaged_site(tmp_path / "a.db", sessions["gru"], 9)
    right = recorded_lines(tmp_path / "a.db", sessions["gru"], Wanted())
    noticed = 0
    pages = range(2, len(content) // PAGE + 1)
    for number, pair in enumerate(np.random.default_rng(5).integers(2, pages.stop, (200, 2))):
        path = tmp_path / f"{number}.db"
        path.write_bytes(replaced(content, *pair.tolist()))
        try:
            lines = recorded_lines(path, sessions["gru"], Wanted())
        except StoreDamagedError:
            noticed += 1
        else:
            assert lines == right, pair
    assert noticed > 30


def test_pipelines_that_are_forgotten_leave_no_hole_in_the_journal(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    """Killed with more pipelines than are kept beside, and started with one of them."""
    path, groups = tmp_path / "a.db", story(1)
    many = [sessions["gru"]] * (RETIRED_PIPELINES + 4)
    site, lines = Site(path, many).open(), []
    for number, some in enumerate(groups[:6]):
        first, *_ = site.take(dict.fromkeys(range(len(many)), some))
        lines += lines_of([first])
        if number == 2:
            site.snapshot()
    site.kill()
    for _ in range(2):  # the second start finds what the first one has left
        again = Site(path, many[:1]).open()
        assert again.journal.aside == []
        assert again.states() == {key: s for key, s in site.states().items() if key[0] == 0}
        again.kill()
    with Recorder(path) as recorder:
        runs = recorder.replay(recorder.pipelines()[0], Wanted(), sessions["gru"])
        assert sorted(lines_of([run.result for run in runs])) == sorted(lines)


def test_what_was_rescued_is_written_once_though_that_was_reported_as_failed(
    tmp_path: Path, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    site = Site(path, [sessions["gru"]]).open()
    for some in story(1)[:6]:
        site.take({0: some})
    sent = waiting(site.journal)
    site.kill()
    with sqlite3.connect(path) as sql:
        sql.execute("UPDATE meta SET value = x'00' WHERE key = 'snapshot'")
    sql.close()
    failed: list[int] = []
    inner = Database.transaction

    @contextmanager
    def reported(self: Database) -> Iterator[sqlite3.Connection]:
        with inner(self) as sql:
            yield sql
            wrote = sql.execute("SELECT count(*) FROM outbox").fetchone()[0]
        if wrote and again.journal.aside and not failed:
            failed.append(wrote)
            raise StoreUnavailableError("reported as failed")

    again = Site(path, [sessions["gru"]])
    monkeypatch.setattr(Database, "transaction", reported)
    with pytest.raises(StoreUnavailableError, match="reported"):
        again.open()
    again.open()
    assert failed
    assert len(again.journal.aside) == 1
    assert waiting(again.journal) == sent
    again.take({0: story(1)[7]})
    again.kill()
    assert waiting(Site(path, [sessions["gru"]]).open().journal)[: len(sent)] == sent
