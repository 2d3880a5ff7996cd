"""`andon adopt` as its users see it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_runtime.cli import main
from edge_runtime.session import load_model
from handmade_models import Layout, layout_graph, one_step_graph

SAID = ("--input", "x", "--state", "state=stateN", "--constant", "sr=4", "--score", "out")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "vad.onnx"
    path.write_bytes(one_step_graph().SerializeToString())
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["adopt", *map(str, arguments)])


def test_without_options_it_says_what_the_file_has_and_writes_nothing(model: Path) -> None:
    result = run(model)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[3:] == [
        f"Error: wanted --input, --score, -o; {model} has",
        "  input   x       float32 [batch, 2]",
        "  input   state   float32 [2, batch, 128]",
        "  input   sr      int64 []",
        "  output  out     float32 [batch, 1]",
        "  output  stateN  float32 [2, batch, 128]",
        "a guess from names, dtypes and shapes, to be checked:",
        f"  andon adopt {model} --input x --state state=stateN --constant sr=VALUE --score out "
        "-o ADOPTED.onnx",
    ]
    assert list(model.parent.iterdir()) == [model]
    assert "wanted -o; " in run(model, *SAID).stderr


def test_what_was_found_goes_to_people(model: Path) -> None:
    output = model.parent / "adopted.onnx"
    result = run(model, *SAID, "-o", output)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "finding the axes",
        "running it in chunks, in batches and beside wild neighbours",
        "verifying the file as a gateway would load it",
        f"writing {output}",
        f"{output}: {output.stat().st_size / 1024:.0f} KiB",
        "  x      x: float32 [stream, feature], 2 features; called for each sample",
        "  score  out: [stream, 1]",
        "  state  state -> stateN: float32 [2, stream, 128], starts at 0",
        "  rows   alone and in 24 batches: the same bits",
        f"next: andon inspect {output}, then andon replay {output} FILE...",
        "note: no --period-ms: 1000 ms between two samples are assumed",
    ]


def test_what_was_found_goes_to_programs(model: Path) -> None:
    output = model.parent / "adopted.onnx"
    result = run(model, *SAID, "-o", output, "--json", "--initial", "state=0.5")
    assert json.loads(result.stdout) == {
        "schema": 1,
        "model": str(output),
        "bytes": output.stat().st_size,
        "x_shape": ["stream", "feature"],
        "score_shape": ["stream", 1],
        "features": 2,
        "states": [
            {
                "input": "state",
                "output": "stateN",
                "shape": [2, "stream", 128],
                "dtype": "float32",
                "initial": 0.5,
                "kept": False,
            }
        ],
        "one_stream": False,
        "batches": 24,
        "warnings": [],
    }
    assert "next:" not in result.stderr


def test_every_option_reaches_the_contract(tmp_path: Path) -> None:
    model, output = tmp_path / "m.onnx", tmp_path / "adopted.onnx"
    model.write_bytes(layout_graph(Layout()).SerializeToString())
    options = "--input x --state sum=sum_next --initial sum=2 --shape sum=stream,1 --score score"
    options += " --contribution contribution --feature left --feature right --features 2"
    options += " --axes time,stream,feature --one-stream --look-ahead 2 --period-ms 20"
    options += " --max-gap-ms 70 --warm-up 5"
    result = run(model, *options.split(), "-o", output)
    assert result.exit_code == 0, result.output
    assert "--period-ms" not in result.output
    contract = load_model(output).contract
    assert contract.feature_names == ("left", "right")
    assert contract.states[0].initial == 2
    assert contract.contribution == "contribution"
    assert (contract.look_ahead, contract.warm_up_steps) == (2, 5)
    assert (contract.sample_period_ms, contract.max_gap_ms) == (20, 70)
    assert contract.one_stream
    run(model, *options.split(), "--max-gap-ms", "20", "-o", output)
    assert load_model(output).contract.max_gap_ms == 20


def test_a_silence_of_five_periods_starts_afresh(model: Path) -> None:
    output = model.parent / "adopted.onnx"
    run(model, *SAID, "--period-ms", "32", "-o", output)
    assert load_model(output).contract.max_gap_ms == 160


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--state", "h"), "--state wants NAME=VALUE, got 'h'"),
        (("--constant", "sr="), "--constant wants NAME=VALUE, got 'sr='"),
        (("--constant", "sr=4"), "--constant sr stands twice"),
        (("--initial", "state=none"), "--initial state: wanted a number, got 'none'"),
        (("--feature", "a", "--features", "2"), "--features 2, but 1 have a --feature"),
        (("--look-ahead", "-1"), "-1 is not in the range"),
    ],
)
def test_options_that_make_no_sense(model: Path, options: tuple[str, ...], words: str) -> None:
    result = run(model, *SAID, *options, "-o", model.parent / "adopted.onnx")
    assert result.exit_code == 2
    assert words in result.stderr
    assert list(model.parent.iterdir()) == [model]


def test_the_file_itself_is_not_written_over(model: Path) -> None:
    before = model.read_bytes()
    result = run(model, *SAID, "-o", model)
    assert result.exit_code == 2
    assert "would be overwritten" in result.stderr
    assert model.read_bytes() == before


def test_a_contract_is_replaced_only_by_force(model: Path) -> None:
    first, second = model.parent / "first.onnx", model.parent / "second.onnx"
    assert run(model, *SAID, "-o", first).exit_code == 0
    refused = run(first, *SAID, "-o", second)
    assert refused.exit_code == 1
    assert "first.onnx has a contract already; --force replaces it" in refused.stderr
    assert not second.exists()
    assert run(first, *SAID, "--force", "--warm-up", "7", "-o", second).exit_code == 0
    assert load_model(second).contract.warm_up_steps == 7


def test_a_refusal_is_a_sentence_and_leaves_an_older_file_alone(model: Path) -> None:
    output = model.parent / "adopted.onnx"
    output.write_bytes(b"the model of last year")
    result = run(model, *SAID, "--features", "3", "-o", output)
    assert result.exit_code == 1
    assert "x x: float32 [batch, 2] has no place for 3 features" in result.stderr
    assert "Traceback" not in result.stderr
    assert output.read_bytes() == b"the model of last year"
    unwritable = run(model, *SAID, "-o", model / "adopted.onnx")
    assert unwritable.exit_code == 1
    assert "adopted.onnx: cannot be written: " in unwritable.stderr


def test_a_model_without_a_contract_says_how_it_gets_one(model: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", str(model)])
    assert result.exit_code == 1
    assert "give it one with `andon adopt`" in result.stderr
