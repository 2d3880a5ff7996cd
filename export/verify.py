"""The exported file against PyTorch and against itself, before it may exist."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_runtime.errors import ExportError
from edge_runtime.session import Outputs, Session, State
from export.canonical import graphs_of
from export.model import Float32, Model, Samples, Sensors
from export.onnx_cells import expressed
from train.cell import Cell
from train.cells import CELLS
from train.detectors import AnyDetector
from train.layers import Unroll, over_time

STEPS, STREAMS = 512, 7
TOLERANCE = 1e-5
# Where a network amplifies roundings, the file may be so many times as far from the exact result as
# PyTorch itself is, or as far as that moves where each step is off by what onnxruntime's tanh
# usually is, and never further than this part of its scale (docs/decisions.md).
AS_FAR, AMPLIFIED = 4.0, 1e-3
TANH_ERROR, MOVED = 5.7e-8, 3
BATCHES = (1, 2, 7)
LENGTHS = (1, 2, 37)
WIDE = 64  # streams of one more batch: kernels change their way of working with the size

# What a detector needs around its recurrent layers. Anything else in a graph was not meant.
PLAIN_OPERATORS = frozenset(
    {
        "Abs", "Add", "ArgMax", "Cast", "Clip", "Concat", "ConstantOfShape", "CumSum", "Div",
        "Equal", "Expand", "Gather", "GatherElements", "Gemm", "Greater", "GreaterOrEqual",
        "Identity", "Less", "LessOrEqual", "MatMul", "Mod", "Mul", "Not", "Range", "Relu",
        "Reshape", "ScatterElements", "Shape", "Sigmoid", "Slice", "Split", "Sqrt", "Squeeze",
        "Sub", "Tanh", "Unsqueeze", "Where",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verification found.

    Attributes:
        steps: Length of the time axis of the comparison with PyTorch.
        streams: Its streams.
        score_error: Largest difference of a score from PyTorch's, relative to the largest score.
        exact_runs: Ways of splitting and batching that gave the same bits.
    """

    steps: int
    streams: int
    score_error: float
    exact_runs: int


def verify(
    session: Session,
    model: Model,
    on_step: Callable[[str], None],
    samples: Samples | None = None,
) -> Evidence:
    """Tests the exported model.

    Args:
        session: The model as a gateway would load it.
        model: What it was exported from.
        on_step: Told what is being done.
        samples: What it is tested with; None: `plausible_samples`.

    Returns:
        The evidence.

    Raises:
        ExportError: If a promise does not hold; says which.
    """
    x = (samples or partial(plausible_samples, model))(STEPS, WIDE, 1)
    on_step(f"comparing with PyTorch over {STEPS} steps of {STREAMS} streams")
    score_error = compare_with_torch(session, model, x[:, :STREAMS])
    on_step("comparing with itself, split and batched in every way")
    return Evidence(STEPS, STREAMS, score_error, compare_with_itself(session, x))


def compare_with_torch(session: Session, model: Model, x: Float32) -> float:
    """Scores, contributions and states against PyTorch's.

    A network that adds up, or one that is on the edge of chaos, makes more of a rounding with every
    step. Two float32 programs then differ by more than `TOLERANCE` though neither is wrong. So
    where they do, both are held against PyTorch in double precision, and the file may not be much
    further from that than PyTorch is, or than the error of onnxruntime's tanh in each step takes
    it: that one has a direction, and adds up in a state that is slow to forget.

    Args:
        session: The exported model.
        model: The original.
        x: Samples ``[time, stream, feature]``.

    Returns:
        The largest difference of a score, relative to the largest score.

    Raises:
        ExportError: If it is too large, or that of a contribution or a state by its own scale.
    """
    outputs, state = session.run(x, session.contract.initial_state(x.shape[1]))
    got: dict[str, NDArray[Any]] = {"score": outputs.score}
    if outputs.contribution is not None:
        got["contribution"] = outputs.contribution
    got |= {f"state {name}": value for name, value in state.items()}
    wanted = in_torch(model, torch.from_numpy(x))
    if set(got) != set(wanted):
        one = ", ".join(sorted(set(got) ^ set(wanted)))
        raise ExportError(f"only one of PyTorch and the exported model gives a {one}")
    for what in wanted:
        if wanted[what].dtype.kind != "f":
            _equal(what, got[what], wanted[what])
    errors = {what: _relative(what, got[what], wanted[what]) for what in wanted}
    worse = [what for what, error in errors.items() if not error <= TOLERANCE]
    exact = _in_double(model, x) if worse else {}
    ways = range(MOVED if exact else 0)
    moved = [_in_double(model, x, partial(_moved, seed=seed)) for seed in ways]
    for what in worse:
        allowed = TOLERANCE
        if exact:
            own = _relative(what, wanted[what], exact[what])
            errors[what] = _relative(what, got[what], exact[what])
            reach = max(_relative(what, one[what], exact[what]) for one in moved)
            allowed = max(TOLERANCE, min(max(AS_FAR * own, reach), AMPLIFIED))
        if not errors[what] <= allowed:
            raise ExportError(
                f"{what}: differs from PyTorch by {errors[what]:.2g} of its scale, allowed is "
                f"{allowed:.2g}"
            )
    return errors["score"]


def in_torch(model: Model, x: Tensor, unroll: Unroll = over_time) -> dict[str, NDArray[Any]]:
    """What PyTorch makes of samples, from the initial state, by what it is."""
    with torch.no_grad():
        score, contribution, after = model(x, model.initial_state(x.shape[1]), unroll)
    said = (
        {"score": score} if contribution is None else {"score": score, "contribution": contribution}
    )
    said |= {f"state {name}": value for name, value in after.items()}
    return {what: value.numpy() for what, value in said.items()}


def _in_double(model: Model, x: Float32, unroll: Unroll = over_time) -> dict[str, NDArray[Any]]:
    """The same in double precision; nothing for a module that cannot compute in it."""
    exact: Any = deepcopy(model)
    try:
        return in_torch(exact.double(), torch.from_numpy(x).double(), unroll)
    except RuntimeError:  # it makes float32 tensors of its own
        return {}


def _moved(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...], seed: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `over_time`, with each step off by `TANH_ERROR`, each unit always to the same side."""
    if type(cell) not in CELLS.values():
        return over_time(cell, x, state)
    generator, outputs = torch.Generator().manual_seed(seed), []
    sides = [torch.randint(2, value.shape[1:], generator=generator) * 2.0 - 1.0 for value in state]
    for x_t in x.unbind(0):
        y, state = cell.step(x_t, state)
        outputs.append(y)
        state = tuple(
            value + TANH_ERROR * side if value.is_floating_point() else value
            for value, side in zip(state, sides, strict=True)
        )
    return torch.stack(outputs), state


def compare_with_itself(session: Session, x: Float32) -> int:
    """Splits in time and batches of streams must not change a bit.

    Args:
        session: The exported model.
        x: Samples ``[time, stream, feature]``.

    Returns:
        The number of ways tried.

    Raises:
        ExportError: At the first bit that differs.
    """
    steps, streams = x.shape[0], x.shape[1]
    whole, after = _chunked(session, x, steps)
    runs = 0
    for length in LENGTHS:
        for batch in BATCHES:
            for first in (0, streams - batch):
                rows = slice(first, first + batch)
                outputs, state = _chunked(session, x[:, rows], length)
                where = f"{batch} of {streams} streams from {first}, {length} samples a call"
                _equal_outputs(where, outputs, whole, rows)
                for pair in session.contract.states:
                    wanted = np.take(
                        after[pair.input], range(first, first + batch), pair.stream_axis
                    )
                    _equal(f"state {pair.input}, {where}", state[pair.input], wanted)
                runs += 1
    order = np.random.default_rng(0).permutation(streams)
    outputs, _ = _chunked(session, x[:, order], steps)
    _equal_outputs("streams in another order", outputs, whole, order)
    return runs + 1


def check_finite(detector: AnyDetector) -> None:
    """Every number of the detector is one.

    Raises:
        ExportError: Naming the tensor that has a NaN or an infinity.
    """
    for name, tensor in detector.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ExportError(f"{name} holds NaN or infinity; the training has diverged")


def check_operators(proto: onnx.ModelProto, detector: AnyDetector) -> None:
    """The graph holds the recurrent operators of its cells and nothing that was not meant.

    Raises:
        ExportError: Naming the operators.
    """
    nodes = [node for graph in graphs_of(proto.graph) for node in graph.node]
    names = [node.op_type for node in nodes]
    recurrent = [name for cell in detector.cells for name in expressed(type(cell)).operators]
    found = [name for name in names if name in {"LSTM", "GRU", "RNN", "Scan", "Loop"}]
    if sorted(found) != sorted(recurrent):
        raise ExportError(f"wanted the recurrent operators {recurrent}, the graph has {found}")
    unknown = sorted(set(names) - PLAIN_OPERATORS - set(recurrent))
    foreign = sorted({node.domain for node in nodes} - {""})
    if unknown or foreign:
        raise ExportError(f"the graph has unexpected operators: {', '.join(unknown + foreign)}")


def plausible_samples(sensors: Sensors, steps: int, streams: int, seed: int) -> Float32:
    """Made-up samples around an operating point: slow waves, noise, a few outliers.

    Args:
        sensors: Say where they usually are; a model does.
        steps: Length of the time axis.
        streams: Length of the stream axis.
        seed: The same seed gives the same samples.

    Returns:
        float32 ``[time, stream, feature]`` in engineering units.
    """
    rng = np.random.default_rng(seed)
    shape = (steps, streams, len(sensors.features))
    phase = rng.uniform(0, 2 * np.pi, shape[1:])
    wave = np.sin(np.arange(steps)[:, None, None] * rng.uniform(0.02, 0.4, shape[1:]) + phase)
    outliers = rng.normal(0, 8, shape) * (rng.random(shape[:2]) < 0.02)[..., None]  # noqa: PLR2004
    xn = wave + rng.normal(0, 0.4, shape) + outliers
    samples = xn * sensors.scale.numpy() + sensors.mean.numpy()
    return np.asarray(samples, np.float32)


def _chunked(session: Session, x: Float32, length: int) -> tuple[Outputs, State]:
    state = session.contract.initial_state(x.shape[1])
    scores, contributions = [], []
    for start in range(0, x.shape[0], length):
        outputs, state = session.run(np.ascontiguousarray(x[start : start + length]), state)
        scores.append(outputs.score)
        if outputs.contribution is not None:
            contributions.append(outputs.contribution)
    contribution = np.concatenate(contributions) if contributions else None
    return Outputs(np.concatenate(scores), contribution), state


def _relative(what: str, got: NDArray[Any], wanted: NDArray[Any]) -> float:
    if got.shape != wanted.shape:
        raise ExportError(f"{what}: PyTorch gives {list(wanted.shape)}, ONNX {list(got.shape)}")
    scale = max(float(np.abs(wanted).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    return float(np.abs(got.astype(np.float64) - wanted).max(initial=0.0)) / scale


def _equal_outputs(
    where: str, got: Outputs, whole: Outputs, rows: slice | NDArray[np.int64]
) -> None:
    _equal(f"score, {where}", got.score, whole.score[:, rows])
    if got.contribution is not None and whole.contribution is not None:
        _equal(f"contribution, {where}", got.contribution, whole.contribution[:, rows])


def _equal(what: str, got: Float32, wanted: Float32) -> None:
    if not np.array_equal(got, wanted):
        worst = float(np.abs(got.astype(np.float64) - wanted).max())
        raise ExportError(f"{what}: not the same bits, differs by up to {worst:.2g}")
