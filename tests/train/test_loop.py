"""The training loop: truncation, lanes, early stopping, seeds, interruption."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_runtime.errors import TrainingError
from train import loop
from train.config import ModelConfig, TrainingConfig
from train.data import Segment
from train.detector import Detector
from train.windows import Piece, Windows, lay_out, pieces

FEATURES = ("a", "b")
WINDOW = 8
NO_CLIPPING = 1e9


def signal(rows: int, phase: float = 0.0) -> NDArray[np.float64]:
    """Two sines a sixth of a turn apart, ``[row, feature]``: persistence is bad at them."""
    t = np.arange(rows) * 0.5 + phase
    return np.stack([np.sin(t), np.sin(t + np.pi / 3)], axis=1)


def made(seed: int = 0) -> Detector:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector(FEATURES, ModelConfig(cell="gru", hidden=8))


def config(**changes: float) -> TrainingConfig:
    settings: dict[str, float] = {"epochs": 4, "patience": 4, "clip_norm": NO_CLIPPING, **changes}
    return TrainingConfig(**settings)  # type: ignore[arg-type]


def windows(rows: int = 160, lanes: int = 2) -> Windows:
    segment = Segment("s", signal(rows), rows, rows)
    return lay_out(pieces([segment], "fit", lanes, 1), WINDOW, lanes)


def frozen_fit(detector: Detector, train: Windows) -> dict[str, Tensor]:
    """One pass with steps too small to matter; the gradients of its last window are left."""
    progress = loop.start(detector, learning_rate=1e-20)
    next(loop.fit(progress, train, train, config()))
    return gradients(detector)


def gradients(detector: Detector) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in detector.named_parameters() if p.grad is not None}


def by_hand(values: NDArray[np.float64], *, cut_at: int | None) -> dict[str, Tensor]:
    """Gradients of the loss from ``cut_at`` on, with the state detached there, or not at all."""
    detector, x = made(), torch.from_numpy(values).float().unsqueeze(1)
    split = len(x) - WINDOW
    _, state = detector.errors(x[:split], detector.initial_state(1)) if split else (None, None)
    if state is None:
        state = detector.initial_state(1)
    if cut_at is not None:
        state = loop.detach(state)
    cost, _ = detector.costs(x[split:], torch.empty(0), state)
    counts = torch.ones(WINDOW, 1)
    counts[0] = float(split > 0)
    loop.mean_cost(cost, counts).backward()  # type: ignore[no-untyped-call]
    return gradients(detector)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.allclose(left[name], right[name], rtol=1e-4, atol=1e-7) for name in left)


def test_state_is_carried_and_gradient_is_cut_at_the_edge_of_a_window() -> None:
    values = signal(2 * WINDOW)
    trained = frozen_fit(made(), lay_out([Piece(values, 1)], WINDOW, 1))
    assert same(trained, by_hand(values, cut_at=WINDOW))
    assert not same(trained, by_hand(values, cut_at=None))  # the gradient does stop
    assert not same(trained, by_hand(values[WINDOW:], cut_at=None))  # the state does run on


def test_a_lane_that_starts_another_segment_forgets_the_one_before() -> None:
    longer, shorter = signal(3 * WINDOW), 5 * signal(WINDOW, phase=2.0)
    trained = frozen_fit(made(), lay_out([Piece(longer, 1), Piece(shorter, 1)], WINDOW, 1))
    assert same(trained, by_hand(shorter, cut_at=None))


def test_what_warms_up_or_pads_is_not_in_the_loss() -> None:
    cost = torch.tensor([81.0, 1.0, 4.0, 81.0]).unsqueeze(1)  # [time, lane]
    counts = torch.tensor([0.0, 1.0, 1.0, 0.0]).unsqueeze(1)  # [time, lane]
    assert loop.mean_cost(cost, counts) == (1.0 + 4.0) / 2
    assert loop.mean_cost(cost, torch.zeros(4, 1)) == 0.0


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_errors_do_not_depend_on_what_shares_a_lane(lanes: int) -> None:
    detector = made()
    parts = [Piece(signal(rows, phase=rows), 1) for rows in (30, 21, 9, 17)]
    together = loop.errors(detector, lay_out(parts, WINDOW, lanes))
    alone = np.concatenate([loop.errors(detector, lay_out([part], WINDOW, 1)) for part in parts])
    assert together.shape == (30 + 21 + 9 + 17 - 4, 2)
    np.testing.assert_allclose(np.sort(together, axis=0), np.sort(alone, axis=0), atol=1e-6)


def test_training_learns_a_sine_that_persistence_cannot_follow() -> None:
    train, later = windows(200), lay_out([Piece(signal(60, phase=3.0), 20)], WINDOW, 1)
    progress = loop.start(made(), learning_rate=0.03)
    losses = [
        epoch.validation_loss for epoch in loop.fit(progress, train, later, config(epochs=10))
    ]
    persistence = float(np.mean(np.diff(signal(100), axis=0) ** 2))
    assert progress.best_epoch.validation_loss == min(losses)
    assert min(losses) < persistence / 4


def test_the_best_weights_are_kept() -> None:
    noise = np.random.default_rng(0).standard_normal((80, 2))
    other = lay_out([Piece(noise, 1)], WINDOW, 1)  # the better the sine is known, the worse
    progress = loop.start(made(), learning_rate=0.05)
    list(loop.fit(progress, windows(), other, config(epochs=5, patience=5)))
    detector, last = progress.take_best(), progress.history[-1].validation_loss
    best = float(np.mean(loop.costs(detector, other)))
    assert best == progress.best_epoch.validation_loss < last


def test_training_stops_when_patience_is_at_an_end() -> None:
    progress = loop.start(made(), learning_rate=1e-20)  # nothing ever gets better
    numbers = [e.number for e in loop.fit(progress, windows(), windows(), config(epochs=50))]
    assert numbers == [1, 2, 3, 4, 5]


def test_a_gradient_is_clipped_and_reported_as_it_was() -> None:
    progress, train = loop.start(made(), learning_rate=1e-20), windows(lanes=1)
    epoch = next(loop.fit(progress, train, train, config(clip_norm=1e-3)))
    clipped = torch.stack([g.norm() for g in gradients(progress.detector).values()]).norm()
    assert float(clipped) == pytest.approx(1e-3, rel=1e-3)
    assert epoch.gradient_norm > 0.01


@pytest.mark.parametrize(
    ("cell", "settings", "advice"),
    [
        ("gru", {"clip_norm": 0.0}, "nothing clips the gradient: set clip_norm = 1"),
        ("gru", {"clip_norm": 1e9}, r"clip_norm = 1e\+09 lets steps .* set clip_norm = 1"),
        ("gru", {"clip_norm": 0.0, "clip_value": 5.0}, "clip_value alone lets steps"),
        ("gru", {"clip_norm": 1.0}, r"is too long by itself: lower learning_rate \(it is 0.003\)"),
        ("irnn", {"clip_norm": 1.0}, "nothing bounds the units of irnn: lower learning_rate"),
    ],
)
def test_divergence_is_said_with_the_advice_that_fits(
    cell: str, settings: dict[str, float], advice: str
) -> None:
    detector = Detector(FEATURES, ModelConfig(cell=cell, hidden=8))
    with torch.no_grad():
        detector.head.linear.weight.fill_(1e30)  # whose square is beyond float32
        detector.layers.forth.cells[0].get_parameter("W").fill_(1.0)
    progress = loop.start(detector, learning_rate=0.01)
    happened = "epoch 1: training has diverged: the loss is (inf|nan), the gradient's norm reached"
    with pytest.raises(TrainingError, match=f"{happened}.*{advice}"):
        list(loop.fit(progress, windows(), windows(), config(**settings)))


def test_a_run_that_undoes_what_it_learnt_stops_and_tells_the_norms() -> None:
    detector = Detector(FEATURES, ModelConfig(cell="irnn", hidden=8))
    progress = loop.start(detector, learning_rate=1e-4)
    passes = loop.fit(progress, windows(), windows(), config(epochs=30, patience=30))
    next(passes)
    norm = progress.history[0].gradient_norm
    with torch.no_grad():
        detector.layers.forth.cells[0].get_parameter("U").mul_(1.5)  # a step that was too long
        detector.layers.forth.cells[0].get_parameter("W").add_(1.0)
    with pytest.raises(
        TrainingError, match=f"epoch 2: .* has diverged.*{norm:.3g} to {norm:.3g} in"
    ):
        list(passes)
    assert len(progress.history) == 1


def test_a_first_pass_that_explodes_is_divergence_too() -> None:
    detector = Detector(FEATURES, ModelConfig(cell="irnn", hidden=8))
    with torch.no_grad():
        detector.layers.forth.cells[0].get_parameter("U").mul_(4)
        detector.layers.forth.cells[0].get_parameter("W").add_(1.0)
    progress = loop.start(detector, learning_rate=1e-4)
    with pytest.raises(TrainingError, match="epoch 1: training has diverged: the loss is"):
        list(loop.fit(progress, windows(), windows(), config()))


def test_a_first_pass_that_has_recovered_goes_on() -> None:
    explodes = loop.Epoch(1, 8e3, 0.2, 1e7)
    assert not loop.ran_away(explodes, [])
    assert loop.ran_away(loop.Epoch(1, 8e3, 2e3, 1e7), [])


def test_a_gradient_that_is_no_number_late_in_a_pass_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    norms = itertools.chain([1.2, 1.3], itertools.repeat(float("nan")))
    monkeypatch.setattr(loop, "clip", lambda *_: next(norms))
    progress = loop.start(made(), learning_rate=1e-4)
    with pytest.raises(TrainingError, match="norm reached nan"):
        list(loop.fit(progress, windows(), windows(), config()))


def test_a_gradient_is_held_at_the_threshold_element_by_element() -> None:
    progress, train = loop.start(made(), learning_rate=1e-20), windows(lanes=1)
    free = frozen_fit(made(), train)
    next(loop.fit(progress, train, train, config(clip_value=1e-3)))
    for name, gradient in gradients(progress.detector).items():
        torch.testing.assert_close(gradient, free[name].clamp(-1e-3, 1e-3))
    assert any((gradient.abs() > 1e-3).any() for gradient in free.values())


def test_by_value_comes_before_by_norm() -> None:
    progress, train = loop.start(made(), learning_rate=1e-20), windows(lanes=1)
    next(loop.fit(progress, train, train, config(clip_value=1e-3, clip_norm=1e-4)))
    kept = gradients(progress.detector)
    assert float(torch.stack([g.norm() for g in kept.values()]).norm()) == pytest.approx(
        1e-4, rel=1e-3
    )
    largest = max(float(gradient.abs().max()) for gradient in kept.values())
    held = [g.abs() > 0.999 * largest for g in kept.values()]
    assert sum(int(h.sum()) for h in held) > 1  # several stood at the threshold, and still agree


def weights(seed: int) -> dict[str, Tensor]:
    progress = loop.start(made(seed), learning_rate=0.01)
    list(loop.fit(progress, windows(), windows(), config()))
    return progress.take_best().state_dict()


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    first, second, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layers.forth.cells.0.W"], other["layers.forth.cells.0.W"])


def epochs_of(progress: loop.Progress[Detector]) -> Iterator[loop.Epoch]:
    return loop.fit(progress, windows(), windows(), config(epochs=6, patience=6))


def test_going_on_after_an_interruption_gives_the_same_bits(tmp_path: Path) -> None:
    path, settings = tmp_path / "last.pt", {"hidden": 8, "seed": 0}
    whole = loop.start(made(), learning_rate=0.01)
    list(epochs_of(whole))
    broken = loop.start(made(), learning_rate=0.01)
    for _ in itertools.islice(epochs_of(broken), 3):
        loop.save_progress(path, broken, settings)
    resumed = loop.start(made(seed=5), learning_rate=0.01)
    loop.load_progress(path, resumed, settings)
    assert resumed.best_epoch == broken.best_epoch
    assert all(torch.equal(resumed.best[name], broken.best[name]) for name in broken.best)
    list(epochs_of(resumed))
    assert resumed.history == whole.history
    for name, expected in whole.detector.state_dict().items():
        assert torch.equal(resumed.detector.state_dict()[name], expected)
        assert torch.equal(resumed.best[name], whole.best[name])


def test_another_experiment_cannot_be_gone_on_with(tmp_path: Path) -> None:
    path, progress = tmp_path / "last.pt", loop.start(made(), learning_rate=0.01)
    next(epochs_of(progress))
    loop.save_progress(path, progress, {"hidden": 8, "seed": 0})
    with pytest.raises(TrainingError, match=r"hidden was 8, is 9.*--force"):
        loop.load_progress(path, progress, {"hidden": 9, "seed": 0})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="not a training progress of andon, or a damaged one"):
        loop.load_progress(path, progress, {"hidden": 8, "seed": 0})
