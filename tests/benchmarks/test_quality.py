"""What `make quality` reads, counts and writes, on small data made here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.quality import __main__ as command
from benchmarks.quality import nab, picture, pumps, rates, recordings, skab, tep
from benchmarks.quality.cases import Case, Figures, Result, attempt, cases, run
from benchmarks.quality.detectors import DETECTORS, Kind, Promise, Trained, train_at
from benchmarks.quality.markdown import failures, percent, put, short, spread, table
from benchmarks.quality.verdict import poisson_interval, verdict
from edge_runtime.config import AlarmConfig
from edge_runtime.errors import RecordedFileError, TrainingError
from edge_runtime.faults import AFFECTED, Fault
from edge_runtime.pump import SENSORS
from edge_runtime.recorded import RecordedStream
from edge_runtime.results import OK, WARMING_UP
from edge_runtime.session import load_model
from edge_runtime.simulated import DAY_S
from evaluate.judge import Series
from evaluate.scenes import whole_scenes
from evaluate.settings import Settings
from train.config import DataConfig, Files

SMALL = Kind({"detector": "forecast", "cell": "gru", "hidden": 4, "epochs": 2})
HOUR = 1 / 24


def a_case(part: str, data: Path, *, yardsticks: bool = False) -> Case:
    return Case(part, "small", SMALL, 0, data, yardsticks)


def a_stream(values: Any, name: str = "m") -> RecordedStream:
    values = np.asarray(values, np.float64)
    columns = [f"s{number}" for number in range(values.shape[1])]
    return recordings.in_memory(name, values, columns, period_s=1.0)


# Tables.


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "-"),
        ([None], "-"),
        ([0.5], "50.0 %"),
        ([0.5, None, 0.5], "50.0 %"),
        ([0.25, 0.5, 0.75], "50.0 % (25.0 % to 75.0 %)"),
    ],
)
def test_seeds_are_a_mean_and_its_range(values: list[float | None], text: str) -> None:
    assert spread(values, percent) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0318, "0.0318"), (12.52, "12.5"), (1234.5, "1,234")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_a_table_goes_between_its_marks() -> None:
    document = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb <!-- y: begin --><!-- y: end -->"
    shown = put(document, "x", "new")
    assert shown == document.replace("old", "new")
    assert put(shown, "x", "new") == shown
    with pytest.raises(SystemExit, match="z: begin"):
        put(document, "z", "new")


def test_what_cannot_be_had_is_said_once() -> None:
    results = [
        Result("a", 0, None, "too short"),
        Result("a", 1, None, "too short"),
        Result("b", 0, {}),
    ]
    assert failures(results) == "\n\nNot measured: a: too short"
    assert failures(results[2:]) == ""


# Promises.


@pytest.mark.parametrize(
    ("count", "low", "high"), [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (10, 4.7954, 18.3904)]
)
def test_the_interval_of_a_count_is_that_of_the_tables(count: int, low: float, high: float) -> None:
    assert poisson_interval(count, 1.0) == pytest.approx((low, high), abs=1e-4)
    assert poisson_interval(count, 4.0) == pytest.approx((low / 4, high / 4), abs=1e-4)


@pytest.mark.parametrize(
    ("count", "days", "least", "said"),
    [
        (10, 10, 0.1, "yes"),
        (20, 10, 0.1, "yes"),
        (5, 10, 0.1, "yes"),
        (200, 100, 9.0, "yes"),
        (300, 100, 0.1, "no"),
        (300, 100, 9.0, "said so"),
        (0, 0.03, 9.0, "said so"),
        (0, 0.03, 0.1, "too few to tell"),
        (3, 1, 0.1, "too few to tell"),
    ],
)
def test_a_promise_is_kept_within_a_factor_of_two(
    count: float, days: float, least: float, said: str
) -> None:
    assert verdict([Promise(1.0, least, None)], count, days) == said


def test_one_seed_that_promised_is_bound_by_it() -> None:
    promises = [Promise(1.0, 9.0, None), Promise(1.0, 0.5, None)]
    assert verdict(promises, 300, 100) == "no"


def test_what_the_training_said_is_read() -> None:
    said = {
        "false_alarms_per_day": 1.0,
        "supported_false_alarms_per_day": 1.0,
        "interval": {"probability": 0.9, "per_day": [0.5, 2.0]},
    }
    assert Promise.of(said) == Promise(1.0, 1.0, (0.5, 2.0))
    assert Promise.of(said).supported
    assert not Promise(1.0, 1.1, None).supported


# Detectors and cases.


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_can_be_configured(name: str) -> None:
    data = DataConfig(ignore=("x",), period_ms=5.0)
    config = DETECTORS[name].config(data, seed=7)
    assert (config.training.seed, config.data) == (7, data)


def test_what_no_seed_changes_is_measured_once() -> None:
    kinds = {"a": SMALL, "b": Kind(seeded=False)}
    found = list(cases("tep", kinds, 3, Path("data")))
    assert [(c.detector, c.seed) for c in found] == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    assert [c.yardsticks for c in found] == [True, False, False, False]


def measure_well(case: Case, scratch: Path) -> Figures:
    (scratch / "file").touch()
    return {"seed": case.seed}


def measure_too_short(case: Case, scratch: Path) -> Figures:
    raise TrainingError("too little data")


def measure_badly(case: Case, scratch: Path) -> Figures:
    raise ZeroDivisionError


def test_what_the_data_do_not_allow_is_a_finding_and_a_defect_is_none(tmp_path: Path) -> None:
    case = a_case("tep", tmp_path)
    assert attempt(case, measure_well) == Result("small", 0, {"seed": 0})
    assert attempt(case, measure_too_short) == Result("small", 0, None, "too little data")
    with pytest.raises(RuntimeError, match="tep, small, seed 0: ZeroDivisionError"):
        attempt(case, measure_badly)


def test_two_processes_give_the_results_in_order(tmp_path: Path) -> None:
    todo = [*cases("tep", {"small": SMALL}, 3, tmp_path), *cases("nab", {"b": SMALL}, 1, tmp_path)]
    told: list[Case] = []
    found = run(todo, {"tep": measure_well, "nab": measure_too_short}, told.append)
    assert found == {
        "tep": [Result("small", seed, {"seed": seed}) for seed in range(3)],
        "nab": [Result("b", 0, None, "too little data")],
    }
    assert sorted(map(todo.index, told)) == [0, 1, 2, 3]


# A small detector of pumps, at two rates of false alarms.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Trained]:
    folder = tmp_path_factory.mktemp("pumps")
    streams = [rates.healthy(name, recordings.EPOCH_NS, 1.0, HOUR) for name in ("pump-1", "pump-2")]
    files = Files(tuple(recordings.write_stream(folder, stream) for stream in streams))
    config = SMALL.config(DataConfig(period_ms=1000.0), seed=0)
    return list(train_at(config, [files], folder / "run", [4000.0, 100.0]))


def test_a_rate_changes_the_alarm_level_alone(trained: list[Trained]) -> None:
    often, seldom = (load_model(each.model) for each in trained)
    x = np.random.default_rng(0).normal(2000, 100, (5, 1, len(SENSORS))).astype(np.float32)
    scores = [
        session.run(x, session.contract.initial_state(1))[0].score for session in (often, seldom)
    ]
    ratio = scores[0] / scores[1]
    assert ratio[-1] > 1
    assert ratio == pytest.approx(np.full_like(ratio, ratio[0, 0]), rel=1e-5)
    assert [each.promise.asked for each in trained] == [4000.0, 100.0]


def test_the_lamp_is_counted_as_a_gateway_lights_it(trained: list[Trained]) -> None:
    stream = rates.healthy("pump-3", recordings.EPOCH_NS, 1.0, HOUR)
    calm = recordings.labelled(stream, np.zeros(len(stream.ts), np.bool_))
    rough = calm.values.copy()
    rough[2000:2010, SENSORS.index("flow_m3h")] += 30
    rough[3000, SENSORS.index("flow_m3h")] += 30  # one sample, which the hold lets pass
    seldom = trained[1].model
    lamp = recordings.count_lamp(seldom, [calm, replace(calm, name="rough", values=rough)])
    assert lamp.episodes[1] == lamp.episodes[0] + 1
    assert lamp.days == pytest.approx((HOUR, HOUR), rel=0.1)
    assert lamp.per_day == pytest.approx(sum(lamp.episodes) / sum(lamp.days))
    late = recordings.count_lamp(seldom, [replace(calm, values=rough)], lead=2500)
    assert late.days[0] == pytest.approx(HOUR * 1100 / 3600)
    assert late.episodes[0] <= lamp.episodes[0]


def test_a_plain_fault_is_seen_after_its_onset(trained: list[Trained]) -> None:
    fault = Fault(machine="pump-3", kind="bearing_wear", onset_s=1800.0)
    well = Fault(machine="pump-3", kind="bearing_wear", onset_s=1800.0, severity=1e-9)
    plain, faint = pumps.look(
        load_model(trained[1].model), list(map(pumps.simulate, (fault, well)))
    )
    assert plain.delay_s is not None
    assert 0 <= plain.delay_s < 60
    assert plain.right
    assert plain.top in AFFECTED["bearing_wear"]
    assert plain.chance == len(AFFECTED["bearing_wear"]) / len(SENSORS)
    assert plain.hours == pytest.approx(0.5, rel=0.2)
    assert (plain.false, plain.hours) == (faint.false, faint.hours)
    assert (faint.right, faint.top) == (False, "") or faint.delay_s is not None


# Simulated faults.


def test_every_kind_comes_with_every_severity_on_other_machines() -> None:
    faults = pumps.all_faults()
    assert {(f.kind, f.severity) for f in faults} == {
        (kind, severity) for kind in AFFECTED for severity in pumps.SEVERITIES
    }
    assert {f.sensor for f in faults if f.kind == pumps.STUCK} == set(SENSORS)
    names = {f.machine for f in faults}
    assert not names & {f"pump-{number}" for number in range(1, pumps.TRAINED + 1)}
    by_machine = {name: {(f.kind, f.onset_s, f.ramp_s) for f in faults if f.machine == name}
                  for name in names}  # fmt: skip
    assert all(len(same) == 1 for same in by_machine.values())
    assert {f.ramp_s for f in faults if f.kind == "leak"} == set(pumps.RAMPS_S)


@pytest.mark.parametrize("kind", AFFECTED)
def test_what_a_fault_touches_is_what_differs_without_it(kind: str) -> None:
    sensor = "pressure_bar" if kind == pumps.STUCK else ""
    fault = Fault(machine="pump-9", kind=kind, onset_s=1800.0, sensor=sensor)
    run_ = pumps.simulate(fault)
    onset = int(np.searchsorted(run_.readings.ts, run_.onset_ns))
    assert onset == 1800
    assert not run_.touched[:onset].any()
    touched = {name for name, at in zip(SENSORS, run_.touched[-1], strict=True) if at}
    assert touched == set(fault.affected)
    assert len(run_.readings.ts) == 1800 + pumps.LASTS_S


def seen(kind: str, severity: float, delay_s: float | None, **more: Any) -> pumps.Seen:
    usual = {"lit_before": False, "top": "", "right": False, "chance": 0.0, "false": 0}
    return pumps.Seen(
        **{**usual, "kind": kind, "severity": severity, "ramp_s": 0.0, "delay_s": delay_s,
           "hours": 1.0, **more}
    )  # fmt: skip


SEEN = [
    seen("leak", 0.05, None, false=1),
    seen("leak", 0.05, 400.0, right=False, chance=0.5),
    seen("leak", 1.0, 100.0, right=True, chance=0.7, false=1),
    seen("leak", 1.0, 300.0, right=False, chance=0.5, false=0),
    seen("stuck_sensor", 0.7, 50.0, right=True, chance=0.1),
]


def test_figures_of_runs() -> None:
    plain = SEEN[2:4]
    assert (pumps.detected(SEEN), pumps.detected([])) == (0.8, None)
    assert (pumps.median_delay_s(plain), pumps.median_delay_s(SEEN[:1])) == (200.0, None)
    assert (pumps.top_right(plain), pumps.top_right(SEEN[:1])) == (0.5, None)
    assert pumps.top_chance(plain) == pytest.approx(0.6)
    assert pumps.false_per_day(SEEN) == 24 / 2  # of the first severity alone


def a_promise() -> dict[str, Any]:
    return {"asked": 1.0, "least": 5.0, "interval": None}


def test_the_tables_and_the_picture_of_faults(tmp_path: Path) -> None:
    figures = {"promise": a_promise(), "columns": [], "runs": [list(each) for each in SEEN]}
    result = Result(*json.loads(json.dumps(Result("mine", 0, figures))))
    shown = pumps.tables([result])
    assert "| mine | 50.0 % | - | - | - | - | 100.0 % | 12 | 1 | 5 |" in shown["pumps"]
    assert "| mine | 400 | - | - | - | - | 200 |" in shown["pumps-delay"]
    assert shown["pumps-kinds"].splitlines()[-1].endswith("| 100.0 % | 200 | 100.0 % | 50 |")
    mine, chance = shown["pumps-top"].splitlines()[-2:]
    assert mine == "| mine | - | - | 50.0 % | 100.0 % | 66.7 % |"
    assert chance == "| a sensor at random | - | - | 60.0 % | 10.0 % | 43.3 % |"
    drawn = picture.draw(tmp_path / "q.png", [result])
    assert drawn.read_bytes().startswith(b"\x89PNG")


# Rates.


def test_the_machines_that_are_judged_have_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "DAYS", 0.1)
    others = rates._others.__wrapped__()
    assert {stream.name for stream in others} == {f"pump-{n}" for n in range(9, 39)}
    assert {int(stream.ts[0]) for stream in others} == {
        recordings.EPOCH_NS + round(0.1 * DAY_S) * 1_000_000_000
    }
    assert {len(stream.ts) for stream in others} == {round(0.1 * DAY_S / rates.PERIOD_S)}


def test_the_table_of_rates() -> None:
    def found(asked: float, episodes: list[int], interval: Any) -> dict[str, Any]:
        return {
            "promise": {"asked": asked, "least": 0.5, "interval": interval},
            "episodes": episodes,
            "days": 900.0,
        }

    results = [
        Result("mine", seed, {
            "1 a day": found(1.0, [30] * 29 + [930], [0.5, 2.0 + seed]),
            "1 a week": found(1 / 7, [15] * 30, None),
        })
        for seed in range(2)
    ]  # fmt: skip
    day, week = rates.tables(results)["rates"].splitlines()[2:]
    assert day == "| 1 a day | mine | 0.5 | 0.5 to 3 | 2 | 2 | yes | yes | 1 of 30 |"
    assert week == "| 1 a week | mine | 0.5 | - | 0.5 | 3.5 | no | said so | 30 of 30 |"


# SKAB.


def a_rig(folder: Path, runs: int) -> Path:
    """As SKAB's files are: semicolons, a time, sensors and two labels; row 500 on is wrong."""
    (folder / skab.FOLDER).mkdir(parents=True)
    for number in range(runs):
        rng = np.random.default_rng(number)
        lines = ["datetime;a;b;anomaly;changepoint"]
        for row, (a, b) in enumerate(rng.normal(size=(700, 2))):
            wrong = 500 <= row < 650
            shift = 8 * wrong
            time = f"2020-03-09 {10 + row // 3600}:{row // 60 % 60:02}:{row % 60:02}"
            lines.append(f"{time};{a + shift};{a + b};{float(wrong)};{float(row == 500)}")
        (folder / skab.FOLDER / f"{number}.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_rig_is_measured_by_its_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skab, "SETTINGS", replace(skab.SETTINGS, repeats=1))
    data = a_rig(tmp_path / "data", runs=2)
    figures = skab.measure(a_case("skab", data), tmp_path)
    assert figures["judged"]["events"] == 2
    assert figures["judged"]["found"] == 2
    assert figures["judged"]["vus_pr"] > 0.9
    assert figures["compared"] > 700
    assert figures["normal"]["days"] == pytest.approx(2 * 100 / 86_400)
    assert figures["yardsticks"] == {}


def test_until_the_onset_is_what_comes_before_the_first_label() -> None:
    stream = a_stream([[1.0], [2.0], [3.0], [4.0]])
    label = np.array([False, False, True, False])
    cut = skab.until_onset(recordings.labelled(stream, label))
    assert cut.column("s0").tolist() == [1.0, 2.0]
    assert len(cut.ts) == 2
    none = recordings.labelled(stream, np.zeros(4, np.bool_))
    assert len(skab.until_onset(none).ts) == 4


def test_the_table_of_the_rig() -> None:
    def judged(vus: float) -> dict[str, Any]:
        return {
            "vus_pr": vus, "found": 15, "events": 16, "median_delay_s": 20.0, "f1": 0.8,
            "far": 0.1, "mar": 0.2, "before_per_hour": 0.0, "after_per_hour": 1.0,
            "elsewhere_per_hour": None,
        }  # fmt: skip

    def figures(vus: float) -> dict[str, Any]:
        return {
            "judged": judged(vus),
            "yardsticks": {"random": judged(0.5)},
            "normal": {"episodes": 1, "days": 0.5},
            "promise": a_promise(),
        }

    results = [Result("mine", 0, figures(0.8)), Result("mine", 1, figures(0.9))]
    shown = skab.tables([*results, Result("other", 0, None, "too short")])
    mine, random = shown["skab"].splitlines()[2:4]
    assert mine.startswith("| mine | 0.850 (0.800 to 0.900) | 15 of 16 | 20 | 0.800 | 10.0 %")
    assert random.startswith("| random | 0.500 |")
    assert shown["skab"].endswith("Not measured: other: too short")
    assert "| mine | 1 | 5 | 12 | 1 | 2 | 0.0506 to 11.1 | yes |" in shown["skab-normal"]


# TEP.


def a_plant(folder: Path) -> Path:
    """As TEP's files are; fault 1 shifts all variables, fault 3 none."""
    (folder / tep.FOLDER).mkdir(parents=True)
    variables = len(tep.VARIABLES)
    normal = np.random.default_rng(0).normal(size=(500, variables))
    np.savetxt(folder / tep.FOLDER / "d00.dat", normal.T)
    for fault in (0, 1, 3):
        rows = np.random.default_rng(fault + 1).normal(size=(300, variables))
        rows[tep.ONSET :] += 8.0 * (fault == 1)
        np.savetxt(folder / tep.FOLDER / f"d{fault:02}_te.dat", rows)
    return folder


def test_a_plant_is_read_either_way_round(tmp_path: Path) -> None:
    folder = a_plant(tmp_path) / tep.FOLDER
    history = tep.read_plant(folder / "d00.dat", transposed=True)
    assert history.values.shape == (500, 52)
    assert history.columns[0::51] == ("xmeas_1", "xmv_11")
    assert np.unique(np.diff(history.ts)).tolist() == [180 * 1_000_000_000]
    with pytest.raises(RecordedFileError, match="wanted 52 variables, got 500"):
        tep.read_plant(folder / "d00.dat")
    with pytest.raises(RecordedFileError, match="not-there"):
        tep.read_plant(folder / "not-there.dat")


def test_a_fault_is_labelled_from_its_onset_on(tmp_path: Path) -> None:
    normal, first, third = tep.read_tests(a_plant(tmp_path) / tep.FOLDER)
    assert [normal.name, first.name, third.name] == ["d00_te", "d01_te", "d03_te"]
    assert normal.column("anomaly").sum() == 0
    assert np.flatnonzero(first.column("anomaly")).tolist() == list(range(tep.ONSET, 300))
    assert [tep.fault_of(s.name) for s in (normal, first, third)] == [0, 1, 3]
    with pytest.raises(RecordedFileError, match="wanted d00_te"):
        tep.read_tests(tmp_path)


def test_shares_are_of_what_counts() -> None:
    stream = recordings.labelled(a_stream(np.zeros((6, 1))), np.array([0, 0, 0, 1, 1, 1]) > 0)
    (scene,) = whole_scenes([stream], Settings(label="anomaly"))
    score = np.array([9.0, 0.5, 2.0, 2.0, np.nan, 0.5])
    status = np.array([WARMING_UP, OK, OK, OK, 3, OK], np.uint8)
    series = Series(score, status, np.zeros(6, np.bool_), AlarmConfig().enter)
    assert tep.shares(scene, series, 1.0) == (0.5, 0.5)
    assert tep.shares(scene, series, 2.0) == (0.0, 0.0)
    nothing = replace(series, status=np.full(6, WARMING_UP, np.uint8))
    assert tep.shares(scene, nothing, 1.0) == (None, None)


def test_the_equal_threshold_is_exceeded_by_one_in_a_hundred() -> None:
    score = np.concatenate([[1e9], np.arange(1000.0)])
    status = np.array([WARMING_UP] + [OK] * 1000, np.uint8)
    series = Series(score, status, np.zeros(1001, np.bool_), 1.0)
    assert (score[1:] > tep.equal_threshold(series)).sum() == 10


def test_one_command_measures_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, document, output = a_plant(tmp_path / "data"), tmp_path / "q.md", tmp_path / "q.json"
    monkeypatch.setitem(DETECTORS, "small", SMALL)
    document.write_text(command.DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
    output.write_text(command.figures({"nab": [Result("old", 0, None, "as before")]}, 1.0))
    done = CliRunner().invoke(
        command.main,
        [str(data), "--only", "tep", "--seeds", "1", "--detectors", "small",
         "--document", str(document), "-o", str(output)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    results = command.read_figures(output)
    assert results["nab"] == [Result("old", 0, None, "as before")]
    (result,) = results["tep"]
    figures = result.figures
    assert figures is not None
    assert figures["own"]["d01_te"]["found"] == 1.0
    assert figures["equal"]["d00_te"]["found"] is None
    text = document.read_text(encoding="utf-8")
    assert command.with_tables(text, results) == text
    for shown in tep.tables(results["tep"]).values():
        assert shown in text
        assert shown in done.stdout
    assert "found, 1 faults | found, 2 faults" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "teb"], "did you mean tep"),
        (["--only", "tep", "--detectors", "nothing-like-it"], "unknown 'nothing-like-it'"),
        (["--only", "skab"], "wanted a folder 'skab/valve1' in it"),
    ],
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(command.main, [str(tmp_path), *arguments])
    assert done.exit_code == 2
    assert said in done.stderr


# NAB.


def a_series(folder: Path, windows: Any) -> Path:
    """2,300 rows of which 2,200 to 2,219 are wrong, and their windows."""
    (folder / nab.FOLDER).mkdir(parents=True)
    file = nab.RECORDINGS[0].file
    rng = np.random.default_rng(0)
    times = np.datetime64("2014-01-01T00:00:00") + np.arange(2300) * np.timedelta64(300, "s")
    values = rng.normal(size=2300) + 20 * (np.arange(2300) // 20 == 110)
    lines = [f"{str(t).replace('T', ' ')},{v}" for t, v in zip(times, values, strict=True)]
    (folder / nab.FOLDER / file).write_text("timestamp,value\n" + "\n".join(lines) + "\n")
    (folder / nab.FOLDER / "windows.json").write_text(json.dumps({file: windows}))
    return folder


RIGHT = [["2014-01-08 15:00:00.000000", "2014-01-08 17:00:00.000000"]]


def test_a_window_has_its_ends(tmp_path: Path) -> None:
    folder = a_series(tmp_path, RIGHT) / nab.FOLDER
    stream = nab.read_recording(folder, nab.RECORDINGS[0].file)
    (rows,) = np.nonzero(stream.column("anomaly"))
    assert rows.tolist() == list(range(2196, 2221))


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        ([["2014-01-01 15:00:00", "2014-01-01 17:00:00"]], "begins within the 2000 rows"),
        ([["yesterday", "today"]], "no windows of machine"),
    ],
)
def test_windows_that_cannot_be_meant(tmp_path: Path, windows: Any, said: str) -> None:
    folder = a_series(tmp_path, windows) / nab.FOLDER
    with pytest.raises(RecordedFileError, match=said):
        nab.read_recording(folder, nab.RECORDINGS[0].file)


def test_the_table_of_windows() -> None:
    def figures(found: float) -> dict[str, Any]:
        judged = {
            "found": found, "events": 4.0, "lit_before": 0.0, "median_delay_s": 7200.0,
            "false_alarms_per_day": 0.5, "normal_hours": 336.0,
        }  # fmt: skip
        return {"judged": judged, "promise": a_promise()}

    results = [
        Result("mine", seed, {recording.name: figures(3.0 + seed) for recording in nab.RECORDINGS})
        for seed in range(2)
    ]
    machine, ambient = nab.tables(results)["nab"].splitlines()[2:]
    assert machine == (
        "| machine temperature | mine | 3.5 (3 to 4) of 4 | 0 | 2 | 3.5 | 2 | 7 | 35 |"
    )
    assert ambient == machine.replace("machine", "ambient")
