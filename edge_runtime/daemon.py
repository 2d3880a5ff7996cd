"""Wires source, pipelines, store and publisher. Nothing is decided here.

Each round: receive -> process -> commit -> acknowledge -> publish. A group that cannot be made safe
now is kept and tried again; until it is, nothing is acknowledged and nothing more is taken.
"""

import logging
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from edge_runtime.clock import Clock
from edge_runtime.config import GatewayConfig
from edge_runtime.errors import PayloadError, StoreUnavailableError
from edge_runtime.events import Events, details
from edge_runtime.intake import Intake
from edge_runtime.journal import Journal
from edge_runtime.link import Link
from edge_runtime.mqtt import Message
from edge_runtime.payload import NS_PER_MS, encode_flag, encode_score, utc_text
from edge_runtime.refusals import Refusals
from edge_runtime.results import Block, Reset, Result
from edge_runtime.routes import Destination, Route
from edge_runtime.stop import StopEvent
from edge_runtime.store import Group, Publication, Raised, Store
from edge_runtime.topics import TopicPattern, subscriptions
from edge_runtime.tracks import Track

log = logging.getLogger("andon")

MAX_KNOWN_TOPICS = 100_000
END_OF_TIME = 2**63  # nanoseconds; every report is due by then
LOOK_FOR_IDLE_S = 60.0

ONLINE, DEGRADED = b"online", b"degraded"

_HOUR_NS = 3_600_000 * NS_PER_MS


class Source(Protocol):
    """Where messages come from and where what they lead to goes: an `edge_runtime.link.Link`."""

    hold: bool
    """While it is set, batches are empty: what arrives waits, unacknowledged."""

    def batches(self, stop: StopEvent) -> Iterator[list[Message]]:
        """Yields what arrived together, and an empty list now and then when nothing does."""
        ...

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tells the broker that these need not be sent again."""
        ...

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, token: int | None = None
    ) -> None:
        """Sends a message, at least once."""
        ...

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Ends subscriptions that the session may still have, but for those of this run."""
        ...

    def delivered(self) -> list[int]:
        """Tokens of the publications that the broker has for good, since the last call."""
        ...

    def say(self, word: bytes, details: bytes | None = None) -> None:
        """Sets the retained status."""
        ...


class _Unsafe(NamedTuple):
    """A group that waits to be made safe, and the messages that it is made of."""

    group: Group
    messages: Sequence[Message]


class _Said(NamedTuple):
    """What the status says: said again when any of it is another."""

    word: bytes
    cause: str
    set_aside: int


class Gateway:
    """The daemon, without its network, its disk and its clock.

    Args:
        routes: The pipelines.
        store: The durable part.
        source: Messages in, publications out.
        base_topic: Under which the gateway speaks of itself, ``andon/<client_id>``.

    Attributes:
        received: Messages so far.
        scored: Samples scored so far.
        unscored: Samples that resets have left without a score, because a model looks ahead.
        flags: Flags so far, by event.
        events: What else happened to streams, by kind and cause.
        refusals: What was refused.
    """

    def __init__(
        self, routes: Sequence[Route], store: Store, source: Source, base_topic: str
    ) -> None:
        self._routes = tuple(routes)
        self._numbers = {route: number for number, route in enumerate(routes)}
        self._store = store
        self._source = source
        self._rejected_topic = f"{base_topic}/rejected"
        self._events = Events(f"{base_topic}/events")
        self._destinations: dict[str, tuple[Destination, ...]] = {}
        self._unsafe: _Unsafe | None = None
        self._said = _Said(b"", "", 0)
        self._begun = False
        self._look_at = time.monotonic() + LOOK_FOR_IDLE_S
        self.received = 0
        self.scored = 0
        self.unscored = 0
        self.flags: Counter[str] = Counter()
        self.events = self._events.counts
        self.refusals = Refusals()

    def run(self, stop: StopEvent, clock: Clock) -> None:
        """Works until ``stop`` is set and what was received by then is done.

        Args:
            stop: Ends the loop after the batch in hand.
            clock: The gateway's clock.
        """
        for messages in self._source.batches(stop):
            self._store.delivered(self._source.delivered())
            try:
                self._round(messages, clock)
            except StoreUnavailableError as error:
                self._degrade(error)
            else:
                self._say(ONLINE)
                self._source.hold = False
                self._publish_outbox()
            self._report(time.monotonic_ns())
        with suppress(StoreUnavailableError):  # said already; the broker sends it again
            self._settle()
            self._publish_outbox()
        self._report(END_OF_TIME)

    @property
    def safe(self) -> bool:
        """Whether everything that was taken has been made safe."""
        return self._unsafe is None

    def waiting(self) -> int:
        """Samples whose score has not come yet, because a model looks ahead."""
        return sum(sum(route.pipeline.waiting().values()) for route in self._routes)

    def begin(self) -> None:
        """Opens the store, before there is a connection if it can; else `run` goes on trying."""
        try:
            self._open()
        except StoreUnavailableError as error:
            self._degrade(error)
        else:
            self._say(ONLINE)

    def _open(self) -> None:
        """Brings every stream to where it was, and says which could not be."""
        if self._begun:
            return
        self._store.open()
        self._begun = True
        topics = {*self._store.topics, *(route.config.topic for route in self._routes)}
        self._source.unsubscribe([TopicPattern(topic).filter for topic in topics])
        group = Group()
        for route, start in zip(self._routes, self._store.starts, strict=False):
            topic, session = route.config.topic, route.pipeline.session
            how = f"cold: {start.cold}" if start.cold else f"{start.streams} streams go on"
            again = f", {start.samples} samples of the journal run again" if start.samples else ""
            log.log(logging.WARNING if start.lost else logging.INFO, "%s: %s%s", topic, how, again)
            if start.lost:
                group.publications.append(self._events.cold_start(session.digest, topic, start))
        if not group.empty:
            self._unsafe = _Unsafe(group, ())

    def _round(self, messages: Sequence[Message], clock: Clock) -> None:
        self._open()
        self._settle()
        if messages:
            self._unsafe = _Unsafe(self._process(messages, clock), messages)
            self._settle()
        self._evict_idle(clock)
        self._settle()
        self._store.tidy(clock.steady_ns())

    def _settle(self) -> None:
        """Makes the group in hand safe, then acknowledges what it was made of."""
        if self._unsafe is not None:
            self._store.commit(self._unsafe.group)
            self._source.acknowledge(self._unsafe.messages)
            self._unsafe = None

    def _publish_outbox(self) -> None:
        for publication, token in self._store.outbox():
            self._source.publish(publication.topic, publication.payload, token=token)

    def _degrade(self, error: StoreUnavailableError) -> None:
        """Holds the input back. The state in memory is right, and goes on from there later."""
        self._source.hold = True
        if self._said.word != DEGRADED:
            log.error("%s; nothing is acknowledged until it can be written", error)
        # Each time: a retained publication makes mosquitto save what is on its way to us as well.
        self._say(DEGRADED, str(error), again=True)

    def _say(self, word: bytes, cause: str = "", *, again: bool = False) -> None:
        said = _Said(word, cause, len(self._store.aside))
        if said != self._said or again:
            if self._said.word == DEGRADED != word:
                log.warning("the database can be written again")
            self._said = said
            self._source.say(word, self._details(word, cause))

    def _details(self, word: bytes, cause: str) -> bytes:
        pipelines = [(r.config.topic, r.pipeline.session.digest) for r in self._routes]
        return details(word.decode(), cause, pipelines, self._store.starts, self._store.aside)

    def _process(self, messages: Sequence[Message], clock: Clock) -> Group:
        group = Group()
        intakes = {route: Intake() for route in self._routes}
        for message in messages:
            for destination in self._lookup(message.topic):
                self._take_in(message, destination, intakes[destination.route])
        for route, intake in intakes.items():
            blocks, abreast = intake.take()
            if blocks or abreast:
                by_arrival = route.pipeline.settings.arrival
                now_ns = clock.steady_ns() if by_arrival else clock.latest_ns()
                result = route.pipeline.process(blocks, now_ns, abreast)
                group.add(self._numbers[route], result)
                self._publications(route, result, intake.publish, group)
        self.received += len(messages)
        return group

    def _take_in(self, message: Message, destination: Destination, intake: Intake) -> None:
        """Decodes a message, the quick way if that will do, or counts why it is refused."""
        route, stream, publish = destination
        payload, typed = message.payload, route.typed
        one = None if typed is None else typed.one(payload)
        if one is not None:
            intake.add_one(stream, one)
        else:
            samples = None if typed is None else typed.block(payload)
            try:
                samples = samples or route.decoder.decode(payload)
            except PayloadError as error:
                self.refusals.add(stream, error.cause, error.detail, topic=message.topic)
                return
            ts, values, seq = samples
            intake.add_block(Block(stream, ts, values, seq, message.dup))
        intake.publish[stream] = publish

    def _lookup(self, topic: str) -> tuple[Destination, ...]:
        known = self._destinations.get(topic)
        return self._find(topic) if known is None else known

    def _find(self, topic: str) -> tuple[Destination, ...]:
        """Asks every route; remembers the answer, unless the next refusal is to be counted too."""
        found, refused = [], False
        for route in self._routes:
            try:
                destination = route.destination(topic)
            except PayloadError as error:
                self.refusals.add(topic, error.cause, error.detail, topic=topic)
                refused = True
            else:
                found += [] if destination is None else [destination]
        if not found and not refused:
            self.refusals.add(topic, "unknown_topic", "no pipeline listens to it", topic=topic)
        elif not refused:
            if len(self._destinations) >= MAX_KNOWN_TOPICS:  # topics are the sender's choice
                self._destinations.clear()
            self._destinations[topic] = tuple(found)
        return tuple(found)

    def _publications(
        self, route: Route, result: Result, publish: dict[str, str], group: Group
    ) -> None:
        for rejected in result.rejected:
            stream, cause, samples, detail = rejected
            self.refusals.add(stream, cause, detail, samples=samples)
        for reset in result.resets:
            self._reset(route, reset, group)
        self.scored += sum(len(part.ts) for part in result.parts)
        if route.emits_scores:
            group.publications.extend(
                Publication(publish[line.stream], encode_score(line))
                for part in result.parts
                for line in part.lines()
            )
        for flag in result.flags:
            self.flags[flag.event] += 1
            log.warning(
                "%s %s at %s: score %.3g, %s; id %s",
                ascii(flag.stream),
                flag.event,
                utc_text(flag.ts),
                flag.score,
                ", ".join(f"{share.feature} {share.share:.0%}" for share in flag.top),
                flag.id[:16],
            )
            payload = encode_flag(flag)
            group.publications.append(Publication(publish[flag.stream], payload))
            group.flags.append(Raised(self._numbers[route], flag, payload))

    def _reset(self, route: Route, reset: Reset, group: Group) -> None:
        self.unscored += reset.unscored
        log.info(
            "%s starts afresh at %s: %s%s",
            ascii(reset.stream),
            utc_text(reset.ts),
            reset.cause,
            f"; {reset.unscored} samples before stay without a score" if reset.unscored else "",
        )
        group.publications.append(self._events.reset(route.pipeline.session.digest, reset))

    def _evict_idle(self, clock: Clock) -> None:
        """Forgets streams that have been silent for so long that they would start afresh anyway."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_FOR_IDLE_S
        group = Group()
        for number, route in enumerate(self._routes):
            pipeline = route.pipeline
            after_ns = pipeline.settings.evict_after_ns
            if after_ns is None:
                continue
            names = pipeline.idle(clock.steady_ns() - after_ns)
            for evicted in pipeline.evict(names):
                self.unscored += evicted.unscored
                log.info(
                    "%s is forgotten, silent since %s",
                    ascii(evicted.stream),
                    utc_text(evicted.last_ts),
                )
                event = self._events.evicted(pipeline.session.digest, evicted)
                group.publications.append(event)
                group.evicted.setdefault(number, []).append(evicted.stream)
        if not group.empty:
            self._unsafe = _Unsafe(group, ())

    def _report(self, now_ns: int) -> None:
        for report in self.refusals.due(now_ns):
            self._source.publish(self._rejected_topic, report)


def run_gateway(config: GatewayConfig, routes: Sequence[Route]) -> int:
    """Runs the daemon until SIGTERM or SIGINT.

    Args:
        config: A checked configuration.
        routes: Its pipelines, loaded by `edge_runtime.routes.load_routes`.

    Returns:
        The exit code: 0, or 1 if something could not be handed to the broker before the end.

    Raises:
        BrokerError: If the broker cannot be used as configured.
        StoreRefusedError: If the database is in use, of another version, or not ours.
    """
    client, clock = config.broker.client_id, Clock()
    tracks = [Track(route.pipeline, route.config.topic, route.config.stream) for route in routes]
    journal = Journal(config.state, tracks, clock.steady_ns)
    link = Link(
        config.broker,
        filters=subscriptions([route.pattern for route in routes]),
        status_topic=f"andon/{client}/status",
        linger_s=config.state.group_ms / 1000,
    )
    gateway = Gateway(routes, journal, link, f"andon/{client}")
    stop = StopEvent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("%s starts with %d pipelines", client, len(routes))
    gateway.begin()
    gateway.run(stop, clock)
    clean = link.close() and gateway.safe
    journal.delivered(link.delivered())
    try:
        journal.close()
    except StoreUnavailableError as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence is enough; the journal is complete
        clean = False
    log.info(
        "%s stopped: %d messages, %d samples scored, %d raised, %d cleared, %d rejected, "
        "%d left without a score",
        client,
        gateway.received,
        gateway.scored,
        gateway.flags["raised"],
        gateway.flags["cleared"],
        gateway.refusals.totals().total(),
        gateway.unscored + gateway.waiting(),
    )
    return 0 if clean else 1
