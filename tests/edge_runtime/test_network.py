"""The gateway's connection over a bad network, to a real mosquitto."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from conftest import Broker
from edge_runtime import link
from edge_runtime.config import BrokerConfig, Protocol
from edge_runtime.link import Subscriber
from links import PROTOCOLS, RunLink, Running, numbers, send, subscribed
from proxy import Proxy


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    """A network that is good until the test spoils it."""
    with Proxy(broker.port) as made:
        yield made


@pytest.fixture
def config(proxy: Proxy) -> BrokerConfig:
    """A gateway whose broker is behind the proxy."""
    return BrokerConfig(url=proxy.url, client_id="gateway")


@pytest.mark.parametrize(
    ("keepalive_s", "up", "down"),
    [(2, True, True), (3, True, False), (4, False, True)],
    ids=["2 s, both ways", "3 s, only to the broker", "4 s, only from the broker"],
)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "publishing"])
def test_a_half_open_connection_is_noticed_in_time(
    proxy: Proxy,
    config: BrokerConfig,
    run: RunLink,
    caplog: pytest.LogCaptureFixture,
    keepalive_s: int,
    up: bool,
    down: bool,
    busy: bool,
) -> None:
    running = subscribed(run(replace(config, keepalive_s=keepalive_s)), config)
    running.run(until=lambda: running.link.unacknowledged() == 0)
    proxy.blackhole(up=up, down=down)
    while not caplog.records:
        if busy:
            running.link.publish("out/a", b"x")
        next(running.batches)
    [record] = caplog.records
    assert "no sign of life" in record.getMessage()
    assert keepalive_s < record.created - proxy.last_down <= 1.5 * keepalive_s
    proxy.heal()
    running.run(until=lambda: running.link.unacknowledged() == 0)


@pytest.mark.parametrize(("keepalive_s", "latency_s"), [(1, 0.05), (2, 0.15)])
def test_a_slow_line_is_not_a_dead_one(
    proxy: Proxy,
    config: BrokerConfig,
    run: RunLink,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    keepalive_s: int,
    latency_s: float,
) -> None:
    # Ticks are the only other occasion for a ping: here they come too early, then too late.
    monkeypatch.setattr(link, "_TICK_S", 0.7 * keepalive_s)
    running = subscribed(run(replace(config, keepalive_s=keepalive_s)), config)
    proxy.delay(latency_s)
    began = time.monotonic()
    running.run(until=lambda: time.monotonic() - began > 4.0 * keepalive_s)
    assert (caplog.messages, running.link._wire.connection) == ([], 1)


def test_time_in_which_nobody_listened_is_not_silence(
    proxy: Proxy, config: BrokerConfig, run: RunLink, caplog: pytest.LogCaptureFixture
) -> None:
    running = subscribed(run(replace(config, keepalive_s=2)), config)
    time.sleep(2.85)  # the broker's patience ends after 3 s
    began = time.monotonic()
    running.run(until=lambda: time.monotonic() - began > 3.0)
    assert (caplog.messages, running.link._wire.connection) == ([], 1)


@dataclass(slots=True)
class Load:
    """A gateway under load: each message that it has not seen yet leads to one publication.

    Attributes:
        running: The link.
        sent: How many numbered messages the machines have sent.
        seen: Their numbers in the order of the first copies, and how many copies there were.
        delivered: Tokens, as they came.
    """

    running: Running
    sent: int = 0
    seen: dict[int, int] = field(default_factory=dict)
    delivered: list[int] = field(default_factory=list)

    def send(self, broker: Broker, count: int) -> None:
        """Machines send, on a good network."""
        direct = BrokerConfig(url=broker.url, client_id="machine")
        send(direct, numbers(count, start=self.sent))
        self.sent += count

    def work(
        self, until: Callable[[], bool], before_acknowledging: Callable[[], None] = lambda: None
    ) -> None:
        """Handles what arrives, one batch at least."""
        link = self.running.link
        for batch in self.running.batches:
            for message in batch:
                number = int(message.payload)
                if number not in self.seen:
                    link.publish("out/a", message.payload, token=number)
                self.seen[number] = self.seen.get(number, 0) + 1
            before_acknowledging()
            link.acknowledge(batch)
            self.delivered += link.delivered()
            if until():
                return


def cut(proxy: Proxy) -> None:
    proxy.cut()


def hang_up(proxy: Proxy) -> None:
    proxy.cut(reset=False)


def delay(proxy: Proxy) -> None:
    proxy.delay(0.02)


def throttle(proxy: Proxy) -> None:
    proxy.throttle(20_000)


def swallow_both(proxy: Proxy) -> None:
    proxy.blackhole()


def swallow_ours(proxy: Proxy) -> None:
    proxy.blackhole(down=False)


def swallow_theirs(proxy: Proxy) -> None:
    proxy.blackhole(up=False)


def noticed(load: Load) -> bool:
    return not load.running.link._wire.up


def at_once(load: Load) -> bool:
    return True


def all_done(load: Load) -> bool:
    return len(load.seen) == load.sent and not load.running.link.unacknowledged()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("spoil", "until", "reconnects", "repeats"),
    [
        (cut, at_once, True, True),
        (hang_up, at_once, True, True),
        (delay, all_done, False, False),
        (throttle, all_done, False, False),
        (swallow_both, at_once, False, False),
        # Acknowledgements may come through late, on a connection that we have given up.
        (swallow_both, noticed, True, None),
        (swallow_ours, noticed, True, None),
        (swallow_theirs, noticed, True, None),
    ],
)
def test_through_every_fault_nothing_is_lost_and_order_is_kept(
    broker: Broker,
    proxy: Proxy,
    run: RunLink,
    monkeypatch: pytest.MonkeyPatch,
    protocol: Protocol,
    spoil: Callable[[Proxy], None],
    until: Callable[[Load], bool],
    reconnects: bool,
    repeats: bool | None,
) -> None:
    monkeypatch.setattr(link, "_TICK_S", 0.02)
    direct = BrokerConfig(url=broker.url, client_id="gateway")
    config = replace(direct, url=proxy.url, protocol=protocol, keepalive_s=1, receive_maximum=20)
    load, each, faults = Load(subscribed(run(config), direct)), 400, 2
    wire = load.running.link._wire

    def hit() -> bool:
        return wire.up and len(load.seen) > load.sent - each

    with Subscriber(direct, ["out/#"]) as watcher:
        for _ in range(faults):
            load.send(broker, each)
            load.work(until=hit)
            load.work(until=lambda: until(load), before_acknowledging=lambda: spoil(proxy))
            proxy.heal()
        connections = 1 + faults * reconnects
        load.work(until=lambda: all_done(load) and wire.connection == connections)
        assert load.running.link.close()  # now the last acknowledgements are for good, too
        load.delivered += load.running.link.delivered()
        published = [int(payload) for _, payload, _ in watcher.messages(0.3)]
    expected = list(range(faults * each))
    assert list(load.seen) == expected
    assert load.delivered == expected
    assert list(dict.fromkeys(published)) == expected
    assert repeats in {None, max(load.seen.values()) > 1}
