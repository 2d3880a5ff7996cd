"""`andon simulate`: pumps that are not there, as a CSV file or live over MQTT.

    speed_rpm       rpm     follows the demand: steps and ramps over minutes, busier by day
    current_a       A       motor current
    flow_m3h        m3/h    at the pump
    pressure_bar    bar     behind the pump
    motor_temp_c    degC    winding, time constant 15 minutes
    bearing_temp_c  degC    pump end, time constant 8 minutes
    vibration_mm_s  mm/s    RMS at the bearing

`edge_runtime.pump` holds the physics, `edge_runtime.simulated` all else that needs no file and no
broker. File and payload print the same digits, so both read back to the same numbers.
"""

import math
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any, Protocol

import click

from edge_runtime.config import BrokerConfig
from edge_runtime.errors import ConfigError, PayloadError
from edge_runtime.faults import AFFECTED, Fault, parse_fault
from edge_runtime.payload import NS_PER_MS, parse_ts
from edge_runtime.simulated import (
    NS_PER_S,
    Message,
    Progress,
    Simulated,
    machine_names,
    messages,
    simulate_machine,
    write_csv,
)
from edge_runtime.tables import show
from edge_runtime.topics import Template


class Outlet(Protocol):
    """What `publish` needs of `edge_runtime.link.Publisher`."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Sends a message; waits while too many are on their way."""


def publish(
    outlet: Outlet,
    source: Iterable[Message],
    *,
    speed: float,
    stop: Event,
    progress: Progress,
) -> int:
    """Publishes messages when they are due.

    Args:
        outlet: Where they go.
        source: The messages, in the order of their time.
        speed: Seconds of their clock for each second of ours; 0: as fast as the broker takes them.
        stop: Set to end early.
        progress: Told the number of messages whenever some are sent.

    Returns:
        How many were sent.
    """
    sent = 0
    begin = time.monotonic()
    for message in source:
        if speed:
            early = begin + message.due_s / speed - time.monotonic()
            if early > 0:
                stop.wait(early)
        if stop.is_set():
            break
        outlet.publish(message.topic, message.payload)
        sent += 1
        progress(1)
    return sent


FIRST_SAMPLE = "2026-01-05T06:00:00Z"
"""Where files start unless told otherwise, so that the same command gives the same file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """The command line, in the order of its options."""

    output: str | None
    broker: str | None
    topic: str
    hours: float
    machines: int
    period_s: float
    seed: int
    start: str | None
    fault: tuple[str, ...]
    label: bool
    speed: float
    protocol: str
    user: str
    password_file: Path | None
    ca: Path | None
    cert: Path | None
    key: Path | None

    @property
    def names(self) -> tuple[str, ...]:
        return machine_names(self.machines)

    @property
    def whom(self) -> str:
        """The machines, for people."""
        return " to ".join(dict.fromkeys((self.names[0], self.names[-1])))

    @property
    def rows(self) -> int:
        return round(self.hours * 3600 / self.period_s)


def _finite(_: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"wanted a number, got {value}", param=parameter)
    return value


def _speed(_: click.Context, parameter: click.Parameter, value: str) -> float:
    """``max`` and 0 are the same."""
    try:
        speed = 0.0 if value == "max" else float(value)
    except ValueError:
        speed = math.nan
    if not (math.isfinite(speed) and speed >= 0):
        message = f"wanted 0 or more, or max, got {value!r}"
        raise click.BadParameter(message, param=parameter)
    return speed


_FILE = click.Path(path_type=Path)


@click.command(
    epilog="Examples: andon simulate -o history.csv --hours 6 --machines 3   |   "
    "andon simulate --broker mqtt://127.0.0.1 --speed 60 --fault pump-1:leak:onset=600"
)
@click.option("-o", "--output", metavar="FILE|DIR/", help="A CSV file, or a folder: one each.")
@click.option("--broker", metavar="URL", help="Publish live to mqtt://host:port (or mqtts://).")
@click.option(
    "--topic",
    default="factory/line1/{machine}/telemetry",
    show_default=True,
    help="Where each machine publishes.",
)
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True, max=1e6),
    default=6.0,
    show_default=True,
    callback=_finite,
    help="How long each machine is simulated.",
)
@click.option("--machines", type=click.IntRange(1, 10_000), default=1, show_default=True)
@click.option(
    "--period-s",
    type=click.FloatRange(min=0.001, max=86_400),
    default=1.0,
    show_default=True,
    callback=_finite,
    help="Seconds between two samples of a machine; whole milliseconds.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--start",
    metavar="ISO8601",
    help=f"Time of the first sample. By default {FIRST_SAMPLE} in a file; live, now, or with "
    "--speed above 1 so much earlier that no sample lies in the future.",
)
@click.option(
    "--fault",
    multiple=True,
    metavar="MACHINE:FAULT:onset=S[,severity=0..1][,ramp=S][,sensor=NAME]",
    help=f"One of {', '.join(AFFECTED)}; may be given again.",
)
@click.option("--label", is_flag=True, help="Add a column anomaly: 1 from a fault's onset on.")
@click.option(
    "--speed",
    default="1",
    show_default=True,
    callback=_speed,
    help="Live: how much faster than real time; max (or 0) is as fast as the broker takes it.",
)
@click.option("--protocol", type=click.Choice(["5", "3.1.1"]), default="5", show_default=True)
@click.option("--user", default="", help="Broker user; or the variable ANDON_MQTT_USER.")
@click.option("--password-file", type=_FILE, help="Its password; or ANDON_MQTT_PASSWORD.")
@click.option("--ca", type=_FILE, help="Certificate authority of an mqtts:// broker (PEM).")
@click.option("--cert", type=_FILE, help="Client certificate (PEM).")
@click.option("--key", type=_FILE, help="Its private key (PEM).")
def simulate(**given: Any) -> None:  # noqa: ANN401 - click passes the fields of _Request
    """Simulate pumps, with faults on request, into a CSV file or live over MQTT.

    Each pump (pump-1, pump-2, ...) is a little different. The same seed and start give the same
    numbers; the same seed with another start gives the same pumps on another day.

    Live, a message is {"ts": ms, "values": {...}}, QoS 1. Ctrl-C ends it cleanly: it waits until
    the broker has acknowledged everything.
    """
    request = _Request(**given)
    faults = _faults(request)
    if request.broker is None:
        _write(request, faults)
    else:
        _publish_live(request, faults)


def _faults(request: _Request) -> list[Fault]:
    """The faults asked for.

    Raises:
        ConfigError: With everything that is wrong with the command line.
    """
    problems = list(_problems(request))
    faults = []
    for text in request.fault:
        try:
            fault = parse_fault(text)
        except ConfigError as error:
            problems += [f"--fault {problem}" for problem in error.problems]
            continue
        faults.append(fault)
        if fault.machine not in request.names:
            there = f"--machines {request.machines} gives {request.whom}"
            problems.append(f"--fault {show(text)}: no machine {show(fault.machine)}, {there}")
        if fault.onset_s >= request.hours * 3600:
            end = f"the simulation ends after {request.hours * 3600:g} s"
            problems.append(f"--fault {show(text)}: {end}, before its onset")
    if problems:
        raise ConfigError(problems)
    return faults


def _problems(request: _Request) -> Iterator[str]:
    if (request.output is None) == (request.broker is None):
        came = "neither" if request.output is None else "both"
        yield f"wanted either -o FILE or --broker URL, got {came}"
    if request.label and request.broker is not None:
        yield "--label is for files: a machine does not know that it is ill"
    yield from (f"--topic {problem}" for problem in _topic_problems(request))


def _topic_problems(request: _Request) -> Iterator[str]:
    try:
        template = Template(request.topic)
    except ConfigError as error:
        yield from error.problems
        return
    yield from (f"{show(request.topic)}: {problem}" for problem in template.unknown(["machine"]))
    if request.machines > 1 and "machine" not in template.names:
        yield f"{show(request.topic)}: wanted {{machine}} in it to tell {request.machines} apart"


def _start_ns(request: _Request) -> int:
    """Time of the first sample, whole milliseconds."""
    if request.start is None and request.broker is not None:
        simulated_s = request.hours * 3600
        head_start_s = simulated_s - (simulated_s / request.speed if request.speed else 0.0)
        now = time.time_ns() - round(max(0.0, head_start_s) * NS_PER_S)
        return now // NS_PER_MS * NS_PER_MS
    text = request.start or FIRST_SAMPLE
    try:
        return parse_ts(text) // NS_PER_MS * NS_PER_MS
    except PayloadError as error:
        wanted = f"--start: wanted ISO 8601 from 1970 to 2262, as {FIRST_SAMPLE}"
        raise ConfigError([f"{wanted}, got {show(text)}"]) from error


def _parts(request: _Request, faults: Sequence[Fault]) -> Iterator[tuple[str, Simulated]]:
    """One machine after the other, simulated when it is its turn."""
    start_ns = _start_ns(request)
    for name in request.names:
        yield (
            name,
            simulate_machine(
                name,
                rows=request.rows,
                start_ns=start_ns,
                period_s=request.period_s,
                seed=request.seed,
                faults=faults,
            ),
        )


def _write(request: _Request, faults: Sequence[Fault]) -> None:
    total = request.rows * request.machines
    try:
        with _bar(total, "writing") as progress:
            _write_files(request, faults, progress)
    except OSError as error:
        message = f"{request.output}: cannot be written: {error.strerror}"
        raise ConfigError([message]) from error
    click.echo(f"wrote {request.output}: {total:,} samples of {request.whom}", err=True)


def _write_files(request: _Request, faults: Sequence[Fault], progress: Progress) -> None:
    output = request.output or ""
    parts = _parts(request, faults)
    if not output.endswith("/") and not Path(output).is_dir():
        write_csv(Path(output), parts, label=request.label, progress=progress)
        return
    for part in parts:
        write_csv(
            Path(output, f"{part[0]}.csv"),
            [part],
            machine_column=False,
            label=request.label,
            progress=progress,
        )


def _publish_live(request: _Request, faults: Sequence[Fault]) -> None:
    from edge_runtime.link import Publisher

    config = BrokerConfig(
        url=request.broker or "",
        client_id="andon-simulate",
        protocol="5" if request.protocol == "5" else "3.1.1",
        user=request.user,
        password_file=request.password_file,
        ca=request.ca,
        cert=request.cert,
        key=request.key,
    )
    parts = list(_parts(request, faults))
    total = request.rows * request.machines
    with (
        _stop_on_signal() as stop,
        Publisher(config) as publisher,
        _bar(total, "publishing") as progress,
    ):
        sent = publish(
            publisher,
            messages(parts, request.topic),
            speed=request.speed,
            stop=stop,
            progress=progress,
        )
    early = "" if sent == total else f" of {total:,}, then stopped as asked"
    click.echo(f"sent {sent:,} messages{early}; the broker acknowledged all sent", err=True)


@contextmanager
def _bar(total: int, label: str) -> Iterator[Progress]:
    steps = max(1, total // 200)
    with click.progressbar(
        length=total, label=label, file=sys.stderr, update_min_steps=steps
    ) as bar:
        yield bar.update


@contextmanager
def _stop_on_signal() -> Iterator[Event]:
    """Ctrl-C or SIGTERM sets the event; a second one ends the process as it always would."""
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal calls it
        stop.set()
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
