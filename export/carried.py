"""The state that a module offers and gives back, looked at before anything is traced."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edge_runtime.contract import STATE_DTYPES
from edge_runtime.errors import ExportError
from export.describe import NEXT
from export.stepwise import State, stateful, stream_axes
from export.user_code import call

RESERVED = ("x", "score", "contribution")
"""What the other tensors of a model file are called."""


def initial_state(module: nn.Module, streams: int) -> State:
    """A module's own initial state, if it is one.

    Args:
        module: The module.
        streams: Length of the stream axis.

    Returns:
        The tensors by name.

    Raises:
        ExportError: If it is no dictionary of tensors with usable names.
    """
    given = call(f"initial_state({streams})", stateful(module).initial_state, streams)
    if not isinstance(given, dict) or not given:
        raise ExportError(
            "initial_state wants a dictionary of tensors with at least one in it, "
            f"got {'an empty one' if given == {} else type(given).__name__}"
        )
    for name, value in given.items():
        _check_name(name, given)
        if not isinstance(value, Tensor):
            raise ExportError(f"state {name!r} wants a tensor, got {type(value).__name__}")
    return given


def _check_name(name: object, given: Mapping[Any, object]) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise ExportError(f"a state wants a name such as 'h', got {name!r}")
    taken = (*RESERVED, *(f"{other}{NEXT}" for other in given))
    if name in taken:
        raise ExportError(
            f"a state must not be called {name!r}: another tensor of the model file has that name"
        )


def check_initial(module: nn.Module) -> None:
    """Initial states have one stream axis, a type that a contract can name, and one value.

    Raises:
        ExportError: Naming the state.
    """
    one, two, again = (initial_state(module, streams) for streams in (1, 2, 2))
    if list(one) != list(two):
        raise ExportError(
            f"initial_state gives {list(one)} for one stream and {list(two)} for two: wanted the "
            "same names in the same order"
        )
    for name, value in one.items():
        _check_axis(name, value, two[name])
        _check_content(name, value)
        if not torch.equal(two[name], again[name]):
            raise ExportError(f"state {name!r} begins otherwise each time: initial_state is random")
        if value.dtype != two[name].dtype or (two[name] != value.flatten()[0]).any():
            raise ExportError(
                f"state {name!r} begins with other values, or another type, for two streams than "
                "for one: every stream begins alike"
            )


def _check_axis(name: str, one: Tensor, two: Tensor) -> None:
    shapes = f"{list(one.shape)} for one stream and {list(two.shape)} for two"
    if one.dim() != two.dim():
        raise ExportError(f"state {name!r} has the shape {shapes}: wanted as many axes")
    axes = stream_axes(one, two)
    others = [axis for axis in range(one.dim()) if axis not in axes]
    if len(axes) != 1 or any(one.shape[axis] != two.shape[axis] for axis in others):
        found = "none has" if not axes else f"{len(axes)} have" if len(axes) > 1 else "more change"
        raise ExportError(
            f"state {name!r} has the shape {shapes}: wanted one axis whose length is the number of "
            f"streams, {found}"
        )
    if 0 in one.shape:
        raise ExportError(f"state {name!r} has the shape {list(one.shape)}: it holds nothing")


def _check_content(name: str, value: Tensor) -> None:
    kind = _name_of(value.dtype)
    if kind not in STATE_DTYPES:
        raise ExportError(f"state {name!r} is {kind}: wanted one of {', '.join(STATE_DTYPES)}")
    first = value.flatten()[0]
    if not torch.isfinite(first) or float(first.item()) != first.item():
        raise ExportError(
            f"state {name!r} begins with {first.item()}: a contract writes a number that is finite "
            "and exact as a float"
        )
    if (value != first).any():
        raise ExportError(
            f"state {name!r} begins with {value.min().item()} to {value.max().item()}: a contract "
            "holds one initial value for a whole tensor; add what differs inside step"
        )


def check_successor(before: State, after: object) -> None:
    """The state that a step gives back is one that it takes.

    Args:
        before: What it took.
        after: What it gave.

    Raises:
        ExportError: Naming the state and what changed.
    """
    if not isinstance(after, Mapping):
        kind = type(after).__name__
        raise ExportError(f"step wants to give the state back as a dictionary, got {kind}")
    missing = [name for name in before if name not in after]
    unknown = [name for name in after if name not in before]
    if missing or unknown:
        said = [f"{name!r} is missing" for name in missing]
        said += [f"{name!r} is new" for name in unknown]
        raise ExportError(
            f"step gives back another state than it takes: {', '.join(said)}; "
            f"wanted {', '.join(map(repr, before))}"
        )
    for name, old in before.items():
        new = after[name]
        if not isinstance(new, Tensor):
            raise ExportError(f"step gives back a {type(new).__name__} as the state {name!r}")
        if new.shape != old.shape or new.dtype != old.dtype:
            raise ExportError(
                f"step changes the state {name!r} from {_name_of(old.dtype)} {list(old.shape)} to "
                f"{_name_of(new.dtype)} {list(new.shape)}"
            )
        if new.is_floating_point() and not torch.isfinite(new).all():
            raise ExportError(
                f"the state {name!r} is not finite after a step: a NaN would stay in the stream"
            )


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
