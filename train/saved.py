"""Files of tensors and plain data: written whole or not at all, read without running code."""

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edge_runtime.errors import TrainingError
from edge_runtime.files import replacing


def write_saved(path: Path, kind: str, schema: int, content: dict[str, Any]) -> None:
    """Writes tensors and plain data.

    Args:
        path: The file.
        kind: What it is, for people: ``"checkpoint"``.
        schema: Version of ``content``'s layout.
        content: Tensors, numbers, text, lists and dictionaries of them.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        # A file object, not a path: torch would write the temporary name into the file.
        torch.save({"andon": kind, "schema": schema, "content": content}, file)


def read_saved(path: Path, kind: str, schema: int) -> dict[str, Any]:
    """Reads what `write_saved` wrote.

    Args:
        path: The file.
        kind: What it must be.
        schema: The version that it must have.

    Returns:
        The content.

    Raises:
        TrainingError: If it is missing, damaged, something else or of another version.
    """
    try:
        written = Path(path).read_bytes()
    except OSError as error:
        raise TrainingError(f"{path}: cannot read the {kind}: {error.strerror}") from error
    try:
        saved = plain_data(written)
    except ValueError as error:
        raise TrainingError(f"{path}: not a {kind} of andon, or a damaged one") from error
    if not isinstance(saved, dict) or saved.get("andon") != kind:
        raise TrainingError(f"{path}: wanted a {kind} of andon, got another PyTorch file")
    if saved.get("schema") != schema:
        raise TrainingError(
            f"{path}: wanted {kind} schema {schema}, got {saved.get('schema')}; "
            "train again with this andon, or use the andon that wrote it"
        )
    content: dict[str, Any] = saved["content"]
    return content


def plain_data(written: bytes) -> Any:  # noqa: ANN401 - whatever it was
    """What `torch.save` wrote, if it is tensors and plain data; no code in it is run.

    Raises:
        ValueError: For anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles, which are refused anyway
            return torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        OSError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        # What PyTorch says here is to load it with pickle; that advice must not reach anyone.
        raise ValueError("wanted tensors and plain data") from error


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which settings are others than they were: ``lr was 0.1, is 0.2; ...``, or empty."""
    return "; ".join(
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )
