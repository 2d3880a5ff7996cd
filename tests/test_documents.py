"""The documents about cells say what the code says."""

import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import checks
import train.cells
from benchmarks import cells as cost
from benchmarks.quality import __main__ as quality
from checks import Case, Paper
from train.cells import CELLS

ROOT = Path(__file__).parents[1]
CELLS_MD = ROOT / "docs" / "cells.md"
ADDING_MD = ROOT / "docs" / "adding-a-cell.md"


def section(name: str) -> str:
    """The part of docs/cells.md about a cell."""
    found = re.search(rf"^## `{name}`: .*?(?=^## |\Z)", CELLS_MD.read_text(), re.M | re.S)
    assert found, f"docs/cells.md has no section about {name}"
    return found[0]


@pytest.mark.parametrize("name", CELLS)
def test_each_cell_is_shown_as_it_is(name: str) -> None:
    text = section(name)
    step = textwrap.dedent(inspect.getsource(CELLS[name].step))
    shown = re.sub(r'^    """See `Cell.step`."""\n', "", step, flags=re.M).rstrip()
    assert f"```python\n{shown}\n```" in text
    cell = CELLS[name](3, 8)
    for carried in cell.carried:
        assert f"`{carried}`" in text
    for option in cell.options:
        assert f"`{option}`" in text


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dense", lambda n, m: n * m + n),
        ("elman", lambda n, m: n * m + n**2 + n),
        ("jordan", lambda n, m: n * m + 2 * n**2 + 2 * n),
        ("irnn", lambda n, m: n * m + n**2 + n),
        ("lstm", lambda n, m: 4 * (n * m + n**2 + n)),
        ("lstm_peephole", lambda n, m: 4 * (n * m + n**2 + n) + 3 * n),
        ("gru", lambda n, m: 3 * (n * m + n**2 + n) + n),
        ("clockwork", lambda n, m: n * m + n**2 + n),
        ("scrn", lambda n, m: (n + n // 4) * m + n * (n // 4) + n**2 + n),
    ],
)
def test_the_parameters_are_as_many_as_is_said(name: str, count: Any) -> None:
    cell = CELLS[name](5, 16)
    assert sum(parameter.numel() for parameter in cell.parameters()) == count(16, 5)


def test_the_costs_shown_are_those_that_were_measured_and_within_bounds() -> None:
    """Timings are no test; that the table is the one of the last measurement is."""
    measured = json.loads((ROOT / "benchmarks" / "results" / "cells.json").read_text())
    assert measured["schema"] == cost.SCHEMA
    text = CELLS_MD.read_text()
    assert cost.with_table(text, cost.table(measured["cells"])) == text
    assert [row["cell"] for row in measured["cells"]] == list(cost.VARIANTS)


def block(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```python\n(.*?)```", ADDING_MD.read_text(), re.S)
    assert found
    return found[1]


def test_a_cell_added_as_the_document_says_passes_the_conformance_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rooms: dict[str, dict[str, Any]] = {
        "the cell": dict(vars(train.cells)),
        "the paper": dict(vars(checks)),
    }
    for mark, room in rooms.items():
        exec(compile(block(mark), ADDING_MD.name, "exec"), room)  # noqa: S102
    monkeypatch.setitem(CELLS, "leaky", rooms["the cell"]["Leaky"])
    monkeypatch.setitem(checks.RECURRENT, "leaky", ["Scan"])
    monkeypatch.setitem(checks.PAPERS, "leaky", Paper(rooms["the paper"]["leaky"], (1,)))
    for check in checks.CHECKS:
        check(Case(("leaky",)))


def test_the_tables_of_quality_are_those_that_were_measured() -> None:
    """Whether they are good is for the reader; that they are the last measurement's is tested."""
    document = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    results = quality.read_figures(quality.FIGURES)
    assert set(results) == set(quality.PARTS)
    assert quality.with_tables(document, results) == document
