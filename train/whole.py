"""Runs over whole segments, each from its first sample on, as a gateway would meet it."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from train.layers import State

LANES, CHUNK = 64, 1024
"""Segments side by side, and samples a call."""

Run = Callable[[Tensor, State], tuple[Tensor, State]]


@torch.no_grad()
def over_whole(
    run: Run, initial_state: Callable[[int], State], sequences: Sequence[Tensor]
) -> list[Tensor]:
    """Runs a function of samples and state over sequences that start cold.

    Args:
        run: ``(x [time, stream, n], state) -> (y [time, stream, ...], state)``.
        initial_state: The state of so many streams that have seen nothing.
        sequences: Each ``[row, n]`` float32.

    Returns:
        What was made of each of them, ``[row, ...]``, in order.
    """
    found: dict[int, Tensor] = {}
    for group in _alike([len(sequence) for sequence in sequences]):
        x = torch.nn.utils.rnn.pad_sequence([sequences[k] for k in group])  # [time, stream, n]
        state, parts = initial_state(len(group)), []
        for part in torch.split(x, CHUNK):
            y, state = run(part, state)
            parts.append(y)
        whole = torch.cat(parts)
        found.update({k: whole[: len(sequences[k]), lane] for lane, k in enumerate(group)})
    return [found[k] for k in range(len(sequences))]


def _alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Groups of sequences that are at least half as long as the longest of them."""
    group: list[int] = []
    for k in sorted(range(len(lengths)), key=lambda k: -lengths[k]):
        if group and (len(group) == LANES or 2 * lengths[k] < lengths[group[0]]):
            yield group
            group = []
        group.append(k)
    if group:
        yield group


def as_tensor(values: np.ndarray) -> Tensor:
    """``[row, n]`` float32."""
    return torch.from_numpy(np.asarray(values, np.float32))
