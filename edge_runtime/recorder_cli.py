"""`andon explain`, and the part of `andon replay` that reads the gateway's own journal."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np

from edge_runtime.contract import Contract
from edge_runtime.errors import PayloadError
from edge_runtime.past import (
    Reasons,
    Row,
    Samples,
    Span,
    most_telling,
    reasons_for,
    rows_of,
    shortened,
)
from edge_runtime.payload import MAX_TS_NS, NS_PER_MS, float32_text, parse_ts, ts_text, utc_text
from edge_runtime.plot import plot_flag
from edge_runtime.recorder import Recorded, RecordedFlag, Recorder, Wanted
from edge_runtime.recovery import Run
from edge_runtime.session import Session, load_model
from edge_runtime.settings import Settings

SHOWN_BEFORE, SHOWN_AFTER = 12, 4  # samples in the text
DRAWN = 300  # samples in the picture, before and after
MOST_SENSORS = 6
MAX_HEAD = 28
CELL = 14  # letters that a value and its share take
MOST_FLAGS = 50
SHOWN_ID = 16


class Time(click.ParamType):  # type: ignore[type-arg]
    """A time on the command line: ISO 8601, or milliseconds since 1970 UTC."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Nanoseconds since 1970 UTC."""
        if isinstance(value, int):
            return value
        text = str(value)
        try:
            number = float(text)
        except ValueError:
            number = None
        try:
            return parse_ts(text if number is None else number)
        except PayloadError as error:
            self.fail(error.detail, param, ctx)


@dataclass(frozen=True, slots=True)
class Question:
    """What `andon replay --journal` is asked.

    Attributes:
        path: The database.
        model: Only the pipeline that runs this file.
        pipeline: Only the pipeline with this topic or number.
        stream: Only this stream.
        span: Only this time.
    """

    path: Path
    model: Path | None
    pipeline: str | None
    stream: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class Answer:
    """One pipeline of the journal, ready to be run again."""

    recorded: Recorded
    session: Session
    settings: Settings
    samples: Samples
    runs: Iterator[Run]


def ask(recorder: Recorder, question: Question) -> Answer:
    """Finds the one pipeline that a question is about.

    Raises:
        click.UsageError: If there is none, or more than one.
        AndonError: If the database cannot be read.
    """
    recorded = _the_pipeline(recorder, question)
    session = recorder.session(recorded)
    streams = None if question.stream is None else frozenset([question.stream])
    samples = Samples(question.span)
    wanted = Wanted(streams, question.span.since)
    settings, runs = recorder.settings_of(recorded), recorder.replay(recorded, wanted, session)
    return Answer(recorded, session, settings, samples, runs)


def _the_pipeline(recorder: Recorder, question: Question) -> Recorded:
    every = recorder.pipelines()
    found = every
    if question.model is not None:
        digest = load_model(question.model).digest
        found = [one for one in found if one.lineage.digest == digest]
    if question.pipeline is not None:
        wanted = question.pipeline
        found = [one for one in found if wanted in (one.lineage.topic, str(one.number))]
    if question.stream is not None:
        found = [one for one in found if question.stream in one.streams.values()]
    else:  # one that has never seen a sample is not meant
        found = [one for one in found if one.streams] or found
    if len(found) == 1:
        return found[0]
    known = "\n".join(_line(one) for one in (found or every))
    if not found:
        what = "the stream" if question.stream else "such a pipeline"
        raise click.UsageError(f"{question.path}: does not hold {what}; it holds\n{known}")
    raise click.UsageError(f"{question.path}: say which with --pipeline\n{known}")


def _line(recorded: Recorded) -> str:
    names = sorted(recorded.streams.values())
    shown = ", ".join(names[:5]) + (", ..." if names[5:] else "")
    digest = recorded.lineage.digest[:16]
    return f"  {recorded.number}  {recorded.lineage.topic}  model {digest}  {shown or 'no streams'}"


@click.command(epilog="Example: andon explain gateway.db 5f0c9a --plot why.png")
@click.argument("database", type=click.Path(path_type=Path))
@click.argument("flag_id", required=False)
@click.option("--stream", help="Without FLAG_ID: list the flags of this stream only.")
@click.option("--from", "since", type=Time(), help="Without FLAG_ID: from this time on (ISO 8601).")
@click.option("--to", "until", type=Time(), help="Without FLAG_ID: until this time.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to draw it (.png, .svg, .pdf).  [default: flag-ID.png]",
)
@click.option("--no-plot", is_flag=True, help="Draw nothing.")
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=SHOWN_BEFORE,
    show_default=True,
    help="How many samples before the flag to list.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def explain(
    database: Path,
    flag_id: str | None,
    stream: str | None,
    since: int | None,
    until: int | None,
    plot: Path | None,
    samples: int,
    *,
    no_plot: bool,
    as_json: bool,
) -> None:
    """Show what led to the flag FLAG_ID: the samples, the score, the sensors.

    Without FLAG_ID, list the flags that there are.

    DATABASE is the gateway's own file, or a copy of it; the daemon may be running. The journal is
    run again with the model and the settings of that time, and must give the score that was
    published, bit for bit. The beginning of an id is enough.
    """
    if flag_id is None:
        _list(database, stream, Span(since, until), as_json=as_json)
        return
    if stream is not None or since is not None or until is not None:
        raise click.UsageError("--stream, --from and --to choose from the list, without FLAG_ID")
    if plot is not None and plot.resolve() == database.resolve():
        raise click.UsageError(f"{plot} would be overwritten: choose another file to draw into")
    with Recorder(database) as recorder:
        flag = recorder.flag(flag_id)
        reasons = reasons_for(recorder, flag, _around)
    path = plot or Path(f"flag-{flag.id[:8]}.png")
    if plot is None and not no_plot and find_spec("matplotlib") is None:
        click.echo("note: no picture, matplotlib is missing: pip install 'andon[plot]'", err=True)
        no_plot = True
    if not no_plot:
        plot_flag(path, reasons)
    if as_json:
        click.echo(json.dumps(_as_dict(reasons, samples, None if no_plot else path)))
    else:
        click.echo("\n".join(_as_text(reasons, samples)))
        if not no_plot:
            click.echo(f"wrote {path}", err=True)


def _list(database: Path, stream: str | None, span: Span, *, as_json: bool) -> None:
    """The flags of a time, oldest first."""
    since, until = (span.since or 0), (MAX_TS_NS if span.until is None else span.until)
    if since > until:
        raise click.UsageError("--from must not be later than --to")
    with Recorder(database) as recorder:
        if as_json:
            found = [flag.message for flag in recorder.flags(stream, since, until)]
            click.echo(json.dumps({"schema": 1, "flags": found}))
            return
        every = list(recorder.flags(stream, since, until))
        shown = every[-MOST_FLAGS:]
        if not shown:
            click.echo(f"{database}: no such flags; it holds {recorder.summary()}", err=True)
    if every[MOST_FLAGS:]:
        click.echo(f"... and {len(every) - len(shown)} before; see --from and --to, or --json")
    width = max((len(flag.stream) for flag in shown), default=0)
    for flag in shown:
        score = f"score {float(flag.message['score']):<8.3g}"
        who = f"{flag.message['event']:7}  {flag.stream:{width}}"
        click.echo(f"{utc_text(flag.ts)}  {who}  {score}  {flag.id[:SHOWN_ID]}  {_because(flag)}")
    if shown:
        click.echo(f"why: andon explain {database} ID", err=True)


def _because(flag: RecordedFlag) -> str:
    top = flag.message["top"]
    return ", ".join(f"{share['feature']} {share['share']:.0%}" for share in top)


def _around(ts: int, contract: Contract) -> Span:
    width = round(DRAWN * contract.sample_period_ms * NS_PER_MS)
    return Span(ts - width, ts + width // 2)


def _as_dict(reasons: Reasons, before: int, plot: Path | None) -> dict[str, object]:
    flag, alarm = reasons.flag, reasons.settings.alarm
    rows = [
        {
            "ts": json.loads(ts_text(row.ts)),
            "score": json.loads(float32_text(row.score)),
            "status": row.status,
            "alarm": row.alarm,
            "values": _numbers(row.values),
            "shares": _numbers(row.shares),
        }
        for row in rows_of(reasons, before, SHOWN_AFTER)
    ]
    return {
        "schema": 1,
        "flag": flag.message,
        "topic": flag.pipeline.lineage.topic,
        "alarm": {"enter": alarm.enter, "leave": alarm.leave, "hold_steps": alarm.hold_steps},
        "samples": rows,
        "picture": None if plot is None else str(plot),
    }


def _numbers(values: dict[str, np.float32]) -> dict[str, float]:
    return {name: json.loads(float32_text(value)) for name, value in values.items()}


def _as_text(reasons: Reasons, before: int) -> Iterator[str]:
    flag, alarm, message = reasons.flag, reasons.settings.alarm, reasons.flag.message
    units = {f.name: f.unit for f in reasons.contract.features}
    yield f"{message['event']}  {flag.stream}  {utc_text(flag.ts)}  score {message['score']}"
    yield (
        f"  rule     above {alarm.enter:g}, until below {alarm.leave:g}, "
        f"{alarm.hold_steps} samples in a row"
    )
    yield f"  because  {_because(flag) or 'the model does not say'}"
    yield f"  model    {message['model']}, on {flag.pipeline.lineage.topic}"
    yield f"  id       {flag.id}"
    yield ""
    shown = _fitting(most_telling(reasons), units)
    yield from _table(list(rows_of(reasons, before, SHOWN_AFTER)), shown, units)
    hidden = len(reasons.contract.feature_names) - len(shown)
    if hidden:
        yield f"  ({hidden} more with --json)"


def _fitting(sensors: Sequence[str], units: dict[str, str]) -> list[str]:
    """As many sensors as the terminal is wide, and at least one."""
    room = shutil.get_terminal_size((160, 24)).columns - len("> 2026-01-01 00:00:00.000") - 31
    shown: list[str] = []
    for name in sensors[:MOST_SENSORS]:
        room -= max(len(_head(name, units)), CELL) + 2
        if shown and room < 0:
            break
        shown.append(name)
    return shown


def _head(name: str, units: dict[str, str]) -> str:
    short = shortened(name, MAX_HEAD)
    return f"{short} [{units[name]}]" if units.get(name) else short


def _table(rows: Sequence[Row], sensors: Sequence[str], units: dict[str, str]) -> Iterator[str]:
    """The samples, with the share of each sensor in the score beside its value."""
    heads = [_head(name, units) for name in sensors]
    widths = [max(len(head), CELL) for head in heads]
    columns = "  ".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    yield f"  {'time, UTC':23}  {'score':>9}  {'status':10}  lamp  {columns}"
    for row in rows:
        cells = []
        for name, width in zip(sensors, widths, strict=True):
            value = f"{row.values[name]:.5g}" if row.values else "-"
            share = f" {row.shares[name]:4.0%}" if row.shares else ""
            cells.append(f"{value + share:>{width}}")
        mark, lamp = ">" if row.decided else " ", "on" if row.alarm else ""
        yield (
            f"{mark} {utc_text(row.ts)[:-1]}  {row.score:9.4g}  {row.status:10}  {lamp:4}  "
            f"{'  '.join(cells)}"
        )
