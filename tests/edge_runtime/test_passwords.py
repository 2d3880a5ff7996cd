"""Where a password comes from, and that it is never shown."""

import logging
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Broker, MakeBroker
from edge_runtime.config import BrokerConfig, Protocol
from edge_runtime.errors import BrokerError
from edge_runtime.link import Link, Publisher
from links import PROTOCOLS, STATUS, RunLink, unusable

PASSWORD = "correct horse"  # noqa: S105 - the throw-away broker's

pytestmark = pytest.mark.usefixtures("short_ticks")


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
