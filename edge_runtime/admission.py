"""Which samples the model will see, and in which order. No I/O and no clock: `now` is an argument.

    what the model's numbers can hold  ->  room for the stream  ->  time of arrival, if the device
    has no clock  ->  not from the future  ->  after the watermark, or into the reorder window  ->
    how long the stream was silent before

A stream's watermark is the time and count of its newest sample that went to the model. A sample is
after it if its time is later, or equal with a larger count; one without a count stands before all
that have one. What is not after it is dropped: ``duplicate`` if both are equal, else ``late``. With
a reorder window a sample is held until the newest of its stream is so much ahead, and the watermark
moves when it is released.

A device without a clock cannot say which sample is new, so what the broker delivers again (DUP) is
compared with the last `REMEMBERED` messages of its stream. That is at least once: a message that
comes again after more than that many others counts twice, and a sensor that sends the same values
again and again may lose one of them after a reconnect, as the second looks like the first. Both
are mended by a ``seq``, which is compared too.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import Contract
from edge_runtime.payload import NS_PER_MS, ts_text
from edge_runtime.reorder import Key, ordered
from edge_runtime.results import NO_SEQ, Block, Float32, Rejected, Result, counted
from edge_runtime.settings import Settings
from edge_runtime.streams import NEVER, REMEMBERED, Streams

_NOTHING: tuple[int, list["Run"]] = -1, []


class Run(NamedTuple):
    """Samples of one slot that are to be scored in a row.

    Attributes:
        ts: ``[sample]``, nanoseconds.
        seq: ``[sample]``; None if none of them has a count.
        values: ``[sample, feature]``.
        reset: Cause of a reset before the first of them, or empty.
        missed: How many samples from the first on are in doubt, because so many are missing.
    """

    ts: NDArray[np.int64]
    seq: NDArray[np.int64] | None
    values: Float32
    reset: str = ""
    missed: int = 0

    def first(self, steps: int) -> "Run":
        """Its first samples, without what happens before them."""
        if steps >= len(self.ts):
            return self
        seq = None if self.seq is None else self.seq[:steps]
        return Run(self.ts[:steps], seq, self.values[:steps])

    def after(self, steps: int) -> "Run":
        """Its samples from ``steps`` on."""
        seq = None if self.seq is None else self.seq[steps:]
        return Run(self.ts[steps:], seq, self.values[steps:])


class Admission:
    """What is asked of every sample before the model sees it.

    Args:
        contract: The model's.
        settings: From the gateway's configuration.
        streams: Their watermarks and what they hold; changed by `admit`.
    """

    def __init__(self, contract: Contract, settings: Settings, streams: Streams) -> None:
        self._settings = settings
        self._streams = streams
        self._x_dtype = contract.x_dtype
        self._narrow = contract.x_dtype == "float16"  # holds less than the samples' float32
        self._max_gap_ns = settings.max_gap_of(contract)
        self._hold_ns = settings.hold_of(contract)
        self._period_ns = max(1, round(contract.sample_period_ms * NS_PER_MS))
        self._most_missed = contract.warm_up_steps

    def admit(self, block: Block, now_ns: int | None, result: Result) -> tuple[int, list[Run]]:
        """Takes or refuses the samples of a block, one by one.

        Args:
            block: As it arrived.
            now_ns: The gateway's clock, or None for samples that have been admitted before.
            result: Told what was admitted and what was refused.

        Returns:
            The stream's slot and the samples that are to be scored now; slot -1 if nothing of the
            block was taken. A stream that has sent nothing usable takes no room.
        """
        streams = self._streams
        if self._narrow:
            block = self._castable(block, result)
        if len(block.ts) == 0:
            return _NOTHING
        slot = streams.find(block.stream)
        if slot is None and streams.full:
            detail = f"wanted at most {self._settings.max_streams} streams"
            _refuse(block, len(block.ts), "too_many_streams", detail, result)
            return _NOTHING
        if self._settings.arrival:
            arrived = self._arrived(block, slot, now_ns, result)
            if arrived is None:
                return _NOTHING
            block, slot, now_ns = arrived, streams.find(block.stream), None
        if self._settings.reorder_ns or (streams.held and slot in streams.held):
            return self._reordered(block, slot, now_ns, result)
        last = NEVER if slot is None else int(streams.last_ts[slot])
        if not self._in_order(block.ts, last, now_ns):
            block = self._after_watermark(block, slot, now_ns, result)
            if len(block.ts) == 0:
                return _NOTHING
        slot = streams.admit(block.stream)
        result.admitted.append(block)
        streams.last_ts[slot] = block.ts[-1]
        streams.last_seq[slot] = NO_SEQ if block.seq is None else block.seq[-1]
        return slot, self._runs(block.ts, block.seq, block.values, last)

    def _castable(self, block: Block, result: Result) -> Block:
        """Refuses samples that would be infinite as what the model takes."""
        with np.errstate(over="ignore"):
            keep = np.isfinite(block.values.astype(self._x_dtype)).all(axis=1)
        if keep.all():
            return block
        detail = f"wanted values that a {self._x_dtype} can hold, which the model takes"
        _refuse(block, int((~keep).sum()), "not_finite", detail, result)
        return _chosen(block, keep)

    def _arrived(
        self, block: Block, slot: int | None, now_ns: int | None, result: Result
    ) -> Block | None:
        """A message of a device without a clock, at the time of its arrival; None if it is known.

        The times rise by a nanosecond at least, whatever the gateway's clock does.
        """
        streams, message = self._streams, _content(block)
        if block.dup and slot is not None and streams.remembers(slot, message):
            known = f"one of the last {REMEMBERED} messages had this content"
            detail = f"sent again by the broker; {known}"
            _refuse(block, len(block.ts), "duplicate", detail, result)
            return None
        slot = streams.admit(block.stream)
        streams.remember(slot, message)
        if now_ns is None:  # it was given its times before
            return replace(block, dup=False)
        first = max(0, int(streams.last_ts[slot]) + 1)
        steps = np.arange(len(block.ts))
        ts = np.maximum.accumulate(np.maximum(block.ts + now_ns, first) - steps) + steps
        return replace(block, ts=ts, dup=False)

    def _in_order(self, ts: NDArray[np.int64], last: int, now_ns: int | None) -> bool:
        """Whether all times rise, from after the last on and not into the future."""
        newest = int(ts[-1])
        if now_ns is not None and newest > now_ns + self._settings.max_ahead_ns:
            return False
        if len(ts) == 1:
            return newest > last
        return int(ts[0]) > last and bool((ts[1:] > ts[:-1]).all())

    def _after_watermark(
        self, block: Block, slot: int | None, now_ns: int | None, result: Result
    ) -> Block:
        """The samples that are after the watermark, each of which moves it on."""
        mark, keep = self._mark(slot), np.zeros(len(block.ts), np.bool_)
        refused = _Refused(block, result)
        for index, key in self._present(block, now_ns, result):
            if key > mark:
                keep[index], mark = True, key
            else:
                refused.add(key, mark)
        refused.report()
        return _chosen(block, keep)

    def _reordered(
        self, block: Block, slot: int | None, now_ns: int | None, result: Result
    ) -> tuple[int, list[Run]]:
        """Takes samples into the window and gives out those that it releases."""
        streams, mark = self._streams, self._mark(slot)
        last, keep = mark[0], np.zeros(len(block.ts), np.bool_)
        window = streams.window(slot)
        refused = _Refused(block, result)
        keys: list[Key] = []
        rows: list[Float32] = []
        for index, key in self._present(block, now_ns, result):
            if key <= mark:
                refused.add(key, mark)
            elif not window.add(key, block.values[index].copy()):
                refused.add(key, key)
            else:
                keep[index] = True
                released = window.release(self._settings.reorder_ns)
                keys += released[0]
                rows += released[1]
                mark = keys[-1] if keys else mark
        refused.report()
        if not keep.any():
            return _NOTHING
        slot = streams.admit(block.stream)
        streams.hold(slot, window)
        result.admitted.append(_chosen(block, keep))
        if not keys:
            return slot, []
        streams.last_ts[slot], streams.last_seq[slot] = mark
        ts, seq, values = ordered(keys, rows)
        return slot, self._runs(ts, counted(seq), values, last)

    def _mark(self, slot: int | None) -> Key:
        if slot is None:
            return NEVER, NO_SEQ
        return int(self._streams.last_ts[slot]), int(self._streams.last_seq[slot])

    def _present(
        self, block: Block, now_ns: int | None, result: Result
    ) -> Sequence[tuple[int, Key]]:
        """Index and key of the samples that are not from the future, which it refuses."""
        keep = np.ones(len(block.ts), np.bool_)
        if now_ns is not None:
            keep = block.ts <= now_ns + self._settings.max_ahead_ns
        if not keep.all():
            first = ts_text(int(block.ts[np.argmin(keep)]))
            detail = f"ts {first} against the gateway's clock at {ts_text(now_ns or 0)}"
            _refuse(block, int((~keep).sum()), "future", detail, result)
        seq = np.full(len(keep), NO_SEQ) if block.seq is None else block.seq
        keys = zip(block.ts.tolist(), seq.tolist(), strict=True)
        return [(i, key) for i, (key, kept) in enumerate(zip(keys, keep, strict=True)) if kept]

    def _runs(
        self, ts: NDArray[np.int64], seq: NDArray[np.int64] | None, values: Float32, last: int
    ) -> list[Run]:
        """Samples with no long silence inside, and what such a silence leads to.

        Up to ``hold`` to nothing; up to ``max_gap`` as many samples are in doubt as were missed; a
        longer one to a reset.
        """
        first = 0 if last == NEVER else int(ts[0]) - last
        if len(ts) == 1 and first <= self._hold_ns:
            return [Run(ts, seq, values)]
        silences = np.diff(ts, prepend=ts[0] - first)
        starts = np.flatnonzero(silences > self._hold_ns).tolist()
        if not starts:
            return [Run(ts, seq, values)]
        runs = []
        for start, stop in zip([0, *starts], [*starts, len(ts)], strict=True):
            if start < stop:
                part = slice(start, stop)
                causes = self._what_follows(int(silences[start]))
                runs.append(
                    Run(ts[part], None if seq is None else seq[part], values[part], *causes)
                )
        return runs

    def _what_follows(self, silence_ns: int) -> tuple[str, int]:
        """Cause of a reset, or empty; and how many samples are in doubt."""
        if silence_ns > self._max_gap_ns:
            return "gap", 0
        if silence_ns <= self._hold_ns:
            return "", 0
        missed = -(-silence_ns // self._period_ns) - 1
        return "", min(max(1, missed), self._most_missed)


class _Refused:
    """Counts the samples of a block that are not after the watermark, and words it once a cause."""

    def __init__(self, block: Block, result: Result) -> None:
        self._block = block
        self._result = result
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, key: Key, mark: Key) -> None:
        """One more; ``mark`` is the sample that it is not after."""
        cause = "duplicate" if key == mark else "late"
        count, detail = self._found.get(cause, (0, ""))
        detail = detail or f"ts {_text(key)} against the last sample at {_text(mark)}"
        self._found[cause] = count + 1, detail

    def report(self) -> None:
        """Writes them into the result."""
        for cause, (samples, detail) in self._found.items():
            self._result.rejected.append(Rejected(self._block.stream, cause, samples, detail))


def _refuse(block: Block, samples: int, cause: str, detail: str, result: Result) -> None:
    result.rejected.append(Rejected(block.stream, cause, samples, detail))


def _chosen(block: Block, keep: NDArray[np.bool_]) -> Block:
    if keep.all():
        return block
    seq = None if block.seq is None else block.seq[keep]
    return replace(block, ts=block.ts[keep], values=block.values[keep], seq=seq)


def _content(block: Block) -> int:
    """What two messages with equal samples have in common; never 0."""
    count = b"" if block.seq is None else block.seq.tobytes()
    digest = hashlib.blake2b(block.values.tobytes() + count, digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _text(key: Key) -> str:
    ts, seq = key
    return ts_text(ts) if seq == NO_SEQ else f"{ts_text(ts)} seq {seq}"
