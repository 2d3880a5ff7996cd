"""What is counted of a detector's scores against labels, and the figures made of it.

VUS-PR: Paparrizos et al., "Volume Under the Surface", PVLDB 15(11), 2022, as aeon computes it.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import AndonError
from edge_runtime.results import STATUS
from evaluate.judge import UNSCORED, Series
from evaluate.scenes import Scene
from evaluate.settings import Settings

PHASES = ("before", "after", "elsewhere")
"""Of normal samples: no event of the stream has begun; one has just ended; all others."""

NS_PER_S = 1_000_000_000
NS_PER_HOUR = 3_600 * NS_PER_S
HOURS_PER_DAY = 24


@dataclass(frozen=True, slots=True)
class Event:
    """A labelled stretch that is judged.

    Attributes:
        delay_ns: From the onset to the sample at which the lamp went on; None if it did not.
        lit_before: It did not, and was lit already at the sample before the onset.
    """

    delay_ns: int | None
    lit_before: bool


@dataclass(slots=True)
class Tally:
    """What was counted, of one stream or summed over several.

    Attributes:
        true_flags: Labelled samples above the alarm level.
        false_flags: Normal samples above it.
        misses: Labelled samples not above it.
        rests: Normal samples not above it.
        events: The judged ones.
        alarms: How often the lamp went on without a label, for each of `PHASES`.
        hours: Judged normal operation, for each of `PHASES`.
        vus: The VUS-PR of each stream that has one.
        unlabelled: Streams without it, as no judged sample is labelled ...
        labelled: ... or all are.
        lead: Samples that were not judged because they belong to the lead.
        statuses: Samples after the lead that were not judged, by reason.
    """

    true_flags: int = 0
    false_flags: int = 0
    misses: int = 0
    rests: int = 0
    events: list[Event] = field(default_factory=list)
    alarms: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(PHASES), np.int64))
    hours: NDArray[np.floating] = field(default_factory=lambda: np.zeros(len(PHASES)))
    vus: list[float] = field(default_factory=list)
    unlabelled: int = 0
    labelled: int = 0
    lead: int = 0
    statuses: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys([*STATUS[1:], "no_score"], 0)
    )


def tally(
    scene: Scene, series: Series, settings: Settings, rng: np.random.Generator, late_ns: int = 0
) -> Tally:
    """Counts one detector over one scene.

    Args:
        scene: What was shown.
        series: What the detector said.
        settings: Window and recovery.
        rng: Decides between equal scores in the VUS-PR.
        late_ns: How much later than its sample a score comes.

    Returns:
        The counts.
    """
    counted = scene.judged & series.ok
    wrong, flagged = scene.label & counted, series.flagged & counted
    phase = phases(scene.label, settings.recovery_rows)
    false = series.raised & counted & ~scene.label
    normal = counted & ~scene.label
    bins = len(PHASES)
    vus, positives = [], int(wrong.sum())
    if 0 < positives < int(counted.sum()):
        vus = [vus_pr(scene.label[counted], series.score[counted], settings.window, rng)]
    others = {
        **{name: status for status, name in enumerate(STATUS) if status},
        "no_score": UNSCORED,
    }
    return Tally(
        true_flags=int((flagged & wrong).sum()),
        false_flags=int((flagged & normal).sum()),
        misses=int((wrong & ~flagged).sum()),
        rests=int((normal & ~flagged).sum()),
        events=list(_events(scene, series, late_ns)),
        alarms=np.bincount(phase[false], minlength=bins),
        hours=np.bincount(phase[normal], minlength=bins) * (scene.period_ns / NS_PER_HOUR),
        vus=vus,
        unlabelled=int(not positives),
        labelled=int(positives > 0 and not vus),
        lead=int((~scene.judged).sum()),
        statuses={
            name: int((scene.judged & (series.status == status)).sum())
            for name, status in others.items()
        },
    )


def total(tallies: Iterable[Tally]) -> Tally:
    """Sums counts over streams."""
    summed = Tally()
    for one in tallies:
        for each in fields(Tally):
            mine, its = getattr(summed, each.name), getattr(one, each.name)
            both = {key: mine[key] + its[key] for key in mine} if each.name == "statuses" else None
            setattr(summed, each.name, mine + its if both is None else both)
    return summed


def _events(scene: Scene, series: Series, late_ns: int) -> Iterable[Event]:
    """Labelled stretches that begin after the lead and have a sample that counts."""
    ts, raised = scene.recorded.ts, series.raised
    scored = series.status != UNSCORED
    for start, stop in stretches(scene.label):
        if not scene.judged[start] or not series.ok[start:stop].any():
            continue
        on = np.flatnonzero(raised[start:stop])
        before = np.flatnonzero(scored[:start])
        lit = bool(len(before)) and bool(series.lit[before[-1]])
        delay = int(ts[start + on[0]] - ts[start]) + late_ns if len(on) else None
        yield Event(delay, lit and not len(on))


def stretches(label: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First row of each stretch of True, and the row after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], label, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def phases(label: NDArray[np.bool_], recovery: int) -> NDArray[np.int64]:
    """Index into `PHASES` for each row; that of labelled rows means nothing.

    Args:
        label: ``[row]``.
        recovery: Rows after an event that are ``after``.
    """
    rows = np.arange(len(label))
    last = np.maximum.accumulate(np.where(label, rows, -1)) if len(label) else rows
    return np.where(last < 0, 0, np.where(rows - last <= recovery, 1, 2)).astype(np.int64)


def vus_pr(
    label: NDArray[np.bool_], score: NDArray[np.float64], window: int, rng: np.random.Generator
) -> float:
    """Volume under the precision-recall surface, over buffers of 0 to ``window`` samples.

    Samples with equal scores are put in random order first. So a score that is constant is worth
    what chance is; the trapezoids of the original give a few flags on a constant ground half of all
    there is.

    Args:
        label: ``[sample]``, some of them True and some not.
        score: ``[sample]``, all finite.
        window: The largest buffer.
        rng: Decides between equal scores.

    Returns:
        0 to 1.

    Raises:
        AndonError: Without aeon.
    """
    order = np.lexsort((rng.random(len(score)), score))
    ranks = np.empty(len(score))
    ranks[order] = np.arange(float(len(score)))
    return float(_volume()(label.astype(np.int64), ranks, window))


def require_aeon() -> None:
    """Loads what the VUS-PR needs.

    Raises:
        AndonError: If it is not installed.
    """
    _volume()


def _volume() -> Callable[..., float]:
    try:
        from aeon.benchmarking.metrics.anomaly_detection import range_pr_vus_score
    except ImportError as error:
        raise AndonError("the VUS-PR needs aeon: pip install 'andon[train]'") from error
    return cast(Callable[..., float], range_pr_vus_score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one detector; None where there is nothing to divide by.

    Attributes:
        vus_pr: Mean over the streams that have one.
        event_recall: Share of the events during which the lamp went on.
        events: How many are judged.
        found: During how many of them the lamp went on.
        lit_before: During how many it did not because it was lit already.
        median_delay_s: From onset to lamp, over the events that were found.
        false_alarms: How often the lamp went on without a label.
        false_alarms_per_hour: The same, in an hour of judged normal operation.
        false_alarms_per_day: In 24 of them.
        before_per_hour: While no event of the stream had begun, in an hour of that.
        after_per_hour: Within the recovery after an event, in an hour of that.
        elsewhere_per_hour: Later, in an hour of that.
        normal_hours: Judged normal operation.
        f1: Of single samples above the alarm level.
        far: Share of the normal samples that are above it.
        mar: Share of the labelled samples that are not.
        judged: Samples that count.
        lead: Samples of the lead, which do not.
        warming_up: Samples that do not count for that reason ...
        uncertain: ... or this ...
        no_score: ... or because they were refused, or their score never came.
    """

    vus_pr: float | None
    event_recall: float | None
    events: float | None
    found: float | None
    lit_before: float | None
    median_delay_s: float | None
    false_alarms: float | None
    false_alarms_per_hour: float | None
    false_alarms_per_day: float | None
    before_per_hour: float | None
    after_per_hour: float | None
    elsewhere_per_hour: float | None
    normal_hours: float | None
    f1: float | None
    far: float | None
    mar: float | None
    judged: float | None
    lead: float | None
    warming_up: float | None
    uncertain: float | None
    no_score: float | None


def figures(counted: Tally) -> Figures:
    """Makes figures of counts."""
    found = [event.delay_ns for event in counted.events if event.delay_ns is not None]
    alarms, hours = int(counted.alarms.sum()), float(counted.hours.sum())
    rates = [_ratio(a, h) for a, h in zip(counted.alarms, counted.hours, strict=True)]
    an_hour = _ratio(alarms, hours)
    hits, false, missed = counted.true_flags, counted.false_flags, counted.misses
    return Figures(
        vus_pr=float(np.mean(counted.vus)) if counted.vus else None,
        event_recall=_ratio(len(found), len(counted.events)),
        events=len(counted.events),
        found=len(found),
        lit_before=sum(event.lit_before for event in counted.events),
        median_delay_s=float(np.median(found)) / NS_PER_S if found else None,
        false_alarms=alarms,
        false_alarms_per_hour=an_hour,
        false_alarms_per_day=None if an_hour is None else an_hour * HOURS_PER_DAY,
        before_per_hour=rates[0],
        after_per_hour=rates[1],
        elsewhere_per_hour=rates[2],
        normal_hours=hours,
        f1=_ratio(2 * hits, 2 * hits + false + missed),
        far=_ratio(false, false + counted.rests),
        mar=_ratio(missed, missed + hits),
        judged=hits + false + missed + counted.rests,
        lead=counted.lead,
        **counted.statuses,
    )


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def mean_figures(several: Iterable[Figures]) -> Figures:
    """The mean of each figure over those that have it."""
    columns = [asdict(one) for one in several]
    return Figures(
        **{name.name: mean(column[name.name] for column in columns) for name in fields(Figures)}
    )


def mean(values: Iterable[float | None]) -> float | None:
    """Over those that are there."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None
