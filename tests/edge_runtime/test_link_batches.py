"""When a batch opens and closes, what the windows let through, and what is held back."""

import itertools
import logging
import select
import threading
import time
from dataclasses import replace

import pytest

from conftest import Broker
from edge_runtime import inbox, link, mqtt, pace, sockets
from edge_runtime.config import BrokerConfig, Protocol
from edge_runtime.link import Link, Publisher, Subscriber
from edge_runtime.stop import StopEvent
from links import PROTOCOLS, STATUS, RunLink, cut, numbers, send, subscribed, texts

pytestmark = pytest.mark.usefixtures("short_ticks")


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
