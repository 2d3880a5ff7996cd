"""What the axes of a foreign model's states and score mean, found out by running it.

How the outputs grow with the number of streams and of steps tells their axes.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_runtime.axes import FEATURE, STREAM, TIME, Axes, lengths_of, to_model
from edge_runtime.contract import CONTRACT_SCHEMA, Contract, Feature, Golden, State, Tensor
from edge_runtime.errors import AdoptError
from edge_runtime.inference import ORT_DTYPES, first_line
from export.adopt_file import Foreign, Request, show
from export.probe_meanings import Meaning

NO_GOLDEN = Golden(x=[], score=[])


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
    axes = [STREAM if n is None else n for n in shape]
    axes[free[0] if free else ones[-1]] = STREAM
    return tuple(axes)


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
