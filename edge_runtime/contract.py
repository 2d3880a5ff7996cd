"""What a model file promises: the JSON document under ``andon.contract`` in its metadata.

The contract says everything that the runtime needs to carry a model's state: no name, order or
shape is ever inferred. `Contract` checks itself when it is built, `Contract.check_graph` compares
it with what the file really offers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.axes import FEATURE, axes_problem
from edge_runtime.axes import STREAM as STREAM
from edge_runtime.axes import TIME as TIME
from edge_runtime.errors import ModelError

CONTRACT_KEY = "andon.contract"
CONTRACT_SCHEMA = 3
OLDEST_SCHEMA = 1  # what it does not know has a default that means what it meant

FLOATS = ("float32", "float64", "float16")
SINCE_2 = frozenset({"x_shape", "x_dtype", "score_shape", "one_stream", "look_ahead"})
"""What schema 1 had one value for: our own axes, many streams, no look-ahead."""
SINCE_KEPT = 3
"""Before, no state outlived a gap."""
STATE_DTYPES = (
    *FLOATS,
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"),
)


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the contract; an unknown key in it is an error."""


class Feature(Table, frozen=True):
    """One sensor, in engineering units.

    Attributes:
        name: As in the recorded files and in the payloads.
        unit: For people.
        low: Lowest plausible value; below it a sample is ``uncertain``. None: unbounded.
        high: Highest plausible value.
    """

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None


class State(Table, frozen=True):
    """One carried tensor.

    Attributes:
        input: Name of the graph input that takes it.
        output: Name of the graph output that gives its successor.
        shape: Fixed lengths, with ``"stream"`` where the stream axis is.
        dtype: NumPy name of the element type.
        initial: Value of every element of a stream that has seen nothing.
        kept: What it holds is about the machine, not about its last samples: it outlives a silence
            that is longer than ``max_gap_ms``.
    """

    input: str
    output: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    initial: float = 0.0
    kept: bool = False

    @property
    def stream_axis(self) -> int:
        """Position of the stream axis."""
        return self.shape.index(STREAM)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one stream's share: the shape without its stream axis."""
        return tuple(length for length in self.shape if isinstance(length, int))


class Calibration(Table, frozen=True):
    """Where the alarm level comes from.

    Attributes:
        data_digest: SHA-256 over the files that the detector was trained and calibrated on.
        rows: Samples of normal data, never seen by the weights, that the limit rests on.
        false_alarms_per_day: The rate that was asked for, in samples above 1.0 per day and stream.
        supported_false_alarms_per_day: The lowest rate that ``rows`` samples can show.
    """

    data_digest: str
    rows: int
    false_alarms_per_day: float
    supported_false_alarms_per_day: float


class Golden(Table, frozen=True):
    """A short input with its expected output, run again wherever the model is loaded.

    Attributes:
        x: Input, ``[time, stream, feature]``.
        score: Expected score from the initial state, ``[time, stream]``.
        contribution: Expected contribution ``[time, stream, feature]``, if the model has one.
        tolerance: Largest difference allowed, relative to the largest expected score (at least 1).
    """

    x: list[list[list[float]]]
    score: list[list[float]]
    contribution: list[list[list[float]]] | None = None
    tolerance: float = 1e-4


class Contract(Table, frozen=True):
    """The whole document.

    Attributes:
        schema: Version of this document.
        features: The sensors, in the order of the last axis of ``x``.
        states: The carried tensors.
        sample_period_ms: Time between two samples of a stream, in milliseconds.
        max_gap_ms: Training cut the history at longer silences; the runtime resets there all
            states but those that are kept.
        warm_up_steps: Samples after a reset whose score does not count yet.
        look_ahead: Row i of the outputs belongs to the sample so many steps before row i of ``x``;
            the first rows after a reset are void. 0 if causal.
        x: Name of the graph input for the samples.
        x_shape: Its axes: ``"feature"``, ``"stream"`` and ``"time"``; 1 for an axis that says
            nothing. A model that takes one sample of each stream a call has no time, one that takes
            one stream a call may have no stream.
        x_dtype: What the samples are cast to.
        score: Name of the graph output with the score.
        score_shape: Its axes: ``"stream"``, and ``"time"`` where ``x`` has it; 1s as above.
        contribution: Name of the graph output with each sensor's share, if there is one; its axes
            are those of ``x``.
        one_stream: The model takes one stream a call: its rows influence each other, or its stream
            axis has the length 1.
        constants: Graph inputs that always take the same value: a number, or one in ``[1]``.
        calibration: Where the alarm level comes from; None for a foreign model.
        training: Provenance, for people.
        golden: Input with expected output.
    """

    schema: int
    features: tuple[Feature, ...]
    states: tuple[State, ...]
    sample_period_ms: float
    max_gap_ms: float
    warm_up_steps: int
    golden: Golden
    look_ahead: int = 0
    x: str = "x"
    x_shape: tuple[int | str, ...] = (TIME, STREAM, FEATURE)
    x_dtype: str = "float32"
    score: str = "score"
    score_shape: tuple[int | str, ...] = (TIME, STREAM)
    contribution: str | None = None
    one_stream: bool = False
    constants: dict[str, float] = {}
    calibration: Calibration | None = None
    training: dict[str, Any] = {}

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the sensors, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def delay_ms(self) -> float:
        """How much later than its sample a score comes, in milliseconds."""
        return self.look_ahead * self.sample_period_ms

    def initial_state(self, streams: int) -> dict[str, NDArray[Any]]:
        """The state of streams that have seen nothing, by input name.

        Args:
            streams: Length of the stream axis.

        Returns:
            One array for each carried tensor, in the shape that the model takes.
        """
        return {
            state.input: np.full(
                [length if isinstance(length, int) else streams for length in state.shape],
                state.initial,
                dtype=state.dtype,
            )
            for state in self.states
        }

    def check_graph(self, inputs: Mapping[str, "Tensor"], outputs: Mapping[str, "Tensor"]) -> None:
        """Compares the promise with what the graph offers.

        Args:
            inputs: The graph's inputs by name.
            outputs: The graph's outputs by name.

        Raises:
            ModelError: With every difference found.
        """
        problems = list(_graph_problems(self, inputs, outputs))
        if problems:
            raise ModelError(f"the contract does not fit the graph: {'; '.join(problems)}")


class Tensor(NamedTuple):
    """A graph input or output as the runtime reports it: NumPy dtype name and axes."""

    dtype: str
    shape: tuple[int | str | None, ...]


def decode_contract(document: str | bytes) -> Contract:
    """Reads the JSON document.

    Args:
        document: The text under ``andon.contract``.

    Returns:
        The contract, which has checked itself.

    Raises:
        ModelError: For a schema of another version, or a document that does not check.
    """
    try:
        version = msgspec.json.decode(document, type=_Version).schema
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ModelError(f"the contract is not readable: {error}") from error
    if not OLDEST_SCHEMA <= version <= CONTRACT_SCHEMA:
        age = "newer than" if version > CONTRACT_SCHEMA else "older than"
        raise ModelError(
            f"contract schema {version} is {age} this andon, which reads schemas {OLDEST_SCHEMA} "
            f"to {CONTRACT_SCHEMA}: "
            f"{'upgrade andon' if version > CONTRACT_SCHEMA else 'export again'}"
        )
    try:
        return msgspec.json.decode(document, type=Contract)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ModelError(f"the contract is not valid: {error}") from error


def encode_contract(contract: Contract) -> str:
    """Writes the JSON document."""
    return msgspec.json.encode(contract).decode()


class _Version(msgspec.Struct):
    schema: int


def _problems(contract: Contract) -> Iterable[str]:
    """What a contract must hold whatever the graph says."""
    names = contract.feature_names
    yield from (f"feature {n!r} stands twice" for n, k in Counter(names).items() if k > 1)
    if not names:
        yield "no features"
    tensors = [s.input for s in contract.states] + [contract.x, *contract.constants]
    yield from (f"input {n!r} stands twice" for n, k in Counter(tensors).items() if k > 1)
    results = [s.output for s in contract.states] + [contract.score]
    results += [] if contract.contribution is None else [contract.contribution]
    yield from (f"output {n!r} stands twice" for n, k in Counter(results).items() if k > 1)
    yield from _range_problems(contract)
    for state in contract.states:
        yield from _state_problems(state)
    yield from _axes_problems(contract)
    yield from _schema_problems(contract)
    if contract.look_ahead < 0:
        yield f"look_ahead must not be negative, got {contract.look_ahead}"
    for name in names:
        if not name or name != name.encode("utf-8", "ignore").decode():
            yield f"feature {name!r}: wanted a name of one letter or more, in UTF-8"
    if not 0 < contract.sample_period_ms < np.inf:
        yield f"sample_period_ms must be positive and finite, got {contract.sample_period_ms}"
    if not contract.max_gap_ms < np.inf:
        yield f"max_gap_ms must be finite, got {contract.max_gap_ms}"
    elif contract.max_gap_ms < contract.sample_period_ms:
        yield f"max_gap_ms {contract.max_gap_ms} is below the sample period"
    if contract.warm_up_steps < 0:
        yield f"warm_up_steps must not be negative, got {contract.warm_up_steps}"


def _range_problems(contract: Contract) -> Iterable[str]:
    for feature in contract.features:
        if feature.low is not None and feature.high is not None and feature.low > feature.high:
            yield f"feature {feature.name!r}: low {feature.low} is above high {feature.high}"


def _schema_problems(contract: Contract) -> Iterable[str]:
    if contract.schema == OLDEST_SCHEMA:
        for field in msgspec.structs.fields(contract):
            if field.name in SINCE_2 and getattr(contract, field.name) != field.default:
                yield f"{field.name} needs schema 2, got schema {contract.schema}"
    if contract.schema < SINCE_KEPT:
        for state in contract.states:
            if state.kept:
                yield f"state {state.input}: kept needs schema 3, got schema {contract.schema}"


def _axes_problems(contract: Contract) -> Iterable[str]:
    alone, many = ((STREAM,), ()) if contract.one_stream else ((), (STREAM,))
    problem = axes_problem(contract.x_shape, (*many, FEATURE), (TIME, *alone))
    if problem:
        yield f"x: {problem}"
    timed = (TIME,) if TIME in contract.x_shape else ()
    problem = axes_problem(contract.score_shape, (*timed, *many), alone)
    if problem:
        yield f"score: {problem}, because x has {'a' if timed else 'no'} time axis"
    if contract.x_dtype not in FLOATS:
        yield f"x: dtype {contract.x_dtype!r} is none of {', '.join(FLOATS)}"


def _state_problems(state: State) -> Iterable[str]:
    axes = state.shape.count(STREAM)
    if (
        axes != 1
        or len(state.row_shape) != len(state.shape) - 1
        or min(state.row_shape, default=1) < 1
    ):
        shape = list(state.shape)
        yield f"state {state.input}: wanted one axis 'stream', else lengths, got {shape}"
    if state.dtype not in STATE_DTYPES:
        yield f"state {state.input}: dtype {state.dtype!r} is none of {', '.join(STATE_DTYPES)}"
    elif not holds(state.dtype, state.initial):
        yield f"state {state.input}: {state.dtype} does not hold the initial value {state.initial}"


def holds(dtype: str, value: float) -> bool:
    """Whether a number survives as an element of a NumPy dtype; a float may round it."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.asarray(value).astype(dtype)
    return bool(np.isfinite(cast) if cast.dtype.kind == "f" else cast == value)


def _graph_problems(
    contract: Contract, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> Iterable[str]:
    features = len(contract.features)
    x = tuple(features if axis == FEATURE else axis for axis in contract.x_shape)
    wanted_in: dict[str, _Wanted] = {contract.x: _Wanted((contract.x_dtype,), x)}
    wanted_out: dict[str, _Wanted] = {contract.score: _Wanted(FLOATS, contract.score_shape)}
    if contract.contribution is not None:
        wanted_out[contract.contribution] = _Wanted(FLOATS, x)
    for state in contract.states:
        wanted_in[state.input] = _Wanted((state.dtype,), state.shape)
        wanted_out[state.output] = _Wanted((state.dtype,), state.shape)
    for side, wanted, offered in (("input", wanted_in, inputs), ("output", wanted_out, outputs)):
        for name, (dtypes, shape) in wanted.items():
            tensor = offered.get(name)
            if tensor is None:
                yield f"no {side} {name!r}"
            elif tensor.dtype not in dtypes:
                yield f"{side} {name}: wanted {' or '.join(dtypes)}, the graph has {tensor.dtype}"
            elif not _fits(shape, tensor.shape, frozen=contract.one_stream):
                yield f"{side} {name}: wanted {list(shape)}, the graph has {list(tensor.shape)}"
    unfed = set(inputs) - set(wanted_in) - set(contract.constants)
    yield from (f"input {name!r} is neither x, a state nor a constant" for name in sorted(unfed))
    for name, value in contract.constants.items():
        yield from _constant_problems(name, value, inputs.get(name))


class _Wanted(NamedTuple):
    dtypes: tuple[str, ...]
    shape: tuple[int | str, ...]


def _constant_problems(name: str, value: float, tensor: Tensor | None) -> Iterable[str]:
    if tensor is None:
        yield f"no input for the constant {name!r}"
    elif (
        tensor.dtype not in STATE_DTYPES
        or not (tensor.shape == () or _fits((1,), tensor.shape, frozen=False))
        or not holds(tensor.dtype, value)
    ):
        got = f"the graph has {tensor.dtype} {list(tensor.shape)}"
        yield f"constant {name}: wanted a single number that can be {value}, {got}"


def _fits(
    wanted: tuple[int | str, ...], offered: tuple[int | str | None, ...], *, frozen: bool
) -> bool:
    """Whether a graph's shape allows the wanted one.

    A named axis must be dynamic; the stream axis may be ``frozen`` at 1.
    """
    return len(wanted) == len(offered) and all(
        isinstance(o, str | None) or o == w or (frozen and w == STREAM and o == 1)
        for w, o in zip(wanted, offered, strict=True)
    )
