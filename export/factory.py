"""From ``package.module:factory`` and a file of weights to a module in evaluation mode."""

import difflib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from edge_runtime.errors import ExportError
from export.user_code import call, described
from train.saved import plain_data

_PLACE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_WRAPPED_AS = ("state_dict", "model", "model_state_dict")


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules are looked for in ``folder`` first, as if Python had been started for a file there.

    Args:
        folder: Usually the current one, which an installed command does not look into.
    """
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def made_by(place: str) -> nn.Module:
    """Calls a factory.

    Args:
        place: ``package.module:factory``.

    Returns:
        The module that it makes, in evaluation mode.

    Raises:
        ExportError: If there is no such factory, or what it makes offers no step.
    """
    if not _PLACE.fullmatch(place):
        raise ExportError(f"--module wants package.module:factory, got {place!r}")
    name, _, path = place.partition(":")
    factory = _found(_imported(name), path, place)
    if isinstance(factory, nn.Module):
        raise ExportError(
            f"{place} is a {type(factory).__name__} already: wanted a function that makes one"
        )
    if not callable(factory):
        raise ExportError(f"{place} is a {type(factory).__name__}: wanted a function or a class")
    module = call(place, factory)
    if not isinstance(module, nn.Module):
        raise ExportError(f"{place} makes a {type(module).__name__}: wanted a torch.nn.Module")
    for offer in ("step", "initial_state"):
        if not callable(getattr(module, offer, None)):
            raise ExportError(
                f"{place} makes a {type(module).__name__} without {offer}: wanted "
                "initial_state(streams) and step(x, state)"
            )
    call(f"{place}.eval", module.eval)
    return module


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise ExportError(
                f"there is no module {missing!r}: looked in {sys.path[0]} and where Python is "
                "installed"
            ) from error
        raise ExportError(f"importing {name} raises {described(error)}") from error
    except (Exception, SystemExit) as error:  # importing runs any code
        raise ExportError(f"importing {name} raises {described(error)}") from error


def _found(module: ModuleType, path: str, place: str) -> object:
    found: object = module
    for name in path.split("."):
        if not hasattr(found, name):
            known = [known for known in dir(found) if not known.startswith("__")]
            close = difflib.get_close_matches(name, known, n=1)
            mean = f"; did you mean {close[0]!r}?" if close else ""
            raise ExportError(f"{place}: there is no {name!r}{mean}")
        found = getattr(found, name)
    return found


def load_weights(module: nn.Module, path: Path) -> None:
    """Fills a module from a state_dict, or from a checkpoint that has one inside.

    Args:
        module: Changed in place.
        path: A file of ``torch.save``; no code in it is run.

    Raises:
        ExportError: If it cannot be read, or does not fit; names every tensor that does not.
    """
    weights = _tensors(path)
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in weights]
    problems += [f"{name} is not in the module" for name in weights if name not in wanted]
    for name in wanted.keys() & weights.keys():
        have, want = weights[name], wanted[name]
        if have.shape != want.shape:
            problems.append(f"{name} wants {list(want.shape)}, the file has {list(have.shape)}")
    if problems:
        raise ExportError(f"{path} does not fit the module: {'; '.join(sorted(problems))}")
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ExportError(f"{path} does not fit the module: {described(error)}") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        written = path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path}: cannot read the weights: {error.strerror}") from error
    try:
        saved = plain_data(written)
    except ValueError as error:
        raise ExportError(
            f"{path}: holds more than plain tensors, or is damaged: wanted what "
            "torch.save(module.state_dict(), FILE) writes"
        ) from error
    weights = _unwrapped(saved)
    if weights is None:
        inside = f" with {', '.join(map(repr, saved))}" if isinstance(saved, Mapping) else ""
        raise ExportError(
            f"{path}: wanted a state_dict, or a dictionary with one as {', '.join(_WRAPPED_AS)}; "
            f"got a {type(saved).__name__}{inside}"
        )
    return weights


def _unwrapped(saved: Any) -> dict[str, Tensor] | None:  # noqa: ANN401 - whatever was saved
    if not isinstance(saved, Mapping):
        return None
    for content in (saved, *(saved.get(key) for key in _WRAPPED_AS)):
        if isinstance(content, Mapping) and content and _all_tensors(content):
            return dict(content)
    return None


def _all_tensors(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
