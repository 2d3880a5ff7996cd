"""`andon export` as people and programs use it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from edge_runtime.cli import main
from edge_runtime.session import load_model
from export import to_onnx
from sample_models import sample_detector, sample_meta, sample_model
from train.detectors import save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run as `andon train` leaves it, of the model that `sample_model` exports."""
    folder = tmp_path / "run"
    save_checkpoint(folder / "checkpoint.pt", sample_detector(), sample_meta())
    return folder


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes tracing free for a test that is about what comes after it."""
    proto = onnx.load(sample_model())
    proto.ClearField("metadata_props")
    monkeypatch.setattr(to_onnx, "trace", lambda _: proto)


def andon_export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def assert_refused(result: Result, output: Path, reason: str, code: int = 1) -> None:
    """One sentence on standard error, nothing on standard output, no file of any name."""
    assert result.exit_code == code
    assert result.stdout == ""
    assert reason in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not output.exists()
    assert not list(output.parent.glob(f".{output.stem}*"))


def test_a_new_process_on_another_persons_account_writes_the_same_bytes(
    run_folder: Path, tmp_path: Path
) -> None:
    """Nothing in the file tells who exported it, where, or after what; nothing else is said."""
    home = tmp_path / "home-of-a-colleague"
    home.mkdir()
    who = {"HOME": str(home), "USER": "a-colleague", "LOGNAME": "a-colleague"}
    finished = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "export", "run", "-o", "pump.onnx"],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONWARNINGS="default", **who),
        capture_output=True,
        text=True,
        check=True,
    )
    content = (tmp_path / "pump.onnx").read_bytes()
    assert content == sample_model().read_bytes()
    places = (home, tmp_path, ROOT, sys.prefix, Path(torch.__file__).parent)
    traces = ("a-colleague", "site-packages", "Traceback", 'File "', ".py", "pkg.torch")
    for private in (*map(str, places), *traces):
        assert private.encode() not in content
    assert finished.stdout == ""
    lines = finished.stderr.splitlines()
    assert lines[:4] == [
        "tracing",
        "comparing with PyTorch over 512 steps of 7 streams",
        "comparing with itself, split and batched in every way",
        "writing pump.onnx",
    ]
    assert lines[4] == f"pump.onnx: {len(content) / 1024:.0f} KiB, carries h, c, forecast"
    assert lines[5].startswith("  against PyTorch, 512 steps x 7 streams: score within ")
    assert lines[6] == "  against itself, 19 ways of splitting and batching: the same bits"
    assert lines[7:] == [
        "next: andon inspect pump.onnx, then andon replay pump.onnx FILE...",
    ]
    assert sorted(tmp_path.iterdir()) == [home, tmp_path / "pump.onnx", run_folder]


@pytest.mark.usefixtures("traced_once")
def test_json_goes_to_standard_output_and_nothing_else_does(
    run_folder: Path, tmp_path: Path
) -> None:
    """From the checkpoint file itself as well as from its folder, over an older model."""
    output = tmp_path / "pump.onnx"
    output.write_bytes(b"the model of last year")
    result = andon_export(run_folder / "checkpoint.pt", "-o", output, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert 0 < said.pop("score_error") < 1e-5
    assert said == {
        "schema": 1,
        "model": str(output),
        "bytes": output.stat().st_size,
        "states": ["h", "c", "forecast"],
        "steps": 512,
        "streams": 7,
        "exact_runs": 19,
    }
    assert "next:" not in result.stderr
    assert load_model(output).contract == load_model(sample_model()).contract


def test_a_run_that_is_none_is_named(tmp_path: Path) -> None:
    output = tmp_path / "pump.onnx"
    missing = andon_export(tmp_path / "nowhere", "-o", output)
    assert_refused(missing, output, "nowhere' does not exist", code=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    result = andon_export(empty, "-o", output)
    assert_refused(result, output, "cannot read the checkpoint: No such file or directory")
    assert str(empty) in result.stderr


def test_a_truncated_checkpoint_is_refused(run_folder: Path, tmp_path: Path) -> None:
    checkpoint, output = run_folder / "checkpoint.pt", tmp_path / "pump.onnx"
    content = checkpoint.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        checkpoint.write_bytes(content[:length])
        result = andon_export(run_folder, "-o", output)
        assert_refused(result, output, "not a checkpoint of andon, or a damaged one")


def test_what_is_no_checkpoint_is_refused(run_folder: Path, tmp_path: Path) -> None:
    checkpoint, output = run_folder / "checkpoint.pt", tmp_path / "pump.onnx"
    torch.save({"weights": torch.zeros(3)}, checkpoint)
    result = andon_export(run_folder, "-o", output)
    assert_refused(result, output, "wanted a checkpoint of andon, got another PyTorch file")
    result = andon_export(sample_model(), "-o", output)
    assert_refused(result, output, "not a checkpoint of andon, or a damaged one")


def test_a_checkpoint_of_a_newer_andon_is_refused(run_folder: Path, tmp_path: Path) -> None:
    checkpoint, output = run_folder / "checkpoint.pt", tmp_path / "pump.onnx"
    saved = torch.load(checkpoint, weights_only=True)
    torch.save({**saved, "schema": 5}, checkpoint)
    result = andon_export(run_folder, "-o", output)
    assert_refused(result, output, "wanted checkpoint schema 4, got 5")
    saved["content"]["model"]["cell"] = "transformer"
    torch.save(saved, checkpoint)
    result = andon_export(run_folder, "-o", output)
    assert_refused(result, output, 'got "transformer"')


def test_a_refused_export_is_one_sentence(run_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "pump.onnx"
    detector = sample_detector()
    with torch.no_grad():
        detector.head.linear.bias[0] = torch.nan
    save_checkpoint(run_folder / "checkpoint.pt", detector, sample_meta())
    result = andon_export(run_folder, "-o", output, "--json")
    reason = "Error: head.linear.bias holds NaN or infinity; the training has diverged"
    assert_refused(result, output, reason)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("traced_once")
def test_an_output_that_cannot_be_a_file_is_named(run_folder: Path) -> None:
    result = andon_export(run_folder, "-o", run_folder)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is a directory" in result.stderr
    checkpoint = run_folder / "checkpoint.pt"
    result = andon_export(run_folder, "-o", checkpoint / "pump.onnx")
    assert_refused(result, checkpoint / "pump.onnx", "pump.onnx: cannot be written: ")
    assert list(run_folder.iterdir()) == [checkpoint]
    assert andon_export(run_folder).exit_code == 2


def test_help_says_what_it_does_with_an_example() -> None:
    result = andon_export("--help")
    assert result.exit_code == 0
    assert "Example: andon export run -o pump.onnx" in result.stdout
    assert "if a promise does not hold, nothing is written" in " ".join(result.stdout.split())
