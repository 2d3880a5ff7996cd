"""Segments -> pieces -> training windows.

A *piece* is what one lane works on without a break, and a *window* is what the gradient sees at
once. No piece reaches over the end of its segment, so nothing is joined that was never adjacent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import Segment, Use


class Piece(NamedTuple):
    """Rows of one segment that a lane works through from a cold start.

    Attributes:
        values: Engineering units ``[row, feature]``.
        first: Rows from this one on count; those before only warm the state up.
        target: The target column ``[row]``, or None.
    """

    values: NDArray[np.float64]
    first: int
    target: NDArray[np.float64] | None = None


def pieces(
    segments: Sequence[Segment], use: Use, lanes: int, warm: int, look_ahead: int = 0
) -> list[Piece]:
    """Divides the rows for a use into pieces of about equal length.

    Every piece starts cold. So that the rows that count are warm all the same, ``warm`` rows of the
    same segment run before them; where a segment begins, its first ``warm`` rows do not count. Time
    runs one way: the rows before are never those that a later use is kept for. Fitting asks for one
    row, since the first has no forecast.

    Args:
        segments: The history.
        use: What the rows are for.
        lanes: How many pieces to work on side by side.
        warm: Rows that a state needs to forget its cold start, at least one.
        look_ahead: Rows behind those that count which are only looked ahead at: those of the next
            piece, but none of a later use.

    Returns:
        The pieces, in order of segment and time; those in which no row counts are left out.
    """
    spans = [(segment, *segment.rows(use)) for segment in segments]
    longest = max(1, -(-sum(stop - start for _, start, stop in spans) // lanes))
    found = []
    for segment, start, stop in spans:
        parts = -(-(stop - start) // longest)
        edges = [start + (stop - start) * part // max(parts, 1) for part in range(parts + 1)]
        for low, high in pairwise(edges):
            begin = max(0, low - warm)
            first = max(low, begin + warm)
            end = min(high + look_ahead, stop)  # what lies behind is kept for a later use
            if first + look_ahead < end:
                target = None if segment.target is None else segment.target[begin:end]
                found.append(Piece(segment.values[begin:end], first - begin, target))
    return found


class Window(NamedTuple):
    """What the gradient sees at once.

    Attributes:
        x: Engineering units ``[time, lane, feature]`` float32.
        counts: 1 where the sample that is due counts, 0 where it warms up or pads, ``[time, lane]``
            float32.
        fresh: 1 where the lane starts a new piece with this window, else 0, ``[lane]`` float32.
        target: The target at the sample that is due, ``[time, lane]`` float32; zeros without one.
    """

    x: Tensor
    counts: Tensor
    fresh: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class Windows:
    """Pieces laid out in parallel lanes, cut into windows of equal length.

    A piece starts where a window starts, so that a state is only ever reset between two windows.

    Attributes:
        x: ``[window, time, lane, feature]`` float32.
        counts: ``[window, time, lane]`` float32.
        fresh: ``[window, lane]`` float32.
        target: ``[window, time, lane]`` float32.
    """

    x: Tensor
    counts: Tensor
    fresh: Tensor
    target: Tensor

    def __iter__(self) -> Iterator[Window]:
        return map(Window, self.x, self.counts, self.fresh, self.target)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def lanes(self) -> int:
        """Number of lanes."""
        return self.x.shape[2]


def lay_out(parts: Sequence[Piece], window: int, lanes: int, look_ahead: int = 0) -> Windows:
    """Lays pieces out in lanes, the longest first, each where least is waiting.

    Args:
        parts: At least one piece.
        window: Steps in a window.
        lanes: Lanes at most.
        look_ahead: Samples by which what is due lags behind what comes in. The last so many rows of
            a piece are only looked ahead at.

    Returns:
        The windows, in order of time; what pads the end of a piece does not count.
    """
    lanes = min(lanes, len(parts))
    length = [0] * lanes  # in windows
    placed: list[tuple[int, int, Piece]] = []  # lane, its first window, piece
    for piece in sorted(parts, key=lambda piece: -len(piece.values)):
        lane = length.index(min(length))
        placed.append((lane, length[lane], piece))
        length[lane] += -(-len(piece.values) // window)
    shape = (max(length), window, lanes)
    features = parts[0].values.shape[1]
    # Any real sample will do as padding: it is finite, and no later piece sees its state.
    x = np.broadcast_to(parts[0].values[0], (shape[0] * window, lanes, features)).astype(np.float32)
    counts = np.zeros((shape[0] * window, lanes), np.float32)
    target = np.zeros((shape[0] * window, lanes), np.float32)
    fresh = np.zeros((shape[0], lanes), np.float32)
    for lane, start, piece in placed:
        row, rows = start * window, len(piece.values)
        x[row : row + rows, lane] = piece.values
        counts[row + piece.first + look_ahead : row + rows, lane] = 1
        if piece.target is not None:
            target[row + look_ahead : row + rows, lane] = piece.target[: max(rows - look_ahead, 0)]
        fresh[start, lane] = 1
    return Windows(
        torch.from_numpy(x).view(*shape, features),
        torch.from_numpy(counts).view(shape),
        torch.from_numpy(fresh),
        torch.from_numpy(target).view(shape),
    )
