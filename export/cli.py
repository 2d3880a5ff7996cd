"""`andon export`: from a run of `andon train` to a model file."""

import json
from pathlib import Path

import click

from export.to_onnx import Exported, export_checkpoint
from train.detector import load_checkpoint


@click.command(
    epilog="Example: andon export run -o pump.onnx",
    context_settings={"show_default": True},
)
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The model file to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what was verified as JSON.")
def export(run: Path, output: Path, *, as_json: bool) -> None:
    """Write the detector in RUN as one verified ONNX file.

    RUN is the folder that `andon train -o RUN` wrote. The file carries the contract that a gateway
    needs. It is compared with PyTorch and, bit for bit, with itself in every way of splitting and
    batching; if a promise does not hold, nothing is written.
    """
    checkpoint = load_checkpoint(run)
    exported = export_checkpoint(checkpoint, output, lambda step: click.echo(step, err=True))
    if as_json:
        click.echo(json.dumps(_as_dict(exported)))
    else:
        click.echo(_as_text(exported), err=True)


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
