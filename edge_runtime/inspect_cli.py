"""`andon inspect`: the contract of a model file, for people or for programs."""

import json
from pathlib import Path

import click
import msgspec

from edge_runtime.axes import TIME
from edge_runtime.contract import Calibration, Contract, Feature
from edge_runtime.session import load_model


@click.command(epilog="Example: andon inspect pump.onnx")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole contract as JSON.")
def inspect(model: Path, *, as_json: bool) -> None:
    """Show what the model file MODEL promises.

    The file is loaded as a gateway would: its contract is checked against the graph, and its golden
    vectors are run on this processor. A model that would be refused there is refused here.
    """
    session = load_model(model)
    if as_json:
        document = {
            "model": str(model),
            "sha256": session.digest,
            "contract": msgspec.to_builtins(session.contract),
        }
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo("\n".join(_describe(model, session.digest, session.contract)))


def _describe(model: Path, digest: str, contract: Contract) -> list[str]:
    lines = [
        f"{model}  ({model.stat().st_size / 1024:.0f} KiB, sha256 {digest[:16]}...)",
        f"contract     schema {contract.schema}; golden vectors reproduced on this processor",
        f"sample       every {contract.sample_period_ms:g} ms; a gap above "
        f"{contract.max_gap_ms:g} ms starts afresh",
        f"warm-up      {contract.warm_up_steps} samples after a start",
        f"look-ahead   {_look_ahead(contract)}",
        f"axes         x {contract.x_dtype} {_axes(contract.x_shape)}, "
        f"score {_axes(contract.score_shape)}{_calls(contract)}",
        "",
        f"sensors, in the order of an array payload ({len(contract.features)})",
    ]
    lines += [f"  {i:2} {_feature(feature)}" for i, feature in enumerate(contract.features, 1)]
    lines += ["", "carried from sample to sample" + ("" if contract.states else ": nothing")]
    lines += [
        f"  {state.input} -> {state.output}  {state.dtype} {_axes(state.shape)}, "
        f"starts at {state.initial:g}{', outlives gaps' if state.kept else ''}"
        for state in contract.states
    ]
    lines += [f"  {name} = {value:g}, always" for name, value in contract.constants.items()]
    lines += ["", *_calibration(contract.calibration)]
    lines += [f"  {key}: {_short(value)}" for key, value in contract.training.items()]
    return lines


def _look_ahead(contract: Contract) -> str:
    if not contract.look_ahead:
        return "none: causal"
    return f"{contract.look_ahead} samples: each score comes {contract.delay_ms:g} ms late"


def _calls(contract: Contract) -> str:
    one_sample = "" if TIME in contract.x_shape else "; called for each sample"
    return one_sample + ("; called for each stream" if contract.one_stream else "")


def _feature(feature: Feature) -> str:
    low, high = ("" if bound is None else f"{bound:g}" for bound in (feature.low, feature.high))
    plausible = f", plausible {low}..{high}" if low or high else ""
    return f"{feature.name}{f' [{feature.unit}]' if feature.unit else ''}{plausible}"


def _calibration(calibration: Calibration | None) -> list[str]:
    if calibration is None:
        return ["not calibrated here: 1.0 is whatever its maker meant by it"]
    supported = calibration.supported_false_alarms_per_day
    asked = calibration.false_alarms_per_day
    honest = "" if supported <= asked else f"; {asked:g} was asked for, the data can show no less"
    return [
        f"1.0 is exceeded by at most {max(asked, supported):.3g} healthy samples a day and stream, "
        f"before hold_steps{honest}",
        f"  calibrated on {calibration.rows} samples that the weights never saw "
        f"(data {calibration.data_digest[:16]}...)",
        "trained",
    ]


def _axes(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - a line's worth
