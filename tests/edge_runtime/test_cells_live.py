"""Every cell, alone, stacked and both ways, in one real daemon: live scores are the replay's."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import checks
from checks import Case
from conftest import Broker
from edge_runtime.config import AlarmConfig
from edge_runtime.link import Subscriber
from edge_runtime.payload import encode_flag, encode_score
from edge_runtime.pipeline import Pipeline, Settings
from edge_runtime.replay import Readings, replay
from edge_runtime.session import load_model
from plant import PATIENCE_S, START_MS, STATUS, Plant, await_status, sample

MACHINES, STEPS, GAP_AT = 3, 60, 31
ALARM = AlarmConfig(enter=1.0, leave=0.9, hold_steps=1)

GATEWAY = """
[broker]
url = "{url}"
client_id = "gw"
[state]
path = "gateway.db"
"""
PIPELINE = """
[[pipeline]]
model = "{model}"
topic = "plant/{at}/{{machine}}"
stream = "{{machine}}"
publish = "andon/{at}/{{machine}}"
emit = "scores"
[pipeline.alarm]
enter = 1.0
leave = 0.9
hold_steps = 1
"""

Heard = dict[str, list[str]]


def times() -> NDArray[np.int64]:
    """Milliseconds; in the middle all machines fall silent, and start afresh."""
    step = np.arange(STEPS)
    return np.asarray(START_MS + 1000 * step + 60_000 * (step >= GAP_AT), np.int64)


def values_of(machine: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(machine)
    return (2 + 3 * rng.standard_normal((STEPS, 3))).round(4)


@pytest.fixture(scope="module")
def live(module_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Heard:
    """What one daemon with a pipeline for every case said, by pipeline."""
    plant = Plant(tmp_path_factory.mktemp("plant"), module_broker)
    pipelines = [PIPELINE.format(model=case.path, at=at) for at, case in enumerate(checks.cases())]
    text = GATEWAY.format(url=module_broker.url) + "".join(pipelines)
    (plant.folder / "gateway.toml").write_text(text)
    messages = [
        (f"plant/{at}/{name(at, machine)}", sample(float(ts), values_of(machine)[step].tolist()))
        for step, ts in enumerate(times())
        for at in range(len(pipelines))
        for machine in range(MACHINES)
    ]
    ends = [(f"plant/{at}/{name(at, 0)}", b"the end") for at in range(len(pipelines))]
    with plant.listener() as listener, plant.daemon():
        await_status(listener, b"online")
        plant.publish([*messages, *ends])
        return listen(listener, len(pipelines))


def listen(listener: Subscriber, pipelines: int) -> Heard:
    """Everything until each pipeline has refused the last message, which is no sample."""
    heard: Heard = defaultdict(list)
    ended = 0
    for topic, payload, _ in listener.messages(PATIENCE_S):
        if topic == STATUS:
            continue
        if not topic.endswith("/rejected"):
            heard[topic.split("/")[1]].append(payload.decode())
            continue
        ended += json.loads(payload)["cause"] != "gap"
        if ended == pipelines:
            return heard
    raise AssertionError(f"{ended} of {pipelines} pipelines came to the end")


def name(at: int, machine: int) -> str:
    """Refusals are reported once for each stream, whatever its pipeline: no two share a name."""
    return f"m{at}-{machine}"


def replayed(path: Path, at: int) -> Iterator[str]:
    """What the same samples give offline, as the daemon would have published it."""
    pipeline = Pipeline(load_model(path), Settings(alarm=ALARM))
    readings = [
        Readings(name(at, machine), times() * 1_000_000, values_of(machine), None)
        for machine in range(MACHINES)
    ]
    for result in replay(pipeline, readings, lambda _: None):
        yield from (encode_flag(flag).decode() for flag in result.flags)
        for scored in result.scored:
            yield from (encode_score(line).decode() for line in scored.lines())


@pytest.mark.parametrize(
    ("at", "case"), [pytest.param(at, c, id=f"{c}:live") for at, c in enumerate(checks.cases())]
)
def test_live_scores_of_a_cell_are_those_of_the_replay(live: Heard, at: int, case: Case) -> None:
    offline = sorted(replayed(case.path, at))
    scores: list[Any] = [line for line in map(json.loads, offline) if "event" not in line]
    assert len(scores) == MACHINES * (STEPS - 2 * case.look_ahead)
    assert len(offline) > len(scores)  # flags too
    assert sorted(live[str(at)]) == offline
