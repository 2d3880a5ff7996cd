"""The conformance list: what every cell in `train.cells.CELLS` must do, alone and exported.

Each ``check_*`` takes a `Case`. A new cell needs its line in `CELLS` and, here, its paper's
equations in `PAPERS` and its operators in `RECURRENT`; then all of this runs over it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from edge_runtime.contract import CONTRACT_KEY, encode_contract
from edge_runtime.session import Float32, Outputs, Session, State, load_model
from export.canonical import graphs_of
from export.describe import describe
from export.to_onnx import trace
from sample_models import sample_detector, sample_meta, sample_model
from train.cells import CELLS
from train.config import ModelConfig
from train.detector import Detector
from train.layers import BothWays, Causal
from train.scoring import BOUND

Array = NDArray[np.float64]
STEPS, STREAMS = 41, 300
PARITY_STEPS, PARITY_STREAMS = 600, 7
TOLERANCE = 1e-5
BATCHES = (1, 2, 7, 64, 300)
LENGTHS = (1, 2, 7, 40)

# Operators that compute each row by itself, and in the same way wherever in a batch it stands.
# ReduceSum and RNN are missing on purpose: onnxruntime's kernels round by place and batch size.
ROWWISE = {
    "Add", "Cast", "Clip", "Concat", "ConstantOfShape", "Div", "Equal", "Gather", "Gemm",
    "Identity", "MatMul", "Mod", "Mul", "Not", "Range", "Reshape", "Shape", "Sigmoid", "Slice",
    "Relu", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Unsqueeze", "Where",
}  # fmt: skip
RECURRENT = {
    "dense": [],
    "elman": ["Scan"],
    "jordan": ["Scan"],
    "irnn": ["Scan"],
    "lstm": ["LSTM"],
    "lstm_peephole": ["LSTM"],
    "gru": ["GRU"],
    "clockwork": ["Scan"],
    "scrn": ["Scan"],
}


@dataclass(frozen=True, slots=True)
class Case:
    """A member of the list.

    Attributes:
        cells: Of each layer, lowest first; keys of `CELLS`.
        look_ahead: Samples that a second stack reads backward.
        options: Of the cells, as items.
    """

    cells: tuple[str, ...]
    look_ahead: int = 0
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """``lstm``, ``lstm-2`` for two layers, ``gru-before``, ``gru+lstm``, ``lstm-ahead``."""
        same = len(set(self.cells)) == 1
        name = self.cells[0] if same else "+".join(self.cells)
        layers = f"-{len(self.cells)}" if same and len(self.cells) > 1 else ""
        options = "".join(f"-{value}" for _, value in self.options)
        return f"{name}{layers}{options}{'-ahead' if self.look_ahead else ''}"

    @property
    def model(self) -> dict[str, Any]:
        """For `sample_detector` and `sample_model`."""
        return {
            "cell": None,
            "layers": self.cells,
            "look_ahead": self.look_ahead,
            **dict(self.options),
        }

    @property
    def path(self) -> Path:
        """The exported file."""
        return sample_model(**self.model)

    @property
    def detector(self) -> Detector:
        """The PyTorch side; do not change it."""
        return _detector(self)

    @property
    def session(self) -> Session:
        """The exported side, as a gateway loads it."""
        return _session(self)


Check = Callable[[Case], None]


def check_zero_state(case: Case) -> None:
    """A stream begins with zeros, so its first score is the distance from the mean.

    Not so with a look-ahead, where what lies ahead has its say.
    """
    initial = case.session.contract.initial_state(2)
    torch_initial = case.detector.initial_state(2)
    assert list(initial) == list(torch_initial) == list(case.detector.state_names)
    for name, value in initial.items():
        assert value.shape == tuple(torch_initial[name].shape)
        assert not value.any()
        assert not torch_initial[name].any()
    if case.look_ahead:
        return
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
    # PyTorch promises no bits: on some processors its products round by the number of rows.
    torch.testing.assert_close(torch.cat([first[0], rest[0]]), score)
    torch.testing.assert_close(torch.cat([first[1], rest[1]]), contribution)
    for name in torch_after:
        torch.testing.assert_close(rest[2][name], torch_after[name])


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
    """The same samples score otherwise after another past; to a cell without memory they do not."""
    x = samples(case, STEPS, 2)
    _, past = run(case.session, x[:-1])
    if set(case.cells) == {"dense"}:  # but for what waits: the samples ahead, and one forecast
        waits = case.look_ahead + 1
        cold, _ = run(case.session, x)
        warm, _ = run(case.session, x, state=past)
        assert (cold.score[:waits] != warm.score[:waits]).all()
        assert (cold.score[waits:] == warm.score[waits:]).all()
        return
    cold, cold_after = run(case.session, x[:4])
    warm, warm_after = run(case.session, x[:4], state=past)
    assert (cold.score != warm.score).all()
    assert any((cold_after[name] != warm_after[name]).any() for name in past)


def check_states(case: Case) -> None:
    """Each carried tensor counts by itself, and no two are one and the same."""
    x = samples(case, 3, 2)
    _, start = run(case.session, samples(case, STEPS, 2))
    clocks = [name for name, value in start.items() if value.dtype.kind == "i"]
    start |= {name: start[name] + at for at, name in enumerate(clocks)}  # no two tell the same time
    base = run(case.session, x, state=start)
    found = {"untouched": _bits(*base)}
    for name, value in start.items():
        moved = {**start, name: value + value.dtype.type(1 if name in clocks else 0.25)}
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
        one_stream = [slice(None)] * len(pair.shape)
        one_stream[pair.stream_axis] = slice(1, 2)
        reset[pair.input][tuple(one_stream)] = initial[pair.input][tuple(one_stream)]
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
        assert shapes[pair.input] == shapes[pair.output] == list(pair.shape)
    for steps, streams in ((1, 1), (1, 300), (2, 3), (5, 3), (513, 1), (1000, 2)):
        outputs, state = run(case.session, samples(case, steps, streams))
        assert outputs.score.shape == (steps, streams)
        assert outputs.contribution is not None
        assert outputs.contribution.shape == (steps, streams, features)
        for pair in case.session.contract.states:
            assert state[pair.input].shape[pair.stream_axis] == streams


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
    layers = tiny_layers(case)
    weights = dict(layers.named_parameters())
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    initial = layers.initial_state(2)
    clocks = {name: value + 1 for name, value in initial.items() if not value.is_floating_point()}
    state = {
        name: torch.randn_like(value).requires_grad_()
        for name, value in initial.items()
        if name not in clocks
    }

    def through_time(*inputs: Tensor) -> tuple[Tensor, ...]:
        x, *rest = inputs
        before = dict(zip(state, rest, strict=False)) | clocks
        after_weights = dict(zip(weights, rest[len(state) :], strict=True))
        reading, after = functional_call(layers, after_weights, (x, before))
        outputs = [reading.past, *([] if reading.future is None else [reading.future])]
        return *outputs, *(after[name] for name in state)

    assert torch.autograd.gradcheck(through_time, (x, *state.values(), *weights.values()))


def check_operators(case: Case) -> None:
    """The recurrent operators of its layers, and around them only such as keep rows apart."""
    proto = _proto(case)
    nodes = [node for graph in graphs_of(proto.graph) for node in graph.node]
    count = Counter(node.op_type for node in nodes)
    ways = 2 if case.look_ahead else 1
    wanted = Counter(name for cell in case.cells for name in RECURRENT[cell] * ways)
    assert {name: count[name] for name in ("LSTM", "GRU", "RNN", "Scan", "Loop")} == {
        name: wanted[name] for name in ("LSTM", "GRU", "RNN", "Scan", "Loop")
    }
    assert set(count) <= ROWWISE | set(wanted)
    assert {node.domain for node in nodes} == {""}
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 18)]
    assert proto.ir_version == 10  # what the oldest onnxruntime that we admit reads


def check_golden(case: Case) -> None:
    """The golden vectors are PyTorch's, and the file reproduces them."""
    golden = case.session.contract.golden
    x = np.array(golden.x, np.float32)
    assert min(x.shape) > 1
    told = golden.score[case.look_ahead :]  # before that, a score is about no sample
    assert len({value for row in told for value in row}) == len(told) * x.shape[1]
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
# Tracing again takes seconds: where cells are mixed, and of each that is in no mixture the deepest.
TWICE: tuple[Check, ...] = (check_same_bytes,)


SPECIAL: tuple[Case, ...] = (
    Case(("gru",), options=(("reset", "before"),)),
    Case(("clockwork",), options=(("periods", (1, 3)),)),
    Case(("scrn",), options=(("context", 5), ("alpha", 0.5))),
    Case(("gru", "lstm")),
    Case(("scrn", "clockwork", "jordan")),
    *(Case((cell,), look_ahead=3) for cell in ("dense", "elman", "lstm", "gru", "clockwork")),
    Case(("jordan", "lstm_peephole"), look_ahead=2),
)


def cases() -> list[Case]:
    """Every cell with one layer and with two, and the ways to put them together."""
    plain = [Case((cell,) * layers) for cell in CELLS for layers in (1, 2)]
    return [*plain, *SPECIAL]


def members() -> Iterator[tuple[str, Case, Check]]:
    """Every check over every case.

    Yields:
        A readable name such as ``lstm:chunks``, the case and the check.
    """
    mixtures = [case for case in SPECIAL if len({*case.cells}) > 1]
    mixed = {cell for case in mixtures for cell in case.cells}
    for case in cases():
        alone = case not in SPECIAL and len(case.cells) > 1 and case.cells[0] not in mixed
        for check in (*CHECKS, *(TWICE if alone or case in mixtures else ())):
            yield f"{case}:{check.__name__.removeprefix('check_')}", case, check


# --- The papers, read a second time. -------------------------------------------------------------

Weights = Mapping[str, Array]
"""One layer's parameters by name."""


class Paper(NamedTuple):
    """A cell as its paper has it.

    Attributes:
        step: ``(weights, x [stream, inputs], state, options) -> (y, state')``.
        carried: Lengths of what is carried, as multiples of the hidden vector's; 0 is one number.
    """

    step: Callable[[Weights, Array, tuple[Array, ...], Mapping[str, Any]], tuple[Array, Any]]
    carried: tuple[int, ...]


def gates(w: Weights, letters: str, x: Array, h: Array) -> dict[str, Array]:
    """``W x + U h + b`` of each gate; the weights hold one block of rows for each letter."""
    found = {}
    for letter, W, U, b in zip(  # noqa: N806 - the papers' names
        letters, *(np.split(w[name], len(letters)) for name in ("W", "U", "b")), strict=True
    ):
        found[letter] = x @ W.T + h @ U.T + b
    return found


def dense(w: Weights, x: Array, state: Any, _: Any) -> tuple[Array, Any]:
    """A layer of a feed-forward network."""
    return np.tanh(x @ w["W"].T + w["b"]), state


def elman(w: Weights, x: Array, state: Any, _: Any) -> tuple[Array, Any]:
    """Elman 1990."""
    (h,) = state
    h = np.tanh(gates(w, "h", x, h)["h"])
    return h, (h,)


def jordan(w: Weights, x: Array, state: Any, _: Any) -> tuple[Array, Any]:
    """Jordan 1986: the output units of one step are inputs of the next."""
    (said,) = state
    hidden = np.tanh(np.hstack([x, said]) @ np.hstack([w["W"], w["U"]]).T + w["b"])
    said = np.tanh(hidden @ w["V"].T + w["c"])
    return said, (said,)


def irnn(w: Weights, x: Array, state: Any, _: Any) -> tuple[Array, Any]:
    """Le, Jaitly & Hinton 2015."""
    (h,) = state
    h = np.maximum(0.0, gates(w, "h", x, h)["h"])
    return h, (h,)


def lstm(w: Weights, x: Array, state: Any, _: Any) -> tuple[Array, Any]:
    """Gers, Schmidhuber & Cummins 2000, without peepholes."""
    h, c = state
    net = gates(w, "ifgo", x, h)
    c = sigmoid(net["f"]) * c + sigmoid(net["i"]) * np.tanh(net["g"])
    h = sigmoid(net["o"]) * np.tanh(c)
    return h, (h, c)


def lstm_peephole(w: Weights, x: Array, state: Any, _: Any) -> tuple[Array, Any]:
    """Gers & Schmidhuber 2000: each gate sees its own cell, the output gate after the update."""
    h, c = state
    net, (to_i, to_f, to_o) = gates(w, "ifgo", x, h), np.split(w["P"], 3)
    new = np.empty_like(c)
    for unit in range(c.shape[1]):  # one by one, as a peephole is
        kept = sigmoid(net["f"][:, unit] + to_f[unit] * c[:, unit])
        taken = sigmoid(net["i"][:, unit] + to_i[unit] * c[:, unit])
        new[:, unit] = kept * c[:, unit] + taken * np.tanh(net["g"][:, unit])
    h = sigmoid(net["o"] + new @ np.diag(to_o)) * np.tanh(new)
    return h, (h, new)


def gru(w: Weights, x: Array, state: Any, options: Mapping[str, Any]) -> tuple[Array, Any]:
    """Cho et al. 2014; with the reset after the product as cuDNN has it."""
    (h,) = state
    net = gates(w, "rzn", x, h)
    r, z = sigmoid(net["r"]), sigmoid(net["z"])
    (_, _, W), (_, _, U), (_, _, b) = (np.split(w[k], 3) for k in ("W", "U", "b"))  # noqa: N806
    if options.get("reset") == "before":
        n = np.tanh(x @ W.T + (r * h) @ U.T + b)
    else:
        n = np.tanh(x @ W.T + b + r * (h @ U.T + w["b_U"]))
    h = n + z * (h - n)
    return h, (h,)


def clockwork(w: Weights, x: Array, state: Any, options: Mapping[str, Any]) -> tuple[Array, Any]:
    """Koutnik et al. 2014, equations 1 to 3, module by module."""
    h, clock = state
    periods = options.get("periods", (1, 2, 4, 8))
    width = h.shape[1] // len(periods)
    new = h.copy()
    for stream, time in enumerate(clock.astype(int)):
        for module, period in enumerate(periods):
            if time % period:
                continue
            rows = slice(module * width, (module + 1) * width)
            slower = slice(module * width, None)  # itself and all that move more slowly
            net = w["W"][rows] @ x[stream] + w["U"][rows, slower] @ h[stream, slower] + w["b"][rows]
            new[stream, rows] = np.tanh(net)
    return new, (new, clock + 1)


def scrn(w: Weights, x: Array, state: Any, options: Mapping[str, Any]) -> tuple[Array, Any]:
    """Mikolov et al. 2015, equations 6 to 8."""
    h, s = state
    alpha = options.get("alpha", 0.95)
    s = (1 - alpha) * (x @ w["B"].T) + alpha * s[:, : len(w["B"])]
    h = sigmoid(s @ w["P"].T + x @ w["A"].T + h @ w["R"].T + w["b"])
    return np.hstack([h, s]), (h, s)


PAPERS: dict[str, Paper] = {
    "dense": Paper(dense, ()),
    "elman": Paper(elman, (1,)),
    "jordan": Paper(jordan, (1,)),
    "irnn": Paper(irnn, (1,)),
    "lstm": Paper(lstm, (1, 1)),
    "lstm_peephole": Paper(lstm_peephole, (1, 1)),
    "gru": Paper(gru, (1,)),
    "clockwork": Paper(clockwork, (1, 0)),
    "scrn": Paper(scrn, (1, 1)),
}


def by_the_papers(case: Case, x: Array) -> Array:
    """Scores ``[time, stream]`` of samples ``[time, stream, feature]``, in double precision."""
    p = {name: value.double().numpy() for name, value in case.detector.state_dict().items()}
    xn = np.clip((x - p["mean"]) / p["scale"], -BOUND, BOUND)
    ahead = case.look_ahead
    line = np.concatenate([np.zeros((ahead, *xn.shape[1:])), xn])  # it stood at its mean before
    due = line[: len(xn)]
    past = read_by_the_papers(case, p, "layers.forth", due)
    made = past @ p["head.linear.weight"].T + p["head.linear.bias"]
    forecast = np.concatenate([np.zeros_like(made[:1]), made[:-1]])
    for t in range(len(xn) if ahead else 0):
        back = read_by_the_papers(case, p, "layers.back", line[t + 1 : t + 1 + ahead][::-1])
        forecast[t] += back[-1] @ p["head.from_future.weight"].T
    z = (due - forecast - p["scoring.mean"]) @ p["scoring.matrix"]
    distance: Array = np.sqrt(np.mean(z**2 + 1e-12, axis=2)) / p["scoring.limit"]
    return distance


def read_by_the_papers(case: Case, p: Weights, where: str, x: Array) -> Array:
    """What a stack of layers makes of inputs ``[time, stream, inputs]`` from a cold start."""
    for layer, name in enumerate(case.cells):
        assert name in PAPERS, f"write the equations of {name}'s paper into {__name__}.PAPERS"
        own = f"{where}.cells.{layer}."
        weights = {key.removeprefix(own): value for key, value in p.items() if key.startswith(own)}
        shapes = ((x.shape[1], 8) if length else x.shape[1] for length in PAPERS[name].carried)
        state: Any = tuple(np.zeros(shape) for shape in shapes)
        outputs = []
        for x_t in x:
            y, state = PAPERS[name].step(weights, x_t, state, dict(case.options))
            outputs.append(y)
        x = np.stack(outputs)
    return x


def tiny_layers(case: Case) -> Causal | BothWays:
    """Layers as the case's, so small that finite differences can be taken of all of them."""
    periods = {"periods": (1, 2)} if "clockwork" in case.cells else {}
    context = {"context": 2} if "scrn" in case.cells else {}
    model = ModelConfig(
        layers=case.cells,
        hidden=4 if periods else 3,
        look_ahead=min(case.look_ahead, 2),
        **{**dict(case.options), **periods, **context},
    )
    return Detector(("a", "b"), model).double().layers


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
    return onnx.load(case.path)


@cache
def _detector(case: Case) -> Detector:
    return sample_detector(**case.model)


@cache
def _session(case: Case) -> Session:
    return load_model(case.path)
