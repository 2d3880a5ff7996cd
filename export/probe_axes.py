"""What the axes of a foreign model mean, found out by running it.

Every meaning that the axes of ``x`` may have is tried. How the outputs grow with the number of
streams and of steps tells their axes; whether the model then does at once what it does step by
step tells which of several meanings is right.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_runtime.axes import FEATURE, STREAM, TIME, Axes, axes_problem, lengths_of, to_model
from edge_runtime.contract import CONTRACT_SCHEMA, Contract, Feature, Golden, State, Tensor
from edge_runtime.errors import AdoptError
from edge_runtime.inference import ORT_DTYPES, first_line
from export.adopt_file import Foreign, Request, show

NO_GOLDEN = Golden(x=[], score=[])


class Meaning(NamedTuple):
    """One way to understand the axes of ``x``.

    Attributes:
        axes: Of ``x``.
        features: How many there are.
        one_stream: Whether the model takes one stream a call only.
    """

    axes: Axes
    features: int
    one_stream: bool

    @property
    def timed(self) -> bool:
        """Whether it takes several steps a call."""
        return TIME in self.axes

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.axes))}]"


class Size(NamedTuple):
    """Of one trial run."""

    steps: int
    streams: int


def states_of(foreign: Foreign, request: Request) -> tuple[State, ...]:
    """Finds the stream axis of each state.

    It is the one axis whose length the file leaves open. If there is none it is an axis of length
    1, whichever: the model then takes one stream a call.

    Raises:
        AdoptError: Naming a state whose shape does not tell.
    """
    return tuple(
        State(
            input=name,
            output=output,
            shape=_state_shape(name, foreign.inputs[name], request.shapes.get(name)),
            dtype=foreign.inputs[name].dtype,
            initial=request.initial.get(name, 0.0),
        )
        for name, output in request.states.items()
    )


def _state_shape(name: str, tensor: Tensor, given: Axes | None) -> Axes:
    shape = tensor.shape
    if given is not None:
        if len(given) != len(shape) or any(
            isinstance(n, int) and n != g and not (g == STREAM and n == 1)
            for g, n in zip(given, shape, strict=True)
        ):
            raise AdoptError(f"state {name}: {list(given)} does not fit the file's {show(tensor)}")
        return given
    free = [axis for axis, n in enumerate(shape) if not isinstance(n, int)]
    ones = [axis for axis, n in enumerate(shape) if n == 1]
    if len(free) > 1:
        raise AdoptError(
            f"state {name}: {show(tensor)} leaves {len(free)} lengths open, one of them for the "
            f"streams; say the others, as in --shape {name}=2,stream,128"
        )
    if not free and not ones:
        raise AdoptError(
            f"state {name}: {show(tensor)} has no axis for streams, neither of an open length nor "
            "of length 1"
        )
    at = free[0] if free else ones[-1]
    return tuple(STREAM if axis == at else int(n or 0) for axis, n in enumerate(_closed(shape)))


def _closed(shape: Sequence[int | str | None]) -> list[int]:
    return [n if isinstance(n, int) else 0 for n in shape]


def meanings(foreign: Foreign, request: Request) -> list[Meaning]:
    """Every way to understand the axes of ``x``.

    Raises:
        AdoptError: If there is none, or ``--axes`` is none.
    """
    x = foreign.inputs[request.x]
    frozen = any(
        all(isinstance(n, int) for n in foreign.inputs[name].shape) for name in request.states
    )
    if request.axes is not None:
        found = [_given(x, request, frozen)]
    else:
        found = [] if frozen else list(_meanings(x, request, one_stream=False))
        found = found or list(_told_apart(x, _meanings(x, request, one_stream=True)))
    if not found:
        count = _count(request)
        raise AdoptError(
            f"x {request.x}: {show(x)} has no place for "
            f"{'the' if count is None else count} features, with streams and time on open axes or "
            "on axes of length 1; if the number of features is open, say --features COUNT"
        )
    return found


def _count(request: Request) -> int | None:
    return len(request.features) or request.feature_count


def _meanings(x: Tensor, request: Request, *, one_stream: bool) -> Iterator[Meaning]:
    rank, count = len(x.shape), _count(request)
    wide = [n for n in x.shape if isinstance(n, int) and n > 1]
    for feature in range(rank):
        length = x.shape[feature]
        features = length if isinstance(length, int) else count
        if features is None or (count is not None and features != count):
            continue
        if count is None and wide and features == 1:
            continue  # an axis of length 1 holds the features only where no other can
        others = [axis for axis in range(rank) if axis != feature]
        for names in _namings(x, others, one_stream=one_stream):
            axes = tuple(FEATURE if axis == feature else names[axis] for axis in range(rank))
            yield Meaning(axes, features, one_stream)


def _told_apart(x: Tensor, meanings: Iterable[Meaning]) -> Iterator[Meaning]:
    """Which of several axes of length 1 is that of the one stream makes no difference."""
    seen = set()
    for meaning in meanings:
        pairs = zip(meaning.axes, x.shape, strict=True)
        key = tuple(1 if axis == STREAM and length == 1 else axis for axis, length in pairs)
        if key not in seen:
            seen.add(key)
            yield meaning


def _namings(x: Tensor, axes: list[int], *, one_stream: bool) -> Iterator[dict[int, int | str]]:
    """Streams and time on some of the axes; every open axis has one of them."""
    for stream, time in permutations([*axes, None, None], 2):
        names: dict[int, int | str] = dict.fromkeys(axes, 1)
        if stream is not None:
            names[stream] = STREAM
        if time is not None:
            names[time] = TIME
        fits = all(
            n == 1 or not isinstance(x.shape[axis], int) or (one_stream and n == STREAM)
            for axis, n in names.items()
        )
        closed = all(x.shape[axis] == 1 for axis, n in names.items() if n == 1 or _frozen(x, axis))
        if fits and closed and (stream is not None or one_stream):
            yield names


def _frozen(x: Tensor, axis: int) -> bool:
    return isinstance(x.shape[axis], int)


def _given(x: Tensor, request: Request, frozen: bool) -> Meaning:
    axes = request.axes or ()
    one_stream = frozen or STREAM not in axes
    needed, optional = ((FEATURE,), (TIME, STREAM)) if one_stream else ((STREAM, FEATURE), (TIME,))
    problem = axes_problem(axes, needed, optional)
    if problem or len(axes) != len(x.shape):
        raise AdoptError(
            f"--axes for x {show(x)}: {problem or f'wanted {len(x.shape)} axes, got {list(axes)}'}"
        )
    length = x.shape[axes.index(FEATURE)]
    features = length if isinstance(length, int) else _count(request)
    if features is None:
        raise AdoptError(f"x {request.x}: {show(x)} leaves the features open: say --features COUNT")
    if STREAM in axes and x.shape[axes.index(STREAM)] == 1:
        one_stream = True
    return Meaning(axes, features, one_stream)


def draft(request: Request, states: tuple[State, ...], x_dtype: str, meaning: Meaning) -> Contract:
    """A contract with a guess for the axes of the score, and no golden vectors yet.

    Raises:
        AdoptError: If what was said makes no contract.
    """
    names = request.features or tuple(f"x{n}" for n in range(meaning.features))
    gap = 5 * request.period_ms if request.max_gap_ms is None else request.max_gap_ms
    try:
        return Contract(
            schema=CONTRACT_SCHEMA,
            features=tuple(Feature(name=name) for name in names),
            states=states,
            sample_period_ms=request.period_ms,
            max_gap_ms=gap,
            warm_up_steps=request.warm_up_steps,
            golden=NO_GOLDEN,
            look_ahead=request.look_ahead,
            x=request.x,
            x_shape=meaning.axes,
            x_dtype=x_dtype,
            score=request.score,
            score_shape=(TIME, STREAM) if meaning.timed else (STREAM,),
            contribution=request.contribution,
            one_stream=meaning.one_stream or request.one_stream,
            constants=request.constants,
        )
    except ValueError as error:
        raise AdoptError(str(error)) from error


def with_score_axes(
    inference: ort.InferenceSession, contract: Contract, meaning: Meaning
) -> Contract:
    """Runs the model with several numbers of streams and steps and looks how its outputs grow.

    Args:
        inference: The model.
        contract: From `draft`.
        meaning: Of its axes.

    Returns:
        The contract with the axes of the score.

    Raises:
        AdoptError: If the model does not run, or an output does not grow as it should.
    """
    many = not meaning.one_stream
    sizes = [Size(5 if meaning.timed else 1, 3 if many else 1)]
    sizes += [sizes[0]._replace(streams=2)] if many else []
    sizes += [sizes[0]._replace(steps=7)] if meaning.timed else []
    grown: list[tuple[int, ...]] = []
    for size in sizes:
        results = _raw(inference, contract, size)
        _check_shapes(contract, size, results)
        grown.append(results[contract.score].shape)
    axes = _grown(contract.score, grown, sizes)
    if meaning.one_stream and STREAM not in axes and 1 in axes:
        at = axes.index(1)
        axes = (*axes[:at], STREAM, *axes[at + 1 :])
    try:
        return msgspec.structs.replace(contract, score_shape=axes)
    except ValueError as error:
        raise AdoptError(
            f"score {contract.score} has the shape {list(grown[0])}: {error}"
        ) from error


def _raw(
    inference: ort.InferenceSession, contract: Contract, size: Size
) -> dict[str, NDArray[Any]]:
    x = np.random.default_rng(0).normal(size=(*size, len(contract.features)))
    constants = {
        tensor.name: np.full(
            [1] * len(tensor.shape), contract.constants[tensor.name], ORT_DTYPES[tensor.type]
        )
        for tensor in inference.get_inputs()
        if tensor.name in contract.constants
    }
    feeds = {contract.x: to_model(x, contract.x_shape, contract.x_dtype), **constants}
    names = [contract.score, *(state.output for state in contract.states)]
    names += [] if contract.contribution is None else [contract.contribution]
    try:
        results = inference.run(names, {**feeds, **contract.initial_state(size.streams)})
    except Exception as error:  # onnxruntime has no common base class
        raise AdoptError(f"does not run: {first_line(error)}") from error
    return dict(zip(names, results, strict=True))


def _check_shapes(contract: Contract, size: Size, results: dict[str, NDArray[Any]]) -> None:
    lengths = {TIME: size.steps, STREAM: size.streams, FEATURE: len(contract.features)}
    wanted: list[tuple[str, Axes]] = [(state.output, state.shape) for state in contract.states]
    if contract.contribution is not None:
        wanted.append((contract.contribution, contract.x_shape))
    for name, axes in wanted:
        shape = lengths_of(axes, lengths)
        if results[name].shape != shape:
            raise AdoptError(
                f"output {name} must have the shape {list(shape)} for {size.steps} steps of "
                f"{size.streams} streams, got {list(results[name].shape)}"
            )


def _grown(name: str, shapes: Sequence[tuple[int, ...]], sizes: Sequence[Size]) -> Axes:
    """Names each axis of an output by what it grows with."""
    if any(len(shape) != len(shapes[0]) for shape in shapes):
        raise AdoptError(f"output {name} has another rank for another size: {list(shapes)}")
    return tuple(_axis(name, lengths, sizes) for lengths in zip(*shapes, strict=True))


def _axis(name: str, lengths: Iterable[int], sizes: Sequence[Size]) -> int | str:
    lengths = list(lengths)
    if len(sizes) > 1 and lengths == [size.steps for size in sizes] and len(set(lengths)) > 1:
        return TIME
    if len(sizes) > 1 and lengths == [size.streams for size in sizes] and len(set(lengths)) > 1:
        return STREAM
    if set(lengths) == {1}:
        return 1
    runs = ", ".join(
        f"{n} for {size.steps} steps of {size.streams} streams"
        for n, size in zip(lengths, sizes, strict=True)
    )
    raise AdoptError(
        f"score {name} is not one number for each step and stream: an axis has the length {runs}"
    )
