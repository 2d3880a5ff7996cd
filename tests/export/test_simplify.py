"""What is taken out of a traced graph changes nothing that it computes."""

from typing import final

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from edge_runtime.inference import open_inference
from export.simplify import ELEMENTWISE, give_axes
from export.to_onnx import trace
from sample_models import plausible_detector
from train.layers import State, Unroll, over_time
from train.normalised import Normalised


@final
class Quotient(Normalised):
    """``(x / factor) / (|x| + tiny)`` with a factor that is nearly 1: nothing here is a no-op."""

    state_names: tuple[str, ...] = ()
    stream_axes: dict[str, int] = {}  # noqa: RUF012 - read only
    look_ahead = 0

    def __init__(self, tiny: float, factor: float) -> None:
        super().__init__(("a", "b"))
        self.tiny, self.factor = tiny, factor

    def initial_state(self, streams: int) -> State:  # noqa: ARG002
        return {}

    def forward(
        self,
        x: Tensor,
        state: State,  # noqa: ARG002
        unroll: Unroll = over_time,  # noqa: ARG002
    ) -> tuple[Tensor, None, State]:
        return ((x / self.factor) / (x.abs() + self.tiny)).sum(dim=2), None, {}


@pytest.mark.parametrize("tiny", [1e-12, 1e-30])
def test_a_tiny_summand_and_a_factor_that_is_nearly_one_stay(tiny: float) -> None:
    module = Quotient(tiny, 1 + 1e-6).eval()
    inference = open_inference(trace(module).SerializeToString())
    x = torch.tensor([[[0.0, 0.0]], [[tiny, 0.0]], [[3.0, 0.0]]])
    (found,) = inference.run(["score"], {"x": x.numpy()})
    wanted, _, _ = module(x, {})
    assert np.isfinite(found).all()  # 0 / 0 where the summand is gone
    np.testing.assert_array_equal(found, wanted.numpy())


def test_a_traced_graph_has_no_constant_without_axes_beside_a_tensor() -> None:
    proto = trace(plausible_detector("t2", ["a", "b"]))
    scalars = {constant.name for constant in proto.graph.initializer if not constant.dims}
    met = [
        node.op_type
        for node in proto.graph.node
        if node.op_type in ELEMENTWISE and scalars & {*node.input}
    ]
    assert not met
    assert any(list(constant.dims) == [1, 1, 1] for constant in proto.graph.initializer)


def with_constants() -> onnx.ModelProto:
    """``(x + a) * b / c`` with a and c of one element, and b of one a feature."""
    nodes = [
        helper.make_node("Add", ["x", "a"], ["sum"]),
        helper.make_node("Mul", ["sum", "b"], ["product"]),
        helper.make_node("Div", ["product", "c"], ["y"]),
    ]
    constants = {"a": np.float32(0.1), "b": np.full(2, 3, np.float32), "c": np.full(1, 7, "f")}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("time", "stream", 2))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("time", "stream", 2))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_constants_of_one_element_get_axes_and_others_keep_theirs() -> None:
    proto = with_constants()
    x = np.random.default_rng(0).normal(0, 1, (5, 1, 2)).astype(np.float32)
    before = open_inference(proto.SerializeToString()).run(None, {"x": x})
    give_axes(proto)
    onnx.checker.check_model(proto)
    assert sorted(list(c.dims) for c in proto.graph.initializer) == [[1, 1, 1], [1, 1, 1], [2]]
    after = open_inference(proto.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(before, after)


def test_a_constant_with_axes_takes_no_name_that_is_in_use() -> None:
    proto = with_constants()
    for node in proto.graph.node:
        node.input[:] = ["a.3" if name == "sum" else name for name in node.input]
        node.output[:] = ["a.3" if name == "sum" else name for name in node.output]
    x = np.ones((5, 1, 2), np.float32)
    before = open_inference(proto.SerializeToString()).run(None, {"x": x})
    give_axes(proto)
    after = open_inference(proto.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(before, after)
