"""Code that is not ours: calling it, and saying which of its lines something is about."""

import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from edge_runtime.errors import ExportError

_OURS = Path(__file__).parents[1]
_NOT_HERS = (Path(torch.__file__).parent, _OURS / "export", _OURS / "train")
_LIBRARY = Path(sysconfig.get_path("stdlib"))
_FRAME = re.compile(r'File "([^"<]+)", line (\d+)')


def call(what: str, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
    """Calls what somebody else wrote.

    Args:
        what: Its name, for people.
        function: The function.
        arguments: Its arguments.

    Returns:
        What it returns.

    Raises:
        ExportError: If it raises anything; says what, and in which line.
    """
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # there is no telling what it raises
        raise ExportError(f"{what} raises {described(error)}") from error


def described(error: BaseException) -> str:
    """Kind, first line and place of an error."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}{f': {first}' if first else ''}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """Where in the user's code an error is from, `` (pumps/model.py:19)``; else nothing."""
    places = [place for place in _places(error) if _is_hers(place[0])]
    if not places:
        return ""
    path, line = places[-1]
    here = Path.cwd()
    return f" ({path.relative_to(here) if path.is_relative_to(here) else path}:{line})"


def _places(error: BaseException) -> Iterator[tuple[Path, int]]:
    """Lines that an error and its causes came through, the innermost last.

    PyTorch's tracer runs code without frames of its own, and writes into its messages where it was.
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        for frame in traceback.extract_tb(link.__traceback__):
            yield Path(frame.filename), frame.lineno or 0
    for link in chain:
        for name, line in _FRAME.findall(str(link)):
            yield Path(name), int(line)
    if isinstance(error, SyntaxError) and error.filename:
        yield Path(error.filename), error.lineno or 0


def _is_hers(path: Path) -> bool:
    if path.is_relative_to(_LIBRARY) and "site-packages" not in path.parts:
        return False
    ours = any(path.is_relative_to(folder) for folder in _NOT_HERS)
    return path.is_absolute() and path.exists() and not ours
