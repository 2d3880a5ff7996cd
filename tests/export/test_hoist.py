"""What is taken out of a loop: the same function before and after, and less in each step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.canonical import graphs_of
from export.hoist import hoist
from sample_models import sample_model

Array = NDArray[np.float32]
STEPS, STREAMS, INPUTS, HIDDEN = 9, 4, 3, 5
RNG = np.random.default_rng(0)
CONSTANTS: dict[str, NDArray[Any]] = {
    "W": RNG.standard_normal((HIDDEN, INPUTS)).astype(np.float32),
    "W_T": RNG.standard_normal((INPUTS, HIDDEN)).astype(np.float32),
    "U": RNG.standard_normal((HIDDEN, HIDDEN)).astype(np.float32) / 2,
    "b": RNG.standard_normal(HIDDEN).astype(np.float32),
    "row": RNG.standard_normal((1, HIDDEN)).astype(np.float32),
    "per_stream": RNG.standard_normal((STREAMS, HIDDEN)).astype(np.float32),
    "half": np.array(0.5, np.float32),
}
Line = tuple[str, list[str], list[str], dict[str, Any]]
# h' = tanh(wx + h U), whatever wx is made of.
REST: list[Line] = [
    ("MatMul", ["h", "U"], ["uh"], {}),
    ("Add", ["wx", "uh"], ["sum"], {}),
    ("Tanh", ["sum"], ["after"], {}),
    ("Identity", ["after"], ["y"], {}),
]


def scan_model(body: Sequence[Line]) -> onnx.ModelProto:
    """A `Scan` with one state ``h`` and one scan input ``x``."""
    inside = helper.make_graph(
        [helper.make_node(kind, i, o, **attributes) for kind, i, o, attributes in body],
        "body",
        [tensor("h", ("stream", HIDDEN)), tensor("x", ("stream", INPUTS))],
        [tensor("after", ("stream", HIDDEN)), tensor("y", ("stream", HIDDEN))],
    )
    node = helper.make_node(
        *("Scan", ["h_0", "xs"], ["h_n", "ys"]),
        body=inside,
        num_scan_inputs=1,
        scan_input_directions=[0],
    )
    used = {name for line in body for name in line[1]}
    graph = helper.make_graph(
        [node],
        "graph",
        [tensor("h_0", ("stream", HIDDEN)), tensor("xs", ("time", "stream", INPUTS))],
        [tensor("ys", ("time", "stream", HIDDEN)), tensor("h_n", ("stream", HIDDEN))],
        [numpy_helper.from_array(v, name) for name, v in CONSTANTS.items() if name in used],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def tensor(name: str, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def run(proto: onnx.ModelProto) -> list[Array]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    given = {
        "xs": rng.standard_normal((STEPS, STREAMS, INPUTS)).astype(np.float32),
        "h_0": rng.standard_normal((STREAMS, HIDDEN)).astype(np.float32),
    }
    return [np.asarray(value) for value in session.run(None, given)]


def in_the_loop(proto: onnx.ModelProto) -> list[str]:
    (body,) = (a.g for n in proto.graph.node for a in n.attribute if a.name == "body")
    return [node.op_type for node in body.node]


GEMM: Line = ("Gemm", ["x", "W", "b"], ["wx"], {"transB": 1})
LEFT = [kind for kind, *_ in REST]


@pytest.mark.parametrize(
    ("before", "left"),
    [
        ([GEMM], LEFT),
        ([("Gemm", ["x", "W_T"], ["wx"], {})], LEFT),
        ([("MatMul", ["x", "W_T"], ["wx"], {})], LEFT),
        (
            [
                ("Abs", ["x"], ["size"], {}),
                ("MatMul", ["size", "W_T"], ["p"], {}),
                ("Mul", ["p", "half"], ["q"], {}),
                ("Sigmoid", ["q"], ["r"], {}),
                ("Add", ["r", "row"], ["s"], {}),
                ("Sub", ["s", "p"], ["wx"], {}),
            ],
            LEFT,
        ),
        # What is the same for every stream may move; what differs from stream to stream may not.
        (
            [
                ("MatMul", ["x", "W_T"], ["p"], {}),
                ("Add", ["p", "per_stream"], ["wx"], {}),
            ],
            ["Add", *LEFT],
        ),
        ([("Gemm", ["x", "W", "b"], ["wx"], {"transB": 1, "alpha": 0.5})], ["Gemm", *LEFT]),
        # Across the rows: never.
        (
            [
                ("MatMul", ["x", "W_T"], ["p"], {}),
                ("ReduceMean", ["p"], ["m"], {"keepdims": 1}),
                ("Sub", ["p", "m"], ["wx"], {}),
            ],
            ["ReduceMean", "Sub", *LEFT],
        ),
        # What the state takes part in stays, and so does what it leads to.
        (
            [
                ("MatMul", ["h", "U"], ["hu"], {}),
                ("MatMul", ["x", "W_T"], ["p"], {}),
                ("Mul", ["p", "hu"], ["wx"], {}),
            ],
            ["MatMul", "Mul", *LEFT],
        ),
    ],
    ids=["gemm", "gemm-plain", "matmul", "chain", "per-stream", "scaled", "mean", "state"],
)
def test_the_function_is_the_same_and_the_loop_shorter(before: list[Line], left: list[str]) -> None:
    proto = scan_model([*before, *REST])
    wanted = run(proto)
    hoist(proto)
    onnx.checker.check_model(proto)
    assert in_the_loop(proto) == left
    for got, value in zip(run(proto), wanted, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-6)


def test_a_sample_that_the_loop_still_needs_stays_an_input() -> None:
    proto = scan_model(
        [
            GEMM,
            ("MatMul", ["x", "W_T"], ["v"], {}),
            *REST[:2],
            ("Mul", ["sum", "v"], ["z"], {}),
            ("ReduceSum", ["x"], ["t"], {"keepdims": 1}),
            ("Mul", ["z", "t"], ["u"], {}),
            ("Tanh", ["u"], ["after"], {}),
            REST[3],
        ]
    )
    wanted = run(proto)
    hoist(proto)
    (node,) = (node for node in proto.graph.node if node.op_type == "Scan")
    assert list(node.input) == ["h_0", "xs", "h_n.wx", "h_n.v"]
    for got, value in zip(run(proto), wanted, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-6)


def test_an_output_that_needs_no_state_is_left_alone() -> None:
    """It is a result of the loop by name; there is nothing to gain that would be worth the care."""
    proto = scan_model([GEMM, *REST[:3], ("Tanh", ["wx"], ["y"], {})])
    wanted = run(proto)
    hoist(proto)
    assert in_the_loop(proto) == ["MatMul", "Add", "Tanh", "Tanh"]
    for got, value in zip(run(proto), wanted, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "left"),
    [
        ("elman", ["Gemm", "Add", "Tanh", "Identity"]),
        ("irnn", ["Gemm", "Add", "Relu", "Identity"]),
        ("jordan", ["Gemm", "Add", "Tanh", "Gemm", "Tanh", "Identity"]),
    ],
)
def test_of_a_step_there_remains_what_carries(cell: str, left: list[str]) -> None:
    proto = onnx.load(sample_model(cell))
    assert in_the_loop(proto) == left
    assert "MatMul" in [node.op_type for node in proto.graph.node]
    used = {name for graph in graphs_of(proto.graph) for node in graph.node for name in node.input}
    assert {constant.name for constant in proto.graph.initializer} <= used
