"""Stateful ONNX models written node by node: what the exporter never makes, but a gateway may meet.

Each comes as bytes with a contract inside, its golden vectors taken from onnxruntime itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.contract import (
    CONTRACT_KEY,
    CONTRACT_SCHEMA,
    Contract,
    Feature,
    Golden,
    State,
    encode_contract,
)
from edge_runtime.session import Session

Nodes = list[onnx.NodeProto]
Axes = tuple[int | str, ...]
Changes = Iterable[tuple[str, Any]]

GOLDEN_X = np.random.default_rng(3).uniform(0.5, 2.0, (8, 2, 2)).astype(np.float32)


def ratio_model(warm_up_steps: int = 2) -> bytes:
    """Features ``a``, ``b``; the score is the running sum of a / b.

    ``b = 0`` makes it infinite, ``a = b = 0`` not a number, and the sum keeps it for ever: only a
    reset heals the state. Division and addition are exact in any batch.
    """
    nodes = [
        _node("Split", ["x"], ["a", "b"], axis=2, num_outputs=2),
        _node("Div", ["a", "b"], ["ratio"]),
        _node("Unsqueeze", ["total", "zero"], ["start"]),
        _node("Concat", ["start", "ratio"], ["line"], axis=0),
        _node("CumSum", ["line", "zero_scalar"], ["sums"]),
        _node("Slice", ["sums", "one", "end", "zero"], ["after"]),
        _node("Squeeze", ["after", "two"], ["score"]),
        _node("Slice", ["sums", "minus_one", "end", "zero"], ["last"]),
        _node("Squeeze", ["last", "zero"], ["total_next"]),
        _node("Abs", ["x"], ["size"]),
        _node("ReduceSum", ["size", "two"], ["sizes"], keepdims=1),
        _node("Div", ["size", "sizes"], ["contribution"]),
    ]
    proto = _model(
        nodes,
        inputs=[_tensor("x", ("time", "stream", 2)), _tensor("total", ("stream", 1))],
        outputs=[
            _tensor("score", ("time", "stream")),
            _tensor("contribution", ("time", "stream", 2)),
            _tensor("total_next", ("stream", 1)),
        ],
    )
    states = (State(input="total", output="total_next", shape=("stream", 1)),)
    return with_contract(proto, states, contribution="contribution", warm_up_steps=warm_up_steps)


def foreign_model() -> bytes:
    """Three states of three kinds and a constant, no contribution.

    ``mem`` float32 ``[2, stream, 4]`` from 1.0, ``seen`` int64 ``[stream]`` from 7 and ``half``
    float64 ``[stream, 3]``; ``rate`` is an int64 scalar. The score is the running sum of all
    sensors, begun at ``mem[0, :, 0]``, over the rate.
    """
    nodes = [
        _node("ReduceSum", ["x", "two"], ["total"], keepdims=1),
        _node("Slice", ["mem", "zero", "one", "zero"], ["mem_row"]),
        _node("Slice", ["mem_row", "zero", "one", "two"], ["start"]),
        _node("Concat", ["start", "total"], ["line"], axis=0),
        _node("CumSum", ["line", "zero_scalar"], ["sums"]),
        _node("Slice", ["sums", "one", "end", "zero"], ["after"]),
        _node("Squeeze", ["after", "two"], ["running"]),
        _node("Cast", ["rate"], ["rate_float"], to=TensorProto.FLOAT),
        _node("Div", ["running", "rate_float"], ["score"]),
        _node("Slice", ["sums", "minus_one", "end", "zero"], ["last"]),
        _node("Sub", ["mem", "mem"], ["nothing"]),
        _node("Add", ["nothing", "last"], ["mem_next"]),
        _node("Shape", ["x"], ["steps"], start=0, end=1),
        _node("Add", ["seen", "steps"], ["seen_next"]),
        _node("Squeeze", ["last", "zero"], ["last_row"]),
        _node("Cast", ["last_row"], ["last_double"], to=TensorProto.DOUBLE),
        _node("Sub", ["half", "half"], ["nothing_double"]),
        _node("Add", ["nothing_double", "last_double"], ["whole"]),
        _node("Mul", ["whole", "a_half"], ["half_next"]),
    ]
    double, integer = TensorProto.DOUBLE, TensorProto.INT64
    proto = _model(
        nodes,
        inputs=[
            _tensor("rate", (), integer),
            _tensor("half", ("stream", 3), double),
            _tensor("seen", ("stream",), integer),
            _tensor("x", ("time", "stream", 2)),
            _tensor("mem", (2, "stream", 4)),
        ],
        outputs=[
            _tensor("seen_next", ("stream",), integer),
            _tensor("mem_next", (2, "stream", 4)),
            _tensor("score", ("time", "stream")),
            _tensor("half_next", ("stream", 3), double),
        ],
    )
    states = (
        State(input="mem", output="mem_next", shape=(2, "stream", 4), initial=1.0),
        State(input="seen", output="seen_next", shape=("stream",), dtype="int64", initial=7),
        State(input="half", output="half_next", shape=("stream", 3), dtype="float64"),
    )
    return with_contract(proto, states, constants={"rate": 16.0})


@dataclass(frozen=True, slots=True)
class Layout:
    """A shape that somebody else's model may have.

    Attributes:
        x_axes: Of the samples, features ``a`` and ``b``.
        score_axes: Of the score.
        state_axes: Of the one state, ``sum``.
        x_dtype: Of the samples, and of the score.
        state_dtype: Of the state.
        mixing: Whether each row gets the mean of all rows as well.
        frozen: Whether the graph has 1 for the stream axis.
        vague: Whether the graph says nothing about the lengths of the score's axes.
    """

    x_axes: Axes = ("time", "stream", "feature")
    score_axes: Axes = ("time", "stream")
    state_axes: Axes = ("stream", 1)
    x_dtype: str = "float32"
    state_dtype: str = "float32"
    mixing: bool = False
    frozen: bool = False
    vague: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are summed up, because the state holds no others exactly."""
        return self.state_dtype not in {"float32", "float64"} or self.x_dtype == "float16"


LAYOUTS = {
    "batch-first": Layout(("stream", "time", "feature"), ("stream", "time"), (2, "stream", 3)),
    "one-step": Layout(("stream", "feature"), ("stream",), ("stream",)),
    "one-step, 1s": Layout(("stream", 1, "feature"), ("stream", 1), (1, 2, "stream")),
    "time inside": Layout(("feature", 1, "stream", "time"), ("stream", 1, "time", 1)),
    "turned": Layout(("stream", "feature", "time"), ("stream", "time")),
    "score column": Layout(score_axes=("time", "stream", 1)),
    "float64 samples": Layout(x_dtype="float64", state_dtype="float64"),
    "float16 samples": Layout(x_dtype="float16", state_dtype="float16"),
    "float64 state": Layout(state_dtype="float64", state_axes=("stream", 2)),
    "int32 state": Layout(state_dtype="int32", state_axes=(3, "stream")),
}
ONE_STREAM = {
    "no stream": Layout(("time", "feature"), ("time",), ("stream", 1), frozen=True),
    "no stream, no time": Layout(("feature",), (), (1, "stream", 1), frozen=True),
    "no stream in the score": Layout(("stream", "time", "feature"), ("time", 1), frozen=True),
}


def layout_model(layout: Layout, *, one_stream: bool = False, changes: Changes = ()) -> bytes:
    """The running sum of ``0.75 a + 0.5 b`` from 2.0, in any shape.

    The contribution is ``|x|``. Additions and products of these are exact in any batch.
    """
    proto = layout_graph(layout)
    state = State(
        input="sum",
        output="sum_next",
        shape=layout.state_axes,
        dtype=layout.state_dtype,
        initial=2.0,
    )
    return with_contract(
        proto,
        [state],
        contribution="contribution",
        x_shape=layout.x_axes,
        x_dtype=layout.x_dtype,
        score_shape=layout.score_axes,
        one_stream=one_stream,
        **dict(changes),
    )


def layout_graph(layout: Layout) -> onnx.ModelProto:
    """`layout_model` without a contract."""
    kind, held = (
        helper.np_dtype_to_tensor_dtype(np.dtype(n)) for n in (layout.x_dtype, layout.state_dtype)
    )
    names = [axis for axis in layout.x_axes if isinstance(axis, str)]
    own: list[str] = [name for name in ("time", "stream", "feature") if name in names]
    nodes, numbers = [_node("Cast", ["x"], ["x_float"], to=TensorProto.FLOAT)], dict[str, Any]()

    def chain(kind_of: str, source: str, target: str, axes: list[int]) -> None:
        if not axes:
            nodes.append(_node("Identity", [source], [target]))
            return
        numbers[f"{target}_axes"] = np.array(axes)
        nodes.append(_node(kind_of, [source, f"{target}_axes"], [target]))

    chain("Squeeze", "x_float", "x_dense", _ones(layout.x_axes))
    nodes.append(_transposed("x_dense", "x_own", [names.index(n) for n in own]))
    missing = [at for at, axis in enumerate(("time", "stream")) if axis not in names]
    chain("Unsqueeze", "x_own", "x_ours", missing)  # [time, stream, 2]
    nodes += [
        _node("Split", ["x_ours"], ["a", "b"], axis=2, num_outputs=2),
        _node("Mul", ["a", "three_quarters"], ["a_part"]),
        _node("Mul", ["b", "half_float"], ["b_part"]),
        _node("Add", ["a_part", "b_part"], ["part_any"]),
        _node("Floor" if layout.whole else "Identity", ["part_any"], ["part_own"]),
    ]
    if layout.mixing:
        nodes += [
            _node("ReduceMean", ["part_own", "one"], ["mean"]),
            _node("Add", ["part_own", "mean"], ["part"]),
        ]
    else:
        nodes.append(_node("Identity", ["part_own"], ["part"]))
    at, rank = layout.state_axes.index("stream"), len(layout.state_axes)
    fixed = [axis for axis in range(rank) if axis != at]
    nodes.append(_node("Cast", ["sum"], ["sum_float"], to=TensorProto.FLOAT))
    if fixed:
        numbers["fixed"], numbers["starts"] = np.array(fixed), np.zeros(len(fixed), np.int64)
        numbers["stops"] = np.ones(len(fixed), np.int64)
        nodes.append(_node("Slice", ["sum_float", "starts", "stops", "fixed"], ["sum_corner"]))
    chain("Squeeze", "sum_corner" if fixed else "sum_float", "sum_flat", fixed)  # [stream]
    nodes += [
        _node("Unsqueeze", ["sum_flat", "zero_and_two"], ["start"]),
        _node("Concat", ["start", "part"], ["line"], axis=0),
        _node("CumSum", ["line", "zero_scalar"], ["sums"]),
        _node("Slice", ["sums", "one", "end", "zero"], ["after"]),
        _node("Squeeze", ["after", "two"], ["score_ours"]),  # [time, stream]
        _node("Slice", ["sums", "minus_one", "end", "zero"], ["last"]),
        _node("Squeeze", ["last", "zero_and_two"], ["last_flat"]),
        _node("Sub", ["sum_float", "sum_float"], ["nothing"]),
    ]
    chain("Unsqueeze", "last_flat", "last_wide", fixed)
    nodes += [
        _node("Add", ["nothing", "last_wide"], ["sum_after"]),
        _node("Cast", ["sum_after"], ["sum_next"], to=held),
    ]
    score_names = [axis for axis in layout.score_axes if isinstance(axis, str)]
    gone = [at for at, axis in enumerate(("time", "stream")) if axis not in score_names]
    chain("Squeeze", "score_ours", "score_own", gone)
    order = [[n for n in own if n in score_names].index(n) for n in score_names]
    nodes.append(_transposed("score_own", "score_dense", order))
    chain("Unsqueeze", "score_dense", "score_wide", _ones(layout.score_axes))
    nodes += [
        _node("Cast", ["score_wide"], ["score"], to=kind),
        _node("Abs", ["x"], ["contribution"]),
    ]

    def shape(axes: Axes) -> list[int | str]:
        known = {"feature": 2, **({"stream": 1} if layout.frozen else {})}
        return [known.get(axis, axis) if isinstance(axis, str) else axis for axis in axes]

    score_shape = [f"d{i}" for i in range(len(layout.score_axes))] if layout.vague else None
    return _model(
        nodes,
        inputs=[
            _tensor("x", shape(layout.x_axes), kind),
            _tensor("sum", shape(layout.state_axes), held),
        ],
        outputs=[
            _tensor("score", score_shape or shape(layout.score_axes), kind),
            _tensor("contribution", shape(layout.x_axes), kind),
            _tensor("sum_next", shape(layout.state_axes), held),
        ],
        numbers=numbers,
    )


def memoryless_model() -> bytes:
    """The score is ``a + b`` and nothing is carried."""
    nodes = [
        _node("Split", ["x"], ["a", "b"], axis=2, num_outputs=2),
        _node("Add", ["a", "b"], ["both"]),
        _node("Squeeze", ["both", "two"], ["score"]),
    ]
    inputs = [_tensor("x", ("time", "stream", 2))]
    return with_contract(_model(nodes, inputs, [_tensor("score", ("time", "stream"))]), [])


def look_ahead_model(ahead: int, *, warm_up_steps: int = 2) -> bytes:
    """The score of a sample is its running sum of ``a b / b`` plus the largest ``b`` to come.

    That is the largest of the sample itself and the ``ahead`` after it. ``buffer`` holds the last
    ``ahead`` samples. Void scores are NaN; so is a score with ``b = 0``, and the sum keeps that.
    The contribution is the sample's own ``|x|``.
    """
    nodes = [
        _node("Concat", ["buffer", "x"] if ahead else ["x"], ["samples"], axis=0),
        _node("Split", ["samples"], ["a", "b"], axis=2, num_outputs=2),
        _node("Less", ["b", "beginning"], ["no_sample"]),
        _node("Div", ["b", "b"], ["b_by_b"]),
        _node("Mul", ["a", "b_by_b"], ["ratio_any"]),
        _node("Where", ["no_sample", "nothing", "ratio_any"], ["ratio_all"]),
        _node("Slice", ["ratio_all", "zero", "stop_0", "zero"], ["ratio"]),
        _node("Slice", ["no_sample", "zero", "stop_0", "zero"], ["void"]),
        _node("Slice", ["samples", "zero", "stop_0", "zero"], ["own"]),
        _node("Abs", ["own"], ["contribution"]),
        _node("Unsqueeze", ["total", "zero"], ["start"]),
        _node("Concat", ["start", "ratio"], ["line"], axis=0),
        _node("CumSum", ["line", "zero_scalar"], ["sums"]),
        _node("Slice", ["sums", "one", "end", "zero"], ["after"]),
        _node("Slice", ["sums", "minus_one", "end", "zero"], ["last"]),
        _node("Squeeze", ["last", "zero"], ["total_next"]),
    ]
    numbers: dict[str, Any] = {
        "beginning": np.array(-1e29, np.float32),
        "nothing": np.array(0, np.float32),
        "no_number": np.array(np.nan, np.float32),
    }
    for k in range(ahead + 1):
        numbers[f"start_{k}"] = np.array([k])
        numbers[f"stop_{k}"] = np.array([k - ahead if k < ahead else 2**31])
        nodes.append(_node("Slice", ["b", f"start_{k}", f"stop_{k}", "zero"], [f"b_{k}"]))
    nodes += [
        _node("Max", [f"b_{k}" for k in range(ahead + 1)], ["most"]),
        _node("Add", ["after", "most"], ["sum"]),
        _node("Where", ["void", "no_number", "sum"], ["valid"]),
        _node("Squeeze", ["valid", "two"], ["score"]),
    ]
    inputs = [_tensor("x", ("time", "stream", 2)), _tensor("total", ("stream", 1))]
    outputs = [
        _tensor("score", ("time", "stream")),
        _tensor("contribution", ("time", "stream", 2)),
        _tensor("total_next", ("stream", 1)),
    ]
    states = [State(input="total", output="total_next", shape=("stream", 1))]
    if ahead:
        numbers["last_ones"] = np.array([-ahead])
        nodes.append(_node("Slice", ["samples", "last_ones", "end", "zero"], ["buffer_next"]))
        inputs.append(_tensor("buffer", (ahead, "stream", 2)))
        outputs.append(_tensor("buffer_next", (ahead, "stream", 2)))
        shape = (ahead, "stream", 2)
        states.append(State(input="buffer", output="buffer_next", shape=shape, initial=-1e30))
    return with_contract(
        _model(nodes, inputs, outputs, numbers),
        states,
        contribution="contribution",
        look_ahead=ahead,
        warm_up_steps=warm_up_steps,
    )


def one_step_graph(*, hidden: int = 128, features: int = 2, seed: int = 0) -> onnx.ModelProto:
    """An LSTM as voice-activity detectors have it: one step a call, both states in one tensor.

    ``x`` ``[stream, feature]``, ``state`` ``[2, stream, hidden]``, ``sr`` an int64 scalar that
    divides the samples; ``out`` ``[stream, 1]`` is a logistic function of the hidden vector.
    """
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.4, shape).astype(np.float32)

    nodes = [
        _node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
        _node("Div", ["x", "rate"], ["x_scaled"]),
        _node("Unsqueeze", ["x_scaled", "zero"], ["sequence"]),
        _node("Slice", ["state", "zero", "one", "zero"], ["h"]),
        _node("Slice", ["state", "one", "two", "zero"], ["c"]),
        _node(
            "LSTM",
            ["sequence", "W", "R", "B", "", "h", "c"],
            ["", "h_n", "c_n"],
            hidden_size=hidden,
        ),
        _node("Concat", ["h_n", "c_n"], ["stateN"], axis=0),
        _node("Squeeze", ["h_n", "zero"], ["hidden"]),
        _node("Gemm", ["hidden", "w_out", "b_out"], ["logit"]),
        _node("Sigmoid", ["logit"], ["out"]),
    ]
    numbers = {
        "W": weights(1, 4 * hidden, features),
        "R": weights(1, 4 * hidden, hidden),
        "B": weights(1, 8 * hidden),
        "w_out": weights(hidden, 1),
        "b_out": weights(1),
    }
    inputs = [
        _tensor("x", ("batch", features)),
        _tensor("state", (2, "batch", hidden)),
        _tensor("sr", (), TensorProto.INT64),
    ]
    outputs = [_tensor("out", ("batch", 1)), _tensor("stateN", (2, "batch", hidden))]
    return _model(nodes, inputs, outputs, numbers)


def one_step_model() -> bytes:
    """`one_step_graph` with a contract: a sample rate of 4."""
    return with_contract(
        one_step_graph(),
        [State(input="state", output="stateN", shape=(2, "stream", 128))],
        x_shape=("stream", "feature"),
        score="out",
        score_shape=("stream", 1),
        constants={"sr": 4.0},
    )


def with_contract(proto: onnx.ModelProto, states: Sequence[State], **changes: Any) -> bytes:
    """The model with a contract for its features ``a`` and ``b``."""
    contract: dict[str, Any] = {
        "schema": CONTRACT_SCHEMA,
        "features": (Feature(name="a", unit="A"), Feature(name="b")),
        "states": tuple(states),
        "sample_period_ms": 1000.0,
        "max_gap_ms": 5000.0,
        "warm_up_steps": 2,
        **changes,
    }
    unchecked = Contract(**contract, golden=Golden(x=[], score=[]))
    inference = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs, _ = Session(inference, unchecked, b"").run(GOLDEN_X, unchecked.initial_state(2))
    score = outputs.score.copy()
    score[: unchecked.look_ahead] = 0.0  # void, and NaN is no JSON
    golden = Golden(x=GOLDEN_X.tolist(), score=score.tolist())
    return set_contract(proto, encode_contract(Contract(**contract, golden=golden)))


def set_contract(proto: onnx.ModelProto, document: str) -> bytes:
    """The model with this text as its contract."""
    helper.set_model_props(proto, {CONTRACT_KEY: document})
    content: bytes = proto.SerializeToString()
    return content


def _model(
    nodes: Nodes,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    numbers: Mapping[str, NDArray[Any]] | None = None,
) -> onnx.ModelProto:
    constants: dict[str, NDArray[Any]] = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "minus_one": np.array([-1]),
        "end": np.array([2**31]),
        "zero_scalar": np.array(0),
        "a_half": np.array(0.5),
        "zero_and_two": np.array([0, 2]),
        "half_float": np.array(0.5, np.float32),
        "three_quarters": np.array(0.75, np.float32),
        **(numbers or {}),
    }
    used = {name for node in nodes for name in node.input}
    values = [numpy_helper.from_array(v, name) for name, v in constants.items() if name in used]
    graph = helper.make_graph(nodes, "handmade", inputs, outputs, values)
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, ir_version=10, opset_imports=opset)


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


def _transposed(source: str, target: str, order: list[int]) -> onnx.NodeProto:
    if not order:  # an attribute cannot be empty
        return _node("Identity", [source], [target])
    return _node("Transpose", [source], [target], perm=order)


def _ones(axes: Axes) -> list[int]:
    return [i for i, axis in enumerate(axes) if axis == 1]


def _tensor(
    name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
