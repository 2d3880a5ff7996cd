"""What a link receives: once if acknowledged, else again, through reconnects and power cuts."""

import logging
from dataclasses import replace

import pytest

from conftest import Broker, MakeBroker
from edge_runtime.config import BrokerConfig, Protocol
from edge_runtime.link import Publisher, Subscriber
from edge_runtime.mqtt import Message
from links import PROTOCOLS, RunLink, Running, cut, numbers, send, subscribed, texts

pytestmark = pytest.mark.usefixtures("short_ticks")


def restart(broker: Broker, running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Kills the broker, starts it again, and waits until the link is back and subscribed."""
    broker.kill()
    running.run(until=lambda: "next attempt" in caplog.text)
    broker.start()
    caplog.set_level(logging.INFO)
    running.run(until=lambda: ": connected" in caplog.text)
    running.run(until=lambda: running.link.unacknowledged() == 0)


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
