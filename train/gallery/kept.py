"""What was trained is kept, so that a second run only draws it."""

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_runtime.errors import TrainingError
from edge_runtime.files import write_text
from train.saved import changed

SCHEMA = 1

Result = TypeVar("Result")


def keep(path: Path, settings: dict[str, Any], results: object) -> None:
    """Writes results, whole or not at all.

    Args:
        path: The JSON file.
        settings: Plain data; what the results depend on.
        results: Dataclasses, tuples, numbers and text.
    """
    document = {"schema": SCHEMA, "settings": settings, "results": msgspec.to_builtins(results)}
    write_text(path, json.dumps(document, indent=1) + "\n")


def read_kept(path: Path, settings: dict[str, Any], kind: type[Result]) -> Result | None:
    """Reads what `keep` wrote.

    Args:
        path: The JSON file.
        settings: What the results must depend on.
        kind: What the results must be.

    Returns:
        The results; None if there is no file.

    Raises:
        TrainingError: For a file that is damaged, of another version or made with other settings.
    """
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema, before = document["schema"], dict(document["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: wanted results of andon gallery: {error!r}") from error
    if schema != SCHEMA:
        raise TrainingError(
            f"{path}: wanted results of schema {SCHEMA}, got {schema!r}; use the andon that wrote "
            "them or another folder, or train anew with --force"
        )
    others = changed(before, settings)
    if others:
        raise TrainingError(
            f"{path}: holds what was trained with other settings: {others}. Use the "
            "same or another folder, or train anew with --force"
        )
    try:
        return msgspec.convert(document.get("results"), kind)
    except msgspec.ValidationError as error:
        raise TrainingError(f"{path}: wanted results of andon gallery: {error}") from error
