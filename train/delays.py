"""Delay lines: what the last few samples say together, with those samples as carried state.

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


def boxcars(line: Tensor, spans: Sequence[int]) -> list[Tensor]:
    """Means over the last samples, which unlike exponential ones forget.

    Args:
        line: ``[spans[-1] - 1 + time, stream, ...]``.
        spans: 1, 2, 4, ...: powers of two, none left out.

    Returns:
        A mean ``[time, stream, ...]`` for each span.
    """
    total, means = line, []  # total: sums over ``span`` rows that end at each row
    for span in spans:
        means.append(total[spans[-1] - span :] / span)
        total = total[span:] + total[:-span]
    return means


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
