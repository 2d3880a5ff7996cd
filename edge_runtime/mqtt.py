"""MQTT, on paho-mqtt, which no other file imports: bytes in, bytes out.

Everything runs in the caller's thread, on paho's external-loop calls. paho's callbacks only note
what came: they run while paho is in the middle of a packet, and what is sent from there overtakes
what paho is about to send again. Four habits of paho 2.x are worked around:

- It sends a publication before the broker has answered CONNECT, and after a reconnect everything
  that is unacknowledged at once, whatever the broker can take. So at most `_WINDOW` publications
  are in its hands, the others wait in `_Wire`.
- ``loop_read`` does not tell "one packet read" from "nothing there". The callbacks count.
- ``is_connected`` stays true after the broker's DISCONNECT. ``socket`` is what counts.
- A missing PINGRESP closes the connection in ``loop_misc`` one to two keep-alives after the last
  byte, but also when the answer has come and was not read yet. So it is called after reading.
"""

import logging
import os
import random
import secrets
import select
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_runtime.config import BrokerConfig
from edge_runtime.errors import BrokerError

log = logging.getLogger("andon.mqtt")

ONLINE, STOPPED, OFFLINE = b"online", b"stopped", b"offline"

_TICK_S = 1.0
_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 10.0
_GOODBYE_TIMEOUT_S = 1.0
# A caller of Publisher may sleep between two publications, and nobody answers for it meanwhile.
_SLEEPY_KEEPALIVE_S = 3600
_WINDOW = 100
_MAX_TOPIC_BYTES = 65_535
_PUBLISHER_BACKLOG = 200
_MAX_BATCH = 5000
_MAX_BATCH_BYTES = 16 << 20
_MAX_DRAIN_S = 0.05
_HINTS = {
    "Bad user name or password": "see user, password_file, ANDON_MQTT_USER, ANDON_MQTT_PASSWORD",
    "Not authorized": "see user, password_file, ANDON_MQTT_USER, ANDON_MQTT_PASSWORD",
    "Session taken over": "another client uses the same client_id",
    "Unsupported protocol version": 'see protocol = "3.1.1"',
}
_UNSPECIFIED = "Unspecified error"


@dataclass(frozen=True, slots=True)
class Message:
    """One received publication.

    Attributes:
        topic: Its topic.
        payload: Its payload.
        mid: Message id, meaningful on its own connection only; 0 at QoS 0.
        qos: 0 or 1.
        dup: The broker has sent it before.
        retain: It was kept by the broker and is not new.
        connection: Number of the connection that it came over.
    """

    topic: str
    payload: bytes
    mid: int
    qos: int
    dup: bool
    retain: bool
    connection: int


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


class StopEvent:
    """Set once, from a signal handler or another thread; ends a wait of `Link.batches` at once."""

    def __init__(self) -> None:
        self._set = False
        self._reader, self._writer = os.pipe()
        weakref.finalize(self, _close_all, (self._reader, self._writer))

    def set(self) -> None:
        """Asks for the end."""
        if not self._set:
            self._set = True
            os.write(self._writer, b"!")

    def is_set(self) -> bool:
        """Whether the end was asked for."""
        return self._set

    def fileno(self) -> int:
        """Readable from `set` on."""
        return self._reader


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class Link:
    """The gateway's connection: a source of batches, which come back acknowledged.

    It connects when the batches are asked for, and again with back-off whenever it has to, keeps a
    retained status (``online``, ``stopped``, by last will ``offline``), and leaves its session with
    the broker when it goes.

    Args:
        broker: Where and as whom.
        filters: Topic filters to subscribe to, on every connection.
        status_topic: Topic of the retained status.
        backoff: Waits between attempts to connect.

    Attributes:
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
    ) -> None:
        self._wire = _Wire(broker, broker.client_id, will_topic=status_topic)
        self._filters = tuple(filters)
        self._status_topic = status_topic
        self._backoff = backoff
        self._engaged = False
        self._greeted = 0
        self._greeted_at = float("inf")
        self._failures = 0
        self._retry_at = 0.0
        self._closing = False
        self.stale_acknowledgements = 0

    def batches(self, stop: StopEvent) -> Iterator[list[Message]]:
        """Yields what arrived together, and an empty list about once a second when nothing does.

        A batch ends when nothing more is there, and not later than after 5000 messages, 16 MiB or
        50 ms. Not asking for the next one is the back-pressure.

        Args:
            stop: Ends the batches, after the one in hand; seen at once, but for an attempt to
                connect that is under way (5 s at most for each of the broker's addresses).

        Raises:
            BrokerError: If a topic filter is not valid.
        """
        last = time.monotonic()
        while not stop.is_set():
            batch = self._turn(max(last + _TICK_S - time.monotonic(), 0.0), stop)
            if batch or time.monotonic() - last >= _TICK_S:
                yield batch
                last = time.monotonic()

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tells the broker that these need not be sent again.

        Those of an earlier connection are skipped and counted: the broker sends them again, and
        uses their ids for other messages meanwhile.
        """
        for message in messages:
            if message.qos and not self._wire.acknowledge(message):
                self.stale_acknowledgements += 1

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Sends at QoS 1, in order, again after a reconnect, until the broker has it.

        Args:
            topic: Where to.
            payload: What.
            retain: The broker keeps it for later subscribers.

        Raises:
            BrokerError: If it is not a topic that can be published on.
        """
        self._wire.send(topic, payload, retain=retain)

    def unacknowledged(self) -> int:
        """Own publications that the broker has not acknowledged yet."""
        return self._wire.unacknowledged

    def close(self, timeout_s: float = 10.0) -> bool:
        """Says ``stopped``, waits for the acknowledgements, disconnects and leaves the session.

        Without a connection and with nothing to deliver it does not wait: the broker has said
        ``offline`` already.

        Args:
            timeout_s: How long to wait at most.

        Returns:
            Whether all that was published went out. If not, the last will goes out instead.
        """
        self._closing = True
        self._retry_at, self._failures = 0.0, 0
        if self._wire.up or self._wire.unacknowledged:
            self.publish(self._status_topic, STOPPED, retain=True)
        deadline = time.monotonic() + timeout_s
        while self._wire.unacknowledged and (left := deadline - time.monotonic()) > 0:
            # Unacknowledged on purpose: the next run gets what arrives now.
            self._turn(min(left, _TICK_S))
        complete = self._wire.unacknowledged == 0
        self._wire.close(with_will=not complete)
        return complete

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
        """Subscribes on a new connection; says ``online`` once the broker has answered that."""
        wire = self._wire
        if self._greeted != wire.connection:
            log.info("%s: connected", wire.url)
            if wire.connection > 1 and not wire.session_present:
                log.warning("%s: the session is lost, and what was sent meanwhile", wire.url)
            self._greeted, self._greeted_at = wire.connection, time.monotonic()
            wire.subscribe(self._filters)
        if wire.granted is not None:
            for refusal in wire.refusals(self._filters):
                log.error("%s", refusal)
            wire.granted = None
            if not self._closing:
                self.publish(self._status_topic, ONLINE, retain=True)


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
        self._wire = _Wire(broker, _guest_id(broker))
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
        self._wire = _Wire(broker, _guest_id(broker))
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


class _Wire:
    """One paho client, driven from outside: open, wait, read, write.

    Args:
        broker: Where.
        client_id: As whom.
        will_topic: Topic of the last will. With one, the session outlives the connection and
            messages are acknowledged by hand.

    Attributes:
        url: The broker's address, for messages.
        up: The broker has accepted us and the connection stands, as far as is known.
        connection: Number of the connection, from 1.
        session_present: The broker still had our session.
        granted: The broker's answer to the last subscription, for each filter; None before it.
    """

    def __init__(self, broker: BrokerConfig, client_id: str, *, will_topic: str = "") -> None:
        self.url = broker.url
        self.up = False
        self.connection = 0
        self.session_present = False
        self.granted: list[ReasonCode] | None = None
        self._broker = broker
        self._persistent = bool(will_topic)
        self._client = _client(broker, client_id, persistent=self._persistent)
        if will_topic:
            self._client.will_set(will_topic, OFFLINE, qos=1, retain=True)
        client = self._client
        client.on_connect = lambda _c, _u, flags, reason, properties: self._accepted(
            flags.session_present, reason, properties
        )
        client.on_disconnect = lambda _c, _u, _flags, reason, _properties: self._lost(reason)
        client.on_message = self._received
        client.on_publish = lambda _c, _u, mid, reason, _properties: self._published(mid, reason)
        client.on_subscribe = lambda _c, _u, _mid, reasons, _properties: self._granted(reasons)
        self._inbox: list[Message] = []
        self._inbox_bytes = 0
        self._noted = 0
        self._waiting: deque[tuple[str, bytes, bool]] = deque()
        self._in_flight: dict[int, str] = {}
        self._window = _WINDOW
        self._refused: set[str] = set()
        self._reason = ""
        self._said_by_paho = ""
        self._opened_at = 0.0

    @property
    def is_open(self) -> bool:
        """There is a socket, accepted by the broker or not yet."""
        return self._client.socket() is not None

    @property
    def unacknowledged(self) -> int:
        """Own publications without an acknowledgement."""
        return len(self._waiting) + len(self._in_flight)

    @property
    def failure(self) -> BrokerError:
        """Why the last connection, or attempt at one, has ended."""
        return BrokerError(f"{self.url}: {self._reason or 'not connected'}")

    def open(self) -> None:
        """Opens the socket, blocking for as long as that takes, and sends CONNECT.

        Raises:
            BrokerError: If there is nobody, or somebody who cannot be trusted.
        """
        self._reset()
        self._reason = self._said_by_paho = ""
        self._opened_at = time.monotonic()
        # Only until CONNACK, because it costs: where paho says why the broker hung up on us.
        self._client.on_log = lambda _c, _u, level, text: self._log_error(level, text)
        try:
            self._client.reconnect()
        except ssl.SSLCertVerificationError as error:
            ca = self._broker.ca or "that of this system"
            self._reason = f"certificate not accepted: {error.verify_message} (ca: {ca})"
            raise self.failure from error
        except (OSError, UnicodeError) as error:
            self._reason = f"cannot connect: {error}"
            raise self.failure from error
        # Else a flag after a few acknowledgements waits for the broker's delayed TCP ACK, 40 ms.
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connect(self, timeout_s: float) -> None:
        """Opens and waits until the broker has accepted us.

        Raises:
            BrokerError: If it does not.
        """
        self.open()
        try:
            self.until(lambda: self.up, "answer to CONNECT", timeout_s)
        except BrokerError:
            self._reset()
            raise

    def until(self, done: Callable[[], bool], wanted: str, timeout_s: float) -> None:
        """Takes turns until ``done``.

        Raises:
            BrokerError: If the connection ends before, or the time.
        """
        deadline = time.monotonic() + timeout_s
        while not done():
            if not self.is_open:
                raise self.failure
            if time.monotonic() > deadline:
                raise BrokerError(f"{self.url}: no {wanted} within {timeout_s:g} s")
            self.turn(min(timeout_s, _TICK_S))

    def turn(self, timeout_s: float, stop: StopEvent | None = None) -> None:
        """Waits until something can be read or written, ``stop`` or the timeout, and does it."""
        waiting = select.poll()
        if stop is not None:
            waiting.register(stop, select.POLLIN)
        sock = self._client.socket()
        if sock is not None:
            write = select.POLLOUT if self._client.want_write() else 0
            waiting.register(sock, select.POLLIN | write)
        # What TLS has decrypted already, poll does not see.
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            timeout_s = 0.0
        waiting.poll(timeout_s * 1000)
        if sock is None:
            return
        self._drain()
        if self._client.want_write():
            self._client.loop_write()
        self._client.loop_misc()
        if not self.up and self.is_open and self._overdue():
            self._reason = f"no answer to CONNECT within {_ANSWER_TIMEOUT_S:g} s"
            self._reset()
        self._pump()

    def take(self) -> list[Message]:
        """What has arrived since the last call."""
        inbox, self._inbox, self._inbox_bytes = self._inbox, [], 0
        return inbox

    def acknowledge(self, message: Message) -> bool:
        """Acknowledges a message, if it came over the connection that stands now."""
        if not self.up or message.connection != self.connection:
            return False
        self._client.ack(message.mid, message.qos)
        return True

    def send(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Hands a publication on, now or when its turn comes.

        Raises:
            BrokerError: If it is not a topic that can be published on.
        """
        if not 0 < len(topic.encode()) <= _MAX_TOPIC_BYTES or set(topic) & set("+#\0"):
            raise BrokerError(f"cannot publish on {topic!r}: wanted a topic without +, # and NUL")
        self._waiting.append((topic, payload, retain))
        self._pump()

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribes to all filters at once, at QoS 1; the answer is in ``granted`` later.

        Raises:
            BrokerError: If one of them is not valid.
        """
        self.granted = None if filters else []
        if not filters:
            return
        # A subscription that the broker still has does not need its retained messages again.
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        try:
            if self._broker.protocol == "5":
                self._client.subscribe([(name, options) for name in filters])
            else:
                self._client.subscribe([(name, 1) for name in filters])
        except ValueError as error:
            raise BrokerError(f"cannot subscribe to {', '.join(filters)}: {error}") from error

    def refusals(self, filters: Sequence[str]) -> list[BrokerError]:
        """The filters that the broker has refused in its last answer."""
        return [
            BrokerError(f"{self.url}: subscription to {name} refused: {reason}")
            for name, reason in zip(filters, self.granted or [], strict=False)
            if reason.is_failure
        ]

    def close(self, *, with_will: bool = False) -> None:
        """Disconnects; without saying so to the broker if the last will shall go out."""
        if self.up and not with_will:
            self._client.disconnect()
            deadline = time.monotonic() + _GOODBYE_TIMEOUT_S
            while self.is_open and (left := deadline - time.monotonic()) > 0:
                self.turn(left)
        self._reset()

    def _overdue(self) -> bool:
        return time.monotonic() - self._opened_at > _ANSWER_TIMEOUT_S

    def _reset(self) -> None:
        """Closes the socket, which is what paho does here, and says where the next one goes."""
        self.up = False
        broker = self._broker
        keepalive_s = broker.keepalive_s if self._persistent else _SLEEPY_KEEPALIVE_S
        if broker.protocol != "5":
            self._client.connect_async(broker.host, broker.port, keepalive_s)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = broker.receive_maximum
        properties.SessionExpiryInterval = broker.session_expiry_s if self._persistent else 0
        self._client.connect_async(
            broker.host,
            broker.port,
            keepalive_s,
            clean_start=not self._persistent,
            properties=properties,
        )

    def _drain(self) -> None:
        """Reads until nothing more is there, or enough."""
        deadline = time.monotonic() + _MAX_DRAIN_S
        noted = -1
        while noted != self._noted:
            noted = self._noted
            self._client.loop_read()
            full = len(self._inbox) >= _MAX_BATCH or self._inbox_bytes >= _MAX_BATCH_BYTES
            if full or time.monotonic() >= deadline:
                return

    def _pump(self) -> None:
        """Hands waiting publications to paho, as many as may be in flight."""
        while self.up and self._waiting and len(self._in_flight) < self._window:
            topic, payload, retain = self._waiting[0]
            info = self._client.publish(topic, payload, qos=1, retain=retain)
            if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                # Its message id is still in flight after 65535 others. The next call gets the next.
                return
            self._waiting.popleft()
            self._in_flight[info.mid] = topic

    def _accepted(
        self, session_present: bool, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._noted += 1
        self._client.on_log = None
        if reason.is_failure:
            self._reason = f"connection refused: {_explained(reason)}"
            return
        self.connection += 1
        self.up = True
        self.session_present = session_present
        self.granted = None
        self._window = min(getattr(properties, "ReceiveMaximum", _WINDOW), _WINDOW)

    def _lost(self, reason: ReasonCode) -> None:
        was_up, self.up = self.up, False
        if self._reason:
            return
        self._reason = "connection lost" if was_up else "no answer to CONNECT, but a hang-up"
        if str(reason) != _UNSPECIFIED:
            self._reason += f": {_explained(reason)}"
        if self._said_by_paho:
            self._reason += f": {self._said_by_paho}"
        # With TLS 1.3 that is all one hears of it: the client's own handshake has succeeded.
        if not was_up and self._broker.tls and self._broker.cert is None:
            self._reason += " (does the broker want a certificate, see cert and key?)"

    def _received(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        self._noted += 1
        self._inbox_bytes += len(message.payload)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            # A broker that lets this through would send it again on every connection: hand it on
            # under a name that nobody expects, to be rejected and acknowledged.
            topic = "\N{REPLACEMENT CHARACTER}"
        payload = bytes(message.payload)
        mid, qos, dup, retain = message.mid, message.qos, message.dup, message.retain
        self._inbox.append(Message(topic, payload, mid, qos, dup, retain, self.connection))

    def _published(self, mid: int, reason: ReasonCode) -> None:
        self._noted += 1
        topic = self._in_flight.pop(mid, "")
        if reason.is_failure and str(reason) not in self._refused:
            self._refused.add(str(reason))
            log.error("%s: publication on %s refused: %s", self.url, topic, reason)

    def _granted(self, reasons: list[ReasonCode]) -> None:
        self._noted += 1
        self.granted = reasons

    def _log_error(self, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._said_by_paho = text


def _explained(reason: ReasonCode) -> str:
    hint = _HINTS.get(str(reason))
    return f"{reason} ({hint})" if hint else str(reason)


def _guest_id(broker: BrokerConfig) -> str:
    return f"{broker.client_id}-{secrets.token_hex(4)}"


def _client(broker: BrokerConfig, client_id: str, *, persistent: bool) -> paho.Client:
    v5 = broker.protocol == "5"
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if v5 else not persistent,
        protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
        # Else it answers a refused protocol version by connecting once more from inside a callback.
        reconnect_on_failure=False,
        manual_ack=persistent,
    )
    client.connect_timeout = _CONNECT_TIMEOUT_S
    # The limit is ours: paho's own would search all publications for every acknowledgement.
    client.max_inflight_messages = 0
    user = broker.user or os.environ.get("ANDON_MQTT_USER", "")
    password = _password(broker)
    if password and not user:
        raise BrokerError("a password without a user: wanted user or ANDON_MQTT_USER as well")
    if user:
        client.username_pw_set(user, password or None)
    if broker.tls:
        client.tls_set_context(_tls(broker))
    return client


def _password(broker: BrokerConfig) -> str:
    if broker.password_file is None:
        return os.environ.get("ANDON_MQTT_PASSWORD", "")
    try:
        first, *_ = broker.password_file.read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        # The text of a UnicodeDecodeError shows a byte of the password.
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise BrokerError(f"password_file {broker.password_file}: cannot be read: {why}") from None
    if not first:
        raise BrokerError(f"password_file {broker.password_file}: the first line is empty")
    return first


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho leaves that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _tls(broker: BrokerConfig) -> ssl.SSLContext:
    # Certificates and host name are verified; without the pickiness about extensions that
    # create_default_context adds in Python 3.13 and that a plant's own CA often does not meet.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _TlsSocket
    try:
        if broker.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(broker.ca)
    except OSError as error:
        raise BrokerError(f"ca {broker.ca}: cannot be used: {error}") from error
    if broker.cert is not None:

        def locked() -> str:
            raise BrokerError(f"key {broker.key or broker.cert}: wanted a key without a password")

        try:
            context.load_cert_chain(broker.cert, broker.key, locked)
        except OSError as error:
            files = f"cert {broker.cert}, key {broker.key}"
            raise BrokerError(f"{files}: cannot be used: {error}") from error
    return context
