"""`andon train`: options in, sentences out."""

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import torch

from edge_runtime.errors import ConfigError
from edge_runtime.tables import load
from train.cells import CELLS
from train.config import DETECTORS, Files, TrainConfig, find_files, override
from train.experiment import Experiment, Folder
from train.loop import Epoch, Progress, load_progress

EXAMPLES = """\b
Examples:
  andon train history/*.csv -o run
  andon train plant.parquet --stream-column machine --ignore operator -o run
  andon train history/*.csv --detector mewma -o run
  andon train history.csv --layers gru,lstm --hidden 32 --look-ahead 8 -o run
  andon train runs/*.csv --target mode --cost cross_entropy -o run
  andon train --config skab.toml --data-root skab -o run
"""


def _layers(text: str) -> int | tuple[str, ...]:
    """``2``, or ``gru,lstm``."""
    if text.lstrip("-").isdigit():
        return int(text)
    return tuple(name.strip() for name in text.split(","))


def _periods(text: str) -> tuple[int, ...]:
    """``1,2,4,8``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"wanted whole numbers with commas between them, got {text!r}"
        ) from error


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(epilog=EXAMPLES)
@click.argument("data", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=FOLDER, help="Folder of the run.")
@click.option("--config", type=FILE, help="An experiment; options go before what it says.")
@click.option("--data-root", type=FOLDER, help="What [[data.files]] is relative to.")
@click.option(
    "--detector",
    help=f"{', '.join(DETECTORS)}; by default hybrid. Only hybrid and forecast have a network.",
)
@click.option("--cell", help=f"{', '.join(CELLS)}; by default gru.")
@click.option(
    "--layers",
    type=_layers,
    metavar="N|CELL,CELL",
    help="How many, by default 1, or the cell of each.",
)
@click.option("--hidden", type=int, help="Length of a hidden vector, by default 64.")
@click.option(
    "--look-ahead",
    type=int,
    help="Samples that a second stack reads backward; scores leave so many samples later.",
)
@click.option("--squash", help="Of lstm: tanh (the default) or identity, of input and output.")
@click.option("--reset", help="Of gru: after the product (the default) or before, as in the paper.")
@click.option("--periods", type=_periods, metavar="N,N", help="Of clockwork, by default 1,2,4,8.")
@click.option("--context", type=int, help="Of scrn: its slow units, by default hidden / 4.")
@click.option("--alpha", type=float, help="Of scrn: what they keep, by default 0.95.")
@click.option(
    "--target", metavar="COLUMN", help="Read this off the sensors instead of forecasting."
)
@click.option(
    "--cost", help="squared_error (the default), or cross_entropy for a target's classes."
)
@click.option("--epochs", type=int, help="Passes over the history at most.")
@click.option("--window", type=int, help="Samples through which the gradient flows back.")
@click.option("--learning-rate", type=float, help="Of Adam.")
@click.option("--clip-norm", type=float, help="Longer gradients are scaled down to it; 0: not.")
@click.option("--clip-value", type=float, help="Each element of the gradient is held at it.")
@click.option("--seed", type=int, help="Of the initial weights, by default 0.")
@click.option("--time-column", help="By default found by itself.")
@click.option("--stream-column", help="Names the machine; by default each file is one.")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="Is no sensor; repeatable.")
@click.option("features", "--feature", multiple=True, metavar="COLUMN", help="Use only this one.")
@click.option("--period-ms", type=float, help="Between two samples, by default their median.")
@click.option("--max-gap-ms", type=float, help="A longer silence cuts; by default 5 periods.")
@click.option(
    "--false-alarms-per-day",
    type=float,
    help="How often the lamp of a healthy machine may go on; by default 0.143, once a week.",
)
@click.option("--resume", is_flag=True, help="Go on after an interruption.")
@click.option("--force", is_flag=True, help="Begin anew where there is a run already.")
@click.option("--json", "as_json", is_flag=True, help="Print run.json on standard output.")
@click.pass_context
def train(
    ctx: click.Context,
    /,
    data: tuple[Path, ...],
    output: Path,
    config: Path | None,
    data_root: Path | None,
    resume: bool,
    force: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Learn a machine's normal operation from recorded DATA (CSV or Parquet files, or folders).

    DATA should be healthy: what is in it will not raise an alarm. The first 70 % of every stream
    train the network, the next 15 % decide when to stop, the last 15 % set the alarm level.

    The detector judges the samples over several spans of time, together with what a network
    foretold of them (hybrid). --detector names a simpler one; docs/quality.md compares them.

    With --target the detector says what that column is, from the samples so far, and the score is
    its answer: a number, or with --cost cross_entropy the most probable of the column's values.

    Writes checkpoint.pt and run.json into the run's folder, and curves.csv and curves.png where a
    network was trained. Ctrl-C at any time; --resume goes on as if nothing had happened.
    """
    # Matrices this small are slower on two threads, and one thread gives the same bits every time.
    torch.set_num_threads(1)
    if resume and force:
        raise click.UsageError("--resume goes on, --force begins anew: choose one")
    chosen = override(load(TrainConfig, config) if config else TrainConfig(), options)
    files = _files(data, chosen, config, data_root)
    folder = Folder(output)
    folder.require_free(resume=resume, force=force)
    experiment = Experiment(chosen, files, _say)
    progress = experiment.start()
    if progress is not None and folder.progress.exists() and resume:
        load_progress(folder.progress, progress, experiment.settings())
        _say(f"going on after epoch {len(progress.history)}")
    else:
        folder.clear()
    _say_plan(experiment)
    try:
        if progress is not None:
            _fit(experiment, progress, folder)
            _cross_fit(experiment, progress)
        report = experiment.finish(progress, folder)
    except KeyboardInterrupt:
        how = (
            "begins anew"
            if progress is None
            else f"with --resume goes on after epoch {len(progress.history)}"
        )
        click.echo(f"interrupted; the same command {how}", err=True)
        ctx.exit(130)
    _say_result(report, experiment, folder)
    if as_json:
        click.echo(json.dumps(report, indent=2))


def _files(
    data: tuple[Path, ...], config: TrainConfig, path: Path | None, root: Path | None
) -> list[Files]:
    """What the command line names, else what the configuration does."""
    if data:
        return [Files(data)]
    if path is None or not config.data.files:
        raise click.UsageError("name DATA, or a --config with [[data.files]]")
    try:
        return find_files(config.data, root or path.parent)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error


def _fit(experiment: Experiment, progress: Progress[Any], folder: Folder) -> None:
    """Trains with a progress bar; the time left is what all passes would take."""
    left = experiment.config.training.epochs - len(progress.history)
    with click.progressbar(
        length=max(left, 0),
        label="training",
        item_show_func=_show_epoch,
        file=sys.stderr,
    ) as bar:
        for epoch in experiment.fit(progress, folder):
            bar.update(1, epoch)


def _cross_fit(experiment: Experiment, progress: Progress[Any]) -> None:
    passes = experiment.stands_in(progress)
    if passes:
        with click.progressbar(
            experiment.cross_fit(progress), length=passes, label="cross-fitting", file=sys.stderr
        ) as bar:
            for _ in bar:
                pass


def _show_epoch(epoch: Epoch | None) -> str | None:
    if epoch is None:
        return None
    return (
        f"epoch {epoch.number}: loss {epoch.train_loss:.4f}, validation "
        f"{epoch.validation_loss:.4f}, gradient norm {epoch.gradient_norm:.3g}"
    )


def _say(sentence: str) -> None:
    click.echo(f"note: {sentence}", err=True)


def _say_plan(experiment: Experiment) -> None:
    history = experiment.history
    streams = len({segment.stream for segment in history.segments})
    lines = [
        f"sensors   {', '.join(history.features)}",
        f"history   streams: {streams:,}; segments: {len(history.segments):,}; a sample every "
        f"{history.period_ms:g} ms",
        *_plan(experiment),
    ]
    click.echo("\n".join(lines), err=True)


def _plan(experiment: Experiment) -> list[str]:
    """The detector, and its network where there is one."""
    target, model = experiment.history.target, experiment.config.model
    detector = [] if target is not None else [f"detector  {model.kind}"]
    if not experiment.learns:
        return detector
    layers = " and ".join(f"{len(list(same))} {cell}" for cell, same in groupby(model.cells))
    ahead = f", {model.look_ahead} samples ahead" if model.look_ahead else ""
    what = "the next sample" if model.kind == "forecast" else "the next samples"
    verb = f"forecasting {what}" if target is None else f"telling {target}"
    return [*detector, f"network   {layers} of {model.hidden}{ahead}, {verb}"]


def _say_result(report: dict[str, Any], experiment: Experiment, folder: Folder) -> None:
    """What a person wants to know: on how much data, how good, how trustworthy, what next."""
    training = report["training"]
    history = experiment.history
    used = ", ".join(
        f"{use} {rows:,} rows ({history.hours(rows):.1f} h)"
        for use, rows in training["rows"].items()
    )
    curves = ", curves.csv, curves.png" if "epochs" in training else ""
    lines = [
        f"data      {used}",
        *_learnt(training),
        *_alarm_level(report["calibration"]),
        f"warm-up   {report['warm_up_steps']} samples",
        f"written   {folder.path}: checkpoint.pt, run.json{curves}",
    ]
    click.echo("\n".join(lines), err=True)
    if "epochs" in training and experiment.kept_whatever:
        _say_if_poor(training["validation_loss"], training["baselines"])
    click.echo(f"next      andon export {folder.path} -o model.onnx", err=True)


def _learnt(training: dict[str, Any]) -> list[str]:
    if "epochs" not in training:
        return []
    others = ", ".join(f"{name} {value:.4f}" for name, value in training["baselines"].items())
    return [
        f"epochs    {training['epochs']}, the best was {training['best_epoch']}",
        f"loss      {training['validation_loss']:.4f} on validation; without a network, by "
        f"{others}",
    ]


def _say_if_poor(loss: float, baselines: dict[str, float]) -> None:
    better = [name for name, value in baselines.items() if value <= loss]
    if better:
        verb = "are" if len(better) > 1 else "is"
        _say(
            f"{' and '.join(better)} {verb} no worse than the network on these sensors: more "
            "history, more epochs or another learning rate may help"
        )


def _alarm_level(calibration: dict[str, Any] | None) -> list[str]:
    if calibration is None:
        return ["level     none: the score is the target, the gateway's enter says when to alarm"]
    low, high = calibration["interval"]["per_day"]
    return [
        f"level     1.0 is a distance of {calibration['limit']:.2f} (median "
        f"{calibration['level']['median']:.2f}); the {calibration['rows']:,} calibration samples "
        f"raise {calibration['episodes']} alarms at it",
        f"alarms    {calibration['false_alarms_per_day']:g} a day and healthy machine asked for; "
        f"expected {calibration['expected_false_alarms_per_day']:.2g}, between {low:.2g} and "
        f"{high:.2g}; {calibration['supported_false_alarms_per_day']:.3g} supported by the data",
    ]
