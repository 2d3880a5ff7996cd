"""The simulated pumps: physics, faults, files, and live over a real broker."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from conftest import Broker, Certificates, MakeBroker
from edge_runtime.config import BrokerConfig
from edge_runtime.errors import AndonError, ConfigError
from edge_runtime.faults import AFFECTED, Fault, parse_fault
from edge_runtime.link import Subscriber
from edge_runtime.payload import Decoder
from edge_runtime.pump import FEATURES, SENSORS, Condition, Machine, operate
from edge_runtime.simulate import publish, simulate
from edge_runtime.simulated import Simulated, built, machine_names, messages, simulate_machine

START_NS = 1_767_592_800_000_000_000  # 2026-01-05T06:00:00Z
HOUR = 3600
ONSET = 1200
DECODER = Decoder(SENSORS, 1 << 20)


def run(name: str = "pump-1", rows: int = HOUR, **given: object) -> Simulated:
    arguments = {"start_ns": START_NS, "period_s": 1.0, "seed": 1, **given}
    return simulate_machine(name, rows=rows, **arguments)  # type: ignore[arg-type]


def fault(kind: str, **given: object) -> Fault:
    sensor = {"sensor": "flow_m3h"} if kind == "stuck_sensor" else {}
    arguments = {"machine": "pump-1", "onset_s": float(ONSET), **sensor, **given}
    return Fault(kind=kind, **arguments)  # type: ignore[arg-type]


def column(simulated: Simulated, name: str) -> NDArray[np.float64]:
    return simulated.values[:, SENSORS.index(name)]


def sigma(values: NDArray[np.float64]) -> NDArray[np.float64]:
    noise = np.array([sensor.noise for sensor in FEATURES])
    return noise + np.array([sensor.scatter for sensor in FEATURES]) * values


def settled(machine: Machine, speed: float, **faults: float) -> dict[str, float]:
    """What perfect sensors show after a whole day at one speed."""
    rows = 1440
    levels = {name: np.full(rows, faults.get(name, 0.0)) for name in Condition._fields}
    ambient = np.full(rows, 20.0)
    values = operate(machine, np.full(rows, speed), ambient, Condition(**levels), 60.0)
    return dict(zip(SENSORS, values[-1].tolist(), strict=True))


# Determinism.


def test_same_arguments_give_the_same_bits() -> None:
    one, two = run(), run()
    assert one.values.tobytes() == two.values.tobytes()
    assert one.ts.tobytes() == two.ts.tobytes()


@pytest.mark.parametrize("rows", [1, 2, 997, 3001])
def test_a_short_simulation_is_the_start_of_a_long_one(rows: int) -> None:
    long, short = run(rows=5000), run(rows=rows)
    assert np.array_equal(long.ts[:rows], short.ts)
    assert np.array_equal(long.values[:rows], short.values)


@pytest.mark.parametrize("other", [{"seed": 2}, {"name": "pump-2"}, {"start_ns": 0}])
def test_seed_machine_and_start_each_make_another_run(other: dict[str, object]) -> None:
    different = run(**other)  # type: ignore[arg-type]
    assert all(
        (a != b).mean() > 0.9 for a, b in zip(run().values.T, different.values.T, strict=True)
    )


def test_a_machine_is_the_same_on_another_day_and_a_few_percent_off_its_make() -> None:
    assert built("pump-1", 1) == built("pump-1", 1)
    specimens = [built(name, 1) for name in machine_names(50)]
    heads = np.array([machine.shutoff_bar for machine in specimens]) / Machine(name="x").shutoff_bar
    assert 0.01 < heads.std() < 0.03
    assert np.abs(heads - 1).max() < 0.041


def test_time_is_exact_milliseconds() -> None:
    simulated = run(rows=1001, period_s=0.1)
    assert np.array_equal(simulated.ts, START_NS + np.arange(1001) * 100_000_000)
    assert simulated.ts.dtype == np.int64


# A plausible pump.


@pytest.fixture(scope="module")
def day() -> Simulated:
    return run(rows=24 * HOUR)


@pytest.mark.parametrize(
    ("sensor", "low", "high"),
    [
        ("speed_rpm", 1500, 3000),
        ("current_a", 6, 16),
        ("flow_m3h", 22, 56),
        ("pressure_bar", 0.9, 4.5),
        ("motor_temp_c", 28, 75),
        ("bearing_temp_c", 28, 52),
        ("vibration_mm_s", 0.3, 2),
    ],
)
def test_values_stay_plausible(day: Simulated, sensor: str, low: float, high: float) -> None:
    values = column(day, sensor)
    assert np.isfinite(values).all()
    assert low < values.min() < values.max() < high
    assert np.ptp(values) > 0.3 * (high - low), "it works for its living"


def test_it_is_busier_and_warmer_by_day(day: Simulated) -> None:
    hours = (6 + np.arange(24 * HOUR) / HOUR) % 24
    by_day, by_night = (hours > 9) & (hours < 21), (hours < 6) | (hours > 23)
    for sensor in ("speed_rpm", "motor_temp_c", "bearing_temp_c"):
        values = column(day, sensor)
        assert values[by_day].mean() > values[by_night].mean()


def test_affinity_laws_hold() -> None:
    machine = Machine(name="pump-1")
    slow, fast = settled(machine, 0.6), settled(machine, 0.9)
    assert fast["flow_m3h"] / slow["flow_m3h"] == pytest.approx(1.5)
    assert fast["pressure_bar"] / slow["pressure_bar"] == pytest.approx(1.5**2)


def test_torque_and_vibration_grow_with_the_square_of_the_speed() -> None:
    machine = Machine(name="pump-1")
    half, full = settled(machine, 0.5), settled(machine, 1.0)
    active = [np.sqrt(at["current_a"] ** 2 - machine.magnetising_a**2) for at in (half, full)]
    assert active[1] / active[0] == pytest.approx(4.0)
    assert full["vibration_mm_s"] / half["vibration_mm_s"] == pytest.approx(4.0)


def test_make_runs_at_its_rating() -> None:
    rated = settled(Machine(name="pump-1"), 1.0)
    assert rated["flow_m3h"] == pytest.approx(50.0)
    assert rated["pressure_bar"] == pytest.approx(4.0)
    assert rated["current_a"] == pytest.approx(14.2, rel=0.01)
    assert rated["motor_temp_c"] == pytest.approx(20 + 48, abs=1)
    hydraulic_kw = rated["flow_m3h"] * rated["pressure_bar"] / 36
    active_a = np.sqrt(rated["current_a"] ** 2 - 6.0**2)
    assert 0.6 < hydraulic_kw / (active_a / 1.6) < 0.8, "efficiency of a pump of this size"


def test_current_follows_hydraulic_power(day: Simulated) -> None:
    machine = built("pump-1", 1)
    torque = column(day, "flow_m3h") * column(day, "pressure_bar") / column(day, "speed_rpm")
    active = np.sqrt(column(day, "current_a") ** 2 - machine.magnetising_a**2)
    assert np.corrcoef(torque, active)[0, 1] > 0.99


def test_temperatures_lag_and_forget_slowly(day: Simulated) -> None:
    losses = column(day, "current_a") ** 2
    motor = column(day, "motor_temp_c")
    lags = np.arange(0, 3000, 100)
    agreement = [np.corrcoef(losses[: len(losses) - lag], motor[lag:])[0, 1].item() for lag in lags]
    assert 200 <= lags[int(np.argmax(agreement))] <= 1500
    smooth = motor.reshape(-1, 60).mean(axis=1)
    assert np.abs(np.diff(smooth)).max() < 4, "degrees a minute"


def test_it_starts_thermally_settled() -> None:
    steady = run(rows=30)
    for sensor in ("motor_temp_c", "bearing_temp_c"):
        values = column(steady, sensor)
        assert np.abs(values - values[0]).max() < 1.0
    assert column(steady, "motor_temp_c")[0] > 30


def test_every_start_is_an_ordinary_moment() -> None:
    first = np.array([run(name, 2).values[0] for name in machine_names(200)])
    speeds = first[:, SENSORS.index("speed_rpm")]
    assert 1500 < speeds.min() < speeds.max() < 3000


def test_healthy_sensors_scatter_as_their_table_says() -> None:
    machine = Machine(name="pump-1")
    still = np.full(4 * HOUR, 0.8)
    quiet = Condition(*(np.zeros(4 * HOUR) for _ in range(3)))
    true = operate(machine, still, np.full(4 * HOUR, 20.0), quiet, 1.0)
    assert np.ptp(true, axis=0).max() < 1e-9
    values = run(rows=4 * HOUR).values
    # A second difference removes what the pump does and leaves the noise, sqrt(6) times as large.
    scatter = np.diff(values, n=2, axis=0).std(axis=0) / np.sqrt(6)
    assert scatter == pytest.approx(sigma(values).mean(axis=0), rel=0.1)


# Faults.


@pytest.mark.parametrize("kind", AFFECTED)
@pytest.mark.parametrize("severity", [0.5, 1.0])
def test_a_fault_moves_its_sensors_and_no_other(kind: str, severity: float) -> None:
    healthy, ill = run(), run(faults=[fault(kind, severity=severity)])
    assert np.array_equal(healthy.values[:ONSET], ill.values[:ONSET])
    moved = (healthy.values[ONSET:] != ill.values[ONSET:]).mean(axis=0)
    affected = fault(kind).affected
    assert {name for name, share in zip(SENSORS, moved, strict=True) if share} == set(affected)
    assert moved[SENSORS.index(affected[0])] > 0.9


@pytest.mark.parametrize(
    ("kind", "sensor", "direction"),
    [
        ("bearing_wear", "vibration_mm_s", 1),
        ("bearing_wear", "bearing_temp_c", 1),
        ("bearing_wear", "current_a", 1),
        ("closing_valve", "flow_m3h", -1),
        ("closing_valve", "pressure_bar", 1),
        ("closing_valve", "current_a", -1),
        ("closing_valve", "vibration_mm_s", 1),
        ("leak", "pressure_bar", -1),
        ("leak", "flow_m3h", 1),
        ("leak", "current_a", 1),
        ("leak", "motor_temp_c", 1),
    ],
)
def test_severe_faults_are_clear_and_point_the_right_way(
    kind: str, sensor: str, direction: int
) -> None:
    healthy, ill = run(), run(faults=[fault(kind, ramp_s=300.0)])
    at = SENSORS.index(sensor)
    late = slice(ONSET + 900, None)
    shift = (ill.values - healthy.values)[late, at] / sigma(healthy.values)[late, at]
    assert direction * shift.mean() > 4


@pytest.mark.parametrize("kind", ["bearing_wear", "closing_valve", "leak"])
def test_slight_faults_are_faint(kind: str) -> None:
    healthy, ill = run(), run(faults=[fault(kind, severity=0.1)])
    leading = SENSORS.index(fault(kind).affected[0])
    shift = np.abs(ill.values - healthy.values)[ONSET:, leading].mean()
    assert 0.3 < shift / sigma(healthy.values)[ONSET:, leading].mean() < 3


def test_a_ramp_grows_from_nothing_to_the_severity() -> None:
    healthy = run()
    step, ramp = (run(faults=[fault("leak", ramp_s=seconds)]) for seconds in (0.0, 600.0))
    flow = column(ramp, "flow_m3h") - column(healthy, "flow_m3h")
    assert abs(flow[ONSET]) < 0.05
    assert 0 < flow[ONSET + 300] < flow[ONSET + 600]
    late = slice(ONSET + 600, None)
    assert np.array_equal(column(step, "flow_m3h")[late], column(ramp, "flow_m3h")[late])


def test_a_dead_sensor_repeats_its_last_value() -> None:
    ill = column(run(faults=[fault("stuck_sensor")]), "flow_m3h")
    assert (ill[ONSET:] == ill[ONSET - 1]).all()
    assert ill[ONSET - 1] == column(run(), "flow_m3h")[ONSET - 1]


def test_a_blocked_sensor_keeps_some_of_its_noise() -> None:
    ill = column(run(faults=[fault("stuck_sensor", severity=0.5)]), "flow_m3h")
    assert ill[ONSET:].mean() == pytest.approx(ill[ONSET - 1], abs=0.05)
    assert 0.15 < ill[ONSET:].std() < 0.35


def test_a_sensor_that_was_always_stuck_shows_its_first_value() -> None:
    ill = column(run(faults=[fault("stuck_sensor", onset_s=0.0)]), "flow_m3h")
    assert (ill == ill[0]).all()


def test_faults_add_up_and_other_machines_stay_healthy() -> None:
    faults = [fault("leak"), fault("bearing_wear", onset_s=2400.0, machine="pump-2")]
    assert np.array_equal(run("pump-3", faults=faults).values, run("pump-3").values)
    both = run(faults=[fault("leak"), fault("stuck_sensor", sensor="speed_rpm")])
    leak = run(faults=[fault("leak")])
    assert np.array_equal(both.values[:, 1:], leak.values[:, 1:])
    assert np.unique(both.values[ONSET:, 0]).size == 1


def test_the_label_begins_with_the_first_fault() -> None:
    label = run(faults=[fault("leak", ramp_s=60.0), fault("bearing_wear", onset_s=100.0)]).label
    assert label.dtype == np.int8
    assert label.tolist() == [0] * 100 + [1] * (HOUR - 100)
    assert run(rows=3, faults=[fault("leak", onset_s=1.5)]).label.tolist() == [0, 0, 1]
    assert not run().label.any()


# What may be asked for.


def test_a_fault_reads_from_one_line() -> None:
    assert parse_fault("pump-2:bearing_wear:onset=3600,severity=0.8,ramp=600") == Fault(
        machine="pump-2", kind="bearing_wear", onset_s=3600.0, severity=0.8, ramp_s=600.0
    )
    assert parse_fault("p:stuck_sensor:onset=60,sensor=flow_m3h").affected == ("flow_m3h",)
    assert parse_fault("p:leak:onset=0").severity == 1.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("pump-1:leek:onset=1", "did you mean leak?"),
        ("pump-1:leak:onset=1,severty=1", "did you mean severity?"),
        ("pump-1:stuck_sensor:onset=1,sensor=flow_m3", "did you mean flow_m3h?"),
        ("pump-1:stuck_sensor:onset=1", "sensor: wanted one of speed_rpm"),
        ("pump-1:stuck_sensor:onset=1,sensor=flow_m3h,ramp=5", "stuck at once"),
        ("pump-1:leak:onset=1,sensor=flow_m3h", "only stuck_sensor has one"),
        ("pump-1:leak:severity=1", "onset: wanted seconds"),
        ("pump-1:leak:", "onset: wanted seconds"),
        ("pump-1:leak:onset=soon", 'onset: wanted a number, got "soon"'),
        ("pump-1:leak:onset=nan", "onset_s"),
        ("pump-1:leak:onset=-1", "onset_s: wanted 0 or more"),
        ("pump-1:leak:onset=1,onset=2", "wanted once"),
        ("pump-1:leak:onset=1,severity=1.5", "severity: wanted 0 to 1"),
        ("pump-1:leak:onset=1,severity=0", "wanted more than 0"),
        ("pump-1:leak", "wanted MACHINE:FAULT:onset=SECONDS"),
        ("pump/1:leak:onset=1", "letters, digits"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_fault(text)
    assert complaint in str(refused.value)
    assert text in str(refused.value)


def test_all_that_is_wrong_with_a_fault_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_fault("pump-1:leek:onset=soon,severty=1")
    assert len(refused.value.problems) == 3


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"rows": 0}, "wanted 1 to 3,000,000 samples"),
        ({"rows": 10**9}, "wanted 1 to 3,000,000 samples"),
        ({"start_ns": -1}, "start: wanted"),
        ({"start_ns": 1}, "start: wanted whole milliseconds"),
        ({"start_ns": 2**63 - 2**63 % 10**9}, "before the year 2262"),
        ({"period_s": 0.0005}, "period: wanted whole milliseconds"),
        ({"period_s": 0.0015}, "period: wanted whole milliseconds"),
        ({"period_s": float("nan")}, "period: wanted"),
        ({"seed": -1}, "seed: wanted"),
        ({"name": "a b"}, "letters, digits"),
    ],
)
def test_a_run_that_cannot_be_is_refused(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        run(**given)  # type: ignore[arg-type]


# Files.


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(simulate, arguments)


def ok(*arguments: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)


def refused(*arguments: str) -> str:
    result = invoke(*arguments)
    assert isinstance(result.exception, AndonError), (result.output, result.exception)
    return str(result.exception)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def numbers(rows: list[dict[str, str]]) -> NDArray[np.float64]:
    return np.array([[float(row[name]) for name in SENSORS] for row in rows])


def test_a_file_reads_back_to_the_same_numbers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.csv"
    ok("-o", str(path), "--hours", "1.5", "--machines", "2", "--label",
       "--fault", f"pump-2:leak:onset={ONSET}")  # fmt: skip
    rows = rows_of(path)
    assert list(rows[0]) == ["time", "machine", *SENSORS, "anomaly"]
    assert rows[0]["time"] == "2026-01-05T06:00:00.000Z"
    assert rows[5399]["time"] == "2026-01-05T07:29:59.000Z"
    assert [row["machine"] for row in rows] == ["pump-1"] * 5400 + ["pump-2"] * 5400
    healthy, ill = run(rows=5400), run("pump-2", 5400, faults=[fault("leak", machine="pump-2")])
    assert np.array_equal(numbers(rows), np.concatenate([healthy.values, ill.values]))
    assert [int(row["anomaly"]) for row in rows] == [*healthy.label, *ill.label]


@pytest.mark.parametrize("existing", [True, False], ids=["existing", "slash"])
def test_a_folder_gets_one_file_a_machine(tmp_path: Path, existing: bool) -> None:
    folder = tmp_path / "out"
    if existing:
        folder.mkdir()
    ok("-o", str(folder) if existing else f"{folder}/", "--hours", "0.1", "--machines", "2",
       "--period-s", "0.5", "--start", "2026-03-01T00:00:00.25+01:00", "--seed", "7")  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["pump-1.csv", "pump-2.csv"]
    rows = rows_of(folder / "pump-2.csv")
    assert list(rows[0]) == ["time", *SENSORS]
    assert [row["time"][10:] for row in rows[:2]] == ["T23:00:00.250Z", "T23:00:00.750Z"]
    assert len(rows) == 720


def test_the_same_command_writes_the_same_file(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        ok("-o", str(tmp_path / name), "--hours", "0.1")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "wanted either -o FILE or --broker URL, got neither"),
        (("-o", "x.csv", "--broker", "mqtt://h"), "got both"),
        (("--broker", "mqtt://h", "--label"), "--label is for files"),
        (("--broker", "mqtt://h", "--topic", "a/{mashine}"), "did you mean machine?"),
        (("--broker", "mqtt://h", "--topic", "a", "--machines", "2"), "to tell 2 apart"),
        (("--broker", "mqtt://h", "--topic", "a/#"), "no topic may contain"),
        (("--broker", "http://h",), "wanted mqtt://host:port"),
        (("-o", "x.csv", "--fault", "pump-2:leak:onset=1"), "--machines 1 gives pump-1"),
        (("-o", "x.csv", "--hours", "1", "--fault", "pump-1:leak:onset=3600"), "before its onset"),
        (("-o", "/dev/null/x.csv"), "/dev/null/x.csv: cannot be written"),
        (("-o", "x.csv", "--hours", "1e6"), "wanted 1 to 3,000,000 samples"),
        (("-o", "x.csv", "--start", "yesterday"), "--start: wanted ISO 8601"),
        (("-o", "x.csv", "--period-s", "0.0015"), "period: wanted whole"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_is_refused(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert complaint in refused(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [("--hours", "nan"), ("--hours", "0"), ("--speed", "-1"), ("--speed", "fast"),
     ("--period-s", "inf"), ("--period-s", "0.0005"), ("--hours", "1e300"),
     ("--machines", "0"), ("--seed", "-1")],
)  # fmt: skip
def test_a_value_out_of_range_is_a_usage_error(arguments: tuple[str, str]) -> None:
    result = invoke("-o", "never.csv", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output


# Live.


class Collector:
    """An outlet that keeps what it gets, and asks for the end after ``limit`` messages."""

    def __init__(self, stop: threading.Event, limit: int) -> None:
        self.topics: list[str] = []
        self._stop = stop
        self._limit = limit

    def publish(self, topic: str, payload: bytes) -> None:
        assert payload.startswith(b'{"ts":')
        self.topics.append(topic)
        if len(self.topics) == self._limit:
            self._stop.set()


def test_messages_of_all_machines_come_in_the_order_of_time() -> None:
    parts = [(name, run(name, 5000)) for name in machine_names(2)]
    sent = list(messages(parts, "f/{machine}/t"))
    assert [message.topic for message in sent[:3]] == ["f/pump-1/t", "f/pump-2/t", "f/pump-1/t"]
    assert [message.due_s for message in sent[::2]] == list(range(5000))
    second = [DECODER.decode(message.payload) for message in sent[1::2]]
    assert np.array_equal(np.concatenate([samples.ts for samples in second]), parts[1][1].ts)
    # The decoder gives float32, as the model takes it.
    values = np.concatenate([samples.values for samples in second])
    assert np.array_equal(values, parts[1][1].values.astype(np.float32))


@pytest.mark.parametrize("speed", [0.0, 1e6])
def test_publishing_ends_when_asked(speed: float) -> None:
    stop = threading.Event()
    outlet = Collector(stop, 3)
    told: list[int] = []
    source = messages([("pump-1", run(rows=9))], "t")
    assert publish(outlet, source, speed=speed, stop=stop, progress=told.append) == 3
    assert len(outlet.topics) == sum(told) == 3


def test_messages_wait_until_they_are_due() -> None:
    stop = threading.Event()
    outlet = Collector(stop, 99)
    source = messages([("pump-1", run(rows=3))], "t")
    begin = time.monotonic()
    assert publish(outlet, source, speed=50.0, stop=stop, progress=lambda _: None) == 3
    assert time.monotonic() - begin >= 2 / 50


def receive(url: str) -> Subscriber:
    return Subscriber(BrokerConfig(url=url, client_id="listener"), ["factory/#"])


def test_live_samples_are_those_of_the_file(broker: Broker) -> None:
    rows = 90
    with receive(broker.url) as subscriber:
        result = invoke(
            "--broker", broker.url, "--hours", "0.025", "--machines", "2", "--speed", "max",
            "--start", "2026-01-05T06:00:00Z", "--fault", "pump-2:leak:onset=30",
        )  # fmt: skip
        assert result.exit_code == 0, (result.output, result.exception)
        assert "sent 180 messages; the broker acknowledged all" in result.output
        inbox = subscriber.messages(timeout_s=10.0)
        received = [next(inbox) for _ in range(2 * rows)]
    leak = fault("leak", machine="pump-2", onset_s=30.0)
    for name in machine_names(2):
        payloads = [
            payload for topic, payload, _ in received if topic == f"factory/line1/{name}/telemetry"
        ]
        samples = [DECODER.decode(payload) for payload in payloads]
        expected = run(name, rows, faults=[leak])
        assert np.array_equal(np.concatenate([s.ts for s in samples]), expected.ts)
        values = [list(json.loads(payload)["values"].values()) for payload in payloads]
        assert np.array_equal(np.array(values), expected.values)


@pytest.mark.parametrize("speed", ["20", "max"])
def test_no_sample_lies_in_the_future(broker: Broker, speed: str) -> None:
    with receive(broker.url) as subscriber:
        before = time.time_ns() // 1_000_000
        ok("--broker", broker.url, "--hours", "0.001", "--period-s", "0.9", "--speed", speed)
        after = time.time_ns() // 1_000_000
        inbox = subscriber.messages(timeout_s=10.0)
        stamps = [json.loads(next(inbox)[1])["ts"] for _ in range(4)]
    assert before - 3600 <= stamps[0]
    assert max(stamps) <= after


def test_real_time_starts_now(broker: Broker) -> None:
    with receive(broker.url) as subscriber:
        before = time.time_ns() // 1_000_000
        ok("--broker", broker.url, "--hours", "0.0001", "--period-s", "0.1")
        first = json.loads(next(subscriber.messages(timeout_s=10.0))[1])["ts"]
    assert before <= first <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(broker: Broker, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "edge_runtime", "simulate", "--broker", broker.url]
    with (
        receive(broker.url) as subscriber,
        subprocess.Popen([*command, "--hours", "1"], stderr=subprocess.PIPE, text=True) as process,
    ):
        inbox = subscriber.messages(timeout_s=20.0)
        next(inbox)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        said = re.search(r"sent (\d+) messages of 3,600, then stopped as asked", errors)
        assert said, errors
        for _ in range(int(said[1]) - 1):
            next(inbox)
    assert "the broker acknowledged all sent" in errors


def test_password_comes_from_a_file_or_the_environment(
    make_broker: MakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "users"
    users.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(users), "pump", "secret"], check=True)
    broker = make_broker(f"password_file {users}", "allow_anonymous false")
    broker.start()
    live = ["--broker", broker.url, "--hours", "0.001", "--speed", "max"]
    assert "ANDON_MQTT_USER" in refused(*live)
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    ok(*live, "--user", "pump", "--password-file", str(secret))
    monkeypatch.setenv("ANDON_MQTT_USER", "pump")
    monkeypatch.setenv("ANDON_MQTT_PASSWORD", "secret")
    ok(*live)
    assert os.environ["ANDON_MQTT_PASSWORD"] not in " ".join(live)


def test_live_over_mutual_tls(tls_broker: Broker, certificates: Certificates) -> None:
    live = ["--broker", f"mqtts://127.0.0.1:{tls_broker.port}", "--hours", "0.001"]
    live += ["--speed", "max", "--ca", str(certificates.ca)]
    ok(*live, "--cert", str(certificates.client), "--key", str(certificates.client_key))
    refused("--broker", live[1], "--ca", str(certificates.other_ca), "--hours", "0.001")


def test_a_broker_that_is_not_there_is_named(make_broker: MakeBroker) -> None:
    nobody = make_broker()  # never started
    assert str(nobody.port) in refused("--broker", nobody.url, "--hours", "0.001")
