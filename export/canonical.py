"""The same graph for the same detector: nothing of the run or of the machine stays in it.

PyTorch's exporter notes where it was called from, and numbers values by the order in which sets
happened to give them. Requires a complete graph; ensures that exporting again gives the same bytes.
"""

import re
from collections.abc import Iterator
from itertools import count

import onnx

NUMBERED = re.compile(r"val_\d+(\.\d+)?$")


def graphs_of(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph and the bodies inside it, at any depth."""
    bodies = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [graph, *(inner for body in bodies for inner in graphs_of(body))]


def make_canonical(proto: onnx.ModelProto) -> None:
    """Drops notes and renames what is only used inside, in place.

    Args:
        proto: The model; what has a name of its own keeps it.
    """
    _strip(proto)
    taken = {name for graph in graphs_of(proto.graph) for name in _in_order(graph)}
    names: dict[str, str] = {}
    numbers = (f"v{number}" for number in count())
    free = (name for name in numbers if name not in taken)
    for graph in graphs_of(proto.graph):
        for name in _in_order(graph):
            if name not in names:
                names[name] = next(free) if NUMBERED.match(name) else name
    for graph in graphs_of(proto.graph):
        _rename(graph, names)
        order = {name: at for at, name in enumerate(names.values())}
        constants = sorted(graph.initializer, key=lambda constant: order[constant.name])
        graph.ClearField("initializer")
        graph.initializer.extend(constants)


def _in_order(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of values in the order in which the graph comes upon them."""
    yield from (value.name for value in graph.input)
    for node in graph.node:
        yield from node.input
        yield from node.output
    yield from (value.name for value in graph.output)
    yield from (constant.name for constant in graph.initializer)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for part in (*graph.input, *graph.output, *graph.initializer):
        part.name = names[part.name]


def _strip(proto: onnx.ModelProto) -> None:
    for graph in graphs_of(proto.graph):
        for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
            part.ClearField("doc_string")
            part.ClearField("metadata_props")
        graph.ClearField("value_info")  # whoever loads the graph infers the same
        graph.name = "detector"
    proto.ClearField("metadata_props")
    proto.ClearField("functions")
