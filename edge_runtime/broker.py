"""A throw-away broker on loopback, for the demo: mosquitto if it is there, else amqtt."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from edge_runtime.config import Protocol
from edge_runtime.errors import BrokerError
from edge_runtime.files import write_text

HOST = "127.0.0.1"
START_TIMEOUT_S = 20.0

# Queues without bound: the demo's machines send an hour in seconds.
MOSQUITTO = """\
listener {port} {host}
allow_anonymous true
max_queued_messages 0
"""
AMQTT = """\
listeners:
  default:
    type: tcp
    bind: {host}:{port}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin:
    allow_anonymous: true
"""


class Broker(NamedTuple):
    """A broker that runs.

    Attributes:
        name: Which program it is.
        url: Where it listens.
        protocol: The newest MQTT that it speaks, as in the gateway's configuration.
    """

    name: str
    url: str
    protocol: Protocol


@contextmanager
def local_broker(folder: Path, *, embedded: bool = False) -> Iterator[Broker]:
    """Runs a broker on a free port of the loopback interface, for the length of the block.

    Args:
        folder: For its configuration and its log.
        embedded: Use amqtt even where mosquitto is installed.

    Yields:
        The broker, which accepts connections.

    Raises:
        BrokerError: If neither is installed, or it does not start.
    """
    port = _free_port()
    name, protocol, command = _command(folder, port, embedded=embedded)
    log = folder / "broker.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,  # noqa: S603
    ):
        try:
            _await_port(process, port, log)
            yield Broker(name, f"mqtt://{HOST}:{port}", protocol)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _command(folder: Path, port: int, *, embedded: bool) -> tuple[str, Protocol, list[str]]:
    # Debian puts it where only root's PATH looks.
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if mosquitto is not None and not embedded:
        config = folder / "mosquitto.conf"
        write_text(config, MOSQUITTO.format(port=port, host=HOST))
        return "mosquitto", "5", [mosquitto, "-c", str(config)]
    if find_spec("amqtt") is not None:
        config = folder / "amqtt.yaml"
        write_text(config, AMQTT.format(port=port, host=HOST))
        script = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(config)]
        return "amqtt", "3.1.1", script
    raise BrokerError(
        "no MQTT broker here: apt install mosquitto, or pip install 'andon[demo]' for amqtt"
    )


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)  # a port that opens gives no event to wait for
        else:
            return
    tail = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise BrokerError(f"the broker did not start on port {port}: {' '.join(tail) or 'no output'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
