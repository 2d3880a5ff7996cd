"""docs/guarantees.md names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "guarantees.md").read_text()
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and line.count("|") == 6]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", TEXT))))
def test_a_test_that_is_named_exists(name: str) -> None:
    assert re.search(rf"^def {name}\(", TESTS, re.M)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|configs|docs)/[^`]*)`", TEXT))))
def test_a_file_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_fault_names_what_shows_it() -> None:
    faults = [row for row in ROWS if not row.startswith(("| fault", "|---"))]
    assert len(faults) > 15
    for row in faults:
        assert re.search(r"`(tests/|test_)", row.split("|")[5]), row
