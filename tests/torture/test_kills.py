"""SIGKILL of the daemon under load: at any instant, and at each seam between its parts."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from conftest import Broker
from torture.crashing import FEW, SEAMS
from torture.ear import Ear
from torture.figures import FULL, Figures
from torture.story import WILD, both_kinds
from torture.works import MakeWorks, Works

KILLS = 200 if FULL else len(SEAMS) + 4
AT_SEAMS = 120 if FULL else len(SEAMS)
# In short slow enough for the messages to last longer than the test may.
MOST_A_SECOND = 1500.0 if FULL else 400.0
MEASURED = 1000  # messages by which the pace is found
LONGEST_S = 900 if FULL else 300
AT_A_SEAM_S = 60.0


def test_a_daemon_that_is_killed_all_the_time(
    broker: Broker, make_works: MakeWorks, figures: Figures
) -> None:
    """Nothing is lost, nothing is twice, and what is said again was said before."""
    works = make_works(broker)
    reference = works.configure(state="keep_h = 0.001")  # some seconds
    messages = both_kinds(1, int(LONGEST_S * MOST_A_SECOND / 800), **WILD)
    began = time.monotonic()
    with Ear(broker.port) as ear:
        # The broker keeps what comes while the daemon starts, which must not become ever more.
        with works.daemon(ear, seam="never"):
            rate = min(MOST_A_SECOND, works.pace(ear, islice(messages, MEASURED)) / 2)
        machines = works.machines(messages, rate=rate)
        struck = Counter(kill(works, ear, seam) for seam in schedule())
        assert machines.busy, "the machines had nothing left to send"
        machines.stop()
        with works.daemon(ear):
            machines.finish(60.0)
            works.hear_all(ear)
        counts = works.assert_as_replayed(ear, reference)
    assert works.kills == KILLS
    assert set(struck) >= set(SEAMS)
    assert counts.flags > 20
    assert counts.resets > 5
    figures.note(
        "kills of the daemon",
        {
            "kills": works.kills,
            "seconds": time.monotonic() - began,
            "messages a second": rate,
            "messages": reference.messages,
            "scores": counts.scores,
            "flags": counts.flags,
            "resets": counts.resets,
            "scores said again": counts.repeated_scores,
            "flags said again": counts.repeated_flags,
            **{f"killed {where}": number for where, number in sorted(struck.items())},
        },
    )


def schedule() -> Iterator[str]:
    """Where the daemon is killed each time; empty for any instant."""
    seams = [*SEAMS] * (AT_SEAMS // len(SEAMS))
    plan = seams + [""] * (KILLS - len(seams))
    random.Random(3).shuffle(plan)
    yield from plan


def kill(works: Works, ear: Ear, seam: str) -> str:
    """Starts the daemon, which comes to its end; where it was by then."""
    chance = random.Random(works.kills)
    began = time.monotonic()
    if not seam:
        # Half of them hurry as the others do, and half are killed while they start.
        process = works.start(seam=chance.choice(("", "never")))
        at_work = chance.random() < 0.5
        if at_work:
            ear.until_word("online", began, AT_A_SEAM_S)
        time.sleep(chance.uniform(0.0, 1.0))
        works.kill(process)
        return "at work" if at_work else "at the start"
    nth = chance.randint(1, 3) if seam in FEW else chance.randint(1, 20)
    if seam == "while loading":
        nth = chance.randint(1, 4)
    process = works.start(seam=seam, nth=nth)
    try:
        ended = process.wait(AT_A_SEAM_S)
    finally:
        process.kill()
    assert ended == -signal.SIGKILL, f"{seam}: ended with {ended}:\n{works.log.read_text()[-2000:]}"
    works.kills += 1
    return seam
