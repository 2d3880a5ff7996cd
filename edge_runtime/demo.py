"""`andon demo`: train, export, broker, daemon, machines and flags, each as a user would run it.

Every step is the real command in a process of its own. Nothing is faked but the pump.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from edge_runtime.broker import local_broker
from edge_runtime.config import BrokerConfig
from edge_runtime.errors import AndonError
from edge_runtime.files import write_text
from edge_runtime.link import Subscriber

MACHINES = 4
SICK = "pump-3"
HISTORY_START, HISTORY_HOURS = "2026-01-05T06:00:00Z", 24
LIVE_START, LIVE_HOURS = "2026-01-07T07:00:00Z", 1
EPOCHS = 12
FAULT = f"{SICK}:bearing_wear:onset=1800,severity=0.8,ramp=600"
PATIENCE_S = 120.0

GATEWAY = """\
# Written by `andon demo`.
[broker]
url = "{url}"
client_id = "demo-gateway"
protocol = "{protocol}"

[state]
path = "gateway.db"

[[pipeline]]
model = "pump.onnx"
topic = "demo/{{machine}}/telemetry"
stream = "{{machine}}"
publish = "andon/{{machine}}/anomaly"
emit = "scores"
"""


@dataclass(slots=True)
class Seen:
    """What came from the gateway.

    Attributes:
        scores: Score, status and alarm by stream and time.
        flags: By id, in order: after a kill some are said again.
        killed: The daemon was killed in between.
    """

    scores: dict[tuple[str, float], tuple[float, str, bool]] = field(default_factory=dict)
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    killed: bool = False


@click.command(epilog="Example: andon demo -o demo-out")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for everything that the demo writes.",
)
@click.option(
    "--embedded-broker", is_flag=True, help="Use amqtt even where mosquitto is installed."
)
def demo(output: Path, *, embedded_broker: bool) -> None:
    """Show all of Andon on this computer: train, export, broker, daemon, machines, flags.

    In the middle the daemon is killed and started again. Exits with 0 only if the sick machine was
    flagged, no healthy one was, and the replay of the same samples gave the same scores, bit for
    bit. The data is simulated.
    """
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    click.echo("The data of this demo is simulated: a loop of pumps, one of which falls ill.\n")
    _step("1  a healthy day of 4 pumps")
    _andon(output, "simulate", "-o", "history.csv", "--hours", str(HISTORY_HOURS),
           "--machines", str(MACHINES), "--start", HISTORY_START)  # fmt: skip
    _step("2  train a recurrent detector on it")
    _andon(output, "train", "history.csv", "-o", "run", "--stream-column", "machine", "--force",
           "--detector", "forecast", "--hidden", "32", "--epochs", str(EPOCHS))  # fmt: skip
    _step("3  export it as one verified ONNX file")
    _andon(output, "export", "run", "-o", "pump.onnx")
    _step(f"4  watch the pumps live; {SICK} develops a worn bearing after half an hour")
    seen = _watch(output, embedded=embedded_broker)
    _step("5  replay the same hour offline and draw it")
    replayed = _replay(output)
    _step("6  ask what led to the first flag")
    if seen.flags:
        _andon(output, "explain", "gateway.db", next(iter(seen.flags))[:8], "--samples", "4")
    _conclude(output, seen, replayed, time.monotonic() - started)


def _watch(output: Path, *, embedded: bool) -> Seen:
    """Runs broker, daemon and machines until every sample has been scored."""
    live = ["--hours", str(LIVE_HOURS), "--machines", str(MACHINES), "--fault", FAULT,
            "--start", LIVE_START]  # fmt: skip
    _andon(output, "simulate", "-o", "live.csv", "--label", *live)
    expected = LIVE_HOURS * 3600 * MACHINES
    for left in (*output.glob("gateway.db*"), *output.glob("gateway.log")):
        left.unlink()  # the machines begin anew, and so does what is remembered of them
    with local_broker(output, embedded=embedded) as broker:
        click.echo(f"   {broker.name} at {broker.url}")
        config = GATEWAY.format(url=broker.url, protocol=broker.protocol)
        write_text(output / "gateway.toml", config)
        _andon(output, "check", "gateway.toml")
        listen = BrokerConfig(url=broker.url, client_id="demo-listener", protocol=broker.protocol)
        topics = ["andon/+/anomaly", "andon/demo-gateway/status"]
        seen = Seen()
        with Subscriber(listen, topics) as subscriber:
            messages = subscriber.messages(timeout_s=PATIENCE_S)
            with _daemon(output) as daemon:
                _await_online(messages)
                with _background(output, "simulate", "--broker", broker.url, "--protocol",
                                 broker.protocol, "--topic", "demo/{machine}/telemetry",
                                 "--speed", "max", *live):  # fmt: skip
                    if broker.name == "mosquitto":  # amqtt forgets the session
                        _collect(messages, seen, expected // 5)
                        click.echo("\r   $ kill -9 %andon            # in the middle of it")
                        daemon.kill()
                        daemon.wait()
                        seen.killed = True
                        with _daemon(output):
                            return _collect(messages, seen, expected)
                    return _collect(messages, seen, expected)


def _await_online(messages: Iterator[tuple[str, bytes, bool]]) -> None:
    for topic, payload, _ in messages:
        if topic.endswith("/status") and payload == b"online":
            return
    raise AndonError(f"the daemon did not come online within {PATIENCE_S:g} s")


def _collect(messages: Iterator[tuple[str, bytes, bool]], seen: Seen, expected: int) -> Seen:
    """Prints flags as they come, until so many samples have been scored."""
    with click.progressbar(length=expected, label="   live", file=sys.stderr) as progress:
        progress.update(len(seen.scores))
        for topic, payload, _ in messages:
            if topic.endswith("/status"):
                continue
            message = json.loads(payload)
            if "event" in message:
                if message["id"] not in seen.flags:
                    click.echo(f"\r{_flag_line(message)}")
                seen.flags[message["id"]] = message
                continue
            key = message["stream"], message["ts"]
            progress.update(key not in seen.scores)
            seen.scores[key] = message["score"], message["status"], message["alarm"]
            if len(seen.scores) == expected:
                return seen
    raise AndonError(
        f"only {len(seen.scores)} of {expected} samples were scored within {PATIENCE_S:g} s "
        "of the last one"
    )


def _flag_line(flag: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(flag["ts"] / 1000, UTC)
    why = ", ".join(f"{share['feature']} {share['share']:.0%}" for share in flag["top"])
    mark = "ANDON ON " if flag["event"] == "raised" else "andon off"
    return (
        f"   {when:%H:%M:%S}  {mark}  {flag['stream']}  score {flag['score']:.2f}  because of {why}"
    )


def _replay(output: Path) -> dict[tuple[str, float], tuple[float, str, bool]]:
    _andon(output, "replay", "pump.onnx", "live.csv", "--stream-column", "machine", "--scores",
           "scores.jsonl", "--flags", "flags.jsonl", "--plot", "demo.png", "--label",
           "anomaly")  # fmt: skip
    lines = (output / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        (line["stream"], line["ts"]): (line["score"], line["status"], line["alarm"])
        for line in map(json.loads, lines)
    }


def _conclude(
    output: Path,
    seen: Seen,
    replayed: dict[tuple[str, float], tuple[float, str, bool]],
    seconds: float,
) -> None:
    flags = seen.flags.values()
    flagged = sorted({str(flag["stream"]) for flag in flags if flag["event"] == "raised"})
    same = seen.scores == replayed
    right = flagged == [SICK]
    click.echo()
    click.echo(f"sick machine     {SICK}")
    click.echo(f"flagged          {', '.join(flagged) or 'none'}   {_verdict(good=right)}")
    click.echo(f"live = replay    {len(replayed)} scores compared with ==   {_verdict(good=same)}")
    if seen.killed:
        click.echo("                 although the daemon was killed in between")
    click.echo(f"took             {seconds:.0f} s")
    pictures = [output / "demo.png", output / f"demo-{SICK}.png"]
    pictures += [output / f"flag-{flag[:8]}.png" for flag in list(seen.flags)[:1]]
    click.echo(f"look at          {', '.join(map(str, pictures))}")
    click.echo(
        "\nThis was simulated data. On your own:\n"
        "  andon train history.csv -o run\n"
        "  andon export run -o model.onnx\n"
        "  andon replay model.onnx tuesday.csv --plot tuesday.png\n"
        f"  andon run gateway.toml          (like {output / 'gateway.toml'})"
    )
    if not (right and same):
        sys.exit(1)


def _verdict(*, good: bool) -> str:
    return "right" if good else "WRONG"


def _step(title: str) -> None:
    click.secho(f"\n{title}", bold=True)


def _command_of(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "edge_runtime", *arguments]


def _andon(folder: Path, *arguments: str) -> None:
    """Runs one of our commands as a user would, and says which."""
    click.echo(f"   $ andon {shlex.join(arguments)}")
    done = subprocess.run(_command_of(arguments), cwd=folder, check=False)  # noqa: S603 - our own
    if done.returncode:
        raise AndonError(f"`andon {arguments[0]}` ended with exit code {done.returncode}")


@contextmanager
def _daemon(folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """The gateway as a real process, ended by SIGTERM as a service manager would, or killed."""
    click.echo("   $ andon run gateway.toml &")
    with (
        (folder / "gateway.log").open("ab") as log,
        subprocess.Popen(_command_of(("run", "gateway.toml")), cwd=folder, stderr=log) as process,  # noqa: S603
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            code = process.wait()
    if code not in (0, -signal.SIGKILL):
        raise AndonError(f"the daemon ended with exit code {code}; see {folder / 'gateway.log'}")


@contextmanager
def _background(folder: Path, *arguments: str) -> Iterator[None]:
    click.echo(f"   $ andon {shlex.join(arguments)} &")
    with (
        (folder / "machines.log").open("wb") as log,
        subprocess.Popen(_command_of(arguments), cwd=folder, stderr=log) as process,  # noqa: S603
    ):
        try:
            yield
        finally:
            if process.poll() is None:
                process.terminate()
