"""What a gateway says of itself: the retained status, its details, the last will."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Broker
from edge_runtime.config import BrokerConfig
from edge_runtime.link import Subscriber
from links import STATUS, RunLink, cut, numbers, send, subscribed

pytestmark = pytest.mark.usefixtures("short_ticks")


def said(watcher: Subscriber, count: int) -> list[tuple[str, bytes]]:
    """The next messages, without what a subscription finds there."""
    fresh = (m[:2] for m in watcher.messages(10.0) if not m[2])
    return list(itertools.islice(fresh, count))


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
from edge_runtime.stop import StopEvent
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


def test_what_is_said_is_said_again_after_a_reconnect(
    durable_broker: Broker, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    config = BrokerConfig(url=durable_broker.url, client_id="gateway")
    running = run(config)
    running.link.say(b"degraded", b"{}")
    with Subscriber(config, [f"{STATUS}/#"]) as watcher:
        first: list[tuple[str, bytes]] = []

        def heard() -> bool:
            first.extend(m[:2] for m in watcher.messages(0.0))
            return len(first) > 1

        running.run(until=heard)
        assert first == [(f"{STATUS}/details", b"{}"), (STATUS, b"degraded")]
        running.link.say(b"online", b"[]")
        running.link.say(b"online")
        running.link.say(b"degraded")
        running.run(until=lambda: running.link.unacknowledged() == 0)
        assert said(watcher, 5) == [
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
