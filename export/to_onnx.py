"""A detector to one ONNX file that carries its contract: trace, describe, verify, write.

Requires a checkpoint of `train`, or (`export.module`) a module that has been found closed. Ensures
that the file, once it exists, loads on a gateway and keeps every promise of its contract; otherwise
there is no file.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import onnx
import torch
from torch import Tensor, nn

from edge_runtime.contract import (
    CONTRACT_KEY,
    STREAM,
    TIME,
    Contract,
    encode_contract,
)
from edge_runtime.errors import ExportError, ModelError
from edge_runtime.files import replacing
from edge_runtime.session import Session, session_from_bytes
from export.canonical import make_canonical
from export.describe import NEXT, describe
from export.hoist import hoist
from export.model import Model
from export.onnx_cells import OPSET, in_onnx
from export.simplify import give_axes, simplify
from export.sums import EXACT, Table
from export.verify import (
    Evidence,
    check_finite,
    check_operators,
    verify,
)
from train.detectors import Checkpoint

IR_VERSION = 10


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
    return write_verified(
        with_contract(proto, contract), lambda it: verify(it, detector, on_step), path, on_step
    )


def with_contract(proto: onnx.ModelProto, contract: Contract) -> bytes:
    """The model file: a graph with its contract inside."""
    onnx.helper.set_model_props(proto, {CONTRACT_KEY: encode_contract(contract)})
    content: bytes = proto.SerializeToString()
    return content


def write_verified(
    content: bytes,
    verified: Callable[[Session], Evidence],
    path: Path,
    on_step: Callable[[str], None],
) -> Exported:
    """Loads a model as a gateway would, verifies it, and only then lets it exist.

    Args:
        content: The model file.
        verified: Tests what was loaded, and raises `ExportError` if a promise does not hold.
        path: Where the model goes.
        on_step: Told what is being done.

    Returns:
        What was written.

    Raises:
        ExportError: If the file would not keep its promise; then nothing was written.
    """
    try:
        session = session_from_bytes(content)
    except ModelError as error:
        raise ExportError(f"the exported model: {error}") from error
    evidence = verified(session)
    on_step(f"writing {path}")
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error
    return Exported(path, session.contract, evidence, len(content))


@final
class _Flat(nn.Module):
    """A model with its state as separate arguments and results, as ONNX wants it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.detector = model

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """``x [time, stream, feature]`` and the carried tensors in `Model.state_names`."""
        names = self.detector.state_names
        score, contribution, after = self.detector(
            x, dict(zip(names, state, strict=True)), unroll=in_onnx
        )
        said = (score,) if contribution is None else (score, contribution)
        return *said, *(after[name] for name in names)


class Example(NamedTuple):
    """A model with arguments to trace it with.

    Attributes:
        flat: The model as ONNX wants it.
        arguments: ``x`` and the carried tensors.
        dynamic: Which axes may have any length.
        outputs: Names of the results.
    """

    flat: nn.Module
    arguments: tuple[Tensor, ...]
    dynamic: tuple[dict[int, Any] | tuple[dict[int, Any], ...], ...]
    outputs: tuple[str, ...]


def example_of(model: Model, *, one_stream: bool = False) -> Example:
    """What a model is traced with; nothing of it stays in the graph.

    Args:
        model: In evaluation mode.
        one_stream: Whether the graph shall take one stream and no more.
    """
    # Every tensor its own, and 3 streams: the exporter merges inputs that are one object, and
    # takes an axis of length 1 for a constant.
    streams, steps = 1 if one_stream else 3, 5
    x = torch.zeros(steps, streams, len(model.features))
    state = {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in model.initial_state(streams).items()
    }
    with torch.no_grad():
        _, contribution, _ = model(x, state)
    says = ["score"] if contribution is None else ["score", "contribution"]
    time, stream = torch.export.Dim(TIME, min=1), torch.export.Dim(STREAM, min=1)
    many = {} if one_stream else {1: stream}
    carried = tuple(
        {} if one_stream else {model.stream_axes[name]: stream} for name in model.state_names
    )
    return Example(
        _Flat(model),
        (x, *(state[name] for name in model.state_names)),
        # Where nothing is carried, PyTorch wants no empty tuple for what follows x.
        ({0: time, **many}, *([carried] if carried else [])),
        (*says, *(name + NEXT for name in model.state_names)),
    )


def trace(model: Model, *, one_stream: bool = False, sums: Table = EXACT) -> onnx.ModelProto:
    """Turns a model into a graph with dynamic time and stream.

    Args:
        model: In evaluation mode.
        one_stream: Whether the graph shall take one stream and no more.
        sums: How sums are written.

    Returns:
        The graph without a contract.

    Raises:
        ExportError: If PyTorch cannot express it.
    """
    example = example_of(model, one_stream=one_stream)
    with undisturbed():
        proto = _translate(example, model.state_names, sums)
    hoist(proto)
    give_axes(proto)
    make_canonical(proto)
    proto.ir_version = IR_VERSION
    proto.producer_name = "andon"
    proto.producer_version = ""
    return proto


def _translate(example: Example, names: Sequence[str], sums: Table) -> onnx.ModelProto:
    try:
        program = torch.onnx.export(
            example.flat,
            example.arguments,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=["x", *names],
            output_names=example.outputs,
            dynamic_shapes=example.dynamic,
            custom_translation_table=sums,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"PyTorch cannot write the detector as ONNX: {_root(error)}") from error
    if program is None:
        raise ExportError("PyTorch gave no program")
    simplify(program.model)
    proto: onnx.ModelProto = program.model_proto
    return proto


def _root(error: BaseException) -> str:
    """The first line of what an error began with, without the exporter's advice around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def undisturbed() -> Iterator[None]:
    """For tracing: nothing is said, no gradient kept, nothing known of what was traced before.

    PyTorch remembers the lengths that it has met, and freezes an axis that always had the same. It
    prints whole graphs where it fails, and logs which unrelated packages are not installed.
    """
    log, nowhere = logging.getLogger("torch.onnx"), io.StringIO()
    level = log.level
    torch.compiler.reset()
    try:
        with (
            redirect_stderr(nowhere),
            redirect_stdout(nowhere),
            warnings.catch_warnings(),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")  # the exporter's own, about its own parts
            log.setLevel(logging.ERROR)
            yield
    finally:
        log.setLevel(level)
