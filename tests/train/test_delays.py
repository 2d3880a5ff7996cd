"""Delay lines against sums written out, and against themselves in pieces."""

import numpy as np
import pytest
import torch

from train.delays import behind, boxcars, geometric


def samples(rows: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 1, (rows, 3, 2)))


@pytest.mark.parametrize("spans", [(1, 2, 4, 8), (1, 8), (2, 8)])
def test_a_boxcar_is_the_sum_of_the_last_samples(spans: tuple[int, ...]) -> None:
    x = samples(20)
    line = behind(torch.zeros(7, 3, 2, dtype=x.dtype), x)
    sums, _ = boxcars(torch.zeros_like(line[:7]), x, spans)
    for span, total in zip(spans, sums, strict=True):
        assert total.shape == x.shape
        for t in range(20):
            torch.testing.assert_close(total[t], line[t + 8 - span : t + 8].sum(dim=0))


@pytest.mark.parametrize("cut", [1, 3, 7, 15])
def test_boxcars_in_pieces_give_the_same_bits(cut: int) -> None:
    x, spans = samples(20).float(), (1, 2, 4, 8)
    whole, after = boxcars(torch.zeros(7, 3, 2), x, spans)
    first, carried = boxcars(torch.zeros(7, 3, 2), x[:cut], spans)
    second, last = boxcars(carried, x[cut:], spans)
    for parts in zip(first, second, whole, strict=True):
        assert torch.equal(torch.cat(parts[:2]), parts[2])
    assert torch.equal(last, after)


@pytest.mark.parametrize("taps", [1, 2, 16])
def test_a_geometric_mean_weighs_by_age(taps: int) -> None:
    x = samples(20)
    line = behind(torch.zeros(taps - 1, 3, 2, dtype=x.dtype), x)
    weights = 0.8 ** torch.arange(taps, dtype=x.dtype).flip(0).reshape(-1, 1, 1)
    found = geometric(line, 0.8, taps)
    for t in range(20):
        wanted = (weights * line[t : t + taps]).sum(dim=0) / weights.sum()
        torch.testing.assert_close(found[t], wanted)


def test_pieces_give_the_same_bits() -> None:
    x = samples(20).float()
    zeros = torch.zeros(7, 3, 2)
    whole = geometric(behind(zeros, x), 0.8, 8)
    first = behind(zeros, x[:6])
    second = behind(first[6:], x[6:])
    assert torch.equal(torch.cat([geometric(part, 0.8, 8) for part in (first, second)]), whole)
