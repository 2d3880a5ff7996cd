"""A trained detector to one ONNX file that carries its contract: trace, describe, verify, write.

Requires a checkpoint of `train`. Ensures that the file, once it exists, loads on a gateway and
keeps every promise of its contract; otherwise there is no file.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import onnx
import torch
from onnxscript import ir, opset18
from onnxscript.optimizer import optimize
from torch import Tensor, nn

from edge_runtime.contract import (
    CONTRACT_KEY,
    CONTRACT_SCHEMA,
    STREAM,
    TIME,
    Calibration,
    Contract,
    Feature,
    Golden,
    State,
    encode_contract,
)
from edge_runtime.errors import ExportError, ModelError
from edge_runtime.files import replacing
from edge_runtime.session import session_from_bytes
from export.canonical import make_canonical
from export.onnx_cells import OPSET, in_onnx
from export.verify import (
    Evidence,
    check_finite,
    check_operators,
    plausible_samples,
    verify,
)
from train.detector import Checkpoint, Detector

IR_VERSION = 10
GOLDEN_STEPS, GOLDEN_STREAMS = 24, 3
NEXT = "_next"
# Constants of up to so many bytes are computed here and not on the gateway; that is all of them.
FOLDED = 2**31


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written.

    Attributes:
        path: Where.
        contract: What it promises.
        evidence: What was found when it was verified.
        size: Bytes.
    """

    path: Path
    contract: Contract
    evidence: Evidence
    size: int


def export_checkpoint(
    checkpoint: Checkpoint, path: Path, on_step: Callable[[str], None]
) -> Exported:
    """Exports, verifies and writes, in this order.

    Args:
        checkpoint: What `andon train` wrote.
        path: Where the model goes.
        on_step: Told what is being done.

    Returns:
        What was written.

    Raises:
        ExportError: If the file would not keep its promise; then nothing was written.
    """
    detector = checkpoint.detector.eval()
    check_finite(detector)
    contract = describe(detector, checkpoint.meta)
    on_step("tracing")
    proto = trace(detector)
    check_operators(proto, detector)
    onnx.helper.set_model_props(proto, {CONTRACT_KEY: encode_contract(contract)})
    content = proto.SerializeToString()
    try:
        session = session_from_bytes(content)
    except ModelError as error:
        raise ExportError(f"the exported model: {error}") from error
    evidence = verify(session, detector, on_step)
    on_step(f"writing {path}")
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error
    return Exported(path, contract, evidence, len(content))


@final
class _Flat(nn.Module):
    """The detector with its state as separate arguments and results, as ONNX wants it."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """``x [time, stream, feature]`` and the carried tensors in `Detector.state_names`."""
        names = self.detector.state_names
        score, contribution, after = self.detector(
            x, dict(zip(names, state, strict=True)), unroll=in_onnx
        )
        said = (score,) if contribution is None else (score, contribution)
        return *said, *(after[name] for name in names)


def trace(detector: Detector) -> onnx.ModelProto:
    """Turns the detector into a graph with dynamic time and stream.

    Args:
        detector: In evaluation mode.

    Returns:
        The graph without a contract.

    Raises:
        ExportError: If PyTorch cannot express it.
    """
    # Every tensor its own, and 3 streams: the exporter merges inputs that are one object, and
    # takes an axis of length 1 for a constant.
    streams, steps = 3, 5
    x = torch.zeros(steps, streams, len(detector.features))
    state = tuple(value.clone() for value in detector.initial_state(streams).values())
    with warnings.catch_warnings(), _quiet(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own, about its own parts
        proto = _translate(detector, x, state)
    make_canonical(proto)
    proto.ir_version = IR_VERSION
    proto.producer_name = "andon"
    proto.producer_version = ""
    return proto


def _translate(detector: Detector, x: Tensor, state: tuple[Tensor, ...]) -> onnx.ModelProto:
    names = list(detector.state_names)
    says = ["score"] if detector.target is not None else ["score", "contribution"]
    stream = torch.export.Dim(STREAM, min=1)
    axes = tuple({detector.stream_axes[name]: stream} for name in names)
    # Where nothing is carried, PyTorch wants no empty tuple for what follows x.
    carried = (axes,) if axes else ()
    try:
        program = torch.onnx.export(
            _Flat(detector),
            (x, *state),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["x", *names],
            output_names=[*says, *(name + NEXT for name in names)],
            dynamic_shapes=({0: torch.export.Dim(TIME, min=1), 1: stream}, *carried),
            custom_translation_table={torch.ops.aten.sum.dim_IntList: _sum},
        )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"PyTorch cannot write the detector as ONNX: {_root(error)}") from error
    if program is None:
        raise ExportError("PyTorch gave no program")
    # The exporter folds small constants only: from 64 hidden units on, the gates would be put in
    # order on the gateway.
    optimize(program.model, input_size_limit=FOLDED, output_size_limit=FOLDED)
    proto: onnx.ModelProto = program.model_proto
    return proto


def _sum(x: ir.Value, dim: Sequence[int], keepdim: bool = False) -> ir.Value:
    """A sum over the features as a product with ones; the exporter calls it for every ``sum``.

    The rounding of onnxruntime's ``ReduceSum`` depends on a stream's place in the batch, unless the
    features are four at most or a multiple of four. That of its ``MatMul`` does not
    (docs/decisions.md).
    """
    shape = list(x.shape or ())
    if [axis % len(shape) for axis in dim] != [len(shape) - 1]:
        raise ExportError(f"only a sum over the last axis is known to be exact, got axes {dim}")
    op: Any = opset18  # its annotations are those of scripts, not of traces
    features = cast(int, shape[-1])
    ones = onnx.numpy_helper.from_array(np.ones((features, 1), np.float32))
    total: ir.Value = op.MatMul(x, op.Constant(value=ones))
    return total if keepdim else op.Squeeze(total, op.Constant(value_ints=[-1]))


def describe(detector: Detector, meta: dict[str, Any]) -> Contract:
    """Writes the contract of a detector.

    Args:
        detector: Trained and calibrated.
        meta: From its checkpoint.

    Returns:
        The contract, with golden vectors computed by PyTorch.

    Raises:
        ExportError: If the meta data are not complete or contradict themselves.
    """
    try:
        return _contract(detector, meta)
    except KeyError as error:
        raise ExportError(f"the checkpoint says nothing about {error}") from error
    except ValueError as error:
        raise ExportError(f"the checkpoint makes no contract: {error}") from error


def _contract(detector: Detector, meta: dict[str, Any]) -> Contract:
    state = detector.initial_state(1)
    sensors = meta.get("features", {})
    return Contract(
        schema=CONTRACT_SCHEMA,
        features=tuple(_feature(name, sensors.get(name, {})) for name in detector.features),
        states=tuple(
            State(
                input=name,
                output=name + NEXT,
                shape=_with_stream(state[name].shape, axis),
                dtype=str(state[name].dtype).removeprefix("torch."),
            )
            for name, axis in detector.stream_axes.items()
        ),
        sample_period_ms=meta["sample_period_ms"],
        max_gap_ms=meta["max_gap_ms"],
        warm_up_steps=meta["warm_up_steps"],
        look_ahead=detector.look_ahead,
        contribution=None if detector.target else "contribution",
        calibration=_calibration(meta["calibration"]),
        training=meta["training"],
        golden=_golden(detector),
    )


def _feature(name: str, described: dict[str, Any]) -> Feature:
    low, high = described.get("range") or (None, None)
    return Feature(name=name, unit=described.get("unit", ""), low=low, high=high)


def _with_stream(shape: Sequence[int], axis: int) -> tuple[int | str, ...]:
    return (*shape[:axis], STREAM, *shape[axis + 1 :])


def _calibration(found: dict[str, Any] | None) -> Calibration | None:
    if found is None:
        return None  # what reads a target off is not calibrated to an alarm level
    return Calibration(
        data_digest=found["data_digest"],
        rows=found["rows"],
        false_alarms_per_day=found["false_alarms_per_day"],
        supported_false_alarms_per_day=found["supported_false_alarms_per_day"],
    )


def _golden(detector: Detector) -> Golden:
    x = plausible_samples(detector, GOLDEN_STEPS, GOLDEN_STREAMS, seed=20)
    with torch.no_grad():
        score, contribution, _ = detector(
            torch.from_numpy(x), detector.initial_state(GOLDEN_STREAMS)
        )
    if not torch.isfinite(score).all():
        raise ExportError("the detector's scores are not finite: is a scale or the limit zero?")
    shares = None if contribution is None else contribution.tolist()
    return Golden(x=x.tolist(), score=score.tolist(), contribution=shares)


def _root(error: BaseException) -> str:
    """The first line of what an error began with, without the exporter's advice around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _quiet:  # noqa: N801 - reads as a statement
    """Keeps the exporter's log from telling which unrelated packages are not installed."""

    def __enter__(self) -> None:
        self._log = logging.getLogger("torch.onnx")
        self._level = self._log.level
        self._log.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._log.setLevel(self._level)
