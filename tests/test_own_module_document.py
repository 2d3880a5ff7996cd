"""The code blocks of docs/your-own-module.md, executed in the order of reading."""

from pathlib import Path

from own_module import DOCUMENT
from test_readme import parse, run, script


def test_every_block_is_run_or_says_why_not() -> None:
    blocks = parse(DOCUMENT.read_text(encoding="utf-8"))
    assert [f"line {block.line}: {block.problem}" for block in blocks if block.problem] == []


def test_the_blocks_run(tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    code, printed = run(script(parse(DOCUMENT.read_text(encoding="utf-8"))), folder, seconds=100)
    assert code == 0, f"the last line named is that of the block that failed:\n{printed}"
    assert "pump-2: 720 scores agree" in printed
