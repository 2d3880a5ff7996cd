"""Pipelines to test, what their streams send, and what is seen of a run."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import handmade_models
from edge_runtime.config import AlarmConfig
from edge_runtime.payload import NS_PER_MS, encode_flag
from edge_runtime.pipeline import Pipeline, Settings
from edge_runtime.results import (
    NO_SEQ,
    STATUS,
    Abreast,
    Block,
    Reset,
    Result,
)
from edge_runtime.session import Session, load_model, session_from_bytes
from handmade_models import LAYOUTS, Layout, layout_model, look_ahead_model
from sample_models import MAX_GAP_MS, sample_model

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
GAP = round(MAX_GAP_MS * NS_PER_MS)

EXPORTED: dict[str, dict[str, Any]] = {
    "elman": {"cell": "elman"},
    "lstm": {},
    "gru": {"cell": "gru"},
    "lstm-2": {"layers": 2},
    "hybrid": {"detector": "hybrid"},
}
HANDMADE: dict[str, Callable[[], bytes]] = {
    "ratio": handmade_models.ratio_model,
    "foreign": handmade_models.foreign_model,
    "causal": partial(look_ahead_model, 0),
    "one ahead": partial(look_ahead_model, 1),
    "five ahead": partial(look_ahead_model, 5),
    "one-step": handmade_models.one_step_model,
    "one-step, 1s": partial(layout_model, LAYOUTS["one-step, 1s"]),
    "batch-first": partial(layout_model, LAYOUTS["batch-first"]),
    "float16": partial(layout_model, LAYOUTS["float16 samples"]),
    "one stream": partial(layout_model, Layout(mixing=True), one_stream=True),
    "frozen": partial(layout_model, Layout(frozen=True), one_stream=True),
}
MODELS = [*EXPORTED, *HANDMADE]
CAN_FAIL = {"ratio", "causal", "one ahead", "five ahead"}  # their scores are not always finite


@cache
def model(name: str) -> Session:
    if name in HANDMADE:
        return session_from_bytes(HANDMADE[name]())
    return load_model(sample_model(**EXPORTED[name]))


def a_pipeline(name: str = "lstm", alarm: AlarmConfig | None = None, **changes: Any) -> Pipeline:
    alarm = alarm or AlarmConfig(enter=1.0, leave=0.9, hold_steps=2)
    return Pipeline(model(name), Settings(alarm=alarm, **changes))


class Samples(NamedTuple):
    """What one stream sends, in order of arrival."""

    ts: NDArray[np.int64]
    values: NDArray[np.float32]
    seq: NDArray[np.int64] | None = None

    def block(self, stream: str, start: int, stop: int) -> Block:
        """Some of them as one message."""
        seq = None if self.seq is None else self.seq[start:stop]
        return Block(stream, self.ts[start:stop], self.values[start:stop], seq)


# --- what is seen of a run, in a form that does not depend on how it was grouped


class Seen(NamedTuple):
    """Everything that was decided about one stream, bit by bit."""

    scored: list[tuple[int, int | None, bytes, str, bool]]
    flags: list[bytes]
    rejected: Counter[str]
    resets: list[Reset]
    record: bytes
    waiting: int


def state_of(pipeline: Pipeline, stream: str) -> dict[str, bytes]:
    slot = pipeline.streams.find(stream)
    assert slot is not None
    return {name: value.tobytes() for name, value in pipeline.streams.take([slot]).items()}


def seen(pipeline: Pipeline, results: Sequence[Result], stream: str) -> Seen:
    slot = pipeline.streams.find(stream)
    assert slot is not None
    scored: list[tuple[int, int | None, bytes, str, bool]] = []
    rejected: Counter[str] = Counter()
    for result in results:
        scored += [
            (line.ts, line.seq, line.score.tobytes(), line.status, line.alarm)
            for part in result.parts
            for line in part.lines()
            if line.stream == stream
        ]
        for refused in result.rejected:
            if refused.stream == stream:
                rejected[refused.cause] += refused.samples
    return Seen(
        scored,
        [encode_flag(f) for r in results for f in r.flags if f.stream == stream],
        rejected,
        [reset for r in results for reset in r.resets if reset.stream == stream],
        pipeline.streams.dump([slot])[0],
        pipeline.waiting()[stream],
    )


def one_by_one(pipeline: Pipeline, stream: str, samples: Samples) -> Seen:
    results = [
        pipeline.process([samples.block(stream, i, i + 1)], None) for i in range(len(samples.ts))
    ]
    return seen(pipeline, results, stream)


def grouped(stories: dict[str, Samples], rng: random.Random) -> list[list[Block]]:
    """All samples in blocks of any length, the streams in any order, in calls of any size."""
    left = dict.fromkeys(stories, 0)
    blocks = []
    while left:
        stream = rng.choice(list(left))
        start, samples = left[stream], stories[stream]
        stop = min(len(samples.ts), start + rng.choice([1, 1, 2, 5, 30]))
        blocks.append(samples.block(stream, start, stop))
        left[stream] = stop
        if stop == len(samples.ts):
            del left[stream]
    calls: list[list[Block]] = []
    while blocks:
        size = rng.choice([1, 2, 3, 8, 100])
        calls.append(blocks[:size])
        del blocks[:size]
    return calls


def side_by_side(blocks: list[Block]) -> tuple[list[Block], list[Abreast]]:
    """The same samples, with those apart that stand alone in the first blocks of their stream."""
    waves: list[list[Block]] = []
    depths: Counter[str] = Counter()
    rest: list[Block] = []
    left = set()
    for block in blocks:
        if len(block.ts) > 1 or block.stream in left:
            left.add(block.stream)
            rest.append(block)
        else:
            depth = depths[block.stream]
            waves[depth : depth + 1] = [[*(waves[depth] if depth < len(waves) else []), block]]
            depths[block.stream] += 1
    return rest, [_abreast(wave) for wave in waves]


def _abreast(ones: list[Block]) -> Abreast:
    none = np.array([NO_SEQ])
    return Abreast(
        [block.stream for block in ones],
        np.concatenate([block.ts for block in ones]),
        np.concatenate([block.values for block in ones]),
        np.concatenate([none if block.seq is None else block.seq for block in ones]),
    )


class Way(NamedTuple):
    """What is different from a plain pipeline: its settings, and what its streams do."""

    settings: dict[str, Any]
    counts: bool = False
    shuffles: bool = False


PLAIN = Way({})
WAYS = {
    "counted": Way({}, counts=True),
    "reordered": Way({"reorder_ns": 3 * SECOND}, shuffles=True),
    "doubted": Way({"hold_ns": SECOND}),
    "all": Way({"reorder_ns": 3 * SECOND, "hold_ns": SECOND}, counts=True, shuffles=True),
}


CASES = [
    *(pytest.param(name, PLAIN, id=name) for name in MODELS),
    *(
        pytest.param(name, way, id=f"{name}:{kind}")
        for name in ("lstm", "ratio", "five ahead", "float16", "one-step, 1s")
        for kind, way in WAYS.items()
    ),
]


def a_story(name: str, rng: np.random.Generator, way: Way = PLAIN) -> Samples:
    """Samples with all that happens: silences, late and equal times, scores that are none."""
    count = int(rng.integers(1, 40))
    steps = rng.choice(
        [SECOND, 3 * SECOND, GAP, GAP + 1, 0, -2 * SECOND],
        size=count,
        p=[0.80, 0.06, 0.04, 0.04, 0.03, 0.03],
    )
    features = len(model(name).contract.features)
    values = rng.normal(2, 3, (count, features)).astype(np.float32)
    if name in CAN_FAIL:
        values[rng.random((count, features)) < 0.06] = 0.0
    seq = None
    if way.counts:
        steps[rng.random(count) < 0.3] = 0
        seq = 7 + np.cumsum(rng.choice([0, 1, 2, -1], size=count, p=[0.1, 0.7, 0.1, 0.1]))
        seq[rng.random(count) < 0.2] = NO_SEQ
    ts = START + np.cumsum(steps)
    if way.shuffles:
        order = np.argsort(np.arange(count) + rng.uniform(0, 5, count), kind="stable")
        ts, values, seq = ts[order], values[order], None if seq is None else seq[order]
    return Samples(ts, values, seq)


# --- a few words to say what a stream sends


def block(stream: str, seconds: Iterable[float], values: object = None, seed: int = 0) -> Block:
    ts = np.array([START + round(s * SECOND) for s in seconds], np.int64)
    if values is None:
        values = np.random.default_rng(seed).normal(2, 3, (len(ts), 3))
    return Block(stream, ts, np.asarray(values, np.float32).reshape(len(ts), -1 if len(ts) else 3))


def send(pipeline: Pipeline, *blocks: Block, now: float | None = None) -> Result:
    return pipeline.process(blocks, None if now is None else START + round(now * SECOND))


def causes(result: Result) -> list[tuple[str, str, int]]:
    return [(refused.stream, refused.cause, refused.samples) for refused in result.rejected]


def statuses(result: Result, at: int = 0) -> list[str]:
    return [STATUS[status] for status in result.scored[at].status]
