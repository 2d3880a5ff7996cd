"""Samples in, scores and flags out. No I/O and no clock: `now` is an argument.

Live, replay and (later) recovery from the journal go through `Pipeline.process`, so they cannot
differ. What is decided here depends on a stream's own samples alone, never on how they were
grouped or what other streams sent:

    admit    is there room, is each sample after the last one and not in the future; gaps
    score    one model call for all streams that have a sample waiting, in order within a stream
    decide   status, alarm, flags

With a model that looks ``W`` samples ahead the score of a sample comes with the ``W``-th sample
after it. It carries the time of the sample that it belongs to, and is ``uncertain`` if any of the
samples that it was made from is out of its plausible range: the sample itself or those ``W``. A
reset gives up the scores that are still to come, and says how many.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.alarm import Event, advance
from edge_runtime.config import AlarmConfig, PipelineConfig
from edge_runtime.contract import Contract
from edge_runtime.payload import MAX_TS_NS, NS_PER_MS, Flag, Share, ts_text
from edge_runtime.results import (
    OK,
    STATUS,
    UNCERTAIN,
    WARMING_UP,
    Block,
    Rejected,
    Reset,
    Result,
    Scored,
)
from edge_runtime.session import Float32, Outputs, Session
from edge_runtime.streams import NEVER, Streams

TOP_FEATURES = 3
MAX_CALL_ROWS = 1 << 16  # bounds the memory of one model call


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the gateway's configuration says about one pipeline.

    Attributes:
        alarm: From score to lamp.
        max_streams: A further stream is rejected.
        max_gap_ns: A longer silence resets the stream; None takes the contract's.
        max_ahead_ns: A sample further ahead of ``now`` is rejected.
    """

    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    max_streams: int = 10_000
    max_gap_ns: int | None = None
    max_ahead_ns: int = 60_000 * NS_PER_MS

    @classmethod
    def of(cls, config: PipelineConfig) -> "Settings":
        """From a ``[[pipeline]]`` table."""
        gap = config.max_gap_ms
        return cls(
            alarm=config.alarm,
            max_streams=config.max_streams,
            max_gap_ns=None if gap is None else _ns(gap),
            max_ahead_ns=_ns(config.max_ahead_ms),
        )


class _Run(NamedTuple):
    """Accepted samples of one slot that are to be scored in a row."""

    ts: NDArray[np.int64]
    values: Float32
    reset: str  # cause of a reset before the first of them, or empty


class _Piece(NamedTuple):
    """Scored samples of one slot, before the alarm has seen them."""

    ts: NDArray[np.int64]
    score: Float32
    status: NDArray[np.uint8]
    contribution: Float32 | None


class Pipeline:
    """One model and every stream that it watches.

    Args:
        session: The model.
        settings: From the gateway's configuration.
    """

    def __init__(self, session: Session, settings: Settings) -> None:
        contract = session.contract
        self.session = session
        self.settings = settings
        self.streams = Streams(contract, settings.max_streams)
        self._max_gap_ns = (
            _ns(contract.max_gap_ms) if settings.max_gap_ns is None else settings.max_gap_ns
        )
        self._look_ahead = contract.look_ahead
        self._narrow = contract.x_dtype == "float16"  # holds less than the samples' float32
        self._low, self._high = _ranges(contract)
        self._bounded = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())

    def process(self, blocks: Sequence[Block], now_ns: int | None) -> Result:
        """Scores what arrived.

        Args:
            blocks: In order of arrival; a stream may have several.
            now_ns: The gateway's clock in nanoseconds since 1970 UTC; None for recorded data,
                which cannot come from the future.

        Returns:
            Scores, flags, refusals and resets. Streams stand in order of first arrival.
        """
        result = Result([], [], [], [])
        waiting: dict[int, list[_Run]] = {}
        for block in blocks:
            self._admit(block, now_ns, waiting, result)
        for slot, pieces in self._score(waiting, result).items():
            self._decide(slot, pieces, result)
        return result

    def waiting(self) -> dict[str, int]:
        """Samples whose score has not come yet because the model looks ahead, by stream."""
        slots = ((name, slot) for slot, name in enumerate(self.streams.names) if name is not None)
        return {name: self.streams.waiting(slot) for name, slot in slots}

    def _admit(
        self,
        block: Block,
        now_ns: int | None,
        waiting: dict[int, list[_Run]],
        result: Result,
    ) -> None:
        if self._narrow:
            block = self._castable(block, result)
        if len(block.ts) == 0:
            return
        slot = self.streams.find(block.stream)
        if slot is None and self.streams.full:
            detail = f"wanted at most {self.settings.max_streams} streams"
            result.rejected.append(
                Rejected(block.stream, "too_many_streams", len(block.ts), detail)
            )
            return
        last = NEVER if slot is None else int(self.streams.last_ts[slot])
        keep = self._timely(block, last, now_ns, result)
        if not keep.any():
            return  # a stream that has sent nothing usable takes no room
        slot = self.streams.admit(block.stream)
        ts, values = (
            (block.ts, block.values) if keep.all() else (block.ts[keep], block.values[keep])
        )
        self.streams.last_ts[slot] = ts[-1]
        runs = waiting.setdefault(slot, [])
        for start, stop, cause in self._between_gaps(ts, last):
            runs.append(_Run(ts[start:stop], values[start:stop], cause))

    def _castable(self, block: Block, result: Result) -> Block:
        """Refuses samples that would be infinite as what the model takes."""
        dtype = self.session.contract.x_dtype
        with np.errstate(over="ignore"):
            keep = np.isfinite(block.values.astype(dtype)).all(axis=1)
        if keep.all():
            return block
        detail = f"wanted values that a {dtype} can hold, which the model takes"
        result.rejected.append(Rejected(block.stream, "not_finite", int((~keep).sum()), detail))
        return Block(block.stream, block.ts[keep], block.values[keep])

    def _timely(
        self, block: Block, last: int, now_ns: int | None, result: Result
    ) -> NDArray[np.bool_]:
        """Which samples are neither from the future nor at or before one accepted earlier."""
        ts = block.ts
        keep = np.ones(len(ts), np.bool_)
        if now_ns is not None:
            keep = ts <= now_ns + self.settings.max_ahead_ns
            self._refuse(
                block, ~keep, "future", f"the gateway's clock at {ts_text(now_ns)}", result
            )
        if keep.all() and ts[0] > last and (len(ts) == 1 or bool((ts[1:] > ts[:-1]).all())):
            return keep
        newest = np.maximum.accumulate(np.where(keep, ts, NEVER))
        before = np.maximum(np.concatenate([[last], newest[:-1]]), last)
        late: NDArray[np.bool_] = keep & (ts <= before)
        seen = ts_text(int(before[np.argmax(late)])) if late.any() else ""
        self._refuse(block, late, "late", f"the last sample at {seen}", result)
        return np.logical_and(keep, ~late)

    def _refuse(
        self, block: Block, which: NDArray[np.bool_], cause: str, against: str, result: Result
    ) -> None:
        if which.any():
            first = ts_text(int(block.ts[np.argmax(which)]))
            detail = f"ts {first} against {against}"
            result.rejected.append(Rejected(block.stream, cause, int(which.sum()), detail))

    def _between_gaps(self, ts: NDArray[np.int64], last: int) -> Iterable[tuple[int, int, str]]:
        """Ranges of samples with no long silence inside, and why each starts afresh."""
        gaps = np.flatnonzero(np.diff(ts) > self._max_gap_ns) + 1
        first = "gap" if last != NEVER and ts[0] - last > self._max_gap_ns else ""
        edges = [0, *gaps.tolist(), len(ts)]
        for index, (start, stop) in enumerate(pairwise(edges)):
            yield start, stop, "gap" if index else first

    def _score(self, waiting: dict[int, list[_Run]], result: Result) -> dict[int, list[_Piece]]:
        """Runs the model until nothing waits.

        Each call takes every stream that has samples, for as many steps as the shortest has.
        """
        pieces: dict[int, list[_Piece]] = {slot: [] for slot in waiting}
        active = {slot: runs[::-1] for slot, runs in waiting.items() if runs}
        while active:
            slots = list(active)
            runs = [active[slot].pop() for slot in slots]
            steps = min(len(run.ts) for run in runs)
            # Whoever looks ahead reads so many rows more for each row.
            most = MAX_CALL_ROWS // (1 + self._look_ahead)
            steps = max(1, min(steps, most // len(runs)))
            for slot, run in zip(slots, runs, strict=True):
                if run.reset:
                    self._reset_before(slot, run, result)
            outputs = self._call(slots, runs, steps)
            for row, (slot, run) in enumerate(zip(slots, runs, strict=True)):
                scored = self._finite_steps(slot, outputs.score[:, row])
                self._collect(slot, run, outputs, (row, scored), pieces)
                if scored < steps:
                    self._refuse_score(slot, run, scored, result)
                    active[slot].extend(_cautiously(_after(run, scored + 1)))
                elif steps < len(run.ts):
                    active[slot].append(_after(run, steps))
                if not active[slot]:
                    del active[slot]
        return pieces

    def _reset_before(self, slot: int, run: _Run, result: Result) -> None:
        unscored = self.streams.waiting(slot)
        result.resets.append(Reset(self._name(slot), int(run.ts[0]), run.reset, unscored))
        self.streams.reset(slot)

    def _call(self, slots: list[int], runs: list[_Run], steps: int) -> Outputs:
        x = np.stack([run.values[:steps] for run in runs], axis=1)
        outputs, state = self.session.run(x, self.streams.take(slots))
        self.streams.put(slots, state)
        return outputs

    def _finite_steps(self, slot: int, score: Float32) -> int:
        """How many scores come before the first that is not a number; void ones may be anything."""
        finite = np.isfinite(score)
        if self._look_ahead:
            finite[: self._void(slot)] = True
        return len(score) if finite.all() else int(np.argmin(finite))

    def _collect(
        self,
        slot: int,
        run: _Run,
        outputs: Outputs,
        where: tuple[int, int],
        pieces: dict[int, list[_Piece]],
    ) -> None:
        row, steps = where
        ts, void = run.ts[:steps], 0
        outside = self._outside(run.values[:steps])
        if self._look_ahead:
            void = min(steps, self._void(slot))
            ts, outside = self._belated(slot, ts, outside, steps - void)
        contribution = outputs.contribution
        pieces[slot].append(
            _Piece(
                ts,
                outputs.score[void:steps, row],
                self._status(slot, len(ts), outside),
                None if contribution is None else contribution[void:steps, row],
            )
        )
        self.streams.steps[slot] += steps

    def _void(self, slot: int) -> int:
        """How many outputs are still to come that belong to no sample."""
        return max(0, self._look_ahead - int(self.streams.steps[slot]))

    def _belated(
        self, slot: int, ts: NDArray[np.int64], outside: NDArray[np.bool_] | None, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Times of the ``count`` samples whose scores have come, and which were made out of range.

        Args:
            slot: Whose.
            ts: Times of the samples that the model has just seen; the last ones wait from now on.
            outside: Which of them are out of range.
            count: How many scores have come.
        """
        marks = np.zeros(len(ts), np.bool_) if outside is None else outside
        ts, marks = self.streams.pending.after(slot, self.streams.waiting(slot), ts, marks)
        return ts[:count], _any_ahead(marks, self._look_ahead, count)

    def _outside(self, values: Float32) -> NDArray[np.bool_] | None:
        """Which samples have a value out of its plausible range; None if all are plausible."""
        if not self._bounded:
            return None
        cells = (values < self._low) | (values > self._high)
        outside: NDArray[np.bool_] = np.logical_or.reduce(cells, axis=1)
        return outside

    def _status(
        self, slot: int, count: int, outside: NDArray[np.bool_] | None
    ) -> NDArray[np.uint8]:
        status = np.full(count, OK, np.uint8)
        if outside is not None:
            status[outside] = UNCERTAIN
        scored = max(0, int(self.streams.steps[slot]) - self._look_ahead)
        warming = self.session.contract.warm_up_steps - scored
        if warming > 0:
            status[:warming] = WARMING_UP
        return status

    def _refuse_score(self, slot: int, run: _Run, index: int, result: Result) -> None:
        """Refuses a sample after the model has seen it: the state is spoilt from there on."""
        name, cause, newest = self._name(slot), "not_finite_score", int(run.ts[index])
        ahead = self._look_ahead
        ts = self.streams.pending.oldest(slot) if ahead else newest
        detail = f"the model's score at ts {ts_text(ts)} is not a finite number"
        result.rejected.append(Rejected(name, cause, 1, detail))
        result.resets.append(Reset(name, newest, cause, ahead))
        self.streams.reset(slot)

    def _decide(self, slot: int, pieces: list[_Piece], result: Result) -> None:
        ts, score, status = (
            np.concatenate([piece[column] for piece in pieces]) for column in range(3)
        )
        state, transitions, lit = advance(
            self.streams.alarms[slot], score, status == OK, self.settings.alarm
        )
        self.streams.alarms[slot] = state
        scored = Scored(self._name(slot), ts, score, status, lit)
        result.scored.append(scored)
        for index, event in transitions:
            shares = _share_at(pieces, index)
            result.flags.append(self._flag(scored, index, event, shares))

    def _flag(self, scored: Scored, index: int, event: Event, shares: Float32 | None) -> Flag:
        ts, model = int(scored.ts[index]), self.session.digest[:16]
        return Flag(
            id=flag_id(self.session.digest, scored.stream, ts, event),
            stream=scored.stream,
            ts=ts,
            event=event,
            score=scored.score[index],
            status=STATUS[scored.status[index]],
            top=() if shares is None else self._top(shares),
            model=model,
        )

    def _top(self, shares: Float32) -> tuple[Share, ...]:
        names = self.session.contract.feature_names
        order = np.argsort(-shares, kind="stable")[:TOP_FEATURES]
        return tuple(Share(names[i], round(float(shares[i]), 4)) for i in order)

    def _name(self, slot: int) -> str:
        name = self.streams.names[slot]
        if name is None:
            raise AssertionError(f"slot {slot} is free")
        return name


def flag_id(digest: str, stream: str, ts_ns: int, event: str) -> str:
    """The id of a flag: the same wherever and whenever the same thing is decided.

    Args:
        digest: SHA-256 of the model file.
        stream: Name of the stream.
        ts_ns: Nanoseconds since 1970 UTC.
        event: ``raised`` or ``cleared``.

    Returns:
        32 hexadecimal digits.
    """
    key = "\0".join((digest, stream, str(ts_ns), event))
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _after(run: _Run, steps: int) -> _Run:
    return _Run(run.ts[steps:], run.values[steps:], "")


def _cautiously(run: _Run) -> list[_Run]:
    """A run in parts of 1, 2, 4, ... samples, the last part first.

    Where one score was not finite the next ones may not be either. Each of them spoils what the
    same call did for the samples behind it, so a call must not take many before it has gone well.
    """
    parts = []
    length = 1
    while len(run.ts):
        parts.append(_Run(run.ts[:length], run.values[:length], ""))
        run, length = _after(run, length), 2 * length
    return parts[::-1]


def _any_ahead(marks: NDArray[np.bool_], ahead: int, count: int) -> NDArray[np.bool_]:
    """Whether a sample or one of the next ``ahead`` is marked, for the first ``count``."""
    sums = np.concatenate([[0], np.cumsum(marks)])
    found: NDArray[np.bool_] = sums[ahead + 1 : ahead + 1 + count] > sums[:count]
    return found


def _share_at(pieces: list[_Piece], index: int) -> Float32 | None:
    for piece in pieces:
        if index < len(piece.ts):
            return None if piece.contribution is None else piece.contribution[index]
        index -= len(piece.ts)
    raise IndexError(index)


def _ranges(contract: Contract) -> tuple[Float32, Float32]:
    """Rounded as the samples are, so that a sample exactly at a limit is still inside."""
    low = [-np.inf if f.low is None else f.low for f in contract.features]
    high = [np.inf if f.high is None else f.high for f in contract.features]
    with np.errstate(over="ignore"):
        return np.asarray(low, np.float32), np.asarray(high, np.float32)


def _ns(ms: float) -> int:
    """Milliseconds of a setting in nanoseconds; one beyond all time stays within an int64."""
    return round(min(ms * NS_PER_MS, MAX_TS_NS // 2))
