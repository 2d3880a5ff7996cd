"""The gateway's connection, against a real mosquitto that is killed, frozen and restarted."""

import itertools
import logging
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from conftest import Broker, Certificates, MakeBroker
from edge_runtime import inbox, link, mqtt, pace, sockets
from edge_runtime.config import BrokerConfig, Protocol
from edge_runtime.errors import BrokerError
from edge_runtime.link import Backoff, Link, Publisher, Subscriber
from edge_runtime.mqtt import Message, StopEvent
from links import (
    PROTOCOLS,
    STATUS,
    RunLink,
    Running,
    numbers,
    publish_numbered,
    running_links,
    send,
    subscribed,
    texts,
)

ACCEPTED = b"\x20\x03\x00\x00\x00"  # CONNACK of MQTT 5
NEVER = Backoff(low_s=3600.0, high_s=3600.0)
PASSWORD = "correct horse"  # noqa: S105 - the throw-away broker's


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "_TICK_S", 0.01)
    monkeypatch.setattr(link, "_TICK_S", 0.01)
    for name in ("ANDON_MQTT_USER", "ANDON_MQTT_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run() -> Iterator[RunLink]:
    with running_links() as started:
        yield started


@pytest.fixture
def config(broker: Broker) -> BrokerConfig:
    return BrokerConfig(url=broker.url, client_id="gateway")


def restart(broker: Broker, running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Kills the broker, starts it again, and waits until the link is back and subscribed."""
    broker.kill()
    running.run(until=lambda: "next attempt" in caplog.text)
    broker.start()
    caplog.set_level(logging.INFO)
    running.run(until=lambda: ": connected" in caplog.text)
    running.run(until=lambda: running.link.unacknowledged() == 0)


def cut(running: Running) -> None:
    """Ends the connection, for both sides; the broker goes on."""
    sock = running.link._wire._client.socket()
    assert isinstance(sock, socket.socket)
    sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_acknowledged_does_not_come_again(
    config: BrokerConfig, run: RunLink, protocol: Protocol
) -> None:
    config = replace(config, protocol=protocol)
    first = subscribed(run(config), config)
    send(config, numbers(50))
    assert texts(first.acknowledged(50)) == numbers(50)
    assert first.link.close()
    send(config, ["while away"])
    assert texts(run(config).take(1)) == ["while away"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_not_acknowledged_comes_again(
    config: BrokerConfig, run: RunLink, protocol: Protocol
) -> None:
    config = replace(config, protocol=protocol)
    first = subscribed(run(config), config)
    send(config, numbers(20))
    taken = first.take(20)
    assert not any(message.dup for message in taken)
    first.link.acknowledge(taken[:12])
    assert first.link.close()
    again = run(config).take(8)
    assert texts(again) == numbers(8, start=12)
    assert all(message.dup for message in again)


def test_small_packets_do_not_wait_for_each_other(config: BrokerConfig, run: RunLink) -> None:
    running = subscribed(run(config), config)
    sock = running.link._wire._client.socket()
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_message_says_how_it_came(config: BrokerConfig, run: RunLink) -> None:
    with Publisher(config) as publisher:
        publisher.publish("in/kept", b"\x00\xff", retain=True)
    [message] = run(config).take(1)
    assert message == Message("in/kept", b"\x00\xff", message.mid, 1, False, True, 1)
    assert message.mid > 0


def test_it_starts_before_the_broker(
    make_broker: MakeBroker, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker()
    config = BrokerConfig(url=broker.url, client_id="gateway")
    running = run(config)
    running.run(until=lambda: caplog.text.count("next attempt in 0.0 s") > 2)
    assert f"{broker.url}: cannot connect: [Errno" in caplog.text
    broker.start()
    subscribed(running, config)
    send(config, ["a"])
    assert texts(running.acknowledged(1)) == ["a"]


@pytest.mark.parametrize("remembers", [True, False], ids=["kept", "forgotten"])
def test_it_comes_back_after_a_power_cut_at_the_broker(
    request: pytest.FixtureRequest,
    run: RunLink,
    caplog: pytest.LogCaptureFixture,
    remembers: bool,
) -> None:
    broker: Broker = request.getfixturevalue("durable_broker" if remembers else "broker")
    config = BrokerConfig(url=broker.url, client_id="gateway")
    running = subscribed(run(config), config)
    send(config, numbers(3))
    assert texts(running.acknowledged(3)) == numbers(3)
    restart(broker, running, caplog)
    send(config, numbers(3, start=3))
    after: list[Message] = []
    while "5" not in texts(after):
        after += running.acknowledged(1)
    # The broker may have been cut off before it had saved the acknowledgements: then it says so.
    assert texts([message for message in after if not message.dup]) == numbers(3, start=3)
    assert {message.connection for message in after} == {2}
    assert ("the session is lost" in caplog.text) == (not remembers)


def test_a_half_open_connection_is_noticed_and_nothing_is_overtaken(
    broker: Broker, config: BrokerConfig, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    running = subscribed(run(replace(config, keepalive_s=1)), config)
    with Subscriber(config, ["out/a"]) as watcher:
        broker.freeze()
        for number in range(5):
            running.link.publish("out/a", b"%d" % number)
        running.run(until=lambda: "no sign of life" in caplog.text)
        # A frozen broker's socket still accepts: now the link waits for the answer to CONNECT.
        for number in range(5, 10):
            next(running.batches)
            running.link.publish("out/a", b"%d" % number)
        broker.thaw()
        running.run(until=lambda: running.link.unacknowledged() == 0)
        seen = [payload.decode() for _, payload, _ in watcher.messages(0.2)]
    assert seen[-10:] == numbers(10)
    # What the old connection had still brought to the broker.
    assert seen[:-10] == numbers(5)[: len(seen) - 10]
    send(config, ["a"])
    assert running.take(1)[0].connection == 2


def test_status(config: BrokerConfig, run: RunLink) -> None:
    running = run(config)
    with Subscriber(config, [STATUS]) as watcher:
        subscribed(running, config)
        assert list(watcher.messages(0.0)) == [(STATUS, b"online", False)]
        assert running.link.close()
        assert next(watcher.messages(5.0)) == (STATUS, b"stopped", False)
    with Subscriber(config, [STATUS]) as late:
        assert next(late.messages(5.0)) == (STATUS, b"stopped", True)


def test_status_of_a_killed_gateway_is_offline(config: BrokerConfig, tmp_path: Path) -> None:
    program = f"""
from edge_runtime.config import BrokerConfig, Protocol
from edge_runtime.link import Link
from edge_runtime.mqtt import StopEvent
config = BrokerConfig(url={config.url!r}, client_id="gateway")
for _ in Link(config, filters=["in/#"], status_topic={STATUS!r}).batches(StopEvent()):
    pass
"""
    with Subscriber(config, [STATUS]) as watcher:
        with subprocess.Popen([sys.executable, "-c", program]) as process:
            try:
                assert next(watcher.messages(30.0))[1] == b"online"
            finally:
                process.kill()
        assert next(watcher.messages(5.0))[1] == b"offline"


def test_a_gateway_that_stops_under_load_is_not_offline(config: BrokerConfig, run: RunLink) -> None:
    running = subscribed(run(config), config)
    with Subscriber(config, [STATUS]) as watcher:
        send(config, numbers(1500))
        running.acknowledged(100)
        assert running.link.close()
        assert [m[1] for m in itertools.islice(watcher.messages(5.0), 2)] == [b"online", b"stopped"]
        assert not list(watcher.messages(0.05))


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_what_a_broker_has_sent_before_it_died_is_read_to_the_end(
    request: pytest.FixtureRequest, run: RunLink, secure: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker: Broker = request.getfixturevalue("tls_broker" if secure else "broker")
    config = BrokerConfig(url=broker.url, client_id="gateway")
    if secure:
        config = _tls_config(broker, request.getfixturevalue("certificates"))
    running = subscribed(run(config), config)
    send(config, numbers(1))
    first = running.take(1)
    send(config, numbers(50, start=1))
    broker.kill()
    # The first answer meets nobody, the second an error.
    running.link.publish("out/a", b"")
    running.link.acknowledge(first)
    running.link.publish("out/a", b"")
    assert texts(running.take(50)) == numbers(50, start=1)
    running.run(until=lambda: "connection lost" in caplog.text)


def test_mutual_tls(tls_broker: Broker, certificates: Certificates, run: RunLink) -> None:
    config = _tls_config(tls_broker, certificates)
    running = subscribed(run(config), config)
    send(config, ["a"])
    assert texts(running.acknowledged(1)) == ["a"]
    assert running.link.close()


@pytest.mark.parametrize(
    ("ca", "cert", "complaint"),
    [
        ("other_ca", "client", "certificate not accepted: .*ca: .*other_ca.pem"),
        (None, "client", "certificate not accepted: .*ca: that of this system"),
        ("ca", None, "hang-up.*see cert and key"),
    ],
    ids=["wrong ca", "system ca", "no client certificate"],
)
def test_tls_refused(
    tls_broker: Broker,
    certificates: Certificates,
    run: RunLink,
    caplog: pytest.LogCaptureFixture,
    ca: str | None,
    cert: str | None,
    complaint: str,
) -> None:
    config = replace(
        _tls_config(tls_broker, certificates),
        ca=getattr(certificates, ca) if ca else None,
        cert=certificates.client if cert else None,
        key=certificates.client_key if cert else None,
    )
    with pytest.raises(BrokerError, match=complaint), Publisher(config):
        pass
    run(config).run(until=lambda: caplog.text.count("next attempt") > 1)
    assert caplog.messages[0].startswith(f"{config.url}: ")


def test_the_name_of_the_broker_is_verified(
    make_broker: MakeBroker, certificates: Certificates
) -> None:
    broker = make_broker(
        f"certfile {certificates.elsewhere}", f"keyfile {certificates.elsewhere_key}"
    )
    broker.start()
    with (
        pytest.raises(BrokerError, match=r"certificate not accepted: .*(?i:mismatch)"),
        Publisher(_tls_config(broker, certificates)),
    ):
        pass


def _tls_config(broker: Broker, certificates: Certificates) -> BrokerConfig:
    return BrokerConfig(
        url=f"mqtts://localhost:{broker.port}",
        client_id="gateway",
        ca=certificates.ca,
        cert=certificates.client,
        key=certificates.client_key,
    )


@pytest.fixture
def guarded(make_broker: MakeBroker, tmp_path: Path) -> Broker:
    """A broker that lets only ``plant`` in."""
    users = tmp_path / "users"
    subprocess.run(["mosquitto_passwd", "-c", "-b", users, "plant", PASSWORD], check=True)
    users.chmod(0o600)
    broker = make_broker(f"password_file {users}")
    broker.start()
    return broker


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_password_from_a_file_and_from_the_environment(
    guarded: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: Protocol
) -> None:
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\nanything\n")
    config = BrokerConfig(url=guarded.url, client_id="gateway", protocol=protocol)
    with Publisher(replace(config, user="plant", password_file=password)):
        pass
    monkeypatch.setenv("ANDON_MQTT_USER", "plant")
    monkeypatch.setenv("ANDON_MQTT_PASSWORD", PASSWORD)
    with Publisher(config):
        pass
    password.write_text("wrong")
    with pytest.raises(BrokerError, match="refused"), Publisher(replace(config, user="other")):
        pass
    with (
        pytest.raises(BrokerError, match="refused"),
        Publisher(replace(config, password_file=password)),
    ):
        pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_refused_password_is_said_each_time_and_never_shown(
    guarded: Broker,
    run: RunLink,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    protocol: Protocol,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ANDON_MQTT_PASSWORD", "wrong horse")
    config = BrokerConfig(url=guarded.url, client_id="gateway", user="plant", protocol=protocol)
    running = run(config)
    running.run(until=lambda: len(caplog.messages) >= 3)
    for line in caplog.messages:
        assert line.startswith(f"{guarded.url}: connection refused: Not authorized (see user, ")
    assert "horse" not in caplog.text + repr(config) + repr(running.link)


def test_a_window_of_twenty_does_not_stall(config: BrokerConfig, run: RunLink) -> None:
    config = replace(config, protocol="3.1.1")
    subscribed(run(config), config).link.close()
    send(config, numbers(500))
    assert texts(run(config).acknowledged(500)) == numbers(500)


def test_the_window_of_mqtt_5_is_ours(config: BrokerConfig, run: RunLink) -> None:
    config = replace(config, receive_maximum=7)
    running = subscribed(run(config), config)
    send(config, numbers(20))
    first = running.take(7)
    assert [next(running.batches), len(first)] == [[], 7]
    running.link.acknowledge(first)
    assert texts(running.acknowledged(13)) == numbers(13, start=7)


def test_what_arrives_together_is_yielded_together(
    config: BrokerConfig, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_MAX_DRAIN_S", 60.0)
    running = subscribed(run(config), config)
    send(config, numbers(300))
    assert texts(running.take(1)) == numbers(300)


@pytest.mark.parametrize(
    ("limit", "value", "size"),
    [("MAX_BATCH", 4, 4), ("MAX_BATCH_BYTES", 1500, 2), ("_MAX_DRAIN_S", 0.0, 1)],
)
def test_a_batch_is_limited(
    config: BrokerConfig,
    run: RunLink,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: float,
    size: int,
) -> None:
    running = subscribed(run(config), config)
    monkeypatch.setattr(sockets, "_READ_AHEAD_BYTES", 512)  # less than a message
    monkeypatch.setattr(link, "_GATHER_S", 0.0)
    send(config, ["x" * 1000] * 12)
    monkeypatch.setattr(mqtt, limit, value)
    batches = [batch for batch in itertools.islice(running.batches, 15) if batch]
    assert max(len(batch) for batch in batches) == size


def test_a_large_payload_is_handed_on(config: BrokerConfig, run: RunLink) -> None:
    running = subscribed(run(replace(config, max_payload_bytes=10)), config)
    send(config, ["x" * (3 << 20), "small"])
    assert [len(text) for text in texts(running.acknowledged(2))] == [3 << 20, 5]


def test_stop_ends_the_batches_at_once(
    config: BrokerConfig, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_TICK_S", 3600.0)
    running = run(config)
    done = threading.Thread(target=lambda: list(running.batches))
    done.start()
    with Subscriber(config, [STATUS]) as watcher:
        assert next(watcher.messages(10.0))[1] == b"online"
    running.stop.set()
    running.stop.set()
    done.join(30.0)
    assert not done.is_alive()
    assert running.stop.is_set()


def test_stop_ends_the_back_off_at_once(
    make_broker: MakeBroker, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    monkeypatch.setattr(link, "_TICK_S", 3600.0)
    monkeypatch.setattr(link.log, "warning", lambda *_: failed.set())
    config = BrokerConfig(url=make_broker().url, client_id="gateway")
    running = run(config, backoff=NEVER)
    done = threading.Thread(target=lambda: list(running.batches))
    done.start()
    assert failed.wait(30.0)
    running.stop.set()
    done.join(30.0)
    assert not done.is_alive()


def test_a_signal_ends_the_batches(
    config: BrokerConfig, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = subscribed(run(config), config)
    monkeypatch.setattr(link, "_TICK_S", 3600.0)
    before = signal.signal(signal.SIGUSR1, lambda *_: running.stop.set())
    try:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert list(running.batches) == []
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_acknowledgement_belongs_to_its_connection(
    durable_broker: Broker, run: RunLink, caplog: pytest.LogCaptureFixture, protocol: Protocol
) -> None:
    config = BrokerConfig(url=durable_broker.url, client_id="gateway", protocol=protocol)
    running = subscribed(run(config), config)
    running.run(until=lambda: running.link.unacknowledged() == 0)
    # On its way to a client a message is no reason to save: the broker forgets it, and its id.
    send(config, ["old"])
    [old] = running.take(1)
    restart(durable_broker, running, caplog)
    send(config, ["new"])
    [new] = running.take(1)
    assert new.mid == old.mid, "the broker was expected to use the message id again"
    running.link.acknowledge([old])  # kept over: it would be the new one's
    assert running.link.close()
    # The broker would not send it again, and nobody else has it.
    assert texts(run(config).take(1)) == ["new"]
    assert running.link.stale_acknowledgements == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_after_a_reconnect_messages_come_again_and_say_so(
    config: BrokerConfig, run: RunLink, protocol: Protocol
) -> None:
    config = replace(config, protocol=protocol)
    running = subscribed(run(config), config)
    send(config, numbers(5))
    first = running.take(5)
    running.link.acknowledge(first[:2])
    cut(running)
    again = running.take(3)
    assert texts(again) == numbers(3, start=2)
    assert {(message.dup, message.connection) for message in again} == {(True, 2)}
    running.link.acknowledge(first)
    assert running.link.stale_acknowledgements == 5
    running.link.acknowledge(again)
    send(config, ["last"])
    assert texts(running.take(1)) == ["last"]


def test_without_a_connection_every_acknowledgement_is_stale(
    broker: Broker, config: BrokerConfig, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    running = subscribed(run(config), config)
    send(config, numbers(3))
    taken = running.take(3)
    broker.kill()
    running.run(until=lambda: "connection lost; next attempt" in caplog.text)
    running.link.acknowledge(taken)
    assert running.link.stale_acknowledgements == 3


def test_a_flood_keeps_its_order(config: BrokerConfig, run: RunLink) -> None:
    running = subscribed(run(config), config)
    with Subscriber(config, ["out/#"]) as watcher:
        for number in range(2000):
            running.link.publish("out/a", b"%d" % number)
        assert running.link.unacknowledged() > 0
        assert running.link.close()
        assert running.link.unacknowledged() == 0
        seen = itertools.islice(watcher.messages(10.0), 2000)
        assert [int(payload) for _, payload, _ in seen] == list(range(2000))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_delivered_gives_each_token_once_and_in_order(
    config: BrokerConfig, run: RunLink, protocol: Protocol
) -> None:
    config = replace(config, protocol=protocol)
    running = subscribed(run(config), config)
    assert running.link.delivered() == []
    publish_numbered(running, range(500))
    running.link.publish("out/a", b"nobody asks for this one")
    delivered: list[int] = []
    while running.link.unacknowledged():
        next(running.batches)
        delivered += running.link.delivered()
    assert delivered == list(range(len(delivered)))
    assert len(delivered) < 500  # the last acknowledgements are not for good yet
    running.link.publish("out/a", b"nor for this one")
    running.run(until=lambda: running.link.unacknowledged() == 0)
    assert delivered + running.link.delivered() == list(range(500))
    assert running.link.delivered() == []


def test_a_token_that_several_share_comes_once_for_each(config: BrokerConfig, run: RunLink) -> None:
    running = subscribed(run(config), config)
    for token in (7, 7, 8):
        running.link.publish("out/a", b"", token=token)
    assert running.link.close()
    assert running.link.delivered() == [7, 7, 8]


def test_tokens_come_once_however_often_the_publication_was_sent(
    durable_broker: Broker, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    config = BrokerConfig(url=durable_broker.url, client_id="gateway")
    running = subscribed(run(config), config)
    durable_broker.freeze()
    publish_numbered(running, range(150))
    for _ in range(3):
        durable_broker.kill()
        caplog.clear()
        running.run(until=lambda: "next attempt" in caplog.text)
        assert running.link.delivered() == []
        durable_broker.start()
        durable_broker.freeze()
        next(running.batches)
    durable_broker.thaw()
    assert running.link.close()
    assert running.link.delivered() == list(range(150))


def test_the_last_that_was_acknowledged_is_sent_again_first_and_in_order(
    broker: Broker, config: BrokerConfig, run: RunLink
) -> None:
    running = subscribed(run(config), config)
    with Subscriber(config, ["out/#"]) as watcher:
        for number in (1, 2, 3):
            publish_numbered(running, range(number, number + 1))
            running.run(until=lambda: running.link.unacknowledged() == 0)
        assert running.link.delivered() == [1, 2]
        broker.freeze()
        publish_numbered(running, range(4, 7))
        cut(running)
        broker.thaw()
        publish_numbered(running, range(7, 9))
        assert running.link.close()
        assert running.link.delivered() == list(range(3, 9))
        heard: list[int] = []
        while 8 not in heard:
            heard += [int(p) for _, p, _ in itertools.islice(watcher.messages(5.0), 1)]
        assert heard[:3] == [1, 2, 3]
        assert heard[-6:] == list(range(3, 9))  # whatever came before the connection was cut


def test_an_old_status_is_not_sent_again(
    config: BrokerConfig, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    running = subscribed(run(config), config)
    running.link.say(b"degraded")
    running.run(until=lambda: running.link.unacknowledged() == 0)
    with Subscriber(config, [STATUS]) as watcher:
        assert [p for _, p, _ in itertools.islice(watcher.messages(5.0), 1)] == [b"degraded"]
        cut(running)
        running.run(until=lambda: "next attempt" in caplog.text)
        running.link.say(b"online")
        running.run(until=lambda: running.link._wire.connection == 2)
        assert running.link.close()
        said = [payload for _, payload, _ in itertools.islice(watcher.messages(5.0), 3)]
        assert b"degraded" not in said
        assert said[-1] == b"stopped"


def test_while_held_nothing_is_yielded_and_nothing_is_lost(
    config: BrokerConfig, run: RunLink
) -> None:
    config = replace(config, keepalive_s=1)
    running = subscribed(run(config), config)
    running.link.hold = True
    send(config, numbers(300))
    began = time.monotonic()
    # Longer than any of the two would wait for a sign of life.
    while time.monotonic() - began < 3.5:
        assert next(running.batches) == []
    running.link.hold = False
    batch = next(running.batches)
    assert (texts(batch), {message.connection for message in batch}) == (numbers(300), {1})
    running.link.acknowledge(batch)
    assert running.link.stale_acknowledgements == 0


def test_while_held_a_batch_is_empty_once_a_tick(
    config: BrokerConfig, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = subscribed(run(config), config)
    running.link.hold = True
    monkeypatch.setattr(link, "_TICK_S", 0.2)
    with Publisher(config) as publisher:
        began = time.monotonic()
        for number in range(5):
            publisher.publish("in/a", b"%d" % number)
            assert next(running.batches) == []
        assert 0.8 < time.monotonic() - began < 2.0


def test_what_waits_through_a_reconnect_waits_once(
    config: BrokerConfig, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    running = subscribed(run(config), config)
    running.link.hold = True
    send(config, numbers(50))
    running.run(until=lambda: len(running.link._inbox) == 50)
    cut(running)
    running.run(until=lambda: caplog.text.count(": connected") == 2)
    send(config, ["last"])
    running.run(until=lambda: len(running.link._inbox) == 51)
    running.link.hold = False
    batch = next(running.batches)
    assert texts(batch) == [*numbers(50), "last"]
    # Whoever takes them has not seen them before, and can acknowledge them all.
    assert {(message.dup, message.connection) for message in batch} == {(False, 2)}
    running.link.acknowledge(batch)
    assert running.link.stale_acknowledgements == 0


def test_while_held_too_many_at_qos_0_are_dropped_and_counted(
    config: BrokerConfig, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_LOOSE", 10)
    running = subscribed(run(config), config)

    def flood(count: int) -> None:
        with Publisher(config) as publisher:
            for number in range(count):
                publisher._wire._client.publish("in/loose", b"%d" % number, qos=0)

    running.link.hold = True
    send(config, numbers(5))
    flood(30)
    send(config, ["last"])
    running.run(until=lambda: len(running.link._inbox) == 16)
    assert running.link.overflowed == 20
    running.link.hold = False
    assert texts(next(running.batches)) == [*numbers(5), *numbers(10), "last"]
    running.link.hold = True
    flood(10)
    running.run(until=lambda: len(running.link._inbox) == 10)
    assert running.link.overflowed == 20


def said(watcher: Subscriber, count: int) -> list[tuple[str, bytes]]:
    """The next messages, without what a subscription finds there."""
    fresh = (m[:2] for m in watcher.messages(10.0) if not m[2])
    return list(itertools.islice(fresh, count))


def test_what_is_said_is_said_again_after_a_reconnect(
    durable_broker: Broker, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    config = BrokerConfig(url=durable_broker.url, client_id="gateway")
    running = run(config)
    running.link.say(b"degraded", b"{}")
    with Subscriber(config, [f"{STATUS}/#"]) as watcher:
        running.run(until=lambda: running.link._wire.up and not running.link.unacknowledged())
        running.link.say(b"online", b"[]")
        running.link.say(b"online")
        running.link.say(b"degraded")
        running.run(until=lambda: running.link.unacknowledged() == 0)
        assert said(watcher, 7) == [
            *((f"{STATUS}/details", b"{}"), (STATUS, b"degraded")),
            *((f"{STATUS}/details", b"[]"), (STATUS, b"online")),
            *((f"{STATUS}/details", b""), (STATUS, b"online")),
            (STATUS, b"degraded"),
        ]
    durable_broker.kill()
    running.run(until=lambda: "next attempt" in caplog.text)
    running.link.say(b"online", b"back")  # without a connection it waits for the next one
    assert running.link.unacknowledged() == 0
    durable_broker.start()
    with Subscriber(config, [f"{STATUS}/#"]) as watcher:
        running.run(until=lambda: (STATUS, b"online") in [m[:2] for m in watcher.messages(0.0)])
    with Subscriber(config, [f"{STATUS}/#"]) as late:
        kept = {m[:2] for m in itertools.islice(late.messages(10.0), 2)}
        assert kept == {(f"{STATUS}/details", b"back"), (STATUS, b"online")}


@pytest.mark.parametrize(("lines", "window"), [((), 20), (("max_inflight_messages 3",), 3)])
def test_no_more_is_in_flight_than_the_broker_takes(
    make_broker: MakeBroker, run: RunLink, lines: tuple[str, ...], window: int
) -> None:
    broker = make_broker(*lines)
    broker.start()
    config = BrokerConfig(url=broker.url, client_id="gateway")
    running = subscribed(run(config), config)
    running.run(until=lambda: running.link.unacknowledged() == 0)
    broker.freeze()
    for number in range(200):
        running.link.publish("out/a", b"%d" % number)
    assert len(running.link._wire._outgoing._in_flight) == window
    broker.thaw()
    running.run(until=lambda: running.link.unacknowledged() == 0)


def test_publications_survive_the_broker_in_order(
    durable_broker: Broker, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    config = BrokerConfig(url=durable_broker.url, client_id="gateway")
    away = replace(config, client_id="reader")
    subscribed(run(away, filters=["out/#"]), away).link.close()
    running = subscribed(run(config), config)
    # Frozen, it acknowledges nothing that it then loses: see `durable_broker`.
    durable_broker.freeze()
    for number in range(120):
        running.link.publish("out/a", b"%d" % number)
    durable_broker.kill()
    running.run(until=lambda: "next attempt" in caplog.text)
    for number in range(120, 160):
        running.link.publish("out/a", b"%d" % number)
    assert running.link.unacknowledged() == 160
    durable_broker.start()
    running.run(until=lambda: running.link.unacknowledged() == 0)
    reader = run(away, filters=["out/#"])
    seen: list[str] = []
    while "159" not in seen:
        seen += texts(reader.acknowledged(1))
    assert seen == numbers(160)


def test_closing_in_vain_leaves_the_last_will(
    broker: Broker, config: BrokerConfig, run: RunLink
) -> None:
    running = subscribed(run(config), config)
    with Subscriber(config, [STATUS]) as watcher:
        broker.freeze()
        assert not running.link.close(timeout_s=0.05)
        broker.thaw()
        said = (payload for _, payload, _ in watcher.messages(5.0))
        assert (
            next(payload for payload in said if payload not in {b"online", b"stopped"})
            == b"offline"
        )


def test_closing_without_a_broker(make_broker: MakeBroker, run: RunLink) -> None:
    config = BrokerConfig(url=make_broker().url, client_id="gateway")
    running = run(config)
    next(running.batches)
    assert running.link.close()
    running.link.publish("out/a", b"lost")
    assert not running.link.close(timeout_s=0.05)
    assert running.link.unacknowledged() == 1


def test_closing_waits_for_a_broker_that_comes_back(
    make_broker: MakeBroker, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker()
    config = BrokerConfig(url=broker.url, client_id="gateway")
    running = run(config, backoff=NEVER)
    running.run(until=lambda: "next attempt" in caplog.text)
    for number in range(500):
        running.link.publish("out/a", b"%d" % number, retain=True)
    broker.start()
    assert running.link.close()
    with Subscriber(config, ["out/#", STATUS]) as late:
        left = {message[:2] for message in itertools.islice(late.messages(5.0), 2)}
        assert left == {("out/a", b"499"), (STATUS, b"stopped")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_stays_open_for_so_long(
    config: BrokerConfig, run: RunLink, protocol: Protocol
) -> None:
    config = replace(config, protocol=protocol)
    running = subscribed(run(config, linger_s=0.5), config)
    with Publisher(config) as publisher:
        began = time.monotonic()
        publisher.publish("in/a", b"0")
        threading.Timer(0.4, publisher.publish, ("in/a", b"1")).start()
        assert texts(running.take(1)) == ["0", "1"]
        assert 0.5 <= time.monotonic() - began < 0.8


def test_what_comes_fast_is_waited_for_while_it_comes(
    config: BrokerConfig, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each nap brings one more; the one that brings none is the last."""
    running = subscribed(run(config), config)
    more = iter(numbers(3, 1))
    monkeypatch.setattr(link, "_GATHER_S", 3600.0)
    monkeypatch.setattr(pace.Pace, "nap_s", 3.0)
    with Publisher(config) as publisher:

        def nap(stop: StopEvent, timeout_s: float) -> bool:
            assert timeout_s == 3.0
            if (text := next(more, None)) is not None:
                publisher.publish("in/a", text.encode())
                sock = running.link._wire._client.socket()
                assert sock is not None
                select.select([sock], [], [], 10.0)
            return stop.is_set()

        monkeypatch.setattr(StopEvent, "wait", nap)
        publisher.publish("in/a", b"0")
        assert texts(running.take(1)) == numbers(4)


def test_the_end_is_not_napped_through(
    config: BrokerConfig, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = subscribed(run(config), config)
    monkeypatch.setattr(link, "_GATHER_S", 7200.0)
    monkeypatch.setattr(pace.Pace, "nap_s", 3600.0)
    send(config, ["a"])
    threading.Timer(0.1, running.stop.set).start()
    assert texts(next(running.batches)) == ["a"]
    assert next(running.batches, None) is None


def test_a_full_window_closes_a_batch_at_once(config: BrokerConfig, run: RunLink) -> None:
    config = replace(config, receive_maximum=20)
    running = subscribed(run(config, linger_s=3600.0), config)
    send(config, numbers(500))
    assert texts(running.acknowledged(500)) == numbers(500)


def test_a_window_that_only_the_broker_knows_waits_no_longer_than_said(
    config: BrokerConfig, run: RunLink
) -> None:
    config = replace(config, protocol="3.1.1")
    subscribed(run(config), config).link.close()
    send(config, numbers(200))
    running = run(config, linger_s=0.05)
    began = time.monotonic()
    assert texts(running.acknowledged(200)) == numbers(200)
    assert time.monotonic() - began < 2.0


def test_a_batch_that_is_large_enough_closes_at_once(
    config: BrokerConfig, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_BATCH_BYTES", 1500)
    running = subscribed(run(config, linger_s=3600.0), config)
    send(config, ["x" * 1000] * 2)
    assert len(running.take(2)) == 2


def test_what_was_held_back_does_not_linger(config: BrokerConfig, run: RunLink) -> None:
    running = subscribed(run(config, linger_s=0.2), config)
    running.link.hold = True
    send(config, numbers(3))
    began = time.monotonic()
    running.run(until=lambda: time.monotonic() - began > 0.3)
    running.link.hold = False
    assert texts(next(running.batches)) == numbers(3)


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "a\0b", "x" * 65_536])
def test_a_topic_that_none_can_publish_on(config: BrokerConfig, run: RunLink, topic: str) -> None:
    with pytest.raises(BrokerError, match="wanted a topic without"):
        run(config).link.publish(topic, b"")


def test_an_error_in_a_callback_is_not_swallowed(
    config: BrokerConfig, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = subscribed(run(config), config)
    send(config, ["a"])
    monkeypatch.setattr(mqtt, "Message", None)
    with pytest.raises(TypeError, match="not callable"):
        running.take(1)


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


def test_the_back_off_doubles_up_to_its_limit() -> None:
    longest = Backoff(uniform=lambda: 1.0)
    assert [longest.delay_s(n) for n in (0, 1, 2, 3, 4, 10_000)] == [2, 4, 8, 16, 30, 30]
    shortest = Backoff(uniform=lambda: 0.0)
    assert {shortest.delay_s(n) for n in range(20)} == {1.0}
    assert len({Backoff().delay_s(5) for _ in range(20)}) > 1


@dataclass(frozen=True, slots=True)
class Recorded(Backoff):
    """Waits hardly, and keeps what it was asked."""

    asked: list[int] = field(default_factory=list)

    def delay_s(self, failures: int) -> float:
        self.asked.append(failures)
        return 0.01


@pytest.mark.parametrize(("lasting_s", "failures"), [(0.0, [0, 1]), (3600.0, [2, 3])])
def test_the_back_off_starts_again_after_a_connection_that_lasted(
    make_broker: MakeBroker, run: RunLink, lasting_s: float, failures: list[int]
) -> None:
    broker = make_broker()
    config = BrokerConfig(url=broker.url, client_id="gateway")
    backoff = Recorded(lasting_s=lasting_s)
    running = run(config, backoff=backoff)
    running.run(until=lambda: len(backoff.asked) >= 2)
    assert backoff.asked[:2] == [0, 1]
    broker.start()
    subscribed(running, config)
    failed = len(backoff.asked)
    broker.kill()
    running.run(until=lambda: len(backoff.asked) >= failed + 2)
    after = backoff.asked[failed : failed + 2]
    assert [number - (failed - 2 if lasting_s else 0) for number in after] == failures


def unusable(folder: Path, name: str, content: bytes | None) -> Path:
    """A file that cannot be used; a folder, which cannot be read, where there is no content."""
    path = folder / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [None, b"", b"\nsecond line", b"\xff\xfe"])
def test_an_unusable_password_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = unusable(tmp_path, "password", content)
    config = BrokerConfig(
        url="mqtt://127.0.0.1", client_id="gateway", user="plant", password_file=path
    )
    with pytest.raises(BrokerError, match=f"^password_file {path}: ") as caught:
        Link(config, filters=[], status_topic=STATUS)
    assert "second" not in str(caught.value)
    assert "xff" not in str(caught.value)


def test_a_password_needs_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDON_MQTT_PASSWORD", PASSWORD)
    with pytest.raises(BrokerError, match="a password without a user") as caught:
        Publisher(BrokerConfig(url="mqtt://127.0.0.1", client_id="gateway"))
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_unusable_certificates_are_named(
    certificates: Certificates, tmp_path: Path, content: bytes | None
) -> None:
    path = unusable(tmp_path, "file.pem", content)
    config = BrokerConfig(url="mqtts://127.0.0.1", client_id="gateway")
    with pytest.raises(BrokerError, match=f"^ca {path}: cannot be used: "):
        Publisher(replace(config, ca=path))
    with pytest.raises(BrokerError, match=f"^cert {path}, key {certificates.client_key}: cannot"):
        Publisher(replace(config, cert=path, key=certificates.client_key))


def test_a_key_of_another_certificate_is_named(certificates: Certificates) -> None:
    config = BrokerConfig(
        url="mqtts://127.0.0.1",
        client_id="gateway",
        cert=certificates.client,
        key=certificates.server_key,
    )
    with pytest.raises(BrokerError, match=f"key {certificates.server_key}: .*(?i:mismatch)"):
        Publisher(config)


def test_a_locked_key_does_not_ask_at_the_terminal(
    certificates: Certificates, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    given, wanted = str(certificates.client_key), str(locked)
    command = ["openssl", "pkey", "-in", given, "-aes128", "-passout", "pass:x", "-out", wanted]
    subprocess.run(command, check=True, capture_output=True)
    config = BrokerConfig(
        url="mqtts://127.0.0.1", client_id="gateway", cert=certificates.client, key=locked
    )
    with pytest.raises(BrokerError, match=f"^key {locked}: wanted a key without a password"):
        Publisher(config)


def test_the_simple_clients_say_when_the_broker_is_gone(
    broker: Broker, config: BrokerConfig
) -> None:
    def publish_on_and_on() -> None:
        with Publisher(config) as publisher:
            broker.kill()
            for number in itertools.count():
                publisher.publish("in/a", b"%d" % number)

    with Subscriber(config, ["in/#"]) as subscriber:
        with pytest.raises(BrokerError, match="connection lost"):
            publish_on_and_on()
        with pytest.raises(BrokerError, match="connection lost"):
            list(subscriber.messages(60.0))


def test_a_subscriber_can_be_left_and_asked_again(config: BrokerConfig) -> None:
    with Subscriber(config, ["in/#"]) as subscriber:
        send(config, numbers(5))
        first = list(itertools.islice(subscriber.messages(5.0), 2))
        rest = list(itertools.islice(subscriber.messages(5.0), 3))
        assert [payload for _, payload, _ in first + rest] == [b"0", b"1", b"2", b"3", b"4"]
        assert list(subscriber.messages(0.0)) == []


def test_an_invalid_filter_is_named(config: BrokerConfig) -> None:
    with (
        pytest.raises(BrokerError, match="cannot subscribe to a/#/b"),
        Subscriber(config, ["a/#/b"]),
    ):
        pass


def test_a_broker_that_is_slow_to_take_holds_the_input_back(broker: Broker) -> None:
    each, window, messages = 300, 5, 100
    config = BrokerConfig(url=broker.url, client_id="gateway", receive_maximum=window)
    gateway, stop = Link(config, filters=["in/#"], status_topic=STATUS), StopEvent()
    batches = gateway.batches(stop)
    with Subscriber(config, [STATUS]) as watch:
        next(batches)
        assert next(payload for _, payload, _ in watch.messages(10.0)) == b"online"
    with Publisher(config) as publisher:
        for _ in range(messages):
            publisher.publish("in/a", b"")
    taken = most = 0
    for batch in batches:
        gateway.acknowledge(batch)
        taken += len(batch)
        for _ in range(len(batch) * each):
            gateway.publish("out/a", b"")
        most = max(most, gateway.unacknowledged())
        if taken == messages:
            break
    assert most <= link._MAX_BACKLOG + window * each
    assert gateway.close()
