"""Rows as a table in Markdown, as JSON, and back."""

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.performance.measure import Measure, Row
from benchmarks.quality.markdown import NO_FIGURE, put, table

SCHEMA = 1
MARK = "performance"
HEADER = ("row", "case", "ours", "beside", "ratio, median (min to max)", "bar", "verdict")
PACKAGES = ("andon", "numpy", "onnxruntime", "paho-mqtt", "msgspec", "torch", "pyarrow")


def figure(value: float) -> str:
    """At least three digits that count: ``0.0318``, ``12.5``, ``6,192``."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def spread(values: Sequence[float], median: float) -> str:
    """``0.83 (0.81 to 0.92)``; of one round the figure alone."""
    low, high = figure(min(values)), figure(max(values))
    return figure(median) if len(values) == 1 else f"{figure(median)} ({low} to {high})"


def as_table(measures: Iterable[Measure], rows: Sequence[Row]) -> str:
    """All rows that there are, with the measures that they belong to and what must be known.

    Args:
        measures: In the order of the table.
        rows: In the order of the cases.
    """
    lines, notes = [], []
    for measure in measures:
        its = [row for row in rows if row.number == measure.number]
        if its:
            beside = f", beside {measure.beside}" if measure.beside else ""
            lines.append((f"**{measure.number}**", f"**{measure.title}{beside}**", *[""] * 5))
            lines += map(_line, its)
            notes += [f"Row {row.number}, {row.case}: {row.note}." for row in its if row.note]
            notes += [
                f"Row {row.number}, {row.case}: not measured: {row.failed}"
                for row in its
                if row.failed
            ]
    return "\n\n".join([table(HEADER, lines), *dict.fromkeys(notes)])


def _line(row: Row) -> tuple[str, ...]:
    bar = NO_FIGURE if row.bar is None else f"{row.bar:g}"
    if row.failed:
        return "", row.case, NO_FIGURE, NO_FIGURE, NO_FIGURE, bar, row.verdict
    judged = spread(row.judged, row.median)
    if not row.beside:
        return "", row.case, f"{judged} {row.unit}", NO_FIGURE, NO_FIGURE, bar, row.verdict
    ours, beside = (f"{_median(values)} {row.unit}" for values in (row.ours, row.beside))
    return "", row.case, ours, beside, judged, bar, row.verdict


def _median(values: Sequence[float]) -> str:
    return figure(statistics.median(values))


def summary(rows: Sequence[Row]) -> str:
    """How many bars are met, and which are not."""
    barred = [row for row in rows if row.bar is not None]
    missed = [row for row in barred if row.verdict != "met"]
    said = f"{len(barred) - len(missed)} of {len(barred)} bars met"
    each = "".join(f"\n  {row.number} {row.case}: {row.verdict}" for row in missed)
    return f"{said}{each}"


def with_document(document: str, text: str) -> str:
    """A document with a new table between its marks.

    Raises:
        SystemExit: If the marks are missing.
    """
    return put(document, MARK, text)


def environment() -> dict[str, str]:
    """What the figures depend on beside this package."""
    return {
        "processors": str(os.cpu_count()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def as_json(rows: Iterable[Row], around: Mapping[str, str], *, quick: bool) -> str:
    """All figures, a row a line.

    Args:
        rows: Measured.
        around: See `environment`.
        quick: Whether it was a smoke run, whose figures mean little.
    """
    head = {"schema": SCHEMA, "quick": quick, "environment": dict(around)}
    lines = ",\n".join(
        json.dumps({**asdict(row), "verdict": row.verdict, "ratio": _ratio(row)}) for row in rows
    )
    return f'{json.dumps(head)[:-1]}, "rows": [\n{lines}\n]}}\n'


def _ratio(row: Row) -> dict[str, float] | None:
    if row.failed or not row.beside:
        return None
    return {"median": row.median, "min": min(row.judged), "max": max(row.judged)}


def from_json(text: str, around: Mapping[str, str]) -> list[Row]:
    """The rows of an earlier run, if they may stand beside new ones.

    Args:
        text: Of `as_json`.
        around: The present `environment`.

    Returns:
        None of them if the run was a quick one, or anything around it was another.
    """
    found = json.loads(text)
    if (found["schema"], found["quick"], found["environment"]) != (SCHEMA, False, dict(around)):
        return []
    fields = Row.__dataclass_fields__
    return [Row(**{name: row[name] for name in fields}) for row in found["rows"]]


def earlier(path: Path, around: Mapping[str, str]) -> list[Row]:
    """`from_json` of a file; none without one."""
    return from_json(path.read_text(encoding="utf-8"), around) if path.exists() else []
