"""How the cost of a message grows with the number of streams: decoding, pipeline and journal.

In this process, without a broker: a broker would cost the same for each. A turn ends with a
snapshot of all streams, and has as many messages as a gateway at full rate takes from one snapshot
to the next. Then a start has to find every stream where it was.
"""

import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.performance.chain import (
    VARIETY,
    Chain,
    Messages,
    message,
    payloads,
    require_recovered,
    track_of,
)
from benchmarks.performance.measure import Case, Figures, Measure, Plan, alternate, cpu_us
from benchmarks.performance.models import lstm, normal
from benchmarks.throughput import FEATURES
from edge_runtime.config import StateConfig
from edge_runtime.journal import MOST_PER_STREAM, MOST_SAMPLES, Journal
from edge_runtime.store import Group

SIZES = (10, 100, 1000, 10_000, 100_000)
QUICK_SIZES = 4
JUDGED_FROM = 100
BAR = 1.3
GROUP = 200
FIRST_GROUP = 1000  # while streams are new, which is not timed


def measure(plan: Plan) -> Iterator[Figures]:
    """Row 8: each number of streams beside the one whose median is the least."""
    sizes = SIZES[: plan.size(len(SIZES), QUICK_SIZES)]
    most = plan.size(MOST_SAMPLES, 20_000)
    sides = {
        str(streams): partial(
            _turn, plan, streams, max(most, plan.size(MOST_PER_STREAM, 1) * streams)
        )
        for streams in sizes
    }
    figures = alternate(sides, plan.size(3, 1), warm=not plan.quick)
    best = min(figures.values(), key=statistics.median)
    for streams in sizes:
        yield Figures(figures[str(streams)], best)


def _turn(plan: Plan, streams: int, messages: int) -> float:
    with TemporaryDirectory(dir=plan.folder) as folder:
        chain = Chain(lstm().session, streams)
        config = StateConfig(path=Path(folder) / "gateway.db")
        journal = Journal(config, [track_of(chain.pipeline)])
        journal.open()
        source = _messages(streams)

        def take(group: Messages) -> None:
            committed = Group()
            committed.add(0, chain.take(group))
            journal.commit(committed)

        for at in range(0, streams, FIRST_GROUP):
            take([next(source) for _ in range(min(FIRST_GROUP, streams - at))])
        groups = [[next(source) for _ in range(GROUP)] for _ in range(messages // GROUP)]

        def work() -> None:
            for group in groups:
                take(group)
            journal.close()  # writes the snapshot

        figure = cpu_us(work, messages)
        require_recovered(chain.pipeline, config)
        return figure


def _messages(streams: int) -> Iterator[tuple[str, bytes]]:
    """Of each machine once a second, in no order."""
    bodies = payloads(normal((VARIETY, len(FEATURES))))
    names = [f"m{number}" for number in range(streams)]
    rng, tick = np.random.default_rng(streams), 0
    while True:
        for number in rng.permutation(streams).tolist():
            yield names[number], message(tick, bodies[(number + tick) % VARIETY])
        tick += 1


MEASURE = Measure(
    8,
    "growth, decoding, pipeline and journal in one process: CPU a message",
    "the number of streams that costs least",
    [Case(f"streams {n}", BAR if n >= JUDGED_FROM else None) for n in SIZES],
    measure,
    QUICK_SIZES,
)
