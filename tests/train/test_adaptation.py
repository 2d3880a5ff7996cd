"""What is normal for one stream: by hand, in pieces, and as far as the history says."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from train.adaptation import NEVER, Adaptation, Prior, fit_prior, so_far
from train.layers import State


def adaptation(
    location: float, spread: float, variance: float = 1.0, window: int = 4
) -> Adaptation:
    made = Adaptation(1, window)
    made.set(Prior(*(np.array([value]) for value in (location, spread, variance))))
    return made


def adapted(made: Adaptation, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
    """In deviations, and the state after with the count in it."""
    n, seen = so_far(state["seen"], x, made.window)
    apart, variance, after = made(x, n, state)
    return apart if variance is None else apart / variance.sqrt(), {"seen": seen, **after}


def start(made: Adaptation, streams: int = 1) -> State:
    return {"seen": torch.zeros(streams, 1), **made.initial_state(streams)}


def streams(between: float, rows: int = 2000, count: int = 12) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    return [rng.normal(rng.normal(0, between), 1, (rows, 1)) for _ in range(count)]


def test_location_and_variance_are_the_posterior_means() -> None:
    x = torch.tensor([1.0, 3.0, 2.0]).reshape(-1, 1, 1)
    made = adaptation(2.0, 3.0, 0.5)
    found, _ = adapted(made, x, start(made))
    seen = np.array([1.0, 3.0, 2.0])
    location = seen.sum() / (3 + 2)
    variance = (3 * 0.5 + ((seen - 2) ** 2).sum()) / (3 + 3)
    assert found[2].item() == pytest.approx((2 - location) / variance**0.5)


def test_what_comes_after_the_window_teaches_nothing() -> None:
    made = adaptation(1.0, 1.0)
    rng = np.random.default_rng(0)
    first = torch.from_numpy(rng.normal(0, 1, (4, 1, 1))).float()
    _, taught = adapted(made, first, start(made))
    _, later = adapted(made, torch.full((100, 1, 1), 3.0), taught)
    assert taught["seen"].item() == made.window
    assert all(torch.equal(taught[name], later[name]) for name in taught)


def test_an_outlier_teaches_no_more_than_five_deviations() -> None:
    made = adaptation(1.0, 1.0)
    _, one = adapted(made, torch.full((1, 1, 1), 1e3), start(made))
    _, other = adapted(made, torch.full((1, 1, 1), 5.0), start(made))
    assert torch.equal(one["sums"], other["sums"])


def test_a_sensor_that_stands_still_in_a_stream_is_not_divided_by_rounding_noise() -> None:
    """At another value than others do, and in streams that differ, so that it is believed."""
    made = adaptation(1e-3, 1e-3, 1e-4, window=100)
    found, _ = adapted(made, torch.full((300, 1, 1), 3.3), start(made))
    exact, _ = adapted(made.double(), torch.full((300, 1, 1), 3.3).double(), start(made.double()))
    assert (found[100:] - exact[100:]).abs().max().item() < 0.01
    assert found[100:].abs().max().item() < 0.01


def test_what_is_bounded_already_has_its_location_moved_only() -> None:
    made = Adaptation(1, 4, "own_", bounded=True)
    made.set_location(2.0)
    x = torch.tensor([1.0, 3.0, 2.0]).reshape(-1, 1, 1)
    found, after = adapted(made, x, start(made))
    assert found.flatten().tolist() == pytest.approx([1 - 1 / 3, 3 - 4 / 4, 2 - 6 / 5])
    assert after["own_sums"].tolist() == [[[6.0]]]


def test_pieces_and_batches_give_the_same_bits() -> None:
    made = adaptation(1.0, 7.0, window=9)
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (25, 3, 1))).float()
    whole, after = adapted(made, x, start(made, 3))
    state, parts = start(made), []
    for part in torch.split(x[:, 1:2], 4):
        y, state = adapted(made, part, state)
        parts.append(y)
    assert torch.equal(torch.cat(parts), whole[:, 1:2])
    assert torch.equal(state["sums"], after["sums"][:, 1:2])
    assert torch.equal(state["seen"], after["seen"][1:2])


def test_streams_that_differ_are_believed_and_those_that_do_not_are_not() -> None:
    """A mean over 100 samples of noise 1 has the variance 0.01: as much as between gives 0.1."""
    differ, alike = fit_prior(streams(10.0), 100), fit_prior(streams(0.0), 100)
    even = fit_prior(streams(0.1), 100)
    assert differ.location.item() < 0.1
    assert alike.location.item() > 1000
    assert 30 < even.location.item() < 300
    assert differ.variance.item() == pytest.approx(1.0, rel=0.05)


def test_short_streams_are_told_apart_by_halves_of_them_and_shorter_ones_not_at_all() -> None:
    assert fit_prior([s[:60] for s in streams(10.0)], 100).location.item() < 1
    assert fit_prior([s[:60] for s in streams(0.0)], 100).location.item() > 50
    assert fit_prior([s[:12] for s in streams(10.0)], 100).location.item() == NEVER


def test_one_stream_says_nothing_about_others() -> None:
    prior = fit_prior(streams(1.0)[:1], 100)
    assert prior.location.item() == prior.spread.item() == NEVER
    made = Adaptation(1, 100)
    made.set(prior)
    x = torch.full((50, 1, 1), 2.0)
    assert made.state_names == ()
    found, _ = adapted(made, x, start(made))
    assert found == pytest.approx(2.0 / prior.variance.item() ** 0.5, rel=1e-6)


def test_whether_it_adapts_is_found_out_after_loading() -> None:
    known, other = adaptation(1.0, 1.0), Adaptation(1, 4)
    assert not other.adapts
    other.load_state_dict(known.state_dict())
    assert other.state_names == known.state_names == ("sums",)
