"""A gateway's folder, its daemon as a real process, and somebody who listens."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conftest import Broker
from edge_runtime.config import BrokerConfig
from edge_runtime.link import Publisher, Subscriber
from sample_models import FEATURES

START_MS = 1_767_225_600_000  # 2026-01-01
PATIENCE_S = 30.0
STATUS = "andon/gw/status"
DETAILS = "andon/gw/status/details"
REJECTED = "andon/gw/rejected"
EVENTS = "andon/gw/events"

# Random weights make large and restless scores: lamps that go on and off.
CONFIG = """
[broker]
url = "{url}"
client_id = "gw"
{broker}
[state]
path = "gateway.db"
[[pipeline]]
model = "{model}"
topic = "plant/{{machine}}/telemetry"
stream = "{{machine}}"
publish = "andon/{{machine}}/anomaly"
emit = "{emit}"
{pipeline}
[pipeline.alarm]
enter = 1.0
leave = 0.9
hold_steps = 1
"""

Reading = tuple[str, float, list[float]]

# No sample: its rejection is reported after everything that came before it.
THE_END = ("plant/m0/telemetry", b"the end")


@dataclass
class Heard:
    """What the gateway has published."""

    scores: dict[tuple[str, float], dict[str, Any]] = field(default_factory=dict)
    flags: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    repeated: int = 0


class Plant:
    """A gateway's folder, its broker, and somebody who listens."""

    def __init__(self, folder: Path, broker: Broker, features: tuple[str, ...] = FEATURES) -> None:
        self.folder = folder
        self.features = features
        self.broker = broker
        self.heard = Heard()
        self.log = ""
        self._lines: Queue[str] = Queue()

    def configure(
        self,
        model: Path,
        *,
        emit: str = "scores",
        broker: str = "",
        pipeline: str = "",
        url: str = "",
    ) -> Path:
        path = self.folder / "gateway.toml"
        text = CONFIG.format(
            url=url or self.broker.url, model=model, emit=emit, broker=broker, pipeline=pipeline
        )
        path.write_text(text)
        return path

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[str]]:
        """A running daemon; ended by SIGTERM unless it has ended already."""
        command = [sys.executable, "-m", "edge_runtime", "run", "gateway.toml"]
        with subprocess.Popen(
            command, cwd=self.folder, stderr=subprocess.PIPE, text=True
        ) as process:
            reader = Thread(target=self._read_log, args=[process.stderr])
            reader.start()  # a full pipe would stop the daemon
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                process.wait(timeout=PATIENCE_S)
                reader.join()

    def _read_log(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.log += line
            self._lines.put(line)

    def await_log(self, text: str) -> None:
        """Waits until the daemon has logged ``text``."""
        while text not in self._lines.get(timeout=PATIENCE_S):
            pass

    @contextmanager
    def listener(self) -> Iterator[Subscriber]:
        with Subscriber(self.client("listener"), ["andon/#"]) as subscriber:
            yield subscriber

    def client(self, name: str) -> BrokerConfig:
        return BrokerConfig(url=self.broker.url, client_id=name)

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        with Publisher(self.client("machines")) as publisher:
            for topic, payload in messages:
                publisher.publish(topic, payload)

    def send(self, readings: Sequence[Reading]) -> None:
        self.publish(
            [
                (f"plant/{name}/telemetry", sample(ts, values, self.features))
                for name, ts, values in readings
            ]
        )

    def hear(self, subscriber: Subscriber, *, scores: int = 0, rejected: int = 0) -> None:
        """Listens until so many scores and rejections have come in all."""
        heard = self.heard
        for topic, payload, _ in subscriber.messages(PATIENCE_S):
            self.note(topic, payload)
            if len(heard.scores) >= scores and len(heard.rejected) >= rejected:
                return
        raise AssertionError(f"heard {len(heard.scores)} scores, {len(heard.rejected)} rejections")

    def hear_status(self, subscriber: Subscriber, wanted: str) -> dict[str, Any]:
        """Listens until the daemon says that status anew; its details."""
        details: dict[str, Any] = {}
        for topic, payload, retained in subscriber.messages(PATIENCE_S):
            self.note(topic, payload)
            if topic == DETAILS and not retained and payload:
                details = json.loads(payload)
            elif topic == STATUS and not retained and payload == wanted.encode():
                return details
        raise AssertionError(f"status never became {wanted!r}")

    def note(self, topic: str, payload: bytes) -> None:
        """Keeps what was heard, but for the status."""
        heard = self.heard
        if topic in (STATUS, DETAILS):
            return
        message = json.loads(payload)
        if topic == REJECTED:
            heard.rejected.append(message)
        elif topic == EVENTS:
            heard.events.append(message)
        elif "event" in message:
            heard.flags.append(message)
        else:
            key = message["stream"], message["ts"]
            heard.repeated += key in heard.scores
            heard.scores[key] = message

    def hear_events(self, subscriber: Subscriber, count: int) -> None:
        """Listens until so many events have come in all."""
        while len(self.heard.events) < count:
            for topic, payload, _ in subscriber.messages(PATIENCE_S):
                self.note(topic, payload)
                if topic == EVENTS:
                    break
            else:
                raise AssertionError(f"heard {len(self.heard.events)} events")

    def replay(self, model: Path, readings: Sequence[Reading]) -> tuple[dict[Any, Any], list[Any]]:
        """Scores and flags of `andon replay` over the same samples, one file a stream."""
        names = sorted({name for name, _, _ in readings})
        for name in names:
            with (self.folder / f"{name}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["ts", *self.features])
                writer.writerows(
                    [f"{ts:.0f}", *map(repr, values)] for n, ts, values in readings if n == name
                )
        done = andon(
            self.folder,
            *("replay", str(model), *(f"{name}.csv" for name in names)),
            *("--scores", "scores.jsonl", "--flags", "flags.jsonl", "--gateway", "gateway.toml"),
        )
        assert done.returncode == 0, done.stderr
        scores, flags = (
            [json.loads(line) for line in (self.folder / name).read_text().splitlines()]
            for name in ("scores.jsonl", "flags.jsonl")
        )
        return {(line["stream"], line["ts"]): line for line in scores}, flags


def andon(
    folder: Path, *arguments: str, without_rights_to: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder, as somebody who may not write into another."""
    command = [sys.executable, "-m", "edge_runtime", *arguments]
    if without_rights_to is None:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    without_rights_to.chmod(0o555)
    if os.geteuid() == 0:  # whom no permission stops
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    finally:
        without_rights_to.chmod(0o755)


def sample(ts: float, values: list[float], features: tuple[str, ...] = FEATURES) -> bytes:
    return json.dumps({"ts": ts, "values": dict(zip(features, values, strict=True))}).encode()


def readings_of(
    streams: int, steps: int, seed: int = 0, features: int = len(FEATURES)
) -> list[Reading]:
    """Samples of several machines, interleaved, each machine's in order."""
    rng = np.random.default_rng(seed)
    values = wave(rng, streams, steps)[:, :, :features]
    return [
        (f"m{s}", START_MS + 1000 * t, values[s, t].tolist())
        for t in range(steps)
        for s in rng.permutation(streams)
    ]


def wave(rng: np.random.Generator, streams: int, steps: int) -> NDArray[np.float64]:
    shape = (streams, steps, len(FEATURES))
    return (2.0 + 3.0 * rng.standard_normal(shape)).round(4)


def await_status(subscriber: Subscriber, wanted: bytes) -> None:
    for topic, payload, _ in subscriber.messages(PATIENCE_S):
        if topic == STATUS and payload == wanted:
            return
    raise AssertionError(f"status never became {wanted!r}")


def status_now(plant: Plant) -> bytes:
    with Subscriber(plant.client("look"), [STATUS]) as subscriber:
        return next(payload for _, payload, _ in subscriber.messages(PATIENCE_S))
