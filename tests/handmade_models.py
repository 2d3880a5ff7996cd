"""Stateful ONNX models written node by node: what the exporter never makes, but a gateway may meet.

Each comes as bytes with a contract inside, its golden vectors taken from onnxruntime itself.
"""

from collections.abc import Sequence
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

Nodes = list[onnx.NodeProto]

GOLDEN_X = np.random.default_rng(3).uniform(0.5, 2.0, (5, 2, 2)).astype(np.float32)


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
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    types = {node.name: node.type for node in session.get_inputs()}
    constants = {
        name: np.asarray(value, np.int64 if "int64" in types[name] else np.float32)
        for name, value in unchecked.constants.items()
    }
    state = unchecked.initial_state(GOLDEN_X.shape[1])
    score = session.run([unchecked.score], {unchecked.x: GOLDEN_X, **state, **constants})[0]
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
) -> onnx.ModelProto:
    constants: dict[str, NDArray[Any]] = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "minus_one": np.array([-1]),
        "end": np.array([2**31]),
        "zero_scalar": np.array(0),
        "a_half": np.array(0.5),
    }
    used = {name for node in nodes for name in node.input}
    values = [numpy_helper.from_array(v, name) for name, v in constants.items() if name in used]
    graph = helper.make_graph(nodes, "handmade", inputs, outputs, values)
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, ir_version=10, opset_imports=opset)


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


def _tensor(
    name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
