"""A traced graph with less in it, and no bit of what it computes changed.

The optimizer of onnxscript would do, but for two things. It takes a constant that is nearly 0 for
0, and one that is nearly 1 for 1: ``x + 1e-12``, which keeps a quotient finite, was gone from the
file. And it leaves constants without axes, which onnxruntime's kernels combine element by element
with what has a last axis of length 1.
"""

from collections.abc import Iterable, Iterator
from itertools import count

import onnx
import onnx_ir.passes.common as passes
from onnx import numpy_helper
from onnx_ir.passes import Sequential
from onnxscript import ir
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common

from export.canonical import graphs_of

FOLDED = 2**31
"""Constants of up to so many bytes are computed here and not on the gateway; that is all of them.
The exporter folds small ones only: from 64 hidden units on, gates would be put in order there."""
ROUNDS = 2
RULES = (
    common.cast_cast_rule,
    common.cast_constant_of_shape_rule,
    common.cast_constant_of_shape_without_value_rule,
    common.collapse_slice_rule,
    common.collapse_slice2_rule,
    common.materialize_reshape_shape_rule,
    common.no_op_cast_rule,
    common.no_op_dynamic_scatter_nd_rule,
    common.no_op_expand_rule,
    common.no_op_static_scatter_nd_rule,
    common.no_op_transpose_rule,
    common.reshape_reshape_rule,
    common.slice_split_rule,
    common.squeeze_reshape_1d_rule,
    common.transpose_transpose_rule,
    common.unsqueeze_unsqueeze_rule,
)
"""What moves or repeats values and computes none."""
ELEMENTWISE = frozenset({"Add", "Div", "Less", "LessOrEqual", "Mul", "Sub"})


def simplify(model: ir.Model) -> None:
    """Folds constants and drops what has no effect, in place."""
    passes.InlinePass()(model)
    for _ in range(ROUNDS):
        fold_constants_ir(
            model, onnx_shape_inference=True, input_size_limit=FOLDED, output_size_limit=FOLDED
        )
        RewritePass(RULES)(model)
        passes.RemoveUnusedNodesPass()(model)
    Sequential(
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


def give_axes(proto: onnx.ModelProto) -> None:
    """Gives constants of one element as many axes as what they are combined with, in place.

    Args:
        proto: The model; bodies inside it are left as they are.
    """
    graph = proto.graph
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    ranks = dict(_ranks([*inferred.value_info, *inferred.input, *inferred.output]))
    constants = {constant.name: constant for constant in graph.initializer}
    taken = {name for part in graphs_of(graph) for name in _all_names(part)}
    widened: dict[tuple[str, int], str] = {}
    for node in graph.node:
        rank = ranks.get(node.output[0], 0)
        if node.op_type not in ELEMENTWISE:
            continue
        for at, name in enumerate(node.input):
            found = constants.get(name)
            if found is None or len(found.dims) >= rank:
                continue
            array = numpy_helper.to_array(found)
            if array.size == 1:
                if (name, rank) not in widened:
                    widened[name, rank] = new = next(
                        n for n in _names(name, rank) if n not in taken
                    )
                    taken.add(new)
                    constants[new] = numpy_helper.from_array(array.reshape((1,) * rank), new)
                node.input[at] = widened[name, rank]
    used = {name for part in graphs_of(graph) for node in part.node for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(constant for name, constant in constants.items() if name in used)


def _ranks(values: Iterable[onnx.ValueInfoProto]) -> Iterator[tuple[str, int]]:
    for value in values:
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            yield value.name, len(kind.shape.dim)


def _names(name: str, rank: int) -> Iterator[str]:
    """What a constant with so many axes may be called."""
    yield f"{name}.{rank}"
    yield from (f"{name}.{rank}.{number}" for number in count())


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from (*node.input, *node.output)
    for part in (*graph.input, *graph.output, *graph.initializer):
        yield part.name
