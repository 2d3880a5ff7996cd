"""Flipped bits and files cut off: a damaged database is noticed and set aside, never used.

A start from it has one of three ends. It is cold and says so, and the damaged file lies beside; it
is refused, because the file claims to be another program's; or it finds nothing wrong, and then
every stream has a state that it has really had. The newest one, if the log is whole: where SQLite's
log is damaged it ends there, as after a power cut, and nobody can see from the inside that there
was more.
"""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from conftest import Broker
from edge_runtime.config import StateConfig, load_gateway
from edge_runtime.errors import StoreError
from edge_runtime.journal import Journal
from edge_runtime.pipeline import Pipeline
from edge_runtime.routes import Route, load_routes
from edge_runtime.tracks import Track
from torture.ear import Ear
from torture.figures import FULL, Figures
from torture.reference import States, assert_same_states, histories, states_of
from torture.story import WILD, both_kinds
from torture.tape import Message
from torture.works import PATIENCE_S, MakeWorks, Works

DAMAGES = 3000 if FULL else 50


def flip(data: bytearray, chance: random.Random) -> None:
    """Some bits, anywhere."""
    for _ in range(chance.choice((1, 1, 3, 30))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def zero(data: bytearray, chance: random.Random) -> None:
    """A sector that was never written."""
    at = chance.randrange(len(data)) & ~511
    data[at : at + 512] = bytes(len(data[at : at + 512]))


def cut(data: bytearray, chance: random.Random) -> None:
    """The end is missing."""
    del data[chance.randrange(len(data)) :]


def swap(data: bytearray, chance: random.Random) -> None:
    """A page stands where another one belongs."""
    one, other = (chance.randrange(len(data) // 4096) * 4096 for _ in range(2))
    data[one : one + 4096] = data[other : other + 4096]


DAMAGE: Sequence[Callable[[bytearray, random.Random], None]] = (flip, zero, cut, swap)


def test_a_damaged_database_is_never_taken_for_a_good_one(
    broker: Broker, make_works: MakeWorks, figures: Figures, tmp_path: Path
) -> None:
    works = make_works(broker)
    reference = works.configure()
    messages = half_a_journal(works)
    reference.play(messages)
    newest, ever = reference.states(), histories(works.config, messages)
    routes = load_routes(load_gateway(works.config))
    began, ends = time.monotonic(), Counter[str]()
    for number in range(DAMAGES):
        scratch = tmp_path / f"damage-{number}"
        ends[outcome(works, scratch, routes, Wanted(newest, ever))] += 1
        shutil.rmtree(scratch)
    assert ends["set aside"] > DAMAGES / 50  # much of a database is the past, which no start reads
    assert ends["as it was"] > DAMAGES / 10
    figures.note(
        "damaged databases",
        {"damaged": DAMAGES, "seconds": time.monotonic() - began, **dict(sorted(ends.items()))},
    )


class Wanted(NamedTuple):
    """The newest state of each stream, and every one that it has had."""

    newest: States
    ever: Mapping[tuple[int, str], set[bytes]]


def half_a_journal(works: Works) -> list[Message]:
    """A gateway that was stopped, started, and killed; everything that it was sent."""
    sent = []
    with Ear(works.broker.port) as ear:
        for seed in (6, 7):
            with works.daemon(ear) as daemon:
                machines = works.machines(both_kinds(seed, 2, **WILD))
                machines.finish(PATIENCE_S)
                sent += [*machines.sent(), works.hear_all(ear)]
                if seed == 7:
                    works.kill(daemon)
    return sent


def outcome(works: Works, scratch: Path, routes: Sequence[Route], wanted: Wanted) -> str:
    """Damages a copy of the database and starts from it; what that came to."""
    chance = random.Random(scratch.name)
    scratch.mkdir()
    path = scratch / works.database.name
    names = [path.name, f"{path.name}-wal"]
    for name in names:
        shutil.copy(works.database.with_name(name), scratch / name)
    target = scratch / chance.choice(names)
    data = bytearray(target.read_bytes())
    chance.choice(DAMAGE)(data, chance)
    target.write_bytes(data)
    pipelines = [Pipeline(r.pipeline.session, r.pipeline.settings) for r in routes]
    tracks = [
        Track(pipeline, route.config.topic, route.config.stream)
        for pipeline, route in zip(pipelines, routes, strict=True)
    ]
    journal = Journal(StateConfig(path=path), tracks)
    try:
        journal.open()
    except StoreError as error:
        print(scratch.name, error)
        assert target.exists()
        return "refused"
    finally:
        journal.close()
    found = states_of(pipelines)
    if journal.aside:
        assert found == {}
        assert all(start.cold and start.lost for start in journal.starts)
        assert [*scratch.glob("*.damaged-*")]
        return "set aside"
    if found == wanted.newest:
        return "as it was"
    if target.suffix != ".db-wal":
        assert_same_states(wanted.newest, found)
    strange = [key for key, record in found.items() if record not in wanted.ever[key]]
    assert not strange, f"{len(strange)} streams have a state that they have never had"
    return "as it was before the damage in the log"
