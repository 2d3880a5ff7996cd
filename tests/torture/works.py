"""A whole works: a broker, machines, a gateway to which anything may happen, and a listener.

Two kinds of machines, and four pipelines: two models watch the machines of the plant, so that what
one message leads to is written in one piece for both; one looks ahead at those of the hall; and one
scores a last message, behind which nothing is missing any more.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from conftest import Broker
from sample_models import PERIOD_MS, sample_model
from torture.devices import Player
from torture.ear import Ear
from torture.reference import Counts, Reference, assert_equal, assert_same_states, recovered
from torture.story import START_MS
from torture.tape import Message, read_tape, write_tape

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0

END = b"andon/last/end"

# Random weights make large and restless scores: lamps that go on and off.
_GATEWAY = """
[broker]
url = "mqtt://127.0.0.1:{port}"
client_id = "gw"
{broker}
[state]
path = "state/gateway.db"
{state}
"""
_PIPELINE = """
[[pipeline]]
model = "{model}"
topic = "{area}/{{machine}}/telemetry"
stream = "{{machine}}"
publish = "andon/{{machine}}/{name}"
emit = "{emit}"
max_streams = 5000
{more}
[pipeline.alarm]
enter = {enter}
leave = {leave}
hold_steps = 1
"""

Emit = Literal["scores", "changes"]


class Machines:
    """A process that sends a tape (see `torture.devices`)."""

    def __init__(self, port: int, client_id: str, tape: Path, options: Sequence[str]) -> None:
        self.tape = tape
        self.counts: dict[str, int] = {}
        command = [sys.executable, "-m", "torture.devices", str(port), client_id, str(tape)]
        self._process = subprocess.Popen(
            [*command, *options], env=environment(), stdout=subprocess.PIPE
        )

    @property
    def busy(self) -> bool:
        """Whether they have not sent everything yet."""
        return self._process.poll() is None

    def stop(self) -> None:
        """They end their tape early."""
        self._process.terminate()

    def finish(self, timeout_s: float) -> dict[str, int]:
        """Waits until the broker has acknowledged everything; what has happened (`Player`)."""
        output, _ = self._process.communicate(timeout=timeout_s)
        assert self._process.returncode == 0, f"the machines ended with {self._process.returncode}"
        self.counts = json.loads(output)
        return self.counts

    def sent(self) -> Iterator[Message]:
        """The part of the tape that they have sent."""
        return islice(read_tape(self.tape), self.counts["sent"])

    def end(self) -> None:
        """For good, whatever they are at."""
        if self.busy:
            self._process.kill()
        self._process.communicate()


class Works:
    """The gateway's folder, and what stands around it.

    Args:
        folder: Empty so far.
        broker: It may be killed.
        port: Where the gateway finds the broker, if there is something between.

    Attributes:
        config: The gateway's TOML file.
        log: What its daemon says.
        database: Its database, in a folder of its own.
        kills: How often its daemon was killed.
    """

    def __init__(self, folder: Path, broker: Broker, *, port: int | None = None) -> None:
        self.folder = folder
        self.broker = broker
        self.config = folder / "gateway.toml"
        self.log = folder / "daemon.log"
        self.database = folder / "state" / "gateway.db"
        self.kills = 0
        self._port = broker.port if port is None else port
        self._started = self._ends = 0
        self._last: list[Message] = []
        self._machines: list[Machines] = []
        self._daemons: list[subprocess.Popen[bytes]] = []

    def configure(
        self,
        emit: Emit = "scores",
        *,
        broker: str = "",
        state: str = "",
        pipeline: str = "",
        enter: float = 1.0,
    ) -> Reference:
        """Writes the gateway's configuration; its replay, which has seen nothing yet."""
        lamp = {"enter": enter, "leave": 0.9 * enter}
        text = _GATEWAY.format(port=self._port, broker=broker, state=state)
        for area, name, model, emits in (
            ("plant", "anomaly", sample_model("gru"), emit),
            ("plant", "second", sample_model("lstm"), "changes"),
            ("hall", "ahead", sample_model("gru", look_ahead=3), emit),
            ("end", "end", sample_model("elman"), "scores"),
        ):
            # The last message must not wait for another.
            more = "" if area == "end" else pipeline
            text += _PIPELINE.format(
                model=model, area=area, name=name, emit=emits, more=more, **lamp
            )
        self.config.write_text(text)
        self.database.parent.mkdir(exist_ok=True)
        return Reference(self.config)

    def start(
        self, *, seam: str = "", nth: int = 1, log_level: str = "error"
    ) -> "subprocess.Popen[bytes]":
        """Starts the daemon as it is, or one that ends at a seam (see `torture.crashing`)."""
        program = ["torture.crashing", seam, str(nth)] if seam else ["edge_runtime", "run"]
        command = ["-m", *program, "gateway.toml", "--log-level", log_level]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=environment(),
                stdout=log,
                stderr=log,
            )
        self._daemons.append(process)
        return process

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        """SIGKILL."""
        process.kill()
        process.wait()
        self.kills += 1

    @contextmanager
    def daemon(self, ear: Ear, **options: Any) -> "Iterator[subprocess.Popen[bytes]]":
        """A daemon that says that it is online, and is ended by SIGTERM unless it has ended."""
        began = time.monotonic()
        process = self.start(**options)
        try:
            ear.until_word("online", began, PATIENCE_S)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise

    def introduce(self, ear: Ear) -> None:
        """A first start: from now on the broker keeps what arrives while the gateway is away."""
        with self.daemon(ear):
            pass

    def machines(
        self,
        messages: Iterable[Message],
        *,
        rate: float = 0.0,
        memory: int = 0,
        port: int | None = None,
    ) -> Machines:
        """Starts machines that send these messages, to the broker or to what stands before it."""
        self._started += 1
        number = self._started
        tape = self.folder / f"tape-{number}"
        write_tape(tape, messages)
        # Every other one of them speaks MQTT 5.
        options = {"rate": rate, "memory": memory, "version": 4 + number % 2}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        machines = Machines(port or self.broker.port, f"machines-{number}", tape, words)
        self._machines.append(machines)
        return machines

    def pace(self, ear: Ear, messages: Iterable[Message]) -> float:
        """How many of these messages pass in a second, as fast as this machine goes.

        Args:
            ear: Which listens to a daemon that runs.
            messages: Some hundred of those that the test sends, and before the others.
        """
        began, some = time.monotonic(), list(messages)
        self.machines(some).finish(PATIENCE_S)
        self.hear_all(ear)
        return len(some) / (time.monotonic() - began)

    def hear_all(self, ear: Ear, timeout_s: float = PATIENCE_S) -> Message:
        """Sends a last message and waits until its score is heard: all before it has gone out.

        The daemon is running, and the machines have finished.

        Returns:
            That message.
        """
        self._ends += 1
        ts = START_MS + round(self._ends * PERIOD_MS)
        message = b"end/last/telemetry", b'{"ts": %d, "values": [1, 2, 3]}' % ts
        self._last.append(message)
        player = Player(iter([message]), window=1, rate=0.0, memory=0, version=4)
        player.play(self.broker.port, "last")
        wanted = b'"ts": %d,' % ts
        ear.until(
            lambda: any(topic == END and wanted in line for topic, line in ear.heard[-100:]),
            "the score of the last message",
            timeout_s,
        )
        return message

    def replay(self, reference: Reference) -> None:
        """Plays to the reference what was sent and not played yet."""
        for machines in list(self._machines):
            self.replay_one(reference, machines)
        reference.play(self._last)
        self._last.clear()

    def replay_one(
        self, reference: Reference, machines: Machines, messages: Iterable[Message] | None = None
    ) -> None:
        """Plays what some machines have sent, or these of it, if all the others are no samples."""
        reference.play(machines.sent() if messages is None else messages, time.time_ns())
        machines.tape.unlink()
        self._machines.remove(machines)

    def assert_as_replayed(self, ear: Ear, reference: Reference) -> Counts:
        """Everything that was heard, and everything that is remembered, is as offline.

        The daemon has ended. What was sent and not replayed yet is replayed here.
        """
        self.replay(reference)
        counts = assert_equal(reference, ear.heard)
        assert_same_states(reference.states(), recovered(self.config))
        assert self.asides() == []
        return counts

    def asides(self) -> list[Path]:
        """Databases that were set aside, without their companions."""
        found = self.database.parent.glob("gateway.db.damaged-*")
        return [path for path in found if not path.name.endswith(("-wal", "-shm"))]

    def end(self) -> None:
        """Ends what is left, for good."""
        for machines in self._machines:
            machines.end()
        for process in self._daemons:
            process.kill()
            process.wait()


MakeWorks = Callable[..., Works]


def environment() -> dict[str, str]:
    """With which a process finds the project and the tests."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
