"""Layers over time, and the detector as a pure function of samples and state."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edge_runtime.errors import TrainingError
from train.cell import Cell
from train.cells import CELLS, GRU, LSTM, Elman
from train.config import ModelConfig
from train.detector import Detector
from train.detectors import CHECKPOINT_SCHEMA, load_checkpoint, save_checkpoint
from train.layers import Stack, in_one_call, over_time

FEATURES = ("a", "b", "c")
STEPS, STREAMS = 23, 4
SHAPES = [
    *(ModelConfig(cell=cell, layers=layers, hidden=8) for cell in CELLS for layers in (1, 2)),
    ModelConfig(layers=("gru", "clockwork"), hidden=8, look_ahead=3),
]


def name(model: ModelConfig) -> str:
    return "+".join(model.cells) + ("-ahead" if model.look_ahead else "")


def made(model: ModelConfig) -> Detector:
    torch.manual_seed(1)
    detector = Detector(FEATURES, model)
    detector.mean.copy_(torch.tensor([10.0, -2.0, 0.0]))
    detector.scale.copy_(torch.tensor([3.0, 0.1, 40.0]))
    return detector.eval()


def samples(steps: int = STEPS) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(steps, STREAMS, len(FEATURES), generator=generator)
    return x * torch.tensor([3.0, 0.1, 40.0]) + torch.tensor([10.0, -2.0, 0.0])


@pytest.mark.parametrize("model", SHAPES, ids=name)
@torch.no_grad()
def test_chunks_equal_the_whole(model: ModelConfig) -> None:
    detector, x = made(model), samples()
    whole, shares, end = detector(x, detector.initial_state(STREAMS))
    state, scores, parts = detector.initial_state(STREAMS), [], []
    for low, high in itertools.pairwise((0, 1, 2, 9, STEPS)):
        score, contribution, state = detector(x[low:high], state)
        scores.append(score)
        parts.append(contribution)
    torch.testing.assert_close(torch.cat(scores), whole)
    torch.testing.assert_close(torch.cat(parts), shares)
    assert list(state) == list(end) == list(detector.state_names)
    for name in state:
        torch.testing.assert_close(state[name], end[name])


@pytest.mark.parametrize("model", SHAPES, ids=name)
@torch.no_grad()
def test_streams_do_not_see_each_other(model: ModelConfig) -> None:
    detector, x = made(model), samples()
    together, _, _ = detector(x, detector.initial_state(STREAMS))
    alone, _, _ = detector(x[:, 2:3], detector.initial_state(1))
    torch.testing.assert_close(alone[:, 0], together[:, 2])


@pytest.mark.parametrize("model", SHAPES, ids=name)
@torch.no_grad()
def test_memory_is_in_the_state_and_nowhere_else(model: ModelConfig) -> None:
    detector, x = made(model), samples(2)
    x[1] = x[0]  # the same sample twice
    first, _, state = detector(x[:1], detector.initial_state(STREAMS))
    second, _, _ = detector(x[1:], state)
    again, _, _ = detector(x[1:], detector.initial_state(STREAMS))
    assert not torch.allclose(first, second)
    assert torch.equal(first, again)


def test_states_are_named_after_their_layer() -> None:
    assert Stack(("lstm",), 3, 4).state_names == ("h", "c")
    assert Stack(("lstm", "lstm"), 3, 4).state_names == ("h_1", "c_1", "h_2", "c_2")
    assert Stack(("gru", "dense", "scrn"), 3, 4).state_names == ("h_1", "h_3", "s_3")
    assert made(ModelConfig(cell="gru", hidden=6)).state_names == ("h", "forecast")


@torch.no_grad()
def test_the_error_is_measured_against_the_forecast_made_one_sample_earlier() -> None:
    detector, x = made(ModelConfig(hidden=6)), samples()
    error, end = detector.errors(x, detector.initial_state(STREAMS))
    xn = (x - detector.mean) / detector.scale
    reading, _ = detector.layers(xn, detector.initial_state(STREAMS))
    made_before = detector.head.linear(reading.past)
    torch.testing.assert_close(error[0], xn[0])  # nothing was known: the mean was expected
    torch.testing.assert_close(error[1:], xn[1:] - made_before[:-1])
    torch.testing.assert_close(end["forecast"], made_before[-1])


@torch.no_grad()
def test_the_largest_float_leaves_score_and_state_finite() -> None:
    detector, x = made(ModelConfig(hidden=6)), samples()
    x[5] = torch.finfo(torch.float32).max
    score, contribution, state = detector(x, detector.initial_state(STREAMS))
    assert all(t.isfinite().all() for t in (score, contribution, *state.values()))


def test_checkpoint_gives_back_the_same_function(tmp_path: Path) -> None:
    detector, x = made(ModelConfig(cell="gru", layers=2, hidden=6)), samples()
    meta = {"sample_period_ms": 1000.0, "training": {"files": ["a.csv"], "none": None}}
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", detector, meta)
    loaded = load_checkpoint(tmp_path / "run")  # a run's folder will do
    assert loaded.meta == meta
    assert loaded.detector.features == FEATURES
    with torch.no_grad():
        expected, _, _ = detector(x, detector.initial_state(STREAMS))
        score, _, _ = loaded.detector(x, detector.initial_state(STREAMS))
    assert torch.equal(score, expected)


def test_the_same_checkpoint_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        save_checkpoint(tmp_path / name, made(ModelConfig(hidden=6)), {"seed": 1})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


class Foreign:
    """Something that only pickle could bring back."""


def test_checkpoint_refusals_say_why(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: cannot read .* No such file"):
        load_checkpoint(path)
    save_checkpoint(path, made(ModelConfig(hidden=6)), {})
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(TrainingError, match="not a checkpoint of andon, or a damaged one"):
        load_checkpoint(path)
    path.write_bytes(b"not a zip file at all")
    with pytest.raises(TrainingError, match="not a checkpoint of andon"):
        load_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(TrainingError, match="not a checkpoint of andon"):
        load_checkpoint(path)
    torch.save({"andon": "checkpoint", "schema": 99, "content": {}}, path)
    with pytest.raises(TrainingError, match="wanted checkpoint schema 4, got 99"):
        load_checkpoint(path)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(TrainingError, match="got another PyTorch file"):
        load_checkpoint(path)
    torch.save({"andon": "checkpoint", "schema": CHECKPOINT_SCHEMA, "content": {"meta": {}}}, path)
    with pytest.raises(TrainingError, match="not complete"):
        load_checkpoint(path)
    torch.save(Foreign(), path)
    with pytest.raises(TrainingError, match="not a checkpoint of andon"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "cell",
    [GRU(3, 8), GRU(3, 8, reset="before"), LSTM(3, 8), LSTM(3, 8, squash="identity"), Elman(3, 8)],
    ids=["gru", "gru before", "lstm", "lstm identity", "elman"],
)
def test_in_one_call_a_cell_does_what_it_does_step_by_step(cell: Cell) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(12, 4, 3)
        before = tuple(torch.randn_like(value) for value in cell.initial_state(4))
        for parameter in cell.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    found = []
    for unroll in (over_time, in_one_call):
        cell.zero_grad()
        y, after = unroll(cell, x, before)
        (y.square().sum() + sum(value.sum() for value in after)).backward()  # type: ignore[no-untyped-call]
        found.append([y, *after, *(p.grad for p in cell.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
