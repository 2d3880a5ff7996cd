"""SIGKILL of the broker under load, alone, together with the gateway, or while nobody listens.

Mosquitto 2.0.11 acknowledges a message first and saves it then, so what it has acknowledged in its
last moment may be lost with it. Nobody behind it can know; so these machines send their last
messages anew after a break, and the gateway drops what it knows. On the way out the gateway does
the same with its last publications.
"""

import random
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from conftest import SHIPPED, Broker
from torture.ear import Ear
from torture.figures import FULL, Figures
from torture.story import WILD, both_kinds
from torture.works import PATIENCE_S, MakeWorks

KILLS = 30 if FULL else 4
MOST_A_SECOND = 800.0
MEASURED = 1000  # messages by which the pace is found
MEMORY = 1500


@pytest.fixture
def shipped_broker(mosquitto: str) -> Iterator[Broker]:
    """A broker with the configuration that we ship, but for its addresses and places.

    It writes its memory after each change, and to a kill it is all the same whether that is a disk.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a folder that is in memory, if there is one
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        made = Broker(mosquitto, Path(folder), file=SHIPPED)
        made.start()
        yield made
        made.kill()


def test_a_broker_that_is_killed_all_the_time(
    shipped_broker: Broker, make_works: MakeWorks, figures: Figures
) -> None:
    broker = shipped_broker
    works = make_works(broker)
    reference = works.configure(broker="keepalive_s = 5")
    chance = random.Random(11)
    began = time.monotonic()
    with Ear(broker.port) as ear:
        works.introduce(ear)
        await_saved(broker, b"gw")
        await_saved(broker, b"ear")
        messages = both_kinds(2, 6 * KILLS + 20, **WILD)
        daemon = works.start(seam="never")
        # What still waits in the broker is saved as well, with each change, so one that does not
        # keep up is ever slower.
        rate = min(MOST_A_SECOND, works.pace(ear, islice(messages, MEASURED)) / 3)
        machines = works.machines(messages, rate=rate, memory=MEMORY)
        for number in range(KILLS):
            goes_on(ear)
            time.sleep(chance.uniform(0.0, 2.0))
            power_cut, nobody_listens = number % 3 == 2, number % 3 == 1
            with ear.away() if nobody_listens else nullcontext():
                time.sleep(chance.uniform(0.0, 0.5) * nobody_listens)
                broker.kill()
                if power_cut:
                    works.kill(daemon)
                broker.start()
                if power_cut:
                    daemon = works.start(seam="never")
        assert machines.busy, "the machines had nothing left to send"
        machines.stop()
        counted = machines.finish(PATIENCE_S)
        works.hear_all(ear)
        daemon.terminate()
        assert daemon.wait(PATIENCE_S) == 0
        counts = works.assert_as_replayed(ear, reference)
    assert counts.flags > 20
    figures.note(
        "kills of the broker",
        {
            "kills": KILLS,
            "of them with the gateway": works.kills,
            "of them with nobody listening": KILLS // 3,
            "messages a second": rate,
            "seconds": time.monotonic() - began,
            "messages": reference.messages,
            "sent anew": counted["anew"],
            "sent again, DUP": counted["dup"],
            "flags": counts.flags,
            "flags said again": counts.repeated_flags,
            "scores said again": counts.repeated_scores,
        },
    )


def await_saved(broker: Broker, client_id: bytes) -> None:
    """Waits until the broker has saved a client's session; it is a file that says so."""
    saved = broker.folder / "mosquitto.db"
    deadline = time.monotonic() + PATIENCE_S
    while not saved.exists() or client_id not in saved.read_bytes():
        assert time.monotonic() < deadline, "the broker never saved the session"
        time.sleep(0.02)


def goes_on(ear: Ear) -> None:
    """Waits until scores are heard again."""
    before = len(ear.heard)
    ear.until(lambda: len(ear.heard) > before + 100, "further scores", PATIENCE_S)
