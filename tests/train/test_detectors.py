"""Every kind of detector: built by name, kept in a checkpoint, the same in pieces."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edge_runtime.errors import TrainingError
from train.config import DETECTORS, ModelConfig
from train.detector import Target
from train.detectors import AnyDetector, build, load_checkpoint, save_checkpoint

FEATURES = ("a", "b", "c")


def made(kind: str, *, network: bool = True) -> AnyDetector:
    """With random weights and plausible figures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = build(FEATURES, ModelConfig(detector=kind, hidden=6), network=network)
    detector.normalise_by(np.array([2.0, 3.0, -1.0]), np.array([1.0, 2.0, 0.5]))
    return detector.eval()


def samples(rows: int = 60, streams: int = 2) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal([2, 3, -1], [1, 2, 0.5], (rows, streams, 3))).float()


@torch.no_grad()
@pytest.mark.parametrize("kind", DETECTORS)
def test_pieces_give_what_the_whole_gives(kind: str) -> None:
    detector, x = made(kind), samples()
    score, contribution, after = detector(x, detector.initial_state(2))
    state, parts = detector.initial_state(2), []
    for part in torch.split(x, 7):
        one, shares, state = detector(part, state)
        parts.append(one)
        if shares is not None:
            torch.testing.assert_close(shares.sum(dim=2), torch.ones(one.shape))
    torch.testing.assert_close(torch.cat(parts), score)
    assert set(after) == set(detector.state_names)
    for name, axis in detector.stream_axes.items():
        assert after[name].shape == detector.initial_state(2)[name].shape
        assert after[name].shape[axis] == 2
        torch.testing.assert_close(state[name], after[name])
    assert (contribution is None) == (kind == "halfspace")


@torch.no_grad()
@pytest.mark.parametrize("kind", DETECTORS)
def test_the_level_chosen_scores_one_and_the_lamp_goes_out_at_its_leave(kind: str) -> None:
    detector, x = made(kind), samples(300)  # trees say nothing before their 250th
    level, _ = detector.level(x, detector.initial_state(2))
    chosen = float(level[-1, 0])
    detector.set_limit(chosen)
    score, _, _ = detector(x, detector.initial_state(2))
    assert score[-1, 0].item() == pytest.approx(1.0, abs=1e-5)
    assert detector.leaves(chosen) < chosen
    above = score > 0.7
    assert torch.equal(above, level > detector.leaves(chosen))


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_checkpoint_gives_the_same_detector_back(kind: str, tmp_path: Path) -> None:
    detector, x = made(kind), samples()
    save_checkpoint(tmp_path / "checkpoint.pt", detector, {"some": "meta"})
    found = load_checkpoint(tmp_path)
    assert found.meta == {"some": "meta"}
    assert type(found.detector) is type(detector)
    with torch.no_grad():
        one, _, _ = detector(x, detector.initial_state(2))
        other, _, _ = found.detector(x, found.detector.initial_state(2))
    assert torch.equal(one, other)


def test_a_hybrid_without_its_network_comes_back_without(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", made("hybrid", network=False), {})
    found = load_checkpoint(tmp_path).detector
    assert "h" not in found.state_names
    assert found.cells == ()


def test_what_reads_a_target_off_is_no_other_kind() -> None:
    detector = build(FEATURES, ModelConfig(), Target("y"), network=True)
    assert detector.target == Target("y")


def test_an_older_checkpoint_is_refused_with_its_version(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"andon": "checkpoint", "schema": 2, "content": {}}, path)
    with pytest.raises(TrainingError, match="wanted checkpoint schema 4, got 2"):
        load_checkpoint(path)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["t2", "mewma", "ewma"])
def test_charts_are_the_textbooks(kind: str) -> None:
    detector, x = made(kind), samples(80, 1)
    z = (x[:, 0].double().numpy() - [2, 3, -1]) / [1, 2, 0.5]
    weights = 0.8 ** np.arange(32)[::-1]
    weights /= weights.sum()
    charted = np.abs(z) if kind == "ewma" else z
    if kind != "t2":
        charted = np.stack([weights @ charted[t - 31 : t + 1] for t in range(31, 80)])
    distance = charted.mean(axis=1) if kind == "ewma" else np.sqrt((charted**2).mean(axis=1))
    level, _ = detector.level(x, detector.initial_state(1))
    np.testing.assert_allclose(level[-len(distance) :, 0], distance, rtol=1e-4)
