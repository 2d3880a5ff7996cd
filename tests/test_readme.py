"""The README's code blocks, executed in the order of reading.

All blocks share one shell in one empty folder, so variables, `cd` and files carry over:

- ```` ```bash ```` and ```` ```python ```` are run.
- ``<!-- file: NAME -->`` on the line before a block writes the block to NAME instead.
- ``<!-- not run: REASON -->`` on the line before a block leaves it out.
- ```` ```text ```` and ```` ```mermaid ```` are for people.
- Any other block needs one of the two comments.

`andon` and `python` are those of the environment that runs the tests, `configs` is a copy of the
project's folder, and 127.0.0.1:1883 stands for a mosquitto that is started for the purpose. What a
block leaves in the background is killed at the end.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import Broker

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
ADDRESS = "127.0.0.1:1883"
TIMED_OUT = 124

RUN = ("bash", "python")
FOR_PEOPLE = ("text", "mermaid")
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>[^`\s]*)")
_COMMENT = re.compile(r"^\s*<!--\s*(?P<key>file|not run)\s*:(?P<value>.*?)-->\s*$")
_END_OF_BLOCK = "END_OF_README_BLOCK"


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        line: Line of the opening fence, from 1.
        language: The word behind the fence.
        text: What stands between the fences, without their indentation.
        file: From ``<!-- file: ... -->``; None without that comment.
        reason: From ``<!-- not run: ... -->``; None without that comment.
    """

    line: int
    language: str
    text: str
    file: str | None = None
    reason: str | None = None

    @property
    def problem(self) -> str | None:
        """What keeps the block from being run, written or rightly left out."""
        if self.reason is not None:
            return None if self.reason else "the comment 'not run' gives no reason"
        if self.file is not None:
            inside = self.file and not Path(self.file).is_absolute() and ".." not in self.file
            return None if inside else f"a file wants a name below the folder, got {self.file!r}"
        if self.language in (*RUN, *FOR_PEOPLE):
            return None
        return (
            f"a block of {self.language or 'no language'} wants <!-- file: NAME --> or "
            "<!-- not run: REASON --> on the line before"
        )


def parse(markdown: str) -> list[Block]:
    """The fenced blocks of ``markdown``, in order.

    Raises:
        ValueError: A fence is never closed.
    """
    lines = markdown.splitlines()
    blocks: list[Block] = []
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        if opening is None:
            at += 1
            continue
        end = at + 1
        while end < len(lines) and lines[end].strip() != opening["fence"]:
            end += 1
        if end == len(lines):
            raise ValueError(f"line {at + 1}: this block is never closed")
        comment = _COMMENT.match(lines[at - 1]) if at else None
        told = {comment["key"]: comment["value"].strip()} if comment else {}
        text = textwrap.dedent("\n".join(lines[at + 1 : end]))
        blocks.append(
            Block(at + 1, opening["language"], text, told.get("file"), told.get("not run"))
        )
        at = end + 1
    return blocks


def script(blocks: Sequence[Block]) -> str:
    """The shell script that does what ``blocks`` say; it names each block's line before it."""
    parts = ["set -euo pipefail"]
    for block in blocks:
        if block.reason is not None or (block.file is None and block.language not in RUN):
            continue
        parts.append(f"echo '--- line {block.line}'")
        if block.file is not None:
            parts.append(f'mkdir -p "$(dirname {block.file!r})"')
            parts.append(f"cat > {block.file!r} <<'{_END_OF_BLOCK}'\n{block.text}\n{_END_OF_BLOCK}")
        elif block.language == "python":
            parts.append(f"python - <<'{_END_OF_BLOCK}'\n{block.text}\n{_END_OF_BLOCK}")
        else:
            parts.append(block.text)
    return "\n".join(parts) + "\n"


def run(commands: str, folder: Path, seconds: float = 30) -> tuple[int, str]:
    """Runs a shell script in ``folder`` and then kills what it left in the background.

    Returns:
        The exit code, `TIMED_OUT` if it took more than ``seconds``, and what was printed to
        standard output and error.
    """
    here = Path(sys.executable).parent
    environment = dict(os.environ, PATH=f"{here}{os.pathsep}{os.environ['PATH']}")
    printed = folder.parent / f"{folder.name}.txt"
    with printed.open("w", encoding="utf-8") as output:
        shell = subprocess.Popen(
            ["bash", "-c", commands],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = shell.wait(seconds)
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    return code, printed.read_text(encoding="utf-8")


def test_every_block_is_run_or_says_why_not() -> None:
    blocks = parse(README.read_text(encoding="utf-8"))
    assert [f"README.md:{block.line}: {block.problem}" for block in blocks if block.problem] == []
    assert any(block.language == "bash" and block.reason is None for block in blocks)


@pytest.mark.timeout(420)
def test_the_blocks_of_the_readme_run(broker: Broker, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(ROOT / "configs", folder / "configs")
    address = broker.url.removeprefix("mqtt://")
    commands = script(parse(README.read_text(encoding="utf-8")))
    for config in folder.rglob("*.toml"):
        config.write_text(config.read_text(encoding="utf-8").replace(ADDRESS, address))
    code, printed = run(commands.replace(ADDRESS, address), folder, seconds=400)
    assert code == 0, f"the last line named is that of the block that failed:\n{printed}"


# The harness itself, on small documents.


def _run(markdown: str, folder: Path) -> tuple[int, str]:
    return run(script(parse(markdown)), folder)


def test_a_block_knows_its_line_its_language_and_its_comment() -> None:
    assert parse(
        "# A\n\n```bash\na\nb\n```\n<!-- not run: takes an hour -->\n```python\nc\n```"
    ) == [
        Block(3, "bash", "a\nb"),
        Block(8, "python", "c", reason="takes an hour"),
    ]


def test_a_block_in_a_list_loses_its_indentation() -> None:
    assert parse("- item\n\n  ```bash\n  if a; then\n    b\n  fi\n  ```\n") == [
        Block(3, "bash", "if a; then\n  b\nfi")
    ]


def test_a_longer_fence_holds_a_shorter_one() -> None:
    assert [block.text for block in parse("````text\n```bash\nx\n```\n````\n")] == [
        "```bash\nx\n```"
    ]


def test_a_block_that_is_never_closed_is_named() -> None:
    with pytest.raises(ValueError, match="line 2: this block is never closed"):
        parse("text\n```bash\nx\n")


@pytest.mark.parametrize(
    ("markdown", "problem"),
    [
        ("```toml\nx = 1\n```", "a block of toml wants"),
        ("```\nx\n```", "a block of no language wants"),
        ("<!-- not run: -->\n```bash\nx\n```", "gives no reason"),
        ("<!-- file: ../x -->\n```toml\nx\n```", "below the folder, got '../x'"),
        ("<!-- some other comment -->\n```json\nx\n```", "a block of json wants"),
    ],
)
def test_a_block_that_nobody_runs_is_a_problem(markdown: str, problem: str) -> None:
    (block,) = parse(markdown)
    assert block.problem is not None
    assert problem in block.problem


@pytest.mark.parametrize(
    "markdown",
    [
        "```bash\nx\n```",
        "```python\nx\n```",
        "```text\nx\n```",
        "<!-- not run: downloads -->\n```bash\nx\n```",
        "<!-- file: a/b.toml -->\n```toml\nx = 1\n```",
    ],
)
def test_a_block_that_is_accounted_for_is_none(markdown: str) -> None:
    assert [block.problem for block in parse(markdown)] == [None]


def test_variables_folders_and_files_carry_over(tmp_path: Path) -> None:
    code, printed = _run(
        "```bash\nx=lamp; mkdir in; cd in\n```\n"
        "<!-- file: deep/a.toml -->\n```toml\ncolour = '$x'\n```\n"
        "```python\nfrom pathlib import Path\nprint(Path('deep/a.toml').read_text())\n```\n"
        '```bash\necho "$x in $(basename $PWD)"\n```\n',
        tmp_path,
    )
    assert code == 0
    assert "colour = '$x'" in printed
    assert "lamp in in" in printed


def test_what_is_marked_is_not_run(tmp_path: Path) -> None:
    code, printed = _run(
        "<!-- not run: it fails -->\n```bash\nfalse\n```\n"
        "```text\nfalse\n```\n"
        "```bash\necho on\n```\n",
        tmp_path,
    )
    assert (code, printed) == (0, "--- line 8\non\n")


@pytest.mark.parametrize(
    "failing",
    ["```bash\nfalse\n```", "```bash\nfalse | cat\n```", "```python\nraise SystemExit(3)\n```"],
)
def test_the_first_block_that_fails_ends_the_run(failing: str, tmp_path: Path) -> None:
    code, printed = _run(f"```bash\ntrue\n```\n{failing}\n```bash\necho never\n```\n", tmp_path)
    assert code != 0
    assert printed.splitlines()[-1] == "--- line 4"


def test_commands_are_those_of_this_environment(tmp_path: Path) -> None:
    _, printed = _run("```python\nimport sys; print(sys.prefix)\n```", tmp_path)
    assert printed.splitlines()[-1] == sys.prefix


def test_nothing_stays_in_the_background(tmp_path: Path) -> None:
    code, _ = _run("```bash\nexec 9> held\nflock 9\nsleep 600 &\n```", tmp_path)
    assert code == 0
    with (tmp_path / "held").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # is had only once every holder is gone


def test_a_block_that_hangs_is_killed(tmp_path: Path) -> None:
    hangs = "```bash\nexec 9> held\nflock 9\nsleep 600\n```"
    code, printed = run(script(parse(hangs)), tmp_path, seconds=0.5)
    assert (code, printed) == (TIMED_OUT, "--- line 1\n")
    with (tmp_path / "held").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
