"""What machines send, made up from a seed.

They sample once a second, restless enough for lamps to go on and off, with everything that a
stream of messages may have: silences, arrays, counts, messages that come twice, in the wrong order,
or with the time of another one.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sample_models import FEATURES, MAX_GAP_MS, PERIOD_MS
from torture.tape import Message

START_MS = 1_767_225_600_000  # 2026-01-01
PLANT, HALL = "plant/m{}/telemetry", "hall/h{}/telemetry"

WILD = {"silences": 0.003, "arrays": 0.05, "repeats": 0.01, "swaps": 0.01, "equals": 0.01}
"""Chances of everything that the pipelines answer by themselves."""

_ECHO_MESSAGES = 50
_SAMPLES = 4  # of an array


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What some machines send; the same seed tells the same.

    Attributes:
        seed: Of all chance in it.
        streams: How many machines.
        rounds: How often each has its turn.
        topic: Of machine ``{}``.
        first: Number of the first round, so that one story goes on where another has ended.
        silences: Share of turns at which a machine falls silent for longer than its model bears.
        arrays: Share of messages that hold several samples.
        repeats: Share of messages that are sent once more a little later, as if they were new.
        swaps: Share of messages that come after the machine's next one.
        equals: Share of messages after which another one with the same time comes.
    """

    seed: int
    streams: int
    rounds: int
    topic: str = PLANT
    first: int = 0
    silences: float = 0.0
    arrays: float = 0.0
    repeats: float = 0.0
    swaps: float = 0.0
    equals: float = 0.0

    def messages(self) -> Iterator[Message]:
        """Yields what the machines send, in order."""
        rng = np.random.default_rng((self.seed, self.first))
        topics = [self.topic.format(s).encode() for s in range(self.streams)]
        recent: deque[Message] = deque(maxlen=_ECHO_MESSAGES)
        held: dict[int, Message] = {}
        silent = np.full(self.streams, self.first)  # until this round
        for number in range(self.first, self.first + self.rounds):
            for stream, message in self._round(rng, number, topics, silent):
                if self.swaps and stream not in held and rng.random() < self.swaps:
                    held[stream] = message
                    continue
                yield message
                if stream in held:
                    yield held.pop(stream)
                if self.repeats:
                    recent.append(message)
                    if rng.random() < self.repeats:
                        yield recent[int(rng.integers(len(recent)))]
        yield from held.values()

    def _round(
        self,
        rng: np.random.Generator,
        number: int,
        topics: list[bytes],
        silent: NDArray[np.int64],
    ) -> Iterator[tuple[int, Message]]:
        """Every machine's turn, in any order."""
        most = _SAMPLES if self.arrays else 1
        ts = START_MS + round(number * most * PERIOD_MS)
        values = 2.0 + 3.0 * rng.standard_normal((self.streams, most, len(FEATURES)))
        rows = values.round(4).tolist()
        counts = np.where(rng.random(self.streams) < self.arrays, most, 1).tolist()
        equal = (rng.random(self.streams) < self.equals).tolist()
        rounds = int(MAX_GAP_MS // (most * PERIOD_MS)) + 1
        begins = (rng.random(self.streams) < self.silences) & (silent <= number)
        silent[begins] = number + rounds
        seq = number * (most + 1)
        for stream in rng.permutation(np.flatnonzero(silent <= number)).tolist():
            own = rows[stream][: counts[stream]]
            yield stream, (topics[stream], _payload(ts, seq, own, stream))
            if equal[stream]:
                other = rows[stream - 1][:1]
                yield stream, (topics[stream], _payload(ts, seq + 1, other, stream))


def both_kinds(seed: int, parts: int, **chances: Any) -> Iterator[Message]:
    """Twenty machines of the plant and twenty of the hall, in turns of twenty rounds."""
    stories = [
        Story(seed=seed + kind, streams=20, rounds=20, topic=topic, **chances)
        for kind, topic in enumerate((PLANT, HALL))
    ]
    for part in range(parts):
        for story in stories:
            yield from replace(story, first=20 * part).messages()


def _payload(ts: int, seq: int, rows: list[list[float]], stream: int) -> bytes:
    """In one of the forms that a message may have; every third machine counts its samples."""
    head = f'{{"ts": {ts}, "seq": {seq}' if stream % 3 == 0 else f'{{"ts": {ts}'
    if len(rows) > 1:
        return f'{head}, "period_ms": {PERIOD_MS}, "values": {rows}}}'.encode()
    if stream % 2:
        return f'{head}, "values": {rows[0]}}}'.encode()
    named = ", ".join(f'"{n}": {v!r}' for n, v in zip(FEATURES, rows[0], strict=True))
    return f'{head}, "values": {{{named}}}}}'.encode()
