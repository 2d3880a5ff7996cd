"""`andon check` and `andon run`."""

import logging
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import click

from edge_runtime.config import GatewayConfig, load_gateway
from edge_runtime.daemon import run_gateway
from edge_runtime.errors import (
    BrokerError,
    ConfigError,
    ModelError,
    StoreError,
    StoreInUseError,
    StoreRefusedError,
)
from edge_runtime.lineage import lineages_of
from edge_runtime.recorder import Recorder
from edge_runtime.routes import Route, load_routes
from edge_runtime.session import load_model
from edge_runtime.settings import too_late

NEEDS_SOMEBODY = 78
"""Exit code for what another start cannot mend: EX_CONFIG of sysexits.h, known to systemd."""


class _Refused(click.ClickException):
    exit_code = NEEDS_SOMEBODY


@click.command(epilog="Example: andon check gateway.toml")
@click.argument("gateway", type=click.Path(path_type=Path))
def check(gateway: Path) -> None:
    """Name every error of the configuration GATEWAY at once.

    Reads the file, loads every model, runs its golden vectors and looks at the database. Exits with
    1 if `andon run` would refuse any of it; does not talk to the broker.
    """
    config, routes = _load(gateway)
    found = _found(config, routes)
    click.echo(f"{gateway}: good")
    broker = config.broker
    click.echo(f"  broker   {broker.url} as {broker.client_id}, MQTT {broker.protocol}")
    for pipeline, route in zip(config.pipeline, routes, strict=True):
        contract = route.pipeline.session.contract
        features = ", ".join(contract.feature_names)
        click.echo(f"  pipeline {pipeline.topic} -> {pipeline.publish}")
        click.echo(f"           {pipeline.model.name}: {features}")
        reasons = [f"looks {contract.look_ahead} samples ahead"] if contract.look_ahead else []
        if pipeline.reorder_ms:
            reasons.append(f"waits {pipeline.reorder_ms:g} ms for late samples")
        if reasons:
            delay = route.pipeline.settings.delay_of(contract)
            more = ", or until the sample after that" if pipeline.reorder_ms else ""
            click.echo(f"           {', '.join(reasons)}: each score comes {delay:g} ms late{more}")
    click.echo(f"  state    {found}")


@click.command(epilog="Example: andon run gateway.toml")
@click.argument("gateway", type=click.Path(path_type=Path))
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much to say on standard error.",
)
def run(gateway: Path, log_level: str) -> None:
    """Run the daemon that the configuration GATEWAY describes, until SIGTERM or Ctrl-C.

    It subscribes to the sensor topics, carries every stream's state, and publishes flags. At the
    end it finishes what was received, publishes and acknowledges it, and leaves the broker's
    session in place, so that what arrives meanwhile is delivered at the next start.

    The exit code is 0 after that, 1 if something could not be handed over or made safe, 78 if
    somebody has to mend the configuration, a model or the database first.
    """
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    try:
        config, routes = _load(gateway)
        sys.exit(run_gateway(config, routes))
    except StoreInUseError:
        raise
    except (ConfigError, BrokerError, StoreRefusedError) as error:
        raise _Refused(str(error)) from error


def _found(config: GatewayConfig, routes: Sequence[Route]) -> str:
    """What `andon run` will find in the database, and what it will keep there.

    Raises:
        AndonError: If it would refuse the database.
    """
    state = config.state
    rules = f"synchronous {state.synchronous}, {state.max_mb} MB and {state.keep_h:g} h at most"
    if not state.path.exists():
        return f"{state.path.name}: will be made; {rules}"
    try:
        with Recorder(state.path) as recorder:
            keys = ((r.pipeline.session.digest, r.config.topic, r.config.stream) for r in routes)
            found = list(map(recorder.streams_of, lineages_of(keys)))
            text = f"{state.path.name}: {recorder.summary()}; {rules}"
    except StoreRefusedError:
        raise
    except StoreError as error:
        return f"{error}; {rules}"
    if problems := [
        f"[[pipeline]] {number} max_streams: wanted {streams} at least, which {state.path} holds; "
        f"got {pipeline.max_streams}"
        for number, (streams, pipeline) in enumerate(zip(found, config.pipeline, strict=True), 1)
        if streams > pipeline.max_streams
    ]:
        raise ConfigError(problems)
    return text


def _load(path: Path) -> tuple[GatewayConfig, list[Route]]:
    """The configuration with its models, or every error of both."""
    try:
        config = load_gateway(path)
    except ConfigError as error:
        raise ConfigError([*error.problems, *_model_problems(path)]) from error
    try:
        return config, load_routes(config)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error


def _model_problems(path: Path) -> list[str]:
    """What is wrong with the models of a configuration that has errors of its own."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("pipeline", [])
    except (OSError, ValueError):
        return []  # said already
    problems = []
    for number, table in enumerate(tables if isinstance(tables, list) else [], start=1):
        name = table.get("model") if isinstance(table, dict) else None
        model = path.parent / name if isinstance(name, str) else None
        if model is not None and model.is_file():
            try:
                contract = load_model(model).contract
            except ModelError as error:
                problem: str | None = str(error)
            else:
                delays = (_delay(table.get(key)) for key in ("max_delay_ms", "reorder_ms"))
                problem = too_late(contract, *delays)
            if problem:
                problems.append(f"{path}: [[pipeline]] {number} model: {problem}")
    return problems


def _delay(value: object) -> float | None:
    """A time of a table that may hold anything."""
    return value if isinstance(value, int | float) and value >= 0 else None
