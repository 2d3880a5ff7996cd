"""From ``package.module:factory`` and a file of weights to a module, and what can be wrong."""

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from edge_runtime.errors import ExportError
from export.factory import importable, load_weights, made_by

SOURCE = """
import torch
from torch import nn

class Fine(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
    def initial_state(self, streams): return {}
    def step(self, x, state): return x, state

class Stepless(Fine):
    step = None

class Stateless(Fine):
    initial_state = 3

make = Fine
ready = Fine()
number = 7

class Maker:
    make = Fine

def needs(width): return Fine()
def broken():
    raise ValueError("no disk\\nleft")
def plain(): return [1, 2]
def quits(): raise SystemExit(0)
"""


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    """A folder with a package ``hers``; what is imported from it is forgotten afterwards."""
    (tmp_path / "hers").mkdir()
    (tmp_path / "hers" / "__init__.py").write_text("")
    (tmp_path / "hers" / "model.py").write_text(SOURCE)
    (tmp_path / "hers" / "broken.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "hers" / "wrong.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "hers" / "failing.py").write_text("x = 1\ny = x / 0\n")
    with importable(tmp_path):
        yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "hers"]:
        del sys.modules[name]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("factory", ["make", "Fine", "Maker.make"])
def test_a_function_a_class_or_a_part_of_one_makes_the_module(factory: str) -> None:
    module = made_by(f"hers.model:{factory}")
    assert type(module).__name__ == "Fine"
    assert not module.training


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("hers.model", r"^--module wants package.module:factory, got 'hers.model'$"),
        ("hers.model:", "^--module wants"),
        (":make", "^--module wants"),
        ("hers/model.py:make", "^--module wants"),
        ("hers.model:make()", "^--module wants"),
        ("hers.model:a:b", "^--module wants"),
        ("hers..model:make", "^--module wants"),
        ("his.model:make", r"^there is no module 'his': looked in {folder} and where Python"),
        ("hers.modle:make", r"^there is no module 'hers.modle': looked in"),
        ("hers.broken:make", "^importing hers.broken raises ModuleNotFoundError: No module named "
         r"'nothing_of_that_name' \(.*hers/broken.py:1\)"),
        ("hers.wrong:make", r"^importing hers.wrong raises SyntaxError: .*hers/wrong.py:2\)"),
        ("hers.failing:make", r"^importing .* raises ZeroDivisionError: .*hers/failing.py:2\)"),
        ("hers.model:mak", "^hers.model:mak: there is no 'mak'; did you mean 'make'"),
        ("hers.model:qqq", "^hers.model:qqq: there is no 'qqq'$"),
        ("hers.model:Maker.mke", "there is no 'mke'; did you mean 'make'"),
        ("hers.model:number", "^hers.model:number is a int: wanted a function or a class"),
        ("hers.model:ready", "^hers.model:ready is a Fine already: wanted a function that makes"),
        ("hers.model:needs", r"^hers.model:needs raises TypeError: .*'width'"),
        ("hers.model:broken", r"^hers.model:broken raises ValueError: no disk \(.*model.py:27\)$"),
        ("hers.model:plain", "^hers.model:plain makes a list: wanted a torch.nn.Module"),
        ("hers.model:Stepless", "^hers.model:Stepless makes a Stepless without step: wanted"),
        ("hers.model:Stateless", "makes a Stateless without initial_state: wanted"),
    ],
)  # fmt: skip
def test_what_makes_no_module_is_named(package: Path, place: str, reason: str) -> None:
    with pytest.raises(ExportError, match=reason.replace("{folder}", str(package))) as caught:
        made_by(place)
    assert "\n" not in str(caught.value)


def test_the_folder_is_looked_into_for_as_long_as_it_is_asked_for(tmp_path: Path) -> None:
    before = list(sys.path)
    with importable(tmp_path):
        assert sys.path[0] == str(tmp_path)
        sys.path.append("/somewhere")  # her code does as it pleases
    assert sys.path == [*before, "/somewhere"]
    sys.path.remove("/somewhere")


def linear() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()


@pytest.mark.parametrize("wrapped_as", [None, "state_dict", "model", "model_state_dict"])
def test_weights_come_back_from_a_state_dict_or_a_checkpoint(
    wrapped_as: str | None, tmp_path: Path
) -> None:
    original, path = linear(), tmp_path / "weights.pt"
    weights = original.state_dict()
    torch.save(weights if wrapped_as is None else {"epoch": 3, wrapped_as: weights}, path)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    assert not torch.equal(module.state_dict()["0.weight"], weights["0.weight"])
    load_weights(module, path)
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_every_tensor_that_does_not_fit_is_named_with_both_shapes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    weights = linear().state_dict()
    before = {name: value.clone() for name, value in weights.items()}
    del weights["1.bias"]
    weights["0.weight"] = torch.zeros(2, 4)
    weights["head.weight"] = torch.zeros(1)
    torch.save(weights, path)
    module = linear()
    with pytest.raises(ExportError) as caught:
        load_weights(module, path)
    assert str(caught.value) == (
        f"{path} does not fit the module: 0.weight wants [2, 3], the file has [2, 4]; "
        "1.bias is missing; head.weight is not in the module"
    )
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Boom:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_file_of_weights_is_not_run_and_not_advised(tmp_path: Path) -> None:
    path, touched = tmp_path / "weights.pt", tmp_path / "touched"
    contents = [b"", b"weights", pickle.dumps(Boom(touched))]
    for saved in (linear(), {"state_dict": Boom(touched)}):
        torch.save(saved, path)
        contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ExportError, match="holds more than plain tensors, or is damaged") as e:
            load_weights(linear(), path)
        assert "\n" not in str(e.value)
        assert "weights_only" not in str(e.value)
        assert not touched.exists()


def test_another_file_of_plain_data_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ExportError, match=r"wanted a state_dict, .* got a list$"):
        load_weights(linear(), path)
    torch.save({"epoch": 1, "optimizer": {}}, path)
    with pytest.raises(ExportError, match=r"got a dict with 'epoch', 'optimizer'$"):
        load_weights(linear(), path)
    with pytest.raises(ExportError, match="cannot read the weights: No such file"):
        load_weights(linear(), tmp_path / "nowhere.pt")


def test_a_factory_that_ends_the_program_is_an_error(package: Path) -> None:
    """Else the command would end well, and there would be no file."""
    with pytest.raises(ExportError, match=r"hers\.model:quits raises SystemExit: 0"):
        made_by("hers.model:quits")
    (package / "hers" / "ending.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(ExportError, match=r"importing hers\.ending raises SystemExit"):
        made_by("hers.ending:make")
