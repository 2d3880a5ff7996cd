"""What a hybrid takes from a history, and when it keeps its network."""

import numpy as np
import pytest
import torch

from train.config import ModelConfig
from train.data import History, Segment
from train.delays import boxcars
from train.fitting import (
    as_unseen,
    bounded_segments,
    fit_adaptation,
    fit_members,
    halves,
    usual_likelihood,
    whiten_streams,
)
from train.horizons import Horizons, negative_log_likelihood
from train.hybrid import WINDOW, Hybrid
from train.multiscale import SPANS, root
from train.scoring import fit_whitening
from train.windows import pieces

ROWS = 600


def history(streams: int = 3, offset: float = 3.0, seed: int = 0) -> History:
    rng = np.random.default_rng(seed)
    segments = []
    for k in range(streams):
        wave = np.sin(np.arange(ROWS) / 5 + k)[:, None] * np.array([1.0, -1.0])
        values = wave + 0.3 * rng.normal(0, 1, (ROWS, 2)) + offset * rng.normal(0, 1, 2)
        segments.append(Segment(f"s{k}", values, 420, 510))
    return History(("a", "b"), tuple(segments), 1000.0, 5000.0, (), "")


def prepared(known: History, *, network: bool = True) -> Hybrid:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Hybrid(known.features, ModelConfig(hidden=6), network=network).eval()
    rows = np.concatenate([s.values[:420] for s in known.segments])
    made.normalise_by(rows.mean(axis=0), rows.std(axis=0))
    fit_adaptation(made, known)
    return made


def test_the_rows_kept_for_later_uses_change_no_prior() -> None:
    known = history()
    other = history()
    for segment in other.segments:
        segment.values[420:] = 1e3
    one, two = prepared(known), prepared(other)
    assert torch.equal(one.adaptation.location, two.adaptation.location)
    assert torch.equal(one.adaptation.variance, two.adaptation.variance)


def test_the_network_is_shown_what_the_detector_makes_of_the_samples() -> None:
    known = history()
    made = prepared(known)
    shown = bounded_segments(made, known.segments)
    x = torch.from_numpy(known.segments[1].values).float().unsqueeze(1)
    with torch.no_grad():
        wanted, _ = made.samples(x, made.initial_state(1))
    np.testing.assert_array_equal(shown[1].values, wanted[:, 0].double().numpy())
    assert shown[1].fit_rows == 420


def test_a_distribution_that_never_changes_is_fitted_where_the_weights_look() -> None:
    rng = np.random.default_rng(0)
    segment = Segment("s", 2 + 0.5 * rng.standard_t(4, (4000, 1)), 2800, 3400)
    parts = pieces([segment], "validation", 1, 64)
    due = torch.from_numpy(parts[0].values[parts[0].first :])
    w = torch.tensor((0.5 - 2.0) / 2, dtype=due.dtype)
    wanted = negative_log_likelihood(due, torch.tensor(2.0), w).mean().item()
    assert usual_likelihood([segment], parts) == pytest.approx(wanted, abs=0.02)


def test_the_covariance_of_one_stream_is_that_of_its_rows() -> None:
    rows = np.random.default_rng(0).normal(0, [1, 2], (500, 2))
    one, known = whiten_streams([rows]), fit_whitening(rows)
    np.testing.assert_allclose(one.matrix, known.matrix)


def test_a_direction_in_which_streams_differ_counts_less() -> None:
    """Two sensors that are one within each stream, with an offset of their own in each."""
    rng = np.random.default_rng(0)
    streams = []
    for _ in range(8):
        common = rng.normal(0, 1, (400, 1))
        streams.append(
            common + 0.02 * rng.normal(0, 1, (400, 2)) + [0, 0.3 * rng.standard_normal()]
        )
    apart = np.array([1.0, -1.0]) / 2**0.5
    within = whiten_streams([s - s.mean(axis=0) for s in streams])
    between = whiten_streams(streams)
    assert np.linalg.norm(apart @ within.matrix) > 5 * np.linalg.norm(apart @ between.matrix)
    # What differs by 0.3 from stream to stream is about as far as a new stream may be.
    assert np.linalg.norm([0, 0.3] @ between.matrix) < 3


def test_usual_is_what_the_calibration_rows_show() -> None:
    known = history()
    made = prepared(known, network=False)
    fit_members(made, known, WINDOW, {})
    x = [torch.from_numpy(s.values).float() for s in known.segments]
    state = made.initial_state(3)
    with torch.no_grad():
        signals, _ = made.signals(torch.stack(x, dim=1), state)
        sums, _ = boxcars(state["last_sums"], signals, SPANS)
        parts = made.scoring.components([total.flatten(0, 1) for total in sums])
        roots = root(made.scoring.distances([z * z for z in parts]))  # [row, member]
    usual = (made.scoring.centre / made.scoring.deviation).flatten()
    g = (roots - usual).reshape(ROWS, 3, len(SPANS))[510:]
    assert g.mean(dim=(0, 1)).abs().max().item() < 1e-4
    torch.testing.assert_close(g.std(dim=(0, 1)), torch.ones(len(SPANS)), rtol=1e-3, atol=1e-3)


def test_halves_hold_every_stream_once_and_one_stream_has_none() -> None:
    known = history(5)
    groups = halves(known.segments)
    assert sorted(name for group in groups for name in group) == ["s0", "s1", "s2", "s3", "s4"]
    assert [len(group) for group in groups] == [3, 2]
    assert halves(known.segments[:1]) == []


def test_each_stream_is_judged_by_the_network_that_has_not_seen_it() -> None:
    known = history(3)
    made = prepared(known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = Horizons(("gru",), 2, 6).eval()
    found = as_unseen(made, known.segments, lambda one: one.level, {"s1": other})
    plain = as_unseen(made, known.segments, lambda one: one.level, {})
    torch.testing.assert_close(found[0], plain[0])
    torch.testing.assert_close(found[2], plain[2])
    assert not torch.allclose(found[1], plain[1])
    made.network = other
    again = as_unseen(made, known.segments, lambda one: one.level, {})
    torch.testing.assert_close(found[1], again[1])
