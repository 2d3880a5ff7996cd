"""Samples in, scores and flags out. No I/O and no clock: `now` is an argument.

Live, replay and recovery from the journal go through `Pipeline.process`, so they cannot
differ. What is decided here depends on a stream's own samples alone, never on how they were
grouped or what other streams sent:

    admit    which samples, and in which order (`edge_runtime.admission`); gaps
    score    one model call for all streams that have a sample waiting, in order within a stream
    decide   status, alarm, flags

With a model that looks ``W`` samples ahead the score of a sample comes with the ``W``-th sample
after it. It carries the time of the sample that it belongs to, and is ``uncertain`` if any of the
samples that it was made from is in doubt: the sample itself or those ``W``. In doubt is what is out
of its plausible range, and what comes so soon after a gap that the state may not have caught up. A
reset gives up the scores that are still to come, and says how many.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.abreast import LEAST_BLOCKS, MAX_CALL_ROWS, Lane
from edge_runtime.admission import Admission, Run
from edge_runtime.alarm import advance
from edge_runtime.contract import Contract
from edge_runtime.flags import flag_of
from edge_runtime.payload import ScoreLine, ts_text
from edge_runtime.pending import Waiting
from edge_runtime.results import (
    NO_SEQ,
    OK,
    STATUS,
    UNCERTAIN,
    WARMING_UP,
    Abreast,
    Block,
    Evicted,
    Rejected,
    Reset,
    Result,
    Scored,
    counted,
)
from edge_runtime.session import Float32, Outputs, Session
from edge_runtime.settings import Settings
from edge_runtime.streams import Streams

__all__ = ["MAX_CALL_ROWS", "Pipeline", "Settings"]


class _Piece(NamedTuple):
    """Scored samples of one slot, before the alarm has seen them."""

    ts: NDArray[np.int64]
    seq: NDArray[np.int64] | None
    score: Float32
    status: NDArray[np.uint8]
    contribution: Float32 | None


class Pipeline:
    """One model and every stream that it watches.

    Args:
        session: The model.
        settings: From the gateway's configuration.
        explain: Give each sensor's share in each score, not only with the flags.
    """

    def __init__(self, session: Session, settings: Settings, *, explain: bool = False) -> None:
        contract = session.contract
        self.session = session
        self.settings = settings
        self._explain = explain
        self.streams = Streams(contract, settings.max_streams, remembers=settings.arrival)
        self._admission = Admission(contract, settings, self.streams)
        self._may_doubt = settings.hold_of(contract) < settings.max_gap_of(contract)
        self._max_gap_ns = settings.max_gap_of(contract)
        self._first_now: int | None = None
        self._look_ahead = contract.look_ahead
        self._low, self._high = _ranges(contract)
        self._bounded = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())
        self._lane = None if explain else Lane.of(session, settings, self.streams, self._outside)

    def process(
        self, blocks: Sequence[Block], now_ns: int | None, abreast: Sequence[Abreast] = ()
    ) -> Result:
        """Scores what arrived.

        Args:
            blocks: In order of arrival; a stream may have several.
            now_ns: The gateway's clock in nanoseconds since 1970 UTC; None for recorded data,
                which cannot come from the future.
            abreast: Samples that have arrived before the blocks of the same streams, and one after
                the other. What becomes of them is the same as if they were blocks; it only costs
                less.

        Returns:
            Scores, flags, refusals and resets. Streams stand in order of first arrival, single
            samples that were scored side by side apart.
        """
        result = Result([], [], [], [])
        if now_ns is not None and self._first_now is None:
            self._first_now = now_ns
        if abreast:
            blocks = [*self._process_abreast(abreast, now_ns, result), *blocks]
        arrived: Sequence[Block] = ()
        if self._lane is not None and len(blocks) >= LEAST_BLOCKS:
            blocks, arrived = self._lane.process_blocks(blocks, now_ns, result), blocks
        waiting: dict[int, list[Run]] = {}
        for block in blocks:
            slot, runs = self._admission.admit(block, now_ns, result)
            if slot >= 0:
                waiting.setdefault(slot, []).extend(runs)
        slots = list(waiting)
        self.streams.touched[slots] = True
        if now_ns is not None:
            self.streams.seen[slots] = now_ns
        for slot, pieces in self._score(waiting, result).items():
            if pieces:  # else its samples are all held
                self._decide(slot, pieces, result)
        if 0 < len(blocks) < len(arrived):
            _put_in_order(result, arrived)
        return result

    def _process_abreast(
        self, waves: Sequence[Abreast], now_ns: int | None, result: Result
    ) -> list[Block]:
        """Scores side by side what can be; the others as blocks, and what comes after them."""
        if self._lane is None:
            return [block for samples in waves for block in samples.blocks()]
        rest: list[Block] = []
        for samples in waves:
            if rest:
                left = {block.stream for block in rest}
                stays = np.array([name not in left for name in samples.streams])
                rest += samples.where(~stays).blocks()
                samples = samples.where(stays)
            if len(samples):
                others, spoilt = self._lane.process(samples, now_ns, result)
                for slot, ts in spoilt:
                    self._refuse_score(slot, ts, ts, result)
                rest += others
        return rest

    def waiting(self) -> dict[str, int]:
        """Samples whose score has not come yet, by stream.

        The model looks ahead, or the reorder window holds them.
        """
        slots = ((name, slot) for slot, name in enumerate(self.streams.names) if name is not None)
        return {name: self._waiting(slot) for name, slot in slots}

    def held(self) -> int:
        """How many of those the reorder windows hold."""
        return sum(len(window) for window in self.streams.held.values())

    def _waiting(self, slot: int) -> int:
        return self.streams.waiting(slot) + len(self.streams.held.get(slot, ()))

    def idle(self, before_ns: int) -> list[str]:
        """Streams that nothing but their name and their watermark would be missed of.

        Such a stream's next sample starts it afresh anyway, and its alarm is quiet: its lamp is
        dark and no sample speaks for lighting it. Its silence is measured three times. By the
        gateway's clock nothing has arrived since ``before_ns``, and its own samples are older than
        that. And the newest sample of any stream is so much newer than its own that a backlog that
        the broker has kept for all of them cannot be mistaken for silence.

        Args:
            before_ns: The gateway's clock less the silence that is wanted, in nanoseconds.

        Returns:
            Their names; none before the gateway's clock was known for that long.
        """
        streams = self.streams
        if self._first_now is None or self._first_now >= before_ns or not len(streams):
            return []
        longest = max(self._max_gap_ns, self.settings.evict_after_ns or 0)
        newest = streams.newest()
        cut = min(before_ns, int(newest.max()) - longest)
        old = (newest < cut) & (streams.seen < before_ns)
        found = ((slot, streams.names[slot]) for slot in np.flatnonzero(old[: len(streams.names)]))
        return [
            name
            for slot, name in found
            if name is not None and not streams.raised[slot] and not streams.row[slot]
        ]

    def evict(self, names: Iterable[str]) -> list[Evicted]:
        """Forgets some streams and makes room for others.

        Args:
            names: Such as `idle` gives; one that is not known is passed over.

        Returns:
            What was forgotten of each known one.
        """
        evicted, newest = [], self.streams.newest()
        for name in names:
            slot = self.streams.find(name)
            if slot is not None:
                evicted.append(Evicted(name, int(newest[slot]), self._waiting(slot)))
                self.streams.evict(name)
        return evicted

    def _score(self, waiting: dict[int, list[Run]], result: Result) -> dict[int, list[_Piece]]:
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
                elif run.missed:
                    uncertain = self.streams.uncertain
                    uncertain[slot] = max(run.missed, int(uncertain[slot]))
            outputs = self._call(slots, runs, steps)
            for row, (slot, run) in enumerate(zip(slots, runs, strict=True)):
                scored = self._finite_steps(slot, outputs.score[:, row])
                self._collect(slot, run, outputs, (row, scored), pieces)
                if scored < steps:
                    newest = int(run.ts[scored])
                    oldest = self.streams.pending.oldest(slot) if self._look_ahead else newest
                    self._refuse_score(slot, oldest, newest, result)
                    active[slot].extend(_cautiously(run.after(scored + 1)))
                elif steps < len(run.ts):
                    active[slot].append(run.after(steps))
                if not active[slot]:
                    del active[slot]
        return pieces

    def _reset_before(self, slot: int, run: Run, result: Result) -> None:
        unscored = self.streams.waiting(slot)
        result.resets.append(Reset(self._name(slot), int(run.ts[0]), run.reset, unscored))
        self.streams.reset(slot, keep=True)

    def _call(self, slots: list[int], runs: list[Run], steps: int) -> Outputs:
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
        run: Run,
        outputs: Outputs,
        where: tuple[int, int],
        pieces: dict[int, list[_Piece]],
    ) -> None:
        row, steps = where
        run, void = run.first(steps), 0
        ts, seq, doubtful = run.ts, run.seq, self._doubtful(slot, run.values)
        if self._look_ahead:
            void = min(steps, self._void(slot))
            ts, seq, doubtful = self._belated(slot, run, doubtful, steps - void)
        contribution = outputs.contribution
        pieces[slot].append(
            _Piece(
                ts,
                seq,
                outputs.score[void:steps, row],
                self._status(slot, len(ts), doubtful),
                None if contribution is None else contribution[void:steps, row],
            )
        )
        self.streams.steps[slot] += steps

    def _void(self, slot: int) -> int:
        """How many outputs are still to come that belong to no sample."""
        return max(0, self._look_ahead - int(self.streams.steps[slot]))

    def _belated(
        self,
        slot: int,
        run: Run,
        doubtful: NDArray[np.bool_] | None,
        count: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, NDArray[np.bool_]]:
        """The ``count`` samples whose scores have come, and which scores are in doubt.

        Args:
            slot: Whose.
            run: The samples that the model has just seen; the last ones wait from now on.
            doubtful: Which of them are in doubt.
            count: How many scores have come.
        """
        steps = len(run.ts)
        marks = np.zeros(steps, np.bool_) if doubtful is None else doubtful
        seq = np.full(steps, NO_SEQ) if run.seq is None else run.seq
        more = Waiting(run.ts, seq, marks)
        ts, seq, marks = self.streams.pending.after(slot, self.streams.waiting(slot), more)
        return ts[:count], counted(seq[:count]), _any_ahead(marks, self._look_ahead, count)

    def _doubtful(self, slot: int, values: Float32) -> NDArray[np.bool_] | None:
        """Which samples are out of range or come soon after a gap; None if none is."""
        outside = self._outside(values)
        if not self._may_doubt:
            return outside
        left = min(int(self.streams.uncertain[slot]), len(values))
        if left == 0:
            return outside
        self.streams.uncertain[slot] -= left
        doubtful = np.zeros(len(values), np.bool_) if outside is None else outside
        doubtful[:left] = True
        return doubtful

    def _outside(self, values: Float32) -> NDArray[np.bool_] | None:
        """Which samples have a value out of its plausible range; None if all are plausible."""
        if not self._bounded:
            return None
        cells = (values < self._low) | (values > self._high)
        outside: NDArray[np.bool_] = np.logical_or.reduce(cells, axis=1)
        return outside

    def _status(
        self, slot: int, count: int, doubtful: NDArray[np.bool_] | None
    ) -> NDArray[np.uint8]:
        status = np.full(count, OK, np.uint8)
        if doubtful is not None:
            status[doubtful] = UNCERTAIN
        scored = max(0, int(self.streams.steps[slot]) - self._look_ahead)
        warming = self.session.contract.warm_up_steps - scored
        if warming > 0:
            status[:warming] = WARMING_UP
        return status

    def _refuse_score(self, slot: int, ts: int, newest: int, result: Result) -> None:
        """Refuses a sample after the model has seen it: the state is spoilt from there on.

        Args:
            slot: Whose.
            ts: Time of the sample that the score belongs to.
            newest: Time of the newest sample that the score was made from.
            result: Told of it.
        """
        name, cause = self._name(slot), "not_finite_score"
        detail = f"the model's score at ts {ts_text(ts)} is not a finite number"
        result.rejected.append(Rejected(name, cause, 1, detail))
        result.resets.append(Reset(name, newest, cause, self._look_ahead))
        self.streams.reset(slot)

    def _decide(self, slot: int, pieces: list[_Piece], result: Result) -> None:
        ts = np.concatenate([piece.ts for piece in pieces])
        score = np.concatenate([piece.score for piece in pieces])
        status = np.concatenate([piece.status for piece in pieces])
        state, transitions, lit = advance(
            self.streams.alarm(slot), score, status == OK, self.settings.alarm
        )
        self.streams.set_alarm(slot, state)
        explained = _all_shares(pieces) if self._explain else None
        counts = _counts(pieces)
        scored = Scored(self._name(slot), ts, score, status, lit, counts, explained)
        result.scored.append(scored)
        for index, _ in transitions:
            result.flags.append(
                flag_of(
                    self.session,
                    ScoreLine(
                        scored.stream,
                        int(ts[index]),
                        score[index],
                        STATUS[status[index]],
                        bool(lit[index]),
                        scored.seq_at(index),
                    ),
                    _share_at(pieces, index),
                )
            )

    def _name(self, slot: int) -> str:
        name = self.streams.names[slot]
        if name is None:
            raise AssertionError(f"slot {slot} is free")
        return name


def _put_in_order(result: Result, arrived: Sequence[Block]) -> None:
    """As if all blocks had gone the same way."""
    place: dict[str, int] = {}
    for number, block in enumerate(arrived):
        place.setdefault(block.stream, number)
    result.admitted.sort(key=lambda block: place[block.stream])
    result.scored.sort(key=lambda scored: place[scored.stream])
    result.flags.sort(key=lambda flag: place.get(flag.stream, -1))  # -1: not in a block


def _cautiously(run: Run) -> list[Run]:
    """A run in parts of 1, 2, 4, ... samples, the last part first.

    Where one score was not finite the next ones may not be either. Each of them spoils what the
    same call did for the samples behind it, so a call must not take many before it has gone well.
    """
    parts = []
    length = 1
    while len(run.ts):
        parts.append(run.first(length))
        run, length = run.after(length), 2 * length
    return parts[::-1]


def _any_ahead(marks: NDArray[np.bool_], ahead: int, count: int) -> NDArray[np.bool_]:
    """Whether a sample or one of the next ``ahead`` is marked, for the first ``count``."""
    sums = np.concatenate([[0], np.cumsum(marks)])
    found: NDArray[np.bool_] = sums[ahead + 1 : ahead + 1 + count] > sums[:count]
    return found


def _all_shares(pieces: list[_Piece]) -> Float32 | None:
    shares = [piece.contribution for piece in pieces if piece.contribution is not None]
    return np.concatenate(shares) if shares else None


def _counts(pieces: list[_Piece]) -> NDArray[np.int64] | None:
    if all(piece.seq is None for piece in pieces):
        return None
    counts = (np.full(len(p.ts), NO_SEQ) if p.seq is None else p.seq for p in pieces)
    return counted(np.concatenate(list(counts)))


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
