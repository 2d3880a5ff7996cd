"""Every machine's carried state in contiguous arrays: take, put, reset, evict.

A stream has a slot, a row in each array. Taking the states of many streams is one gather for each
carried tensor, whatever their number.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.alarm import QUIET, AlarmState
from edge_runtime.contract import Contract
from edge_runtime.session import State

NEVER = np.iinfo(np.int64).min
_FIRST_CAPACITY = 16


class Streams:
    """The carried state of up to ``max_streams`` streams of one model.

    Attributes:
        names: Name of the stream in each slot; None where the slot is free.
        last_ts: Newest sample of each slot, nanoseconds; `NEVER` before the first.
        steps: Samples that the model has seen since the last reset, for each slot.
        alarms: Alarm state of each slot.
        pending: Samples whose score has not come yet, because the model looks ahead.
    """

    def __init__(self, contract: Contract, max_streams: int) -> None:
        self._contract = contract
        self._max_streams = max_streams
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self.names: list[str | None] = []
        self.alarms: list[AlarmState] = []
        capacity = min(_FIRST_CAPACITY, max_streams)
        self.last_ts = np.full(capacity, NEVER, np.int64)
        self.steps = np.zeros(capacity, np.int64)
        self.pending = Pending(capacity, contract.look_ahead)
        self._pools = {
            pair.input: np.full((capacity, *pair.row_shape), pair.initial, pair.dtype)
            for pair in contract.states
        }

    def __len__(self) -> int:
        return len(self._slots)

    def find(self, name: str) -> int | None:
        """Slot of a stream that is already known."""
        return self._slots.get(name)

    @property
    def full(self) -> bool:
        """Whether there is no room for another stream."""
        return len(self._slots) >= self._max_streams

    def admit(self, name: str) -> int:
        """Slot of a stream, a fresh one if it is new; then the streams must not be `full`."""
        slot = self._slots.get(name)
        if slot is not None:
            return slot
        if self.full:
            raise AssertionError(f"no room for {name}")
        if self._free:
            slot = self._free.pop()
            self.names[slot] = name
        else:
            slot = len(self.names)
            self.names.append(name)
            self.alarms.append(QUIET)
            if slot >= len(self.last_ts):
                self._grow()
        self._slots[name] = slot
        return slot

    def evict(self, name: str) -> None:
        """Forgets a stream; its slot is used again."""
        slot = self._slots.pop(name)
        self.names[slot] = None
        self.alarms[slot] = QUIET
        self.last_ts[slot] = NEVER
        self.reset(slot)
        self._free.append(slot)

    def reset(self, slot: int) -> None:
        """Gives a stream the state of one that has seen nothing; watermark and alarm stay."""
        self.steps[slot] = 0
        for pair in self._contract.states:
            self._pools[pair.input][slot] = pair.initial

    def take(self, slots: Sequence[int]) -> State:
        """Copies the states of some streams, in the shape that the model takes.

        Args:
            slots: The streams, each once.

        Returns:
            One array for each carried tensor, by input name, streams in the order given.
        """
        rows = np.asarray(slots, np.intp)
        return {
            pair.input: _stream_axis_to(
                np.take(self._pools[pair.input], rows, axis=0), pair.stream_axis
            )
            for pair in self._contract.states
        }

    def put(self, slots: Sequence[int], state: State) -> None:
        """Stores the states of some streams as the model gave them; the inverse of `take`."""
        rows = np.asarray(slots, np.intp)
        for pair in self._contract.states:
            self._pools[pair.input][rows] = np.moveaxis(state[pair.input], pair.stream_axis, 0)

    def waiting(self, slot: int) -> int:
        """How many samples of a stream have been seen whose score has not come yet."""
        return min(int(self.steps[slot]), self.pending.look_ahead)

    def _grow(self) -> None:
        more = min(len(self.last_ts), self._max_streams - len(self.last_ts))
        self.last_ts = _extended(self.last_ts, more, NEVER)
        self.steps = _extended(self.steps, more, 0)
        self.pending.grow(more)
        for pair in self._contract.states:
            self._pools[pair.input] = _extended(self._pools[pair.input], more, pair.initial)


class Pending:
    """The last ``look_ahead`` samples of each stream: when they were, and whether in range.

    Attributes:
        look_ahead: How many they are.
    """

    def __init__(self, capacity: int, look_ahead: int) -> None:
        self.look_ahead = look_ahead
        self._ts = np.zeros((capacity, look_ahead), np.int64)
        self._outside = np.zeros((capacity, look_ahead), np.bool_)

    def after(
        self, slot: int, count: int, ts: NDArray[np.int64], outside: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The samples that wait and then some more, which from now on wait too.

        Args:
            slot: Whose.
            count: How many wait.
            ts: ``[sample]``, nanoseconds of the further samples.
            outside: ``[sample]``, whether one of their values is out of its plausible range.

        Returns:
            Both of all of them, oldest first.
        """
        first = self.look_ahead - count
        ts = np.concatenate([self._ts[slot, first:], ts])
        outside = np.concatenate([self._outside[slot, first:], outside])
        keep = min(len(ts), self.look_ahead)
        self._ts[slot, self.look_ahead - keep :] = ts[len(ts) - keep :]
        self._outside[slot, self.look_ahead - keep :] = outside[len(ts) - keep :]
        return ts, outside

    def oldest(self, slot: int) -> int:
        """Time of the sample that has waited longest, in nanoseconds, where as many wait as can."""
        return int(self._ts[slot, 0])

    def grow(self, more: int) -> None:
        """Makes room for more streams."""
        self._ts = _extended(self._ts, more, 0)
        self._outside = _extended(self._outside, more, 0)


def _extended(array: NDArray[Any], more: int, value: float) -> NDArray[Any]:
    return np.concatenate([array, np.full((more, *array.shape[1:]), value, array.dtype)])


def _stream_axis_to(rows: NDArray[Any], axis: int) -> NDArray[Any]:
    return rows if axis == 0 else np.ascontiguousarray(np.moveaxis(rows, 0, axis))
