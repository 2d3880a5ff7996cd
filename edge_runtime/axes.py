"""The axes of a model's tensors against ours, which are ``[time, stream, feature]``.

A model that was not made here may have them in another order, with axes of length 1 between them,
without time (then it takes one sample of each stream a call), or without streams (then it takes one
stream a call).
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

STREAM = "stream"
TIME = "time"
FEATURE = "feature"

Axes = tuple[int | str, ...]
"""Names of axes, and the length 1 where there is an axis that says nothing."""

OURS = (TIME, STREAM, FEATURE)


def axes_problem(axes: Axes, needed: Collection[str], optional: Collection[str]) -> str | None:
    """What is wrong with the axes that a contract gives a tensor; None if nothing is.

    Args:
        axes: As in the contract.
        needed: Names that must stand there, once.
        optional: Names that may.
    """
    known = [axis for axis in axes if axis in needed or axis in optional]
    if (
        all(axes.count(name) == 1 for name in needed)
        and all(axes.count(name) <= 1 for name in optional)
        and all(axis == 1 for axis in axes if axis not in known)
    ):
        return None
    once = f"{' and '.join(needed)} once{' each' * (len(needed) > 1)}, " if needed else ""
    most = f"{' and '.join(optional)} at most once, " if optional else ""
    return f"wanted {once}{most}else 1s, got {list(axes)}"


def lengths_of(axes: Axes, lengths: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a tensor, from the length of each named axis."""
    return tuple(axis if isinstance(axis, int) else lengths[axis] for axis in axes)


def to_model(x: NDArray[Any], axes: Axes, dtype: str) -> NDArray[Any]:
    """Brings samples into the axes of the model.

    Args:
        x: ``[time, stream, feature]``; of length 1 where ``axes`` have no time or no stream.
        axes: What the model takes.
        dtype: What it takes them as; a value beyond its range becomes infinite.

    Returns:
        The same samples, contiguous.
    """
    names = [axis for axis in axes if isinstance(axis, str)]
    own = [name for name in OURS if name in names]
    value = x[tuple(slice(None) if name in names else 0 for name in OURS)]
    value = value.transpose([own.index(name) for name in names])
    value = np.expand_dims(value, tuple(i for i, axis in enumerate(axes) if axis == 1))
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(value, dtype)


def from_model(value: NDArray[Any], axes: Axes) -> NDArray[np.float32]:
    """Brings an output into our axes; the inverse of `to_model`.

    Args:
        value: What the model gave.
        axes: Its axes.

    Returns:
        float32 ``[time, stream]``, or ``[time, stream, feature]`` if ``axes`` have features.
    """
    names = [axis for axis in axes if isinstance(axis, str)]
    own = [name for name in OURS if name in names]
    ours = value.squeeze(tuple(i for i, axis in enumerate(axes) if axis == 1))
    ours = ours.transpose([names.index(name) for name in own])
    with np.errstate(over="ignore"):
        ours = ours.astype(np.float32, order="C")
    wanted = OURS if FEATURE in names else OURS[:2]
    return ours[tuple(slice(None) if name in names else np.newaxis for name in wanted)]
