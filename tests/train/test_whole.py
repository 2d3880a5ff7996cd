"""Whole sequences side by side, each as if it were alone."""

import torch
from torch import Tensor

from train.layers import State
from train.whole import CHUNK, over_whole


def running_sum(x: Tensor, state: State) -> tuple[Tensor, State]:
    total = torch.cat([state["sum"].unsqueeze(0), x]).cumsum(0)[1:]
    return total, {"sum": total[-1]}


def cold(streams: int) -> State:
    return {"sum": torch.zeros(streams, 1, dtype=torch.float64)}


def test_each_sequence_starts_cold_and_comes_back_in_its_place() -> None:
    lengths = [3, 2 * CHUNK + 5, 1, 700, 1500, CHUNK]
    sequences = [torch.full((n, 1), 1.0 + k, dtype=torch.float64) for k, n in enumerate(lengths)]
    found = over_whole(running_sum, cold, sequences)
    for sequence, total in zip(sequences, found, strict=True):
        assert torch.equal(total, sequence.cumsum(0))


def test_no_call_has_more_than_twice_the_rows_it_needs() -> None:
    calls: list[int] = []

    def counted(x: Tensor, state: State) -> tuple[Tensor, State]:
        calls.append(x.shape[0] * x.shape[1])
        return running_sum(x, state)

    lengths = [10_000, *[100] * 200]
    over_whole(counted, cold, [torch.ones(n, 1, dtype=torch.float64) for n in lengths])
    assert sum(calls) <= 2 * sum(lengths)
