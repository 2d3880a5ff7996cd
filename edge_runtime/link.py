"""The gateway's connection to the broker, and two simple clients for everybody else.

Bytes in, bytes out; paho itself is one file further down, in `edge_runtime.mqtt`.
"""

import logging
import math
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edge_runtime.config import BrokerConfig
from edge_runtime.errors import BrokerError
from edge_runtime.inbox import Inbox
from edge_runtime.mqtt import Message, Wire
from edge_runtime.pace import Pace
from edge_runtime.stop import StopEvent

log = logging.getLogger("andon.mqtt")

ONLINE, STOPPED = b"online", b"stopped"

_TICK_S = 1.0
_GATHER_S = 0.01
_PUBLISHER_BACKLOG = 200
_MAX_BACKLOG = 2000


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next attempt to connect: exponential, capped, jittered.

    Jitter over the whole range, so that a hundred gateways do not come back in step when their
    broker does (Brooker, "Exponential Backoff And Jitter", 2015: "full jitter").

    Attributes:
        low_s: The shortest wait.
        high_s: The longest.
        lasting_s: A connection that lived this long was a success: the count starts again.
        uniform: Source of chance, from 0 to 1.
    """

    low_s: float = 1.0
    high_s: float = 30.0
    lasting_s: float = 30.0
    uniform: Callable[[], float] = random.random

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after that many failures in a row before this one."""
        ceiling = min(self.high_s, self.low_s * 2.0 ** min(failures + 1, 60))
        return self.low_s + self.uniform() * max(ceiling - self.low_s, 0.0)


_BACKOFF = Backoff()


class Link:
    """The gateway's connection: a source of batches, which come back acknowledged.

    It connects when the batches are asked for, and again with back-off whenever it has to, keeps a
    retained status (``online`` or what `say` makes of it, ``stopped``, by last will ``offline``),
    and leaves its session with the broker when it goes.

    Args:
        broker: Where and as whom.
        filters: Topic filters to subscribe to, on every connection.
        status_topic: Topic of the retained status; its details are on ``<status_topic>/details``.
        backoff: Waits between attempts to connect.
        linger_s: How long a batch stays open for more, in seconds from its first message.

    Attributes:
        hold: While it is set, batches are empty and what arrives waits, unacknowledged, while the
            connection is kept alive.
        stale_acknowledgements: Messages not acknowledged because their connection is gone.

    Raises:
        BrokerError: If a password file or certificate cannot be used.
    """

    def __init__(
        self,
        broker: BrokerConfig,
        *,
        filters: Sequence[str],
        status_topic: str,
        backoff: Backoff = _BACKOFF,
        linger_s: float = 0.0,
    ) -> None:
        self._wire = Wire(broker, broker.client_id, will_topic=status_topic)
        self._filters = tuple(filters)
        self._former: tuple[str, ...] = ()
        self._most = broker.receive_maximum
        self._inbox = Inbox()
        self._status_topic = status_topic
        self._backoff = backoff
        self._linger_s = linger_s
        self._pace = Pace()
        self._engaged = False
        self._greeted = 0
        self._greeted_at = float("inf")
        self._failures = 0
        self._retry_at = 0.0
        self._closing = False
        self._word, self._details = ONLINE, b""
        self._speaks_on = 0
        self.hold = False
        self.stale_acknowledgements = 0

    @property
    def overflowed(self) -> int:
        """QoS 0 messages dropped because too many had to wait."""
        return self._inbox.overflowed

    @property
    def refused(self) -> int:
        """Own publications that the broker has refused (MQTT 5); each cause is logged once."""
        return self._wire.refused

    def batches(self, stop: StopEvent) -> Iterator[list[Message]]:
        """Yields what arrived together, and an empty list about once a second when nothing does.

        A batch ends when nothing more is there, and not later than after 5000 messages, 16 MiB or
        50 ms. Where messages come fast it stays open while they do, for 10 ms at most (see
        `edge_runtime.pace`). With ``linger_s`` it stays open for so long, whether they come or not,
        unless it has as many messages as may be unacknowledged (``receive_maximum``): then the
        broker is waiting for us. The window of MQTT 3.1.1 is the broker's secret, and one that is
        full waits until ``linger_s`` is over.

        Not asking for the next one is back-pressure, and so is a broker that is slow to take
        what we publish: while more than `_MAX_BACKLOG` publications wait for it, or ``hold`` is
        set, batches are empty, what has arrived waits, unacknowledged, and the broker's window
        fills up. QoS 0 knows no window: beyond a bound (see `edge_runtime.inbox`) such messages are
        dropped and counted.

        Args:
            stop: Ends the batches, after the one in hand; seen at once, but for an attempt to
                connect that is under way (5 s at most for each of the broker's addresses).

        Raises:
            BrokerError: If a topic filter is not valid.
        """
        inbox = self._inbox
        tick = time.monotonic() + _TICK_S
        while not stop.is_set():
            # Not reading on is the back-pressure.
            if self._held_back or not inbox.full:
                until = min(tick, self._closes_at())
                inbox.add(self._turn(max(until - time.monotonic(), 0.0), stop))
            if time.monotonic() >= self._closes_at():
                if not self._linger_s:
                    self._gather(stop)
                # mosquitto 2.0.11 sends more than its window once it has a queue.
                batch = inbox.take(self._most)
                self._pace.closed(len(batch), time.monotonic())
                yield batch
            elif time.monotonic() >= tick:
                yield []
            else:
                continue
            tick = time.monotonic() + _TICK_S

    def _gather(self, stop: StopEvent) -> None:
        """Lets more come, while it does and not for long."""
        nap_s, inbox = self._pace.nap_s, self._inbox
        until = inbox.since + _GATHER_S
        while nap_s and self._wire.up and len(inbox) < self._most and not inbox.full:
            if time.monotonic() + nap_s > until or stop.wait(nap_s):
                break
            more = self._turn(0.0, stop)
            if not more:
                break
            inbox.add(more)

    def _closes_at(self) -> float:
        """When the batch that is open shall be yielded."""
        if not self._inbox or self._held_back:
            return math.inf
        if self._inbox.full or len(self._inbox) >= self._most:
            return -math.inf
        return self._inbox.since + self._linger_s

    @property
    def _held_back(self) -> bool:
        return self.hold or self._wire.unacknowledged > _MAX_BACKLOG

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tells the broker that these need not be sent again.

        Those of an earlier connection are skipped and counted: the broker sends them again, and
        uses their ids for other messages meanwhile.
        """
        counted = (message for message in messages if message.qos)
        self.stale_acknowledgements += self._wire.acknowledge(counted)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, token: int | None = None
    ) -> None:
        """Sends at QoS 1, in order, again after a reconnect, until the broker has it for good.

        It has when it has acknowledged another one that was sent after the acknowledgement had
        come (see `edge_runtime.outgoing`). So the last one of all is sent again on each connection.

        Args:
            topic: Where to.
            payload: What.
            retain: The broker keeps it for later subscribers.
            token: What `delivered` gives when the broker has it; several may have the same.

        Raises:
            BrokerError: If it is not a topic that can be published on.
        """
        self._wire.send(topic, payload, retain=retain, token=token)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Ends subscriptions of an earlier configuration, which the session still has; once.

        Those of this one stay, whatever is asked.
        """
        former = set(filters).difference(self._filters)
        self._former = tuple(sorted(former))
        if self._wire.up and self._greeted == self._wire.connection:
            self._wire.unsubscribe(self._former)

    def delivered(self) -> list[int]:
        """Tokens of the publications that the broker has for good, since the last call.

        Each publication's token comes once, in the order of the acknowledgements, however often a
        publication had to be sent. A refusal (MQTT 5) counts as one: asked again, the broker would
        refuse again, and what comes after must not wait for that. It is logged and counted in
        ``refused``.
        """
        return self._wire.delivered()

    def say(self, word: bytes, details: bytes | None = None) -> None:
        """Sets the retained status, now and after each reconnect.

        It is published once the broker has granted the subscriptions: a gateway that hears nothing
        says nothing. The details come first, so that whoever sees the word finds them.

        Args:
            word: What the status topic shows.
            details: What ``<status_topic>/details`` shows; None for nothing.
        """
        had, self._word, self._details = self._details, word, details or b""
        if not self._closing and self._wire.up and self._speaks_on == self._wire.connection:
            self._speak(clear=bool(had))

    def unacknowledged(self) -> int:
        """Own publications that the broker has not acknowledged yet."""
        return self._wire.unacknowledged

    def close(self, timeout_s: float = 10.0) -> bool:
        """Says ``stopped``, waits for the acknowledgements, disconnects and leaves the session.

        Without a connection and with nothing to deliver it does not wait: the broker has said
        ``offline`` already.

        Args:
            timeout_s: How long to wait for the next acknowledgement at most.

        Returns:
            Whether all that was published went out. If not, the last will goes out instead.
        """
        self._closing = True
        self._retry_at, self._failures = 0.0, 0
        complete = self._hand_over(timeout_s)
        if self._wire.up and complete:
            # Last and alone: with its acknowledgement all others are for good.
            self.publish(self._status_topic, STOPPED, retain=True)
            complete = self._hand_over(timeout_s)
        self._wire.close(with_will=not complete)
        return complete

    def _hand_over(self, timeout_s: float) -> bool:
        """Waits while acknowledgements come; whether the broker has all."""
        deadline, before = time.monotonic() + timeout_s, self._wire.unacknowledged
        while self._wire.unacknowledged and (left := deadline - time.monotonic()) > 0:
            # Unacknowledged on purpose: the next run gets what arrives now.
            self._turn(min(left, _TICK_S))
            if self._wire.unacknowledged < before:
                deadline, before = time.monotonic() + timeout_s, self._wire.unacknowledged
        return self._wire.unacknowledged == 0

    def _turn(self, timeout_s: float, stop: StopEvent | None = None) -> list[Message]:
        if not self._wire.is_open:
            timeout_s = self._mend(timeout_s)
        self._wire.turn(timeout_s, stop)
        if self._wire.up:
            self._greet()
        return self._wire.take()

    def _mend(self, timeout_s: float) -> float:
        """Connects if it is time to; how long to wait for what comes next, in seconds."""
        if self._engaged:
            self._engaged = False
            self._postpone(self._wire.failure)
        now = time.monotonic()
        if now < self._retry_at:
            return min(timeout_s, self._retry_at - now)
        try:
            self._wire.open()
        except BrokerError as error:
            self._postpone(error)
            return 0.0
        self._engaged = True
        return timeout_s

    def _postpone(self, error: BrokerError) -> None:
        now = time.monotonic()
        if now - self._greeted_at >= self._backoff.lasting_s:
            self._failures = 0
        self._greeted_at = float("inf")
        delay_s = self._backoff.delay_s(self._failures)
        self._failures += 1
        self._retry_at = now + delay_s
        log.warning("%s; next attempt in %.1f s", error, delay_s)

    def _greet(self) -> None:
        """Subscribes on a new connection; says the status once the broker has answered that."""
        wire = self._wire
        if self._greeted != wire.connection:
            log.info("%s: connected", wire.url)
            if wire.connection > 1 and not wire.session_present:
                log.warning("%s: the session is lost, and what was sent meanwhile", wire.url)
            self._greeted, self._greeted_at = wire.connection, time.monotonic()
            wire.subscribe(self._filters)
            wire.unsubscribe(self._former)
        if wire.granted is not None:
            refusals = wire.refusals(self._filters)
            for refusal in refusals:
                log.error("%s", refusal)
            wire.granted = None
            if not self._closing and not refusals:  # one that hears nothing is not online
                self._speaks_on = wire.connection
                self._speak()

    def _speak(self, *, clear: bool = False) -> None:
        if self._details or clear:
            self.publish(f"{self._status_topic}/details", self._details, retain=True)
        self.publish(self._status_topic, self._word, retain=True)


class Publisher:
    """A simple blocking client that publishes at QoS 1, in order.

    Its client id is that of the configuration with a random ending, so that it never takes the
    gateway's session over. Use as a context manager; on leaving, everything has been acknowledged.

    Args:
        broker: Where.
        timeout_s: How long to wait for the broker's answer at most.

    Raises:
        BrokerError: On entering, if the broker cannot be used; later, if the connection is lost.
    """

    def __init__(self, broker: BrokerConfig, *, timeout_s: float = 30.0) -> None:
        self._wire = Wire(broker, _guest_id(broker))
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        self._wire.connect(self._timeout_s)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._wire.until(
                    lambda: self._wire.unacknowledged == 0,
                    "acknowledgement of what was published",
                    self._timeout_s,
                )
        finally:
            self._wire.close()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publishes; blocks while more than 200 publications are unacknowledged.

        Raises:
            BrokerError: If the topic is none, or the connection is lost.
        """
        self._wire.send(topic, payload, retain=retain)
        self._wire.turn(0.0)
        self._wire.until(
            lambda: self._wire.up and self._wire.unacknowledged <= _PUBLISHER_BACKLOG,
            "acknowledgement of what was published",
            self._timeout_s,
        )


class Subscriber:
    """A simple client that watches topics; for the demo and for tests. Use as a context manager.

    Args:
        broker: Where; the client id gets a random ending, see `Publisher`.
        filters: Topic filters.
        timeout_s: How long to wait for the broker's answer at most.

    Raises:
        BrokerError: On entering, if the broker or a subscription cannot be had.
    """

    def __init__(
        self, broker: BrokerConfig, filters: Sequence[str], *, timeout_s: float = 30.0
    ) -> None:
        self._wire = Wire(broker, _guest_id(broker))
        self._filters = tuple(filters)
        self._timeout_s = timeout_s
        self._received: deque[Message] = deque()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._wire.close()
            raise
        return self

    def _begin(self) -> None:
        wire = self._wire
        wire.connect(self._timeout_s)
        wire.subscribe(self._filters)
        wire.until(lambda: wire.granted is not None, "answer to SUBSCRIBE", self._timeout_s)
        for refusal in wire.refusals(self._filters):
            raise refusal

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._wire.close()

    def messages(self, timeout_s: float) -> Iterator[tuple[str, bytes, bool]]:
        """Yields (topic, payload, retained) as they come; may be left and called again.

        Args:
            timeout_s: Ends when nothing came for so long.

        Raises:
            BrokerError: If the connection is lost.
        """
        while True:
            deadline = time.monotonic() + timeout_s
            while not self._received and self._wire.is_open:
                left = deadline - time.monotonic()
                self._wire.turn(max(left, 0.0))
                self._received.extend(self._wire.take())
                if left <= 0:
                    break
            if not self._received:
                if not self._wire.is_open:
                    raise self._wire.failure
                return
            message = self._received.popleft()
            yield message.topic, message.payload, message.retain


def _guest_id(broker: BrokerConfig) -> str:
    return f"{broker.client_id}-{secrets.token_hex(4)}"
