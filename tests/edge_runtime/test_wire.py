"""One connection, to a broker that says what mosquitto cannot be made to say."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from conftest import Certificates
from edge_runtime import link, mqtt
from edge_runtime.config import BrokerConfig
from edge_runtime.errors import BrokerError
from edge_runtime.link import Publisher, Subscriber
from links import NEVER, RunLink, publish_numbered, send, subscribed

ACCEPTED = b"\x20\x03\x00\x00\x00"  # CONNACK of MQTT 5

pytestmark = pytest.mark.usefixtures("short_ticks")


class FakeBroker:
    """Says what mosquitto cannot be made to say: accepts one client, then refuses what it asks.

    Args:
        connack: The answer to CONNECT, and what comes with it; empty for none.
        certificates: For TLS.
        more: What comes with a PUBACK, in the same TLS record.
    """

    def __init__(
        self, connack: bytes, certificates: Certificates | None = None, more: bytes = b""
    ) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(30.0)
        port = self._server.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{port}"
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates.server, certificates.server_key)
            self._server = context.wrap_socket(self._server, server_side=True)
            self.url = f"mqtts://127.0.0.1:{port}"
        self._connack = connack
        self._more = more
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._server:
            connection, _ = self._server.accept()
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(self._connack)
            for packet in self._packets(connection):
                self._answer(connection, packet)

    def _answer(self, connection: socket.socket, packet: bytes) -> None:
        mid = packet[2:4]
        if packet[0] >> 4 == 8:  # SUBSCRIBE; 0x87 is "not authorized"
            connection.sendall(b"\x90\x05" + mid + b"\x00\x00\x87")
        if packet[0] >> 4 == 12:  # PINGREQ
            connection.sendall(b"\xd0\x00")
        if packet[0] >> 4 == 3:  # PUBLISH
            start = 4 + packet[3]
            mid = packet[start : start + 2]
            connection.sendall(b"\x40\x04" + mid + b"\x87\x00" + self._more)

    @staticmethod
    def _packets(connection: socket.socket) -> Iterator[bytes]:
        """Short ones, each whole, however they arrive."""
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
            while len(received) > 1 and len(received) >= (size := 2 + received[1]):
                yield received[:size]
                received = received[size:]

    def close(self) -> None:
        self._thread.join()


@pytest.fixture
def fake_broker() -> Iterator[Callable[..., FakeBroker]]:
    with ExitStack() as ends:

        def made(
            connack: bytes, certificates: Certificates | None = None, more: bytes = b""
        ) -> FakeBroker:
            broker = FakeBroker(connack, certificates, more)
            ends.callback(broker.close)
            return broker

        yield made


class BusyBroker(FakeBroker):
    """Sends a message for each acknowledgement, and has no time to answer a ping."""

    def __init__(self) -> None:
        self.pings = self._sent = 0
        super().__init__(ACCEPTED)

    def _answer(self, connection: socket.socket, packet: bytes) -> None:
        kind = packet[0] >> 4
        self.pings += kind == 12
        if kind == 8:
            connection.sendall(b"\x90\x04" + packet[2:4] + b"\x00\x01")
        if kind in (8, 4):
            self._sent += 1
            mid = (self._sent % 65535 + 1).to_bytes(2)
            connection.sendall(b"\x32\x0a\x00\x04in/a" + mid + b"\x00x")


def test_small_packets_do_not_wait_for_each_other(config: BrokerConfig, run: RunLink) -> None:
    running = subscribed(run(config), config)
    sock = running.link._wire._client.socket()
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_error_in_a_callback_is_not_swallowed(
    config: BrokerConfig, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = subscribed(run(config), config)
    send(config, ["a"])
    monkeypatch.setattr(mqtt, "Message", None)
    with pytest.raises(TypeError, match="not callable"):
        running.take(1)


def test_a_refused_subscription_is_named(
    fake_broker: Callable[..., FakeBroker], run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    config = BrokerConfig(url=fake_broker(ACCEPTED).url, client_id="gateway")
    refusal = "subscription to in/secret refused: Not authorized"
    with pytest.raises(BrokerError, match=refusal), Subscriber(config, ["out/ok", "in/secret"]):
        pass
    config = BrokerConfig(url=fake_broker(ACCEPTED).url, client_id="gateway")
    running = run(config, filters=["in/ok", "in/secret"])
    running.run(until=lambda: refusal in caplog.text)
    running.link.say(b"degraded")
    assert running.link.unacknowledged() == 0  # a link that hears nothing says nothing


def test_a_refused_publication_is_named(
    fake_broker: Callable[..., FakeBroker], run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    config = BrokerConfig(url=fake_broker(ACCEPTED).url, client_id="gateway")
    running = run(config, filters=["in/ok", "in/secret"])
    publish_numbered(running, range(3))
    running.run(until=lambda: running.link.unacknowledged() == 0)
    assert caplog.text.count("publication on out/a refused: Not authorized") == 1
    # Answered is answered: what comes after must not wait for ever.
    assert (running.link.delivered(), running.link.refused) == ([0, 1, 2], 3)


def test_a_connection_over_which_messages_come_needs_no_ping(
    run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    """Paho does not see them, and would give up what does not answer its ping."""
    broker = BusyBroker()
    running = run(BrokerConfig(url=broker.url, client_id="gateway", keepalive_s=1))
    running.acknowledged(1)
    until = time.monotonic() + 3.2
    while time.monotonic() < until:
        running.link.acknowledge(next(running.batches))
    assert "next attempt" not in caplog.text
    running.link.close(0.0)
    broker.close()
    assert broker.pings == 0


def test_bytes_that_tls_has_decrypted_are_not_left_lying(
    fake_broker: Callable[..., FakeBroker],
    certificates: Certificates,
    run: RunLink,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Batches that end in the middle of the last TLS record, and nothing but poll to wake up by.
    monkeypatch.setattr(mqtt, "MAX_BATCH", 7)
    monkeypatch.setattr(link, "_TICK_S", 3600.0)
    publications = b"".join(b"\x30\x08\x00\x04in/a\x00%c" % number for number in range(100))
    url = fake_broker(ACCEPTED, certificates, publications).url
    running = run(BrokerConfig(url=url, client_id="gateway", ca=certificates.ca))
    assert [ord(message.payload) for message in running.take(100)] == list(range(100))


def test_a_broker_that_does_not_answer(
    fake_broker: Callable[..., FakeBroker],
    run: RunLink,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mqtt, "_ANSWER_TIMEOUT_S", 0.05)
    running = run(BrokerConfig(url=fake_broker(b"").url, client_id="gateway"), backoff=NEVER)
    running.run(until=lambda: "next attempt" in caplog.text)
    assert "no answer to CONNECT within 0.05 s" in caplog.text


def test_a_second_gateway_with_the_same_name_is_suspected(
    fake_broker: Callable[..., FakeBroker], run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    taken_over = ACCEPTED + b"\xe0\x02\x8e\x00"
    running = run(BrokerConfig(url=fake_broker(taken_over).url, client_id="gateway"), backoff=NEVER)
    running.run(until=lambda: "next attempt" in caplog.text)
    assert "Session taken over (another client uses the same client_id)" in caplog.text


def test_a_broker_without_mqtt_5(fake_broker: Callable[..., FakeBroker]) -> None:
    config = BrokerConfig(url=fake_broker(b"\x20\x02\x00\x01").url, client_id="gateway")
    with pytest.raises(BrokerError, match=r'see protocol = "3\.1\.1"'), Publisher(config):
        pass
