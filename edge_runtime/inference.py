"""Opens ONNX files with onnxruntime, and says in plain words why one cannot be opened."""

import re
from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from edge_runtime.contract import Tensor
from edge_runtime.errors import ModelError

ORT_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint64)": "uint64",
    "tensor(uint32)": "uint32",
    "tensor(uint16)": "uint16",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}

_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_NOWHERE = "/dev/null"  # no file can lie in it

# What onnxruntime says about a file it does not open, the part of it that helps, and what it means.
_REASONS = (
    (r"[Ee]xternal data.*? initializer: [^.\s]+|external tensors.*|" + rf"{_NOWHERE}/[^\]\s]+",
     "keeps its weights in another file (external data); one file must hold all"),
    (r"No Op registered for \S+ with domain_version of -?\d+|Failed to find kernel for [^ ]+",
     "uses an operator that this onnxruntime does not have"),
    (r"\S+ is not a registered function/op|No opset import for domain '[^']*'",
     "uses a custom operator"),
    (r"Unsupported model IR version: \d+, max supported IR version: \d+",
     "is written for a newer onnxruntime"),
    (r"Current official support for domain \S+ is till opset \d+",
     "is written for a newer onnxruntime"),
    (r"(?i:protobuf parsing failed)", "is truncated or not an ONNX file"),
    (r"No graph was found.*|ModelProto does not have a graph", "is empty or not an ONNX file"),
    (r"Invalid ORT format.*", "is damaged or not an ONNX file"),
)  # fmt: skip


def open_inference(content: bytes, *, optimise: bool = True) -> ort.InferenceSession:
    """Opens a model that is in memory.

    One thread and no spinning: idle threads that spin burn a gateway's only core.

    Args:
        content: The bytes of a self-contained ``.onnx`` file.
        optimise: Whether onnxruntime may rewrite the graph; a gateway lets it.

    Returns:
        The session of onnxruntime.

    Raises:
        ModelError: With the reason why it cannot be opened.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    # Else weights in another file are taken from wherever the gateway happens to be started.
    options.add_session_config_entry(_EXTERNAL_FOLDER, _NOWHERE)
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class
        raise ModelError(_reason(error)) from error


def tensors_of(nodes: Sequence[Any]) -> dict[str, Tensor]:
    """Inputs or outputs of a session by name; a dtype that NumPy has no name for stays as it is."""
    return {
        node.name: Tensor(ORT_DTYPES.get(node.type, node.type), tuple(node.shape)) for node in nodes
    }


def first_line(error: Exception) -> str:
    """The message without onnxruntime's own marks, ``[ONNXRuntimeError] : 1 : FAIL : ``."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)


def _reason(error: Exception) -> str:
    line = first_line(error)
    for pattern, reason in _REASONS:
        found = re.search(pattern, line)
        if found:
            return f"{reason} ({found[0]})"
    return f"onnxruntime refuses it: {line}"
