"""A model file as a function: ``run(x, state) -> (outputs, state)``. It holds no state."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_runtime.axes import OURS
from edge_runtime.calls import ForeignCalls, Infer
from edge_runtime.contract import CONTRACT_KEY, Contract, decode_contract
from edge_runtime.errors import ModelError, StateError
from edge_runtime.inference import ORT_DTYPES, first_line, open_inference, tensors_of

Float32 = NDArray[np.float32]
State = dict[str, NDArray[Any]]

_HERE = f"onnxruntime {ort.__version__} on this processor"


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
        content: The file.
    """

    def __init__(self, inference: ort.InferenceSession, contract: Contract, content: bytes) -> None:
        self.contract = contract
        self.digest = hashlib.sha256(content).hexdigest()
        self.content = content
        self._inference = inference
        self._contributes = contract.contribution is not None
        self._outputs = [contract.score, *([contract.contribution] if self._contributes else [])]
        self._outputs += [state.output for state in contract.states]
        self._carried = {state.input for state in contract.states}
        self._constants = {
            tensor.name: np.full(
                [1] * len(tensor.shape), contract.constants[tensor.name], ORT_DTYPES[tensor.type]
            )
            for tensor in inference.get_inputs()
            if tensor.name in contract.constants
        }
        types = {tensor.name: tensor.type for tensor in inference.get_outputs()}
        ours = _has_our_axes(contract) and all(
            types[name] == "tensor(float)" for name in self._outputs[: 1 + self._contributes]
        )
        self._call: Infer = self._infer if ours else ForeignCalls(contract, self._infer)

    def run(self, x: Float32, state: Mapping[str, NDArray[Any]]) -> tuple[Outputs, State]:
        """Scores samples and gives the state after them.

        Args:
            x: Samples in engineering units, ``[time, stream, feature]``, all finite.
            state: One array for each carried tensor, by input name; not changed.

        Returns:
            The outputs and the new state, by input name. Row i of the outputs belongs to the sample
            ``contract.look_ahead`` steps before row i of ``x``.

        Raises:
            StateError: If a state is missing, unknown, or of another shape or dtype.
            ModelError: If onnxruntime fails.
        """
        self._check(x, state)
        results = self._call(x, state)
        first = 1 + self._contributes
        outputs = Outputs(results[0], results[1] if self._contributes else None)
        pairs = zip(self.contract.states, results[first:], strict=True)
        return outputs, {pair.input: value for pair, value in pairs}

    def _infer(self, x: NDArray[Any], state: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """One call of the model as it is."""
        try:
            results: list[NDArray[Any]] = self._inference.run(
                self._outputs, {self.contract.x: x, **state, **self._constants}
            )
        except Exception as error:  # onnxruntime has no common base class
            raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error
        return results

    def _check(self, x: Float32, state: Mapping[str, NDArray[Any]]) -> None:
        if x.ndim != 3 or x.shape[2] != len(self.contract.features) or x.dtype != np.float32:  # noqa: PLR2004 - time, stream, feature
            wanted = f"float32 [time, stream, {len(self.contract.features)}]"
            raise StateError(f"x wants {wanted}, got {x.dtype} {list(x.shape)}")
        if state.keys() != self._carried:
            raise StateError(self._other_states(x.shape[1], state))
        for pair in self.contract.states:
            value = state[pair.input]
            wanted_shape = tuple(x.shape[1] if n == "stream" else n for n in pair.shape)
            if value.shape != wanted_shape or value.dtype != pair.dtype:
                raise StateError(
                    f"state {pair.input} wants {pair.dtype} {list(wanted_shape)}, "
                    f"got {value.dtype} {list(value.shape)}"
                )

    def _other_states(self, streams: int, state: Mapping[str, NDArray[Any]]) -> str:
        """What to say about a state with other names, such as that of another cell."""
        wanted = self.contract.initial_state(streams)
        missing = [f"state {name} is missing" for name in wanted if name not in state]
        unknown = [f"the model carries no state {name}" for name in state if name not in wanted]
        return f"{'; '.join(missing + unknown)}: wanted {_shapes(wanted)}, got {_shapes(state)}"


def _has_our_axes(contract: Contract) -> bool:
    return (
        contract.x_shape == OURS
        and contract.score_shape == OURS[:2]
        and contract.x_dtype == "float32"
        and not contract.one_stream
    )


def _shapes(state: Mapping[str, NDArray[Any]]) -> str:
    parts = [f"{name} {value.dtype} {list(value.shape)}" for name, value in state.items()]
    return ", ".join(parts) or "none"


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
    inference = open_inference(content)
    try:
        document = inference.get_modelmeta().custom_metadata_map.get(CONTRACT_KEY)
        inputs, outputs = tensors_of(inference.get_inputs()), tensors_of(inference.get_outputs())
    except UnicodeDecodeError as error:
        raise ModelError(f"is damaged: a name or its contract is not UTF-8: {error}") from error
    if document is None:
        raise ModelError(
            f"has no contract (metadata {CONTRACT_KEY!r}); export it with `andon export`, or give "
            "it one with `andon adopt`"
        )
    contract = decode_contract(document)
    contract.check_graph(inputs, outputs)
    session = Session(inference, contract, content)
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
        raise ModelError(f"the golden input does not run: {first_line(error)}") from error
    void = session.contract.look_ahead
    if x.shape[0] <= void:
        raise ModelError(f"golden x wants more than {void} samples, the look-ahead; got {len(x)}")
    pairs = [("score", outputs.score, expected)]
    if golden.contribution is not None and outputs.contribution is not None:
        shares = _golden_array("contribution", golden.contribution)
        pairs.append(("contribution", outputs.contribution, shares))
    for name, got, wanted in pairs:
        if got.shape != wanted.shape:
            raise ModelError(
                f"golden {name} wants {list(wanted.shape)}, the model gives {list(got.shape)}"
            )
        allowed = golden.tolerance * max(1.0, float(np.abs(wanted[void:]).max(initial=0.0)))
        differences = np.abs(got[void:].astype(np.float64) - wanted[void:])
        if not np.all(differences <= allowed):
            raise ModelError(
                f"{_HERE} does not reproduce the golden {name}: it differs by "
                f"{differences.max():.3g}, allowed is {allowed:.3g}"
            )


def check_exact(session: Session) -> None:
    """Tests the one promise on this processor: no split in time or streams changes a bit.

    The golden input is run at once, then sample by sample and stream by stream. The void outputs of
    a look-ahead, which never leave the pipeline, may be anything. A state may hold a NaN that no
    score is made of; it must hold it either way.

    Raises:
        ModelError: If a score, a contribution or a state differs in any bit.
    """
    x = _golden_array("x", session.contract.golden.x)
    whole, after = session.run(x, session.contract.initial_state(x.shape[1]))
    for stream in range(x.shape[1]):
        state = session.contract.initial_state(1)
        for t in range(x.shape[0]):
            outputs, state = session.run(x[t : t + 1, stream : stream + 1], state)
            if t >= session.contract.look_ahead:
                _same_outputs(outputs, whole, t, stream)
        for pair in session.contract.states:
            alone = np.take(state[pair.input], 0, pair.stream_axis)
            together = np.take(after[pair.input], stream, pair.stream_axis)
            if not np.array_equal(alone, together, equal_nan=True):
                raise ModelError(
                    f"{_HERE} leaves a stream that runs alone with another state {pair.input} than "
                    "the same stream in a batch"
                )


def _same_outputs(outputs: Outputs, whole: Outputs, t: int, stream: int) -> None:
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


def _golden_array(name: str, values: object) -> Float32:
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(values, np.float32)
    except ValueError as error:
        raise ModelError(f"golden {name} has rows of unequal length") from error
    if not np.isfinite(array).all():
        raise ModelError(f"golden {name} holds a number that is no finite float32")
    return array
