"""MQTT, on paho-mqtt, which no other file imports: bytes in, bytes out.

Everything runs in the caller's thread, on paho's external-loop calls. paho's callbacks only note
what came: they run while paho is in the middle of a packet, and what is sent from there overtakes
what paho is about to send again. Four habits of paho 2.x are worked around:

- It sends a publication before the broker has answered CONNECT, and after a reconnect everything
  that is unacknowledged at once, whatever the broker can take. So at most `_WINDOW` publications
  are in its hands, and each connection has a client of its own (see `edge_runtime.outgoing`).
- ``loop_read`` does not tell "one packet read" from "nothing there". The callbacks count.
- ``is_connected`` stays true after the broker's DISCONNECT. ``socket`` is what counts.
- A missing PINGRESP closes the connection in ``loop_misc`` up to two keep-alives after the last
  byte, later than a half-open connection shall be noticed. So `Wire` watches the silence itself.
  And ``loop_misc`` does so too when the answer has come and was not read: it is called after that,
  and only where it was quiet.
"""

import logging
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_runtime.config import BrokerConfig
from edge_runtime.errors import BrokerError
from edge_runtime.outgoing import Outgoing, Parcel
from edge_runtime.publish_packets import Published
from edge_runtime.sockets import PlainSocket, credentials, tls_context
from edge_runtime.stop import StopEvent

log = logging.getLogger("andon.mqtt")

OFFLINE = b"offline"

_TICK_S = 1.0
_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 10.0
_GOODBYE_TIMEOUT_S = 1.0
# A caller of Publisher may sleep between two publications, and nobody answers for it meanwhile.
_SLEEPY_KEEPALIVE_S = 3600
# A connection without a sign of life for so many keep-alives is half open: 1.5 are promised, and
# PINGREQ asks for one after the first.
_SILENCE = 1.4
# How often to look after ping and silence, in keep-alives.
_LOOK = 0.125
_WINDOW = 100
_MAX_TOPIC_BYTES = 65_535
MAX_BATCH = 5000
MAX_BATCH_BYTES = 16 << 20
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


# MQTT 5, 3.4, and MQTT 3.1.1, 3.4: what a PUBACK without a reason is made of. paho makes an object
# of each, which costs as much as decoding the message did.
_PUBACK = struct.Struct(">BBH")
_PUBACK_HEADER = 0x40, 2


class Wire:
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
        refused: Own publications that the broker has acknowledged with a refusal.
    """

    def __init__(self, broker: BrokerConfig, client_id: str, *, will_topic: str = "") -> None:
        self.url = broker.url
        self.up = False
        self.connection = 0
        self.session_present = False
        self.granted: list[ReasonCode] | None = None
        self.refused = 0
        self._broker = broker
        self._client_id = client_id
        self._will_topic = will_topic
        self._persistent = bool(will_topic)
        self._client = self._new_client()
        self._fresh = True
        self._inbox: list[Message] = []
        self._inbox_bytes = 0
        self._noted = 0
        self._outgoing = Outgoing()
        self._window = _WINDOW
        self._refusals: set[str] = set()
        self._reason = ""
        self._said_by_paho = ""
        self._opened_at = 0.0
        self._has_properties = broker.protocol == "5"
        self._keepalive_s = broker.keepalive_s if self._persistent else _SLEEPY_KEEPALIVE_S
        self._heard_at = self._turned_at = self._acknowledged_at = 0.0

    @property
    def is_open(self) -> bool:
        """There is a socket, accepted by the broker or not yet."""
        return self._client.socket() is not None

    @property
    def unacknowledged(self) -> int:
        """Own publications without an acknowledgement."""
        return len(self._outgoing)

    @property
    def failure(self) -> BrokerError:
        """Why the last connection, or attempt at one, has ended."""
        return BrokerError(f"{self.url}: {self._reason or 'not connected'}")

    def open(self) -> None:
        """Opens the socket, blocking for as long as that takes, and sends CONNECT.

        Raises:
            BrokerError: If there is nobody, or somebody who cannot be trusted.
        """
        if not self._fresh:
            self._client = self._new_client()
        self._fresh = False
        self._reset()
        self._reason = self._said_by_paho = ""
        self._opened_at = self._heard_at = self._turned_at = time.monotonic()
        self._acknowledged_at = self._opened_at
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
        if type(sock) is socket.socket:
            PlainSocket.instead_of(sock)  # paho makes its sockets itself

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
            unsent = isinstance(sock, PlainSocket) and sock.flush()
            write = select.POLLOUT if unsent or self._client.want_write() else 0
            waiting.register(sock, select.POLLIN | write)
            timeout_s = min(timeout_s, self._look_in_s())
        # What is decrypted or read ahead already, poll does not see.
        if isinstance(sock, ssl.SSLSocket | PlainSocket) and sock.pending():
            timeout_s = 0.0
        ready = dict(waiting.poll(timeout_s * 1000))
        self._turned_at = time.monotonic()
        if sock is None:
            return
        if ready.get(sock.fileno(), 0) & select.POLLIN:
            self._heard_at = self._turned_at
        self._drain()
        if self._client.want_write():
            self._client.loop_write()
        if self._is_quiet():
            self._client.loop_misc()
        self._give_up()
        self._pump()

    def _is_quiet(self) -> bool:
        """Whether it is time for paho to look after its ping.

        It does not see what is read past it, and would ping a connection over which messages come
        all the time; and its answer may stand behind more of them than are read in a keep-alive.
        """
        since = min(self._heard_at, self._acknowledged_at)
        return not self.up or self._turned_at - since >= self._keepalive_s / 2

    def take(self) -> list[Message]:
        """What has arrived since the last call."""
        inbox, self._inbox, self._inbox_bytes = self._inbox, [], 0
        return inbox

    def acknowledge(self, messages: Iterable[Message]) -> int:
        """Acknowledges messages at QoS 1, if they came over the connection that stands now.

        Returns:
            How many did not.
        """
        stale, mids = 0, bytearray()
        sock = self._client.socket()
        swift = isinstance(sock, PlainSocket) and not self._client.want_write()
        with self._corked():
            for message in messages:
                if not (self.up and message.connection == self.connection):
                    stale += 1
                elif swift and message.qos == 1:
                    mids += _PUBACK.pack(*_PUBACK_HEADER, message.mid)
                else:
                    self._client.ack(message.mid, message.qos)
            if mids and sock is not None:
                sock.send(mids)
                self._acknowledged_at = time.monotonic()
        return stale

    def _corked(self) -> AbstractContextManager[None]:
        """What is written meanwhile leaves together."""
        sock = self._client.socket()
        return sock.corked() if isinstance(sock, PlainSocket) else nullcontext()

    def delivered(self) -> list[int]:
        """Tokens of the publications that the broker has for good, since the last call."""
        return self._outgoing.delivered()

    def send(
        self, topic: str, payload: bytes, *, retain: bool = False, token: int | None = None
    ) -> None:
        """Hands a publication on, now or when its turn comes.

        Args:
            topic: Where to.
            payload: What.
            retain: The broker keeps it.
            token: What `delivered` gives once the broker has it; None for nothing.

        Raises:
            BrokerError: If it is not a topic that can be published on.
        """
        if not 0 < len(topic.encode()) <= _MAX_TOPIC_BYTES or set(topic) & set("+#\0"):
            raise BrokerError(f"cannot publish on {topic!r}: wanted a topic without +, # and NUL")
        self._outgoing.put(Parcel(topic, payload, retain, token))
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

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Ends subscriptions that the broker may still have from an earlier run."""
        if filters:
            self._client.unsubscribe(list(filters))

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

    def _look_in_s(self) -> float:
        """How long to wait at most, for the ping and the silence to be seen in time."""
        now = time.monotonic()
        if now - self._turned_at > self._keepalive_s / 2:
            # Nobody was here to ask or to listen. What comes now, or answers a ping now, counts.
            self._heard_at = max(self._heard_at, now - self._keepalive_s)
        left_s = self._heard_at + _SILENCE * self._keepalive_s - now
        return max(min(left_s, _LOOK * self._keepalive_s), 0.0)

    def _give_up(self) -> None:
        """Closes a connection that nothing comes over any more."""
        if not self.is_open:
            return
        now = time.monotonic()
        if not self.up and now - self._opened_at > _ANSWER_TIMEOUT_S:
            self._reason = f"no answer to CONNECT within {_ANSWER_TIMEOUT_S:g} s"
        elif self.up and (silent_s := now - self._heard_at) >= _SILENCE * self._keepalive_s:
            self._reason = f"connection lost: no sign of life for {silent_s:.1f} s"
        else:
            return
        self._reset()

    def _new_client(self) -> paho.Client:
        """One for each connection: paho's own memory of what was in flight is not needed.

        Raises:
            BrokerError: If a password file or certificate cannot be used.
        """
        client = _client(self._broker, self._client_id, persistent=self._persistent)
        if self._will_topic:
            client.will_set(self._will_topic, OFFLINE, qos=1, retain=True)
        client.on_connect = lambda _c, _u, flags, reason, properties: self._accepted(
            flags.session_present, reason, properties
        )
        client.on_disconnect = lambda _c, _u, _flags, reason, _properties: self._lost(reason)
        client.on_message = self._received
        client.on_publish = lambda _c, _u, mid, reason, _properties: self._published(mid, reason)
        client.on_subscribe = lambda _c, _u, _mid, reasons, _properties: self._granted(reasons)
        return client

    def _reset(self) -> None:
        """Closes the socket, which is what paho does here, and says where the next one goes."""
        self.up = False
        broker, keepalive_s = self._broker, self._keepalive_s
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
            if not self._take_published():
                self._client.loop_read()
            full = len(self._inbox) >= MAX_BATCH or self._inbox_bytes >= MAX_BATCH_BYTES
            if full or time.monotonic() >= deadline:
                return

    def _take_published(self) -> bool:
        """Reads publications past paho, if that can be; whether there were any."""
        sock = self._client.socket()
        if not (self.up and self._persistent and isinstance(sock, PlainSocket)):
            return False
        most = MAX_BATCH - len(self._inbox)
        found = sock.published(most, properties=self._has_properties)
        for published in found:
            self._note(published)
        return bool(found)

    def _pump(self) -> None:
        """Hands waiting publications to paho, as many as may be in flight."""
        if self.up and self._outgoing.sendable(self._window):
            with self._corked():
                self._outgoing.send(self._publish, self._window)

    def _publish(self, parcel: Parcel) -> int | None:
        topic, payload, retain, _ = parcel
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        # Its message id is still in flight after 65535 others. The next call gets the next.
        return None if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE else info.mid

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
        self._outgoing.again()
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
        try:
            topic = message.topic
        except UnicodeDecodeError:
            # A broker that lets this through would send it again on every connection: hand it on
            # under a name that nobody expects, to be rejected and acknowledged.
            topic = "\N{REPLACEMENT CHARACTER}"
        payload, mid, qos = bytes(message.payload), message.mid, message.qos
        self._note(Published(topic, payload, mid, qos, message.dup, message.retain))

    def _note(self, published: Published) -> None:
        self._noted += 1
        self._inbox_bytes += len(published.payload)
        self._inbox.append(Message(*published, self.connection))

    def _published(self, mid: int, reason: ReasonCode) -> None:
        self._noted += 1
        sent = self._outgoing.acknowledge(mid, refused=reason.is_failure)
        if sent is not None and reason.is_failure:
            self.refused += 1
            if str(reason) not in self._refusals:
                self._refusals.add(str(reason))
                log.error("%s: publication on %s refused: %s", self.url, sent.topic, reason)

    def _granted(self, reasons: list[ReasonCode]) -> None:
        self._noted += 1
        self.granted = reasons

    def _log_error(self, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._said_by_paho = text


def _explained(reason: ReasonCode) -> str:
    hint = _HINTS.get(str(reason))
    return f"{reason} ({hint})" if hint else str(reason)


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
    user, password = credentials(broker)
    if user:
        client.username_pw_set(user, password or None)
    if broker.tls:
        client.tls_set_context(tls_context(broker))
    return client
