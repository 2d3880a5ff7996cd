"""A model file as a function: ``run(x, state) -> (outputs, state)``. It holds no state."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_runtime.contract import CONTRACT_KEY, Contract, Tensor, decode_contract
from edge_runtime.errors import ModelError, StateError

Float32 = NDArray[np.float32]
State = dict[str, NDArray[Any]]

ORT_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}

_HERE = f"onnxruntime {ort.__version__} on this processor"
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


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the model says about each sample.

    Attributes:
        score: ``[time, stream]``; 1.0 is the alarm level.
        contribution: ``[time, stream, feature]``, each sensor's share; None if the model has none.
    """

    score: Float32
    contribution: Float32 | None


class Session:
    """A loaded model. Build it with `load_model`.

    Attributes:
        contract: What the file promises.
        digest: SHA-256 of the file, hexadecimal.
    """

    def __init__(self, inference: ort.InferenceSession, contract: Contract, digest: str) -> None:
        self.contract = contract
        self.digest = digest
        self._inference = inference
        self._contributes = contract.contribution is not None
        self._outputs = [contract.score, *([contract.contribution] if self._contributes else [])]
        self._outputs += [state.output for state in contract.states]
        self._constants = {
            tensor.name: np.asarray(contract.constants[tensor.name], ORT_DTYPES[tensor.type])
            for tensor in inference.get_inputs()
            if tensor.name in contract.constants
        }

    def run(self, x: Float32, state: Mapping[str, NDArray[Any]]) -> tuple[Outputs, State]:
        """Scores samples and gives the state after them.

        Args:
            x: Samples in engineering units, ``[time, stream, feature]``, all finite.
            state: One array for each carried tensor, by input name; not changed.

        Returns:
            The outputs and the new state, by input name.

        Raises:
            StateError: If a state is missing, unknown, or of another shape or dtype.
            ModelError: If onnxruntime fails.
        """
        self._check(x, state)
        try:
            results = self._inference.run(
                self._outputs, {self.contract.x: x, **state, **self._constants}
            )
        except Exception as error:  # onnxruntime has no common base class
            raise ModelError(f"onnxruntime cannot run the model: {_first_line(error)}") from error
        first = 1 + self._contributes
        outputs = Outputs(results[0], results[1] if self._contributes else None)
        pairs = zip(self.contract.states, results[first:], strict=True)
        return outputs, {pair.input: value for pair, value in pairs}

    def _check(self, x: Float32, state: Mapping[str, NDArray[Any]]) -> None:
        if x.ndim != 3 or x.shape[2] != len(self.contract.features) or x.dtype != np.float32:  # noqa: PLR2004 - time, stream, feature
            wanted = f"float32 [time, stream, {len(self.contract.features)}]"
            raise StateError(f"x wants {wanted}, got {x.dtype} {list(x.shape)}")
        if len(state) != len(self.contract.states):
            unknown = set(state) - {pair.input for pair in self.contract.states}
            if unknown:
                raise StateError(f"the model carries no state {', '.join(sorted(unknown))}")
        for pair in self.contract.states:
            value = state.get(pair.input)
            wanted_shape = tuple(x.shape[1] if n == "stream" else n for n in pair.shape)
            if value is None:
                raise StateError(f"state {pair.input} is missing, wanted {list(wanted_shape)}")
            if value.shape != wanted_shape or value.dtype != pair.dtype:
                raise StateError(
                    f"state {pair.input} wants {pair.dtype} {list(wanted_shape)}, "
                    f"got {value.dtype} {list(value.shape)}"
                )


def load_model(path: Path) -> Session:
    """Reads a model file, checks its contract, and runs its golden vectors on this processor.

    Args:
        path: A self-contained ``.onnx`` file with a contract.

    Returns:
        The model, ready to run.

    Raises:
        ModelError: Naming the file and why it is refused.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return session_from_bytes(content)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def session_from_bytes(content: bytes) -> Session:
    """`load_model` for a file that is already in memory.

    Args:
        content: The bytes of the ``.onnx`` file.

    Returns:
        The model, ready to run.

    Raises:
        ModelError: With the reason why the model is refused.
    """
    inference = _open(content)
    try:
        document = inference.get_modelmeta().custom_metadata_map.get(CONTRACT_KEY)
        inputs, outputs = _tensors(inference.get_inputs()), _tensors(inference.get_outputs())
    except UnicodeDecodeError as error:
        raise ModelError(f"is damaged: a name or its contract is not UTF-8: {error}") from error
    if document is None:
        raise ModelError(
            f"has no contract (metadata {CONTRACT_KEY!r}); export it with `andon export`"
        )
    contract = decode_contract(document)
    contract.check_graph(inputs, outputs)
    session = Session(inference, contract, hashlib.sha256(content).hexdigest())
    check_golden(session)
    check_exact(session)
    return session


def check_golden(session: Session) -> None:
    """Runs the golden input on this processor and compares.

    Raises:
        ModelError: If this processor does not give the expected scores within the tolerance.
    """
    golden = session.contract.golden
    x, expected = _golden_array("x", golden.x), _golden_array("score", golden.score)
    try:
        outputs, _ = session.run(x, session.contract.initial_state(x.shape[1] if x.ndim > 1 else 1))
    except StateError as error:
        raise ModelError(f"the golden input does not fit: {error}") from error
    except Exception as error:  # onnxruntime has no common base class
        raise ModelError(f"the golden input does not run: {_first_line(error)}") from error
    pairs = [("score", outputs.score, expected)]
    if golden.contribution is not None and outputs.contribution is not None:
        shares = _golden_array("contribution", golden.contribution)
        pairs.append(("contribution", outputs.contribution, shares))
    for name, got, wanted in pairs:
        if got.shape != wanted.shape:
            raise ModelError(
                f"golden {name} wants {list(wanted.shape)}, the model gives {list(got.shape)}"
            )
        allowed = golden.tolerance * max(1.0, float(np.abs(wanted).max(initial=0.0)))
        differences = np.abs(got.astype(np.float64) - wanted)
        if not np.all(differences <= allowed):
            raise ModelError(
                f"{_HERE} does not reproduce the golden {name}: it differs by "
                f"{differences.max():.3g}, allowed is {allowed:.3g}"
            )


def check_exact(session: Session) -> None:
    """Tests the one promise on this processor: no split in time or streams changes a bit.

    The golden input is run at once, then sample by sample and stream by stream.

    Raises:
        ModelError: If a score, a contribution or a state differs in any bit.
    """
    x = _golden_array("x", session.contract.golden.x)
    whole, after = session.run(x, session.contract.initial_state(x.shape[1]))
    for stream in range(x.shape[1]):
        state = session.contract.initial_state(1)
        for t in range(x.shape[0]):
            outputs, state = session.run(x[t : t + 1, stream : stream + 1], state)
            alone, together = outputs.score[0, 0], whole.score[t, stream]
            if alone != together:
                raise ModelError(
                    f"{_HERE} scores a sample alone otherwise than the same sample in a batch: "
                    f"{alone!s} against {together!s} at step {t}"
                )
            if outputs.contribution is not None and whole.contribution is not None:
                shares = outputs.contribution[0, 0], whole.contribution[t, stream]
                if not np.array_equal(*shares):
                    raise ModelError(
                        f"{_HERE} explains a sample alone otherwise than the same sample in a "
                        f"batch: {shares[0]} against {shares[1]} at step {t}"
                    )
        for pair in session.contract.states:
            states = (
                np.take(state[pair.input], 0, pair.stream_axis),
                np.take(after[pair.input], stream, pair.stream_axis),
            )
            if not np.array_equal(*states):
                raise ModelError(
                    f"{_HERE} leaves a stream that runs alone with another state {pair.input} than "
                    "the same stream in a batch"
                )


def _golden_array(name: str, values: object) -> Float32:
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(values, np.float32)
    except ValueError as error:
        raise ModelError(f"golden {name} has rows of unequal length") from error
    if not np.isfinite(array).all():
        raise ModelError(f"golden {name} holds a number that is no finite float32")
    return array


def _open(content: bytes) -> ort.InferenceSession:
    """One thread and no spinning: idle threads that spin burn a gateway's only core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    # Else weights in another file are taken from wherever the gateway happens to be started.
    options.add_session_config_entry(_EXTERNAL_FOLDER, _NOWHERE)
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class
        raise ModelError(_reason(error)) from error


def _reason(error: Exception) -> str:
    line = _first_line(error)
    for pattern, reason in _REASONS:
        found = re.search(pattern, line)
        if found:
            return f"{reason} ({found[0]})"
    return f"onnxruntime refuses it: {line}"


def _first_line(error: Exception) -> str:
    """The message without onnxruntime's own marks, ``[ONNXRuntimeError] : 1 : FAIL : ``."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)


def _tensors(nodes: list[Any]) -> dict[str, Tensor]:
    return {
        node.name: Tensor(ORT_DTYPES.get(node.type, node.type), tuple(node.shape)) for node in nodes
    }
