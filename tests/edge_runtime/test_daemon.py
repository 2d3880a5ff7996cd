"""The daemon as a real process on a real mosquitto."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import edge_runtime.daemon
from conftest import Broker, Certificates, MakeBroker
from edge_runtime.clock import Clock
from edge_runtime.config import BrokerConfig, PipelineConfig
from edge_runtime.daemon import Gateway
from edge_runtime.errors import StoreUnavailableError
from edge_runtime.link import Publisher, Subscriber
from edge_runtime.mqtt import Message
from edge_runtime.routes import Route
from edge_runtime.session import load_model
from edge_runtime.stop import StopEvent
from edge_runtime.store import Group, Publication, Start
from handmade_models import Layout, layout_model, look_ahead_model, one_step_graph
from own_module import own_model
from plant import (
    PATIENCE_S,
    START_MS,
    STATUS,
    THE_END,
    Plant,
    andon,
    await_status,
    readings_of,
    sample,
    status_now,
)
from sample_models import FEATURES, MAX_GAP_MS, WARM_UP_STEPS, sample_model


@pytest.fixture
def plant(tmp_path: Path, broker: Broker) -> Plant:
    return Plant(tmp_path, broker)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_live_scores_are_those_of_the_replay(plant: Plant, cell: str) -> None:
    model, readings = sample_model(cell), readings_of(streams=7, steps=150)
    plant.configure(model)
    with plant.listener() as listener, plant.daemon():
        await_status(listener, b"online")
        plant.send(readings)
        plant.publish([THE_END])
        plant.hear(listener, scores=len(readings), rejected=1)
    scores, flags = plant.replay(model, readings)
    assert len(scores) == len(readings)
    assert plant.heard.scores == scores
    assert plant.heard.repeated == 0
    by_time = sorted(plant.heard.flags, key=lambda flag: (flag["stream"], flag["ts"]))
    assert len(flags) > 20
    assert by_time == sorted(flags, key=lambda flag: (flag["stream"], flag["ts"]))


def test_live_scores_of_a_module_of_ones_own_are_those_of_the_replay(
    tmp_path: Path, broker: Broker
) -> None:
    """A GRU written by hand, exported with `andon export --module`."""
    sensors = ("current_a", "pressure_bar", "vibration_mm_s")
    plant = Plant(tmp_path, broker, sensors)
    readings = readings_of(streams=7, steps=120)
    plant.configure(own_model())
    with plant.listener() as listener, plant.daemon():
        await_status(listener, b"online")
        plant.send(readings)
        plant.publish([THE_END])
        plant.hear(listener, scores=len(readings), rejected=1)
    scores, flags = plant.replay(own_model(), readings)
    assert len(scores) == len(readings)
    assert plant.heard.scores == scores
    assert len({line["score"] for line in scores.values()}) > 800
    by_time = sorted(plant.heard.flags, key=lambda flag: (flag["stream"], flag["ts"]))
    assert by_time == sorted(flags, key=lambda flag: (flag["stream"], flag["ts"]))


FOREIGN: dict[str, Callable[[], bytes]] = {
    "look-ahead": partial(look_ahead_model, 5),
    "one-step": lambda: one_step_graph().SerializeToString(),
    "one-stream": partial(layout_model, Layout(mixing=True), one_stream=True),
}


def adopted(model: Path) -> Path:
    """The voice-activity detector with a contract."""
    options = ("--input", "x", "--state", "state=stateN", "--constant", "sr=4", "--score", "out")
    names = ("--feature", "a", "--feature", "b", "--warm-up", "2", "--period-ms", "1000")
    done = andon(model.parent, "adopt", model.name, *options, *names, "-o", "adopted.onnx")
    assert done.returncode == 0, done.stderr
    return model.parent / "adopted.onnx"


@pytest.mark.parametrize("kind", FOREIGN)
def test_live_scores_of_foreign_models_are_those_of_the_replay(
    tmp_path: Path, broker: Broker, kind: str
) -> None:
    """Machines that fall silent for a while in the middle: everything starts afresh there."""
    plant = Plant(tmp_path, broker, ("a", "b"))
    model = tmp_path / "foreign.onnx"
    model.write_bytes(FOREIGN[kind]())
    if kind == "one-step":
        model = adopted(model)
    late, readings = 60_000, readings_of(streams=7, steps=120, features=2)
    readings = [
        # Around 0, so that a sum goes up and down.
        (name, ts + late * (ts >= START_MS + 70_000), [round(v - 2, 4) for v in values])
        for name, ts, values in readings
    ]
    path = plant.configure(model)
    path.write_text(path.read_text().replace("1.0", "0.5").replace("0.9", "0.45"))
    ahead = 5 if kind == "look-ahead" else 0
    count = len(readings) - 7 * ahead * 2  # before the silence, and at the end
    with plant.listener() as listener, plant.daemon():
        await_status(listener, b"online")
        plant.send(readings)
        plant.publish([THE_END])
        plant.hear(listener, scores=count, rejected=1)
    scores, flags = plant.replay(model, readings)
    assert len(scores) == count
    assert plant.heard.scores == scores
    assert plant.heard.repeated == 0
    by_time = sorted(plant.heard.flags, key=lambda flag: (flag["stream"], flag["ts"]))
    assert len(flags) > 10
    assert by_time == sorted(flags, key=lambda flag: (flag["stream"], flag["ts"]))
    expected = "5 samples before stay without a score" if ahead else "starts afresh"
    assert plant.log.count(expected) == 7
    assert f"{7 * ahead * 2} left without a score" in plant.log


def test_a_model_that_looks_too_far_ahead_is_refused(plant: Plant) -> None:
    model = plant.folder / "ahead.onnx"
    model.write_bytes(look_ahead_model(5))
    plant.configure(model, pipeline="max_delay_ms = 5000")
    assert andon(plant.folder, "check", "gateway.toml").returncode == 0
    path = plant.configure(model, pipeline="max_delay_ms = 0")
    reason = (
        "gateway.toml: [[pipeline]] 1 model: wanted scores after 0 ms at most (max_delay_ms), the "
        "model looks 5 samples of 1000 ms ahead: 5000 ms"
    )
    for command, code in (("check", 1), ("run", 78)):
        done = andon(plant.folder, command, "gateway.toml")
        assert done.returncode == code
        assert reason in done.stderr
    path.write_text(path.read_text().replace("leave = 0.45", "leave = 9").replace("0.9", "9"))
    done = andon(plant.folder, "check", "gateway.toml")
    assert reason in done.stderr
    assert "must not exceed enter" in done.stderr
    causal = plant.configure(sample_model(), pipeline="max_delay_ms = 0")
    assert andon(plant.folder, "check", causal.name).returncode == 0


def test_check_says_how_late_the_scores_come(plant: Plant) -> None:
    model = plant.folder / "ahead.onnx"
    model.write_bytes(look_ahead_model(5))
    plant.configure(model)
    done = andon(plant.folder, "check", "gateway.toml")
    assert "looks 5 samples ahead: each score comes 5000 ms late" in done.stdout
    plant.configure(sample_model())
    assert "ahead" not in andon(plant.folder, "check", "gateway.toml").stdout


def test_arrays_and_blocks_give_the_bits_of_single_messages(plant: Plant) -> None:
    model, readings = sample_model("lstm"), readings_of(streams=3, steps=60)
    plant.configure(model)
    messages = []
    for name in ("m0", "m1", "m2"):
        own = [(ts, values) for n, ts, values in readings if n == name]
        parts = [own[:1], own[1:20], own[20:60]]
        for number, part in enumerate(parts):
            block = {"ts": part[0][0], "period_ms": 1000, "values": [v for _, v in part]}
            array = [{"ts": ts, "values": values} for ts, values in part]
            body = array if number == 1 else block
            messages.append((f"plant/{name}/telemetry", json.dumps(body).encode()))
    with plant.listener() as listener, plant.daemon():
        await_status(listener, b"online")
        plant.publish(messages)
        plant.hear(listener, scores=len(readings))
    assert plant.heard.scores == plant.replay(model, readings)[0]


def test_memory(plant: Plant) -> None:
    """Two identical messages get different answers; a stream that was reset answers as at first."""
    plant.configure(sample_model("gru"))
    same = [2.5, -1.0, 7.25]
    later = START_MS + 1000 + MAX_GAP_MS + 1
    times = [START_MS, START_MS + 1000, later, later + 1000]
    with plant.listener() as listener, plant.daemon():
        await_status(listener, b"online")
        plant.send([("m0", ts, same) for ts in times])
        plant.hear(listener, scores=len(times))
    first, second, third, fourth = (plant.heard.scores["m0", ts]["score"] for ts in times)
    assert first != second
    assert third == first
    assert fourth == second
    assert {line["status"] for line in plant.heard.scores.values()} == {"warming_up"}
    assert WARM_UP_STEPS > 2


def test_bad_input_is_reported_and_touches_no_state(plant: Plant) -> None:
    model, readings = sample_model("lstm"), readings_of(streams=2, steps=40)
    plant.configure(model, broker="max_payload_bytes = 2000", pipeline="max_streams = 2")
    topic = "plant/m0/telemetry"
    last, good = readings[-1][1], dict.fromkeys(FEATURES, 1.0)
    bad = {
        "not_json": b"\xff{ not json",
        "too_large": b" " * 2001,
        "no_ts": json.dumps({"values": good}).encode(),
        "bad_ts": json.dumps({"ts": "yesterday", "values": good}).encode(),
        "wrong_count": json.dumps({"ts": last, "values": [1.0]}).encode(),
        "missing_feature": json.dumps({"ts": last, "values": {FEATURES[0]: 1.0}}).encode(),
        "not_a_number": json.dumps({"ts": last, "values": {**good, FEATURES[1]: "1"}}).encode(),
        "not_finite": sample(last, [1.0, 1e39, 1.0]),
        "not_a_sample": b"17",
        "future": sample(4_000_000_000_000, [1.0, 1.0, 1.0]),
        "late": sample(START_MS, [1.0, 1.0, 1.0]),
    }
    null = json.dumps({"ts": last, "values": {**good, FEATURES[1]: None}}).encode()
    half = len(readings) // 2
    with plant.listener() as listener, plant.daemon():
        await_status(listener, b"online")
        plant.send(readings[:half])
        plant.publish([(topic, payload) for payload in [*bad.values(), null] for _ in range(3)])
        plant.publish([("plant/m9/telemetry", sample(START_MS, [1.0, 1.0, 1.0]))] * 3)
        plant.send(readings[half:])
        plant.hear(listener, scores=len(readings), rejected=len(bad) + 1)
    assert plant.heard.scores == plant.replay(model, readings)[0]
    reports = {(r["stream"], r["cause"]): r for r in plant.heard.rejected}
    assert set(reports) == {*(("m0", cause) for cause in bad), ("m9", "too_many_streams")}
    assert reports["m0", "wrong_count"]["detail"] == "wanted 3 values, got 1"
    assert all(plant.log.count(f"rejected {cause} ") == 1 for cause in bad), plant.log


def test_sigterm_finishes_what_was_received(plant: Plant) -> None:
    """Every sample is scored by the first run or by the second, and by one of them only."""
    plant.configure(sample_model("elman"))
    readings = readings_of(streams=40, steps=50)
    with plant.listener() as listener:
        with plant.daemon() as process:
            await_status(listener, b"online")
            plant.send(readings[:1000])
            plant.hear(listener, scores=1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        await_status_and_scores(plant, listener, b"stopped")
        plant.send(readings[1000:])
        with plant.daemon():
            plant.hear(listener, scores=len(readings))
    assert plant.heard.repeated == 0
    assert {key[:2] for key in plant.heard.scores} == {(name, ts) for name, ts, _ in readings}


def await_status_and_scores(plant: Plant, listener: Subscriber, wanted: bytes) -> None:
    """As `await_status`, but keeps the scores that come first."""
    for topic, payload, _ in listener.messages(PATIENCE_S):
        if topic == STATUS:
            if payload == wanted:
                return
            continue
        message = json.loads(payload)
        if "event" not in message:
            key = message["stream"], message["ts"]
            plant.heard.repeated += key in plant.heard.scores
            plant.heard.scores[key] = message
    raise AssertionError(f"status never became {wanted!r}")


def test_status_is_retained(plant: Plant) -> None:
    plant.configure(sample_model())
    with plant.listener() as listener:
        with plant.daemon():
            await_status(listener, b"online")
            assert status_now(plant) == b"online"
        assert status_now(plant) == b"stopped"
        with plant.daemon() as process:
            await_status(listener, b"stopped")
            await_status(listener, b"online")
            os.kill(process.pid, signal.SIGKILL)
            await_status(listener, b"offline")
        assert status_now(plant) == b"offline"


def test_starts_before_the_broker(tmp_path: Path, make_broker: MakeBroker) -> None:
    plant = Plant(tmp_path, make_broker())
    plant.configure(sample_model())
    with plant.daemon():
        plant.await_log("next attempt")
        plant.broker.start()
        with plant.listener() as listener:
            await_status(listener, b"online")
            plant.send(readings_of(streams=1, steps=3))
            plant.hear(listener, scores=3)


def test_stops_while_there_is_no_broker(tmp_path: Path, make_broker: MakeBroker) -> None:
    plant = Plant(tmp_path, make_broker())
    plant.configure(sample_model())
    with plant.daemon() as process:
        plant.await_log("next attempt")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_goes_on_after_the_broker_was_killed(tmp_path: Path, durable_broker: Broker) -> None:
    plant = Plant(tmp_path, durable_broker)
    model, readings = sample_model("lstm"), readings_of(streams=5, steps=60)
    plant.configure(model)
    half = len(readings) // 2
    with plant.daemon():
        with plant.listener() as listener:
            await_status(listener, b"online")
            plant.send(readings[:half])
            plant.hear(listener, scores=half)
        plant.broker.kill()
        plant.broker.start()
        with plant.listener() as listener:
            plant.send(readings[half:])
            plant.hear(listener, scores=len(readings))
    assert plant.heard.scores == plant.replay(model, readings)[0]


def test_mqtt_3_1_1(plant: Plant) -> None:
    readings = readings_of(streams=5, steps=40)
    plant.configure(sample_model(), broker='protocol = "3.1.1"')
    with plant.listener() as listener, plant.daemon():
        await_status(listener, b"online")
        plant.send(readings)
        plant.hear(listener, scores=len(readings))


def test_mutual_tls(tmp_path: Path, tls_broker: Broker, certificates: Certificates) -> None:
    plant = Plant(tmp_path, tls_broker)
    ca, cert, key = certificates.ca, certificates.client, certificates.client_key
    lines = f'ca = "{ca}"\ncert = "{cert}"\nkey = "{key}"'
    url = f"mqtts://localhost:{tls_broker.port}"
    plant.configure(sample_model(), broker=lines, url=url)
    us = BrokerConfig(url=url, client_id="us", ca=ca, cert=cert, key=key)
    readings = readings_of(streams=2, steps=20)
    with Subscriber(us, ["andon/#"]) as listener, plant.daemon():
        await_status(listener, b"online")
        with Publisher(us) as publisher:
            for name, ts, values in readings:
                publisher.publish(f"plant/{name}/telemetry", sample(ts, values))
        plant.hear(listener, scores=len(readings))


def test_changes_publishes_flags_only(plant: Plant) -> None:
    model, readings = sample_model("lstm"), readings_of(streams=2, steps=60)
    plant.configure(model, emit="changes")
    _, flags = plant.replay(model, readings)
    with plant.listener() as listener, plant.daemon():
        await_status(listener, b"online")
        plant.send(readings)
        plant.publish([THE_END])
        plant.hear(listener, rejected=1)
    assert plant.heard.scores == {}
    assert sorted(f["id"] for f in plant.heard.flags) == sorted(f["id"] for f in flags)


def test_run_refuses_what_check_names(plant: Plant) -> None:
    truncated = plant.folder / "broken.onnx"
    truncated.write_bytes(sample_model().read_bytes()[:5000])
    path = plant.configure(truncated, pipeline="emitt = 1")
    path.write_text(path.read_text().replace("leave = 0.9", "leave = 9"))
    checked, ran = (
        andon(plant.folder, "check", "gateway.toml"),
        andon(plant.folder, "run", "gateway.toml"),
    )
    assert (checked.returncode, ran.returncode) == (1, 78)
    assert checked.stderr == ran.stderr
    assert "emitt: unknown key, did you mean emit?" in checked.stderr
    assert "must not exceed enter" in checked.stderr
    assert "truncated" in checked.stderr
    assert checked.stderr.count("gateway.toml: ") == 3


def test_what_is_still_to_be_reported_goes_out_at_the_end(plant: Plant) -> None:
    plant.configure(sample_model())
    with plant.listener() as listener:
        with plant.daemon():
            await_status(listener, b"online")
            plant.publish([THE_END])
            plant.hear(listener, rejected=1)  # at once; what follows would wait for its turn
            plant.publish([THE_END] * 4)
            plant.send([("m1", START_MS, [1.0, 2.0, 3.0])])
            plant.hear(listener, scores=1)
        plant.hear(listener, rejected=2)
    assert [report["total"] for report in plant.heard.rejected] == [1, 5]


class Seam:
    """Source and store in one, noting in which order they are asked for what."""

    def __init__(
        self, *batches: list[Message], broken: int = 0, why: str = "no room", ends: bool = False
    ) -> None:
        self.details: list[dict[str, Any]] = []
        self._why = why
        self._ends = ends
        self.calls: list[str] = []
        self.starts: list[Start] = []
        self.aside: list[str] = []
        self.topics: list[str] = []
        self.hold = False
        self._batches = batches
        self._broken = broken
        self._waiting: list[Publication] = []

    def batches(self, stop: StopEvent) -> Iterator[list[Message]]:  # noqa: ARG002 - the seam's
        for batch in self._batches:
            yield [] if self.hold else batch
        while self.hold and not self._ends:
            yield []

    def open(self) -> None:
        self.calls.append("open")

    def commit(self, group: Group) -> None:
        if self._broken:
            self._broken -= 1
            self.calls.append("refuse")
            raise StoreUnavailableError(f"gateway.db: {self._why.format(self._broken)}")
        blocks = sum(map(len, group.admitted.values()))
        abreast = sum(len(part) for parts in group.abreast.values() for part in parts)
        self.calls.append(f"commit {blocks + abreast}")
        self._waiting.extend(group.publications)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        pass

    def acknowledge(self, messages: Sequence[Message]) -> None:
        self.calls.append(f"acknowledge {len(messages)}")

    def outbox(self) -> Iterator[tuple[Publication, int]]:
        while self._waiting:
            yield self._waiting.pop(0), 7

    def tidy(self, now_ns: int) -> None:
        pass

    def close(self) -> None:
        pass

    def delivered(self, tokens: Sequence[int] = ()) -> Any:
        return list(tokens)

    def say(self, word: bytes, details: bytes | None = None) -> None:
        assert details is not None
        self.details.append(json.loads(details))
        assert self.details[-1]["status"] == word.decode()
        self.calls.append(word.decode())

    def publish(
        self,
        topic: str,
        payload: bytes,  # noqa: ARG002 - the seam's
        *,
        retain: bool = False,  # noqa: ARG002
        token: int | None = None,
    ) -> None:
        self.calls.append(f"publish {topic} {token}")


def gateway_at(seam: Seam) -> Gateway:
    model = sample_model()
    config = PipelineConfig(
        model=model, topic="plant/{m}", stream="{m}", publish="andon/{m}", emit="scores"
    )
    return Gateway([Route(config, load_model(model), 1 << 20)], seam, seam, "andon/gw")


def messages_of(names: str) -> list[Message]:
    payload = sample(START_MS, [1.0, 2.0, 3.0])
    return [Message(f"plant/{name}", payload, 1, 1, False, False, 1) for name in names]


def test_nothing_is_acknowledged_before_it_is_safe_nor_published_before() -> None:
    seam = Seam(messages_of("ab"))
    gateway_at(seam).run(StopEvent(), Clock())
    assert seam.calls == [
        *("open", "commit 2", "acknowledge 2", "online"),
        *("publish andon/a 7", "publish andon/b 7"),
    ]


def test_what_is_not_safe_is_not_acknowledged_and_is_tried_again() -> None:
    seam = Seam(messages_of("a"), broken=3)
    gateway_at(seam).run(StopEvent(), Clock())
    assert seam.calls == [
        *("open", "refuse", "degraded", "refuse", "degraded", "refuse", "degraded"),
        *("commit 1", "acknowledge 1", "online", "publish andon/a 7"),
    ]


def test_what_is_not_safe_at_the_end_is_tried_once_more() -> None:
    seam = Seam(messages_of("a"), broken=1, ends=True)
    gateway = gateway_at(seam)
    gateway.run(StopEvent(), Clock())
    assert seam.calls == [
        *("open", "refuse", "degraded"),
        *("commit 1", "acknowledge 1", "publish andon/a 7"),
    ]
    assert gateway.safe


def test_the_details_say_what_it_is_now() -> None:
    """Another cause, and a database that was set aside while all went on."""
    seam = Seam(messages_of("a"), broken=2, why="cause {}")
    gateway_at(seam).run(StopEvent(), Clock())
    causes = [said["cause"] for said in seam.details]
    assert causes == ["gateway.db: cause 1", "gateway.db: cause 0", ""]
    seam = Seam(messages_of("a"), messages_of("b"))

    def lose(group: Group) -> None:
        seam.aside.append(f"gateway.db.damaged-{len(seam.aside)}: is damaged")

    vars(seam)["commit"] = lose
    gateway_at(seam).run(StopEvent(), Clock())
    assert [len(said["set_aside"]) for said in seam.details] == [1, 2]
    assert seam.calls.count("online") == 2


def test_a_topic_that_one_pipeline_cannot_name_still_reaches_the_other() -> None:
    seam = Seam([Message("f//t", sample(START_MS, [1.0, 2.0, 3.0]), 1, 1, False, False, 1)] * 2)
    model = sample_model()
    session = load_model(model)
    routes = [
        Route(
            PipelineConfig(
                model=model, topic="f/{m}/t", stream=stream, publish="o/x{m}", emit="scores"
            ),
            session,
            1 << 20,
        )
        for stream in ("{m}", "s{m}")
    ]
    gateway = Gateway(routes, seam, seam, "andon/gw")
    gateway.run(StopEvent(), Clock())
    assert gateway.scored == 1
    assert gateway.refusals.totals() == {"bad_topic": 2, "duplicate": 1}


def test_a_device_without_a_clock_is_timed_and_freed_of_duplicates() -> None:
    model = sample_model()
    config = PipelineConfig(
        model=model, topic="f/{m}", stream="{m}", publish="o/{m}", emit="scores", ts="arrival"
    )
    route = Route(config, load_model(model), 1 << 20)

    def message(payload: str, *, dup: bool = False) -> Message:
        return Message("f/p", payload.encode(), 1, 1, dup, False, 1)

    one, two = '{"values": [1, 2, 3]}', '[{"values": [1, 2, 3]}, {"values": [4, 5, 6]}]'
    seam = Seam([message(one), message(two), message(one, dup=True), message("{}", dup=True)])
    gateway = Gateway([route], seam, seam, "andon/gw")
    now = START_MS * 1_000_000
    gateway.run(StopEvent(), Clock(lambda: now, lambda: 0))
    assert gateway.refusals.totals() == {"duplicate": 1, "missing_feature": 1}
    assert gateway.scored == 3
    times = route.pipeline.streams.last_ts[0], route.pipeline.streams.steps[0]
    assert times == (now + 2, 3)


class Slow:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = START_MS * 1_000_000

    def __call__(self) -> int:
        return self.now


def test_an_idle_stream_is_forgotten_and_that_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_runtime.daemon, "LOOK_FOR_IDLE_S", 0.0)
    model, passed = sample_model(), Slow()
    config = PipelineConfig(
        model=model, topic="plant/{m}", stream="{m}", publish="andon/{m}", evict_after_h=2
    )
    groups: list[Group] = []

    class Noting(Seam):
        def batches(self, stop: StopEvent) -> Iterator[list[Message]]:
            for batch in super().batches(stop):
                yield batch
                passed.now += 3 * 3600 * 10**9

        def commit(self, group: Group) -> None:
            groups.append(group)

    def at(hours: int) -> bytes:
        return sample(START_MS + hours * 3_600_000, [1.0, 2.0, 3.0])

    early = [Message(f"plant/{name}", at(0), 1, 1, False, False, 1) for name in "ab"]
    seam = Noting(early, [Message("plant/b", at(3), 1, 1, False, False, 1)], [])
    route = Route(config, load_model(model), 1 << 20)
    gateway = Gateway([route], seam, seam, "andon/gw")
    gateway.run(StopEvent(), Clock(lambda: START_MS * 1_000_000, passed))
    (evicting,) = [group for group in groups if group.evicted]
    assert evicting.evicted == {0: ["a"]}
    ((topic, payload),) = evicting.publications
    event = json.loads(payload)
    assert topic == "andon/gw/events"
    assert (event["event"], event["stream"], event["ts"]) == ("evicted", "a", START_MS)
    assert route.pipeline.streams.find("a") is None
    assert route.pipeline.streams.find("b") is not None
