"""Machines that repeat themselves, stammer and jumble; a broker that delivers again.

Both the machines and the gateway lose their connection all the time, so there is redelivery with
DUP on either side of the broker, beside what the machines send twice as if it were new; and the
daemon is killed in between. Where samples are put in order again, what waits for that is part of
what has to survive.
"""

import random
import time

import pytest

from conftest import Broker
from proxy import Proxy
from torture.ear import Ear
from torture.figures import FULL, Figures
from torture.story import both_kinds
from torture.works import PATIENCE_S, MakeWorks

# In short slow enough for the messages to last on any machine.
RATE = 1000.0 if FULL else 300.0
CUTS = 40 if FULL else 8
EVERY = {"silences": 0.003, "arrays": 0.05, "repeats": 0.05, "swaps": 0.05, "equals": 0.05}
WINDOW = 'late = "reorder"\nreorder_ms = 8000'


@pytest.mark.parametrize("late", ["drop", "reorder"])
def test_machines_that_repeat_themselves_and_jumble(
    broker: Broker, make_works: MakeWorks, figures: Figures, late: str
) -> None:
    chance = random.Random(13)
    began = time.monotonic()
    with Proxy(broker.port) as ours, Proxy(broker.port) as theirs, Ear(broker.port) as ear:
        works = make_works(broker, ours.port)
        reference = works.configure(pipeline=WINDOW if late == "reorder" else "")
        works.introduce(ear)
        messages = both_kinds(4, 3 * CUTS + 20, **EVERY)
        machines = works.machines(messages, rate=RATE, port=theirs.port)
        daemon = works.start(seam="never")
        for number in range(CUTS):
            before = len(ear.heard)
            ear.until(lambda: len(ear.heard) > before + 50, "further scores", PATIENCE_S)  # noqa: B023
            time.sleep(chance.uniform(0.0, 0.4))
            reset = chance.random() < 0.5
            if number % 2:
                ear.until(lambda: theirs.live > 0, "the machines", PATIENCE_S)
                theirs.cut_unheard(reset=reset)  # so they have something to say again
            else:
                ours.cut(reset=reset)
            if number % 4 == 3:
                works.kill(daemon)
                daemon = works.start(seam="never")
        assert machines.busy, "the machines had nothing left to send"
        machines.stop()
        counted = machines.finish(PATIENCE_S)
        works.hear_all(ear)
        daemon.terminate()
        assert daemon.wait(PATIENCE_S) == 0
        counts = works.assert_as_replayed(ear, reference)
    refused = reference.refused
    assert counted["dup"] > 0
    assert min(counts.flags, refused["duplicate"]) > 20
    assert refused["late"] > 20 or late == "reorder"
    figures.note(
        f"jumbled machines, late: {late}",
        {
            "seconds": time.monotonic() - began,
            "cuts of either connection": CUTS,
            "kills": works.kills,
            "messages": reference.messages,
            "sent again, DUP": counted["dup"],
            "samples": reference.admitted,
            **{f"samples refused: {cause}": number for cause, number in sorted(refused.items())},
            "flags": counts.flags,
            "flags said again": counts.repeated_flags,
            "scores said again": counts.repeated_scores,
        },
    )
