"""Files of tensors and plain data: written whole or not at all, read without running code."""

import io
import pickle
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
        saved = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        OSError,
        EOFError,
        LookupError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        # What PyTorch says here is to load it with pickle; that advice must not reach anyone.
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
