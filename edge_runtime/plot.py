"""Pictures of a replay: sensors, score, threshold and flags on one time axis."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import AlarmConfig
from edge_runtime.contract import Contract
from edge_runtime.errors import AndonError
from edge_runtime.files import replacing
from edge_runtime.pipeline import OK, WARMING_UP, Scored
from edge_runtime.replay import Readings
from edge_runtime.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALARM = "#d62728"
LABEL = "#f2b134"
LINE = "#1f5a8c"
FAINT = "#9aa5b1"
MAX_POINTS = 6_000
MAX_OVERVIEW = 40
WIDTH_IN, PANEL_IN = 12.0, 1.15


def plot_replay(
    path: Path,
    readings: Sequence[Readings],
    summary: Summary,
    contract: Contract,
    alarm: AlarmConfig,
) -> list[Path]:
    """Draws a replay.

    One stream gives one picture. Several give an overview in ``path`` (every stream's score and
    flags, those with flags first) and one picture a stream beside it, ``NAME-STREAM.png``, for the
    streams with flags.

    Args:
        path: Where to; the suffix says the format.
        readings: What was replayed.
        summary: What was found; must have kept its series.
        contract: Names and units of the sensors.
        alarm: The thresholds.

    Returns:
        The files written.

    Raises:
        AndonError: If matplotlib is not installed or does not know the format.
    """
    if len(readings) == 1:
        figure = _detail(readings[0], summary.series(readings[0].stream), contract, alarm)
        return [_save(figure, path)]
    by_flags = sorted(
        readings,
        key=lambda r: -summary.streams[r.stream].raised if r.stream in summary.streams else 0,
    )  # stable: the file order within
    written = [_save(_overview(by_flags, summary, alarm), path)]
    for stream in by_flags:
        found = summary.streams.get(stream.stream)
        if found is not None and found.raised and len(written) <= MAX_OVERVIEW:
            figure = _detail(stream, summary.series(stream.stream), contract, alarm)
            name = "".join(c if c.isalnum() or c in "-_." else "-" for c in stream.stream)
            written.append(_save(figure, path.with_name(f"{path.stem}-{name}{path.suffix}")))
    return written


def _detail(stream: Readings, scored: Scored, contract: Contract, alarm: AlarmConfig) -> "Figure":
    sensors = contract.features
    figure, axes = _panels(len(sensors) + 1, [1.0] * len(sensors) + [1.7])
    times = _times(stream.ts)
    for axis, feature, column in zip(axes, sensors, stream.values.T, strict=False):
        axis.plot(*_thinned(times, column), color=LINE, linewidth=0.7)
        unit = f"\n[{feature.unit}]" if feature.unit else ""
        axis.set_ylabel(f"{feature.name}{unit}", rotation=0, ha="right", va="center", fontsize=8)
    _score_panel(axes[-1], scored, alarm)
    for axis in axes:
        _shade(axis, stream, scored)
    axes[0].set_title(_headline(stream.stream, scored), loc="left", fontsize=11)
    _finish(figure, axes)
    return figure


def _overview(readings: Sequence[Readings], summary: Summary, alarm: AlarmConfig) -> "Figure":
    shown = readings[:MAX_OVERVIEW]
    figure, axes = _panels(len(shown), [1.0] * len(shown), shared=False)
    for axis, stream in zip(axes, shown, strict=True):
        scored = summary.series(stream.stream)
        _score_panel(axis, scored, alarm, legend=axis is axes[0])
        _shade(axis, stream, scored)
        axis.set_ylabel(stream.stream, rotation=0, ha="right", va="center", fontsize=8)
    left_out = len(readings) - len(shown)
    more = f", {left_out} more streams not shown" if left_out else ""
    axes[0].set_title(f"score by stream{more}", loc="left", fontsize=11)
    _finish(figure, axes)
    return figure


def _score_panel(axis: "Axes", scored: Scored, alarm: AlarmConfig, *, legend: bool = True) -> None:
    times, score = _times(scored.ts), scored.score.astype(np.float64)
    counted = np.where(scored.status == OK, score, np.nan)
    axis.plot(*_thinned(times, score), color=FAINT, linewidth=0.6)
    axis.plot(*_thinned(times, counted), color=LINE, linewidth=0.8, label="score")
    axis.axhline(alarm.enter, color=ALARM, linewidth=1.0, label=f"alarm above {alarm.enter:g}")
    axis.axhline(
        alarm.leave, color=ALARM, linewidth=0.7, linestyle=":", label=f"ends below {alarm.leave:g}"
    )
    top = max(2.0 * alarm.enter, float(np.nanmax(counted, initial=0.0)) * 1.1)
    linear = top <= 10 * alarm.enter  # a score far beyond the threshold must not flatten the rest
    if not linear:
        axis.set_yscale("symlog", linthresh=2 * alarm.enter)
    axis.set_ylim(0, top)
    axis.set_ylabel("score", rotation=0, ha="right", va="center", fontsize=8)
    if legend:
        axis.legend(loc="upper left", fontsize=7, ncols=3, frameon=False)


def _shade(axis: "Axes", stream: Readings, scored: Scored) -> None:
    """Red where the lamp is lit, grey while warming up, a yellow foot where the label says so."""
    times = _times(scored.ts)
    for start, stop in _stretches(scored.alarm):
        axis.axvspan(times[start], times[stop], color=ALARM, alpha=0.18, linewidth=0)
        axis.axvline(times[start], color=ALARM, linewidth=0.9)
    for start, stop in _stretches(scored.status == WARMING_UP):
        axis.axvspan(times[start], times[stop], color=FAINT, alpha=0.25, linewidth=0)
    if stream.label is not None:
        rows = _times(stream.ts)
        for start, stop in _stretches(stream.label):
            axis.axvspan(rows[start], rows[stop], ymax=0.06, color=LABEL, linewidth=0)


def _headline(stream: str, scored: Scored) -> str:
    raised = _stretches(scored.alarm)
    if not raised:
        return f"{stream}: no alarm"
    first = datetime.fromtimestamp(int(scored.ts[raised[0][0]]) / 1e9, UTC)
    plural = "alarm" if len(raised) == 1 else "alarms"
    return f"{stream}: {len(raised)} {plural}, the first at {first:%Y-%m-%d %H:%M:%S} UTC"


def _stretches(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last sample of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _times(ts: NDArray[np.int64]) -> NDArray[Any]:
    return ts.astype("datetime64[ns]")


def _thinned(times: NDArray[Any], values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """At most `MAX_POINTS` points that keep every peak: lowest and highest of each stretch."""
    if len(values) <= MAX_POINTS:
        return times, values
    step = -(-len(values) // (MAX_POINTS // 2))
    whole = len(values) // step * step
    filled = np.nan_to_num(values[:whole].reshape(-1, step))
    base = np.arange(len(filled)) * step
    low, high = base + filled.argmin(axis=1), base + filled.argmax(axis=1)
    keep = np.unique(np.concatenate([low, high, np.arange(whole, len(values))]))
    return times[keep], values[keep]


def _panels(
    count: int, heights: list[float], *, shared: bool = True
) -> "tuple[Figure, list[Axes]]":
    try:
        from matplotlib.figure import Figure as NewFigure
    except ImportError as error:
        raise AndonError("--plot needs matplotlib: pip install 'andon[plot]'") from error
    figure = NewFigure(figsize=(WIDTH_IN, 1.0 + PANEL_IN * sum(heights)), layout="constrained")
    axes = figure.subplots(count, 1, sharex=shared, squeeze=False, height_ratios=heights)
    return figure, list(axes[:, 0])


def _finish(figure: "Figure", axes: "list[Axes]") -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    for axis in axes:
        axis.margins(x=0)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        locator = AutoDateLocator()
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes[-1].set_xlabel("time, UTC", fontsize=8)
    figure.align_ylabels(axes)


def _save(figure: "Figure", path: Path) -> Path:
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=110)
    except ValueError as error:
        raise AndonError(f"{path}: {error}") from error
    return path
