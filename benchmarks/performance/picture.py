"""One picture: cost against the number of streams, and against the size of the model."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.performance import grid, growth
from benchmarks.performance.measure import Row
from benchmarks.quality.picture import COLORS, MARKS
from edge_runtime.plot import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Mapping[int, Sequence[float]]
"""Figures of each round at each place."""


def draw(path: Path, rows: Sequence[Row]) -> Path | None:
    """Draws the rows of `growth` and of `grid`.

    Args:
        path: The PNG file.
        rows: All of a run.

    Returns:
        The file written; None if there is nothing to draw.
    """
    from matplotlib import figure as pictures

    curves = curves_of(rows)
    if not curves:
        return None
    picture = pictures.Figure(figsize=(3.3 * len(curves), 3.4), layout="constrained")
    panels = picture.subplots(1, len(curves), squeeze=False)
    for axes, (name, sides) in zip(panels.flat, curves.items(), strict=True):
        for at, (side, curve) in enumerate(sides.items()):
            _draw(axes, at, side, curve)
        axes.set_xlabel(name)
        axes.set_ylim(bottom=0.0)
        places = sorted(sides["andon"])
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{place:,}" for place in places])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.legend(frameon=False, fontsize=8)
    panels[0, 0].set_ylabel("CPU, us a sample")
    return save_figure(picture, path)


def curves_of(rows: Sequence[Row]) -> dict[str, dict[str, Curve]]:
    """The curves of each panel, by what its axis is and by side; panels of two points or more."""
    ours: dict[str, dict[int, Sequence[float]]] = {}
    beside: dict[str, dict[int, Sequence[float]]] = {}
    for row in rows:
        if row.failed or row.number not in (growth.MEASURE.number, grid.MEASURE.number):
            continue
        axis, _, place = row.case.rpartition(" ")
        ours.setdefault(axis, {})[int(place)] = row.ours
        if row.number == grid.MEASURE.number:
            beside.setdefault(axis, {})[int(place)] = row.beside
    usual = {axis: value for axis, value in grid.USUAL.items() if axis != "hidden"}
    for curves in (ours, beside):
        for axis, value in usual.items():  # measured once, for the first axis
            if axis in curves and grid.USUAL["hidden"] in curves.get("hidden", {}):
                curves[axis][value] = curves["hidden"][grid.USUAL["hidden"]]
    panels: dict[str, dict[str, Curve]] = {}
    for axis, curve in ours.items():
        if len(curve) > 1:
            panels[axis] = {"andon": curve}
            if axis in beside:
                panels[axis]["model alone"] = beside[axis]
    return panels


def _draw(axes: "Axes", at: int, name: str, curve: Curve) -> None:
    """The median at each place, and the span of the rounds around it."""
    places = sorted(curve)
    axes.plot(
        places,
        [statistics.median(curve[place]) for place in places],
        label=name,
        color=COLORS[at],
        marker=MARKS[at],
        markersize=4,
        linewidth=1.3,
    )
    low, high = ([edge(curve[place]) for place in places] for edge in (min, max))
    axes.fill_between(places, low, high, color=COLORS[at], alpha=0.15, linewidth=0)
