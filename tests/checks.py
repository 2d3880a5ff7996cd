"""The conformance list: what every cell in `train.cells.CELLS` must do, alone and exported.

Each ``check_*`` takes a `Case`. A new cell needs its line in `CELLS` and, here, its paper's
equations in `PAPERS`; then all of this runs over it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from edge_runtime.contract import CONTRACT_KEY, encode_contract
from edge_runtime.session import Float32, Outputs, Session, State, load_model
from export.to_onnx import describe, trace
from export.verify import graphs_of
from sample_models import sample_detector, sample_meta, sample_model
from train.cells import CELLS, Cell
from train.detector import Detector
from train.layers import Stack

Array = NDArray[np.float64]
STEPS, STREAMS = 41, 300
PARITY_STEPS, PARITY_STREAMS = 600, 7
TOLERANCE = 1e-5
BATCHES = (1, 2, 7, 64, 300)
LENGTHS = (1, 2, 7, 40)

# Operators that compute each row by itself, and in the same way wherever in a batch it stands.
# ReduceSum and RNN are missing on purpose: onnxruntime's kernels round by place and batch size.
ROWWISE = {
    "Add", "Clip", "Concat", "Div", "Gather", "Gemm", "Identity", "MatMul", "Mul", "Sigmoid",
    "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Unsqueeze",
}  # fmt: skip
RECURRENT = {"LSTM", "GRU", "Scan"}


@dataclass(frozen=True, slots=True)
class Case:
    """A member of the list.

    Attributes:
        cell: A key of `CELLS`.
        layers: Number of recurrent layers.
    """

    cell: str
    layers: int

    def __str__(self) -> str:
        """``lstm``, or ``lstm-2`` for two layers."""
        return self.cell if self.layers == 1 else f"{self.cell}-{self.layers}"

    @property
    def detector(self) -> Detector:
        """The PyTorch side; do not change it."""
        return _detector(self.cell, self.layers)

    @property
    def session(self) -> Session:
        """The exported side, as a gateway loads it."""
        return _session(self.cell, self.layers)


Check = Callable[[Case], None]


def check_zero_state(case: Case) -> None:
    """A stream begins with zeros, so its first score is the distance from the mean."""
    initial = case.session.contract.initial_state(2)
    torch_initial = case.detector.initial_state(2)
    assert list(initial) == list(torch_initial) == list(case.detector.state_names)
    for name, value in initial.items():
        assert value.shape == tuple(torch_initial[name].shape)
        assert not value.any()
        assert not torch_initial[name].any()
    x = samples(case, 1, 2)
    outputs, _ = case.session.run(x, initial)
    xn = (x.astype(np.float64) - case.detector.mean.numpy()) / case.detector.scale.numpy()
    np.testing.assert_allclose(outputs.score, np.sqrt(np.mean(xn**2, axis=2)), rtol=1e-5)


def check_chunks(case: Case) -> None:
    """However the time axis is cut, the bits are the same."""
    x = samples(case, STEPS, 7)
    whole, after = run(case.session, x)
    ragged = np.random.default_rng(3).multinomial(STEPS, np.ones(6) / 6)
    for lengths in [*([length] * STEPS for length in LENGTHS), ragged[ragged > 0].tolist()]:
        outputs, state = run(case.session, x, lengths)
        assert_same(outputs, state, whole, after)
    score, contribution, torch_after = in_torch(case.detector, x)
    first = in_torch(case.detector, x[:19])
    rest = in_torch(case.detector, x[19:], first[2])
    assert torch.equal(torch.cat([first[0], rest[0]]), score)
    assert torch.equal(torch.cat([first[1], rest[1]]), contribution)
    assert all(torch.equal(rest[2][name], torch_after[name]) for name in torch_after)


def check_streams(case: Case) -> None:
    """A stream's bits are the same alone, in any batch, and in any order."""
    x = samples(case, STEPS, STREAMS)
    whole, after = run(case.session, x)
    order = np.random.default_rng(4).permutation(STREAMS)
    for batch in BATCHES:
        for rows in (np.arange(batch), np.arange(STREAMS - batch, STREAMS), order[:batch]):
            outputs, state = run(case.session, x[:, rows])
            assert_same(outputs, state, *rows_of(case, whole, after, rows))


def check_neighbours(case: Case) -> None:
    """What one stream measures, however wild, does not reach another."""
    x = samples(case, STEPS, 7)
    calm, calm_after = run(case.session, x)
    x[:, 3] = np.finfo(np.float32).max
    x[5:9, 3] *= -1
    wild, wild_after = run(case.session, x)
    rows = np.array([0, 1, 2, 4, 5, 6])
    assert_same(
        *rows_of(case, wild, wild_after, rows),
        *rows_of(case, calm, calm_after, rows),
    )
    assert (wild.score[:, 3] != calm.score[:, 3]).any()
    assert np.isfinite(wild.score).all()


def check_memory(case: Case) -> None:
    """The same samples score otherwise after another past."""
    x = samples(case, STEPS, 2)
    _, past = run(case.session, x)
    cold, cold_after = run(case.session, x)
    warm, warm_after = run(case.session, x, state=past)
    assert (cold.score[:4] != warm.score[:4]).all()
    assert any((cold_after[name] != warm_after[name]).any() for name in past)


def check_states(case: Case) -> None:
    """Each carried tensor counts by itself, and no two are one and the same."""
    x = samples(case, 3, 2)
    _, start = run(case.session, samples(case, STEPS, 2))
    base = run(case.session, x, state=start)
    found = {"untouched": _bits(*base)}
    for name, value in start.items():
        moved = {**start, name: value + np.float32(0.25)}
        found[name] = _bits(*run(case.session, x, state=moved))
    for one, other in combinations(found, 2):
        assert found[one] != found[other], f"{one} and {other} give the same"
    successors = {value.tobytes() for value in base[1].values()}
    assert len(successors) == len(start), "two carried tensors have the same successor"


def check_reset(case: Case) -> None:
    """A stream that is set back to its initial state starts anew; its neighbours go on."""
    x = samples(case, STEPS, 3)
    first, first_after = run(case.session, x)
    went_on, went_on_after = run(case.session, x, state=first_after)
    reset = {name: value.copy() for name, value in first_after.items()}
    initial = case.session.contract.initial_state(3)
    for pair in case.session.contract.states:
        assert pair.stream_axis == 0
        reset[pair.input][1] = initial[pair.input][1]
    again, again_after = run(case.session, x, state=reset)
    one, others = np.array([1]), np.array([0, 2])
    assert_same(*rows_of(case, again, again_after, one), *rows_of(case, first, first_after, one))
    assert_same(
        *rows_of(case, again, again_after, others), *rows_of(case, went_on, went_on_after, others)
    )


def check_axes(case: Case) -> None:
    """Time and stream are dynamic, by name, and any length of them runs."""
    shapes = {node.name: node.shape for node in case.session._inference.get_inputs()}
    shapes |= {node.name: node.shape for node in case.session._inference.get_outputs()}
    features = len(case.detector.features)
    assert shapes["x"] == shapes["contribution"] == ["time", "stream", features]
    assert shapes["score"] == ["time", "stream"]
    for pair in case.session.contract.states:
        assert shapes[pair.input] == shapes[pair.output] == ["stream", *pair.row_shape]
    for steps, streams in ((1, 1), (1, 300), (2, 3), (5, 3), (513, 1), (1000, 2)):
        outputs, state = run(case.session, samples(case, steps, streams))
        assert outputs.score.shape == (steps, streams)
        assert outputs.contribution is not None
        assert outputs.contribution.shape == (steps, streams, features)
        assert {len(value) for value in state.values()} == {streams}


def check_parity(case: Case) -> None:
    """The file agrees with PyTorch in score, contribution and state after many steps."""
    x = samples(case, PARITY_STEPS, PARITY_STREAMS)
    outputs, state = run(case.session, x)
    score, contribution, after = in_torch(case.detector, x)
    assert_close(outputs.score, score)
    assert outputs.contribution is not None
    assert_close(outputs.contribution, contribution)
    for name, value in after.items():
        assert_close(state[name], value)


def check_paper(case: Case) -> None:
    """The file and PyTorch give what the papers' equations give, read in NumPy."""
    x = samples(case, 60, 5)
    wanted = by_the_papers(case, x.astype(np.float64))
    outputs, _ = run(case.session, x)
    np.testing.assert_allclose(outputs.score, wanted, rtol=2e-5)
    exact = deepcopy(case.detector).double()
    score, _, _ = exact(torch.from_numpy(x).double(), exact.initial_state(5))
    np.testing.assert_allclose(score.detach().numpy(), wanted, rtol=1e-12)


def check_gradient(case: Case) -> None:
    """Back-propagation through time agrees with finite differences, by every input and weight."""
    torch.manual_seed(5)
    stack = Stack(CELLS[case.cell], 2, 3, case.layers).double()
    weights = dict(stack.named_parameters())
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    state = {
        name: torch.randn_like(value).requires_grad_()
        for name, value in stack.initial_state(2).items()
    }

    def through_time(*inputs: Tensor) -> tuple[Tensor, ...]:
        x, *rest = inputs
        before = dict(zip(state, rest, strict=False))
        after_weights = dict(zip(weights, rest[len(state) :], strict=True))
        y, after = functional_call(stack, after_weights, (x, before))
        return y, *after.values()

    assert torch.autograd.gradcheck(through_time, (x, *state.values(), *weights.values()))


def check_operators(case: Case) -> None:
    """One recurrent operator a layer, and around it only such as keep rows apart."""
    proto = _proto(case)
    nodes = [node for graph in graphs_of(proto.graph) for node in graph.node]
    count = Counter(node.op_type for node in nodes)
    recurrent = {name: number for name, number in count.items() if name in RECURRENT}
    assert list(recurrent.values()) == [case.layers]
    assert set(count) <= ROWWISE | RECURRENT
    assert {node.domain for node in nodes} == {""}
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 18)]
    assert proto.ir_version == 10  # what the oldest onnxruntime that we admit reads


def check_golden(case: Case) -> None:
    """The golden vectors are PyTorch's, and the file reproduces them."""
    golden = case.session.contract.golden
    x = np.array(golden.x, np.float32)
    assert min(x.shape) > 1
    assert len({value for row in golden.score for value in row}) == x.shape[0] * x.shape[1]
    score, contribution, _ = in_torch(case.detector, x)
    assert score.tolist() == golden.score
    assert contribution.tolist() == golden.contribution
    outputs, _ = run(case.session, x)
    assert_close(outputs.score, score)


def check_same_bytes(case: Case) -> None:
    """Exporting again gives the same graph and the same contract, byte for byte."""
    proto = _proto(case)
    documents = {entry.key: entry.value for entry in proto.metadata_props}
    contract = describe(case.detector, sample_meta())
    assert documents == {CONTRACT_KEY: encode_contract(contract)}
    proto.ClearField("metadata_props")
    assert proto.SerializeToString() == trace(case.detector).SerializeToString()


CHECKS: tuple[Check, ...] = (
    check_zero_state,
    check_chunks,
    check_streams,
    check_neighbours,
    check_memory,
    check_states,
    check_reset,
    check_axes,
    check_parity,
    check_paper,
    check_gradient,
    check_operators,
    check_golden,
)
# Tracing again takes seconds, and the deepest graph holds all that the others do.
DEEPEST: tuple[Check, ...] = (check_same_bytes,)


def members(layers: tuple[int, ...] = (1, 2)) -> Iterator[tuple[str, Case, Check]]:
    """Every check over every cell.

    Args:
        layers: The depths to try.

    Yields:
        A readable name such as ``lstm:chunks``, the case and the check.
    """
    for cell in CELLS:
        for depth in layers:
            case = Case(cell, depth)
            for check in (*CHECKS, *(DEEPEST if depth == max(layers) else ())):
                yield f"{case}:{check.__name__.removeprefix('check_')}", case, check


# --- The papers, read a second time. -------------------------------------------------------------


class Weights(NamedTuple):
    """One layer's weights by the letter that the paper gives the gate.

    Attributes:
        W: On the input, each ``[hidden, inputs]``.
        U: On the previous hidden vector, each ``[hidden, hidden]``.
        b: Bias, each ``[hidden]``.
        more: Whatever else the cell has, by its name.
    """

    W: dict[str, Array]
    U: dict[str, Array]
    b: dict[str, Array]
    more: dict[str, Array]

    def total(self, gate: str, x: Array, h: Array) -> Array:
        """``W x + U h + b`` of one gate, for rows ``[stream, inputs]`` and ``[stream, hidden]``."""
        return x @ self.W[gate].T + h @ self.U[gate].T + self.b[gate]


class Paper(NamedTuple):
    """A cell as its paper has it.

    Attributes:
        gates: A letter for each gate, in the order in which our weights are stacked.
        step: ``(weights, x, state) -> state'``; the first of the state is the output.
    """

    gates: str
    step: Callable[[Weights, Array, tuple[Array, ...]], tuple[Array, ...]]


def elman(w: Weights, x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    """Elman 1990."""
    (h,) = state
    return (np.tanh(w.total("h", x, h)),)


def lstm(w: Weights, x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    """Gers, Schmidhuber & Cummins 2000, without peepholes."""
    h, c = state
    remembered = sigmoid(w.total("f", x, h)) * c
    written = sigmoid(w.total("i", x, h)) * np.tanh(w.total("g", x, h))
    c = remembered + written
    return sigmoid(w.total("o", x, h)) * np.tanh(c), c


def gru(w: Weights, x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    """Cho et al. 2014, with the reset after the product."""
    (h,) = state
    z = sigmoid(w.total("z", x, h))
    r = sigmoid(w.total("r", x, h))
    n = np.tanh(x @ w.W["n"].T + w.b["n"] + r * (h @ w.U["n"].T + w.more["b_U"]))
    return (n + z * (h - n),)


PAPERS: dict[str, Paper] = {
    "elman": Paper("h", elman),
    "lstm": Paper("ifgo", lstm),
    "gru": Paper("rzn", gru),
}


def by_the_papers(case: Case, x: Array) -> Array:
    """Scores ``[time, stream]`` of samples ``[time, stream, feature]``, in double precision."""
    assert case.cell in PAPERS, f"write the equations of {case.cell}'s paper into {__name__}.PAPERS"
    paper, detector = PAPERS[case.cell], case.detector
    p = {name: value.double().numpy() for name, value in detector.state_dict().items()}
    xn = np.clip((x - p["mean"]) / p["scale"], -p["bound"], p["bound"])
    y = xn
    for cell in detector.stack.cells:
        assert isinstance(cell, Cell)
        weights = weights_of(cell, paper.gates)
        state = tuple(np.zeros((x.shape[1], cell.hidden)) for _ in cell.state_names)
        outputs = []
        for x_t in y:
            state = paper.step(weights, x_t, state)
            outputs.append(state[0])
        y = np.stack(outputs)
    forecasts = y @ p["head.linear.weight"].T + p["head.linear.bias"]
    error = xn - np.concatenate([np.zeros_like(xn[:1]), forecasts[:-1]])
    z = (error - p["scoring.mean"]) @ p["scoring.matrix"]
    distance: Array = np.sqrt(np.mean(z**2 + 1e-12, axis=2)) / p["scoring.limit"]
    return distance


def weights_of(cell: Cell, gates: str) -> Weights:
    """A layer's weights, taken apart."""
    p = {name: value.detach().double().numpy() for name, value in cell.named_parameters()}
    W, U, b = (  # noqa: N806 - the papers' names
        {gate: p[name][k * cell.hidden : (k + 1) * cell.hidden] for k, gate in enumerate(gates)}
        for name in ("W", "U", "b")
    )
    return Weights(W, U, b, {name: p[name] for name in set(p) - {"W", "U", "b"}})


def sigmoid(v: Array) -> Array:
    """The logistic function."""
    return 1 / (1 + np.exp(-v))


# --- Tools ---------------------------------------------------------------------------------------


def samples(case: Case, steps: int, streams: int) -> Float32:
    """Samples around the operating point, ``[time, stream, feature]``, the same at every call."""
    rng = np.random.default_rng(11)
    shape = (steps, streams, len(case.detector.features))
    return rng.normal(2, 3, shape).astype(np.float32)


def run(
    session: Session,
    x: Float32,
    lengths: list[int] | None = None,
    state: State | None = None,
) -> tuple[Outputs, State]:
    """Runs samples in pieces of the lengths given, by default at once from the initial state."""
    state = session.contract.initial_state(x.shape[1]) if state is None else state
    found, start = [], 0
    for length in lengths or [len(x)]:
        piece = np.ascontiguousarray(x[start : start + length])
        if len(piece):
            outputs, state = session.run(piece, state)
            found.append(outputs)
        start += length
    score = np.concatenate([outputs.score for outputs in found])
    shares = [o.contribution for o in found if o.contribution is not None]
    return Outputs(score, np.concatenate(shares) if shares else None), state


def in_torch(
    detector: Detector, x: Float32, state: dict[str, Tensor] | None = None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The same in PyTorch."""
    with torch.no_grad():
        before = detector.initial_state(x.shape[1]) if state is None else state
        result: tuple[Tensor, Tensor, dict[str, Tensor]] = detector(torch.from_numpy(x), before)
    return result


def rows_of(
    case: Case, outputs: Outputs, state: State, rows: NDArray[Any]
) -> tuple[Outputs, State]:
    """Some streams' share of a result."""
    shares = None if outputs.contribution is None else outputs.contribution[:, rows]
    kept = {
        pair.input: np.take(state[pair.input], rows, pair.stream_axis)
        for pair in case.session.contract.states
    }
    return Outputs(outputs.score[:, rows], shares), kept


def assert_same(got: Outputs, after: State, wanted: Outputs, wanted_after: State) -> None:
    """Bit for bit."""
    assert _bits(got, after) == _bits(wanted, wanted_after)


def assert_close(got: Float32, wanted: Tensor) -> None:
    """Within `TOLERANCE` of the scale of what is wanted."""
    scale = float(wanted.abs().max())
    assert got.shape == tuple(wanted.shape)
    assert np.abs(got.astype(np.float64) - wanted.numpy()).max() <= TOLERANCE * scale


def _bits(outputs: Outputs, state: State) -> dict[str, bytes]:
    assert outputs.contribution is not None
    arrays = {"score": outputs.score, "contribution": outputs.contribution, **state}
    return {name: array.tobytes() for name, array in arrays.items()}


def _proto(case: Case) -> onnx.ModelProto:
    return onnx.load(sample_model(case.cell, case.layers))


@cache
def _detector(cell: str, layers: int) -> Detector:
    return sample_detector(cell, layers)


@cache
def _session(cell: str, layers: int) -> Session:
    return load_model(sample_model(cell, layers))
