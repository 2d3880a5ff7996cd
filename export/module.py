"""A module of somebody else to a model file: make it, find it closed, trace, verify, write."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edge_runtime.contract import Contract
from edge_runtime.errors import ExportError
from edge_runtime.inference import open_inference
from edge_runtime.session import Session
from export.canonical import graphs_of
from export.closed import ALONE, check_closed
from export.describe import describe
from export.factory import importable, load_weights, made_by
from export.model import Float32, Samples
from export.stepwise import Stepwise
from export.sums import ANY
from export.to_onnx import (
    Exported,
    example_of,
    trace,
    undisturbed,
    with_contract,
    write_verified,
)
from export.user_code import call, place_of
from export.verify import BATCHES, PLAIN_OPERATORS, TOLERANCE, WIDE, plausible_samples, verify

PERIOD_MS = 1000.0
GAP_PERIODS = 5
ROUNDING_STEPS = 64
NEVER_ROUNDED = frozenset(
    {"Abs", "And", "Expand", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"}
    | {"Neg", "Or", "Pad", "ReduceMax", "ReduceMin", "Scan", "Sign", "Transpose"}
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be exported; None and an empty tuple leave it to the module.

    Attributes:
        place: ``package.module:factory``.
        weights: File of a state_dict.
        features: Names of the sensors.
        period_ms: Time between two samples of a stream.
        warm_up_steps: Samples after a reset whose score does not count yet.
        max_gap_ms: A longer silence resets a stream.
        one_stream: One stream a call, because the rows of a call are not independent.
    """

    place: str
    weights: Path | None = None
    features: tuple[str, ...] = ()
    period_ms: float | None = None
    warm_up_steps: int | None = None
    max_gap_ms: float | None = None
    one_stream: bool = False


def export_module(wanted: Wanted, path: Path, on_step: Callable[[str], None]) -> Exported:
    """Makes the module, and exports, verifies and writes it.

    Args:
        wanted: What shall be exported.
        path: Where the model goes.
        on_step: Told what is being done, and what is assumed because nobody said it.

    Returns:
        What was written.

    Raises:
        ExportError: If the module is not closed, or the file would not keep its promise; then
            nothing was written.
    """
    with importable(Path.cwd()):
        module = made_by(wanted.place)
        if wanted.weights is None:
            on_step("note: no --weights, so the weights are those that the factory gives")
        else:
            load_weights(module, wanted.weights)
        features = _features(module, wanted)
        meta = _meta(module, wanted, on_step)
        samples = _samples(module, features)
        on_step("running the module, to see that it is closed")
        check_closed(module, features, samples, one_stream=wanted.one_stream)
        return _export(
            Stepwise(module, features, one_stream=wanted.one_stream), meta, samples, path, on_step
        )


def _export(
    model: Stepwise,
    meta: dict[str, Any],
    samples: Samples,
    path: Path,
    on_step: Callable[[str], None],
) -> Exported:
    contract = describe(model, meta, samples)
    on_step("tracing")
    _check_traceable(model)
    proto = trace(model, one_stream=model.one_stream, sums=ANY)
    content = with_contract(proto, contract)
    try:
        return write_verified(
            content, lambda it: verify(it, model, on_step, samples), path, on_step
        )
    except ExportError as error:
        rounded = 0.0 if model.one_stream else _rounding(content, contract, samples)
        if not 0 < rounded < TOLERANCE:
            raise
        raise ExportError(
            "the rows are independent, but onnxruntime rounds them by the size of the batch: a "
            f"score differs by up to {rounded:.2g} of its scale{_suspects(proto)}; {ALONE}"
        ) from error


# --- What the module says of itself --------------------------------------------------------------


def _features(module: nn.Module, wanted: Wanted) -> tuple[str, ...]:
    own: Any = getattr(module, "features", None)
    if own is None:
        if not wanted.features:
            raise ExportError(
                f"{wanted.place} makes a {type(module).__name__} without features: give it the "
                "names of the sensors, or name each with --feature"
            )
        return wanted.features
    named = isinstance(own, Sequence) and not isinstance(own, str) and len(own) > 0
    if not named or not all(isinstance(name, str) for name in own):
        raise ExportError(f"features wants the names of the sensors, got {own!r}")
    if wanted.features and len(own) != len(wanted.features):
        raise ExportError(
            f"--feature names {len(wanted.features)} sensors, the module has {len(own)}: "
            f"{', '.join(own)}"
        )
    return wanted.features or tuple(own)


def _meta(module: nn.Module, wanted: Wanted, on_step: Callable[[str], None]) -> dict[str, Any]:
    """What the contract says beside the model; see `export.to_onnx.describe`."""

    def said(given: float | None, name: str, default: float, option: str) -> float:
        value: Any = call(name, getattr, module, name, None) if given is None else given
        if value is None:
            on_step(f"note: neither {option} nor the module says {name}: {default:g} is assumed")
            return default
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ExportError(f"{name} wants a finite number, got {value!r}")
        return float(value)

    period = said(wanted.period_ms, "period_ms", PERIOD_MS, "--period-ms")
    warm_up = said(wanted.warm_up_steps, "warm_up_steps", 0, "--warm-up")
    if warm_up != int(warm_up):
        raise ExportError(f"warm_up_steps wants a whole number, got {warm_up!r}")
    training = {"module": wanted.place}
    if wanted.weights is not None:
        training["weights"] = hashlib.sha256(wanted.weights.read_bytes()).hexdigest()
    return {
        "sample_period_ms": period,
        "max_gap_ms": said(wanted.max_gap_ms, "max_gap_ms", GAP_PERIODS * period, "--max-gap-ms"),
        "warm_up_steps": int(warm_up),
        "one_stream": wanted.one_stream,
        "calibration": None,
        "training": training,
    }


def _samples(module: nn.Module, features: tuple[str, ...]) -> Samples:
    """Its own, if it offers any; else waves and noise around 0 with deviation 1."""
    if callable(getattr(module, "samples", None)):
        return partial(_own_samples, module, len(features))
    return partial(plausible_samples, _Unknown(features))


def _own_samples(module: nn.Module, features: int, steps: int, streams: int, seed: int) -> Float32:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        own: Any = call(f"samples({steps}, {streams})", module.samples, steps, streams)  # type: ignore[arg-type]
    shape = (steps, streams, features)
    if not isinstance(own, Tensor) or own.shape != shape or not torch.isfinite(own).all():
        got = list(own.shape) if isinstance(own, Tensor) else type(own).__name__
        raise ExportError(
            f"samples({steps}, {streams}) wants a tensor {list(shape)} of finite numbers, got {got}"
        )
    return np.asarray(own.detach(), np.float32)


@final
class _Unknown:
    """Sensors of which nothing is known."""

    def __init__(self, features: tuple[str, ...]) -> None:
        self.features = features
        self.mean = torch.zeros(len(features))
        self.scale = torch.ones(len(features))


# --- What the exporter makes of it ---------------------------------------------------------------


def _check_traceable(model: Stepwise) -> None:
    """The exporter's own first step, whose errors still know what they are about.

    Raises:
        ExportError: In one sentence, with the line of the module that it is about.
    """
    example = example_of(model, one_stream=model.one_stream)
    try:
        with undisturbed():
            torch.export.export(
                example.flat, example.arguments, dynamic_shapes=example.dynamic, strict=False
            )
    except Exception as error:  # the tracer runs any code, and has no common base class
        raise ExportError(_untraceable(error)) from error


def _untraceable(error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    for mark, sentence in _REASONS:
        if mark in text:
            return f"{sentence}{place_of(error)}"
    first = next(iter(str(error).strip().splitlines()), "")
    return f"PyTorch cannot trace step: {type(error).__name__}: {first}{place_of(error)}"


_FROZEN = (
    "step works for one number of streams only: its stream axis is a constant in the graph; take "
    "lengths from x.shape as they come, and do not loop over the rows"
)
_REASONS = (
    ("Constraints violated", _FROZEN),
    ("ConstraintViolationError", _FROZEN),
    (
        "ata-dependent",
        "step decides by the values of a tensor (`if`, `while`, a shape), which a graph cannot: "
        "use torch.where",
    ),
    (
        "GuardOnDataDependent",
        "step decides by the values of a tensor (`if`, `while`, a shape), which a graph cannot: "
        "use torch.where",
    ),
)


def _rounding(content: bytes, contract: Contract, samples: Samples) -> float:
    """How much a score depends on the size of the batch, relative to the largest score."""
    session = Session(open_inference(content), contract, b"")
    x = samples(ROUNDING_STEPS, WIDE, 1)
    whole, _ = session.run(x, contract.initial_state(WIDE))
    scale = max(float(np.abs(whole.score).max()), float(np.finfo(np.float32).tiny))
    worst = 0.0
    for batch in BATCHES:
        part = np.ascontiguousarray(x[:, -batch:])
        outputs, _ = session.run(part, contract.initial_state(batch))
        worst = max(worst, float(np.abs(outputs.score - whole.score[:, -batch:]).max()))
    return worst / scale


def _suspects(proto: onnx.ModelProto) -> str:
    """What may round and our own detectors, whose operators are exact, do without."""
    names = {node.op_type for graph in graphs_of(proto.graph) for node in graph.node}
    unknown = sorted(names - PLAIN_OPERATORS - NEVER_ROUNDED)
    return f" (not known to be exact: {', '.join(unknown)})" if unknown else ""
