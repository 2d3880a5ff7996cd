"""`andon export`: from a run of `andon train`, or from a module of your own, to a model file."""

import json
from pathlib import Path
from typing import Any

import click

from export.module import Wanted, export_module
from export.to_onnx import Exported, export_checkpoint
from train.detectors import load_checkpoint

EXAMPLES = """\b
Example: andon export run -o pump.onnx
     or: andon export --module pumps.model:make --weights weights.pt -o pump.onnx
"""


@click.command(epilog=EXAMPLES, context_settings={"show_default": True})
@click.argument("run", required=False, type=click.Path(path_type=Path, exists=True))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The model file to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what was verified as JSON.")
@click.option(
    "--module",
    "place",
    metavar="PACKAGE.MODULE:FACTORY",
    help="Export the module that this function makes, instead of RUN.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --module: its state_dict, written by torch.save.",
)
@click.option("--feature", "features", multiple=True, help="With --module: a sensor; repeat it.")
@click.option("--period-ms", type=float, help="With --module: time between two samples.")
@click.option(
    "--warm-up",
    "warm_up_steps",
    type=int,
    help="With --module: samples whose score does not count.",
)
@click.option("--max-gap-ms", type=float, help="With --module: a longer silence resets a stream.")
@click.option(
    "--one-stream",
    is_flag=True,
    help="With --module: its streams are not independent, so it gets one a call.",
)
def export(
    run: Path | None,
    output: Path,
    place: str | None,
    *,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - what `Wanted` takes
) -> None:
    """Write a detector as one verified ONNX file.

    RUN is the folder that `andon train -o RUN` wrote. With --module it is any PyTorch module with a
    step(x, state) of its own; docs/your-own-module.md says what it must offer.

    The file carries the contract that a gateway needs. It is compared with PyTorch and, bit for
    bit, with itself in every way of splitting and batching; if a promise does not hold, nothing is
    written.
    """

    def on_step(step: str) -> None:
        click.echo(step, err=True)

    if place is not None:
        if run is not None:
            raise click.UsageError(f"wanted RUN or --module, got both: {run} and {place}")
        exported = export_module(Wanted(place, **options), output, on_step)
    elif run is not None:
        _check_for_module_only(options)
        exported = export_checkpoint(load_checkpoint(run), output, on_step)
    else:
        raise click.UsageError("wanted RUN or --module, got neither")
    if as_json:
        click.echo(json.dumps(_as_dict(exported)))
    else:
        click.echo(_as_text(exported), err=True)


def _check_for_module_only(options: dict[str, Any]) -> None:
    """A run knows all of this; an option that is not heeded would deceive."""
    names = {option.name: option.opts[0] for option in export.params}
    given = [
        names[name]
        for name, value in options.items()
        if not (value is None or value is False or value == ())
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)} goes with --module, not with RUN")


def _as_dict(exported: Exported) -> dict[str, object]:
    evidence = exported.evidence
    return {
        "schema": 1,
        "model": str(exported.path),
        "bytes": exported.size,
        "states": [state.input for state in exported.contract.states],
        "steps": evidence.steps,
        "streams": evidence.streams,
        "score_error": evidence.score_error,
        "exact_runs": evidence.exact_runs,
    }


def _as_text(exported: Exported) -> str:
    evidence = exported.evidence
    carried = ", ".join(state.input for state in exported.contract.states)
    return (
        f"{exported.path}: {exported.size / 1024:.0f} KiB, carries {carried}\n"
        f"  against PyTorch, {evidence.steps} steps x {evidence.streams} streams: "
        f"score within {evidence.score_error:.1e} of its scale\n"
        f"  against itself, {evidence.exact_runs} ways of splitting and batching: the same bits\n"
        f"next: andon inspect {exported.path}, then andon replay {exported.path} FILE..."
    )
