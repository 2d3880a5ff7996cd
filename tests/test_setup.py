"""What holds the project together: import directions, pinned versions, the Makefile, links."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("train", "export", "evaluate", "edge_runtime")
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")

NOT_ON_A_GATEWAY = {
    "torch",
    "onnx",
    "onnxscript",
    "matplotlib",
    "pyarrow",
    "amqtt",
    "aeon",
    "train",
    "export",
    "evaluate",
}
GATEWAY = {"click", "msgspec", "numpy", "onnxruntime", "paho"}
ONLY_WHEN_ASKED_FOR = {"amqtt", "matplotlib", "pyarrow"}
CUDA = re.compile(r"^(nvidia|cuda|triton)\b")


def _python(code: str, *flags: str) -> str:
    """Standard output of ``code`` in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _pyproject() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _project() -> dict[str, object]:
    project = _pyproject()["project"]
    assert isinstance(project, dict)
    return project


# Import directions.


def test_the_command_loads_only_what_a_gateway_has() -> None:
    code = "import json, sys, edge_runtime.cli; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.partition(".")[0] for name in json.loads(_python(code))}
    assert loaded & NOT_ON_A_GATEWAY == set()


def test_every_module_imports_without_a_warning() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.stem != "__main__"
    ]
    code = (
        f"import importlib, json\nfor name in {names}: importlib.import_module(name)\nprint('done')"
    )
    assert _python(code, "-W", "error") == "done\n"


def _imported(path: Path) -> Iterator[str]:
    """The top-level names that the file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_the_gateway_imports_what_its_dependencies_give() -> None:
    # _typeshed is for type checkers alone, which bring it along.
    allowed = GATEWAY | ONLY_WHEN_ASKED_FOR | {"edge_runtime", "_typeshed"}
    allowed |= sys.stdlib_module_names
    imported = {
        (path.name, name)
        for path in (ROOT / "edge_runtime").rglob("*.py")
        for name in _imported(path)
    }
    assert {pair for pair in imported if pair[1] not in allowed} == set()
    assert {path for path, name in imported if name == "paho"} <= {"mqtt.py"}


# The pinned environment.


def _locked() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def _asked_for() -> list[Requirement]:
    """Every requirement that pyproject.toml names, but for those on its own extras."""
    project, build = _project(), _pyproject()["build-system"]
    extras = project["optional-dependencies"]
    assert isinstance(build, dict)
    assert isinstance(extras, dict)
    lines = [project["dependencies"], build["requires"], *extras.values()]
    asked = [Requirement(line) for group in lines for line in group]
    return [requirement for requirement in asked if requirement.name != "andon"]


def _pinned(requirement: Requirement, locked: dict[str, Version]) -> bool:
    version = locked.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("requirement", _asked_for(), ids=str)
def test_the_lock_agrees_with_pyproject(requirement: Requirement) -> None:
    locked = _locked()
    assert _pinned(requirement, locked), (
        f"pyproject.toml wants {requirement}, requirements.lock has "
        f"{locked.get(canonicalize_name(requirement.name))}: make lock"
    )


def _needs(name: str, extras: Iterable[str]) -> Iterator[Requirement]:
    """What the installed package needs on any Python and machine that Andon supports."""
    installed = [Requirement(line) for line in metadata.requires(name) or []]
    here = {name: str(value) for name, value in default_environment().items()}
    places = [
        here
        | {"python_version": python, "python_full_version": f"{python}.0"}
        | {"platform_machine": machine, "extra": extra}
        for python in PYTHONS
        for machine in MACHINES
        for extra in ("", *extras)
    ]
    for requirement in installed:
        marker = requirement.marker
        if marker is None or any(marker.evaluate(place) for place in places):
            yield requirement


def test_the_lock_holds_all_that_its_packages_need() -> None:
    locked = _locked()
    waiting = _asked_for()
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen or CUDA.match(key[0]):
            continue
        seen.add(key)
        assert _pinned(requirement, locked), f"the lock has no version for {requirement}: make lock"
        waiting += _needs(requirement.name, requirement.extras)
    assert {name for name, _ in seen} == set(locked), "the lock holds what nothing needs: make lock"


def test_the_lock_suits_any_machine() -> None:
    locked = _locked()
    assert [str(version) for version in locked.values() if version.local] == []
    assert [name for name in locked if CUDA.match(name)] == []


# The Makefile, with stand-ins for what the machine has.

SOURCES = ("Makefile", "requirements.lock", "pyproject.toml")
NOT_ROOT = {"id": "echo 1000", "sudo": "echo a password is required >&2; exit 1"}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what make reads, and `bin`, which comes first on its PATH."""
    for name in SOURCES:
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def _stand_in(clone: Path, name: str, lines: str) -> None:
    path = clone / "bin" / name
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def _python_without_ensurepip(version: str) -> str:
    """A program that takes `-c CODE` and claims to be another Python."""
    numbers = ", ".join(version.split("."))
    claim = f"import sys; sys.version_info = ({numbers}, 0); sys.modules['ensurepip'] = None"
    return f'exec "{sys.executable}" -c "{claim}; exec(sys.argv[1])" "$2"'


def _make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    ours = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "TORCH_INDEX")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment["PATH"] = f"{clone / 'bin'}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        ["make", *arguments],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a make that failed says, without make's own words."""
    assert done.returncode != 0
    return [line for line in done.stderr.splitlines() if not line.startswith("make")]


def test_make_alone_lists_every_target(clone: Path) -> None:
    done = _make(clone)
    assert done.returncode == 0
    listed = re.findall(r"^ +make ([\w-]+) ", done.stdout, re.MULTILINE)
    assert listed == [
        "help",
        "demo",
        "test",
        "torture",
        "check",
        "bench",
        "bench-quick",
        "performance",
        "cells",
        "gallery",
        "quality",
        "venv",
        "lock",
        "clean",
    ]


@pytest.mark.parametrize(
    "target",
    [
        "demo",
        "test",
        "torture",
        "check",
        "bench",
        "bench-quick",
        "performance",
        "cells",
        "gallery",
        "quality",
        "venv",
        "lock",
        "clean",
    ],
)
def test_each_target_can_be_looked_at_first(target: str, clone: Path) -> None:
    done = _make(clone, "-n", target)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("folder", ["", "not-there"])
def test_quality_says_what_it_lacks_before_the_environment_is_made(
    folder: str, clone: Path
) -> None:
    assert _said(_make(clone, "quality", f"ANDON_DATA={folder}")) == [
        f"ANDON_DATA wants the folder with the recorded data sets, got '{folder}': "
        "make quality ANDON_DATA=FOLDER"
    ]
    assert not (clone / ".venv").exists()


def test_the_index_of_torch_is_handed_to_pip(clone: Path) -> None:
    index = "https://example.org/whl/cpu"
    assert f"--extra-index-url {index} -r requirements.lock" in (
        _make(clone, "-n", "venv", f"TORCH_INDEX={index}").stdout
    )
    assert "index-url" not in _make(clone, "-n", "venv").stdout


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_a_python_that_does_not_suit_is_named(version: str, clone: Path) -> None:
    _stand_in(clone, "python3", _python_without_ensurepip(version))
    _stand_in(clone, "python9", "echo no such version >&2; exit 127")
    assert _said(_make(clone, "venv", "PYTHON=python9 python3")) == [
        "Andon needs Python 3.11, 3.12 or 3.13; none of these is one: python9 python3"
    ]


@pytest.mark.parametrize("version", PYTHONS)
def test_what_only_root_can_install_is_asked_for_in_one_sentence(version: str, clone: Path) -> None:
    for name, lines in NOT_ROOT.items():
        _stand_in(clone, name, lines)
    _stand_in(clone, "python3", _python_without_ensurepip(version))
    _stand_in(clone, "python9", "exit 127")
    package = f"python{version}-venv"
    assert _said(_make(clone, "venv", "PYTHON=python9 python3")) == [
        f"Please install {package} (on Debian and Ubuntu: sudo apt install {package}) "
        "and run make again."
    ]
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("newer", ["requirements.lock", "pyproject.toml"])
def test_the_environment_is_made_again_only_when_its_sources_change(
    newer: str, clone: Path
) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".installed").touch()
    for name in SOURCES:
        os.utime(clone / name, (0, 0))
    done = _make(clone, "venv", "PYTHON=false")
    assert (done.returncode, done.stderr) == (0, "")

    os.utime(clone / ".venv" / ".installed", (1, 1))
    os.utime(clone / newer, (2, 2))
    assert _said(_make(clone, "venv", "PYTHON=false"))[0].startswith("Andon needs Python")


# The tree and its pages.


@pytest.mark.parametrize(
    "folder", [*PACKAGES, "benchmarks", "configs/train", "configs/edge", "docs", "tests"]
)
def test_the_folder_is_there_and_not_empty(folder: str) -> None:
    assert any((ROOT / folder).iterdir())


def test_the_changelog_tells_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.escape(str(_project()["version"]))
    assert re.search(rf"^## \[?{version}\b", changelog, re.MULTILINE)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 250


def _links(page: Path) -> Iterator[str]:
    """Targets of links and pictures in ``page`` that point into the project."""
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(<?([^)\s>]+)[^)]*\)", text) + re.findall(
        r'(?:src|href)="(.+?)"', text
    )
    return (target for target in targets if not re.match(r"[a-z]+:|#", target))


def test_every_link_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in _links(page)
        if not (page.parent / target.partition("#")[0]).exists()
    ]
    assert broken == []
