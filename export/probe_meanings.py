"""Every way to understand the axes of a foreign model's samples.

Which of them holds is found out by running the model: how its outputs grow (`export.probe_axes`),
and whether it does at once what it does step by step (`export.probe_runs`).
"""

from collections.abc import Iterable, Iterator
from itertools import permutations
from typing import NamedTuple

from edge_runtime.axes import FEATURE, STREAM, TIME, Axes, axes_problem
from edge_runtime.contract import Tensor
from edge_runtime.errors import AdoptError
from export.adopt_file import Foreign, Request, show


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
        closed = all(
            x.shape[axis] == 1
            for axis, n in names.items()
            if n == 1 or isinstance(x.shape[axis], int)
        )
        if fits and closed and (stream is not None or one_stream):
            yield names


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
