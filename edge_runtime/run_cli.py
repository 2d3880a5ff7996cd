"""`andon check` and `andon run`."""

import logging
import sys
import time
import tomllib
from pathlib import Path

import click

from edge_runtime.config import GatewayConfig, load_gateway
from edge_runtime.daemon import Route, check_delay, load_routes, run_gateway
from edge_runtime.errors import ConfigError, ModelError
from edge_runtime.session import load_model


@click.command(epilog="Example: andon check gateway.toml")
@click.argument("gateway", type=click.Path(path_type=Path))
def check(gateway: Path) -> None:
    """Name every error of the configuration GATEWAY at once.

    Reads the file, loads every model and runs its golden vectors. Exits with 1 if `andon run` would
    refuse it; does not talk to the broker.
    """
    config, routes = _load(gateway)
    click.echo(f"{gateway}: good")
    broker = config.broker
    click.echo(f"  broker   {broker.url} as {broker.client_id}, MQTT {broker.protocol}")
    for pipeline, route in zip(config.pipeline, routes, strict=True):
        contract = route.pipeline.session.contract
        features = ", ".join(contract.feature_names)
        click.echo(f"  pipeline {pipeline.topic} -> {pipeline.publish}")
        click.echo(f"           {pipeline.model.name}: {features}")
        if contract.look_ahead:
            ahead = f"looks {contract.look_ahead} samples ahead"
            click.echo(f"           {ahead}: each score comes {contract.delay_ms:g} ms late")
    click.echo(
        "  note     streams' states are kept in memory: after a restart they warm up again",
        err=True,
    )


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
    """
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    config, routes = _load(gateway)
    sys.exit(run_gateway(config, routes))


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
                delay = table.get("max_delay_ms")
                check_delay(contract, delay if type(delay) in (int, float) and delay >= 0 else None)
            except ModelError as error:
                problems.append(f"{path}: [[pipeline]] {number} model: {error}")
    return problems
