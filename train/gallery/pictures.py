"""The gallery's pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.errors import AndonError
from edge_runtime.files import replacing
from train.gallery import adder, adding, by_hand, cliff
from train.gallery.adder import Skill
from train.gallery.adding import Curve, learnt
from train.gallery.by_hand import Step
from train.gallery.cliff import Jump

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RED = "#d62728"
YELLOW = "#f2b134"
BLUE = "#1f5a8c"
FAINT = "#9aa5b1"
COLORS = {
    "dense": FAINT,
    "elman": "#8c564b",
    "jordan": "#c49c6b",
    "irnn": YELLOW,
    "lstm": BLUE,
    "lstm_peephole": "#5fa8d3",
    "gru": RED,
    "clockwork": "#7b68ae",
    "scrn": "#3d9970",
}
WIDTH_IN = 8.0
DPI = 110


def draw_by_hand(path: Path, steps: Sequence[Step]) -> None:
    """The worked LSTM: inputs, gates, memory and output, a column for each step."""
    figure = _figure(4.6)
    axis = figure.subplots()
    rows = ["x1", "x2", "x3", "write", "keep", "read", "memory before", "y"]
    for at, name in enumerate(rows):
        axis.text(-0.7, -at, name, ha="right", va="center")
    for t, step in enumerate(steps):
        for at, value in enumerate(by_hand.X[t]):
            axis.text(t, -at, f"{value:g}", ha="center", va="center", color=BLUE)
        for at, (gate, color) in enumerate(
            zip((step.write, step.keep, step.read), (BLUE, FAINT, RED), strict=True)
        ):
            face = color if gate > 0.5 else "white"  # noqa: PLR2004 - open or shut
            axis.plot(t, -3 - at, "s", markersize=15, color=color, markerfacecolor=face)
        axis.text(t, -6, f"{step.before:g}", ha="center", va="center", fontweight="bold")
        loud = step.read > 0.5  # noqa: PLR2004
        axis.text(
            t, -7, f"{step.y:g}", ha="center", va="center", color=RED if loud else FAINT,
            fontweight="bold" if loud else "normal",
        )  # fmt: skip
        axis.text(t, 0.8, f"{t + 1}", ha="center", va="center", color=FAINT, fontsize="small")
    for line in (-2.5, -5.5, -6.5, 0.45):
        axis.axhline(line, color=FAINT, linewidth=0.6)
    axis.text(-0.7, 0.8, "step", ha="right", va="center", color=FAINT, fontsize="small")
    axis.text(len(steps) - 0.3, -3, "i  filled: open", va="center", fontsize="small", color=BLUE)
    axis.text(len(steps) - 0.3, -4, "f  empty: forget", va="center", fontsize="small", color="grey")
    axis.text(len(steps) - 0.3, -5, "o  filled: say", va="center", fontsize="small", color=RED)
    axis.set_xlim(-2.3, len(steps) + 1.4)
    axis.set_ylim(-7.6, 1.2)
    axis.axis("off")
    _title(axis, "An LSTM whose weights were set by hand")
    _save(figure, path)


def draw_adder(path: Path, skills: Sequence[Skill]) -> None:
    """One worked sum, and how far each network can add."""
    figure = _figure(6.4)
    above, below = figure.subplots(2, 1, height_ratios=(1.1, 2))
    _worked_sum(above, skills)
    for skill, color in zip(skills, (BLUE, RED), strict=True):
        name = "with memory" if "elman" in skill.layers else "without"
        percent = 100 * np.array(skill.digits)
        below.plot(skill.lengths, percent, "o-", color=color, markersize=4)
        label = f"{name} ({' under '.join(skill.layers)}): {percent[-1]:.3g} %"
        below.annotate(
            label, (skill.lengths[-1], percent[-1]), xytext=(0, -14), textcoords="offset points",
            ha="right", color=color,
        )  # fmt: skip
    below.axvspan(0, adder.LONGEST, color=FAINT, alpha=0.25, linewidth=0)
    below.text(0.3, 4, "lengths that\nwere trained on", color="dimgrey", fontsize="small")
    below.set_ylim(0, 106)
    below.set_xlim(0, adder.FARTHEST + 0.5)
    below.set_ylabel("digits of the sum\nthat are right, %")
    below.set_xlabel(f"digits of the two numbers ({adder.TESTED} sums each)")
    _save(figure, path)


def _worked_sum(axis: "Axes", skills: Sequence[Skill]) -> None:
    """As at school: the first pair of digits stands on the right."""
    pairs = adder.EXAMPLE
    right = [int(digit) for digit in adder.digits_of(pairs).sums[0]]
    carries = [0]
    for a, b in pairs[:-1]:
        carries.append((a + b + carries[-1]) // 10)
    rows = [
        ("carry", carries, YELLOW),
        ("first number", [a for a, _ in pairs], "black"),
        ("second number", [b for _, b in pairs], "black"),
        ("with memory", skills[0].example, BLUE),
        ("without", skills[1].example, RED),
    ]
    for row, (name, digits, color) in enumerate(rows):
        axis.text(-3.6, -row, name, ha="right", va="center", color="black")
        for place, digit in enumerate(digits):
            wrong = row > 2 and digit != right[place]  # noqa: PLR2004 - the two answers
            shown = f"{digit:g}" if digit or row else "\N{MIDDLE DOT}"
            axis.text(
                -place - 1, -row, shown, ha="center", va="center", color=color, fontsize=15,
                fontweight="bold" if row > 2 else "normal",  # noqa: PLR2004
                bbox={"facecolor": "none", "edgecolor": RED, "pad": 3} if wrong else None,
            )  # fmt: skip
    axis.plot([-3.5, -0.5], [-2.5, -2.5], color="black", linewidth=1)
    axis.text(0, 0, "the digits enter from the right, a pair a step", va="center", color="dimgrey",
              fontsize="small")  # fmt: skip
    axis.text(0, -3, "the same pair (4, 7) twice, two answers", va="center", color=BLUE,
              fontsize="small")  # fmt: skip
    axis.text(0, -4, "the same pair twice, one answer", va="center", color=RED, fontsize="small")
    axis.set_xlim(-6, 6)
    axis.set_ylim(-4.6, 0.6)
    axis.axis("off")
    _title(axis, "An adder that was shown numbers of up to "
           f"{adder.LONGEST} digits")  # fmt: skip


def draw_powers(path: Path) -> None:
    """What a recurrent weight does to a signal in a thousand steps."""
    figure = _figure(4.2)
    axis = figure.subplots()
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    ends = {1.0: "1", 1.01: "20,959", 0.99: "0.000043"}
    for factor, color in zip(cliff.FACTORS, ("black", RED, BLUE, FAINT), strict=True):
        held = cliff.powers(factor)
        alive = held[held > 0]
        axis.plot(alive, color=color)
        if factor in ends:
            axis.annotate(
                f"$w = {factor:g}$: {ends[factor]}", (len(alive) - 1, alive[-1]),
                xytext=(0, -6 if factor < 1 else 5), textcoords="offset points", ha="right",
                va="top" if factor < 1 else "bottom", color=color,
            )  # fmt: skip
        else:
            axis.plot(len(alive) - 1, alive[-1], "x", color=color)
            axis.annotate(
                f"$w = {factor:g}$: nothing is left after {len(alive)} steps\n"
                f"(float32 ends at {smallest:.1g})", (len(alive), 1e-30), xytext=(8, 0),
                textcoords="offset points", va="center", color="dimgrey",
            )  # fmt: skip
    axis.set_yscale("log")
    axis.set_ylim(1e-38, 1e9)
    axis.set_xlim(0, cliff.POWER)
    axis.set_ylabel("$w^t$, as a recurrent unit holds it")
    axis.set_xlabel("steps $t$")
    _title(axis, "A thousand steps with four weights")
    _save(figure, path)


def draw_cliff(path: Path, plain: Jump, clipped: Jump) -> None:
    """The error surface of one unit over fifty steps, and one step of descent from its edge."""
    figure = _figure(5.6)
    axis = figure.add_subplot(projection="3d", computed_zorder=False)
    w, b = np.meshgrid(np.linspace(0.6, 2.8, 221), np.linspace(-1.2, 2.2, 341))
    axis.plot_surface(
        w, b, cliff.surface(w, b), cmap="Blues", vmin=-1.5, vmax=3.2, linewidth=0, rstride=2,
        cstride=2, antialiased=False, zorder=0,
    )  # fmt: skip
    start = (*plain.start, plain.error_before)
    axis.plot(*zip(start, _end(plain), strict=True), "o--", color=RED, zorder=3, markersize=5)
    axis.plot(*zip(start, _end(clipped), strict=True), "o-", color="black", zorder=4, markersize=5)
    axis.text(*_lifted(_end(plain), -0.5), f"not clipped: flung {plain.reach:.2g} away",
              color=RED, zorder=5, ha="center")  # fmt: skip
    axis.text(start[0], start[1] - 0.1, start[2] + 0.3, "start", zorder=5, ha="right")
    axis.text(*_lifted(_end(clipped), -0.45), f"clipped: {clipped.reach:.2g} away",
              zorder=5, ha="center")  # fmt: skip
    axis.set_xlabel("recurrent weight $w$")
    axis.set_ylabel("bias $b$")
    axis.set_zlabel("error")
    axis.view_init(elev=32, azim=-152)
    axis.set_box_aspect((1, 1.3, 0.7), zoom=1.0)
    _title(axis, f"The cliff: $(h_{{{cliff.STEPS}}} - {cliff.GOAL:g})^2$ with "
           "$h_t = \\tanh(w\\,h_{t-1} + b)$")  # fmt: skip
    _save(figure, path)


def _end(jump: Jump) -> tuple[float, float, float]:
    return (*jump.end, jump.error_after)


def _lifted(point: tuple[float, float, float], by: float) -> tuple[float, float, float]:
    return point[0], point[1], point[2] + by


def draw_adding(path: Path, curves: Sequence[Curve]) -> None:
    """Each cell's error while it is trained, a panel for each length."""
    lengths = sorted({curve.length for curve in curves})
    figure = _figure(1.2 + 2.6 * len(lengths))
    axes = figure.subplots(len(lengths), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, length in zip(axes, lengths, strict=True):
        axis.axhline(adding.BY_CHANCE, color="black", linewidth=1, linestyle=":")
        for curve in curves:
            if curve.length == length:
                dashes = "--" if curve.cell == "dense" else "-"
                axis.plot(curve.steps, curve.errors, dashes, color=COLORS[curve.cell],
                          linewidth=1.4, label=curve.cell)  # fmt: skip
        axis.set_ylabel(f"{length} numbers\nsquared error")
        axis.set_yscale("log")
        axis.set_ylim(1e-5, 2)
        level = sorted(
            (c.cell for c in curves if c.length == length and not learnt(c)), key=list(COLORS).index
        )
        axis.text(
            0.995, 1.0, "no better: " + ", ".join(level) if level else "",
            ha="right", va="top", fontsize="small", color="dimgrey",
            transform=axis.transAxes,
        )  # fmt: skip
    axes[0].text(
        0.995, adding.BY_CHANCE * 1.25, "1/6: always saying 1", ha="right", fontsize="small",
        transform=axes[0].get_yaxis_transform(),
    )  # fmt: skip
    axes[-1].set_xlabel("training steps")
    axes[-1].set_xlim(left=0)
    handles, labels = axes[0].get_legend_handles_labels()
    order = [labels.index(cell) for cell in COLORS if cell in labels]
    figure.legend(
        [handles[at] for at in order], [labels[at] for at in order], loc="outside lower center",
        ncols=5, frameon=False,
    )  # fmt: skip
    _title(axes[0], "The adding problem: who remembers how long")
    _save(figure, path)


def _title(axis: "Axes", text: str) -> None:
    axis.set_title(text, loc="left", fontsize=12)


def _figure(height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure as NewFigure
    except ImportError as error:
        raise AndonError("andon gallery needs matplotlib: pip install 'andon[plot]'") from error
    return NewFigure(figsize=(WIDTH_IN, height), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    for axis in figure.axes:
        if axis.name != "3d":
            axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
