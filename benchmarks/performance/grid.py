"""Other sizes of the model, one figure changed at a time: the pipeline beside the model alone."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.performance.chain import NEVER
from benchmarks.performance.measure import Case, Figures, Measure, Plan, alternate, cpu_us
from benchmarks.performance.measure import require_same as same
from benchmarks.performance.models import Alone, lstm, normal
from edge_runtime.payload import NS_PER_MS
from edge_runtime.pipeline import Pipeline
from edge_runtime.results import Block
from edge_runtime.session import Float32, Session
from edge_runtime.settings import Settings

STREAMS = 64
BAR = 1.5
USUAL = {"hidden": 64, "features": 8, "layers": 1}
AXES = {"hidden": (16, 64, 256, 512), "features": (1, 32, 128), "layers": (2, 4)}
SIZES = [(axis, value) for axis, values in AXES.items() for value in values]
CHUNKS = 4
MOST_STEPS, LEAST_STEPS = 512, 16
WEIGHTS_A_CHUNK = 1e7  # read so many times for each stream; keeps large models short
SECOND = 1000 * NS_PER_MS


def measure(plan: Plan) -> Iterator[Figures]:
    """Row 10: a case for each size."""
    for axis, value in SIZES:
        size = {**USUAL, axis: value}
        model = lstm(**size)
        weights = sum(parameter.numel() for parameter in model.detector.parameters())
        steps = int(np.clip(WEIGHTS_A_CHUNK / weights, LEAST_STEPS, MOST_STEPS))
        yield _compared(model.session, steps, plan.size(plan.rounds, 1))


def _compared(session: Session, steps: int, rounds: int) -> Figures:
    count = len(session.contract.features)
    x = normal((CHUNKS + 1, steps, STREAMS, count)).astype(np.float32)
    same("scores", *_scores(session, x))
    sides = {"ours": partial(_ours, session, x), "beside": partial(_beside, session, x)}
    figures = alternate(sides, rounds)
    return Figures(figures["ours"], figures["beside"])


def _blocks(x: Float32) -> list[list[Block]]:
    """Rows ``[chunk, time, stream, feature]`` as they come from files: stream by stream."""
    steps = x.shape[1]
    ts = np.arange(x.shape[0] * steps, dtype=np.int64).reshape(-1, steps) * SECOND
    return [
        [
            Block(f"m{stream}", ts[at], np.ascontiguousarray(chunk[:, stream]))
            for stream in range(STREAMS)
        ]
        for at, chunk in enumerate(x)
    ]


def _pipeline(session: Session) -> Pipeline:
    return Pipeline(session, Settings(max_streams=STREAMS, alarm=NEVER))


def _ours(session: Session, x: Float32) -> float:
    pipeline, blocks = _pipeline(session), _blocks(x)
    pipeline.process(blocks[0], None)

    def work() -> None:
        for chunk in blocks[1:]:
            pipeline.process(chunk, None)

    return cpu_us(work, x[1:, :, :, 0].size)


def _beside(session: Session, x: Float32) -> float:
    alone = Alone.of(session)
    _, first = alone.run(x[0], alone.initial_state(STREAMS))

    def work() -> None:
        state = first
        for chunk in x[1:]:
            _, state = alone.run(chunk, state)

    return cpu_us(work, x[1:, :, :, 0].size)


def _scores(session: Session, x: Float32) -> tuple[Float32, Float32]:
    """All scores of both sides, ``[time, stream]``."""
    pipeline, alone = (
        Pipeline(session, Settings(max_streams=STREAMS, alarm=NEVER)),
        Alone.of(session),
    )
    state = alone.initial_state(STREAMS)
    ours, theirs = [], []
    for blocks, chunk in zip(_blocks(x), x, strict=True):
        result = pipeline.process(blocks, None)
        ours.append(np.stack([scored.score for scored in result.scored], axis=1))
        score, state = alone.run(chunk, state)
        theirs.append(score)
    return np.concatenate(ours), np.concatenate(theirs)


MEASURE = Measure(
    10,
    f"other sizes than {'/'.join(map(str, USUAL.values()))}, {STREAMS} streams, many steps a call: "
    "CPU a row",
    "the model alone",
    [Case(f"{axis} {value}", BAR) for axis, value in SIZES],
    measure,
    2,
)
