"""`andon replay`: recorded files through the gateway's own pipeline."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click

from edge_runtime.columns import Layout
from edge_runtime.config import AlarmConfig, load_gateway
from edge_runtime.contract import Contract
from edge_runtime.errors import ConfigError
from edge_runtime.files import replacing
from edge_runtime.past import Span
from edge_runtime.payload import NS_PER_MS, encode_flag, encode_score
from edge_runtime.pipeline import Pipeline
from edge_runtime.plot import plot_replay
from edge_runtime.recorded import read_streams
from edge_runtime.recorder import Recorder
from edge_runtime.recorder_cli import Question, Time, ask
from edge_runtime.replay import Readings, readings_of
from edge_runtime.replay import replay as replayed
from edge_runtime.results import Result
from edge_runtime.session import Session, load_model
from edge_runtime.settings import Settings, misfits
from edge_runtime.summary import Summary, Verdict, judge

NS_PER_S = 1_000_000_000
MS_PER_S = 1_000
MAX_LINES = 30
MANY = 0.2  # of the samples


@click.command(
    epilog="Example: andon replay pump.onnx tuesday.csv --scores scores.jsonl --plot tuesday.png"
)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--journal",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Run a gateway's own journal again, instead of FILES: its database, or a copy.",
)
@click.option("--pipeline", help="With --journal: which one, by its topic, if there are several.")
@click.option("--stream", help="With --journal: this stream only.")
@click.option("--from", "since", type=Time(), help="With --journal: from this time on (ISO 8601).")
@click.option("--to", "until", type=Time(), help="With --journal: until this time.")
@click.option(
    "--scores",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write one JSON line for every sample.",
)
@click.option(
    "--flags",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write one JSON line for every flag.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw sensors, score, threshold and flags (.png, .svg, .pdf).",
)
@click.option("--label", help="Column that is not 0 where something was wrong: adds a comparison.")
@click.option("--time-column", help="Column with the time; found by itself.")
@click.option("--stream-column", help="Column that tells the machines of one file apart.")
@click.option("--seq-column", help="Column with the device's own count, the seq of its messages.")
@click.option("--period-ms", type=float, help="Sample period of a file without a time column.")
@click.option("--delimiter", help="Between the cells of a CSV file; found by itself.")
@click.option(
    "--gateway",
    type=click.Path(path_type=Path),
    help="Take all settings from the pipeline of this gateway that runs the model.",
)
@click.option(
    "--enter",
    type=float,
    help="Alarm above this score; wins over --gateway.  [default: 1.0]",
)
@click.option("--leave", type=float, help="Alarm ends below this score.  [default: 0.7 of --enter]")
@click.option("--hold-steps", type=int, help="For so many samples in a row.  [default: 3]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def replay(
    model: Path | None,
    files: tuple[Path, ...],
    journal: Path | None,
    pipeline: str | None,
    stream: str | None,
    since: int | None,
    until: int | None,
    scores: Path | None,
    flags: Path | None,
    plot: Path | None,
    label: str | None,
    time_column: str | None,
    stream_column: str | None,
    seq_column: str | None,
    period_ms: float | None,
    delimiter: str | None,
    gateway: Path | None,
    enter: float | None,
    leave: float | None,
    hold_steps: int | None,
    *,
    as_json: bool,
) -> None:
    """Score recorded FILES (CSV, Parquet) with MODEL, exactly as the daemon would have.

    Each file is a stream, or each value of --stream-column. The sensors are found by name. Scores
    are bit for bit those of the live run over the same samples.

    With --journal it is the live run itself: what the daemon took, with the model and the settings
    that it had, all from its database. The daemon may be running. MODEL is then not needed.
    """
    outputs = Outputs(scores, flags, plot)
    if since is not None and until is not None and since > until:
        raise click.UsageError("--from must not be later than --to")
    if journal is not None:
        _require_no_files(files, gateway, label, enter, leave, hold_steps)
        question = Question(journal, model, pipeline, stream, Span(since, until))
        require_apart([journal, *([model] if model else [])], outputs)
        report = _replay_journal(question, outputs)
        _say(report, as_json=as_json)
        return
    if pipeline or stream or since is not None or until is not None:
        raise click.UsageError("--pipeline, --stream, --from and --to go with --journal")
    if model is None or not files:
        raise click.UsageError("wanted MODEL and FILES, or --journal with a gateway's database")
    require_apart([model, *files, *([gateway] if gateway else [])], outputs)
    session = load_model(model)
    layout = Layout(
        time_column=time_column,
        stream_column=stream_column,
        period_ms=period_ms,
        delimiter=delimiter,
    )
    recorded = read_streams(files, layout, on_notice=_notice)
    readings = readings_of(recorded, session.contract, label, _notice, seq_column)
    settings = _settings(session, gateway, len(readings))
    settings = with_alarm(settings, enter, leave, hold_steps)
    fresh = Pipeline(session, settings)
    summary = Summary(settings.alarm.enter, keep=plot is not None or label is not None)
    with _results(outputs) as files_out:
        for result in _with_progress(fresh, readings):
            _write(result, *files_out)
            summary.add(result)
    summary.end(fresh.waiting(), fresh.held())
    verdict = None
    if label is not None:
        verdict = judge(readings, summary, round(session.contract.sample_period_ms * NS_PER_MS))
    written = [path for path in (scores, flags) if path is not None]
    if plot is not None:
        written += plot_replay(plot, readings, summary, session.contract, settings.alarm)
    _say(Report(summary, settings, verdict, written, session.contract), as_json=as_json)


class Outputs(NamedTuple):
    """The files to write, as far as they are wanted."""

    scores: Path | None
    flags: Path | None
    plot: Path | None


def _say(report: "Report", *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        click.echo("\n".join(report.as_text()), err=True)


def _require_no_files(files: Sequence[Path], *others: object) -> None:
    if files:
        raise click.UsageError(f"with --journal no FILES are read: {files[0]}")
    if any(other is not None for other in others):
        raise click.UsageError(
            "with --journal the settings are those of the time: --gateway, --label, --enter, "
            "--leave and --hold-steps do not go with it"
        )


def _replay_journal(question: Question, outputs: Outputs) -> "Report":
    with Recorder(question.path) as recorder:
        answer = ask(recorder, question)
        alarm, contract = answer.settings.alarm, answer.session.contract
        summary = Summary(alarm.enter, keep=outputs.plot is not None)
        rows = recorder.rows_of(answer.recorded)
        rules = _Rules()
        with (
            _results(outputs) as files_out,
            click.progressbar(length=rows, label="replay", file=sys.stderr) as progress,
        ):
            for run in answer.runs:
                result = question.span.of(run.result)
                _write(result, *files_out)
                rules.note(result, run.settings)
                summary.enter = run.settings.alarm.enter
                summary.add(result)
                answer.samples.add(run)
                progress.update(run.rows)
        if not summary.streams:
            covered = recorder.covers(answer.recorded, question.stream)
            _notice(_nothing(covered) + (", so no picture" if outputs.plot else ""))
    settings = rules.settings or answer.settings
    written = [path for path in (outputs.scores, outputs.flags) if path is not None]
    if outputs.plot is not None and (readings := answer.samples.readings()):
        written += plot_replay(outputs.plot, readings, summary, contract, settings.alarm)
    return Report(summary, settings, None, written, contract)


class _Rules:
    """The settings that have decided, and the notice where the rule of the alarm changes."""

    def __init__(self) -> None:
        self.settings: Settings | None = None

    def note(self, result: Result, settings: Settings) -> None:
        if not result.scored:
            return
        before, self.settings = self.settings, settings
        if before is not None and before.alarm != settings.alarm:
            at = min(int(scored.ts[0]) for scored in result.scored)
            _notice(f"until {_utc(at)} the rule was another: {_rule(before.alarm)}")


def _nothing(covered: tuple[int, int] | None) -> str:
    if covered is None:
        return "the journal holds no samples of it (see keep_h and max_mb)"
    return f"nothing of that time; the journal holds {_utc(covered[0])} to {_utc(covered[1])} of it"


def _rule(alarm: AlarmConfig) -> str:
    steps = f"{alarm.hold_steps} samples in a row"
    return f"above {alarm.enter:g}, until below {alarm.leave:g}, {steps}"


def require_apart(inputs: Sequence[Path], outputs: Sequence[Path | None]) -> None:
    """Refuses to write over what is read, or two things into one file."""
    taken = {path.resolve(): path for path in inputs}
    for path in outputs:
        if path is None:
            continue
        if path.resolve() in taken:
            raise click.UsageError(f"{path} would be overwritten: choose another file to write to")
        taken[path.resolve()] = path


def _notice(text: str) -> None:
    click.echo(f"note: {text}", err=True)


def _settings(session: Session, gateway: Path | None, streams: int) -> Settings:
    if gateway is None:
        return Settings(max_streams=streams)
    config = load_gateway(gateway)
    for number, pipeline in enumerate(config.pipeline, start=1):
        if load_model(pipeline.model).digest == session.digest:
            where = f"{gateway}: [[pipeline]] {number}"
            problems = misfits(pipeline, session.contract)
            if wrong := [f"{where} {key}: {problem}" for key, problem in problems]:
                raise ConfigError(wrong)
            found = Settings.of(pipeline)
            return replace(found, max_streams=max(streams, found.max_streams))
    raise ConfigError([f"{gateway}: none of its pipelines runs this model"])


def with_alarm(
    settings: Settings, enter: float | None, leave: float | None, hold_steps: int | None
) -> Settings:
    """The options of the command line win over the configuration."""
    alarm = settings.alarm
    top = alarm.enter if enter is None else enter
    if leave is None:  # keep the proportion: a lower threshold must not end above itself
        leave = alarm.leave if enter is None else top * alarm.leave / alarm.enter
    hold = alarm.hold_steps if hold_steps is None else hold_steps
    return replace(settings, alarm=AlarmConfig(enter=top, leave=leave, hold_steps=hold))


def _with_progress(pipeline: Pipeline, readings: list[Readings]) -> Iterator[Result]:
    rows = sum(len(stream.ts) for stream in readings)
    with click.progressbar(length=rows, label="replay", file=sys.stderr) as progress:
        yield from replayed(pipeline, readings, progress.update)


@contextmanager
def _results(outputs: Outputs) -> Iterator[tuple[BinaryIO | None, BinaryIO | None]]:
    try:
        with _lines(outputs.scores) as scores, _lines(outputs.flags) as flags:
            yield scores, flags
    except OSError as error:  # such as a full disk
        raise click.ClickException(f"the results cannot be written: {error.strerror}") from error


@contextmanager
def _lines(path: Path | None) -> Iterator[BinaryIO | None]:
    if path is None:
        yield None
        return
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(replacing(path))
            file = stack.enter_context(temporary.open("wb"))
        except OSError as error:
            reason = f"{path}: cannot be written: {error.strerror}"
            raise click.ClickException(reason) from error
        yield file


def _write(result: Result, scores: BinaryIO | None, flags: BinaryIO | None) -> None:
    if scores is not None:
        for scored in result.scored:
            scores.writelines(encode_score(line) + b"\n" for line in scored.lines())
    if flags is not None:
        flags.writelines(encode_flag(flag) + b"\n" for flag in result.flags)


@dataclass(frozen=True, slots=True)
class Report:
    """What is said at the end."""

    summary: Summary
    settings: Settings
    verdict: Verdict | None
    written: list[Path]
    contract: Contract

    def as_dict(self) -> dict[str, object]:
        """For programs."""
        streams = [
            {
                "stream": s.stream,
                "samples": s.samples,
                "above_threshold": s.above,
                "raised": s.raised,
                "alarm_samples": s.lit,
                "resets": s.resets,
                "unscored": s.unscored,
                "status": dict(s.status),
                "largest_score": None if s.largest is None else s.largest[0],
            }
            for s in self.summary.streams.values()
        ]
        report: dict[str, object] = {
            "schema": 1,
            "streams": streams,
            "rejected": dict(self.summary.rejected),
            "alarm": asdict(self.settings.alarm),
            "look_ahead_ms": self.contract.delay_ms,
            "reorder_ms": self.settings.reorder_ns / NS_PER_MS,
            "held_at_the_end": self.summary.held,
            "files": [str(path) for path in self.written],
        }
        if self.verdict is not None:
            report["labels"] = {
                "events": len(self.verdict.events),
                "detected": self.verdict.detected,
                "lit_before": self.verdict.lit_before,
                "false_alarms": self.verdict.false_alarms,
                "normal_hours": self.verdict.normal_hours,
                "false_alarms_per_hour": self.verdict.false_alarms_per_hour,
                "delays_s": [
                    None if e.delay_ns is None else e.delay_ns / NS_PER_S
                    for e in self.verdict.events
                ],
            }
        return report

    def as_text(self) -> list[str]:
        """For people."""
        streams = list(self.summary.streams.values())
        samples = sum(s.samples for s in streams)
        flagged = [s for s in streams if s.raised]
        lines = [
            f"{samples} samples of {len(streams)} streams; "
            f"{sum(s.raised for s in streams)} alarms on {len(flagged)} streams "
            f"({_rule(self.settings.alarm)})"
        ]
        if self.summary.rejected:
            causes = ", ".join(f"{n} {cause}" for cause, n in self.summary.rejected.most_common())
            lines.append(f"rejected: {causes}")
        lines += self._look_ahead()
        lines += self._warnings()
        width = max((len(s.stream) for s in streams), default=0)
        for s in sorted(streams, key=lambda s: -s.raised)[:MAX_LINES]:
            peak = (
                "" if s.largest is None else f"largest {s.largest[0]:.3g} at {_utc(s.largest[1])}"
            )
            lines.append(
                f"  {s.stream:{width}}  {s.samples:8} samples  {s.raised:4} alarms  "
                f"{s.lit / max(1, s.samples):6.1%} lit  {peak}"
            )
        if len(streams) > MAX_LINES:
            lines.append(f"  ... and {len(streams) - MAX_LINES} more streams")
        lines += self._labels()
        lines += [f"wrote {path}" for path in self.written]
        return lines

    def _look_ahead(self) -> Iterable[str]:
        """Which samples have no score, and how late the others come."""
        ahead = self.contract.look_ahead
        if ahead:
            streams, held = self.summary.streams.values(), self.summary.held
            yield (
                f"looks {ahead} samples ahead: a score stands at the time of its sample and comes "
                f"{self.contract.delay_ms:g} ms later; {sum(s.unscored for s in streams) - held} "
                f"samples have none, up to {ahead} at the end of each stream and before each reset"
            )
        if self.settings.reorder_ns:
            yield (
                f"waits {self.settings.reorder_ns / NS_PER_MS:g} ms for late samples: scores come "
                f"{self.settings.delay_of(self.contract):g} ms late at least; "
                f"{self.summary.held} samples still wait at the end"
            )

    def _warnings(self) -> Iterable[str]:
        """What makes the rest of the summary worth less than it looks."""
        streams = self.summary.streams.values()
        scored, refused = sum(s.samples for s in streams), self.summary.rejected.total()
        lost = refused + sum(s.unscored for s in streams)
        if lost > MANY * (scored + lost):
            yield f"WARNING: {lost / (scored + lost):.0%} of the samples were not scored"
        late = self.summary.rejected["late"] + self.summary.rejected["duplicate"]
        if late > MANY * (scored + refused):
            yield (
                "  late, duplicate: not after the one before; if a file holds several machines, "
                "name the column that tells them apart with --stream-column"
            )
        for s in streams:
            judged = s.status["ok"]
            if judged < s.samples * (1 - MANY):
                others = ((name, n) for name, n in s.status.items() if name != "ok")
                why = ", ".join(f"{n} {name}" for name, n in others)
                yield (
                    f"WARNING: {s.stream}: only {judged} of {s.samples} samples could raise an "
                    f"alarm: {why}; it started afresh {s.resets} times after a gap"
                )

    def _labels(self) -> Iterable[str]:
        verdict = self.verdict
        if verdict is None:
            return
        delays = sorted(e.delay_ns for e in verdict.events if e.delay_ns is not None)
        median = f", median delay {delays[len(delays) // 2] / NS_PER_S:g} s" if delays else ""
        blind = f"; lit already before {verdict.lit_before}" if verdict.lit_before else ""
        late = self.settings.delay_of(self.contract)
        reasons = ["the look-ahead"] if self.contract.look_ahead else []
        reasons += ["late samples"] if self.settings.reorder_ns else []
        if delays and reasons:
            median += f", and {late / MS_PER_S:g} s more for {' and '.join(reasons)}"
        yield f"labels: {verdict.detected} of {len(verdict.events)} events detected{median}{blind}"
        yield (
            f"        {verdict.false_alarms} false alarms in {verdict.normal_hours:.2f} normal "
            f"hours, {verdict.false_alarms_per_hour:.2f} an hour"
        )


def _utc(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns / NS_PER_S, UTC):%Y-%m-%d %H:%M:%SZ}"
