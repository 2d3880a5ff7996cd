"""A contract for a stateful ONNX file that was not made here: probe, describe, verify, write.

Requires a file and what is said about it (`export.adopt_file.Request`). Ensures that the new file,
once it exists, loads on a gateway and was seen to keep every promise of its contract; otherwise
there is no file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort

from edge_runtime.axes import FEATURE, STREAM, TIME, Axes
from edge_runtime.contract import CONTRACT_KEY, Contract, Golden, encode_contract
from edge_runtime.errors import AdoptError, AndonError, ModelError
from edge_runtime.files import replacing
from edge_runtime.inference import open_inference
from edge_runtime.session import Float32, Session, session_from_bytes
from export.adopt_file import Foreign, Request, check_request
from export.probe_axes import draft, states_of, with_score_axes
from export.probe_meanings import Meaning, meanings
from export.probe_runs import (
    STEPS,
    TimeError,
    check_equal_runs,
    check_rows,
    check_states,
    check_time,
    made_up,
    other_pairs,
    run_in_chunks,
)

GOLDEN_STREAMS = 3
GOLDEN_CELLS = 8_192  # numbers in the golden input: it is text in the file, and read at every load
LEAST_GOLDEN_STEPS = 4


@dataclass(frozen=True, slots=True)
class Adopted:
    """A file that was written.

    Attributes:
        path: Where.
        contract: What it promises.
        batches: Batches in which the rows were seen to be independent; 0: not tried.
        warnings: What is worth knowing.
        size: Bytes.
    """

    path: Path
    contract: Contract
    batches: int
    warnings: tuple[str, ...]
    size: int


def adopt(
    foreign: Foreign, request: Request, path: Path, on_step: Callable[[str], None]
) -> Adopted:
    """Probes, describes, verifies and writes, in this order.

    Args:
        foreign: The file.
        request: What is said about it.
        path: Where the file with a contract goes.
        on_step: Told what is being done.

    Returns:
        What was written.

    Raises:
        AdoptError: If what was said does not fit, or the model would not keep its promise; then
            nothing was written.
    """
    check_request(foreign, request)
    inference = open_inference(foreign.content)
    try:
        on_step("finding the axes")
        contract = _settled(foreign, request, inference)
        on_step("running it in chunks, in batches and beside wild neighbours")
        batches, warnings = _probed(inference, contract, request)
        contract = msgspec.structs.replace(contract, golden=_golden(foreign, contract))
        on_step("verifying the file as a gateway would load it")
        content = _with_contract(foreign.content, contract)
        session_from_bytes(content)
    except AndonError as error:
        raise AdoptError(f"{foreign.path}: {error}") from error
    on_step(f"writing {path}")
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise AdoptError(f"{path}: cannot be written: {error.strerror}") from error
    return Adopted(path, contract, batches, tuple(warnings), len(content))


def _settled(foreign: Foreign, request: Request, inference: ort.InferenceSession) -> Contract:
    """The contract with the one meaning of the axes of ``x`` that holds."""
    states = states_of(foreign, request)
    x_dtype = foreign.inputs[request.x].dtype
    good: list[tuple[Meaning, Contract]] = []
    bad: dict[Meaning, str] = {}
    ran: list[Meaning] = []
    for meaning in dict.fromkeys(meanings(foreign, request)):
        contract = draft(request, states, x_dtype, meaning)
        try:
            contract = with_score_axes(inference, contract, meaning)
        except AdoptError as error:
            bad[meaning] = str(error)
            continue
        ran.append(meaning)
        reason = _why_not_at_once(inference, contract, meaning)
        if reason:
            bad[meaning] = reason
        else:
            good.append((meaning, contract))
    # A model that takes several steps a call, and does something else with them, is none to be
    # called step by step unless somebody says so: its pairs may be swapped.
    if not any(meaning.timed for meaning, _ in good) and any(m.timed for m in ran):
        good = []
    if not good:
        lines = [f"x as {meaning}: {reason}" for meaning, reason in bad.items()]
        raise AdoptError("\n  ".join(["the model does not do what a detector must", *lines]))
    rank = max(_rank(meaning) for meaning, _ in good)
    best = [(meaning, contract) for meaning, contract in good if _rank(meaning) == rank]
    if len(best) > 1:
        texts = " or ".join(str(meaning) for meaning, _ in best)
        example = ",".join(map(str, best[0][0].axes))
        raise AdoptError(f"x may be {texts}, it runs as well as each: say --axes {example}")
    return best[0][1]


def _rank(meaning: Meaning) -> tuple[bool, bool]:
    """A meaning in which more axes say something explains the model better."""
    return meaning.timed, STREAM in meaning.axes


def _why_not_at_once(
    inference: ort.InferenceSession, contract: Contract, meaning: Meaning
) -> str | None:
    """Why the model is not the same at once and step by step; None if it is."""
    if not meaning.timed:
        return None
    session = Session(inference, contract, b"")
    x = _samples(contract, 2, seed=1)
    try:
        check_equal_runs(session, x)
        check_time(session, x)
    except TimeError as error:
        pairs = other_pairs(inference, contract, x)
        advice = _one_step_advice(meaning.axes) if pairs is None else f"it is with {pairs}"
        return f"{error}; {advice}"
    except (AdoptError, ModelError) as error:
        return str(error)
    return None


def _one_step_advice(axes: Axes) -> str:
    one_step = ",".join(str(1 if axis == TIME else axis) for axis in axes)
    return f"--axes {one_step} would call it sample by sample"


def _samples(contract: Contract, streams: int, seed: int) -> Float32:
    steps = STEPS + contract.look_ahead
    return made_up(steps, streams, len(contract.features), seed).astype(np.float32)


def _probed(
    inference: ort.InferenceSession, contract: Contract, request: Request
) -> tuple[int, list[str]]:
    """Tests the contract; the batches tried and what is worth knowing."""
    session = Session(inference, contract, b"")
    x = _samples(contract, 2, seed=3)
    ran = check_equal_runs(session, x)
    warnings = check_states(session, x, ran.state)
    if np.ptp(ran.outputs.score[contract.look_ahead :]) == 0:
        warnings.append("the score was the same for every made-up sample")
    if not contract.states:
        warnings.append("nothing is carried: the model has no memory")
    batches = 0
    if contract.one_stream:
        warnings += _one_stream_warnings(inference, contract, request)
    else:
        try:
            batches = check_rows(session, STEPS + contract.look_ahead)
        except AdoptError as error:
            raise AdoptError(
                f"{error}; with --one-stream it is called with one stream at a time"
            ) from error
    twins = [s.input for s in contract.states if _has_twin(s.input, contract)]
    if TIME not in contract.x_shape and twins:
        warnings.append(
            f"{', '.join(twins)} have one shape, and the model takes one sample a call: a swapped "
            "pair could not be told from the right one"
        )
    return batches, warnings


def _one_stream_warnings(
    inference: ort.InferenceSession, contract: Contract, request: Request
) -> list[str]:
    text = "it is called with one stream at a time, which costs a call for each"
    if not request.one_stream:
        raise AdoptError(
            f"its stream axis has the length 1, or there is none; with --one-stream {text}"
        )
    many = msgspec.structs.replace(contract, one_stream=False) if _could_batch(contract) else None
    if many is not None:
        try:
            check_rows(Session(inference, many, b""), STEPS + contract.look_ahead)
        except (AdoptError, ModelError):
            return [text]
        return [f"{text}; its rows are independent, --one-stream is not needed"]
    return [text]


def _could_batch(contract: Contract) -> bool:
    return STREAM in contract.x_shape and STREAM in contract.score_shape


def _has_twin(name: str, contract: Contract) -> bool:
    kinds = {state.input: (state.shape, state.dtype) for state in contract.states}
    return sum(kind == kinds[name] for kind in kinds.values()) > 1


def _golden(foreign: Foreign, contract: Contract) -> Golden:
    """Computed by onnxruntime with every rewriting of the graph switched off."""
    features = len(contract.features)
    steps = max(LEAST_GOLDEN_STEPS, min(STEPS, GOLDEN_CELLS // (features * GOLDEN_STREAMS)))
    x = made_up(steps + contract.look_ahead, GOLDEN_STREAMS, features, seed=20)
    plain = Session(open_inference(foreign.content, optimise=False), contract, b"")
    outputs = run_in_chunks(plain, x.astype(np.float32), len(x)).outputs
    share = outputs.contribution
    return Golden(
        x=x.tolist(),
        score=outputs.score.tolist(),
        contribution=None if share is None else share.tolist(),
    )


def _with_contract(content: bytes, contract: Contract) -> bytes:
    """The file with a contract among its metadata, and with the shapes of outputs that it has."""
    proto = onnx.load_from_string(content)
    kept = [prop for prop in proto.metadata_props if prop.key != CONTRACT_KEY]
    entry = onnx.StringStringEntryProto(key=CONTRACT_KEY, value=encode_contract(contract))
    del proto.metadata_props[:]
    proto.metadata_props.extend([*kept, entry])
    shapes: dict[str, Sequence[int | str]] = {s.output: s.shape for s in contract.states}
    shapes[contract.score] = contract.score_shape
    if contract.contribution is not None:
        shapes[contract.contribution] = contract.x_shape
    for output in proto.graph.output:
        if output.name in shapes:
            _declare(output, shapes[output.name], len(contract.features), contract.one_stream)
    result: bytes = proto.SerializeToString()
    return result


def _declare(
    output: onnx.ValueInfoProto, axes: Sequence[int | str], features: int, one_stream: bool
) -> None:
    """Says the shape that the output was seen to have, where the file says another or none."""
    wanted = [features if axis == FEATURE else axis for axis in axes]
    said = output.type.tensor_type.shape
    dims = [d.dim_value if d.HasField("dim_value") else None for d in said.dim]
    fits = output.type.tensor_type.HasField("shape") and len(dims) == len(wanted)
    if fits and all(
        d is None or d == w or (one_stream and w == STREAM and d == 1)
        for d, w in zip(dims, wanted, strict=True)
    ):
        return
    said.ClearField("dim")
    for axis in wanted:
        dim = said.dim.add()
        if isinstance(axis, int):
            dim.dim_value = axis
        else:
            dim.dim_param = axis
    if not wanted:
        output.type.tensor_type.shape.SetInParent()
