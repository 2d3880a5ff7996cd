"""The two simple clients, `Publisher` and `Subscriber`."""

import itertools

import pytest

from conftest import Broker
from edge_runtime.config import BrokerConfig
from edge_runtime.errors import BrokerError
from edge_runtime.link import Publisher, Subscriber
from links import numbers, send

pytestmark = pytest.mark.usefixtures("short_ticks")


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
