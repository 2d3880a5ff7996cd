"""The network between gateway and broker is cut, slow, narrow and half open, under load."""

import random
import time
from collections import Counter

from conftest import Broker
from proxy import Proxy
from torture.ear import Ear
from torture.figures import FULL, Figures
from torture.story import WILD, both_kinds
from torture.works import PATIENCE_S, MakeWorks, Works

KEEPALIVE_S = 4 if FULL else 2
# What the broker and the test take themselves; in full that is in the promised time.
LAG_S = 0.0 if FULL else 0.5
# In short slow enough for the messages to last on any machine.
RATE = 800.0 if FULL else 300.0
BLACK_HOLES = {"half open": (True, True), "mute": (True, False), "deaf": (False, True)}
FAULTS = ["cut", "reset", "late", "narrow", *BLACK_HOLES]
ROUNDS = 5 if FULL else 1


def test_a_bad_network(broker: Broker, make_works: MakeWorks, figures: Figures) -> None:
    chance = random.Random(12)
    faults = FAULTS * ROUNDS
    chance.shuffle(faults)
    noticed: list[float] = []
    began = time.monotonic()
    with Proxy(broker.port) as proxy, Ear(broker.port) as ear:
        works = make_works(broker, proxy.port)
        reference = works.configure(broker=f"keepalive_s = {KEEPALIVE_S}")
        works.introduce(ear)
        machines = works.machines(both_kinds(3, 8 * len(faults) + 10, **WILD), rate=RATE)
        with works.daemon(ear, seam="never", log_level="warning"):
            for fault in faults:
                time.sleep(chance.uniform(0.2, 0.8))
                suffer(fault, works, proxy, ear, noticed)
            assert machines.busy, "the machines had nothing left to send"
            machines.stop()
            machines.finish(PATIENCE_S)
            works.hear_all(ear)
        connections = proxy.connections
        counts = works.assert_as_replayed(ear, reference)
    assert counts.flags > 20
    assert connections > len(faults) / 2
    assert max(noticed) < 1.5 * KEEPALIVE_S + LAG_S
    figures.note(
        "bad network",
        {
            "seconds": time.monotonic() - began,
            **{f"times {fault}": count for fault, count in sorted(Counter(faults).items())},
            "connections": connections,
            "noticed after keep-alives, at most": max(noticed) / KEEPALIVE_S,
            "messages": reference.messages,
            "flags": counts.flags,
            "flags said again": counts.repeated_flags,
            "scores said again": counts.repeated_scores,
        },
    )


def suffer(fault: str, works: Works, proxy: Proxy, ear: Ear, noticed: list[float]) -> None:
    """One fault, until it is over and the gateway is back."""
    began = time.monotonic()
    if fault in BLACK_HOLES:
        up, down = BLACK_HOLES[fault]
        said = works.log.stat().st_size
        proxy.blackhole(up=up, down=down)
        at = await_line(works, "next attempt in", said)
        noticed.append(at - proxy.last_down)
        proxy.heal()
        ear.until_word("online", began, PATIENCE_S)
    elif fault in ("cut", "reset"):
        proxy.cut(reset=fault == "reset")
        ear.until_word("online", began, PATIENCE_S)
    elif fault == "late":
        proxy.delay(0.3)
        time.sleep(2.0)
        proxy.heal()
    else:
        proxy.throttle(20_000)
        time.sleep(2.0)
        proxy.heal()


def await_line(works: Works, text: str, since: int) -> float:
    """Waits until the daemon has logged it behind that byte; when that was, seconds since 1970."""
    deadline = time.time() + PATIENCE_S
    with works.log.open(encoding="utf-8") as log:
        log.seek(since)
        while text not in log.read():
            assert time.time() < deadline, f"{text!r} was not logged"
            time.sleep(0.01)
    return time.time()
