"""Whether a foreign model keeps our promises, found out by running it on made-up samples.

equal runs          give equal bits
at once             and step by step and in chunks, the state carried: the same bits
rows                alone and in batches, beside wild neighbours: the same bits
states              are read, and their successors depend on something
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_runtime.axes import TIME
from edge_runtime.contract import Contract
from edge_runtime.errors import AdoptError
from edge_runtime.session import Float32, Outputs, Session, State

STEPS = 24
CHUNKS = (1, 2, 7)
ROWS = 64
BATCHES = (1, 2, 3, 7, 16, 64)
CROWD = 7
WILD = {"float16": 1e2, "float32": 1e6, "float64": 1e6}  # times a neighbour's samples
MAX_PERMUTED = 4  # states; beyond that there are too many orders to try


class TimeError(AdoptError):
    """A model that does not do at once what it does step by step."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a model gave for some samples.

    Attributes:
        outputs: ``[time, stream, ...]``; void ones are 0.
        state: After the last sample.
    """

    outputs: Outputs
    state: State


def made_up(steps: int, streams: int, features: int, seed: int) -> NDArray[np.float64]:
    """Slow waves with noise and a few outliers, about 1 in size, three decimals.

    Returns:
        ``[time, stream, feature]``.
    """
    rng = np.random.default_rng(seed)
    shape = (steps, streams, features)
    phase = rng.uniform(0, 2 * np.pi, shape[1:])
    wave = np.sin(np.arange(steps)[:, None, None] * rng.uniform(0.02, 0.4, shape[1:]) + phase)
    outliers = rng.normal(0, 4, shape) * (rng.random(shape[:2]) < 0.02)[..., None]  # noqa: PLR2004
    return np.round(wave + rng.normal(0, 0.4, shape) + outliers, 3)


def run_in_chunks(session: Session, x: Float32, length: int, state: State | None = None) -> Ran:
    """Runs samples ``length`` at a time, the state carried."""
    state = session.contract.initial_state(x.shape[1]) if state is None else state
    scores, shares = [], []
    for start in range(0, len(x), length):
        outputs, state = session.run(np.ascontiguousarray(x[start : start + length]), state)
        scores.append(outputs.score)
        shares += [] if outputs.contribution is None else [outputs.contribution]
    score, share = np.concatenate(scores), np.concatenate(shares) if shares else None
    void = slice(session.contract.look_ahead)
    score[void] = 0.0
    if share is not None:
        share[void] = 0.0
    return Ran(Outputs(score, share), state)


def difference(session: Session, got: Ran, wanted: Ran) -> str | None:
    """The first output or state that is not equal, and by how much; None if all are."""
    pairs: list[tuple[str, Any, Any]] = [("score", got.outputs.score, wanted.outputs.score)]
    if wanted.outputs.contribution is not None:
        pairs.append(("contribution", got.outputs.contribution, wanted.outputs.contribution))
    names = [pair.input for pair in session.contract.states]
    pairs += [(f"state {name}", got.state[name], wanted.state[name]) for name in names]
    for name, one, other in pairs:
        if not np.array_equal(one, other, equal_nan=True):
            with np.errstate(invalid="ignore"):
                apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
            return f"{name} differs by up to {apart[np.isfinite(apart)].max(initial=0.0):.3g}"
    return None


def check_equal_runs(session: Session, x: Float32) -> Ran:
    """Two equal runs must give the same bits, and scores must be numbers.

    Returns:
        What they gave.

    Raises:
        AdoptError: With the difference, or the first step whose score is none.
    """
    first, second = (run_in_chunks(session, x, len(x)) for _ in range(2))
    apart = difference(session, first, second)
    if apart:
        raise AdoptError(f"two equal runs do not give the same bits: {apart}")
    finite = np.isfinite(first.outputs.score)
    if not finite.all():
        step, stream = np.argwhere(~finite)[0]
        raise AdoptError(
            f"score {session.contract.score} is {first.outputs.score[step, stream]} at step {step} "
            "for made-up samples about 1 in size"
        )
    return first


def check_time(session: Session, x: Float32) -> None:
    """At once must be the same bits as step by step and in chunks.

    Raises:
        TimeError: With the difference.
    """
    whole = run_in_chunks(session, x, len(x))
    for length in CHUNKS:
        apart = difference(session, run_in_chunks(session, x, length), whole)
        if apart:
            raise TimeError(
                f"{len(x)} steps at once are not {len(x)} steps by {length} with the state "
                f"carried: {apart}"
            )


def other_pairs(inference: ort.InferenceSession, contract: Contract, x: Float32) -> str | None:
    """The pairs with which the model would be the same at once and step by step, if there are any.

    Args:
        inference: The model.
        contract: With pairs with which it is not.
        x: Samples.

    Returns:
        The options, or None.
    """
    states = contract.states
    outputs = [state.output for state in states]
    orders = permutations(outputs) if len(outputs) <= MAX_PERMUTED else _swaps(outputs)
    for order in orders:
        kinds = {state.output: (state.shape, state.dtype) for state in states}
        pairs = list(zip(states, order, strict=True))
        if list(order) == outputs or any(kinds[o] != kinds[s.output] for s, o in pairs):
            continue
        other = tuple(msgspec.structs.replace(state, output=output) for state, output in pairs)
        session = Session(inference, msgspec.structs.replace(contract, states=other), b"")
        try:
            check_time(session, x)
        except AdoptError:
            continue
        return " ".join(f"--state {s.input}={s.output}" for s in other if s not in states)
    return None


def _swaps(outputs: Sequence[str]) -> Iterable[list[str]]:
    for i in range(len(outputs)):
        for j in range(i):
            swapped = list(outputs)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            yield swapped


def check_rows(session: Session, steps: int) -> int:
    """A row must not know how many others there are, nor where it stands, nor what they hold.

    Args:
        session: Called with many streams.
        steps: Length of the samples.

    Returns:
        The number of batches tried.

    Raises:
        AdoptError: With the difference.
    """
    contract = session.contract
    x = made_up(steps, ROWS, len(contract.features), seed=2).astype(np.float32)
    alone = [run_in_chunks(session, x[:, [row]], steps) for row in range(ROWS)]
    return _check_batches(session, x, alone) + _check_neighbours(session, x, alone)


def _check_batches(session: Session, x: Float32, alone: Sequence[Ran]) -> int:
    # A kernel may take one way for one row of many steps and another for many rows of one.
    timed = TIME in session.contract.x_shape
    lengths = (1, 7, len(x)) if timed else (len(x),)
    count = 0
    for size, length in product(BATCHES, lengths):
        for first in sorted({0, 13, ROWS - size}):
            rows = np.arange(first, min(first + size, ROWS))
            batch = run_in_chunks(session, x[:, rows], length)
            for place, row in enumerate(rows.tolist()):
                apart = difference(session, _row(session, batch, place), alone[row])
                if apart:
                    calls = f", {length} steps a call" if timed else ""
                    raise AdoptError(
                        f"rows influence each other: a row's {apart} between a batch of "
                        f"{len(rows)}{calls} and alone"
                    )
            count += 1
    return count


def _check_neighbours(session: Session, x: Float32, alone: Sequence[Ran]) -> int:
    wild = x[:, :CROWD] * np.float32(WILD[session.contract.x_dtype])
    for at in range(CROWD):
        beside = wild.copy()
        beside[:, at] = x[:, at]
        batch = run_in_chunks(session, beside, len(x))
        apart = difference(session, _row(session, batch, at), alone[at])
        if apart:
            raise AdoptError(
                f"rows influence each other: beside {CROWD - 1} wild ones a row's {apart}"
            )
    return CROWD


def _row(session: Session, ran: Ran, row: int) -> Ran:
    share = ran.outputs.contribution
    outputs = Outputs(ran.outputs.score[:, [row]], None if share is None else share[:, [row]])
    axes = {pair.input: pair.stream_axis for pair in session.contract.states}
    state = {name: np.take(ran.state[name], [row], axis) for name, axis in axes.items()}
    return Ran(outputs, state)


def check_states(session: Session, x: Float32, after: State) -> list[str]:
    """Each successor must depend on something; a state that changes nothing is worth a warning.

    Args:
        session: The model.
        x: Samples.
        after: A state that it has reached.

    Returns:
        Warnings.

    Raises:
        AdoptError: Naming a successor that is always the same.
    """
    base = run_in_chunks(session, x, len(x), after)
    warnings = []
    for pair in session.contract.states:
        changed = {**after, pair.input: _changed(after[pair.input])}
        if difference(session, run_in_chunks(session, x, len(x), changed), base) is None:
            warnings.append(f"state {pair.input} is never read: changing it changes nothing")
    elsewhere = {name: _changed(value) for name, value in after.items()}
    other = run_in_chunks(session, x[::-1] + np.float32(0.5), len(x), elsewhere)
    for pair in session.contract.states:
        one, two = base.state[pair.input], other.state[pair.input]
        if np.array_equal(one, two, equal_nan=True) and (one == one.flat[0]).all():
            text = f"output {pair.output} is always {one.flat[0]}, whatever the samples and states"
            if one.dtype.kind == "f":
                raise AdoptError(f"{text} are: is it the successor of {pair.input}?")
            warnings.append(f"{text} are")
    return warnings


def _changed(value: NDArray[Any]) -> NDArray[Any]:
    if value.dtype.kind == "b":
        return ~value
    changed: NDArray[Any] = value + np.asarray(0.5 if value.dtype.kind == "f" else 1, value.dtype)
    return changed
