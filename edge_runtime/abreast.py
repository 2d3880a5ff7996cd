"""Many streams scored side by side: the everyday case, in whole columns.

One sample of each, or a block of each, all equally long. What `edge_runtime.pipeline.Pipeline`
decides stream by stream is decided here for all at once, with the same results. Only for samples
about which there is nothing to decide in admission: of a known stream, after its watermark, not
from the future and without a silence before. All others are given back, and so is everything where
the model or the settings ask for more.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.alarm import advance
from edge_runtime.flags import flag_of
from edge_runtime.payload import ScoreLine
from edge_runtime.results import (
    NO_SEQ,
    OK,
    STATUS,
    UNCERTAIN,
    WARMING_UP,
    Abreast,
    Block,
    Result,
    Scored,
    ScoredAbreast,
    counted,
)
from edge_runtime.session import Float32, Session
from edge_runtime.settings import Settings
from edge_runtime.streams import NEVER, Streams

Slots = NDArray[np.intp]

MAX_CALL_ROWS = 1 << 16  # bounds the memory of one model call
LEAST_BLOCKS = 2  # fewer have nothing beside them


class Lane:
    """Scores samples side by side. Build it with `Lane.of`."""

    def __init__(
        self,
        session: Session,
        settings: Settings,
        streams: Streams,
        outside: Callable[[Float32], NDArray[np.bool_] | None],
    ) -> None:
        contract = session.contract
        self._session = session
        self._streams = streams
        self._outside = outside
        self._alarm = settings.alarm
        self._warm_up_steps = contract.warm_up_steps
        self._max_ahead_ns = settings.max_ahead_ns
        self._hold_ns = settings.hold_of(contract)

    @classmethod
    def of(
        cls,
        session: Session,
        settings: Settings,
        streams: Streams,
        outside: Callable[[Float32], NDArray[np.bool_] | None],
    ) -> "Lane | None":
        """A lane, where model and settings allow one.

        Args:
            session: The model.
            settings: From the gateway's configuration.
            streams: Changed by `process`.
            outside: Says of samples ``[sample, feature]`` which are not plausible; None if all are.
        """
        contract = session.contract
        if contract.look_ahead or contract.x_dtype == "float16":
            return None
        if settings.arrival or settings.reorder_ns:
            return None
        return cls(session, settings, streams, outside)

    def process(
        self, samples: Abreast, now_ns: int | None, result: Result
    ) -> tuple[list[Block], list[tuple[int, int]]]:
        """Scores what can be scored side by side.

        Args:
            samples: As they arrived.
            now_ns: The gateway's clock, or None for samples that have been admitted before.
            result: Told what was admitted, scored and flagged.

        Returns:
            The other samples; and slot and time of those whose score is not a finite number, which
            are still to be refused.
        """
        slots = self._streams.slots(samples.streams)
        swift = self._swift(samples, slots, now_ns)
        rest: list[Block] = []
        if not swift.all():
            rest = samples.where(~swift).blocks()
            samples, slots = samples.where(swift), slots[swift]
        if not len(slots):
            return rest, []
        self._admit(samples, slots, now_ns, result)
        return rest, self._score(samples, slots, result)

    def _swift(self, samples: Abreast, slots: Slots, now_ns: int | None) -> NDArray[np.bool_]:
        """Which samples need no thought."""
        streams = self._streams
        if streams.held:  # by a reorder window that the settings had before
            return np.zeros(len(slots), np.bool_)
        last = streams.last_ts[slots]
        swift: NDArray[np.bool_] = (slots >= 0) & (last != NEVER) & (samples.ts > last)
        swift &= samples.ts - last <= self._hold_ns
        swift &= streams.uncertain[slots] == 0
        if now_ns is not None:
            swift &= samples.ts <= now_ns + self._max_ahead_ns
        return swift

    def _admit(self, samples: Abreast, slots: Slots, now_ns: int | None, result: Result) -> None:
        streams = self._streams
        streams.last_ts[slots] = samples.ts
        streams.last_seq[slots] = samples.seq
        streams.touched[slots] = True
        if now_ns is not None:
            streams.seen[slots] = now_ns
        result.admitted_abreast.append(samples)

    def _score(self, samples: Abreast, slots: Slots, result: Result) -> list[tuple[int, int]]:
        streams = self._streams
        outputs, state = self._session.run(samples.values[np.newaxis], streams.take(slots))
        streams.put(slots, state)
        score, contribution = outputs.score[0], outputs.contribution
        spoilt: list[tuple[int, int]] = []
        finite = np.isfinite(score)
        if not finite.all():
            bad = ~finite
            spoilt = list(zip(slots[bad].tolist(), samples.ts[bad].tolist(), strict=True))
            samples, slots, score = samples.where(finite), slots[finite], score[finite]
            if contribution is not None:
                contribution = contribution[:, finite]
        status = self._status(samples, slots)
        streams.steps[slots] += 1
        changed = self._decide(slots, score, status == OK)
        lit = streams.raised[slots]
        scored = ScoredAbreast(samples.streams, samples.ts, score, status, lit, samples.seq)
        result.abreast.append(scored)
        for index in np.flatnonzero(changed).tolist():
            shares = None if contribution is None else contribution[0, index]
            result.flags.append(flag_of(self._session, scored.line(index), shares))
        return spoilt

    def _status(self, samples: Abreast, slots: Slots) -> NDArray[np.uint8]:
        status = np.full(len(slots), OK, np.uint8)
        outside = self._outside(samples.values)
        if outside is not None:
            status[outside] = UNCERTAIN
        status[self._streams.steps[slots] < self._warm_up_steps] = WARMING_UP
        return status

    def _decide(self, slots: Slots, score: Float32, ok: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where the lamp changes; `edge_runtime.alarm.advance` for one sample of each stream."""
        streams, alarm = self._streams, self._alarm
        raised, row = streams.raised[slots], streams.row[slots]
        exact = score.astype(np.float64)  # a float32 against a float64 threshold would round it
        against = np.where(raised, exact < alarm.leave, exact > alarm.enter)
        row = np.where(ok, np.where(against, row + 1, 0), row)
        changed: NDArray[np.bool_] = ok & (row >= alarm.hold_steps)
        row[changed] = 0
        streams.raised[slots] = raised ^ changed
        streams.row[slots] = row
        return changed

    def process_blocks(
        self, blocks: Sequence[Block], now_ns: int | None, result: Result
    ) -> list[Block]:
        """Scores the blocks that can be scored side by side; what `process` is for single samples.

        Args:
            blocks: As they arrived; a stream may have several.
            now_ns: As for `process`.
            result: Told what was admitted, scored and flagged.

        Returns:
            The other blocks, in order. Those whose scores are not all finite are among them,
            untouched.
        """
        alike = _alike(blocks)
        most = max(1, MAX_CALL_ROWS // max(1, len(alike[0].ts))) if alike else 1
        done: set[str] = set()
        for start in range(0, len(alike), most):
            done |= self._some_blocks(alike[start : start + most], now_ns, result)
        return [block for block in blocks if block.stream not in done]

    def _some_blocks(self, blocks: Sequence[Block], now_ns: int | None, result: Result) -> set[str]:
        """Scores those of these blocks that need no thought; whose they were."""
        slots = self._streams.slots([block.stream for block in blocks])
        swift = self._swift_blocks(np.stack([block.ts for block in blocks]), slots, now_ns)
        if not swift.all():
            blocks = [block for block, one in zip(blocks, swift.tolist(), strict=True) if one]
            slots = slots[swift]
        if len(blocks) < LEAST_BLOCKS:
            return set()
        x = np.stack([block.values for block in blocks], axis=1)
        outputs, state = self._session.run(x, self._streams.take(slots))
        if not np.isfinite(outputs.score).all():  # rare; whoever is spoilt takes time to tell
            return set()
        self._streams.put(slots, state)
        self._admit_blocks(blocks, slots, now_ns, result)
        status = self._status_of_blocks(x, slots)
        self._streams.steps[slots] += len(x)
        score = np.ascontiguousarray(outputs.score.T)
        self._decide_blocks(_Scores(blocks, slots, score, status, outputs.contribution), result)
        return {block.stream for block in blocks}

    def _swift_blocks(
        self, ts: NDArray[np.int64], slots: Slots, now_ns: int | None
    ) -> NDArray[np.bool_]:
        """Which of the blocks need no thought, for times ``[block, sample]``."""
        streams = self._streams
        if streams.held:
            return np.zeros(len(slots), np.bool_)
        last, first = streams.last_ts[slots], ts[:, 0]
        swift: NDArray[np.bool_] = (slots >= 0) & (last != NEVER) & (first > last)
        swift &= first - last <= self._hold_ns
        swift &= streams.uncertain[slots] == 0
        if ts.shape[1] > 1:
            steps = ts[:, 1:] - ts[:, :-1]
            swift &= (steps.min(axis=1) > 0) & (steps.max(axis=1) <= self._hold_ns)
        if now_ns is not None:
            swift &= ts[:, -1] <= now_ns + self._max_ahead_ns
        return swift

    def _admit_blocks(
        self, blocks: Sequence[Block], slots: Slots, now_ns: int | None, result: Result
    ) -> None:
        streams = self._streams
        streams.last_ts[slots] = [block.ts[-1] for block in blocks]
        streams.last_seq[slots] = [
            NO_SEQ if block.seq is None else block.seq[-1] for block in blocks
        ]
        streams.touched[slots] = True
        if now_ns is not None:
            streams.seen[slots] = now_ns
        result.admitted.extend(blocks)

    def _status_of_blocks(self, x: Float32, slots: Slots) -> NDArray[np.uint8]:
        """``[block, sample]``, of samples ``[sample, block, feature]``."""
        count, features = len(slots), x.shape[2]
        status = np.full((count, len(x)), OK, np.uint8)
        outside = self._outside(x.reshape(-1, features))
        if outside is not None:
            status[outside.reshape(-1, count).T] = UNCERTAIN
        left = self._warm_up_steps - self._streams.steps[slots]
        for row in np.flatnonzero(left > 0).tolist():
            status[row, : left[row]] = WARMING_UP
        return status

    def _decide_blocks(self, scores: "_Scores", result: Result) -> None:
        streams, alarm = self._streams, self._alarm
        blocks, slots, score, status, _ = scores
        raised, ok = streams.raised[slots], status == OK
        lit = np.repeat(raised[:, np.newaxis], score.shape[1], axis=1)
        exact = score.astype(np.float64)  # a float32 against a float64 threshold would round it
        against = np.where(lit, exact < alarm.leave, exact > alarm.enter)
        # Where no sample speaks against the lamp as it is, nothing changes.
        moved = (against & ok).any(axis=1) | (streams.row[slots] != 0)
        for row, block in enumerate(blocks):
            counts = None if block.seq is None else counted(block.seq)
            scored = Scored(block.stream, block.ts, score[row], status[row], lit[row], counts)
            result.scored.append(scored)
            if moved[row]:
                self._move_lamp(scores, row, scored, result)

    def _move_lamp(self, scores: "_Scores", row: int, scored: Scored, result: Result) -> None:
        """Sample by sample; fills in where the lamp is lit."""
        slot = int(scores.slots[row])
        before = self._streams.alarm(slot)
        after, moves, lit = advance(before, scored.score, scored.status == OK, self._alarm)
        self._streams.set_alarm(slot, after)
        scored.alarm[:] = lit
        for at, _ in moves:
            line = ScoreLine(
                scored.stream,
                int(scored.ts[at]),
                scored.score[at],
                STATUS[scored.status[at]],
                bool(lit[at]),
                scored.seq_at(at),
            )
            shares = None if scores.shares is None else scores.shares[at, row]
            result.flags.append(flag_of(self._session, line, shares))


class _Scores(NamedTuple):
    """What the model has said about blocks of equal length."""

    blocks: Sequence[Block]
    slots: Slots
    score: Float32  # [block, sample]
    status: NDArray[np.uint8]  # [block, sample]
    shares: Float32 | None  # [sample, block, feature]


def _alike(blocks: Sequence[Block]) -> list[Block]:
    """The blocks of the commonest length whose streams have no other block."""
    streams = Counter(block.stream for block in blocks)
    single = [block for block in blocks if streams[block.stream] == 1 and len(block.ts)]
    if not single:
        return []
    ((length, _),) = Counter(len(block.ts) for block in single).most_common(1)
    return [block for block in single if len(block.ts) == length]
