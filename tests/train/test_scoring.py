"""Whitening and contributions."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from train.scoring import FLOOR, Whitening, fit_whitening

MIXING = np.array([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [0.0, 0.2, 5.0]])


def normal_errors(samples: int = 4000) -> NDArray[np.float64]:
    """Correlated errors of very different size, with a mean."""
    rng = np.random.default_rng(7)
    errors: NDArray[np.float64] = rng.standard_normal((samples, 3)) @ MIXING.T
    errors += np.array([0.5, -1.0, 3.0])
    return errors


def fitted(errors: NDArray[np.float64], limit: float = 1.0) -> Whitening:
    scoring = Whitening(errors.shape[1])
    scoring.set(fit_whitening(errors), limit)
    return scoring


def scored(scoring: Whitening, errors: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
    """One stream: score ``[time]``, contribution ``[time, feature]``."""
    score, contribution = scoring(torch.from_numpy(errors).float().unsqueeze(1))
    return score[:, 0], contribution[:, 0]


def test_whitened_errors_are_uncorrelated_with_unit_variance() -> None:
    errors = normal_errors()
    fit = fit_whitening(errors)
    z = (errors - fit.mean) @ fit.matrix
    np.testing.assert_allclose(z.T @ z / len(z), np.eye(3), atol=0.02)


def test_the_squared_distance_is_hotellings() -> None:
    errors = normal_errors()
    score, _ = scored(fitted(errors), errors)
    centred = errors - errors.mean(axis=0)
    inverse = np.linalg.inv(np.cov(errors.T, bias=True))
    t2 = np.einsum("ni,ij,nj->n", centred, inverse, centred)
    # Up to the shrinkage, which so many samples make small.
    np.testing.assert_allclose(score.numpy() ** 2 * 3, t2, rtol=0.03)


def test_the_limit_scores_one() -> None:
    errors = normal_errors()
    distances, _ = scored(fitted(errors), errors)
    score, _ = scored(fitted(errors, limit=float(distances[17])), errors)
    assert score[17] == 1.0


def test_contributions_are_shares() -> None:
    errors = normal_errors()
    _, contribution = scored(fitted(errors), errors)
    assert (contribution >= 0).all()
    torch.testing.assert_close(contribution.sum(dim=1), torch.ones(len(errors)))


@pytest.mark.parametrize("sensor", [0, 1, 2])
def test_contributions_single_out_the_sensor_that_is_disturbed(sensor: int) -> None:
    errors = normal_errors()
    disturbed = errors[:50].copy()
    disturbed[:, sensor] += 12 * errors[:, sensor].std()
    score, contribution = scored(fitted(errors), disturbed)
    assert (score > 4).all()
    assert (contribution.argmax(dim=1) == sensor).all()


def test_no_error_at_all_scores_nothing_and_blames_nobody() -> None:
    scoring = fitted(normal_errors())
    score, contribution = scored(scoring, scoring.mean.double().numpy()[None])
    assert float(score[0]) < 1e-5
    torch.testing.assert_close(contribution, torch.full((1, 3), 1 / 3))


def test_rows_are_scored_each_by_itself() -> None:
    errors = normal_errors(20)
    scoring = fitted(normal_errors())
    together, _ = scored(scoring, errors)
    alone = torch.cat([scored(scoring, errors[at : at + 1])[0] for at in range(20)])
    torch.testing.assert_close(alone, together)


def test_a_sensor_that_was_foretold_perfectly_does_not_blow_up() -> None:
    errors = normal_errors()
    errors[:, 1] = 0.0
    fit = fit_whitening(errors)
    assert fit.floored.tolist() == [False, True, False]
    assert np.isfinite(fit.matrix).all()
    trembling = errors[:1].copy()
    trembling[0] = errors.mean(axis=0)
    trembling[0, 1] += FLOOR
    score, _ = scored(fitted(errors), trembling)
    assert float(score[0]) == pytest.approx(np.sqrt(1 / 3), rel=1e-3)


def test_two_sensors_that_move_as_one_do_not_blow_up() -> None:
    errors = normal_errors()
    errors[:, 1] = errors[:, 0]
    assert np.abs(fit_whitening(errors).matrix).max() < 1 / FLOOR / FLOOR


def test_few_samples_are_shrunk_and_many_are_not() -> None:
    assert fit_whitening(normal_errors(5)).shrinkage > 0.1
    assert fit_whitening(normal_errors(4000)).shrinkage < 0.01


def test_one_sensor_alone_is_its_deviation() -> None:
    errors = np.array([[1.0], [3.0], [1.0], [3.0]])
    score, contribution = scored(fitted(errors), np.array([[5.0]]))
    assert float(score[0]) == pytest.approx(3.0)
    assert contribution.tolist() == [[1.0]]
