"""What the shipped configuration of the broker is worth when the broker is killed."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import Broker
from edge_runtime import link
from edge_runtime.config import BrokerConfig
from edge_runtime.errors import BrokerError
from edge_runtime.mqtt import Wire
from links import RunLink, subscribed

PAUSE_S = 0.01


class Machine(threading.Thread):
    """Sends numbers at QoS 1, one after the other, until it is told to stop.

    After each reconnect it begins with the last one that was acknowledged: the broker answers
    first and saves then.

    Attributes:
        acknowledged: The last number that the broker has acknowledged, -1 before the first.
    """

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self.acknowledged = -1
        self._config = BrokerConfig(url=broker.url, client_id="machine")
        self._enough = threading.Event()
        self._news = threading.Condition()

    def run(self) -> None:
        while not self._enough.is_set():
            wire = Wire(self._config, "machine")
            try:
                self._send_on(wire)
            except BrokerError:
                time.sleep(PAUSE_S)  # it is down: no event says that it is back
            finally:
                wire.close()

    def _send_on(self, wire: Wire) -> None:
        wire.connect(10.0)
        number = max(self.acknowledged, 0)
        while not self._enough.is_set():
            wire.send("in/a", b"%d" % number)
            wire.until(lambda: wire.unacknowledged == 0, "acknowledgement", 10.0)
            with self._news:
                self.acknowledged = number
                self._news.notify_all()
            number += 1

    def await_acknowledged(self, number: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.acknowledged >= number, 30.0)

    def stop(self) -> None:
        self._enough.set()
        self.join()


@contextmanager
def machine_on(broker: Broker) -> Iterator[Machine]:
    machine = Machine(broker)
    machine.start()
    try:
        yield machine
    finally:
        machine.stop()


def test_what_was_acknowledged_arrives_however_often_the_broker_is_killed(
    shipped_broker: Broker, run: RunLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_TICK_S", 0.01)
    config = BrokerConfig(url=shipped_broker.url, client_id="gateway")
    running = subscribed(run(config), config)
    seen: dict[int, None] = {}

    def receive(until: int) -> None:
        while until not in seen:
            batch = next(running.batches)
            seen.update(dict.fromkeys(int(message.payload) for message in batch))
            running.link.acknowledge(batch)

    with machine_on(shipped_broker) as machine:
        for _ in range(6):
            receive(machine.acknowledged + 20)
            shipped_broker.kill()  # the gateway reads
            shipped_broker.start()
            receive(machine.acknowledged + 20)
            assert running.link.close()
            machine.await_acknowledged(machine.acknowledged + 20)
            shipped_broker.kill()  # the gateway is away
            shipped_broker.start()
            running = run(config)
        receive(machine.acknowledged + 20)
        machine.stop()
        receive(machine.acknowledged)
    assert list(seen) == list(range(machine.acknowledged + 1))


def test_nobody_from_outside_comes_in_unasked(shipped_broker: Broker) -> None:
    listeners = [
        line.split()
        for line in Path(shipped_broker.folder / "mosquitto.conf").read_text().splitlines()
        if line.startswith("listener")
    ]
    assert listeners == [["listener", str(shipped_broker.port), "127.0.0.1"]]
