"""What is read off the sensors instead of forecast, and what is read both ways."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edge_runtime.cli import main
from edge_runtime.errors import ConfigError, TrainingError
from edge_runtime.session import load_model
from train import loop
from train.calibration import measure_warm_up
from train.config import ModelConfig, TrainConfig, TrainingConfig, override
from train.data import History, Segment
from train.detector import Detector, Target
from train.detectors import load_checkpoint, save_checkpoint
from train.experiment import find_target, require_enough
from train.heads import Classify, Estimate
from train.windows import Piece, lay_out, pieces

ROWS = 1200
SMALL = ["--hidden", "8", "--window", "16", "--epochs", "8", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A load and its running mean, which no sensor shows, and whether the mean is high."""
    rng = np.random.default_rng(0)
    load = np.repeat(rng.uniform(0, 10, ROWS // 10), 10) + 0.01 * rng.standard_normal(ROWS)
    heat = np.zeros(ROWS)
    for row in range(1, ROWS):
        heat[row] = 0.8 * heat[row - 1] + 0.2 * load[row]
    mode = (heat > 5).astype(int) + 2  # classes need not begin at 0
    lines = ["time,load,heat,mode"]
    start = np.datetime64("2026-01-05T06:00:00")
    lines += [f"{start + row}Z,{load[row]:.4f},{heat[row]:.4f},{mode[row]}" for row in range(ROWS)]
    path = tmp_path_factory.mktemp("targets") / "oven.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def andon(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def succeeded(result: Result) -> Result:
    assert result.exit_code == 0, result.stderr
    return result


def column(path: Path, name: str) -> NDArray[np.float64]:
    head, *lines = path.read_text().splitlines()
    at = head.split(",").index(name)
    return np.array([float(line.split(",")[at]) for line in lines])


def scores(model: Path, table: Path, folder: Path) -> NDArray[np.float64]:
    out = folder / "scores.jsonl"
    succeeded(andon("replay", model, table, "--scores", out))
    return np.array([json.loads(line)["score"] for line in out.read_text().splitlines()])


@pytest.mark.parametrize("look_ahead", [0, 3])
def test_a_soft_sensor_says_the_number_in_its_own_units(
    table: Path, tmp_path: Path, look_ahead: int
) -> None:
    more = ["--target", "heat", "--ignore", "mode", "--cell", "gru"]
    more += ["--look-ahead", str(look_ahead)]
    run, model = tmp_path / "run", tmp_path / "heat.onnx"
    told = succeeded(andon("train", table, "-o", run, *SMALL, *more))
    assert "level     none: the score is the target" in told.stderr
    assert "telling heat" in told.stderr
    report = json.loads((run / "run.json").read_text())
    assert report["calibration"] is None
    assert report["training"]["target"] == "heat"
    assert report["training"]["validation_loss"] < report["training"]["baselines"]["mean value"] / 4
    succeeded(andon("export", run, "-o", model))
    contract = load_model(model).contract
    assert (contract.calibration, contract.contribution) == (None, None)
    assert contract.feature_names == ("load",)
    said, heat = scores(model, table, tmp_path), column(table, "heat")
    assert len(said) == ROWS - look_ahead
    error = np.sqrt(np.mean((said - heat[: len(said)])[-200:] ** 2))
    assert error < heat.std() / 2


def test_classes_are_told_by_their_values(table: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "mode.onnx"
    more = ["--target", "mode", "--cost", "cross_entropy", "--ignore", "heat", "--cell", "lstm"]
    succeeded(andon("train", table, "-o", run, *SMALL, *more))
    report = json.loads((run / "run.json").read_text())
    training = report["training"]
    assert training["validation_loss"] < training["baselines"]["frequencies"] / 2
    assert load_checkpoint(run).detector.target == Target("mode", (2.0, 3.0))
    succeeded(andon("export", run, "-o", model))
    said, mode = scores(model, table, tmp_path), column(table, "mode")
    assert set(said) == {2.0, 3.0}
    assert np.mean(said == mode) > 0.9


def test_mixed_layers_and_their_options_go_from_the_command_line_to_the_file(
    table: Path, tmp_path: Path
) -> None:
    run, model = tmp_path / "run", tmp_path / "mixed.onnx"
    layers = ["--layers", "gru, clockwork", "--reset", "before", "--periods", "1,4"]
    more = ["--look-ahead", "2", "--clip-value", "0.5", "--clip-norm", "0"]
    small = ["--hidden", "8", "--window", "16", "--epochs", "2"]
    told = succeeded(andon("train", table, "-o", run, *small, *layers, *more))
    assert "network   1 gru and 1 clockwork of 8, 2 samples ahead, forecasting" in told.stderr
    training = json.loads((run / "run.json").read_text())["training"]
    assert training["layers"] == ["gru", "clockwork"]
    assert (training["reset"], training["periods"]) == ("before", [1, 4])
    assert (training["clip_value"], training["clip_norm"]) == (0.5, 0.0)
    succeeded(andon("export", run, "-o", model))
    contract = load_model(model).contract
    assert contract.look_ahead == 2
    assert [state.input for state in contract.states] == [
        *("h_1", "h_2", "clock_2", "buffer", "forecast")
    ]
    assert len(scores(model, table, tmp_path)) == ROWS - 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--cell", "lsmt"], "--cell: wanted a cell, one of dense, elman, "),
        (["--layers", "gru,lsmt"], "--layers 2: wanted a cell, one of dense, elman, "),
        (["--cell", "clockwork", "--hidden", "9"], "--hidden: clockwork: 4 periods [1, 2, 4, 8]"),
        (["--periods", "1,two"], "wanted whole numbers with commas between them, got '1,two'"),
        (["--cost", "cross_entropy"], '--cost: "cross_entropy" tells a target\'s values apart'),
        (["--target", "hat"], "no target 'hat': did you mean heat?"),
        (["--target", "heat", "--feature", "heat"], '--target: "heat" is also a feature'),
        (
            ["--target", "heat", "--cost", "cross_entropy"],
            "cross_entropy tells at most 256 apart",
        ),
        (["--look-ahead", "300"], "--look-ahead: wanted 0 to 256, got 300"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_the_option(
    table: Path, tmp_path: Path, options: list[str], reason: str
) -> None:
    result = andon("train", table, "-o", tmp_path / "run", *options)
    assert result.exit_code != 0
    assert reason in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("written", "given", "cells", "options"),
    [
        ({"layers": ("gru", "lstm")}, {"cell": "gru"}, ("gru",), {}),
        ({"cell": "gru", "layers": 2}, {"cell": "lstm"}, ("lstm", "lstm"), {}),
        ({"cell": "gru", "reset": "before"}, {"cell": "lstm"}, ("lstm",), {}),
        ({"cell": "gru", "reset": "before"}, {"layers": ("lstm", "gru")}, ("lstm", "gru"), None),
        ({"cell": "gru"}, {"layers": 3}, ("gru",) * 3, {}),
    ],
)
def test_cells_that_are_given_take_the_place_of_those_of_the_file(
    written: dict[str, Any], given: dict[str, Any], cells: tuple[str, ...], options: Any
) -> None:
    model = override(TrainConfig(model=ModelConfig(**written)), given).model
    assert model.cells == cells
    assert model.options == ({"reset": "before"} if options is None else options)


def test_two_options_that_name_the_cells_are_refused() -> None:
    with pytest.raises(ConfigError, match="--cell: layers names the cells already"):
        override(TrainConfig(), {"cell": "gru", "layers": ("gru", "lstm")})


def test_classes_that_float32_merges_are_refused() -> None:
    with pytest.raises(TrainingError, match="cannot tell 100000001 and 100000002 apart"):
        find_target(history([100000001.0, 100000002.0] * 10), "cross_entropy")


def test_segments_too_short_to_look_ahead_are_refused() -> None:
    short = [Segment("s", np.zeros((400, 1)), *(133, 266)) for _ in range(12)]
    found = History(("x",), tuple(short), 1000.0, 5000.0, ("a.csv",), "")
    with pytest.raises(TrainingError, match="at least 464 samples; the longest has 400"):
        require_enough(found, look_ahead=200)


def test_a_clock_that_turns_over_too_late_is_said() -> None:
    torch.manual_seed(0)
    model = ModelConfig(cell="clockwork", hidden=4, periods=(1, 512))
    detector = Detector(("a",), model).eval()
    values = np.random.default_rng(0).standard_normal((2000, 1))
    notices: list[str] = []
    measure_warm_up(detector, [Segment("s", values[:800], 800, 800)], notices.append)
    assert "the clock of this network turns over only after 512 samples" in notices[0]
    notices.clear()
    assert measure_warm_up(detector, [Segment("s", values, 2000, 2000)], notices.append) <= 512


def history(target: list[float]) -> History:
    values = np.zeros((len(target), 1))
    fit, judged = round(0.7 * len(target)), round(0.85 * len(target))
    segment = Segment("s", values, fit, judged, np.array(target))
    return History(("x",), (segment,), 1000.0, 5000.0, ("a.csv",), "", target="y")


@pytest.mark.parametrize(
    ("target", "cost", "reason"),
    [
        ([1.0] * 20, "cross_entropy", "is always 1: nothing to learn"),
        ([1.0, 2.0] * 7 + [3.0] * 6, "cross_entropy", "never have the value 3, later ones do"),
        ([float(n) for n in range(600)], "cross_entropy", "has 600 values"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_refused(
    target: list[float], cost: str, reason: str
) -> None:
    with pytest.raises(TrainingError, match=reason):
        find_target(history(target), cost)


def test_without_a_target_column_there_is_no_target() -> None:
    assert find_target(History(("x",), (), 1.0, 1.0, (), ""), "squared_error") is None
    assert find_target(history([1.0, 2.0] * 10), "squared_error") == Target("y")


# --- Windows that lag ----------------------------------------------------------------------------


@pytest.mark.parametrize("look_ahead", [0, 1, 3, 9])
def test_what_is_due_is_what_counts(look_ahead: int) -> None:
    """Row by row: what a model that only delays gives is the target that the windows hold."""
    values = np.arange(1, 31, dtype=np.float64).reshape(-1, 1)
    piece = Piece(values, first=4, target=10 * values[:, 0])
    windows = lay_out([piece, Piece(values[:11], 2, 10 * values[:11, 0])], 8, 2, look_ahead)
    counted = []
    for lane in range(windows.lanes):
        x = windows.x[:, :, lane, 0].flatten()
        delayed = torch.cat([torch.zeros(look_ahead), x[: len(x) - look_ahead]])
        counts = windows.counts[:, :, lane].flatten().bool()
        target = windows.target[:, :, lane].flatten()
        assert torch.equal(target[counts], 10 * delayed[counts])
        counted.append(delayed[counts].tolist())
    assert counted == [
        list(range(5, 31 - look_ahead)),
        list(range(3, 12 - look_ahead)),
    ]


def test_a_piece_that_is_only_looked_ahead_at_is_left_out() -> None:
    segments = [Segment("s", np.zeros((rows, 1)), rows, rows) for rows in (40, 9)]
    assert len(pieces(segments, "fit", 1, 4, look_ahead=0)) == 2
    (left,) = pieces(segments, "fit", 1, 4, look_ahead=5)
    assert len(left.values) == 40


def test_pieces_look_ahead_into_the_next_but_not_into_a_later_use() -> None:
    values = np.arange(40, dtype=np.float64).reshape(-1, 1)
    (segment,) = [Segment("s", values, 24, 40)]
    parts = pieces([segment], "fit", 3, 1, look_ahead=2)
    assert [part.values[[0, -1], 0].tolist() for part in parts] == [[0, 9], [7, 17], [15, 23]]
    due = [(p.values[p.first, 0], p.values[-1, 0] - 2) for p in parts]
    assert due == [(1, 7), (8, 15), (16, 21)]  # every row once, but for the last two


def test_a_history_too_short_to_look_ahead_says_so() -> None:
    segment = Segment("s", np.zeros((700, 1)), 490, 595)
    found = History(("x",), (segment,), 1000.0, 5000.0, ("a.csv",), "")
    require_enough(found)
    with pytest.raises(TrainingError, match="the last 80 samples are only looked ahead at"):
        require_enough(found, look_ahead=80)


@pytest.mark.parametrize("lanes", [1, 2])
def test_errors_in_windows_are_those_of_one_long_run(lanes: int) -> None:
    """The buffer is carried from window to window, and forgotten between pieces."""
    torch.manual_seed(0)
    detector = Detector(("a", "b"), ModelConfig(cell="elman", hidden=8, look_ahead=4)).eval()
    rng = np.random.default_rng(0)
    parts = [Piece(rng.standard_normal((rows, 2)), 1) for rows in (37, 21, 16)]
    together = loop.errors(detector, lay_out(parts, 8, lanes, look_ahead=4))
    alone = []
    for part in parts:
        x = torch.from_numpy(part.values).float().unsqueeze(1)
        with torch.no_grad():
            error, _ = detector.errors(x, detector.initial_state(1))
        alone.append(error[1 + 4 :, 0].double().numpy())
    wanted = np.sort(np.concatenate(alone), axis=0)
    np.testing.assert_allclose(np.sort(together, axis=0), wanted, atol=1e-6)


def test_a_clock_inside_does_not_make_the_warm_up_endless() -> None:
    """A cold start is in step with a clock again only after a full turn of it."""
    torch.manual_seed(0)
    detector = Detector(("a",), ModelConfig(cell="clockwork", hidden=8)).eval()
    with torch.no_grad():
        detector.layers.forth.cells[0].get_parameter("W").mul_(10)
        detector.head.linear.weight.mul_(10)
    values = np.random.default_rng(0).standard_normal((203, 1))
    notices: list[str] = []
    segments = [Segment("s", values, 203, 203)]
    assert measure_warm_up(detector, segments, notices.append) < 60
    assert notices == []


@pytest.mark.parametrize(
    ("periods", "rows", "look_ahead"), [((1, 20000), 45_000, 0), ((1, 257), 1000, 256)]
)
def test_a_clock_too_slow_to_be_tried_makes_the_warm_up_a_guess(
    periods: tuple[int, ...], rows: int, look_ahead: int
) -> None:
    """Not a stretch of 20,000 samples from 64 places, nor one of a single sample."""
    torch.manual_seed(0)
    model = ModelConfig(cell="clockwork", hidden=4, periods=periods, look_ahead=look_ahead)
    detector = Detector(("a",), model).eval()
    values = np.random.default_rng(0).standard_normal((rows, 1))
    notices: list[str] = []
    measure_warm_up(detector, [Segment("s", values, rows, rows)], notices.append)
    assert f"only after {periods[-1]} samples" in notices[0]


@pytest.mark.parametrize("look_ahead", [0, 3])
def test_the_warm_up_counts_scores(look_ahead: int) -> None:
    """What a dense network remembers is one forecast, wherever it looks."""
    torch.manual_seed(0)
    detector = Detector(("a",), ModelConfig(cell="dense", hidden=8, look_ahead=look_ahead)).eval()
    values = np.random.default_rng(0).standard_normal((203, 1))
    assert measure_warm_up(detector, [Segment("s", values, 203, 203)], print) == 1


# --- Heads ---------------------------------------------------------------------------------------


def test_cross_entropy_is_that_of_the_right_class() -> None:
    head = Classify((4, 0), (2.0, 5.0, 7.0))
    odds = torch.tensor([[[0.0, 1.0, 2.0]], [[3.0, 0.0, 0.0]]])  # [time, stream, class]
    cost = head.cost(odds, None, torch.tensor([[5.0], [2.0]]))  # type: ignore[arg-type]
    by_hand = [np.log(np.exp([0, 1, 2]).sum()) - 1, np.log(np.exp([3, 0, 0]).sum()) - 3]
    np.testing.assert_allclose(cost.flatten().numpy(), by_hand, rtol=1e-6)
    assert head.answer(odds).flatten().tolist() == [7.0, 2.0]
    assert head.answer(torch.zeros(1, 1, 3)).item() == 2.0  # the lowest of equals


def test_squared_error_of_an_estimate_is_in_deviations() -> None:
    head = Estimate((4, 0))
    head.normalise_by(np.array([10.0, 30.0]))  # mean 20, deviation 10
    cost = head.cost(torch.tensor([[[0.5]]]), None, torch.tensor([[20.0]]))  # type: ignore[arg-type]
    assert cost.item() == 0.25
    assert head.answer(torch.tensor([[[0.5]]])).item() == 25.0


@pytest.mark.parametrize("target", [None, Target("y"), Target("y", (1.0, 4.0))])
def test_a_checkpoint_keeps_the_target_and_the_model(tmp_path: Path, target: Target | None) -> None:
    model = ModelConfig(layers=("clockwork", "gru"), hidden=4, periods=(1, 3), look_ahead=2)
    detector = Detector(("a", "b"), model, target)
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", detector, {})
    loaded = load_checkpoint(tmp_path / "run").detector
    assert (loaded.model, loaded.target, loaded.features) == (model, target, ("a", "b"))
    x: Any = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, _, _ = detector.eval()(x, detector.initial_state(2))
        score, _, _ = loaded(x, loaded.initial_state(2))
    assert torch.equal(score, wanted)


def test_a_state_of_another_cell_or_width_is_refused_with_both_shapes(tmp_path: Path) -> None:
    detector = Detector(("a",), ModelConfig(cell="gru", hidden=4))
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", detector, {})
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    saved["content"]["model"]["hidden"] = 6
    torch.save(saved, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(TrainingError, match=r"(?s)not complete.*\[12, 4\].*\[18, 6\]"):
        load_checkpoint(tmp_path / "run")


def test_the_loop_trains_on_a_target() -> None:
    """A GRU learns to delay by two; no cell without a memory could."""
    x = np.random.default_rng(0).choice([-1.0, 1.0], 800)
    delayed = np.concatenate([[0.0, 0.0], x[:-2]])
    part = Piece(x[:, None], 8, delayed)
    torch.manual_seed(0)
    costs = {}
    for cell in ("gru", "dense"):
        detector = Detector(("x",), ModelConfig(cell=cell, hidden=12), Target("y"))
        progress = loop.start(detector, learning_rate=0.02)
        config = TrainingConfig(epochs=12, patience=12)
        windows = lay_out([part], 16, 1)
        list(loop.fit(progress, windows, windows, config))
        costs[cell] = progress.best_epoch.validation_loss
    assert costs["gru"] < 0.05
    assert costs["dense"] > 0.9
