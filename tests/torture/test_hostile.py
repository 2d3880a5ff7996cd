"""Hostile payloads by the million, while good machines go on: nothing changes but some counters."""

import time

from conftest import Broker
from torture.ear import Ear
from torture.figures import FULL, Figures
from torture.hostile import hostile
from torture.memory import Memory
from torture.story import WILD, both_kinds
from torture.works import PATIENCE_S, MakeWorks

PARTS, IN_A_PART = (10, 100_000) if FULL else (5, 4_000)
MACHINES = 20
RATE = 300.0
MOST_MB_PER_MILLION = 1.0


def test_hostile_payloads_change_nothing(
    broker: Broker, make_works: MakeWorks, figures: Figures
) -> None:
    works = make_works(broker)
    reference = works.configure(broker="max_payload_bytes = 3000")
    sent = 0
    began = time.monotonic()
    with Ear(broker.port) as ear, works.daemon(ear) as daemon:
        memory = Memory(daemon.pid)
        good = works.machines(both_kinds(8, 50 * PARTS if FULL else 20, **WILD), rate=RATE)
        messages = list(hostile(0, IN_A_PART, MACHINES))
        for part in range(PARTS):
            enemies = works.machines(message for message, _ in messages)
            samples = [message for message, is_sample in messages if is_sample]
            if part + 1 < PARTS:
                messages = list(hostile(part + 1, IN_A_PART, MACHINES))
            enemies.finish(PATIENCE_S)
            works.hear_all(ear)
            sent += IN_A_PART
            memory.note(sent)
            works.replay_one(reference, enemies, samples)
        good.stop()
        good.finish(PATIENCE_S)
        works.hear_all(ear)
    took_s = time.monotonic() - began
    counts = works.assert_as_replayed(ear, reference)
    assert counts.flags > 20
    if FULL:
        assert memory.mb_per_million() < MOST_MB_PER_MILLION
    figures.note(
        "hostile payloads",
        {
            "hostile": sent,
            "messages of good machines": reference.messages,
            "seconds": took_s,
            "flags": counts.flags,
            **memory.row(),
            **{f"samples taken, refused: {c}": n for c, n in sorted(reference.refused.items())},
        },
    )
