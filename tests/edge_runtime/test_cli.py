"""The command line as its users see it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_runtime.cli import LAZY, main
from handmade_models import LAYOUTS, layout_model, look_ahead_model, memoryless_model
from sample_models import FEATURES, sample_model

# A gateway has neither; None in sys.modules makes an import fail as if it were not installed.
WITHOUT = """
import sys
for name in ("torch", "onnx", "onnxscript", "aeon", "matplotlib", "pyarrow"):
    sys.modules[name] = None
from edge_runtime.cli import main
main()
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def run_on_gateway(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def write_day(path: Path, rows: int = 50) -> Path:
    lines = [f"2026-01-01T00:00:{i:02d}Z,{i % 7},{i % 5},{i % 3},7" for i in range(rows)]
    path.write_text("\n".join(["time," + ",".join([*FEATURES, "extra"]), *lines]) + "\n")
    return path


def test_help_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.output for name in LAZY)


@pytest.mark.parametrize("name", LAZY)
def test_each_command_has_help_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert "Example" in result.output
    assert f"andon {name} " in result.output.partition("Example")[2]


def test_unknown_command() -> None:
    result = run("trian")
    assert result.exit_code == 2
    assert "trian" in result.output


def test_a_gateway_inspects_replays_and_checks(tmp_path: Path) -> None:
    model, day = str(sample_model()), str(write_day(tmp_path / "day.csv"))
    inspected = run_on_gateway(tmp_path, "inspect", model)
    assert inspected.returncode == 0, inspected.stderr
    assert "golden vectors reproduced" in inspected.stdout
    replayed = run_on_gateway(tmp_path, "replay", model, day, "--scores", "s.jsonl", "--json")
    assert replayed.returncode == 0, replayed.stderr
    assert json.loads(replayed.stdout)["streams"][0]["samples"] == 50
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 50
    checked = run_on_gateway(tmp_path, "check", "nothing.toml")
    assert checked.returncode == 1
    assert "nothing.toml" in checked.stderr


@pytest.mark.parametrize("name", ["train", "export", "adopt", "gallery"])
def test_a_gateway_is_told_what_training_needs(tmp_path: Path, name: str) -> None:
    result = run_on_gateway(tmp_path, name, "x", "-o", "y")
    assert result.returncode == 1
    assert "pip install 'andon[train]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_gateway_is_told_what_judging_needs(tmp_path: Path) -> None:
    day = str(write_day(tmp_path / "day.csv"))
    result = run_on_gateway(tmp_path, "evaluate", str(sample_model()), day, "--label", "extra")
    assert result.returncode == 1
    assert "aeon: pip install 'andon[train]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_picture_without_matplotlib_names_the_extra(tmp_path: Path) -> None:
    day = str(write_day(tmp_path / "day.csv"))
    result = run_on_gateway(tmp_path, "replay", str(sample_model()), day, "--plot", "p.png")
    assert result.returncode == 1
    assert "pip install 'andon[plot]'" in result.stderr


def test_inspect_json(tmp_path: Path) -> None:
    result = run("inspect", str(sample_model("lstm", 2)), "--json")
    document = json.loads(result.output)
    assert [s["input"] for s in document["contract"]["states"]] == [
        *("h_1", "c_1", "h_2", "c_2", "forecast")
    ]
    assert len(document["sha256"]) == 64


def test_inspect_says_how_the_model_is_called(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(look_ahead_model(5))
    ahead = run("inspect", str(model)).output
    assert "look-ahead   5 samples: each score comes 5000 ms late" in ahead
    assert "axes         x float32 [time, stream, feature], score [time, stream]\n" in ahead
    model.write_bytes(layout_model(LAYOUTS["one-step, 1s"], one_stream=True))
    foreign = run("inspect", str(model)).output
    assert "look-ahead   none: causal" in foreign
    assert (
        "x float32 [stream, 1, feature], score [stream, 1]; called for each sample; called for "
        "each stream\n"
    ) in foreign
    model.write_bytes(memoryless_model())
    assert "carried from sample to sample: nothing\n" in run("inspect", str(model)).output


def test_replay_says_which_samples_have_no_score(tmp_path: Path) -> None:
    model, day = tmp_path / "m.onnx", tmp_path / "day.csv"
    model.write_bytes(look_ahead_model(5))
    rows = [f"2026-01-01T00:{t // 60:02d}:{t % 60:02d}Z,1,2" for t in [*range(12), *range(60, 63)]]
    day.write_text("\n".join(["time,a,b", *rows]) + "\n")
    result = run("replay", str(model), str(day))
    assert result.exit_code == 0, result.output
    assert (
        "looks 5 samples ahead: a score stands at the time of its sample and comes 5000 ms later; "
        "8 samples have none, up to 5 at the end of each stream and before each reset"
    ) in result.output
    assert "WARNING: 53% of the samples were not scored" in result.output
    said = json.loads(run("replay", str(model), str(day), "--json").stdout)
    assert said["look_ahead_ms"] == 5000
    assert (said["streams"][0]["samples"], said["streams"][0]["unscored"]) == (7, 8)
    causal = run("replay", str(sample_model()), str(write_day(tmp_path / "day.csv")))
    assert "ahead" not in causal.output


def test_the_delay_of_a_detection_counts_the_look_ahead_apart(tmp_path: Path) -> None:
    model, day = tmp_path / "m.onnx", tmp_path / "day.csv"
    model.write_bytes(look_ahead_model(5))
    rows = [f"2026-01-01T00:00:{t:02d}Z,{1000 if t > 21 else 0},2,{t > 19:d}" for t in range(40)]
    day.write_text("\n".join(["time,a,b,bad", *rows]) + "\n")
    result = run("replay", str(model), str(day), "--label", "bad", "--enter", "500")
    assert "median delay 4 s, and 5 s more for the look-ahead" in result.output


def test_replay_says_what_it_ignores_and_what_it_found(tmp_path: Path) -> None:
    day = write_day(tmp_path / "day.csv")
    scores, flags = tmp_path / "s.jsonl", tmp_path / "f.jsonl"
    options = (
        "--scores",
        str(scores),
        "--flags",
        str(flags),
        "--enter",
        "0.5",
        "--hold-steps",
        "1",
    )
    result = run("replay", str(sample_model()), str(day), *options)
    assert result.exit_code == 0, result.output
    assert result.output.count("extra") == 1
    assert "50 samples of 1 streams" in result.output
    raised = [json.loads(line) for line in flags.read_text().splitlines()]
    assert raised
    assert set(raised[0]) == {"id", "stream", "ts", "event", "score", "status", "top", "model"}
    assert set(json.loads(scores.read_text().splitlines()[0])) == {
        *("stream", "ts", "score", "status", "alarm")
    }


def test_a_replay_gives_back_the_counts(tmp_path: Path) -> None:
    counts = [(0, 5), (1, 6), (1, ""), (1, 6), (1, 7)]
    rows = [f"2026-01-01T00:00:{t:02d}Z,1,2,3,{count}" for t, count in counts]
    day, scores = tmp_path / "day.csv", tmp_path / "s.jsonl"
    day.write_text("\n".join(["time,current,pressure,vibration,n", *rows]) + "\n")
    options = ("--seq-column", "n", "--time-column", "time", "--scores", str(scores))
    result = run("replay", str(sample_model()), str(day), *options)
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["seq"] for line in scores.read_text().splitlines()] == [5, 6, 7]
    assert "rejected: 1 late, 1 duplicate" in result.output
    assert "ignored" not in result.output
    day.write_text(day.read_text().replace(",7", ",7.5"))
    result = run("replay", str(sample_model()), str(day), *options)
    assert "column 'n': wanted whole numbers of 0 to 9007199254740992, got 7.5 in row 4" in (
        result.output
    )
    result = run(
        "replay", str(sample_model()), str(day), "--time-column", "time", "--seq-column", "m"
    )
    assert "wanted a column 'm'" in result.output


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    day = write_day(tmp_path / "day.csv")
    (tmp_path / "file").touch()
    for option in ("--scores", "--flags"):
        path = tmp_path / "file" / "out.jsonl"
        result = run("replay", str(sample_model()), str(day), option, str(path))
        assert result.exit_code == 1
        assert f"{path}: cannot be written: " in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)


GATEWAY = """
[broker]
url = "mqtt://127.0.0.1"
client_id = "gw"
[state]
path = "gateway.db"
[[pipeline]]
model = "m.onnx"
topic = "f/{m}"
stream = "{m}"
publish = "a/{m}"
"""


def gateway(folder: Path, model: bytes, lines: str) -> Path:
    (folder / "m.onnx").write_bytes(model)
    path = folder / "gateway.toml"
    path.write_text(GATEWAY + lines + "\n")
    return path


def test_a_replay_keeps_all_rules_of_its_gateway(tmp_path: Path) -> None:
    lines = 'late = "reorder"\nreorder_ms = 3000\nhold_ms = 1500\n'
    path = gateway(tmp_path, sample_model().read_bytes(), lines)
    day, scores = tmp_path / "day.csv", tmp_path / "s.jsonl"
    rows = [f"2026-01-01T00:00:{t:02d}Z,1,2,3" for t in (0, 1, 3, 2, 4, 5, 6, 9, 10, 11, 12, 13)]
    day.write_text("\n".join(["time,current,pressure,vibration", *rows]) + "\n")
    options = ("--gateway", str(path), "--scores", str(scores))
    result = run("replay", str(tmp_path / "m.onnx"), str(day), *options)
    assert result.exit_code == 0, result.output
    said = [json.loads(line) for line in scores.read_text().splitlines()]
    assert [line["ts"] // 1000 % 60 for line in said] == [0, 1, 2, 3, 4, 5, 6, 9, 10]
    assert [line["status"] for line in said] == ["warming_up"] * 4 + ["ok"] * 3 + ["uncertain"] * 2
    assert (
        "waits 3000 ms for late samples: scores come 3000 ms late at least; "
        "3 samples still wait at the end"
    ) in result.output
    again = run("replay", str(tmp_path / "m.onnx"), str(day), *options, "--json")
    report = json.loads(again.stdout)
    assert (report["reorder_ms"], report["held_at_the_end"]) == (3000, 3)
    assert report["streams"][0]["unscored"] == 3


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            "max_delay_ms = 0",
            "model: wanted scores after 0 ms at most (max_delay_ms), the model looks 5 samples of "
            "1000 ms ahead: 5000 ms",
        ),
        (
            'max_delay_ms = 5999\nlate = "reorder"\nreorder_ms = 1000',
            "model: wanted scores after 5999 ms at most (max_delay_ms), the model looks 5 samples "
            "of 1000 ms ahead and reorder_ms is 1000: 6000 ms",
        ),
        (
            "hold_ms = 999",
            "hold_ms: wanted 1000 (the model's sample period) to 5000 (max_gap)",
        ),
        (
            "hold_ms = 5001",
            "hold_ms: wanted 1000 (the model's sample period) to 5000 (max_gap)",
        ),
        ("evict_after_h = 0.001", "evict_after_h: must not be shorter than the model's max_gap_ms"),
        (
            'late = "reorder"\nreorder_ms = 4096001',
            "reorder_ms: wanted 4.096e+06 at most, which are 4096 samples",
        ),
    ],
)
def test_a_gateway_that_does_not_fit_its_model_is_refused(
    tmp_path: Path, lines: str, problem: str
) -> None:
    path = gateway(tmp_path, look_ahead_model(5), lines)
    day = tmp_path / "day.csv"
    day.write_text("time,a,b\n2026-01-01T00:00:00Z,1,2\n")
    for command in (
        ("replay", str(tmp_path / "m.onnx"), str(day), "--gateway", str(path)),
        ("check", str(path)),
    ):
        result = run(*command)
        assert result.exit_code == 1
        assert f"gateway.toml: [[pipeline]] 1 {problem}" in result.output


def test_check_says_how_long_the_window_holds(tmp_path: Path) -> None:
    path = gateway(tmp_path, look_ahead_model(5), 'late = "reorder"\nreorder_ms = 1500')
    assert (
        "looks 5 samples ahead, waits 1500 ms for late samples: each score comes 6500 ms late, "
        "or until the sample after that"
    ) in run("check", str(path)).output
    path = gateway(tmp_path, sample_model().read_bytes(), 'late = "reorder"\nreorder_ms = 1500')
    assert "waits 1500 ms for late samples: each score comes 1500 ms late" in (
        run("check", str(path)).output
    )


def test_replay_without_a_sensor_names_file_and_column(tmp_path: Path) -> None:
    day = write_day(tmp_path / "day.csv")
    day.write_text(day.read_text().replace("pressure", "presure"))
    result = run("replay", str(sample_model()), str(day))
    assert result.exit_code == 1
    assert "'pressure'" in result.output
    assert "'presure'" in result.output
    assert "day.csv" in result.output


def test_a_lower_threshold_keeps_its_hysteresis(tmp_path: Path) -> None:
    day = write_day(tmp_path / "day.csv")
    assert run("replay", str(sample_model()), str(day), "--enter", "0.2").exit_code == 0
    result = run("replay", str(sample_model()), str(day), "--enter", "0.2", "--leave", "0.3")
    assert result.exit_code == 1
    assert "must not exceed enter" in result.output


@pytest.mark.parametrize("option", ["--scores", "--flags", "--plot"])
@pytest.mark.parametrize("victim", ["day.csv", "model.onnx"])
def test_replay_does_not_write_over_what_it_reads(tmp_path: Path, option: str, victim: str) -> None:
    day = write_day(tmp_path / "day.csv")
    model = tmp_path / "model.onnx"
    model.write_bytes(sample_model().read_bytes())
    before = (tmp_path / victim).read_bytes()
    result = run("replay", str(model), str(day), option, str(tmp_path / victim))
    assert result.exit_code == 2
    assert "would be overwritten" in result.output
    assert (tmp_path / victim).read_bytes() == before


def test_replay_does_not_write_two_things_into_one_file(tmp_path: Path) -> None:
    day, out = write_day(tmp_path / "day.csv"), str(tmp_path / "out.jsonl")
    result = run("replay", str(sample_model()), str(day), "--scores", out, "--flags", out)
    assert result.exit_code == 2
    assert not Path(out).exists()


def test_replay_warns_when_little_could_be_judged(tmp_path: Path) -> None:
    day = write_day(tmp_path / "day.csv")
    hourly = day.read_text().replace("T00:00:", "T").replace("Z,", ":00:00Z,")
    hours = [line for line in hourly.splitlines() if line.startswith("time") or line[11:13] < "24"]
    day.write_text("\n".join(hours) + "\n")
    result = run("replay", str(sample_model()), str(day))
    assert result.exit_code == 0, result.output
    assert "WARNING: day: only 0 of 24 samples could raise an alarm" in result.output
    assert "started afresh 23 times" in result.output


def test_replay_warns_when_machines_are_mixed_in_one_file(tmp_path: Path) -> None:
    day = write_day(tmp_path / "day.csv")
    header, *rows = day.read_text().splitlines()
    day.write_text("\n".join([header, *rows, *rows]) + "\n")
    result = run("replay", str(sample_model()), str(day))
    assert "50% of the samples were not scored" in result.output
    assert "--stream-column" in result.output
