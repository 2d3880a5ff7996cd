"""For orientation, the same rows in other hands; each message is a sample of one of 64 streams."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch

from benchmarks.performance.measure import Case, Figures, Measure, Plan, alternate, cpu_us
from benchmarks.performance.models import START_NS, Alone, Lstm, lstm, normal
from benchmarks.throughput import FEATURES
from edge_runtime.payload import NS_PER_MS
from edge_runtime.pipeline import Pipeline
from edge_runtime.results import NO_SEQ, Abreast
from edge_runtime.session import Float32
from edge_runtime.settings import Settings
from train.layers import in_one_call

STREAMS = 64
WINDOW = 64
SECOND = 1000 * NS_PER_MS

Side = Callable[[Lstm, Float32], float]
"""CPU microseconds a row for samples ``[time, stream, feature]``."""


def measure(plan: Plan) -> Iterator[Figures]:
    """Row 13: the pipeline with a sample of each stream at a time, beside each of the others."""
    ticks = plan.size(400, 100)
    model, x = lstm(), normal((WINDOW + ticks, STREAMS, len(FEATURES))).astype(np.float32)
    sides: dict[str, Side] = {"ours": _pipeline, **OTHERS}
    figures = alternate(
        {name: partial(side, model, x) for name, side in sides.items()}, plan.rounds
    )
    for name in OTHERS:
        yield Figures(figures["ours"], figures[name])


def _pipeline(model: Lstm, x: Float32) -> float:
    pipeline = Pipeline(model.session, Settings(max_streams=STREAMS))
    names, seq = [f"m{number}" for number in range(STREAMS)], np.full(STREAMS, NO_SEQ)
    groups = [
        Abreast(names, np.full(STREAMS, START_NS + tick * SECOND), rows, seq)
        for tick, rows in enumerate(x)
    ]
    for group in groups[:WINDOW]:
        pipeline.process([], None, [group])

    def work() -> None:
        for group in groups[WINDOW:]:
            pipeline.process([], None, [group])

    return cpu_us(work, STREAMS * (len(x) - WINDOW))


def _torch_carrying(model: Lstm, x: Float32) -> float:
    rows = torch.from_numpy(x)

    def work() -> None:
        state = model.detector.initial_state(STREAMS)
        for tick in range(WINDOW, len(rows)):
            _, _, state = model.detector(rows[tick : tick + 1], state, in_one_call)

    with torch.inference_mode():
        return cpu_us(work, STREAMS * (len(x) - WINDOW))


def _torch_windows(model: Lstm, x: Float32) -> float:
    """Of the first tick after the window only: each of its messages costs as much as any other."""
    rows = torch.from_numpy(x[1 : WINDOW + 1])

    def work() -> None:
        for stream in range(STREAMS):
            state = model.detector.initial_state(1)
            model.detector(rows[:, stream : stream + 1], state, in_one_call)

    with torch.inference_mode():
        return cpu_us(work, STREAMS)


def _one_call_a_message(model: Lstm, x: Float32) -> float:
    alone = Alone.of(model.session)
    ticks = range(WINDOW, min(len(x), 2 * WINDOW))

    def work() -> None:
        states = [alone.initial_state(1) for _ in range(STREAMS)]
        for tick in ticks:
            for stream in range(STREAMS):
                row = x[tick : tick + 1, stream : stream + 1]
                _, states[stream] = alone.run(row, states[stream])

    return cpu_us(work, STREAMS * len(ticks))


def _half_space_trees(_: Lstm, x: Float32) -> float:
    from river.anomaly import HalfSpaceTrees

    limits = dict.fromkeys(FEATURES, (-4.0, 4.0))
    trees = [HalfSpaceTrees(seed=0, limits=limits) for _ in range(STREAMS)]
    rows = [
        [dict(zip(FEATURES, row, strict=True)) for row in tick]
        for tick in x[WINDOW - 1 : WINDOW + 8].tolist()
    ]
    for tree, row in zip(trees, rows[0], strict=True):
        tree.learn_one(row)  # grows the trees

    def work() -> None:
        for tick in rows[1:]:
            for tree, row in zip(trees, tick, strict=True):
                tree.score_one(row)
                tree.learn_one(row)

    return cpu_us(work, STREAMS * (len(rows) - 1))


OTHERS: dict[str, Side] = {
    "PyTorch, the state carried": _torch_carrying,
    f"PyTorch, {WINDOW} steps again for each message": _torch_windows,
    "onnxruntime, one call a message": _one_call_a_message,
}
if find_spec("river") is not None:
    OTHERS["River, half-space trees"] = _half_space_trees

MEASURE = Measure(
    13,
    f"for orientation, a sample of each of {STREAMS} streams at a time: CPU a row",
    "the same rows in other hands",
    [Case(name, None) for name in OTHERS],
    measure,
)
