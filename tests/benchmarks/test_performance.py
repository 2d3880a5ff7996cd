"""What `python -m benchmarks.performance` counts and writes, on rows made here."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.performance import __main__ as command
from benchmarks.performance.measure import (
    Case,
    Figures,
    Measure,
    NotTheSameError,
    Plan,
    Row,
    alternate,
    attempt,
    cpu_s,
    require_same,
)
from benchmarks.performance.models import Module, kernel
from benchmarks.performance.picture import curves_of, draw
from benchmarks.performance.report import (
    as_json,
    as_table,
    figure,
    from_json,
    spread,
    summary,
    with_document,
)

AROUND = {"processors": "2"}
PLAN = Plan(Path(), 2, 1, quick=True)
MET = Row(3, "groups of 200", "us", 2.5, [4.0, 5.0, 6.0], [2.0, 2.0, 2.0])
ALONE = Row(7, "10,000 streams", "MB", 110.0, [121.0], [], "the state itself is 544 bytes")
FAILED = Row(3, "groups of 40", "us", None, [], [], failed="RuntimeError: no broker")


def a_measure(*figures: Figures, error: Exception | None = None) -> Measure:
    def run(_: Plan) -> Iterator[Figures]:
        yield from figures
        if error is not None:
            raise error

    return Measure(3, "a chain", "a model", [Case("one", 2.0), Case("two", None, "s")], run)


def test_sides_take_turns_forth_and_back() -> None:
    turns: list[str] = []

    def turn(name: str) -> int:
        turns.append(name)
        return len(turns)

    sides = {"a": lambda: turn("a"), "b": lambda: turn("b")}
    assert alternate(sides, 2) == {"a": [3, 6], "b": [4, 5]}
    assert "".join(turns) == "baabba"  # the first pair warms up


def test_without_a_warm_up_every_turn_counts() -> None:
    assert alternate({"a": lambda: 1, "b": lambda: 2}, 3, warm=False) == {
        "a": [1] * 3,
        "b": [2] * 3,
    }


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (MET, "met"),
        (replace(MET, bar=2.0), "missed by 25%"),
        (replace(MET, bar=None), "-"),
        (ALONE, "missed by 10%"),
        (replace(ALONE, bar=121.0), "met"),
        (FAILED, "failed"),
    ],
)
def test_a_verdict_says_by_how_much_a_bar_is_missed(row: Row, verdict: str) -> None:
    assert row.verdict == verdict


def test_what_counts_is_the_median_of_the_ratios_of_the_rounds() -> None:
    row = replace(MET, ours=[1.0, 4.0, 100.0], beside=[1.0, 2.0, 10.0])
    assert (row.judged, row.median) == ([1.0, 2.0, 10.0], 2.0)


def test_a_measure_gives_a_row_for_each_case() -> None:
    rows = list(attempt(a_measure(Figures([1.0], [2.0]), Figures([3.0], [], "note")), PLAN))
    assert rows == [
        Row(3, "one", "us", 2.0, [1.0], [2.0]),
        Row(3, "two", "s", None, [3.0], [], "note"),
    ]


def test_what_fails_is_a_row_with_the_reason() -> None:
    measure = a_measure(Figures([1.0], [2.0]), error=RuntimeError("no broker"))
    assert [row.failed for row in attempt(measure, PLAN)] == ["", "RuntimeError: no broker"]
    short = attempt(a_measure(), PLAN)
    assert {row.failed for row in short} == {"wanted figures of 2 cases, got fewer"}


def test_other_scores_are_no_comparison() -> None:
    require_same("scores", np.ones(2), np.ones(2))
    with pytest.raises(NotTheSameError, match="scores: 1 of 2 differ"):
        require_same("scores", np.ones(2), np.array([1.0, np.nextafter(1.0, 2.0)]))
    with pytest.raises(NotTheSameError, match=r"wanted shape \(3,\), got \(2,\)"):
        require_same("scores", np.ones(2), np.ones(3))


def test_the_processor_time_of_a_process_can_be_read() -> None:
    before = time.process_time()
    assert before <= cpu_s(os.getpid()) <= time.process_time()


@pytest.mark.parametrize("module", [torch.nn.LSTM(5, 7), torch.nn.GRU(5, 7)], ids=["lstm", "gru"])
def test_the_bare_kernel_is_the_layer_of_pytorch(module: Module) -> None:
    alone = kernel(module)
    x = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(0))
    state = alone.initial_state(3)
    parts = []
    for part in torch.split(x, 2):  # the state is carried
        y, state = alone.run(part.numpy(), state)
        parts.append(y[:, 0])
    with torch.no_grad():
        expected, after = module(x)
    last = after[0] if isinstance(after, tuple) else after
    np.testing.assert_allclose(np.concatenate(parts), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(state["h"], last.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("value", "text"), [(0.03182, "0.0318"), (2.0, "2.00"), (121.0, "121"), (6192.4, "6,192")]
)
def test_figures_are_short(value: float, text: str) -> None:
    assert figure(value) == text


def test_a_spread_of_one_round_is_its_figure() -> None:
    assert spread([1.0, 2.0, 4.0], 2.0) == "2.00 (1.00 to 4.00)"
    assert spread([2.0], 2.0) == "2.00"


def test_the_table_has_the_measure_the_figures_and_what_failed() -> None:
    text = as_table([a_measure()], [MET, FAILED, ALONE])
    assert "| **3** | **a chain, beside a model** |  |  |  |  |  |" in text
    assert "|  | groups of 200 | 5.00 us | 2.00 us | 2.50 (2.00 to 3.00) | 2.5 | met |" in text
    assert "|  | groups of 40 | - | - | - | - | failed |" in text
    assert text.endswith("\n\nRow 3, groups of 40: not measured: RuntimeError: no broker")
    assert "10,000 streams" not in text  # its measure is not in the table


def test_a_figure_without_another_side_is_judged_itself() -> None:
    text = as_table([replace(a_measure(), number=7, beside="")], [ALONE])
    assert "| **7** | **a chain** |" in text
    assert "|  | 10,000 streams | 121 MB | - | - | 110 | missed by 10% |" in text
    assert text.endswith("Row 7, 10,000 streams: the state itself is 544 bytes.")


def test_the_summary_names_what_is_missed() -> None:
    assert summary([MET, ALONE, FAILED]) == ("1 of 2 bars met\n  7 10,000 streams: missed by 10%")


def test_the_json_says_all_and_reads_back() -> None:
    text = as_json([MET, ALONE, FAILED], AROUND, quick=False)
    found = json.loads(text)
    assert (found["schema"], found["quick"], found["environment"]) == (1, False, AROUND)
    assert found["rows"][0]["ratio"] == {"median": 2.5, "min": 2.0, "max": 3.0}
    assert [row["verdict"] for row in found["rows"]] == ["met", "missed by 10%", "failed"]
    assert from_json(text, AROUND) == [MET, ALONE, FAILED]
    assert from_json(text, {"processors": "4"}) == []
    assert from_json(as_json([MET], AROUND, quick=True), AROUND) == []


def test_the_table_goes_between_the_marks() -> None:
    before, after = "# It\n\n<!-- performance: begin -->", "<!-- performance: end -->\n\nEnd.\n"
    assert with_document(f"{before}\nold\n{after}", "new") == f"{before}\nnew\n{after}"
    with pytest.raises(SystemExit, match="wanted <!-- performance: begin -->"):
        with_document("# It\n", "new")


def test_a_growth_curve_is_drawn_and_other_rows_are_not(tmp_path: Path) -> None:
    growth = [Row(8, f"streams {n}", "us", None, [1.0, 2.0], [1.0, 2.0]) for n in (10, 100)]
    grid = [
        Row(10, case, "us", 1.5, [3.0], [2.0]) for case in ("hidden 16", "hidden 64", "layers 2")
    ]
    assert curves_of([*growth, *grid, MET]) == {
        "streams": {"andon": {10: [1.0, 2.0], 100: [1.0, 2.0]}},
        "hidden": {"andon": {16: [3.0], 64: [3.0]}, "model alone": {16: [2.0], 64: [2.0]}},
        "layers": {"andon": {2: [3.0], 1: [3.0]}, "model alone": {2: [2.0], 1: [2.0]}},
    }
    assert draw(tmp_path / "none.png", [MET]) is None
    written = draw(tmp_path / "it.png", [*growth, *grid])
    assert written is not None
    assert written.read_bytes().startswith(b"\x89PNG")


def test_rows_have_numbers_of_their_own() -> None:
    assert list(command.MEASURES) == list(range(1, 14))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two measures that cost nothing."""
    one = a_measure(Figures([1.0], [2.0]), Figures([3.0], []))
    monkeypatch.setattr(command, "MEASURES", {3: one, 4: replace(one, number=4)})


@pytest.mark.usefixtures("few")
def test_a_quick_run_writes_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command.main, ["--quick"])
    assert (done.exit_code, list(tmp_path.iterdir())) == (0, [])
    assert "|  | one | 1.00 us | 2.00 us | 0.500 | 2 | met |" in done.stdout
    assert "2 of 2 bars met" in done.stderr


@pytest.mark.usefixtures("few")
def test_a_run_of_some_rows_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = tmp_path / "performance.md"
    document.write_text("<!-- performance: begin --><!-- performance: end -->")
    for only in ("3", "4"):
        options = ["--only", only, "-o", str(tmp_path), "--document", str(document)]
        assert CliRunner().invoke(command.main, options).exit_code == 0
    rows = json.loads((tmp_path / "performance.json").read_text())["rows"]
    assert [row["number"] for row in rows] == [3, 3, 4, 4]
    assert document.read_text().count("0.500") == 2


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), ("# It", "wanted <!-- performance: begin -->")]
)
def test_a_document_without_a_place_is_said_at_once(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    document = tmp_path / "it.md"
    if content is not None:
        document.write_text(content)
    done = CliRunner().invoke(command.main, ["--quick", "--document", str(document)])
    assert done.exit_code == 2
    assert reason in done.stderr


def test_a_smoke_run_takes_the_first_cases() -> None:
    measure = replace(a_measure(Figures([1.0], []), Figures([2.0], [])), quick_cases=1)
    assert [row.case for row in attempt(measure, PLAN)] == ["one"]
    assert [row.case for row in attempt(measure, replace(PLAN, quick=False))] == ["one", "two"]
