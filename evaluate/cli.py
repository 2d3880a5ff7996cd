"""`andon evaluate`: options in, tables out."""

import sys
from pathlib import Path

import click

from edge_runtime.columns import Layout
from edge_runtime.recorded import read_streams
from edge_runtime.replay_cli import require_apart, with_alarm
from edge_runtime.settings import Settings as PipelineSettings
from evaluate.evaluation import Report, evaluate_detectors, work
from evaluate.metrics import require_aeon
from evaluate.picture import plot_report
from evaluate.report import as_text, write_json
from evaluate.scenes import short_of
from evaluate.settings import Settings
from evaluate.yardsticks import YARDSTICKS

EXAMPLES = """\b
Examples:
  andon evaluate pump.onnx tuesday.csv --stream-column machine --label anomaly
  andon evaluate pump.onnx runs/*.csv --label anomaly --lead 400 --crop 300 --splice 300 \\
      --repeats 5 --seed-model pump-2.onnx --against lstm=lstm.onnx --json report.json
"""

FILE = click.Path(path_type=Path)
OUTPUT = click.Path(path_type=Path, dir_okay=False)


class Named(click.ParamType):  # type: ignore[type-arg]
    """``NAME=MODEL.onnx``."""

    name = "NAME=MODEL"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Splits at the first ``=``."""
        if not isinstance(value, str):
            return value
        name, equals, path = value.partition("=")
        if not (name.strip() and equals and path):
            self.fail(f"wanted NAME=MODEL.onnx, got {value!r}", param, ctx)
        return name.strip(), Path(path)


@click.command(epilog=EXAMPLES)
@click.argument("model", type=FILE)
@click.argument("data", nargs=-1, required=True, type=FILE)
@click.option(
    "--label", required=True, metavar="COLUMN", help="Is not 0 where something was wrong."
)
@click.option("--name", help="Of MODEL in the report.  [default: the file's]")
@click.option(
    "seed_models",
    "--seed-model",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="MODEL once more, trained with another seed; repeatable.",
)
@click.option(
    "against",
    "--against",
    multiple=True,
    type=Named(),
    help="Another detector beside it; repeatable. The same NAME again is another seed of it.",
)
@click.option(
    "--window",
    type=int,
    default=60,
    show_default=True,
    help="Buffer of the VUS-PR around the events, in samples.",
)
@click.option(
    "--recovery",
    type=int,
    help="Samples after an event in which a false alarm counts as `after`.  [default: --window]",
)
@click.option(
    "--lead",
    type=int,
    default=0,
    show_default=True,
    help="Rows at the start of each recording that warm up and are not judged, nor are copies of "
    "them: those that training may have seen.",
)
@click.option(
    "--crop",
    type=int,
    default=0,
    show_default=True,
    help="Leave out 0 to so many rows at the start of each stream, at random.",
)
@click.option(
    "--splice",
    type=int,
    default=0,
    show_default=True,
    help="Insert 0 to so many consecutive rows, copied from before the first event, at a random "
    "place between the lead and the first event.",
)
@click.option(
    "--repeats",
    type=int,
    default=1,
    show_default=True,
    help="Draws of both; every figure is the mean.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn.")
@click.option(
    "--causality/--no-causality",
    default=True,
    show_default=True,
    help="Cut the input and see that no score before the cut changes; exit 1 if one does.",
)
@click.option("--enter", type=float, help="Alarm above this score, of every model.  [default: 1.0]")
@click.option("--leave", type=float, help="Alarm ends below this score.  [default: 0.7 of --enter]")
@click.option("--hold-steps", type=int, help="For so many samples in a row.  [default: 3]")
@click.option("--time-column", help="Column with the time; found by itself.")
@click.option("--stream-column", help="Column that tells the machines of one file apart.")
@click.option("--period-ms", type=float, help="Sample period of a file without a time column.")
@click.option("--delimiter", help="Between the cells of a CSV file; found by itself.")
@click.option("json_file", "--json", type=OUTPUT, help="Write all figures, by seed and stream.")
@click.option(
    "--plot", type=OUTPUT, help="Draw VUS-PR, FAR and MAR of all detectors (.png, .svg, .pdf)."
)
def evaluate(
    model: Path,
    data: tuple[Path, ...],
    label: str,
    name: str | None,
    seed_models: tuple[Path, ...],
    against: tuple[tuple[str, Path], ...],
    enter: float | None,
    leave: float | None,
    hold_steps: int | None,
    time_column: str | None,
    stream_column: str | None,
    period_ms: float | None,
    delimiter: str | None,
    json_file: Path | None,
    plot: Path | None,
    **counting: int | None,
) -> None:
    """Judge MODEL on labelled recordings: DATA are CSV or Parquet files, or folders of them.

    The model runs through the gateway's own pipeline. Only samples whose status is ok are judged;
    how many are not, and why, is said.

    Of single samples, above the alarm level (--enter) without hold: F1; FAR, the share of the
    normal samples that are above; MAR, the share of the labelled ones that are not. Of the lamp,
    with hold: an event is found if the lamp goes on during it (a lamp that was lit before says
    nothing); a false alarm is a lamp that goes on where there is no label, before the first event
    of its stream, after (within --recovery of an event's end) or elsewhere, each in an hour of such
    operation. The delay is the median from onset to lamp, the model's look-ahead included. VUS-PR
    needs no threshold.

    Three rows know nothing of the sensors: random scores, all ones, and a row counter with the best
    threshold that the labels allow. A recording in which faults begin at the same row gives its
    answer away: --crop and --splice take that from it.
    """
    require_apart([model, *data, *seed_models, *(path for _, path in against)], [json_file, plot])
    alarm = with_alarm(PipelineSettings(), enter, leave, hold_steps).alarm
    settings = Settings(label=label, alarm=alarm, **counting)  # type: ignore[arg-type]
    require_aeon()
    detectors = _load(name or model.stem, [model, *seed_models], against)
    layout = Layout(
        time_column=time_column,
        stream_column=stream_column,
        period_ms=period_ms,
        delimiter=delimiter,
    )
    recorded = read_streams(data, layout, on_notice=_notice)
    for sentence in short_of(recorded, settings):
        _notice(sentence)
    if not any(stream.column(label).any() for stream in recorded):
        _notice(f"{label!r} is 0 in every row: only false alarms can be counted")
    amount = work(detectors, recorded, settings)
    with click.progressbar(length=amount, label="evaluate", file=sys.stderr) as progress:
        report = evaluate_detectors(detectors, recorded, settings, progress=progress.update)
    click.echo(as_text(report))
    _write(report, json_file, plot)


def _load(
    name: str, models: list[Path], against: tuple[tuple[str, Path], ...]
) -> dict[str, list[Path]]:
    """The files by detector, each of which can be loaded."""
    detectors = {name: models}
    for other, path in against:
        if other == name:
            raise click.UsageError(
                f"--against {other}: that is MODEL's own name; seeds of it are --seed-model, and "
                "--name gives it another"
            )
        detectors.setdefault(other, []).append(path)
    for reserved in YARDSTICKS:
        if reserved in detectors:
            raise click.UsageError(f"{reserved!r} is the name of a row that is always there")
    return detectors


def _write(report: Report, json_file: Path | None, plot: Path | None) -> None:
    if json_file is not None:
        try:
            write_json(json_file, report)
        except OSError as error:
            reason = f"{json_file}: cannot be written: {error.strerror}"
            raise click.ClickException(reason) from error
        click.echo(f"wrote {json_file}", err=True)
    if plot is not None:
        click.echo(f"wrote {plot_report(plot, report)}", err=True)


def _notice(text: str) -> None:
    click.echo(f"note: {text}", err=True)
