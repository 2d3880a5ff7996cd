"""One picture: how many simulated faults are found, and how soon, from faint to plain."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.quality.cases import Result
from benchmarks.quality.markdown import by_detector
from benchmarks.quality.pumps import SEVERITIES, Seen, detected, median_delay_s, runs_of
from edge_runtime.faults import AFFECTED
from edge_runtime.plot import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#1f5a8c", "#d62728", "#f2b134", "#2e8b57", "#7b4fa3", "#8c6d46", "#9aa5b1")
MARKS = "osD^vPX"

Figure = Callable[[Iterable[Seen]], float | None]


def draw(path: Path, results: Sequence[Result]) -> Path:
    """Draws a column for each kind of fault: the share found above, the median delay below.

    Args:
        path: The PNG file.
        results: Of `benchmarks.quality.pumps`.

    Returns:
        The file written.
    """
    from matplotlib import figure as pictures

    found = {name: [runs_of(seed) for seed in its] for name, its in by_detector(results).items()}
    picture = pictures.Figure(figsize=(3.0 * len(AFFECTED), 5.6), layout="constrained")
    panels = picture.subplots(2, len(AFFECTED), sharex=True, sharey="row", squeeze=False)
    for at, kind in enumerate(AFFECTED):
        _draw(panels[0, at], found, kind, detected)
        _draw(panels[1, at], found, kind, median_delay_s)
        panels[0, at].set_title(kind.replace("_", " "), loc="left", fontsize=11)
        panels[0, at].set_ylim(-0.04, 1.04)
        panels[0, at].yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        panels[1, at].set_yscale("log")
        panels[1, at].yaxis.set_major_formatter("{x:g}")
        panels[1, at].set_xticks(range(len(SEVERITIES)), [f"{s:g}" for s in SEVERITIES])
    panels[0, 0].set_ylabel("found within an hour")
    panels[1, 0].set_ylabel("median delay, s")
    picture.supxlabel("severity", fontsize=10)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    handles, names = panels[0, 0].get_legend_handles_labels()
    picture.legend(handles, names, loc="outside upper right", ncols=len(names), frameon=False)
    return save_figure(picture, path)


def _draw(
    axes: "Axes", found: Mapping[str, Sequence[Sequence[Seen]]], kind: str, figure: Figure
) -> None:
    """A line for each detector: the mean over its seeds at each severity, evenly spaced."""
    for number, (name, seeds) in enumerate(found.items()):
        points = []
        for severity in SEVERITIES:
            some = ([s for s in seen if (s.kind, s.severity) == (kind, severity)] for seen in seeds)
            values = [value for value in map(figure, some) if value is not None]
            points.append(float(np.mean(values)) if values else np.nan)
        axes.plot(
            range(len(SEVERITIES)),
            points,
            label=name,
            color=COLORS[number % len(COLORS)],
            marker=MARKS[number % len(MARKS)],
            markersize=4,
            linewidth=1.3,
        )
