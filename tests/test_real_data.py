"""The whole chain on recorded machines: train, export, replay, and live through mosquitto.

Needs the data sets of `ANDON_DATA`: a folder with `skab/` (waico/SKAB) inside.
"""

import csv
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from conftest import Broker
from edge_runtime.config import BrokerConfig
from edge_runtime.link import Publisher, Subscriber

ROOT = Path(__file__).resolve().parent.parent
RUNS = [str(number) for number in range(16)]
PATIENCE_S = 60.0

GATEWAY = """
[broker]
url = "{url}"
client_id = "rig"
[state]
path = "gateway.db"
[[pipeline]]
model = "model.onnx"
topic = "skab/{{run}}/telemetry"
stream = "{{run}}"
publish = "andon/{{run}}/anomaly"
emit = "scores"
"""

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def skab() -> Path:
    folder = os.environ.get("ANDON_DATA")
    if not folder:
        pytest.skip("ANDON_DATA is not set: it names the folder with the recorded data sets")
    return Path(folder) / "skab"


@pytest.fixture(scope="module")
def trained(skab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.onnx`, trained by SKAB's protocol but for a short time."""
    folder = tmp_path_factory.mktemp("skab")
    config = str(ROOT / "configs" / "train" / "skab.toml")
    andon(
        folder, "train", "--config", config, "--data-root", str(skab), "--epochs", "3", "-o", "run"
    )
    andon(folder, "export", "run", "-o", "model.onnx")
    return folder


def andon(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "edge_runtime", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.timeout(300)
def test_valve1_live_is_valve1_replayed(skab: Path, trained: Path, broker: Broker) -> None:
    files = [str(skab / "valve1" / f"{run}.csv") for run in RUNS]
    said = andon(
        trained, "replay", "model.onnx", *files, "--scores", "s.jsonl", "--label", "anomaly"
    )
    assert said.count("changepoint") == 1  # further columns are named once
    assert "of 16 events detected" in said
    lines = [json.loads(line) for line in (trained / "s.jsonl").read_text().splitlines()]
    replayed = {(line["stream"], line["ts"]): line for line in lines}
    assert len(replayed) == 18_160

    (trained / "gateway.toml").write_text(GATEWAY.format(url=broker.url))
    live = {}
    us = BrokerConfig(url=broker.url, client_id="us")
    command = [sys.executable, "-m", "edge_runtime", "run", "gateway.toml"]
    with Subscriber(us, ["andon/#"]) as listener:
        heard = listener.messages(PATIENCE_S)
        with (
            (trained / "log").open("w") as log,
            subprocess.Popen(command, cwd=trained, stderr=log) as daemon,
        ):
            try:
                assert ("andon/rig/status", b"online") in ((t, payload) for t, payload, _ in heard)
                sent = publish_interleaved(us, files)
                for topic, payload, _ in heard:
                    if topic.endswith("/anomaly") and "event" not in (line := json.loads(payload)):
                        live[line["stream"], line["ts"]] = line
                    if len(live) == sent:
                        break
            finally:
                daemon.terminate()
            assert daemon.wait(PATIENCE_S) == 0
    assert sent == len(replayed)
    assert live == replayed


def publish_interleaved(broker: BrokerConfig, files: list[str]) -> int:
    """Sends all files side by side, a row of each in turn."""
    runs = {Path(file).stem: rows_of(Path(file)) for file in files}
    longest = max(len(rows) for rows in runs.values())
    sent = 0
    with Publisher(broker) as publisher:
        for index in range(longest):
            for name, rows in runs.items():
                if index < len(rows):
                    publisher.publish(f"skab/{name}/telemetry", rows[index])
                    sent += 1
    return sent


def rows_of(path: Path) -> list[bytes]:
    with path.open(newline="") as file:
        return [
            json.dumps(
                {
                    "ts": datetime.fromisoformat(row.pop("datetime") + "+00:00").timestamp() * 1000,
                    "values": {name: float(cell) for name, cell in row.items()},
                }
            ).encode()
            for row in csv.DictReader(file, delimiter=";")
        ]
