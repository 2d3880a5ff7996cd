"""Throughput of the daemon beside a bare subscriber that only counts: CPU time per message.

    python benchmarks/throughput.py

They are separate processes on the same mosquitto and get the same load (QoS 1, JSON objects of 8
sensors, 1,000 streams, LSTM-64), in alternation: the subscriber, the daemon without its journal,
which is no way to run it, and the daemon as it is run. CPU time is read from the operating system
for the process alone, from subscribed to the last message. Ratios carry over to other machines,
absolute times do not.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click
import numpy as np
import torch

from edge_runtime.broker import local_broker
from edge_runtime.config import BrokerConfig
from edge_runtime.files import write_text
from edge_runtime.link import Publisher, Subscriber
from export.to_onnx import export_checkpoint
from train.config import ModelConfig
from train.detector import Detector
from train.detectors import Checkpoint

FEATURES = tuple(f"sensor_{i}" for i in range(8))
START_MS = 1_700_000_000_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LAST = "plant/last/telemetry"

# The last argument is the port; with another one before, its session outlives the connection.
COUNTER = """
import sys, paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
def on_message(client, userdata, message):
    global count
    count += 1
    if message.topic == "plant/last/telemetry":
        client.publish("done", b"", qos=1)
count = 0
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "counter", protocol=mqtt.MQTTv5)
client.on_message = on_message
client.on_connect = lambda c, *_: c.subscribe("plant/+/telemetry", qos=1)
client.on_subscribe = lambda c, *_: c.publish("ready", b"", qos=1)
kept = Properties(PacketTypes.CONNECT)
kept.SessionExpiryInterval = 3600 * len(sys.argv[2:])
client.connect("127.0.0.1", int(sys.argv[-1]), clean_start=not sys.argv[2:], properties=kept)
client.loop_forever()
"""

# The daemon with a store that keeps nothing.
WITHOUT_JOURNAL = """
import sys
from edge_runtime import daemon
from edge_runtime.cli import main
from edge_runtime.store import MemoryStore
daemon.Journal = lambda *_: MemoryStore()
main(sys.argv[1:])
"""

GATEWAY = """
[broker]
url = "{url}"
client_id = "bench"
[state]
path = "gateway.db"
[[pipeline]]
model = "lstm64.onnx"
topic = "plant/{{machine}}/telemetry"
stream = "{{machine}}"
publish = "andon/{{machine}}/anomaly"
[pipeline.alarm]
enter = 1e9
leave = 1.0
"""


class Load(NamedTuple):
    """What both sides get: so many messages from so many streams; the number varies the values."""

    number: int
    messages: int
    streams: int


class Side(NamedTuple):
    """A process under test and the topics on which it says that it is ready and done."""

    command: list[str]
    ready: str
    done: str


@click.command()
@click.option("--messages", default=30_000, show_default=True, help="In each round.")
@click.option("--streams", default=1_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(messages: int, streams: int, rounds: int, output: Path | None) -> None:
    """Print microseconds of CPU per message for all three, and their ratios."""
    figures: dict[str, list[float]] = {"counter": [], "memory": [], "andon": []}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export_model(folder / "lstm64.onnx")
        with local_broker(folder) as broker:
            write_text(folder / "gateway.toml", GATEWAY.format(url=broker.url))
            config = BrokerConfig(url=broker.url, client_id="bench-load")
            port = broker.url.rpartition(":")[2]
            andon = [sys.executable, "-m", "edge_runtime", "run", "gateway.toml"]
            sides = {
                "counter": Side([sys.executable, "-c", COUNTER, port], "ready", "done"),
                "memory": Side(
                    [sys.executable, "-c", WITHOUT_JOURNAL, *andon[3:]],
                    "andon/bench/status",
                    "andon/bench/rejected",
                ),
                "andon": Side(andon, "andon/bench/status", "andon/bench/rejected"),
            }
            with click.progressbar(length=3 * rounds, label="rounds", file=sys.stderr) as bar:
                for number in range(rounds):
                    load = Load(number, messages, streams)
                    for name, side in sides.items():
                        used = _measure(config, side, folder, load)
                        figures[name].append(used / messages * 1e6)
                        bar.update(1)
    _report(figures, messages, streams, output)


def export_model(path: Path) -> None:
    """Writes an untrained LSTM-64 with the contract of a trained one."""
    torch.manual_seed(0)
    detector = Detector(FEATURES, ModelConfig(cell="lstm", hidden=64)).eval()
    for parameter in detector.parameters():
        parameter.requires_grad = False
    meta = {
        "sample_period_ms": 1000.0,
        "max_gap_ms": 5000.0,
        "warm_up_steps": 8,
        "training": {},
        "calibration": {
            "data_digest": "",
            "rows": 1,
            "false_alarms_per_day": 1.0,
            "supported_false_alarms_per_day": 1.0,
        },
    }
    export_checkpoint(Checkpoint(detector, meta), path, lambda _: None)


def _measure(config: BrokerConfig, side: Side, folder: Path, load: Load) -> float:
    """CPU seconds of one process for one load."""
    watcher = BrokerConfig(url=config.url, client_id="bench-watch")
    with Subscriber(watcher, [side.ready, side.done]) as watch:
        heard = watch.messages(timeout_s=60)
        with running(side.command, folder) as process:
            await_topic(heard, side.ready, b"stopped", b"offline")
            before = _cpu_s(process.pid)
            with Publisher(config) as publisher:
                for topic, payload in messages_of(load):
                    publisher.publish(topic, payload)
                publisher.publish(LAST, b"that is all")  # no sample: the daemon reports it
            await_topic(heard, side.done)
            return _cpu_s(process.pid) - before


def messages_of(load: Load) -> Iterator[tuple[str, bytes]]:
    """Topics and payloads of a load."""
    number, messages, streams = load
    rng = np.random.default_rng(number)
    values = rng.standard_normal((64, len(FEATURES))).round(3)
    bodies = [json.dumps(dict(zip(FEATURES, row, strict=True))) for row in values.tolist()]
    for i in range(messages):
        ts = START_MS + (number * messages + i // streams) * 1000
        payload = f'{{"ts": {ts}, "values": {bodies[i % len(bodies)]}}}'
        yield f"plant/m{i % streams}/telemetry", payload.encode()


def await_topic(heard: Iterator[tuple[str, bytes, bool]], topic: str, *not_these: bytes) -> None:
    """Waits for a payload on a topic that is none of these.

    Raises:
        SystemExit: If nothing more is heard.
    """
    for got, payload, _ in heard:
        if got == topic and payload not in not_these:
            return
    raise SystemExit(f"nothing arrived on {topic}")


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended after the block."""
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _report(
    figures: dict[str, list[float]], messages: int, streams: int, output: Path | None
) -> None:
    ratios = [a / c for a, c in zip(figures["andon"], figures["counter"], strict=True)]
    cost = [a / m for a, m in zip(figures["andon"], figures["memory"], strict=True)]
    print(f"{messages} messages a round, {streams} streams, LSTM-64, 8 sensors, QoS 1")
    print(f"{'':24}median    min    max")
    rows = {
        "bare subscriber, us CPU": figures["counter"],
        "andon, no journal, us": figures["memory"],
        "andon run, us CPU": figures["andon"],
        "andon / subscriber": ratios,
        "with / without journal": cost,
    }
    for name, values in rows.items():
        print(f"{name:24}{statistics.median(values):6.2f} {min(values):6.2f} {max(values):6.2f}")
    if output is not None:
        report: dict[str, object] = {
            "schema": 2,
            "messages": messages,
            "streams": streams,
            **figures,
            "ratio": ratios,
        }
        report["journal_ratio"] = cost
        write_text(output, json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
