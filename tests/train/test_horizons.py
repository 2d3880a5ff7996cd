"""What is foretold is compared with what comes so many samples later."""

import numpy as np
import pytest
import torch

from train.horizons import FREEDOM, HORIZONS, Horizons, negative_log_likelihood, positive


def network() -> Horizons:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Horizons(("gru",), 2, 6).eval()


def samples(rows: int = 30) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 1, (rows, 3, 2))).float()


def test_positive_is_the_exponential_of_the_inverse_hyperbolic_sine() -> None:
    w = torch.linspace(-1e4, 1e4, 20_001, dtype=torch.float64)
    torch.testing.assert_close(positive(w), torch.exp(torch.asinh(w)))
    far = torch.tensor([-1e4])  # where sqrt(w^2 + 1) - |w| would be rounding noise
    torch.testing.assert_close(positive(far), torch.tensor([0.5e-4]))


def test_the_cost_is_the_likelihood_of_a_student_t_distribution() -> None:
    x, location, w = samples(), 0.3 * samples(), 0.5 * samples()
    known = torch.distributions.StudentT(FREEDOM, location, positive(w))
    apart = negative_log_likelihood(x, location, w) + known.log_prob(x)  # type: ignore[no-untyped-call]
    assert apart.std().item() < 1e-5  # but for a constant


@torch.no_grad()
def test_each_horizon_is_held_against_the_sample_that_it_was_about() -> None:
    made, x = network(), samples()
    errors, _ = made(x, made.initial_state(3))
    hidden, _ = made.stack(x, made.stack.initial_state(3))
    for k, at in zip(HORIZONS, torch.split(made.linear(hidden), 4, dim=2), strict=True):
        location, w = torch.split(at, 2, dim=2)
        wanted = (x[k:] - location[:-k]) / positive(w[:-k])
        first = 2 * HORIZONS.index(k)
        error = errors[:, :, first : first + 2]
        torch.testing.assert_close(error[k:], wanted)
        assert torch.equal(error[:k], x[:k])  # nobody foretold these: 0, give or take 1


@torch.no_grad()
def test_only_training_disturbs_what_is_read() -> None:
    made, x = network(), samples()
    none, state = torch.empty(0), made.initial_state(3)
    calm = [made.costs(x, none, state)[0] for _ in range(2)]
    assert torch.equal(calm[0], calm[1])
    made.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        disturbed = [made.costs(x, none, state)[0] for _ in range(2)]
    assert not torch.equal(disturbed[0], disturbed[1])
    assert disturbed[0].mean().item() == pytest.approx(calm[0].mean().item(), rel=0.2)
