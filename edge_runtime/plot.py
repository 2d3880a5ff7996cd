"""Pictures of a replay: sensors, score, threshold and flags on one time axis."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import AlarmConfig
from edge_runtime.contract import Contract, Feature
from edge_runtime.errors import AndonError
from edge_runtime.files import replacing
from edge_runtime.past import Reasons, most_telling, shortened
from edge_runtime.payload import NS_PER_MS, Flag
from edge_runtime.replay import Readings
from edge_runtime.results import OK, WARMING_UP, Scored
from edge_runtime.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALARM = "#d62728"
LABEL = "#f2b134"
LINE = "#1f5a8c"
FAINT = "#9aa5b1"
MAX_POINTS = 6_000
MAX_STREAMS = 40
MAX_SENSORS = 24
MAX_NAME = 28
MAX_REASONS = 6  # sensors in the picture of a flag
MAX_LEGEND = 160  # letters in a line of it
WIDTH_IN, PANEL_IN = 12.0, 1.15


@dataclass(frozen=True, slots=True)
class _Machine:
    """One stream as it is drawn."""

    readings: Readings
    scored: Scored
    raised: tuple[Flag, ...]

    @property
    def name(self) -> str:
        return printable(self.readings.stream)

    @property
    def sensors(self) -> Counter[str]:
        """Each sensor's share in the alarms, summed."""
        shares: Counter[str] = Counter()
        for flag in self.raised:
            shares.update({share.feature: share.share for share in flag.top})
        return shares


@dataclass(frozen=True, slots=True)
class _Scale:
    """What all panels of a picture have in common."""

    alarm: AlarmConfig
    max_gap_ns: float


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
        path: Where to; the suffix says the format, none means PNG.
        readings: What was replayed.
        summary: What was found; must have kept its series.
        contract: Names and units of the sensors.
        alarm: The thresholds.

    Returns:
        The files written.

    Raises:
        AndonError: If matplotlib is not installed or does not know the format, or the file cannot
            be written.
    """
    scale = _Scale(alarm, contract.max_gap_ms * NS_PER_MS)
    raised: dict[str, list[Flag]] = {stream.stream: [] for stream in readings}
    for flag in summary.flags:
        if flag.event == "raised":
            raised[flag.stream].append(flag)
    machines = [
        _Machine(stream, summary.series(stream.stream), tuple(raised[stream.stream]))
        for stream in readings
    ]
    if len(machines) == 1:
        return [save_figure(_detail(machines[0], contract, scale), path)]
    machines.sort(key=lambda machine: -len(machine.raised))  # stable: the file order within
    written = [save_figure(_overview(machines, scale), path)]
    for machine in machines[:MAX_STREAMS]:
        if machine.raised:
            beside = _beside(path, machine.readings.stream, written)
            written.append(save_figure(_detail(machine, contract, scale), beside))
    return written


def plot_flag(path: Path, reasons: Reasons) -> Path:
    """Draws what led to a flag: the sensors behind it, the score, each sensor's share in it.

    Args:
        path: Where to; the suffix says the format, none means PNG.
        reasons: What led to it.

    Returns:
        The file written.

    Raises:
        AndonError: If matplotlib is not installed or does not know the format, or the file cannot
            be written.
    """
    contract, alarm = reasons.contract, reasons.settings.alarm
    scale = _Scale(alarm, contract.max_gap_ms * NS_PER_MS)
    shares = {str(one["feature"]): float(one["share"]) for one in reasons.flag.message["top"]}
    machine = _Machine(reasons.readings, reasons.scored, ())
    units = {feature.name: feature.unit for feature in contract.features}
    shown = most_telling(reasons)[:MAX_REASONS]
    bands = [] if reasons.scored.contribution is None else [1.2]
    figure, axes = _panels([1.0] * len(shown) + [1.7, *bands], shared=True)
    for axis, sensor in zip(axes, shown, strict=False):
        column = machine.readings.values[:, contract.feature_names.index(sensor)]
        _line(axis, machine.readings.ts, column, scale, color=LINE, linewidth=0.9)
        lines = [printable(sensor), *([f"[{printable(units[sensor])}]"] if units[sensor] else [])]
        if sensor in shares:
            lines.append(f"{shares[sensor]:.0%} of the score")
        _label(axis, "\n".join(lines), color=ALARM if sensor in shares else "black")
    score = axes[len(shown)]
    _label(score, "score")
    _score_panel(score, machine, scale)
    if reasons.scored.contribution is not None:
        _label(axes[-1], "share in\nthe score")
        _share_panel(axes[-1], reasons)
    for axis in axes:
        _shade(axis, machine)
        at = float(_days(np.array([reasons.flag.ts]))[0])
        axis.axvline(at, color="black", linewidth=1.4, linestyle="--")
    when = f"{datetime.fromtimestamp(reasons.flag.ts / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    event = reasons.flag.message["event"]
    _title(axes[0], f"{machine.name}: {event} at {when}, the dashed line")
    _finish(figure, axes, [machine], alarm)
    return save_figure(figure, path)


def _share_panel(axis: "Axes", reasons: Reasons) -> None:
    """Each sensor's share in the score over time, those with the largest at the flag by name."""
    shares = reasons.scored.contribution
    if shares is None:
        return
    order = most_telling(reasons)
    named, rest = order[:MAX_REASONS], order[MAX_REASONS:]
    if len(rest) == 1:
        named, rest = order, []
    index = reasons.contract.feature_names.index
    rows = [shares[:, index(name)] for name in named]
    names = [printable(name) for name in named]
    if rest:
        rows.append(shares[:, [index(name) for name in rest]].sum(axis=1))
        names.append(f"{len(rest)} others")
    axis.stackplot(_days(reasons.scored.ts), *rows, labels=names, alpha=0.8, linewidth=0)
    axis.set_ylim(0.0, 1.0)
    room = MAX_LEGEND // (max(map(len, names)) + len("[] "))
    columns = min(len(names), max(room, 1))
    legend = axis.legend(loc="upper left", fontsize=6, ncols=columns, framealpha=0.6)
    legend.set_in_layout(False)  # long names must not push the panels aside


def _detail(machine: _Machine, contract: Contract, scale: _Scale) -> "Figure":
    """One stream: its sensors, those that explain the first alarm marked, and its score."""
    shown = _most_telling(machine, contract)
    figure, axes = _panels([1.0] * len(shown) + [1.7], shared=True)
    explained = {s.feature: s.share for s in machine.raised[0].top} if machine.raised else {}
    names = contract.feature_names
    for axis, sensor in zip(axes, shown, strict=False):
        column = machine.readings.values[:, names.index(sensor.name)]
        _line(axis, machine.readings.ts, column, scale, color=LINE, linewidth=0.7)
        share = explained.get(sensor.name, 0.0)
        if share >= 1 / len(names):  # more than if all sensors took part alike
            note = f"explains {share:.0%} of the first alarm"
            axis.set_title(note, loc="right", fontsize=8, color=ALARM, pad=2)
        unit = f"\n[{printable(sensor.unit)}]" if sensor.unit else ""
        color = ALARM if share == max(explained.values(), default=1.0) else "black"
        _label(axis, printable(sensor.name) + unit, color=color)
    _label(axes[-1], "score")
    _score_panel(axes[-1], machine, scale)
    for axis in axes:
        _shade(axis, machine)
    left_out = len(names) - len(shown)
    more = f"   (sensors not shown: {left_out})" if left_out else ""
    _title(axes[0], _headline(machine) + more)
    _finish(figure, axes, [machine], scale.alarm)
    return figure


def _overview(machines: Sequence[_Machine], scale: _Scale) -> "Figure":
    """The score of every stream."""
    shown = machines[:MAX_STREAMS]
    figure, axes = _panels([1.0] * len(shown), shared=_side_by_side(shown))
    for axis, machine in zip(axes, shown, strict=True):
        _score_panel(axis, machine, scale)
        _shade(axis, machine)
        _label(axis, machine.name, color=ALARM if machine.raised else "black")
    left_out = len(machines) - len(shown)
    more = f"   (streams not shown: {left_out})" if left_out else ""
    flagged = sum(bool(machine.raised) for machine in machines)
    _title(axes[0], f"Score by stream: alarms on {flagged} of {len(machines)}{more}")
    _finish(figure, axes, shown, scale.alarm)
    return figure


def _score_panel(axis: "Axes", machine: _Machine, scale: _Scale) -> None:
    scored, enter = machine.scored, scale.alarm.enter
    score = scored.score.astype(np.float64)
    counted = np.where(scored.status == OK, score, np.nan)
    _line(axis, scored.ts, score, scale, color=FAINT, linewidth=0.6)
    _line(axis, scored.ts, counted, scale, color=LINE, linewidth=0.8)
    axis.axhline(enter, color=ALARM, linewidth=1.0)
    axis.axhline(scale.alarm.leave, color=ALARM, linewidth=0.7, linestyle=":")
    top = max(2.0 * enter, float(np.nanmax(counted, initial=0.0)) * 1.1)
    if top > 10 * enter:  # a score far beyond the threshold must not flatten the rest
        axis.set_yscale("symlog", linthresh=2 * enter)
        axis.yaxis.set_major_formatter("{x:g}")  # 10 and 100, not powers
    axis.set_ylim(min(0.0, scale.alarm.leave), top)
    if not len(score):
        axis.text(0.5, 0.5, "nothing was scored", transform=axis.transAxes, ha="center", fontsize=8)


def _shade(axis: "Axes", machine: _Machine) -> None:
    """Red where the lamp is lit, grey while warming up, a yellow foot where the label says so."""
    scored, readings = machine.scored, machine.readings
    _bars(axis, scored.ts, scored.status == WARMING_UP, color=FAINT, alpha=0.3)
    _bars(axis, scored.ts, scored.alarm, color=ALARM, alpha=0.18)
    starts = [_days(scored.ts[start : start + 1])[0] for start, _ in _stretches(scored.alarm)]
    axis.vlines(
        starts, 0, 1, transform=axis.get_xaxis_transform(), colors=ALARM, linewidth=0.9
    )  # also shows an alarm that is too short for its bar
    if readings.label is not None:
        _bars(axis, readings.ts, readings.label, top=0.06, color=LABEL)


def _bars(
    axis: "Axes",
    ts: NDArray[np.int64],
    where: NDArray[np.bool_],
    top: float = 1.0,
    **style: Any,  # noqa: ANN401 - matplotlib's
) -> None:
    from matplotlib.collections import PolyCollection

    days = _days(ts)
    ends = [(days[start], days[stop]) for start, stop in _stretches(where)]
    corners = [[(a, 0.0), (a, top), (b, top), (b, 0.0)] for a, b in ends]
    bars = PolyCollection(
        corners, transform=axis.get_xaxis_transform(), linewidth=0, zorder=0, **style
    )
    axis.add_collection(bars, autolim=False)


def _line(
    axis: "Axes",
    ts: NDArray[np.int64],
    values: NDArray[np.float64],
    scale: _Scale,
    **style: Any,  # noqa: ANN401 - matplotlib's
) -> None:
    """A line that is broken where the machine was silent."""
    gaps = np.flatnonzero(np.diff(ts) > scale.max_gap_ns) + 1
    days = np.insert(_days(ts), gaps, _days(ts[gaps]))
    axis.plot(*_thinned(days, np.insert(values, gaps, np.nan)), **style)


def _thinned(
    days: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """About `MAX_POINTS` points that keep every peak and every gap of the line."""
    if len(values) <= MAX_POINTS:
        return days, values
    step = -(-len(values) // (MAX_POINTS // 2))
    whole = len(values) // step * step
    stretches = values[:whole].reshape(-1, step)
    missing = np.isnan(stretches)
    first = np.arange(len(stretches)) * step
    low = first + np.where(missing, np.inf, stretches).argmin(axis=1)
    high = first + np.where(missing, -np.inf, stretches).argmax(axis=1)
    gap = (first + missing.argmax(axis=1))[missing.any(axis=1)]
    keep = np.unique(np.concatenate([low, high, gap, np.arange(whole, len(values))]))
    return days[keep], values[keep]


def _headline(machine: _Machine) -> str:
    if not machine.raised:
        return f"{machine.name}: no alarm"
    flag, count = machine.raised[0], len(machine.raised)
    moment = f"{datetime.fromtimestamp(flag.ts / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if count == 1:
        return f"{machine.name}: 1 alarm, at {moment}"
    return f"{machine.name}: {count} alarms, the first at {moment}"


def _most_telling(machine: _Machine, contract: Contract) -> list[Feature]:
    """The sensors that a picture has room for, those with a part in the alarms first."""
    if len(contract.features) <= MAX_SENSORS:
        return list(contract.features)
    shares = machine.sensors
    kept = sorted(contract.feature_names, key=lambda name: -shares[name])[:MAX_SENSORS]
    return [feature for feature in contract.features if feature.name in kept]


def _side_by_side(machines: Sequence[_Machine]) -> bool:
    """Whether the streams cover much the same time, so that one axis serves them all."""
    spans = [(m.readings.ts.min(), m.readings.ts.max()) for m in machines if len(m.readings.ts)]
    if not spans:
        return True
    starts, stops = np.asarray(spans).T
    return bool(stops.max() - starts.min() <= 2 * (stops - starts).max())


def _stretches(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last sample of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _days(ts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Matplotlib's own measure of time."""
    return ts / (86_400 * 1e9)


def printable(name: str) -> str:
    """A name for a picture: no control characters, and both ends of it if it is long."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return shortened(text, MAX_NAME)


def _label(axis: "Axes", text: str, color: str = "black") -> None:
    axis.set_ylabel(
        text, rotation=0, ha="right", va="center", fontsize=8, color=color, parse_math=False
    )


def _title(axis: "Axes", text: str) -> None:
    axis.set_title(text, loc="left", fontsize=11, parse_math=False)


def _panels(heights: list[float], *, shared: bool) -> "tuple[Figure, list[Axes]]":
    try:
        from matplotlib.figure import Figure as NewFigure
    except ImportError as error:
        raise AndonError("--plot needs matplotlib: pip install 'andon[plot]'") from error
    figure = NewFigure(figsize=(WIDTH_IN, 1.3 + PANEL_IN * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=shared, squeeze=False, height_ratios=heights)
    return figure, list(axes[:, 0])


def _finish(
    figure: "Figure", axes: "list[Axes]", machines: Sequence[_Machine], alarm: AlarmConfig
) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    for axis in axes:
        axis.margins(x=0)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_locator(locator)
        formatter = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_formatter(formatter)
        axis.xaxis.get_offset_text().set_fontsize(7)
    axes[-1].set_xlabel("time, UTC", fontsize=8)
    figure.align_ylabels(axes)
    keys = _keys(machines, alarm)
    figure.legend(handles=keys, loc="outside lower center", fontsize=8, ncols=7, frameon=False)


def _keys(machines: Sequence[_Machine], alarm: AlarmConfig) -> list[Any]:
    """What the colours mean, as far as they occur."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys: list[Any] = [
        Line2D([], [], color=LINE, label="score"),
        Line2D([], [], color=ALARM, label=f"alarm above {alarm.enter:g}"),
        Line2D([], [], color=ALARM, linestyle=":", label=f"ends below {alarm.leave:g}"),
    ]
    if any((m.scored.status != OK).any() for m in machines):
        keys.append(Line2D([], [], color=FAINT, label="score that does not count"))
    if any((m.scored.status == WARMING_UP).any() for m in machines):
        keys.append(Patch(color=FAINT, alpha=0.3, label="warming up"))
    if any(m.scored.alarm.any() for m in machines):
        keys.append(Patch(color=ALARM, alpha=0.18, label="alarm is on"))
    if any(m.readings.label is not None and m.readings.label.any() for m in machines):
        keys.append(Patch(color=LABEL, label="labelled as faulty"))
    return keys


def _beside(path: Path, stream: str, written: Sequence[Path]) -> Path:
    """A file name for one stream's picture that is not taken yet."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in stream)[:40]
    found = path.with_name(f"{path.stem}-{name}{path.suffix}")
    number = 2
    while found in written:
        found = path.with_name(f"{path.stem}-{name}-{number}{path.suffix}")
        number += 1
    return found


def save_figure(figure: "Figure", path: Path) -> Path:
    """Writes a picture; the file is the old one or the whole new one.

    Raises:
        AndonError: If matplotlib does not know the format, or the file cannot be written.
    """
    try:
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a box stands for what no font has
            figure.savefig(temporary, dpi=110, format=path.suffix[1:] or "png")
    except ValueError as error:
        raise AndonError(f"{path}: {error}") from error
    except OSError as error:
        raise AndonError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path
