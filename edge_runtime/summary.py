"""What a replay found: sums by stream, and flags against labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_runtime.payload import Flag
from edge_runtime.replay import Readings
from edge_runtime.results import OK, STATUS, Result, Scored

NS_PER_HOUR = 3_600_000_000_000


@dataclass(slots=True)
class Event:
    """A stretch of rows with a label, in one stream; times in nanoseconds.

    Attributes:
        stream: Its name.
        onset: First labelled sample.
        end: Last labelled sample.
        delay_ns: From the onset to the sample at which the lamp went on; None if it did not.
        lit_before: The lamp was lit already at the onset.
    """

    stream: str
    onset: int
    end: int
    delay_ns: int | None
    lit_before: bool


@dataclass(slots=True)
class StreamSummary:
    """What became of one stream.

    Attributes:
        stream: Its name.
        samples: Scored.
        above: Samples whose status is ok and whose score exceeds the alarm level.
        raised: How often the lamp went on.
        lit: Samples with the lamp lit.
        resets: How often it started afresh after a gap.
        unscored: Samples without a score because the model looks ahead: the last ones before each
            reset, and at the end; and those that the reorder window holds at the end.
        status: Samples by status.
        largest: Largest score with status ok, and when (nanoseconds).
    """

    stream: str
    samples: int = 0
    above: int = 0
    raised: int = 0
    lit: int = 0
    resets: int = 0
    unscored: int = 0
    status: Counter[str] = field(default_factory=Counter)
    largest: tuple[float, int] | None = None


class Summary:
    """Adds up results, stream by stream; keeps the series where somebody wants to see them.

    Args:
        enter: The alarm level.
        keep: Whether to keep scores for `series` and `events`.

    Attributes:
        enter: The alarm level of what is added next.
        streams: By name, in order of appearance.
        flags: All of them, in order.
        rejected: Samples by cause.
        held: Samples that the reorder windows hold at the end.
    """

    def __init__(self, enter: float, *, keep: bool) -> None:
        self.enter = enter
        self._keep = keep
        self._scored: dict[str, list[Scored]] = {}
        self.streams: dict[str, StreamSummary] = {}
        self.flags: list[Flag] = []
        self.rejected: Counter[str] = Counter()
        self.held = 0

    def add(self, result: Result) -> None:
        """Takes one more result."""
        for scored in result.scored:
            self._add_scored(scored)
        for flag in result.flags:
            self.flags.append(flag)
            self._of(flag.stream).raised += flag.event == "raised"
        for rejected in result.rejected:
            self.rejected[rejected.cause] += rejected.samples
        for reset in result.resets:
            self._of(reset.stream).resets += 1
            self._of(reset.stream).unscored += reset.unscored

    def end(self, waiting: Mapping[str, int], held: int = 0) -> None:
        """Takes what has no score when there are no more samples.

        Args:
            waiting: The samples whose score has not come, by stream.
            held: How many of them the reorder windows hold.
        """
        self.held = held
        for stream, samples in waiting.items():
            self._of(stream).unscored += samples

    def series(self, stream: str) -> Scored:
        """All that was scored of a stream, in one piece; nothing if it has no scored sample."""
        parts = self._scored.get(stream, [])
        if not parts:
            return Scored(stream, *(np.empty(0, t) for t in ("i8", "f4", "u1", "?")))
        columns = ("ts", "score", "status", "alarm")
        return Scored(stream, *(np.concatenate([getattr(p, c) for p in parts]) for c in columns))

    def _of(self, stream: str) -> StreamSummary:
        return self.streams.setdefault(stream, StreamSummary(stream))

    def _add_scored(self, scored: Scored) -> None:
        summary = self._of(scored.stream)
        ok = scored.status == OK
        summary.samples += len(scored.ts)
        exact = scored.score.astype(np.float64)  # compared as `edge_runtime.alarm` does
        summary.above += int((ok & (exact > self.enter)).sum())
        summary.lit += int(scored.alarm.sum())
        for status, count in zip(*np.unique(scored.status, return_counts=True), strict=True):
            summary.status[STATUS[status]] += int(count)
        if ok.any():
            best = int(np.argmax(np.where(ok, scored.score, -np.inf)))
            largest = float(scored.score[best]), int(scored.ts[best])
            summary.largest = max(summary.largest or largest, largest, key=lambda pair: pair[0])
        if self._keep:
            self._scored.setdefault(scored.stream, []).append(scored)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the flags compare with the labels.

    Attributes:
        events: Labelled stretches.
        false_alarms: Times the lamp went on outside them.
        normal_hours: Time outside them.
    """

    events: tuple[Event, ...]
    false_alarms: int
    normal_hours: float

    @property
    def detected(self) -> int:
        """Events during which the lamp went on."""
        return sum(event.delay_ns is not None for event in self.events)

    @property
    def lit_before(self) -> int:
        """Events that were not detected because the lamp was lit already."""
        return sum(event.delay_ns is None and event.lit_before for event in self.events)

    @property
    def false_alarms_per_hour(self) -> float:
        """False alarms in an hour of normal operation."""
        return self.false_alarms / self.normal_hours if self.normal_hours else 0.0


def judge(readings: Sequence[Readings], summary: Summary, period_ns: int) -> Verdict:
    """Compares flags with labels, event by event.

    An event is detected if the lamp goes on at one of its samples; a lamp that was lit before has
    not noticed anything. A false alarm is a lamp that goes on where there is no label.

    Args:
        readings: With labels.
        summary: That kept its series.
        period_ns: Time that one sample stands for.

    Returns:
        The comparison.
    """
    events: list[Event] = []
    false_alarms = normal = 0
    lamps: dict[str, list[int]] = {stream.stream: [] for stream in readings}
    for flag in summary.flags:
        if flag.event == "raised":
            lamps[flag.stream].append(flag.ts)
    for stream in readings:
        if stream.label is None:
            continue
        scored = summary.series(stream.stream)
        for start, stop in _stretches(stream.label):
            onset, end = int(stream.ts[start]), int(stream.ts[stop - 1])
            raised = [ts for ts in lamps[stream.stream] if onset <= ts <= end]
            delay_ns = raised[0] - onset if raised else None
            before = int(np.searchsorted(scored.ts, onset)) - 1
            lit_before = before >= 0 and bool(scored.alarm[before])
            events.append(Event(stream.stream, onset, end, delay_ns, lit_before))
        normal += int((~stream.label).sum())
        labelled = set(stream.ts[stream.label].tolist())
        false_alarms += sum(ts not in labelled for ts in lamps[stream.stream])
    return Verdict(tuple(events), false_alarms, normal * period_ns / NS_PER_HOUR)


def _stretches(label: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], label, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
