"""Millions of messages: memory stays, the database keeps its bound, and every flag is right."""

import time
from collections.abc import Iterator

from conftest import Broker
from torture.ear import Ear
from torture.figures import FULL, Figures
from torture.memory import Memory
from torture.story import HALL, PLANT, Story
from torture.tape import Message
from torture.works import MakeWorks

PARTS = 31 if FULL else 4
STREAMS, ROUNDS = (500, 100) if FULL else (250, 20)
MAX_MB = 64 if FULL else 16
MOST_LOG_MB = 32  # what SQLite may need beside the database
RARE = 2.5  # the level that a score must exceed
MOST_MB_PER_MILLION = 1.0


def test_a_long_run(broker: Broker, make_works: MakeWorks, figures: Figures) -> None:
    works = make_works(broker)
    reference = works.configure("changes", state=f"max_mb = {MAX_MB}", enter=RARE)
    largest = {"gateway.db": 0.0, "gateway.db-wal": 0.0}
    sent = 0
    began = time.monotonic()
    with Ear(broker.port) as ear, works.daemon(ear) as daemon:
        memory = Memory(daemon.pid)
        tape, before = list(messages(0)), None
        for part in range(PARTS):
            machines = works.machines(tape)
            sent += len(tape)
            # While they send: what was sent before, offline, and what is to be sent next.
            if before is not None:
                works.replay_one(reference, before)
            tape, before = list(messages(part + 1)), machines
            machines.finish(300.0)
            works.hear_all(ear, 300.0)
            memory.note(sent)
            for name, most in largest.items():
                size = works.database.with_name(name).stat().st_size / 1e6
                largest[name] = max(size, most)
    took_s = time.monotonic() - began
    counts = works.assert_as_replayed(ear, reference)
    assert largest["gateway.db"] <= MAX_MB
    assert largest["gateway.db-wal"] <= MOST_LOG_MB
    assert counts.flags > 20
    assert counts.repeated_flags == 0
    if FULL:
        assert memory.mb_per_million() < MOST_MB_PER_MILLION
    figures.note(
        "soak",
        {
            "messages": reference.messages,
            "samples that the models took": reference.admitted,
            "seconds": took_s,
            "messages a second": reference.messages / took_s,
            "flags": counts.flags,
            "resets": counts.resets,
            **memory.row(),
            **{f"{name} at most, MB": most for name, most in largest.items()},
        },
    )


def messages(part: int) -> Iterator[Message]:
    """Machines that two models watch, and others that one looks ahead at; a part of a long run."""
    for topic in (PLANT, HALL):
        yield from Story(
            seed=9,
            streams=STREAMS,
            rounds=ROUNDS,
            topic=topic,
            first=part * ROUNDS,
            silences=0.0005,
            repeats=0.002,
        ).messages()
