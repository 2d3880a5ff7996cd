"""A stop ends every wait of a link at once."""

import os
import signal
import threading

import pytest

from conftest import MakeBroker
from edge_runtime import link, pace
from edge_runtime.config import BrokerConfig
from edge_runtime.link import Subscriber
from links import NEVER, STATUS, RunLink, send, subscribed, texts

pytestmark = pytest.mark.usefixtures("short_ticks")


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
