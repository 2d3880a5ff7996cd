"""The module of docs/your-own-module.md, in a package of its own, and what is exported of it."""

import atexit
import importlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from export.factory import importable
from export.module import Wanted, export_module
from test_readme import ROOT, parse

DOCUMENT = ROOT / "docs" / "your-own-module.md"

_temporary = TemporaryDirectory(prefix="andon-own-")
atexit.register(_temporary.cleanup)
_folder = Path(_temporary.name)


@cache
def package_folder() -> Path:
    """A folder with a package ``own_pumps``, and weights.pt with others than its factory gives."""
    blocks = parse(DOCUMENT.read_text(encoding="utf-8"))
    (source,) = (block.text for block in blocks if block.file == "pumps/model.py")
    package = _folder / "own_pumps"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text(source)
    torch.manual_seed(5)
    torch.save(fresh_module().state_dict(), _folder / "weights.pt")
    return _folder


def fresh_module() -> Any:
    """What the factory makes, with random weights."""
    with importable(_folder):
        return importlib.import_module("own_pumps.model").make().eval()


def own_module() -> Any:
    """The module with the weights of the file."""
    folder = package_folder()
    module = fresh_module()
    module.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return module


@cache
def own_model() -> Path:
    """The exported file; made once a test run. Do not change it in place."""
    folder = package_folder()
    path = folder / "own.onnx"
    wanted = Wanted("own_pumps.model:make", folder / "weights.pt", warm_up_steps=4)
    with importable(folder):
        export_module(wanted, path, lambda _: None)
    return path
