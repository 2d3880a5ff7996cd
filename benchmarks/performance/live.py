"""The daemon on a broker, beside programs that do as little as a subscriber can."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.performance.chain import MAX_BYTES, Chain, require_recovered
from benchmarks.performance.measure import Case, Figures, Measure, Plan, alternate, cpu_s, cpu_us
from benchmarks.performance.measure import require_same as same
from benchmarks.performance.models import Alone, lstm, normal
from benchmarks.performance.processes import (
    COUNTING,
    COUNTING_ALWAYS,
    DAEMON,
    DAEMON_WITHOUT_JOURNAL,
    Place,
    Program,
    place_for,
)
from benchmarks.throughput import FEATURES, START_MS, Load, messages_of
from edge_runtime.config import StateConfig
from edge_runtime.pipeline import Pipeline
from edge_runtime.results import Block
from edge_runtime.session import Float32
from edge_runtime.settings import Settings
from edge_runtime.typed import TypedDecoder

STREAMS = 1000
SAMPLES = 100  # of a message with an array
BATCH = 200  # streams of a call of the model alone
PERIOD_MS = 1000
JOURNAL_BAR, ARRAYS_BAR, BURST_BAR = 1.0, 2.0, 1.2

Float64 = NDArray[np.float64]
Messages = Callable[[], Iterable[tuple[str, bytes]]]


def singles(plan: Plan) -> Iterator[Figures]:
    """Row 1: with the journal, and without."""
    count = plan.size(30_000, 10_000)
    messages = partial(messages_of, Load(0, count, STREAMS))
    programs = {"counter": COUNTING, "memory": DAEMON_WITHOUT_JOURNAL, "daemon": DAEMON}
    sides = {name: partial(_cpu_us, plan, it, messages, count) for name, it in programs.items()}
    sides["daemon"] = partial(sides["daemon"], check=partial(_require_exact, messages))
    figures = alternate(sides, plan.live_rounds, warm=False)
    yield Figures(figures["daemon"], figures["counter"])
    yield Figures(figures["memory"], figures["counter"])


def _cpu_us(
    plan: Plan,
    program: Program,
    messages: Messages,
    samples: int,
    check: Callable[[Place], None] | None = None,
) -> float:
    """CPU microseconds a sample of a program, from subscribed to the last message."""
    with place_for(program, plan.folder) as place:
        with place.ready() as pid:
            before = cpu_s(pid)
            place.feed(messages())
            place.await_done()
            figure = (cpu_s(pid) - before) * 1e6 / samples
        if check is not None:
            check(place)
        return figure


def _require_exact(messages: Messages, place: Place) -> None:
    """The daemon's database against the same messages in one process."""
    chain = Chain(lstm().session, STREAMS)
    chain.take([(topic.split("/")[1], payload) for topic, payload in messages()])
    require_recovered(chain.pipeline, StateConfig(path=place.folder / "gateway.db"))


def arrays(plan: Plan) -> Iterator[Figures]:
    """Row 2: messages with many samples each."""
    ticks, count = plan.size(4, 1), len(FEATURES)
    values = normal((ticks, SAMPLES, STREAMS, count))
    x = values.astype(np.float32)
    same("scores", *_array_scores(values[0, :, :8], x[0, :, :8]))
    samples = ticks * SAMPLES * STREAMS
    sides = {
        "ours": partial(_cpu_us, plan, DAEMON, partial(_arrays_of, values), samples),
        "beside": partial(_alone_us, x),
    }
    figures = alternate(sides, plan.live_rounds, warm=False)
    yield Figures(figures["ours"], figures["beside"])


def _arrays_of(values: Float64) -> Iterator[tuple[str, bytes]]:
    for tick, rows in enumerate(values):
        for stream in range(rows.shape[1]):
            yield f"plant/m{stream}/telemetry", _array(tick, rows[:, stream])


def _array(tick: int, rows: Float64) -> bytes:
    ts = START_MS + tick * SAMPLES * PERIOD_MS
    return f'{{"ts": {ts}, "period_ms": {PERIOD_MS}, "values": {rows.tolist()}}}'.encode()


def _alone_us(x: Float32) -> float:
    """Of samples ``[tick, time, stream, feature]``, some streams at a time."""
    alone = Alone.of(lstm().session)
    parts = [
        [np.ascontiguousarray(part) for part in np.split(tick, STREAMS // BATCH, axis=1)]
        for tick in x
    ]
    states = [alone.run(part, alone.initial_state(BATCH))[1] for part in parts[0]]

    def work() -> None:
        for tick in parts:
            for at, part in enumerate(tick):
                _, states[at] = alone.run(part, states[at])

    return cpu_us(work, x[..., 0].size)


def _array_scores(values: Float64, x: Float32) -> tuple[Float32, Float32]:
    """Of both sides, ``[time, stream]``, for rows ``[time, stream, feature]``."""
    session = lstm().session
    typed = TypedDecoder(FEATURES, MAX_BYTES)
    blocks = []
    for stream in range(values.shape[1]):
        samples = typed.block(_array(0, values[:, stream]))
        if samples is None:
            raise ValueError("wanted an array that is of the common form")
        blocks.append(Block(f"m{stream}", *samples))
    result = Pipeline(session, Settings()).process(blocks, None)
    alone = Alone.of(session)
    score, _ = alone.run(x, alone.initial_state(x.shape[1]))
    return np.stack([scored.score for scored in result.scored], axis=1), score


def burst(plan: Plan) -> Iterator[Figures]:
    """Row 11: what has queued up at the broker meanwhile."""
    count = plan.size(100_000, 10_000)
    messages = partial(messages_of, Load(0, count, STREAMS))
    sides = {
        "ours": partial(_caught_up_s, plan, DAEMON, messages),
        "beside": partial(_caught_up_s, plan, COUNTING_ALWAYS, messages),
    }
    figures = alternate(sides, plan.size(3, 1), warm=False)
    yield Figures(figures["ours"], figures["beside"])


def _caught_up_s(plan: Plan, program: Program, messages: Messages) -> float:
    """Seconds from subscribed to the last message of a session that lay waiting."""
    with place_for(program, plan.folder) as place:
        with place.ready():
            pass
        place.feed(messages())
        with place.ready():
            began = time.perf_counter()
            place.await_done()
            figure = time.perf_counter() - began
        if program == DAEMON:
            _require_exact(messages, place)
        return figure


MEASURES = (
    Measure(
        1,
        f"live, QoS 1, {STREAMS:,} streams: CPU of the daemon a message",
        "a paho subscriber that only counts",
        [Case("journal on", JOURNAL_BAR), Case("no journal", None)],
        singles,
    ),
    Measure(
        2,
        f"live, arrays of {SAMPLES} samples a message: CPU of the daemon a sample",
        f"the model alone, {SAMPLES} steps of {BATCH} streams a call",
        [Case("journal on", ARRAYS_BAR)],
        arrays,
    ),
    Measure(
        11,
        "burst, queued for a session that was away: wall time until caught up",
        "a paho subscriber that only counts",
        [Case(f"{STREAMS:,} streams", BURST_BAR, "s")],
        burst,
    ),
)
