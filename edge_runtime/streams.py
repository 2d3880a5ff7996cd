"""Every machine's carried state in contiguous arrays: take, put, reset, evict, dump, load.

A stream has a slot, a row in each array. Taking the states of many streams is one gather for each
carried tensor, whatever their number, and so is writing all that is remembered of them as records:

    version | watermark, steps, alarm | samples that wait for their score | carried tensors |
    samples that the reorder window holds | what the last messages of a device without a clock were

The last two are there for few streams only and have any length. Numbers are little-endian, so a
record may move to another processor.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.alarm import AlarmState
from edge_runtime.contract import Contract
from edge_runtime.errors import StateError
from edge_runtime.pending import Pending, extended
from edge_runtime.reorder import Window, bytes_held
from edge_runtime.results import NO_SEQ
from edge_runtime.session import State

NEVER = np.iinfo(np.int64).min
RECORD_VERSION = 1
REMEMBERED = 32  # messages of a device without a clock
_FIRST_CAPACITY = 16


class Streams:
    """The carried state of up to ``max_streams`` streams of one model.

    Args:
        contract: The model's.
        max_streams: How many there may be.
        remembers: Whether to remember the last messages of each.

    Attributes:
        names: Name of the stream in each slot; None where the slot is free.
        last_ts: Newest sample of each slot that went to the model, nanoseconds; `NEVER` before the
            first.
        last_seq: Its count; `NO_SEQ` if it has none.
        steps: Samples that the model has seen since the last reset, for each slot.
        uncertain: How many of the next samples of each slot are in doubt, because of a gap.
        raised: Whether the lamp of each slot is lit.
        row: ``ok`` samples in a row that speak for the other side, for each slot.
        held: What the reorder window holds, by slot; only where it holds something.
        pending: Samples whose score has not come yet, because the model looks ahead.
        touched: Whether each slot has had a sample since whoever writes snapshots cleared this.
        seen: When a sample of each slot last arrived, by the gateway's clock in nanoseconds;
            `NEVER` before the first. It decides no score, so no record has it.
    """

    def __init__(self, contract: Contract, max_streams: int, *, remembers: bool = False) -> None:
        self._contract = contract
        self._max_streams = max_streams
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self.names: list[str | None] = []
        capacity = min(_FIRST_CAPACITY, max_streams)
        self.last_ts = np.full(capacity, NEVER, np.int64)
        self.last_seq = np.full(capacity, NO_SEQ, np.int64)
        self.steps = np.zeros(capacity, np.int64)
        self.uncertain = np.zeros(capacity, np.int64)
        self.raised = np.zeros(capacity, np.bool_)
        self.row = np.zeros(capacity, np.int64)
        self.touched = np.zeros(capacity, np.bool_)
        self.seen = np.full(capacity, NEVER, np.int64)
        self.pending = Pending(capacity, contract.look_ahead)
        self.held: dict[int, Window] = {}
        self._messages = np.zeros((capacity, REMEMBERED if remembers else 0), np.uint64)
        self._pools = {
            pair.input: np.full((capacity, *pair.row_shape), pair.initial, pair.dtype)
            for pair in contract.states
        }
        self._record = _record_type(contract)

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
            if slot >= len(self.last_ts):
                self._grow()
        self._slots[name] = slot
        return slot

    def evict(self, name: str) -> None:
        """Forgets a stream; its slot is used again."""
        slot = self._slots.pop(name)
        self.names[slot] = None
        self.raised[slot] = False
        self.row[slot] = 0
        self.last_ts[slot] = self.seen[slot] = NEVER
        self.last_seq[slot] = NO_SEQ
        self.held.pop(slot, None)
        self._messages[slot] = 0
        self.touched[slot] = False
        self.reset(slot)
        self._free.append(slot)

    def reset(self, slot: int, *, keep: bool = False) -> None:
        """Gives a stream the state of one that has seen nothing; watermark and alarm stay.

        Args:
            slot: The stream.
            keep: Whether the states stay that the contract says are kept.
        """
        self.steps[slot] = self.uncertain[slot] = 0
        self.pending.forget(slot)
        for pair in self._contract.states:
            if not (keep and pair.kept):
                self._pools[pair.input][slot] = pair.initial

    def slots(self, names: Sequence[str]) -> NDArray[np.intp]:
        """Slot of each stream, -1 where it is not known yet."""
        find = self._slots.get
        return np.fromiter((find(name, -1) for name in names), np.intp, len(names))

    def alarm(self, slot: int) -> AlarmState:
        """Alarm state of a stream."""
        return AlarmState(bool(self.raised[slot]), int(self.row[slot]))

    def set_alarm(self, slot: int, state: AlarmState) -> None:
        """Remembers it."""
        self.raised[slot], self.row[slot] = state.raised, state.row

    def take(self, slots: Sequence[int] | NDArray[np.intp]) -> State:
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

    def put(self, slots: Sequence[int] | NDArray[np.intp], state: State) -> None:
        """Stores the states of some streams as the model gave them; the inverse of `take`."""
        rows = np.asarray(slots, np.intp)
        for pair in self._contract.states:
            self._pools[pair.input][rows] = np.moveaxis(state[pair.input], pair.stream_axis, 0)

    def waiting(self, slot: int) -> int:
        """How many samples of a stream the model has seen whose score has not come yet."""
        return min(int(self.steps[slot]), self.pending.look_ahead)

    def window(self, slot: int | None) -> Window:
        """What the reorder window of a stream holds; a new one if it holds nothing."""
        window = None if slot is None else self.held.get(slot)
        return Window() if window is None else window

    def hold(self, slot: int, window: Window) -> None:
        """Keeps what the reorder window of a stream holds now."""
        if len(window):
            self.held[slot] = window
        else:
            self.held.pop(slot, None)

    def newest(self) -> NDArray[np.int64]:
        """Newest sample of each slot, held ones too, in nanoseconds; `NEVER` before the first."""
        newest = self.last_ts.copy()
        for slot, window in self.held.items():
            newest[slot] = window.newest
        return newest

    def remembers(self, slot: int, message: int) -> bool:
        """Whether a message is one of the last of a stream."""
        return bool((self._messages[slot] == np.uint64(message)).any())

    def remember(self, slot: int, message: int) -> None:
        """Adds a message, a number other than 0, and forgets the oldest."""
        self._messages[slot, :-1] = self._messages[slot, 1:]
        self._messages[slot, -1] = message

    def dump(self, slots: Sequence[int]) -> list[bytes]:
        """Writes everything that is remembered of some streams.

        Args:
            slots: The streams.

        Returns:
            One record for each. Equal histories give equal records.
        """
        rows = np.asarray(slots, np.intp)
        records = np.zeros(len(rows), self._record)
        records["version"] = RECORD_VERSION
        for column, array in self._fixed().items():
            records[column] = array[rows]
        records["remembered"] = (self._messages[rows] != 0).sum(axis=1)
        if self.held:
            records["held"] = [len(self.held.get(slot, ())) for slot in slots]
        size, whole = self._record.itemsize, records.tobytes()
        dumped = [whole[start : start + size] for start in range(0, len(whole), size)]
        for index in np.flatnonzero(records["held"] + records["remembered"]).tolist():
            dumped[index] += self._tail(slots[index])
        return dumped

    def load(self, names: Sequence[str], records: Sequence[bytes]) -> None:
        """Remembers what `dump` wrote; a stream that is known already is overwritten.

        Args:
            names: The streams, each once.
            records: One record for each.

        Raises:
            StateError: Naming the first stream whose record does not fit this model, or for which
                there is no room; then nothing has changed.
        """
        read = self._checked(names, records)
        more = sum(name not in self._slots for name in names)
        if len(self._slots) + more > self._max_streams:
            raise StateError(
                f"wanted at most {self._max_streams} streams, got {len(self._slots) + more}"
            )
        slots = [self.admit(name) for name in names]
        rows = np.array(slots, np.intp)
        for column, array in self._fixed().items():
            array[rows] = read[column]
        for slot in slots:
            self.held.pop(slot, None)
        self._messages[rows] = 0
        for index in np.flatnonzero(read["held"] + read["remembered"]).tolist():
            held = bytes_held(int(read["held"][index]), len(self._contract.features))
            self._load_tail(slots[index], records[index][self._record.itemsize :], held)

    def _fixed(self) -> dict[str, NDArray[Any]]:
        """The arrays with a row for each slot that stand in a record, by the name of its field."""
        return {
            "last_ts": self.last_ts,
            "last_seq": self.last_seq,
            "steps": self.steps,
            "uncertain": self.uncertain,
            "raised": self.raised,
            "row": self.row,
            "pending_ts": self.pending.ts,
            "pending_seq": self.pending.seq,
            "doubtful": self.pending.doubtful,
            **{_field(name): pool for name, pool in self._pools.items()},
        }

    def _tail(self, slot: int) -> bytes:
        messages = self._messages[slot]
        held = self.held[slot].dump() if slot in self.held else b""
        said: bytes = messages[messages != 0].astype("<u8").tobytes()
        return held + said

    def _load_tail(self, slot: int, tail: bytes, held: int) -> None:
        """A pipeline that has a clock now needs no messages; samples are held until the next."""
        if held:
            self.held[slot] = Window.load(tail[:held], len(self._contract.features))
        messages = np.frombuffer(tail[held:], "<u8")
        room = self._messages.shape[1]
        if room and len(messages):
            self._messages[slot, -len(messages) :] = messages[-room:]

    def _checked(self, names: Sequence[str], records: Sequence[bytes]) -> NDArray[Any]:
        """The fixed part of each record, ``[record]``."""
        size = self._record.itemsize
        for name, record in zip(names, records, strict=True):
            if not record or record[0] != RECORD_VERSION:
                got = f"version {record[0]}" if record else "an empty one"
                raise StateError(f"{name}: wanted a record of version {RECORD_VERSION}, got {got}")
            if len(record) < size:
                raise _wrong_length(name, size, len(record))
        read = np.frombuffer(b"".join(record[:size] for record in records), self._record)
        held = bytes_held(1, len(self._contract.features)) * read["held"].astype(np.int64)
        wanted = size + held + 8 * read["remembered"].astype(np.int64)
        for name, length, record in zip(names, wanted.tolist(), records, strict=True):
            if len(record) != length:
                raise _wrong_length(name, length, len(record))
        return read

    def _grow(self) -> None:
        more = min(len(self.last_ts), self._max_streams - len(self.last_ts))
        self.last_ts = extended(self.last_ts, more, NEVER)
        self.last_seq = extended(self.last_seq, more, NO_SEQ)
        self.steps = extended(self.steps, more, 0)
        self.uncertain = extended(self.uncertain, more, 0)
        self.raised = extended(self.raised, more, 0)
        self.row = extended(self.row, more, 0)
        self._messages = extended(self._messages, more, 0)
        self.touched = extended(self.touched, more, 0)
        self.seen = extended(self.seen, more, NEVER)
        self.pending.grow(more)
        for pair in self._contract.states:
            self._pools[pair.input] = extended(self._pools[pair.input], more, pair.initial)


def _stream_axis_to(rows: NDArray[Any], axis: int) -> NDArray[Any]:
    return rows if axis == 0 else np.ascontiguousarray(np.moveaxis(rows, 0, axis))


def _record_type(contract: Contract) -> np.dtype[Any]:
    ahead = contract.look_ahead
    return np.dtype(
        [
            ("version", "u1"),
            ("last_ts", "<i8"),
            ("last_seq", "<i8"),
            ("steps", "<i8"),
            ("uncertain", "<i8"),
            ("raised", "?"),
            ("row", "<i8"),
            ("held", "<u4"),
            ("remembered", "<u4"),
            ("pending_ts", "<i8", (ahead,)),
            ("pending_seq", "<i8", (ahead,)),
            ("doubtful", "?", (ahead,)),
            *(
                (_field(pair.input), np.dtype(pair.dtype).newbyteorder("<"), pair.row_shape)
                for pair in contract.states
            ),
        ]
    )


def _field(state: str) -> str:
    """Apart from the other fields, whatever the model calls its tensor."""
    return f"state {state}"


def _wrong_length(name: str, wanted: int, got: int) -> StateError:
    return StateError(
        f"{name}: wanted a record of {wanted} bytes, got {got}: it is another model's"
    )
