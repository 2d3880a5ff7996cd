"""Wires source, pipelines, store and publisher. Nothing is decided here.

Each round: receive -> process -> commit -> acknowledge -> publish.
"""

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from edge_runtime.config import GatewayConfig, PipelineConfig
from edge_runtime.contract import Contract
from edge_runtime.errors import ConfigError, ModelError, PayloadError
from edge_runtime.link import Link
from edge_runtime.mqtt import Message, StopEvent
from edge_runtime.payload import Decoder, encode_flag, encode_score
from edge_runtime.pipeline import Pipeline, Settings
from edge_runtime.refusals import Refusals
from edge_runtime.results import Block, Result
from edge_runtime.session import Session, load_model
from edge_runtime.store import MemoryStore, Publication, Store
from edge_runtime.topics import Template, TopicPattern

log = logging.getLogger("andon")

MAX_KNOWN_TOPICS = 100_000
END_OF_TIME = 2**63  # nanoseconds; every report is due by then


class Source(Protocol):
    """Where messages come from and where what they lead to goes: an `edge_runtime.link.Link`."""

    def batches(self, stop: StopEvent) -> Iterator[list[Message]]:
        """Yields what arrived together, and an empty list now and then when nothing does."""
        ...

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tells the broker that these need not be sent again."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Sends a message, at least once."""
        ...


class Destination(NamedTuple):
    """Where the messages of one topic belong."""

    route: "Route"
    stream: str
    publish: str


class Route:
    """One ``[[pipeline]]`` table at work: from topic to stream, from payload to samples.

    Args:
        config: The table.
        session: Its model.
        max_payload_bytes: A larger payload is rejected unread.
    """

    def __init__(self, config: PipelineConfig, session: Session, max_payload_bytes: int) -> None:
        self.pattern = TopicPattern(config.topic)
        self.emits_scores = config.emit == "scores"
        self.decoder = Decoder(session.contract.feature_names, max_payload_bytes)
        self.pipeline = Pipeline(session, Settings.of(config))
        self._stream = Template(config.stream)
        self._publish = Template(config.publish)

    def destination(self, topic: str) -> Destination | None:
        """Stream and publish topic for a topic; None if it is not this route's.

        Raises:
            PayloadError: If the names in the topic make no stream or no topic to publish on.
        """
        values = self.pattern.match(topic)
        if values is None:
            return None
        return Destination(self, self._stream.render(values), self._publish.render(values))


def load_routes(config: GatewayConfig) -> list[Route]:
    """Loads the model of every pipeline.

    Args:
        config: The gateway.

    Returns:
        One route for each pipeline, in order.

    Raises:
        ConfigError: Naming every model that is refused, and why.
    """
    problems: list[str] = []
    sessions: dict[str, Session] = {}
    for number, pipeline in enumerate(config.pipeline, start=1):
        key = str(pipeline.model)
        try:
            if key not in sessions:
                sessions[key] = load_model(pipeline.model)
            check_delay(sessions[key].contract, pipeline.max_delay_ms)
        except ModelError as error:
            problems.append(f"[[pipeline]] {number} model: {error}")
    if problems:
        raise ConfigError(problems)
    limit = config.broker.max_payload_bytes
    return [Route(p, sessions[str(p.model)], limit) for p in config.pipeline]


def check_delay(contract: Contract, max_delay_ms: float | None) -> None:
    """Scores must not come later than the gateway's configuration allows.

    Raises:
        ModelError: With the delay and where it comes from.
    """
    if max_delay_ms is not None and contract.delay_ms > max_delay_ms:
        raise ModelError(
            f"wanted scores after {max_delay_ms:g} ms at most (max_delay_ms), the model looks "
            f"{contract.look_ahead} samples of {contract.sample_period_ms:g} ms ahead: "
            f"{contract.delay_ms:g} ms"
        )


@dataclass(slots=True)
class _Group:
    """What one batch of messages leads to."""

    blocks: list[Block] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)


class Gateway:
    """The daemon, without its network and its clock.

    Args:
        routes: The pipelines.
        store: The durable part.
        source: Messages in, publications out.
        rejected_topic: Where refusals are reported.

    Attributes:
        received: Messages so far.
        scored: Samples scored so far.
        unscored: Samples that resets have left without a score, because a model looks ahead.
        flags: Flags so far, by event.
        refusals: What was refused.
    """

    def __init__(
        self, routes: Sequence[Route], store: Store, source: Source, rejected_topic: str
    ) -> None:
        self._routes = tuple(routes)
        self._store = store
        self._source = source
        self._rejected_topic = rejected_topic
        self._destinations: dict[str, tuple[Destination, ...]] = {}
        self.received = 0
        self.scored = 0
        self.unscored = 0
        self.flags: Counter[str] = Counter()
        self.refusals = Refusals()

    def run(self, stop: StopEvent, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Works until ``stop`` is set and what was received by then is done.

        Args:
            stop: Ends the loop after the batch in hand.
            now_ns: The gateway's clock, nanoseconds since 1970 UTC.
        """
        for messages in self._source.batches(stop):
            if messages:
                group = self._process(messages, now_ns())
                self._store.commit(group.blocks, group.publications)
                self._source.acknowledge(messages)
            for publication in self._store.outbox():
                self._source.publish(publication.topic, publication.payload)
            self._report(time.monotonic_ns())
        self._report(END_OF_TIME)

    def waiting(self) -> int:
        """Samples whose score has not come yet, because a model looks ahead."""
        return sum(sum(route.pipeline.waiting().values()) for route in self._routes)

    def _process(self, messages: Sequence[Message], now_ns: int) -> _Group:
        group = _Group()
        blocks: dict[Route, list[Block]] = {route: [] for route in self._routes}
        topics: dict[tuple[Route, str], str] = {}
        for message in messages:
            for destination in self._lookup(message.topic):
                block = self._decode(message, destination)
                if block is not None:
                    route, stream, publish = destination
                    blocks[route].append(block)
                    topics[route, stream] = publish
        for route, waiting in blocks.items():
            if waiting:
                result = route.pipeline.process(waiting, now_ns)
                group.blocks.extend(waiting)
                self._publications(route, result, topics, group)
        self.received += len(messages)
        return group

    def _decode(self, message: Message, destination: Destination) -> Block | None:
        try:
            samples = destination.route.decoder.decode(message.payload)
        except PayloadError as error:
            self.refusals.add(destination.stream, error.cause, error.detail, topic=message.topic)
            return None
        return Block(destination.stream, samples.ts, samples.values)

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
        self, route: Route, result: Result, topics: dict[tuple[Route, str], str], group: _Group
    ) -> None:
        for rejected in result.rejected:
            stream, cause, samples, detail = rejected
            self.refusals.add(stream, cause, detail, samples=samples)
        for reset in result.resets:
            self.unscored += reset.unscored
            log.info(
                "%s starts afresh at %d ns: %s%s",
                ascii(reset.stream),
                reset.ts,
                reset.cause,
                f"; {reset.unscored} samples before stay without a score" if reset.unscored else "",
            )
        for scored in result.scored:
            self.scored += len(scored.ts)
            if route.emits_scores:
                topic = topics[route, scored.stream]
                group.publications.extend(
                    Publication(topic, encode_score(line)) for line in scored.lines()
                )
        for flag in result.flags:
            self.flags[flag.event] += 1
            log.warning(
                "%s %s: score %.3g, %s",
                ascii(flag.stream),
                flag.event,
                flag.score,
                ", ".join(f"{share.feature} {share.share:.0%}" for share in flag.top),
            )
            group.publications.append(Publication(topics[route, flag.stream], encode_flag(flag)))

    def _report(self, now_ns: int) -> None:
        for report in self.refusals.due(now_ns):
            self._source.publish(self._rejected_topic, report)


def run_gateway(config: GatewayConfig, routes: Sequence[Route]) -> int:
    """Runs the daemon until SIGTERM or SIGINT.

    Args:
        config: A checked configuration.
        routes: Its pipelines, loaded by `load_routes`.

    Returns:
        The exit code: 0, or 1 if something could not be handed to the broker before the end.

    Raises:
        BrokerError: If the broker cannot be used as configured.
    """
    client = config.broker.client_id
    link = Link(
        config.broker,
        filters=list(dict.fromkeys(route.pattern.filter for route in routes)),
        status_topic=f"andon/{client}/status",
    )
    gateway = Gateway(routes, MemoryStore(), link, f"andon/{client}/rejected")
    stop = StopEvent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("%s starts with %d pipelines", client, len(routes))
    gateway.run(stop)
    clean = link.close()
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
