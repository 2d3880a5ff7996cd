"""A file is the old one or the whole new one."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.files import replacing, write_text


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "out.json"
    write_text(path, "first")
    write_text(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    assert names(path.parent) == ["out.json"]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
    assert path.read_text() == "new"


@pytest.mark.parametrize("old", ["old", None])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "out.csv"
    if old is not None:
        path.write_text(old)
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert names(tmp_path) == ([] if old is None else ["out.csv"])
    assert old is None or path.read_text() == old


def test_a_target_that_cannot_be_replaced_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"), replacing(path) as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["folder"]


def test_permissions_honour_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "out.onnx"
    write_text(path, "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.chmod(0o600)
    write_text(path, "y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert os.umask(umask) == umask  # untouched


def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + ".json")
    write_text(path, "x")
    assert path.read_text() == "x"
