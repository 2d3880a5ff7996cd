"""`andon export --module`: a module of somebody else as a model file."""

import csv
import hashlib
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from edge_runtime.cli import main
from edge_runtime.contract import Contract, Feature, State
from edge_runtime.errors import ExportError
from edge_runtime.session import Float32, Session, load_model
from export import module as module_export
from export import sums, to_onnx
from export.factory import importable
from export.module import Wanted, export_module
from export.verify import plausible_samples
from own_module import own_model, own_module, package_folder
from sample_models import sample_model

SENSORS = ("current_a", "pressure_bar", "vibration_mm_s")
START_MS = 1_767_225_600_000  # 2026-01-01


def samples(steps: int, streams: int, seed: int = 3) -> Float32:
    rng = np.random.default_rng(seed)
    x = np.array([9.5, 2.5, 0.9]) + np.array([0.5, 0.2, 0.2]) * rng.normal(
        0, 1, (steps, streams, 3)
    )
    return x.round(3).astype(np.float32)


def by_hand(module: Any, x: Float32) -> tuple[Float32, Float32, dict[str, Any]]:
    """One call of ``step`` a sample, in PyTorch."""
    state, scores, shares = module.initial_state(x.shape[1]), [], []
    with torch.no_grad():
        for x_t in torch.from_numpy(x):
            outputs, state = module.step(x_t, state)
            scores.append(outputs["score"])
            shares.append(outputs["contribution"])
    after = {name: value.numpy() for name, value in state.items()}
    return torch.stack(scores).numpy(), torch.stack(shares).numpy(), after


def one_by_one(session: Session, x: Float32) -> Float32:
    """Scores of the model file, each sample of each stream in a call of its own."""
    scores = np.empty(x.shape[:2], np.float32)
    for stream in range(x.shape[1]):
        state = session.contract.initial_state(1)
        for t in range(x.shape[0]):
            outputs, state = session.run(x[t : t + 1, stream : stream + 1], state)
            scores[t, stream] = outputs.score[0, 0]
    return scores


def andon(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# --- A GRU written by hand -----------------------------------------------------------------------


def test_the_file_is_the_module_with_the_weights_of_the_file() -> None:
    session, x = load_model(own_model()), samples(300, 5)
    score, contribution, after = by_hand(own_module(), x)
    outputs, state = session.run(x, session.contract.initial_state(5))
    np.testing.assert_allclose(outputs.score, score, rtol=2e-5, atol=1e-6)
    assert outputs.contribution is not None
    np.testing.assert_allclose(outputs.contribution, contribution, rtol=2e-4, atol=1e-6)
    for name, value in after.items():
        np.testing.assert_allclose(state[name], value, rtol=1e-4, atol=1e-5)
    assert (state["seen"] == 300).all()
    with importable(package_folder()):
        other = importlib.import_module("own_pumps.model").make()
    assert np.abs(by_hand(other, x)[0] - score).max() > 0.1


def test_every_split_and_batch_gives_the_same_bits() -> None:
    session, x = load_model(own_model()), samples(60, 9)
    whole, _ = session.run(x, session.contract.initial_state(9))
    np.testing.assert_array_equal(one_by_one(session, x), whole.score)


def test_the_contract_says_what_the_module_says() -> None:
    contract = load_model(own_model()).contract
    assert contract.features == tuple(Feature(name) for name in SENSORS)
    assert contract.states == (
        State("h", "h_next", ("stream", 16)),
        State("forecast", "forecast_next", ("stream", 3)),
        State("spread", "spread_next", ("stream", 3), initial=1.0),
        State("seen", "seen_next", ("stream",), dtype="int64"),
    )
    assert (contract.sample_period_ms, contract.max_gap_ms) == (1000.0, 5000.0)
    assert (contract.warm_up_steps, contract.one_stream) == (4, False)
    assert (contract.contribution, contract.calibration) == ("contribution", None)
    digest = hashlib.sha256((package_folder() / "weights.pt").read_bytes()).hexdigest()
    assert contract.training == {"module": "own_pumps.model:make", "weights": digest}


def test_a_replay_gives_the_bits_of_calling_the_file_by_hand(tmp_path: Path) -> None:
    x = samples(80, 3)
    files = []
    for stream in range(3):
        files.append(tmp_path / f"m{stream}.csv")
        with files[-1].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["ts", *SENSORS])
            for t, row in enumerate(x[:, stream].tolist()):
                writer.writerow([START_MS + 1000 * t, *map(repr, row)])
    told = tmp_path / "scores.jsonl"
    result = andon("replay", own_model(), *files, "--scores", told)
    assert result.exit_code == 0, result.output
    scores = np.zeros((80, 3), np.float32)
    for line in map(json.loads, told.read_text().splitlines()):
        scores[(line["ts"] - START_MS) // 1000, int(line["stream"][1:])] = line["score"]
    np.testing.assert_array_equal(scores, one_by_one(load_model(own_model()), x))


def test_exporting_again_gives_the_same_bytes_and_says_so_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the folder of the package, as people do it."""
    monkeypatch.chdir(package_folder())
    output = tmp_path / "again.onnx"
    arguments = ("--module", "own_pumps.model:make", "--weights", "weights.pt", "--warm-up", "4")
    result = andon("export", *arguments, "-o", output, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert 0 < said.pop("score_error") < 1e-5
    assert said == {
        "schema": 1,
        "model": str(output),
        "bytes": output.stat().st_size,
        "states": ["h", "forecast", "spread", "seen"],
        "steps": 512,
        "streams": 7,
        "exact_runs": 19,
    }
    assert output.read_bytes() == own_model().read_bytes()
    assert result.stderr.splitlines()[:2] == [
        "note: neither --max-gap-ms nor the module says max_gap_ms: 5000 is assumed",
        "running the module, to see that it is closed",
    ]
    assert str(package_folder()).encode() not in output.read_bytes()


# --- What is said, and what is assumed -----------------------------------------------------------


class Small(nn.Module):
    """The least that a module may be: a state on its second axis, a score that is one column."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 0.25, 1.0, -0.5, 0.75]))

    def initial_state(self, streams: int) -> dict[str, Tensor]:
        return {"level": torch.full((5, streams), 0.125)}

    def step(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Any, Any]:
        level = 0.9 * state["level"].T + 0.1 * x  # [stream, feature]
        return self.scored(level, x), {"level": level.T}

    def scored(self, level: Tensor, x: Tensor) -> Tensor:
        return ((x - level) * self.weight).abs().amax(1, keepdim=True)


FIVE = ("a", "b", "c", "d", "e")


@pytest.fixture
def exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Contract, list[str]]]]:
    """Exports a module that is at hand; gives what was promised and what was said."""

    def export(made: nn.Module, **wanted: Any) -> tuple[Contract, list[str]]:
        monkeypatch.setattr(module_export, "made_by", lambda _: made.eval())
        said: list[str] = []
        path = tmp_path / "own.onnx"
        export_module(Wanted("her.own:make", **wanted), path, said.append)
        return load_model(path).contract, said

    yield export
    left = [path.name for path in tmp_path.iterdir()]
    assert left in ([], ["own.onnx"])


class Clamped(Small):
    """Two chains of bounds on one value."""

    def scored(self, level: Tensor, x: Tensor) -> Tensor:
        inner = (x - level).clamp(min=-1.0).clamp(max=1.0)
        outer = (x - level).clamp(min=-2.0).clamp(max=2.0)
        return ((inner + outer) * self.weight).abs().amax(1, keepdim=True)


def test_bounds_in_a_row_are_not_mixed_up(exported: Callable[..., Any]) -> None:
    """The optimizer of onnxscript gives the constants of both chains one name."""
    contract, _ = exported(Clamped(), features=FIVE)
    assert contract.feature_names == FIVE


def test_defaults_are_noted(exported: Callable[..., Any]) -> None:
    contract, said = exported(Small(), features=FIVE)
    assert contract.feature_names == FIVE
    assert (contract.sample_period_ms, contract.max_gap_ms) == (1000.0, 5000.0)
    assert (contract.warm_up_steps, contract.contribution) == (0, None)
    assert contract.states == (State("level", "level_next", (5, "stream"), initial=0.125),)
    assert said[:4] == [
        "note: no --weights, so the weights are those that the factory gives",
        "note: neither --period-ms nor the module says period_ms: 1000 is assumed",
        "note: neither --warm-up nor the module says warm_up_steps: 0 is assumed",
        "note: neither --max-gap-ms nor the module says max_gap_ms: 5000 is assumed",
    ]


def test_options_override_what_the_module_says(
    exported: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_export, "trace", traced_before(monkeypatch, exported))
    module = Small()
    vars(module).update(features=list("vwxyz"), period_ms=20.0, warm_up_steps=3, max_gap_ms=90)
    contract, said = exported(module)
    assert "".join(contract.feature_names) == "vwxyz"
    assert (contract.sample_period_ms, contract.warm_up_steps) == (20.0, 3)
    assert contract.max_gap_ms == 90
    assert [line for line in said if "assumed" in line] == []
    contract, _ = exported(module, features=FIVE, period_ms=10.0, warm_up_steps=0, max_gap_ms=40.0)
    assert contract.feature_names == FIVE
    assert (contract.sample_period_ms, contract.warm_up_steps) == (10.0, 0)
    assert contract.max_gap_ms == 40


def traced_before(monkeypatch: pytest.MonkeyPatch, exported: Callable[..., Any]) -> Any:
    """Makes tracing of `Small` free after the first time."""
    protos: list[Any] = []
    plain = to_onnx.trace
    monkeypatch.setattr(module_export, "_check_traceable", lambda _: None)

    def trace(model: Any, **how: Any) -> Any:
        protos[:] = protos or [plain(model, **how)]
        protos[0].ClearField("metadata_props")
        return protos[0]

    return trace


@pytest.mark.parametrize(
    ("attributes", "wanted", "reason"),
    [
        ({}, {}, "^her.own:make makes a Small without features: give it the names"),
        ({"features": "abcde"}, {}, "^features wants the names of the sensors, got 'abcde'"),
        ({"features": []}, {}, r"^features wants the names of the sensors, got \[\]"),
        ({"features": [1, 2]}, {}, r"^features wants the names of the sensors, got \[1, 2\]"),
        (
            {"features": FIVE},
            {"features": ("a", "b")},
            "^--feature names 2 sensors, the module has 5: a, b, c, d, e",
        ),
        ({}, {"features": ("a", "b")}, "^step raises RuntimeError: The size of tensor a"),
        ({"features": ("a",) * 5}, {}, "contract: feature 'a' stands twice"),
        (
            {"features": FIVE, "period_ms": "fast"},
            {},
            "^period_ms wants a finite number, got 'fast'",
        ),
        (
            {"features": FIVE, "period_ms": -1},
            {},
            "sample_period_ms must be positive and finite, got -1",
        ),
        ({"features": FIVE, "warm_up_steps": 1.5}, {}, "^warm_up_steps wants a whole number"),
        ({"features": FIVE}, {"warm_up_steps": -1}, "warm_up_steps must not be negative"),
        ({"features": FIVE}, {"max_gap_ms": 1.0}, "max_gap_ms 1.0 is below the sample period"),
        (
            {"features": FIVE, "samples": lambda steps, streams: torch.zeros(steps, streams)},
            {},
            r"^samples\(6, 3\) wants a tensor \[6, 3, 5\] of finite numbers, got \[6, 3\]",
        ),
        (
            {"features": FIVE, "samples": lambda t, s: torch.full((t, s, 5), torch.nan)},
            {},
            r"^samples\(6, 3\) wants a tensor \[6, 3, 5\] of finite numbers",
        ),
    ],
)
def test_what_the_module_says_is_checked(
    exported: Callable[..., Any],
    attributes: dict[str, Any],
    wanted: dict[str, Any],
    reason: str,
) -> None:
    module = Small()
    vars(module).update(attributes)
    with pytest.raises(ExportError, match=reason) as caught:
        exported(module, **wanted)
    assert "\n" not in str(caught.value)


def test_its_own_samples_are_what_it_is_verified_with(exported: Callable[..., Any]) -> None:
    """A module that takes positive numbers only; golden vectors are made of them as well."""

    class Positive(Small):
        features = FIVE

        def scored(self, level: Tensor, x: Tensor) -> Tensor:
            return (x.sqrt() + 0 * level).amax(1)

    with pytest.raises(ExportError, match=r"^the score is not finite at step 0$"):
        exported(Positive())
    module = Positive()
    vars(module)["samples"] = lambda steps, streams: 1 + torch.rand(steps, streams, 5)
    contract, _ = exported(module)
    assert np.min(contract.golden.x) >= 1
    assert len(np.unique(contract.golden.x)) > 100


# --- Sums, rounding and rows ---------------------------------------------------------------------


class Summing(Small):
    """Sums and means of every kind over its five features."""

    features = FIVE

    def scored(self, level: Tensor, x: Tensor) -> Tensor:
        error = (x - level) * self.weight
        count = (x > 0).sum(dim=1)  # of whole numbers
        middle = torch.stack([error, x], 1).sum(dim=1).amax(1)  # not over the last axis
        return error.square().sum(-1) + x.mean(dim=1) + middle + 0.1 * count


def test_sums_and_means_are_written_so_that_they_are_exact(exported: Callable[..., Any]) -> None:
    exported(Summing())


class Adding(Small):
    features = FIVE

    def scored(self, level: Tensor, x: Tensor) -> Tensor:
        return ((x - level) * self.weight).square().sum(-1)


def test_a_kernel_that_rounds_by_batch_is_refused_and_exact_alone(
    exported: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `ReduceSum` does, which the exporter would write if it were let."""
    monkeypatch.setattr(module_export, "ANY", {})
    with pytest.raises(
        ExportError,
        match=r"^the rows are independent, but onnxruntime rounds them by the size of the batch: a "
        r"score differs by up to \S+e-0[78] of its scale \(not known to be exact: Pow, ReduceSum\)",
    ) as caught:
        exported(Adding())
    assert isinstance(caught.value.__cause__, ExportError)
    contract, _ = exported(Adding(), one_stream=True)
    assert contract.one_stream


def test_a_logarithm_that_rounds_by_the_size_of_the_batch_is_named(
    exported: Callable[..., Any],
) -> None:
    class Logarithmic(Small):
        features = FIVE

        def scored(self, level: Tensor, x: Tensor) -> Tensor:
            return (1 + (x - level).square()).log().amax(1)

    with pytest.raises(ExportError, match=r"^the rows are .*not known to be exact: Log, Pow"):
        exported(Logarithmic())


def test_a_table_of_sums_is_what_makes_them_exact(exported: Callable[..., Any]) -> None:
    assert set(sums.ANY) >= set(sums.EXACT)
    exported(Adding())


class Mixing(Small):
    """Each stream is judged by the mean of all."""

    features = FIVE

    def scored(self, level: Tensor, x: Tensor) -> Tensor:
        return (level - level.mean(0) + x).abs().amax(1)


def test_rows_that_influence_each_other_go_one_stream_a_call(
    exported: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"^the rows of a call influence each other: with other"):
        exported(Mixing())
    contract, _ = exported(Mixing(), one_stream=True)
    assert contract.one_stream
    session, module = load_model(tmp_path / "own.onnx"), Mixing()
    x = plausible_samples(module_export._Unknown(FIVE), 40, 4, 9)
    outputs, _ = session.run(x, session.contract.initial_state(4))
    np.testing.assert_array_equal(outputs.score, one_by_one(session, x))
    with torch.no_grad():
        for stream in range(4):
            state = module.initial_state(1)
            for t in range(40):
                row = torch.from_numpy(x[t, stream : stream + 1])
                score, state = module.step(row, state)
                assert abs(float(score) - outputs.score[t, stream]) < 1e-5


# --- What the exporter does not make a graph of --------------------------------------------------


class Branching(Small):
    features = FIVE

    def scored(self, level: Tensor, x: Tensor) -> Tensor:
        if level.max() > 1e9:  # never
            return x.amax(1)
        return level.amax(1)


class Looping(Small):
    features = FIVE

    def scored(self, level: Tensor, x: Tensor) -> Tensor:
        return torch.stack([row.amax() for row in x - level])


class Unwritable(Small):
    features = FIVE

    def scored(self, level: Tensor, x: Tensor) -> Tensor:
        wave: Tensor = torch.special.bessel_j0(x - level)
        return wave.amax(1)


class Untraceable(Small):
    features = FIVE

    def scored(self, level: Tensor, x: Tensor) -> Tensor:
        return torch.tensor(np.abs(np.array((x - level).tolist())).max(1), dtype=torch.float32)


@pytest.mark.parametrize(
    ("kind", "reason", "line"),
    [
        (Branching, r"^step decides by the values of a tensor .* use torch.where", "if level.max"),
        (Looping, "^step works for one number of streams only: its stream axis is a constant", ""),
        (Unwritable, "^PyTorch cannot write the detector as ONNX: ", ""),
        (Untraceable, "^(step decides|PyTorch cannot trace step: )", ""),
    ],
)
def test_what_is_no_graph_is_named_with_its_line(
    exported: Callable[..., Any],
    capfd: pytest.CaptureFixture[str],
    kind: type[Small],
    reason: str,
    line: str,
) -> None:
    with pytest.raises(ExportError, match=reason) as caught:
        exported(kind())
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")
    if line:
        numbers = [
            n
            for n, text in enumerate(Path(__file__).read_text().splitlines(), 1)
            if text.lstrip().startswith(line)
        ]
        assert f"test_module.py:{numbers[0]})" in str(caught.value)


def test_a_refusal_leaves_nothing_behind_for_the_next_export(exported: Callable[..., Any]) -> None:
    """PyTorch would remember the stream axis of the refused module as a constant."""
    with pytest.raises(ExportError, match="constant"):
        exported(Looping())
    contract, _ = exported(Adding())
    assert contract.states[0].shape == (5, "stream")


def test_names_that_the_exporter_likes_are_no_trouble(exported: Callable[..., Any]) -> None:
    class Numbered(Adding):
        def initial_state(self, streams: int) -> dict[str, Tensor]:
            return {"v0": super().initial_state(streams)["level"]}

        def step(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Any, Any]:
            score, after = super().step(x, {"level": state["v0"]})
            return score, {"v0": after["level"]}

    contract, _ = exported(Numbered())
    assert contract.states[0].input == "v0"


# --- The command ---------------------------------------------------------------------------------


def test_a_run_or_a_module_and_not_both(tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "own.onnx"
    run.mkdir()
    for arguments, reason in (
        ((), "wanted RUN or --module, got neither"),
        ((run, "--module", "a:b"), f"wanted RUN or --module, got both: {run} and a:b"),
        ((run, "--weights", sample_model()), "--weights goes with --module, not with RUN"),
        ((run, "--feature", "a"), "--feature goes with --module, not with RUN"),
        ((run, "--period-ms", "0"), "--period-ms goes with --module, not with RUN"),
        ((run, "--warm-up", "0"), "--warm-up goes with --module, not with RUN"),
        ((run, "--max-gap-ms", "1"), "--max-gap-ms goes with --module, not with RUN"),
        ((run, "--one-stream"), "--one-stream goes with --module, not with RUN"),
    ):
        result = andon("export", *arguments, "-o", output)
        assert result.exit_code == 2
        assert reason in result.stderr.replace("\n", "")
    assert not output.exists()


def test_a_refusal_is_one_sentence_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(package_folder())
    output = tmp_path / "own.onnx"
    result = andon("export", "--module", "own_pumps.model:mak", "-o", output, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    wanted = "Error: own_pumps.model:mak: there is no 'mak'; did you mean 'make'?"
    assert result.stderr.splitlines() == [wanted]
    assert list(tmp_path.iterdir()) == []
