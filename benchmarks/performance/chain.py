"""The pipeline without broker and journal: bytes in, flags out, beside decoding and the model."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.performance.measure import Case, Figures, Measure, Plan, alternate, cpu_us
from benchmarks.performance.measure import require_same as same
from benchmarks.performance.models import Alone, lstm, normal
from benchmarks.throughput import FEATURES, START_MS
from edge_runtime.config import AlarmConfig, StateConfig
from edge_runtime.intake import Intake
from edge_runtime.journal import Journal
from edge_runtime.payload import NS_PER_MS, encode_flag
from edge_runtime.pipeline import Pipeline
from edge_runtime.results import Result
from edge_runtime.session import Float32, Session, State
from edge_runtime.settings import Settings
from edge_runtime.tracks import Track
from edge_runtime.typed import TypedDecoder

STREAMS = 1000
GROUPS = (40, 200, 1000)
JUDGED = 200
BAR = 2.5
VARIETY = 64  # different samples
MAX_BYTES = 1 << 20
NEVER = AlarmConfig(enter=1e9, leave=1.0)
NOW_NS = (START_MS + 10**9) * NS_PER_MS
TYPED = "typed"

Messages = Sequence[tuple[str, bytes]]
"""Stream and payload of each message of a group."""


class Chain:
    """What the daemon does with a group of messages, but for topics, journal and broker.

    Args:
        session: The model.
        max_streams: How many there may be.

    Attributes:
        pipeline: The gateway's.
    """

    def __init__(self, session: Session, max_streams: int) -> None:
        self.pipeline = Pipeline(session, Settings(alarm=NEVER, max_streams=max_streams))
        self._typed = TypedDecoder(session.contract.feature_names, MAX_BYTES)

    def take(self, messages: Messages) -> Result:
        """Decodes and scores a group, and writes its flags as they are published."""
        intake, one_of = Intake(), self._typed.one
        for stream, payload in messages:
            one = one_of(payload)
            if one is None:
                raise ValueError(f"wanted a payload of the common form, got {payload[:60]!r}")
            intake.add_one(stream, one)
        blocks, abreast = intake.take()
        result = self.pipeline.process(blocks, NOW_NS, abreast)
        for flag in result.flags:
            encode_flag(flag)
        return result


def track_of(pipeline: Pipeline) -> Track:
    """As the benchmarks' gateway has it."""
    return Track(pipeline, "plant/{machine}/telemetry", "{machine}")


def require_recovered(pipeline: Pipeline, config: StateConfig) -> None:
    """A start from a gateway's database finds every stream where a pipeline has it, to the bit.

    Args:
        pipeline: Has seen the same samples.
        config: Where the database is.

    Raises:
        ValueError: If it does not.
    """
    found = Pipeline(pipeline.session, pipeline.settings)
    journal = Journal(config, [track_of(found)])
    journal.open()
    journal.close()
    if _remembered(found) != _remembered(pipeline):
        raise ValueError("after a start the streams are not where the messages have brought them")


def _remembered(pipeline: Pipeline) -> dict[str | None, bytes]:
    names = pipeline.streams.names
    return dict(zip(names, pipeline.streams.dump(range(len(names))), strict=True))


class Load(NamedTuple):
    """The same rows as messages and as arrays.

    Attributes:
        size: Messages of a group.
        ticks: ``[tick][group]``, messages.
        order: ``[stream]``, which stream stands where in each tick.
        x: ``[tick][group]``, arrays ``[1, stream, feature]``.
    """

    size: int
    ticks: list[list[Messages]]
    order: NDArray[np.intp]
    x: list[list[Float32]]


def payloads(values: NDArray[np.float64]) -> list[str]:
    """The sensors of rows ``[row, feature]`` as JSON objects."""
    names = FEATURES[: values.shape[1]]
    return [
        msgspec.json.encode(dict(zip(names, row, strict=True))).decode() for row in values.tolist()
    ]


def message(tick: int, body: str) -> bytes:
    """A payload of one sample, once a second."""
    return f'{{"ts": {START_MS + 1000 * tick}, "values": {body}}}'.encode()


def load_of(size: int, ticks: int) -> Load:
    """Messages of all streams, in the same order in each tick but the first.

    Args:
        size: Messages of a group.
        ticks: How many, the one before the first not counted.
    """
    values = normal((VARIETY, len(FEATURES)))
    bodies, rows = payloads(values), values.astype(np.float32)
    order = np.random.default_rng(size).permutation(STREAMS)
    parts = np.split(order, STREAMS // size)
    named = [[(f"m{stream}", int(stream)) for stream in part] for part in parts]
    return Load(
        size,
        [
            [[(n, message(tick, bodies[(s + tick) % VARIETY])) for n, s in part] for part in named]
            for tick in range(ticks + 1)
        ],
        order,
        [
            [rows[(part + tick) % VARIETY][np.newaxis] for part in parts]
            for tick in range(ticks + 1)
        ],
    )


def measure(plan: Plan) -> Iterator[Figures]:
    """Row 3: three sizes of group, and the middle one beside a decoder that knows the form."""
    ticks = plan.size(40, 10)
    session = lstm().session
    typed: tuple[list[float], list[float]] = [], []
    for size in GROUPS:
        load = load_of(size, ticks)
        same(f"groups of {size}", *_scores(session, load))
        sides = {
            "ours": partial(_ours, session, load),
            "beside": partial(_beside, session, load, msgspec.json.Decoder()),
        }
        if size == JUDGED:
            sides[TYPED] = partial(_beside, session, load, _typed_decoder())
        figures = alternate(sides, plan.rounds)
        yield Figures(figures["ours"], figures["beside"])
        if size == JUDGED:
            typed = figures["ours"], figures[TYPED]
    yield Figures(*typed)


def _typed_decoder() -> msgspec.json.Decoder[object]:
    values = msgspec.defstruct("Values", [(name, float) for name in FEATURES])
    return msgspec.json.Decoder(msgspec.defstruct("Message", [("ts", int), ("values", values)]))


def _begun(session: Session, load: Load) -> Chain:
    """A pipeline that knows all streams, in another order than that of the groups."""
    chain = Chain(session, STREAMS)
    first = sorted(message for group in load.ticks[0] for message in group)
    chain.take(first)
    return chain


def _ours(session: Session, load: Load) -> float:
    chain = _begun(session, load)

    def work() -> None:
        for tick in load.ticks[1:]:
            for group in tick:
                chain.take(group)

    return cpu_us(work, STREAMS * (len(load.ticks) - 1))


def _states(alone: Alone, load: Load) -> list[State]:
    """The states of the groups after the first tick."""
    return [alone.run(x, alone.initial_state(load.size))[1] for x in load.x[0]]


def _beside(session: Session, load: Load, decoder: msgspec.json.Decoder[object]) -> float:
    alone = Alone.of(session)
    states, decode = _states(alone, load), decoder.decode

    def work() -> None:
        for tick, xs in zip(load.ticks[1:], load.x[1:], strict=True):
            for at, (group, x) in enumerate(zip(tick, xs, strict=True)):
                for _, payload in group:
                    decode(payload)
                _, states[at] = alone.run(x, states[at])

    return cpu_us(work, STREAMS * (len(load.ticks) - 1))


def _scores(session: Session, load: Load) -> tuple[Float32, Float32]:
    """All scores of both sides, ``[tick, stream]`` in the order of the load."""
    chain, alone = _begun(session, load), Alone.of(session)
    states = _states(alone, load)
    ours, theirs = [], []
    for tick, xs in zip(load.ticks[1:], load.x[1:], strict=True):
        scored = {
            line.stream: line.score
            for group in tick
            for part in chain.take(group).abreast
            for line in part.lines()
        }
        ours.append([scored[f"m{stream}"] for stream in load.order])
        for at, x in enumerate(xs):
            score, states[at] = alone.run(x, states[at])
            theirs.append(score[0])
    return np.array(ours, np.float32), np.concatenate(theirs).reshape(len(ours), STREAMS)


MEASURE = Measure(
    3,
    "the pipeline, bytes in, flags out: CPU a message",
    "msgspec JSON decoding and the model alone, at the same batch",
    [
        *(Case(f"groups of {size}", BAR if size == JUDGED else None) for size in GROUPS),
        Case(f"groups of {JUDGED}, beside a decoder made for the form", None),
    ],
    measure,
)
