"""The learning curve, as a table and as a picture."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from edge_runtime.errors import AndonError
from edge_runtime.files import replacing, write_text
from train.config import TrainingConfig
from train.loop import Epoch


def write_table(path: Path, history: Sequence[Epoch]) -> None:
    """Writes one CSV line for each pass.

    Args:
        path: The file.
        history: The passes.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["epoch" if f.name == "number" else f.name for f in fields(Epoch)])
    table.writerows(astuple(epoch) for epoch in history)
    write_text(path, text.getvalue())


COSTS = {
    "squared_error": "mean squared error,\nin deviations",
    "cross_entropy": "cross-entropy,\nin nats",
}


def write_picture(
    path: Path,
    history: Sequence[Epoch],
    baselines: Mapping[str, float],
    config: TrainingConfig,
) -> None:
    """Draws losses and gradient norm over the passes, with the best pass marked.

    Args:
        path: The PNG file.
        history: The passes, at least one.
        baselines: Validation loss of predictions that need no network, by name; two at most.
        config: Says what the loss is, and where the gradient was clipped.

    Raises:
        AndonError: Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter
    except ImportError as error:
        raise AndonError(f"{path} needs matplotlib: pip install 'andon[plot]'") from error
    best = min(history, key=lambda epoch: epoch.validation_loss)
    numbers = [epoch.number for epoch in history]
    figure = Figure(figsize=(9, 6), layout="constrained")
    losses, norms = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    losses.plot(numbers, [e.train_loss for e in history], label="training", color="#9aa5b1")
    losses.plot(numbers, [e.validation_loss for e in history], label="validation", color="#1f5a8c")
    losses.plot(best.number, best.validation_loss, "o", color="#1f5a8c")
    losses.annotate(
        f"best: epoch {best.number}, {best.validation_loss:.4g}",
        (best.number, best.validation_loss),
        xytext=(0, 10),
        textcoords="offset points",
        ha="right" if best.number > max(numbers) / 2 else "left",
    )
    for (name, loss), style in zip(baselines.items(), ("--", ":"), strict=False):
        losses.axhline(loss, linestyle=style, color="#d62728", linewidth=1, label=name)
    losses.set_yscale("log")
    losses.set_ylabel(COSTS[config.cost])
    losses.yaxis.set_major_formatter("{x:g}")
    low, high = losses.get_ylim()  # between the powers of ten there is room in one decade only
    losses.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
    losses.legend(framealpha=1, edgecolor="none")
    norms.plot(numbers, [e.gradient_norm for e in history], color="#9aa5b1")
    if config.clip_norm:
        norms.axhline(config.clip_norm, color="#d62728", linewidth=1, linestyle="--")
        norms.annotate(
            "clipped above", (1, config.clip_norm), xycoords=norms.get_yaxis_transform(),
            ha="right", va="bottom", color="#d62728", fontsize="small",
        )  # fmt: skip
    norms.set_yscale("log")  # a gradient that explodes does so by powers of ten
    norms.set_ylabel("largest gradient\nnorm of a pass,\nbefore clipping")
    norms.set_xlabel("epoch")
    norms.xaxis.get_major_locator().set_params(integer=True)
    for axes in (losses, norms):
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
