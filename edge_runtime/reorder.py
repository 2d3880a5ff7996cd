"""Samples of one stream that are held back for others that may still come before them."""

import struct
from bisect import bisect_left
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

MAX_HELD = 4096  # of one stream; beyond it the oldest does not wait any longer

Key: TypeAlias = tuple[int, int]
"""When a sample was, in nanoseconds, and its device's count."""


class Ordered(NamedTuple):
    """Samples in order: time in nanoseconds and count, each ``[sample]``; ``[sample, feature]``."""

    ts: NDArray[np.int64]
    seq: NDArray[np.int64]
    values: NDArray[np.float32]


class Window:
    """The samples of one stream that are held, in order of time and count.

    Which are released follows from the samples alone, so a replay releases the same ones at the
    same places as the live run.
    """

    __slots__ = ("_keys", "_rows")

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._rows: list[NDArray[np.float32]] = []

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def newest(self) -> int:
        """Nanoseconds of the newest sample that is held; there must be one."""
        return self._keys[-1][0]

    def add(self, key: Key, row: NDArray[np.float32]) -> bool:
        """Takes a sample in.

        Args:
            key: Its time and count.
            row: ``[feature]``.

        Returns:
            False if one with this time and count is held already; then nothing changes.
        """
        at = bisect_left(self._keys, key)
        if at < len(self._keys) and self._keys[at] == key:
            return False
        self._keys.insert(at, key)
        self._rows.insert(at, row)
        return True

    def release(self, wait_ns: int) -> tuple[list[Key], list[NDArray[np.float32]]]:
        """Gives away the samples that have waited long enough, oldest first.

        Args:
            wait_ns: The newest sample of the stream must be so much ahead of a sample.

        Returns:
            Their keys, and their values, each ``[feature]``.
        """
        ripe = bisect_left(self._keys, (self.newest - wait_ns + 1, -1))
        ripe = max(ripe, len(self._keys) - MAX_HELD)
        keys, rows = self._keys[:ripe], self._rows[:ripe]
        del self._keys[:ripe], self._rows[:ripe]
        return keys, rows

    def dump(self) -> bytes:
        """All that is held: the times with the counts, then the values."""
        keys = struct.pack(f"<{2 * len(self)}q", *chain.from_iterable(self._keys))
        return keys + b"".join(row.astype("<f4", copy=False).tobytes() for row in self._rows)

    @classmethod
    def load(cls, record: bytes, features: int) -> "Window":
        """The inverse of `dump`; the record must have the right length."""
        count = len(record) // bytes_held(1, features)
        numbers = struct.unpack_from(f"<{2 * count}q", record)
        rows = np.frombuffer(record, "<f4", offset=16 * count).reshape(count, features)
        window = cls()
        window._keys = list(zip(numbers[::2], numbers[1::2], strict=True))
        window._rows = list(rows.astype(np.float32))
        return window


def bytes_held(samples: int, features: int) -> int:
    """Length of a record of so many samples."""
    return samples * (8 + 8 + 4 * features)


def ordered(keys: list[Key], rows: list[NDArray[np.float32]]) -> Ordered:
    """Samples as arrays; at least one."""
    ts, seq = np.array(keys, np.int64).T
    return Ordered(np.ascontiguousarray(ts), np.ascontiguousarray(seq), np.stack(rows))
