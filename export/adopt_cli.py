"""`andon adopt`: a contract for a stateful ONNX file that was made elsewhere."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from edge_runtime.axes import TIME, Axes
from edge_runtime.errors import AdoptError
from export.adopt import Adopted
from export.adopt import adopt as adopted
from export.adopt_file import Foreign, Request, listing, read_foreign, suggestion

Value = TypeVar("Value")
DEFAULT_PERIOD_MS = 1000.0


@click.command(
    epilog="Example: andon adopt vad.onnx --input input --state state=stateN --constant sr=16000 "
    "--features 576 --score output -o adopted.onnx"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--input", "x", help="Input that takes the samples.")
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="INPUT=OUTPUT",
    help="A carried tensor: the input that takes it and the output with its successor; repeatable.",
)
@click.option("--score", help="Output with the score.")
@click.option("--contribution", help="Output with each sensor's share; its axes are those of x.")
@click.option(
    "--constant",
    "constants",
    multiple=True,
    metavar="INPUT=NUMBER",
    help="An input that always takes the same number; repeatable.",
)
@click.option(
    "--initial",
    multiple=True,
    metavar="INPUT=NUMBER",
    help="What a state begins with, in each element.  [default: 0]",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="INPUT=AXES",
    help="Shape of a state that leaves several lengths open, as in h=2,stream,128.",
)
@click.option(
    "--feature", "features", multiple=True, help="Name of a sensor, in order; repeatable."
)
@click.option(
    "--features", "feature_count", type=click.IntRange(1), help="How many sensors, if that is open."
)
@click.option("--axes", help="Axes of x, as in time,stream,feature or stream,1,feature.")
@click.option("--one-stream", is_flag=True, help="Allow calls with one stream at a time only.")
@click.option(
    "--look-ahead",
    type=click.IntRange(0, 4096),
    default=0,
    show_default=True,
    help="Row i of the score belongs to the sample so many steps before.",
)
@click.option("--period-ms", type=float, help="Milliseconds between two samples.  [default: 1000]")
@click.option(
    "--max-gap-ms", type=float, help="A longer silence starts afresh.  [default: 5 periods]"
)
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Scores that do not count after a start.",
)
@click.option("--force", is_flag=True, help="Replace a contract that the file has already.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write."
)
@click.option("--json", "as_json", is_flag=True, help="Say what was found as JSON.")
def adopt(
    model: Path,
    x: str | None,
    states: tuple[str, ...],
    score: str | None,
    contribution: str | None,
    constants: tuple[str, ...],
    initial: tuple[str, ...],
    shapes: tuple[str, ...],
    features: tuple[str, ...],
    feature_count: int | None,
    axes: str | None,
    *,
    one_stream: bool,
    look_ahead: int,
    period_ms: float | None,
    max_gap_ms: float | None,
    warm_up: int,
    force: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Give the stateful ONNX file MODEL a contract, so that a gateway can run it.

    Which output is the successor of which input is never guessed: say it. What the axes mean is
    found out by running the model, and so is whether its rows influence each other. Nothing is
    written unless the model was seen to keep the promises of its contract. Without options the
    inputs and outputs are listed.
    """
    foreign = read_foreign(model)
    if x is None or score is None or output is None:
        raise click.UsageError(_what_is_missing(foreign, x, score, output))
    if output.resolve() == model.resolve():
        raise click.UsageError(f"{output} would be overwritten: choose another file to write to")
    if foreign.has_contract and not force:
        raise AdoptError(f"{model} has a contract already; --force replaces it")
    if features and feature_count not in {None, len(features)}:
        raise click.UsageError(f"--features {feature_count}, but {len(features)} have a --feature")
    request = Request(
        x=x,
        score=score,
        states=_pairs("--state", states, str),
        constants=_pairs("--constant", constants, float),
        initial=_pairs("--initial", initial, float),
        shapes=_pairs("--shape", shapes, _axes),
        contribution=contribution,
        features=features,
        feature_count=feature_count,
        axes=None if axes is None else _axes(axes),
        one_stream=one_stream,
        look_ahead=look_ahead,
        period_ms=DEFAULT_PERIOD_MS if period_ms is None else period_ms,
        max_gap_ms=max_gap_ms,
        warm_up_steps=warm_up,
    )
    found = adopted(foreign, request, output, lambda step: click.echo(step, err=True))
    if as_json:
        click.echo(json.dumps(_as_dict(found)))
        return
    for line in _as_text(found):
        click.echo(line, err=True)
    if period_ms is None:
        click.echo(
            f"note: no --period-ms: {DEFAULT_PERIOD_MS:g} ms between two samples are assumed",
            err=True,
        )


def _what_is_missing(
    foreign: Foreign, x: str | None, score: str | None, output: Path | None
) -> str:
    options = {"--input": x, "--score": score, "-o": output}
    missing = ", ".join(option for option, value in options.items() if value is None)
    lines = [f"wanted {missing}; {foreign.path} has", *listing(foreign)]
    lines += ["a guess from names, dtypes and shapes, to be checked:", f"  {suggestion(foreign)}"]
    return "\n".join(lines)


def _pairs(option: str, texts: Iterable[str], kind: Callable[[str], Value]) -> dict[str, Value]:
    pairs: dict[str, Value] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise click.UsageError(f"{option} wants NAME=VALUE, got {text!r}")
        if name in pairs:
            raise click.UsageError(f"{option} {name} stands twice")
        try:
            pairs[name] = kind(value)
        except ValueError as error:
            raise click.UsageError(f"{option} {name}: wanted a number, got {value!r}") from error
    return pairs


def _axes(text: str) -> Axes:
    parts = [part.strip() for part in text.split(",")]
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _as_dict(found: Adopted) -> dict[str, object]:
    return {
        "schema": 1,
        "model": str(found.path),
        "bytes": found.size,
        "x_shape": list(found.contract.x_shape),
        "score_shape": list(found.contract.score_shape),
        "features": len(found.contract.features),
        "states": [msgspec.to_builtins(state) for state in found.contract.states],
        "one_stream": found.contract.one_stream,
        "batches": found.batches,
        "warnings": list(found.warnings),
    }


def _as_text(found: Adopted) -> list[str]:
    contract = found.contract
    steps = "" if TIME in contract.x_shape else "; called for each sample"
    lines = [
        f"{found.path}: {found.size / 1024:.0f} KiB",
        f"  x      {contract.x}: {contract.x_dtype} {_shown(contract.x_shape)}, "
        f"{len(contract.features)} features{steps}",
        f"  score  {contract.score}: {_shown(contract.score_shape)}",
    ]
    lines += [
        f"  state  {s.input} -> {s.output}: {s.dtype} {_shown(s.shape)}, starts at {s.initial:g}"
        for s in contract.states
    ]
    if TIME in contract.x_shape:
        lines.append("  time   at once, step by step and in chunks: the same bits")
    if found.batches:
        lines.append(f"  rows   alone and in {found.batches} batches: the same bits")
    lines += [f"note: {warning}" for warning in found.warnings]
    lines.append(f"next: andon inspect {found.path}, then andon replay {found.path} FILE...")
    return lines


def _shown(axes: Axes) -> str:
    return f"[{', '.join(map(str, axes))}]"
