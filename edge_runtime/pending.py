"""Samples that a stream has sent and that have no score yet, because the model looks ahead."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.results import NO_SEQ


class Waiting(NamedTuple):
    """Samples of one stream; every array is ``[sample]``.

    Attributes:
        ts: Nanoseconds.
        seq: The device's own count, `NO_SEQ` where it gave none.
        doubtful: Whether a score that is made from the sample is ``uncertain``.
    """

    ts: NDArray[np.int64]
    seq: NDArray[np.int64]
    doubtful: NDArray[np.bool_]


class Pending:
    """The last ``look_ahead`` samples of each stream: when they were, and whether in doubt.

    What stands before the samples that wait is empty, so equal histories leave equal arrays.

    Attributes:
        look_ahead: How many they are.
        ts: ``[slot, look_ahead]``, nanoseconds.
        seq: ``[slot, look_ahead]``, the device's own count.
        doubtful: ``[slot, look_ahead]``, whether a score made from the sample is ``uncertain``.
    """

    def __init__(self, capacity: int, look_ahead: int) -> None:
        self.look_ahead = look_ahead
        self.ts = np.zeros((capacity, look_ahead), np.int64)
        self.seq = np.full((capacity, look_ahead), NO_SEQ, np.int64)
        self.doubtful = np.zeros((capacity, look_ahead), np.bool_)

    def after(self, slot: int, count: int, more: Waiting) -> Waiting:
        """The samples that wait and then some more, which from now on wait too.

        Args:
            slot: Whose.
            count: How many wait.
            more: The further samples.

        Returns:
            All of them, oldest first.
        """
        first = self.look_ahead - count
        kept = (self.ts, self.seq, self.doubtful)
        parts = zip(kept, more, strict=True)
        all_ = Waiting(*(np.concatenate([array[slot, first:], new]) for array, new in parts))
        keep = min(len(all_.ts), self.look_ahead)
        for array, column in zip(kept, all_, strict=True):
            array[slot, self.look_ahead - keep :] = column[len(column) - keep :]
        return all_

    def oldest(self, slot: int) -> int:
        """Time of the sample that has waited longest, in nanoseconds, where as many wait as can."""
        return int(self.ts[slot, 0])

    def forget(self, slot: int) -> None:
        """No sample of a stream waits any more."""
        self.ts[slot] = 0
        self.seq[slot] = NO_SEQ
        self.doubtful[slot] = False

    def grow(self, more: int) -> None:
        """Makes room for more streams."""
        self.ts = extended(self.ts, more, 0)
        self.seq = extended(self.seq, more, NO_SEQ)
        self.doubtful = extended(self.doubtful, more, 0)


def extended(array: NDArray[Any], more: int, value: float) -> NDArray[Any]:
    """An array with ``more`` rows of one value at its end."""
    return np.concatenate([array, np.full((more, *array.shape[1:]), value, array.dtype)])
