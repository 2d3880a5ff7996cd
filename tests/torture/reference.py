"""What should have come out: the machines' messages through the same pipelines, offline.

No network, no database, no clock, nobody who kills anything. What the gateway has published is
then compared with it as bytes, and what it remembers too. What comes at least once may come again,
as the same bytes and after the first time; nothing may be missing, and nothing else may come.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import load_gateway
from edge_runtime.errors import PayloadError
from edge_runtime.events import Events
from edge_runtime.journal import Journal
from edge_runtime.payload import Samples, encode_flag, encode_score
from edge_runtime.pipeline import Pipeline
from edge_runtime.results import NO_SEQ, Block
from edge_runtime.routes import Route, load_routes
from edge_runtime.tracks import Track
from torture.ear import EVENTS
from torture.tape import Message

States: TypeAlias = dict[tuple[int, str], bytes]
"""Everything that is remembered, by index of the pipeline and stream."""

_MESSAGES_AT_ONCE = 20_000


class Counts(NamedTuple):
    """How much was compared.

    Attributes:
        scores: Different scores.
        flags: Different flags.
        resets: Different events.
        repeated_scores: Scores that came again.
        repeated_flags: Flags that came again.
    """

    scores: int
    flags: int
    resets: int
    repeated_scores: int
    repeated_flags: int


class Reference:
    """The offline replay, by the configuration that the daemon runs with.

    Args:
        gateway: Its TOML file.

    Attributes:
        messages: How many were played.
        admitted: Samples that the pipelines took.
        refused: Samples and messages that were refused, by cause.
        scores: Payloads of the scores for each topic, in order, where scores are emitted.
        flags: Payloads of the flags for each topic, in order.
        events: Payloads of the events of each stream, in order.
    """

    def __init__(self, gateway: Path) -> None:
        self._routes = load_routes(load_gateway(gateway))
        self._streams: dict[bytes, list[tuple[int, str]]] = {}
        self._publish: dict[tuple[int, str], bytes] = {}
        self._events = Events(EVENTS.decode())
        self.messages = self.admitted = 0
        self.refused: Counter[str] = Counter()
        self.scores: dict[bytes, list[bytes]] = {}
        self.flags: dict[bytes, list[bytes]] = {}
        self.events: dict[bytes, list[bytes]] = {}

    def play(self, messages: Iterable[Message], now_ns: int | None = None) -> None:
        """Replays messages, after all that were replayed before.

        Args:
            messages: In the order in which they were sent first.
            now_ns: About when; None if none of them claims to come from the future.
        """
        rest = iter(messages)
        while some := list(islice(rest, _MESSAGES_AT_ONCE)):
            self.messages += len(some)
            samples = self._samples(some)
            for number, route in enumerate(self._routes):
                blocks = [
                    _block(stream, parts) for (n, stream), parts in samples.items() if n == number
                ]
                if blocks:
                    self._play(route, blocks, now_ns)

    def states(self) -> States:
        """What a gateway that has seen the same remembers."""
        return states_of(self.pipelines)

    @property
    def pipelines(self) -> list[Pipeline]:
        """They have seen what was played."""
        return [route.pipeline for route in self._routes]

    def forget_lines(self) -> None:
        """Goes on with the states alone; for runs that are compared part by part."""
        self.scores, self.flags, self.events = {}, {}, {}

    def _samples(self, messages: Sequence[Message]) -> dict[tuple[int, str], list[Samples]]:
        """What each stream of each pipeline is sent. All models have the same sensors."""
        decode = self._routes[0].decoder.decode
        found: dict[tuple[int, str], list[Samples]] = defaultdict(list)
        for topic, payload in messages:
            streams = self._streams.get(topic)
            if streams is None:
                streams = self._streams[topic] = self._find(topic)
            if not streams:
                continue
            try:
                samples = decode(payload)
            except PayloadError as error:
                self.refused[error.cause] += len(streams)
                continue
            for key in streams:
                found[key].append(samples)
        return found

    def _find(self, topic: bytes) -> list[tuple[int, str]]:
        found = []
        for number, route in enumerate(self._routes):
            with suppress(PayloadError):
                destination = route.destination(topic.decode())
                if destination is not None:
                    found.append((number, destination.stream))
                    self._publish[number, destination.stream] = destination.publish.encode()
        return found

    def _play(self, route: Route, blocks: Sequence[Block], now_ns: int | None) -> None:
        number = self._routes.index(route)
        result = route.pipeline.process(blocks, now_ns)
        self.admitted += sum(len(block.ts) for block in result.admitted)
        for refused in result.rejected:
            self.refused[refused.cause] += refused.samples
        for scored in result.scored if route.emits_scores else []:
            self.scores.setdefault(self._publish[number, scored.stream], []).extend(
                map(encode_score, scored.lines())
            )
        for flag in result.flags:
            self.flags.setdefault(self._publish[number, flag.stream], []).append(encode_flag(flag))
        for reset in result.resets:
            event = self._events.reset(route.pipeline.session.digest, reset)
            kind, stream, payload = _event(event.payload)
            self.events.setdefault(kind + stream, []).append(payload)


def histories(gateway: Path, messages: Iterable[Message]) -> dict[tuple[int, str], set[bytes]]:
    """Every state that each stream has ever had, as it is remembered after a message."""
    reference = Reference(gateway)
    found: dict[tuple[int, str], set[bytes]] = defaultdict(set)
    for message in messages:
        reference.play([message])
        for number, pipeline in enumerate(reference.pipelines):
            slots = np.flatnonzero(pipeline.streams.touched).tolist()
            for slot, record in zip(slots, pipeline.streams.dump(slots), strict=True):
                found[number, pipeline.streams.names[slot] or ""].add(record)
            pipeline.streams.touched[slots] = False
    return found


def assert_equal(reference: Reference, heard: Iterable[Message]) -> Counts:
    """What was heard is what should have been heard, first occurrences in order.

    Args:
        reference: The replay.
        heard: Everything that the gateway has published, in order of arrival.

    Returns:
        How much that was.

    Raises:
        AssertionError: Showing the first difference.
    """
    scores: dict[bytes, list[bytes]] = {}
    flags: dict[bytes, list[bytes]] = {}
    events: dict[bytes, list[bytes]] = {}
    for topic, payload in heard:
        if topic == EVENTS:
            kind, stream, event = _event(payload)
            events.setdefault(kind + stream, []).append(event)
        else:
            lines = flags if b'"event"' in payload else scores
            lines.setdefault(topic, []).append(payload)
    again = {}
    for what, wanted, got in (
        ("scores", reference.scores, scores),
        ("flags", reference.flags, flags),
        ("events", reference.events, events),
    ):
        again[what] = sum(_compare(what, topic, *pair) for topic, pair in _both(wanted, got))
    return Counts(
        sum(map(len, reference.scores.values())),
        sum(map(len, reference.flags.values())),
        sum(map(len, reference.events.values())),
        again["scores"],
        again["flags"],
    )


def assert_same_states(wanted: States, got: States) -> None:
    """Two gateways remember the same.

    Raises:
        AssertionError: Naming the streams that differ.
    """
    missing, more = wanted.keys() - got.keys(), got.keys() - wanted.keys()
    assert not missing, f"{len(missing)} streams are not known, such as {min(missing)}"
    assert not more, f"{len(more)} streams too many, such as {min(more)}"
    other = [key for key, record in wanted.items() if got[key] != record]
    assert not other, (
        f"{len(other)} of {len(wanted)} streams have another state, such as {other[0]}"
    )


def recovered(gateway: Path) -> States:
    """What the database holds: a start like any other, in this process, without a broker."""
    config = load_gateway(gateway)
    routes = load_routes(config)
    tracks = [Track(route.pipeline, route.config.topic, route.config.stream) for route in routes]
    journal = Journal(config.state, tracks)
    journal.open()
    journal.close()
    assert not journal.aside, f"set aside: {journal.aside}"
    return states_of([route.pipeline for route in routes])


def states_of(pipelines: Sequence[Pipeline]) -> States:
    """Everything that they remember."""
    found = {}
    for number, pipeline in enumerate(pipelines):
        names = pipeline.streams.names
        slots = [slot for slot, name in enumerate(names) if name is not None]
        for slot, record in zip(slots, pipeline.streams.dump(slots), strict=True):
            found[number, names[slot] or ""] = record
    return found


def _block(stream: str, parts: Sequence[Samples]) -> Block:
    """How samples are grouped changes nothing, and few large blocks are quick."""
    counted = any(part.seq is not None for part in parts)
    return Block(
        stream,
        np.concatenate([part.ts for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([_counts(part) for part in parts]) if counted else None,
    )


def _counts(samples: Samples) -> NDArray[np.int64]:
    none = np.full(len(samples.ts), NO_SEQ, np.int64)
    return none if samples.seq is None else samples.seq


def _event(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """Kind and stream of an event, and the event without how many of its kind there were."""
    event = msgspec.json.decode(payload)
    event.pop("count", None)
    stream = f" of {event.get('stream')} ({event['model']})".encode()
    return event["event"].encode(), stream, msgspec.json.encode(event)


def _both(
    wanted: Mapping[bytes, list[bytes]], got: Mapping[bytes, list[bytes]]
) -> Iterator[tuple[bytes, tuple[list[bytes], list[bytes]]]]:
    for topic in sorted(wanted.keys() | got.keys()):
        yield topic, (wanted.get(topic, []), got.get(topic, []))


def _compare(what: str, topic: bytes, wanted: list[bytes], got: list[bytes]) -> int:
    """How many of them came again."""
    first = list(dict.fromkeys(got))
    if first == wanted:
        return len(got) - len(first)
    for index, (one, other) in enumerate(zip_longest(wanted, first)):
        if one != other:
            raise AssertionError(
                f"{what} on {topic.decode()}: wanted {len(wanted)}, got {len(first)}; number "
                f"{index} is the first that differs\n  wanted {one!r}\n  got    {other!r}\n"
                f"  {_fate(one, first)}; {_fate(other, wanted)}"
            )
    raise AssertionError("unreachable")


def _fate(line: bytes | None, others: list[bytes]) -> str:
    if line is None:
        return "one ends there"
    return f"it is number {others.index(line)} there" if line in others else "it is not there"
