"""Programs under test, each on a broker of its own, so that no session of an earlier turn is left.

The helpers are those of `benchmarks.throughput`.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.performance.models import lstm
from benchmarks.throughput import (
    COUNTER,
    GATEWAY,
    LAST,
    WITHOUT_JOURNAL,
    await_topic,
    running,
)
from edge_runtime.broker import local_broker
from edge_runtime.config import BrokerConfig
from edge_runtime.files import write_text
from edge_runtime.link import Publisher, Subscriber

QUIET_S = 60.0  # without a word for so long a program has failed
NOT_READY = b"stopped", b"offline"

_ECHO = """
import sys, paho.mqtt.client as mqtt
def on_message(client, userdata, message):
    client.publish(f"andon/{message.topic.split('/')[1]}/anomaly", message.payload, qos=1)
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "echo", protocol=mqtt.MQTTv5)
client.on_message = on_message
client.on_connect = lambda c, *_: c.subscribe("plant/+/telemetry", qos=1)
client.on_subscribe = lambda c, *_: c.publish("ready", b"", qos=1)
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
"""


class Program(NamedTuple):
    """What is started, and how it is known to be ready and done.

    Attributes:
        command: To which the broker's port is appended.
        ready: Topic on which it says so.
        done: Topic on which it answers `LAST`.
        settings: Further lines of the ``[[pipeline]]`` table of a daemon.
    """

    command: list[str]
    ready: str = "ready"
    done: str = "done"
    settings: str = ""

    def having(self, settings: str) -> "Program":
        """With further lines of the ``[[pipeline]]`` table."""
        return self._replace(settings=settings)


_DAEMON_SAYS = "andon/bench/status", "andon/bench/rejected"
_MAIN = "import sys; from edge_runtime.cli import main; main(sys.argv[1:-1])"

COUNTING = Program([sys.executable, "-c", COUNTER])
COUNTING_ALWAYS = Program([sys.executable, "-c", COUNTER, "kept"])
ECHO = Program([sys.executable, "-c", _ECHO])
DAEMON = Program([sys.executable, "-c", _MAIN, "run", "gateway.toml"], *_DAEMON_SAYS)
DAEMON_WITHOUT_JOURNAL = Program(
    [
        sys.executable,
        "-c",
        WITHOUT_JOURNAL.replace("argv[1:]", "argv[1:-1]"),
        "run",
        "gateway.toml",
    ],
    *_DAEMON_SAYS,
)


class Place(NamedTuple):
    """A broker and a folder for one turn.

    Attributes:
        program: What is to run there.
        folder: In which it runs.
        broker: For whoever feeds it.
        heard: What it says of itself.
    """

    program: Program
    folder: Path
    broker: BrokerConfig
    heard: Iterator[tuple[str, bytes, bool]]

    @contextmanager
    def ready(self) -> Iterator[int]:
        """Starts the program, waits until it has subscribed, and ends it after the block.

        Yields:
            Its process id.
        """
        port = str(self.broker.port)
        with running([*self.program.command, port], self.folder) as process:
            await_topic(self.heard, self.program.ready, *NOT_READY)
            yield process.pid

    def feed(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publishes them, and behind them what the program answers."""
        with Publisher(self.broker) as publisher:
            for topic, payload in messages:
                publisher.publish(topic, payload)
            publisher.publish(LAST, b"that is all")  # no sample: the daemon reports it

    def await_done(self) -> None:
        """Waits until the program has seen all."""
        await_topic(self.heard, self.program.done)


@contextmanager
def place_for(program: Program, parent: Path) -> Iterator[Place]:
    """A fresh broker and a fresh folder with the daemon's files in it."""
    with TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        (folder / "lstm64.onnx").write_bytes(lstm().session.content)
        with local_broker(folder) as broker:
            text = GATEWAY.format(url=broker.url)
            head, alarm, tail = text.partition("[pipeline.alarm]")
            write_text(folder / "gateway.toml", f"{head}{program.settings}\n{alarm}{tail}")
            watcher = BrokerConfig(url=broker.url, client_id="bench-watch")
            with Subscriber(watcher, [program.ready, program.done]) as watch:
                load = BrokerConfig(url=broker.url, client_id="bench-load")
                yield Place(program, folder, load, watch.messages(timeout_s=QUIET_S))
