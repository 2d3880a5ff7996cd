"""Delay lines: what the last few samples say together, with them or their sums as carried state.

Everything here is a sum of a fixed number of terms in a fixed order, so that a score does not
depend on how the samples were cut into calls. Sums over 2, 4, 8, ... samples are made by doubling.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def behind(line: Tensor, x: Tensor) -> Tensor:
    """Puts what was carried before what came in.

    Args:
        line: The rows before ``[carried, stream, ...]``.
        x: Rows ``[time, stream, ...]``.

    Returns:
        ``[carried + time, stream, ...]``; its last ``carried`` rows are the next ``line``.
    """
    return torch.cat([line, x])


def boxcars(carried: Tensor, x: Tensor, spans: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """Sums over the last samples, which unlike exponential ones forget.

    A sum over 2 k samples is that over the last k and the one that stood there k samples before. So
    what is carried are the last sums over 1, 2, 4, ... samples, as many as each will be needed for,
    and a new sample costs one addition a span.

    Args:
        carried: ``[spans[-1] - 1, stream, ...]``: the last sum over 1 sample, the last 2 over 2,
            and so on; zeros where nothing has come.
        x: Rows ``[time, stream, ...]``.
        spans: Powers of two, ascending.

    Returns:
        A sum ``[time, stream, ...]`` for each span, and what is carried after.
    """
    halves = [1 << k for k in range(spans[-1].bit_length() - 1)]
    sums, after = {1: x}, []
    for half, before in zip(halves, torch.split(carried, halves), strict=True):
        line = behind(before, sums[half])
        after.append(line[-half:])
        sums[2 * half] = sums[half] + line[:-half]
    return [sums[span] for span in spans], torch.cat(after)


def geometric(line: Tensor, keep: float, taps: int) -> Tensor:
    """An exponentially weighted mean (Roberts 1959) that ends after ``taps`` samples.

    Args:
        line: ``[taps - 1 + time, stream, ...]``.
        keep: Weight of a sample beside that of the one after it, below 1.
        taps: A power of two.

    Returns:
        ``[time, stream, ...]``.
    """
    total, span = line, 1
    while span < taps:
        total = total[span:] + keep**span * total[:-span]
        span *= 2
    return total * ((1 - keep) / (1 - keep**taps))
