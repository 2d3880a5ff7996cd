"""`andon replay`: recorded files through the gateway's own pipeline."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from edge_runtime.columns import Layout
from edge_runtime.config import AlarmConfig, load_gateway
from edge_runtime.contract import Contract
from edge_runtime.errors import ConfigError
from edge_runtime.files import replacing
from edge_runtime.payload import NS_PER_MS, encode_flag, encode_score
from edge_runtime.pipeline import Pipeline, Settings
from edge_runtime.plot import plot_replay
from edge_runtime.recorded import read_streams
from edge_runtime.replay import Readings, readings_of
from edge_runtime.replay import replay as replayed
from edge_runtime.results import Result
from edge_runtime.session import Session, load_model
from edge_runtime.summary import Summary, Verdict, judge

NS_PER_S = 1_000_000_000
MS_PER_S = 1_000
MAX_LINES = 30
MANY = 0.2  # of the samples


@click.command(
    epilog="Example: andon replay pump.onnx tuesday.csv --scores scores.jsonl --plot tuesday.png"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
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
@click.option("--period-ms", type=float, help="Sample period of a file without a time column.")
@click.option("--delimiter", help="Between the cells of a CSV file; found by itself.")
@click.option(
    "--gateway",
    type=click.Path(path_type=Path),
    help="Take alarm and gap settings from the pipeline of this gateway that runs the model.",
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
    model: Path,
    files: tuple[Path, ...],
    scores: Path | None,
    flags: Path | None,
    plot: Path | None,
    label: str | None,
    time_column: str | None,
    stream_column: str | None,
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
    """
    _require_apart([model, *files, *([gateway] if gateway else [])], [scores, flags, plot])
    session = load_model(model)
    layout = Layout(
        time_column=time_column,
        stream_column=stream_column,
        period_ms=period_ms,
        delimiter=delimiter,
    )
    recorded = read_streams(files, layout, on_notice=_notice)
    readings = readings_of(recorded, session.contract, label, _notice)
    settings = _settings(session, gateway, len(readings))
    settings = _with_alarm(settings, enter, leave, hold_steps)
    pipeline = Pipeline(session, settings)
    summary = Summary(settings.alarm.enter, keep=plot is not None or label is not None)
    with _lines(scores) as score_file, _lines(flags) as flag_file:
        for result in _with_progress(pipeline, readings):
            _write(result, score_file, flag_file)
            summary.add(result)
    summary.end(pipeline.waiting())
    verdict = None
    if label is not None:
        verdict = judge(readings, summary, round(session.contract.sample_period_ms * NS_PER_MS))
    written = [path for path in (scores, flags) if path is not None]
    if plot is not None:
        written += plot_replay(plot, readings, summary, session.contract, settings.alarm)
    report = Report(summary, settings.alarm, verdict, written, session.contract)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        click.echo("\n".join(report.as_text()), err=True)


def _require_apart(inputs: Sequence[Path], outputs: Sequence[Path | None]) -> None:
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
    for pipeline in config.pipeline:
        if load_model(pipeline.model).digest == session.digest:
            found = Settings.of(pipeline)
            return replace(found, max_streams=max(streams, found.max_streams))
    raise ConfigError([f"{gateway}: none of its pipelines runs this model"])


def _with_alarm(
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
def _lines(path: Path | None) -> Iterator[BinaryIO | None]:
    if path is None:
        yield None
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
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
    alarm: AlarmConfig
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
            "alarm": asdict(self.alarm),
            "look_ahead_ms": self.contract.delay_ms,
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
            f"(above {self.alarm.enter:g}, until below {self.alarm.leave:g}, "
            f"{self.alarm.hold_steps} samples in a row)"
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
            streams = self.summary.streams.values()
            yield (
                f"looks {ahead} samples ahead: a score stands at the time of its sample and comes "
                f"{self.contract.delay_ms:g} ms later; {sum(s.unscored for s in streams)} samples "
                f"have none, up to {ahead} at the end of each stream and before each reset"
            )

    def _warnings(self) -> Iterable[str]:
        """What makes the rest of the summary worth less than it looks."""
        streams = self.summary.streams.values()
        scored, refused = sum(s.samples for s in streams), self.summary.rejected.total()
        lost = refused + sum(s.unscored for s in streams)
        if lost > MANY * (scored + lost):
            yield f"WARNING: {lost / (scored + lost):.0%} of the samples were not scored"
        if self.summary.rejected["late"] > MANY * (scored + refused):
            yield (
                "  late: their time is not after the one before; if a file holds several machines, "
                "name the column that tells them apart with --stream-column"
            )
        for s in streams:
            judged = s.status["ok"]
            if judged < s.samples * (1 - MANY):
                yield (
                    f"WARNING: {s.stream}: only {judged} of {s.samples} samples could raise an "
                    f"alarm; it started afresh {s.resets} times after a gap"
                )

    def _labels(self) -> Iterable[str]:
        verdict = self.verdict
        if verdict is None:
            return
        delays = sorted(e.delay_ns for e in verdict.events if e.delay_ns is not None)
        median = f", median delay {delays[len(delays) // 2] / NS_PER_S:g} s" if delays else ""
        blind = f"; lit already before {verdict.lit_before}" if verdict.lit_before else ""
        if delays and self.contract.look_ahead:
            median += f", and {self.contract.delay_ms / MS_PER_S:g} s more for the look-ahead"
        yield f"labels: {verdict.detected} of {len(verdict.events)} events detected{median}{blind}"
        yield (
            f"        {verdict.false_alarms} false alarms in {verdict.normal_hours:.2f} normal "
            f"hours, {verdict.false_alarms_per_hour:.2f} an hour"
        )


def _utc(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns / NS_PER_S, UTC):%Y-%m-%d %H:%M:%SZ}"
