"""`andon train` as a user meets it: real files, real processes, real signals."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from edge_runtime.cli import main
from edge_runtime.errors import TrainingError
from edge_runtime.tables import load
from train.calibration import require_calibration_rows
from train.config import Files, TrainConfig, override
from train.data import History, Segment
from train.detectors import load_checkpoint
from train.experiment import Experiment, Folder
from train.hybrid import Hybrid

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
ROWS = 900
# As few and small steps as still make a run of its own.
SMALL = [
    "--detector",
    "forecast",
    "--cell",
    "lstm",
    "--hidden",
    "6",
    "--window",
    "16",
    "--epochs",
    "3",
]
# The shell that runs the tests in the background makes its children ignore SIGINT.
ENTRY = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from train.cli import train
train()
"""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sensors of a machine, one sample a second, as a European spreadsheet writes them."""
    rng = np.random.default_rng(0)
    t = np.arange(ROWS) * 0.3
    values = np.stack([np.sin(t) + 20, 5 * np.cos(t)], axis=1) + 0.05 * rng.standard_normal(
        (ROWS, 2)
    )
    stamps = np.datetime64("2026-01-05T06:00:00") + np.arange(ROWS)
    lines = ["time;temperature;flow rate"]
    lines += [f"{s};{a:.4f};{b:.4f}" for s, (a, b) in zip(stamps, values, strict=True)]
    path = tmp_path_factory.mktemp("history") / "pump.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def andon(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def succeeded(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def refused(result: Result) -> str:
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture(scope="module")
def run(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    succeeded(andon(history, "-o", folder, *SMALL))
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return document


def test_a_run_leaves_a_checkpoint_a_report_and_its_curves(run: Path) -> None:
    report, checkpoint = report_of(run), load_checkpoint(run)
    assert report == {"schema": 2, **checkpoint.meta}
    assert checkpoint.detector.features == ("temperature", "flow rate")
    assert report["training"]["files"] == ["pump.csv"]
    assert report["training"]["rows"] == {"fit": 630, "validation": 135, "calibration": 135}
    calibration = report["calibration"]
    assert calibration["false_alarms_per_day"] == pytest.approx(1 / 7)
    assert calibration["supported_false_alarms_per_day"] > 640  # one in these 135 samples
    low, high = calibration["interval"]["per_day"]
    assert low < calibration["expected_false_alarms_per_day"] < high
    assert 1 <= report["warm_up_steps"] <= 256
    with (run / "curves.csv").open() as file:
        curves = list(csv.DictReader(file))
    assert [row["epoch"] for row in curves] == ["1", "2", "3"]
    best = min(float(row["validation_loss"]) for row in curves)
    assert best == report["training"]["validation_loss"]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_calibration_stretch_is_at_or_below_the_alarm_level(history: Path, run: Path) -> None:
    detector = load_checkpoint(run).detector
    rows = np.loadtxt(history, delimiter=";", skiprows=1, usecols=(1, 2), dtype=np.float32)
    with torch.no_grad():
        x = torch.from_numpy(rows).unsqueeze(1)
        score, contribution, _ = detector(x, detector.initial_state(1))
    assert 0.6 < score[-135:].max() < 1.02  # the level lies by the largest, or a little beyond
    assert contribution[-135:].sum(dim=2).min() == pytest.approx(1.0, abs=1e-5)
    rows[700:710, 1] += 12.0
    with torch.no_grad():
        faulty, why, _ = detector(torch.from_numpy(rows).unsqueeze(1), detector.initial_state(1))
    assert faulty[700].item() > 1.0
    assert why[700, 0].argmax() == 1


def test_the_summary_says_what_was_used_and_what_to_do_next(history: Path, tmp_path: Path) -> None:
    result = succeeded(andon(history, "-o", tmp_path / "run", *SMALL, "--ignore", "anomaly"))
    assert result.stdout == ""
    for text in (
        "temperature, flow rate",
        "fit 630 rows (0.2 h), validation 135 rows",
        "without a network, by last value",
        "asked for 0.142857 false alarms per day and machine; 0.038 machine-hours of calibration",
        f"next      andon export {tmp_path / 'run'} -o model.onnx",
    ):
        assert text in result.stderr


def test_json_goes_to_standard_output_alone(history: Path, tmp_path: Path) -> None:
    result = succeeded(andon(history, "-o", tmp_path / "run", *SMALL, "--json"))
    assert json.loads(result.stdout) == report_of(tmp_path / "run")


@pytest.mark.parametrize("kind", ["multiscale", "t2", "mewma", "ewma", "halfspace"])
def test_a_detector_without_a_network_needs_no_passes(
    kind: str, history: Path, tmp_path: Path
) -> None:
    result = succeeded(andon(history, "-o", tmp_path, "--detector", kind))
    report = report_of(tmp_path)
    assert report["training"]["detector"] == kind
    assert "epochs" not in report["training"]
    assert f"detector  {kind}" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "run.json"]
    assert type(load_checkpoint(tmp_path).detector).__name__ in ("Hybrid", "Chart", "Trees")


@pytest.fixture(scope="module")
def two_machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two machines with waves that can be foretold, each around an operating point of its own."""
    rng = np.random.default_rng(0)
    lines = ["time,machine,flow,heat"]
    for machine in range(2):
        t = np.arange(ROWS)
        flow = np.sin(t / 5) + 0.05 * rng.standard_normal(ROWS) + 3 * machine
        heat = np.cos(t / 5) + 0.05 * rng.standard_normal(ROWS)
        stamps = np.datetime64("2026-01-05T06:00:00") + t
        rows = zip(stamps, flow, heat, strict=True)
        lines += [f"{s},m{machine},{a:.4f},{b:.4f}" for s, a, b in rows]
    path = tmp_path_factory.mktemp("two") / "two.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


HYBRID = ["--stream-column", "machine", "--hidden", "8", "--window", "16", "--epochs", "12"]


def test_the_default_is_the_hybrid_and_its_network_earns_its_place(
    two_machines: Path, tmp_path: Path
) -> None:
    result = succeeded(andon(two_machines, "-o", tmp_path, *HYBRID))
    training = report_of(tmp_path)["training"]
    assert (training["detector"], training["layers"]) == ("hybrid", ["gru"])
    assert training["network"] is True
    assert training["validation_loss"] < training["baselines"]["own distribution"]
    assert "cross-fitting" in result.stderr
    detector = load_checkpoint(tmp_path).detector
    assert isinstance(detector, Hybrid)
    assert detector.error_adaptation.location.min() < 100  # streams are told apart


def test_the_level_rests_on_networks_that_have_not_seen_the_stream(
    two_machines: Path, tmp_path: Path
) -> None:
    chosen = {"stream_column": "machine", "hidden": 8, "window": 16, "epochs": 12}
    files = [Files((two_machines,))]
    experiment = Experiment(override(TrainConfig(), chosen), files, lambda _: None)
    progress, folder = experiment.start(), Folder(tmp_path)
    assert progress is not None
    list(experiment.fit(progress, folder))
    known = experiment.finish(progress, folder)["calibration"]
    assert len(list(experiment.cross_fit(progress))) == 2 * progress.best_epoch.number
    assert set(experiment.stand_ins) == {"m0", "m1"}
    unseen = experiment.finish(progress, folder)["calibration"]
    assert unseen["level"] != known["level"]


def test_a_hybrid_goes_on_bit_for_bit(two_machines: Path, tmp_path: Path) -> None:
    """Its noise follows from the seed and the number of the pass."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    succeeded(andon(two_machines, "-o", whole, *HYBRID[:-1], "2"))
    succeeded(andon(two_machines, "-o", parts, *HYBRID[:-1], "1"))
    succeeded(andon(two_machines, "-o", parts, *HYBRID[:-1], "2", "--resume"))
    one, other = (load_checkpoint(run).detector.state_dict() for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_sensor_has_no_network_and_that_is_said(tmp_path: Path) -> None:
    rows = np.cumsum(np.random.default_rng(0).normal(0, 1, 600)) * 0.1
    lines = [f"{np.datetime64('2026-01-05T06:00:00') + k}Z,{x:.4f}" for k, x in enumerate(rows)]
    history = tmp_path / "one.csv"
    history.write_text("\n".join(["time,level", *lines]) + "\n")
    result = succeeded(andon(history, "-o", tmp_path / "run"))
    assert "note: one sensor: " in result.stderr
    assert "network   " not in result.stderr  # of the plan
    training = report_of(tmp_path / "run")["training"]
    assert training["network"] is False
    assert "epochs" not in training
    detector = load_checkpoint(tmp_path / "run").detector
    assert isinstance(detector, Hybrid)
    assert detector.network is None
    assert (
        "note: one sensor: " not in andon(history, "-o", tmp_path / "r2", "--detector", "t2").stderr
    )


def test_a_network_that_foretells_nothing_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stamps = np.datetime64("2026-01-05T06:00:00") + np.arange(ROWS)
    rows = zip(stamps, rng.normal(0, 1, ROWS), strict=True)
    noise = tmp_path / "noise.csv"
    noise.write_text("time,a,still\n" + "".join(f"{s},{a:.4f},7\n" for s, a in rows))
    result = succeeded(andon(noise, "-o", tmp_path / "run", *HYBRID[2:-1], "4"))
    assert result.stderr.count("still stood still at 7") == 1
    assert "it is left out, and the samples alone are judged" in result.stderr
    assert report_of(tmp_path / "run")["training"]["network"] is False
    assert "h" not in load_checkpoint(tmp_path / "run").detector.state_names


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--detector", "t3"], "--detector: wanted a detector, one of hybrid, multiscale, "),
        (["--detector", "t2", "--look-ahead", "3"], "--detector t2 looks at no sample that is to"),
        (["--detector", "t2", "--target", "temperature"], "--detector t2 reads no target off"),
    ],
)
def test_detectors_that_cannot_be_are_refused(
    options: list[str], said: str, history: Path, tmp_path: Path
) -> None:
    assert said in refused(andon(history, "-o", tmp_path / "run", *options))


def test_a_run_is_not_overwritten_unasked(history: Path, run: Path) -> None:
    before = (run / "checkpoint.pt").read_bytes()
    assert "--resume goes on with it, --force begins anew" in refused(andon(history, "-o", run))
    assert (run / "checkpoint.pt").read_bytes() == before


def test_resume_and_force_exclude_each_other(history: Path, run: Path) -> None:
    assert "choose one" in refused(andon(history, "-o", run, "--resume", "--force"))


def test_force_begins_anew_but_not_before_the_data_has_been_read(
    history: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    succeeded(andon(history, "-o", folder, *SMALL))
    refused(andon(history, "-o", folder, *SMALL, "--feature", "pressure", "--force"))
    assert load_checkpoint(folder).meta["training"]["layers"] == ["lstm"]
    succeeded(andon(history, "-o", folder, *SMALL, "--cell", "elman", "--force"))
    assert load_checkpoint(folder).meta["training"]["layers"] == ["elman"]


def test_going_on_with_other_options_is_refused(history: Path, run: Path) -> None:
    message = refused(andon(history, "-o", run, *SMALL, "--cell", "gru", "--resume"))
    assert "layers was ['lstm'], is ['gru']" in message


def test_going_on_with_more_epochs_is_what_more_epochs_would_have_given(
    history: Path, tmp_path: Path
) -> None:
    longer = [*SMALL, "--epochs", "5"]
    succeeded(andon(history, "-o", tmp_path / "once", *longer))
    succeeded(andon(history, "-o", tmp_path / "twice", *SMALL))
    succeeded(andon(history, "-o", tmp_path / "twice", *longer, "--resume"))
    assert_same_run(tmp_path / "once", tmp_path / "twice")


def assert_same_run(left: Path, right: Path) -> None:
    """Everything but the date is equal, the weights bit for bit."""
    assert (left / "curves.csv").read_bytes() == (right / "curves.csv").read_bytes()
    one, two = load_checkpoint(left), load_checkpoint(right)
    one.meta["training"]["created"] = two.meta["training"]["created"]
    assert one.meta == two.meta
    tensors = two.detector.state_dict()
    for name, tensor in one.detector.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


LONGER = ["--hidden", "6", "--epochs", "8", "--learning-rate", "1e-4"]


@pytest.fixture(scope="module")
def uninterrupted(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    succeeded(andon(history, "-o", folder, *LONGER))
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    history: Path, tmp_path: Path, uninterrupted: Path, number: signal.Signals
) -> None:
    broken = tmp_path / "run"
    command = [sys.executable, "-c", ENTRY, str(history), "-o", str(broken), *LONGER]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not (broken / "last.pt").exists() and process.poll() is None:
            time.sleep(0.005)  # a file that appears is no event that a parent can wait for
        os.kill(process.pid, number)
        said = process.stderr.read()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume goes on" in said
    else:
        assert process.returncode == -signal.SIGKILL
    assert not (broken / "checkpoint.pt").exists()
    resumed = succeeded(andon(history, "-o", broken, *LONGER, "--resume"))
    assert "going on after epoch" in resumed.stderr
    assert_same_run(broken, uninterrupted)


def test_a_configuration_names_files_sensors_and_options(history: Path, tmp_path: Path) -> None:
    config = tmp_path / "experiment.toml"
    config.write_text(
        '[[data.files]]\npath = "*.csv"\nfirst_rows = 800\n[model]\ncell = "gru"\nhidden = 6\n'
        '[training]\nwindow = 16\nepochs = 2\n[[feature]]\nname = "flow rate"\nunit = "m3/h"\n'
        "low = -9.0\nhigh = 9.0\n"
    )
    root = ["--data-root", str(history.parent)]
    succeeded(andon("--config", config, *root, "-o", tmp_path / "run", "--epochs", "1"))
    report = report_of(tmp_path / "run")
    assert report["training"]["layers"] == ["gru"]
    assert report["training"]["epochs"] == 1  # the option goes before the file
    assert report["training"]["rows"]["fit"] == 560
    assert report["features"]["flow rate"] == {"unit": "m3/h", "range": [-9.0, 9.0]}
    assert report["features"]["temperature"] == {"unit": "", "range": [None, None]}
    message = refused(andon("--config", config, "-o", tmp_path / "other"))
    assert "[[data.files]] 1 path: no file matches '*.csv'" in message


def test_a_configuration_tells_all_its_errors_at_once(history: Path, tmp_path: Path) -> None:
    config = tmp_path / "experiment.toml"
    config.write_text('[model]\ncell = "lstn"\n[training]\nlerning_rate = 1\nepochs = 0\n')
    message = refused(andon(history, "--config", config, "-o", tmp_path / "run"))
    for text in ("[model] cell", "learning_rate", "[training] epochs"):
        assert text in message


@pytest.mark.parametrize("name", ["pump", "skab"])
def test_the_configurations_that_come_along_are_valid(name: str) -> None:
    assert load(TrainConfig, CONFIGS / f"{name}.toml").feature


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "0"], "layers: wanted 1 or more, got 0"),
        (["--feature", "temperatur"], "did you mean temperature?"),
        (["--learning-rate", "3"], "learning-rate: wanted 0 to 1, got 3.0"),
        (["--max-gap-ms", "500"], "too little data"),
    ],
)
def test_a_run_that_cannot_be_says_why(
    history: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in refused(andon(history, "-o", tmp_path / "run", *SMALL, *arguments))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_data_must_be_named(tmp_path: Path) -> None:
    assert "name DATA, or a --config" in refused(andon("-o", tmp_path / "run"))


def test_help_has_an_example_and_a_word_on_every_option() -> None:
    text = succeeded(andon("--help")).output
    assert "andon train history/*.csv -o run" in text
    command = main.get_command(click.Context(main), "train")
    assert command is not None
    assert all(p.help for p in command.params if isinstance(p, click.Option))


def test_more_false_alarms_than_samples_are_refused(history: Path, tmp_path: Path) -> None:
    said = refused(andon(history, "-o", tmp_path / "run", "--false-alarms-per-day", "1e9"))
    assert "--false-alarms-per-day wants fewer than the" in said
    assert "got 1e+09" in said


def test_files_of_different_periods_are_refused(tmp_path: Path) -> None:
    for name, seconds in (("quick.csv", 1), ("slow.csv", 60)):
        rows = [f"{1_700_000_000 + i * seconds},{i % 7}" for i in range(400)]
        (tmp_path / name).write_text("\n".join(["time,level", *rows]) + "\n")
    files = (tmp_path / "quick.csv", tmp_path / "slow.csv")
    said = refused(andon(*files, "-o", tmp_path / "run"))
    assert "sample periods differ" in said
    assert "--period-ms" in said


def test_a_training_that_is_not_finished_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"not finished.*--resume"):
        load_checkpoint(tmp_path)


def test_a_warm_up_that_leaves_nothing_to_calibrate_on_is_refused() -> None:
    segment = Segment("a", np.zeros((200, 1)), fit_rows=100, validation_rows=150)
    short = [Segment("b", np.zeros((70, 1)), fit_rows=0, validation_rows=0)] * 9
    history = History(("x",), (segment, *short), 1000.0, 5000.0, ("a.csv",), "")
    require_calibration_rows(history, 64)
    with pytest.raises(TrainingError, match="warms up for 256 samples"):
        require_calibration_rows(history, 256)
