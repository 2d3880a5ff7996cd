"""Many streams with one sample each, scored side by side: the everyday case, in whole columns.

What `edge_runtime.pipeline.Pipeline` decides stream by stream is decided here for all at once, with
the same results. Only for samples about which there is nothing to decide in admission: of a known
stream, after its watermark, not from the future and without a silence before. All others are given
back, and so is everything where the model or the settings ask for more.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_runtime.flags import flag_of
from edge_runtime.results import (
    OK,
    UNCERTAIN,
    WARMING_UP,
    Abreast,
    Block,
    Result,
    ScoredAbreast,
)
from edge_runtime.session import Float32, Session
from edge_runtime.settings import Settings
from edge_runtime.streams import NEVER, Streams

Slots = NDArray[np.intp]


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
        changed: NDArray[np.bool_] = ok & (row == alarm.hold_steps)
        row[changed] = 0
        streams.raised[slots] = raised ^ changed
        streams.row[slots] = row
        return changed
