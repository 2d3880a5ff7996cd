"""What a module remembers by itself, so that a change can be seen and named."""

import types
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.errors import ExportError

Frozen = tuple[Any, ...]
Snapshot = dict[str, Frozen]
"""By what a person would call it: ``buffer 'running_h'``."""

# Looked at by name and by value.
_TENSORS_AND_PARTS = {"_parameters", "_buffers", "_modules"}


def snapshot_of(module: nn.Module) -> Snapshot:
    """All tensors and Python attributes of a module and its submodules, by value.

    Args:
        module: The module.

    Returns:
        Something that compares equal as long as nothing has changed.
    """
    seen: Snapshot = {}
    for name, parameter in module.named_parameters():
        seen[f"parameter {name!r}"] = _of_tensor(parameter)
    for name, buffer in module.named_buffers():
        seen[f"buffer {name!r}"] = _of_tensor(buffer)
    for place, part in module.named_modules():
        for key, value in vars(part).items():
            if key not in _TENSORS_AND_PARTS:
                name = f"{place}.{key}" if place else key
                seen[f"attribute {name!r}"] = _frozen(value, frozenset([id(part)]))
    return seen


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Names of what is new, gone, or has another value."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _frozen(value: Any, outer: frozenset[int]) -> Frozen:  # noqa: ANN401 - anything at all
    """A copy that nobody else holds and that compares by value."""
    if id(value) in outer:
        return ("itself",)
    outer |= {id(value)}
    content: Frozen
    match value:
        case Tensor():
            return _of_tensor(value)
        case np.ndarray():
            content = (str(value.dtype), value.shape, value.tobytes())
        case Mapping():
            content = (*map(repr, value), *_all(value.values(), outer))
        case list() | tuple() | deque():
            content = _all(value, outer)
        case set() | frozenset():
            content = tuple(sorted(map(repr, value)))
        case type() | types.FunctionType() | types.ModuleType():
            content = (id(value),)
        case object(__dict__=inside) if inside:
            content = (*inside, *_all(inside.values(), outer))
        case _:
            content = (repr(value),)
    return (type(value), *content)


def _all(values: Iterable[Any], outer: frozenset[int]) -> Frozen:
    return tuple(_frozen(value, outer) for value in values)


def _of_tensor(value: Tensor) -> Frozen:
    if isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer):
        raise ExportError("a tensor of the module has no shape yet (a lazy layer): run it once")
    if value.layout != torch.strided:
        raise ExportError(f"a tensor of the module is {value.layout}: wanted a dense one")
    content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return ("tensor", str(value.dtype), tuple(value.shape), content)
