"""Spans, distances and the one level that joins them."""

import math

import numpy as np
import pytest
import torch

from edge_runtime.config import AlarmConfig
from train.delays import boxcars
from train.multiscale import (
    FLOOR_LEVEL,
    KEEP,
    SLOPE,
    SPANS,
    TAPS,
    MultiScale,
    bounded,
    power_mean,
    powers,
    root,
)
from train.scoring import LEAVE


def scoring(signals: int = 2, features: int = 3) -> MultiScale:
    made = MultiScale([str(k) for k in range(signals)], features)
    rng = np.random.default_rng(0)
    made.matrix.add_(torch.from_numpy(rng.normal(0, 0.2, made.matrix.shape)))
    made.mean.copy_(torch.from_numpy(rng.normal(0, 0.2, made.mean.shape)))
    made.centre.fill_(1.2)
    made.deviation.fill_(0.3)
    return made


def signals(rows: int = 40, streams: int = 2) -> torch.Tensor:
    """Two, of three features each."""
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.normal(0, 1, (rows, streams, 6))).float()


def test_bounded_is_itself_near_zero_and_never_beyond_its_reach() -> None:
    assert bounded(torch.tensor(0.01), 8.0).item() == pytest.approx(0.01, rel=1e-5)
    far = bounded(torch.tensor([-1e18, -1e3, 1e3, 1e18]), 8.0)
    assert far.abs().max().item() <= 8.0
    assert torch.equal(far, -far.flip(0))


def test_bounded_takes_a_variance() -> None:
    z, variance = torch.linspace(-50, 50, 101), torch.linspace(0.5, 9, 101)
    found = bounded(z, 8.0, variance)
    torch.testing.assert_close(found, bounded(z / variance.sqrt(), 8.0))


def test_a_member_is_the_t2_of_a_mean() -> None:
    made, given = scoring(), signals()[:, 1]  # the second stream
    sums, _ = boxcars(torch.zeros(SPANS[-1] - 1, 6), given, SPANS)
    roots = root(made.distances([z * z for z in made.components(sums)]))
    names = [f"{signal} over {span}" for span in SPANS for signal in range(2)]
    assert list(made.members) == names
    for k, name in enumerate(names):
        signal, span = int(name[0]), int(name.split()[-1])
        columns = slice(3 * signal, 3 * signal + 3)
        mean = given[40 - span :, columns].mean(dim=0)  # at the last row
        z = (mean - made.mean[k // 2, columns]) @ made.matrix[k]
        wanted = z.norm().item() ** 0.5 / 0.3  # in its own usual deviations
        assert roots[-1, k].item() == pytest.approx(wanted, rel=1e-4)


def test_the_level_is_the_smoothed_power_mean_of_the_members() -> None:
    """By the definition, in double precision; the shares are what each sensor adds to it."""
    made, given = scoring(), signals()[:, :1]
    given[20:, 0, 1] += 4
    level, contribution, _ = made.levels(given, made.initial_state(1))
    line = np.concatenate([np.zeros((15, 6)), given[:, 0].double().numpy()])
    joined, shares = np.zeros(40), np.zeros((40, 3))
    for t in range(40):
        power = np.zeros(len(made.members))
        for k, name in enumerate(made.members):
            signal, span = int(name[0]), int(name.split()[-1])
            columns = slice(3 * signal, 3 * signal + 3)
            mean = made.mean[SPANS.index(span), columns].double().numpy()
            z = (line[t + 16 - span : t + 16, columns].mean(axis=0) - mean) @ made.matrix[
                k
            ].double().numpy()
            power[k] = max((z @ z) ** 0.25 / 0.3 - 1.2 / 0.3 + FLOOR_LEVEL, 1e-3) ** 8
            shares[t] += power[k] * z**2 / (z @ z)
        joined[t] = power.mean() ** 0.125 - FLOOR_LEVEL
    weights = KEEP ** np.arange(TAPS)[::-1]
    before = np.concatenate([np.zeros(TAPS - 1), joined])
    smoothed = [weights @ before[t : t + TAPS] / weights.sum() for t in range(40)]
    np.testing.assert_allclose(level[:, 0], smoothed, atol=1e-5)
    np.testing.assert_allclose(
        contribution[:, 0], shares / shares.sum(axis=1, keepdims=True), atol=1e-5
    )


def test_joined_lies_between_the_mean_and_the_largest_and_is_near_the_latter() -> None:
    g = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (10, 500)))
    above = g + FLOOR_LEVEL
    joined = power_mean(powers(above).mean(dim=0))
    assert (joined <= g.max(dim=0).values + 1e-6).all()
    assert (joined >= g.clamp(min=-3).mean(dim=0)).all()
    above[3] = 33.0
    assert (power_mean(powers(above).mean(dim=0)) > 20).all()
    assert (powers(above)[3] > 0.999 * powers(above).sum(dim=0)).all()


def test_contributions_add_up_to_one_and_name_the_sensor_that_moved() -> None:
    made, given = scoring(), signals()
    given[30:, 0, 2] += 6
    _, contribution, _ = made.levels(given, made.initial_state(2))
    torch.testing.assert_close(contribution.sum(dim=2), torch.ones(40, 2))
    assert (contribution[32:, 0].argmax(dim=1) == 2).all()


def test_what_nothing_could_mean_has_finite_scores() -> None:
    """Far outside anything that was calibrated on, and where a member never moved."""
    made = scoring()
    made.deviation.fill_(1e-3)
    made.matrix.mul_(1e4)
    for value in (0.0, 1e-20, 8.0):
        given = torch.full((20, 2, 6), value)
        level, contribution, _ = made.levels(given, made.initial_state(2))
        assert torch.isfinite(made.score(level)).all()
        assert torch.isfinite(contribution).all()


def test_one_is_the_limit_and_the_gateways_leave_is_where_it_says() -> None:
    made = scoring()
    made.limit.fill_(2.5)
    drop = -math.sinh(math.log(LEAVE)) / SLOPE
    score = made.score(torch.tensor([2.5, 2.5 - drop, -1e4, 1e4]))
    assert score[:2].tolist() == pytest.approx([1.0, LEAVE])
    assert score[2] >= 0
    assert torch.isfinite(score).all()
    assert AlarmConfig().leave == LEAVE


def test_pieces_and_batches_give_the_same_bits() -> None:
    made, given = scoring(), signals()
    level, contribution, after = made.levels(given, made.initial_state(2))
    state, parts = made.initial_state(2), []
    for start in range(0, 40, 7):
        *found, state = made.levels(given[start : start + 7], state)
        parts.append(found)
    assert torch.equal(torch.cat([p[0] for p in parts]), level)
    assert torch.equal(torch.cat([p[1] for p in parts]), contribution)
    assert all(torch.equal(state[name], after[name]) for name in made.state_names)
