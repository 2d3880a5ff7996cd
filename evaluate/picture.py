"""One picture of an evaluation: who ranks how well, and who alarms how wrongly."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.errors import AndonError
from edge_runtime.plot import ALARM, FAINT, LABEL, LINE, printable, save_figure
from evaluate.evaluation import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_IN, ROW_IN = 10.0, 0.45


def plot_report(path: Path, report: Report) -> Path:
    """Draws the VUS-PR of every detector, its seeds as dots, and beside it FAR and MAR.

    Args:
        path: Where to; the suffix says the format, none means PNG.
        report: What was found.

    Returns:
        The file written.

    Raises:
        AndonError: If matplotlib is not installed or does not know the format, or the file cannot
            be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AndonError("--plot needs matplotlib: pip install 'andon[plot]'") from error
    rows = report.rows
    figure = Figure(figsize=(WIDTH_IN, 1.6 + ROW_IN * len(rows)), layout="constrained")
    ranking, flags = figure.subplots(1, 2, sharey=True)
    colors = [LINE if row.model else FAINT for row in rows]
    _draw(ranking, rows, _Bars("vus_pr", 0.0, 0.7, colors, text="{:.3f}"))
    _draw(flags, rows, _Bars("far", -0.18, 0.34, ALARM, "FAR: normal samples flagged"))
    _draw(flags, rows, _Bars("mar", 0.18, 0.34, LABEL, "MAR: labelled samples not flagged"))
    ranking.set_yticks(range(len(rows)), [printable(row.name) for row in rows], parse_math=False)
    ranking.invert_yaxis()
    ranking.set_title("VUS-PR", loc="left", fontsize=11)
    flags.set_title("Samples on the wrong side of the alarm level", loc="left", fontsize=11)
    flags.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    for axis in (ranking, flags):
        axis.set_xlim(0, 1.12)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower right", fontsize=8, ncols=2, frameon=False)
    return save_figure(figure, path)


class _Bars(NamedTuple):
    """How one figure is drawn: where beside the middle of its row, how high, in which colours."""

    figure: str
    shift: float
    height: float
    color: str | Sequence[str]
    label: str | None = None
    text: str = "{:.1%}"


def _draw(axis: "Axes", rows: Sequence[Row], bars: _Bars) -> None:
    """The mean as a bar with its number, and a dot for each seed if there are several."""
    found = [row.spread(bars.figure) for row in rows]
    at = [number + bars.shift for number in range(len(rows))]
    widths = [spread.mean if spread else 0.0 for spread in found]
    axis.barh(at, widths, bars.height, color=bars.color, label=bars.label)
    for y, row, spread in zip(at, rows, found, strict=True):
        text = "none" if spread is None else bars.text.format(spread.mean)
        end = 0.0 if spread is None else spread.high
        axis.annotate(
            text, (end, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
        )
        if spread is not None and len(row.seeds) > 1:
            values = [getattr(seed.figures, bars.figure) for seed in row.seeds]
            dots = [value for value in values if value is not None]
            axis.plot([spread.low, spread.high], [y, y], color="black", linewidth=0.8)
            axis.plot(dots, [y] * len(dots), ".", color="black", markersize=4)
