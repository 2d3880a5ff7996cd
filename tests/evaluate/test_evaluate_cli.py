"""The command as its users see it: a trained, exported model on simulated pumps."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click.testing
import numpy as np
import pytest

from edge_runtime.cli import main
from edge_runtime.columns import Layout
from edge_runtime.recorded import RecordedStream, read_streams
from evaluate.evaluation import Report, evaluate_detectors, work
from evaluate.judge import Guess, Scorer
from evaluate.report import as_dict, as_text
from evaluate.scenes import Scene
from evaluate.settings import Settings

YARDSTICKS = ["random", "all ones", "row counter"]


def run(*arguments: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])


def done(*arguments: object) -> click.testing.Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


class Plant(NamedTuple):
    """Two seeds of a detector, and a day with faults."""

    one: Path
    two: Path
    day: Path


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    folder = tmp_path_factory.mktemp("plant")
    history, day = folder / "history.csv", folder / "day.csv"
    done("simulate", "-o", history, "--hours", 1, "--machines", 2)
    done(
        *("simulate", "-o", day, "--hours", 0.5, "--machines", 3, "--label"),
        *("--start", "2026-01-06T08:00:00Z"),
        *("--fault", "pump-2:bearing_wear:onset=900,severity=1,ramp=60"),
        *("--fault", "pump-3:leak:onset=1200,severity=1,ramp=60"),
    )
    models = []
    for seed in (0, 1):
        options = ("--detector", "forecast", "--hidden", 8, "--epochs", 2, "--seed", seed)
        done("train", history, "--stream-column", "machine", *options, "-o", folder / f"run-{seed}")
        models.append(folder / f"pump-{seed}.onnx")
        done("export", folder / f"run-{seed}", "-o", models[-1])
    return Plant(models[0], models[1], day)


def evaluated(plant: Plant, *options: object) -> click.testing.Result:
    return done(
        *("evaluate", plant.one, plant.day, "--stream-column", "machine", "--label", "anomaly"),
        *options,
    )


def recorded(plant: Plant) -> list[RecordedStream]:
    return read_streams([plant.day], Layout(stream_column="machine"), on_notice=lambda _: None)


# --- the command


@pytest.fixture(scope="module")
def all_of_it(plant: Plant, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Any, Path]:
    folder = tmp_path_factory.mktemp("report")
    result = evaluated(
        plant,
        *("--name", "gru", "--seed-model", plant.two, "--against", f"other={plant.two}"),
        *("--lead", 200, "--crop", 300, "--splice", 300, "--repeats", 2, "--window", 20),
        *("--json", folder / "r.json", "--plot", folder / "r.png"),
    )
    document = json.loads((folder / "r.json").read_text())
    return result.stdout, result.stderr, document, folder


def test_the_tables_show_every_detector_and_what_knows_nothing(all_of_it: Any) -> None:
    stdout, stderr, _, folder = all_of_it
    lines = stdout.splitlines()
    for table in ("scores", "lamp", "samples"):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{table} "))
        names = [line[: len("row counter")].rstrip() for line in lines[at + 1 : at + 7]]
        assert names == ["gru", "  2 seeds", "other", *YARDSTICKS], table
    assert "streams  3; the mean of 2 draws with up to 300 rows cropped and 300 spliced" in stdout
    assert "causal   gru: of " in stdout
    assert "causal   other: of " in stdout
    assert "VUS-PR: mean over 2 of 3 streams, buffers of 0 to 20 samples; left out, no label" in (
        stdout
    )
    assert [line for line in lines if line.startswith("pump-3 ")]
    assert all(line == line.rstrip() for line in lines)
    assert f"wrote {folder / 'r.json'}" in stderr
    assert f"wrote {folder / 'r.png'}" in stderr


def test_the_document_holds_every_figure_by_seed_and_stream(all_of_it: Any, plant: Plant) -> None:
    _, _, document, _ = all_of_it
    assert document["schema"] == 1
    assert document["settings"]["recovery"] == 20
    assert document["settings"]["alarm"] == {"enter": 1.0, "leave": 0.7, "hold_steps": 3}
    assert document["streams"] == ["pump-1", "pump-2", "pump-3"]
    assert document["without_vus_pr"] == {"pump-1": "no label"}
    gru, other, chance, ones, counter = document["detectors"]
    assert [d["name"] for d in document["detectors"]] == ["gru", "other", *YARDSTICKS]
    assert [d["model"] for d in document["detectors"]] == [True, True, False, False, False]
    assert [seed["source"] for seed in gru["seeds"]] == [str(plant.one), str(plant.two)]
    assert gru["causality"]["cuts"] == 2 * 3 * 4

    # The second seed and the other detector are one file in the same scenes.
    assert gru["seeds"][1]["figures"] == {
        **other["seeds"][0]["figures"],
        "vus_pr": pytest.approx(other["seeds"][0]["figures"]["vus_pr"], abs=1e-6),
    }
    values = [seed["figures"]["vus_pr"] for seed in gru["seeds"]]
    spread = gru["figures"]["vus_pr"]
    assert (spread["low"], spread["high"]) == (min(values), max(values))
    assert spread["mean"] == pytest.approx(sum(values) / 2)

    # The detector finds what there is; what knows nothing does not rank.
    assert spread["mean"] > 0.9
    assert chance["figures"]["vus_pr"]["mean"] < 0.6
    assert gru["figures"]["event_recall"]["mean"] == 1.0
    assert ones["figures"]["far"]["mean"] == 1.0
    assert ones["figures"]["mar"]["mean"] == 0.0
    assert chance["figures"]["far"]["mean"] == pytest.approx(0.5, abs=0.05)
    assert counter["figures"]["f1"]["mean"] > ones["figures"]["f1"]["mean"]

    one = gru["seeds"][0]
    parts = [one["streams"][name]["judged"] for name in document["streams"]]
    assert sum(parts) == one["figures"]["judged"]
    assert one["figures"]["warming_up"] >= 0


def test_the_picture_is_one(all_of_it: Any) -> None:
    folder = all_of_it[3]
    assert (folder / "r.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == ["r.json", "r.png"]


def test_the_same_command_says_the_same(plant: Plant) -> None:
    options = ("--crop", 300, "--splice", 300, "--window", 5, "--no-causality")
    first, again = (evaluated(plant, *options).stdout for _ in range(2))
    other = evaluated(plant, *options, "--seed", 1).stdout
    assert first == again
    assert first != other
    assert "causal" not in first


def test_a_row_counter_that_does_as_well_is_said(plant: Plant) -> None:
    # A fault that lasts to the end of its recording ranks highest whoever counts rows.
    said = evaluated(plant, "--window", 5).stdout
    assert "WARNING: row counter does as well as pump-0: VUS-PR 1.000 against " in said
    assert "random does as well" not in said


def test_what_is_no_fault_can_only_be_alarmed_at(plant: Plant, tmp_path: Path) -> None:
    healthy = tmp_path / "healthy.csv"
    done("simulate", "-o", healthy, "--hours", 0.2, "--machines", 1, "--label")
    result = done("evaluate", plant.one, healthy, "--label", "anomaly")
    assert "note: 'anomaly' is 0 in every row: only false alarms can be counted" in result.stderr
    assert "VUS-PR: mean over 0 of 1 streams" in result.stdout


def test_the_alarm_is_the_operators(plant: Plant) -> None:
    said = evaluated(plant, "--window", 5, "--enter", 1000, "--hold-steps", 1).stdout
    assert "alarm    above 1000, until below 700, 1 samples in a row" in said
    assert "pump-0       0 of 2" in said


# --- bad input


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--crop", -1), 1, "crop: wanted 0 or more, got -1"),
        (("--repeats", 3), 1, "repeats: wanted 1 without crop and splice"),
        (("--against", "pump"), 2, "wanted NAME=MODEL.onnx, got 'pump'"),
        (("--against", "=pump.onnx"), 2, "wanted NAME=MODEL.onnx"),
        (("--against", "other=nothing.onnx"), 1, "nothing.onnx: cannot be read"),
        (("--against", "pump-0=nothing.onnx"), 2, "that is MODEL's own name"),
        (("--name", "random"), 2, "'random' is the name of a row that is always there"),
        (("--label", "anomalies"), 1, "no column 'anomalies'"),
        (("--plot", "p.sausage"), 1, "p.sausage: "),
        (("--leave", 2), 1, "leave: must not exceed enter, got 2"),
    ],
)
def test_bad_input_is_one_sentence(
    plant: Plant,
    options: tuple[object, ...],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(
        *("evaluate", plant.one, plant.day, "--stream-column", "machine", "--label", "anomaly"),
        *("--window", 0, *options),
    )
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_never_written_over(plant: Plant) -> None:
    before = plant.day.read_bytes()
    result = run("evaluate", plant.one, plant.day, "--label", "anomaly", "--json", plant.day)
    assert result.exit_code == 2
    assert "would be overwritten" in result.stderr
    assert plant.day.read_bytes() == before


def test_a_sensor_that_is_missing_is_named(plant: Plant, tmp_path: Path) -> None:
    day = tmp_path / "day.csv"
    day.write_text(plant.day.read_text().replace("flow_m3h", "flow"))
    result = run("evaluate", plant.one, day, "--label", "anomaly", "--stream-column", "machine")
    assert result.exit_code == 1
    assert "wanted a column 'flow_m3h' with numbers" in result.stderr


def test_without_aeon_the_extra_is_named(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aeon.benchmarking.metrics.anomaly_detection", None)
    result = run("evaluate", plant.one, plant.day, "--label", "anomaly")
    assert result.exit_code == 1
    assert "the VUS-PR needs aeon: pip install 'andon[train]'" in result.stderr


# --- from Python


def knows(scenes: list[Scene], rng: np.random.Generator) -> Guess:
    """The labels themselves."""
    return Guess([scene.label.astype(np.float64) for scene in scenes], 0.5)


def report_of(plant: Plant, scorers: dict[str, Any], **how: Any) -> Report:
    settings = Settings(label="anomaly", **{"window": 0, **how})
    return evaluate_detectors({"gru": [plant.one]}, recorded(plant), settings, scorers=scorers)


def test_whoever_knows_the_labels_is_right(plant: Plant) -> None:
    report = report_of(plant, {"oracle": knows}, crop=200, splice=200, lead=100)
    oracle = report.rows[1]
    figures = oracle.seeds[0].figures
    assert (figures.f1, figures.far, figures.mar) == (1.0, 0.0, 0.0)
    assert figures.vus_pr == pytest.approx(1.0, abs=1e-4)  # thresholds are sampled
    assert (figures.event_recall, figures.false_alarms) == (1.0, 0)
    assert figures.median_delay_s == 2.0  # the third sample in a row
    assert figures.judged == report.rows[0].seeds[0].figures.judged


def test_the_scenes_are_the_same_for_all_and_whoever_is_beside(plant: Plant) -> None:
    how = {"crop": 200, "splice": 200}
    alone = report_of(plant, {"oracle": knows}, **how)
    settings = Settings(label="anomaly", window=0, **how)  # type: ignore[arg-type]
    seen: list[list[tuple[int, bytes]]] = []

    def looking(scenes: list[Scene], rng: np.random.Generator) -> Guess:
        seen.append([(s.rows, s.recorded.values.tobytes()) for s in scenes])
        return knows(scenes, rng)

    scorers: dict[str, Scorer] = {"first": looking, "second": looking}  # type: ignore[dict-item]
    both = {"gru": [plant.one], "more": [plant.two, plant.one]}
    told: list[int] = []
    streams = recorded(plant)
    report = evaluate_detectors(both, streams, settings, scorers=scorers, progress=told.append)
    assert seen[0] == seen[1]
    assert report.rows[0] == alone.rows[0]
    assert len(told) == work(both, streams, settings, scorers) == 15
    assert "row counter" not in as_text(report).split("random flags")[0]
    json.dumps(as_dict(report), allow_nan=False)
