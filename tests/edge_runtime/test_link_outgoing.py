"""What a link publishes: in order, each token once, and to the end when it closes."""

import itertools
from dataclasses import replace

import pytest

from conftest import Broker, MakeBroker
from edge_runtime.config import BrokerConfig, Protocol
from edge_runtime.errors import BrokerError
from edge_runtime.link import Subscriber
from links import (
    NEVER,
    PROTOCOLS,
    STATUS,
    RunLink,
    cut,
    numbers,
    publish_numbered,
    subscribed,
    texts,
)

pytestmark = pytest.mark.usefixtures("short_ticks")


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


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "a\0b", "x" * 65_536])
def test_a_topic_that_none_can_publish_on(config: BrokerConfig, run: RunLink, topic: str) -> None:
    with pytest.raises(BrokerError, match="wanted a topic without"):
        run(config).link.publish(topic, b"")
