"""Out of the loop: what a step computes from its sample alone is computed for all samples at once.

Requires a graph with `Scan`s whose first axis is time. Ensures the same function with less to do in
each step: a product with the input weights becomes one product over all of time and all streams. Of
an Elman step there remain one product, one sum and one tanh.

Only operators are moved that treat every row by itself, so no bit depends on how many rows there
are; the verification of the export holds the pass to that.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.canonical import graphs_of

UNARY = frozenset({"Abs", "Cast", "Exp", "Neg", "Relu", "Sigmoid", "Sqrt", "Tanh"})
BINARY = frozenset({"Add", "Div", "Mul", "Sub"})
MATRIX = 2


def hoist(proto: onnx.ModelProto) -> None:
    """Moves out of every `Scan` what does not depend on what it carries, in place.

    Args:
        proto: The model.
    """
    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Scan":
            nodes += _Scan.of(node, constants).without_loop()
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for part in graphs_of(graph) for node in part.node for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in used)


@dataclass
class _Scan:
    """A `Scan` that is being taken apart.

    Attributes:
        node: The operator.
        body: Its graph.
        states: How many tensors it carries.
        constants: Of the graph around it; grows.
        outside: For each value that is known outside, its name there.
        kinds: The element type of each of them.
        moved: The nodes that now stand before the operator.
    """

    node: onnx.NodeProto
    body: onnx.GraphProto
    states: int
    constants: dict[str, onnx.TensorProto]
    outside: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    moved: list[onnx.NodeProto] = field(default_factory=list)

    @classmethod
    def of(cls, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> "_Scan":
        attributes = {attribute.name: attribute for attribute in node.attribute}
        body = attributes["body"].g
        states = len(body.input) - attributes["num_scan_inputs"].i
        scan = cls(node, body, states, constants)
        for inside, outside in zip(body.input[states:], node.input[states:], strict=True):
            scan.outside[inside.name] = outside
            scan.kinds[inside.name] = inside.type.tensor_type.elem_type
        return scan

    def without_loop(self) -> list[onnx.NodeProto]:
        """Moves what can be moved, and gives it."""
        given = {value.name for value in self.body.output}
        kept = []
        for node in self.body.node:
            before = None if node.output[0] in given else self._outside(node)
            if before is None:
                kept.append(node)
            else:
                self.moved += before
                self.outside[node.output[0]] = before[-1].output[0]
                self.kinds[node.output[0]] = self._kind(node)
        del self.body.node[:]
        self.body.node.extend(kept)
        if self.moved:
            self._connect()
        return self.moved

    def _outside(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """The nodes that compute the same for all samples, or None where it cannot be moved."""
        inputs = list(node.input)
        timely = [name in self.outside for name in inputs]
        if len(node.output) != 1 or not any(timely):
            return None
        name = f"{self.node.output[0]}.{node.output[0]}"  # two bodies may use one name
        if node.op_type in UNARY or (node.op_type in BINARY and self._broadcasts(inputs)):
            moved = onnx.NodeProto()
            moved.CopyFrom(node)
            moved.input[:] = [self.outside.get(value, value) for value in inputs]
            moved.output[:] = [name]
            return [moved]
        if node.op_type in {"MatMul", "Gemm"} and timely == [True, *[False] * (len(inputs) - 1)]:
            return self._product(node, name)
        return None

    def _product(self, node: onnx.NodeProto, name: str) -> list[onnx.NodeProto] | None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = (
            attributes.get("transA", 0) == 0
            and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        )
        weights = self.constants.get(node.input[1])
        if not plain or weights is None or len(weights.dims) != MATRIX:
            return None
        if not self._broadcasts(node.input[2:]):
            return None
        matrix = node.input[1]
        if attributes.get("transB", 0):
            matrix = f"{node.input[1]}.T"
            array = np.ascontiguousarray(numpy_helper.to_array(weights).T)
            self.constants[matrix] = numpy_helper.from_array(array, matrix)
        product = name if len(node.input) == MATRIX else f"{name}_product"
        before = [helper.make_node("MatMul", [self.outside[node.input[0]], matrix], [product])]
        if len(node.input) > MATRIX:
            before.append(helper.make_node("Add", [product, node.input[2]], [name]))
        return before

    def _kind(self, node: onnx.NodeProto) -> int:
        """The element type of what a moved node computes."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        came = next(self.kinds[name] for name in node.input if name in self.kinds)
        return int(attributes.get("to", came))

    def _broadcasts(self, names: Iterable[str]) -> bool:
        """Whether each is computed outside, or a constant that is the same for every row."""
        return all(name in self.outside or self._is_a_row(name) for name in names)

    def _is_a_row(self, name: str) -> bool:
        constant = self.constants.get(name)
        return (
            constant is not None
            and len(constant.dims) <= MATRIX
            and all(n == 1 for n in constant.dims[:-1])
        )

    def _connect(self) -> None:
        """Has the body take what was moved, where it is used, as scan inputs."""
        used = {name for node in self.body.node for name in node.input}
        wanted = [name for name in self.outside if name in used]
        states = list(self.body.input[: self.states])
        del self.body.input[:]
        self.body.input.extend(states)
        self.body.input.extend(
            helper.make_tensor_value_info(name, self.kinds[name], None) for name in wanted
        )
        self.node.input[self.states :] = [self.outside[name] for name in wanted]
        for attribute in self.node.attribute:
            if attribute.name == "num_scan_inputs":
                attribute.i = len(wanted)
            elif attribute.name in {"scan_input_directions", "scan_input_axes"}:
                attribute.ints[:] = [0] * len(wanted)
