"""The report of an evaluation: tables for people, JSON for programs."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.files import write_text
from evaluate.evaluation import Judged, Report, Row
from evaluate.metrics import Figures
from evaluate.yardsticks import YARDSTICKS

SCHEMA = 1
MAX_LINES = 30
NO_FIGURE = "-"

HINTS = {
    "row counter": "; what comes late in these streams is labelled, so this tells little",
}
"""What it means that a model is no better."""

Format = Callable[[float], str]


def _three(value: float) -> str:
    return f"{value:.3f}"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _short(value: float) -> str:
    return f"{round(value, 1):g}" if value < 1e6 else f"{value:.2g}"  # noqa: PLR2004 - digits


def _count(value: float) -> str:
    return f"{value:,.0f}"


class Column(NamedTuple):
    """One figure in a table; two lines of heading."""

    upper: str
    lower: str
    figure: str
    text: Format
    of: str = ""


SCORES = (
    Column("", "VUS-PR", "vus_pr", _three),
    Column("", "F1", "f1", _three),
    Column("", "FAR", "far", _percent),
    Column("", "MAR", "mar", _percent),
)
FOUND = (
    Column("events", "found", "found", _short, of="events"),
    Column("lit", "before", "lit_before", _short),
    Column("delay", "s", "median_delay_s", _short),
    Column("false alarms", "a day", "false_alarms_per_day", _short),
    Column("false alarms", "an hour", "false_alarms_per_hour", _two),
)
LAMP = (
    *FOUND,
    Column("before", "an event", "before_per_hour", _two),
    Column("after", "an event", "after_per_hour", _two),
    Column("", "elsewhere", "elsewhere_per_hour", _two),
)
STREAMS = SCORES + FOUND
SAMPLES = (
    Column("", "judged", "judged", _count),
    Column("not judged:", "lead", "lead", _count),
    Column("", "warming up", "warming_up", _count),
    Column("", "uncertain", "uncertain", _count),
    Column("", "no score", "no_score", _count),
)


def as_text(report: Report) -> str:
    """The report for people, lines with a line break between them.

    Args:
        report: What was found.
    """
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    settings, alarm = report.settings, report.settings.alarm
    draws = ""
    if settings.crop or settings.splice:
        draws = (
            f"; the mean of {_draws(settings.repeats)} with up to {settings.crop} rows cropped and "
            f"{settings.splice} spliced in, seed {settings.seed}"
        )
    yield f"streams  {len(report.streams)}{draws}"
    yield (
        f"alarm    above {alarm.enter:g}, until below {alarm.leave:g}, {alarm.hold_steps} samples "
        "in a row"
    )
    yield from _causality(report.rows)
    yield ""
    yield from _table("scores", SCORES, report.rows)
    yield ""
    yield from _table("lamp", LAMP, report.rows)
    yield ""
    yield from _vus(report)
    yield from _warnings(report.rows)
    yield "random flags every second sample, all ones every one, row counter every one from the row"
    yield "on that gives the best F1 with the labels in hand; none of them has seen a sensor"
    yield ""
    yield from _table("samples", SAMPLES, report.rows)
    yield ""
    yield from _by_stream(report)


def _draws(repeats: int) -> str:
    return "1 draw" if repeats == 1 else f"{repeats} draws"


def _causality(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        if row.causality is not None:
            found = row.causality
            yield (
                f"causal   {row.name}: of {found.compared:,} scores before {found.cuts} cuts of "
                "the input none depends on what follows (==)"
            )


def _vus(report: Report) -> Iterator[str]:
    with_it = len(report.streams) - len(report.without_vus)
    why = [
        f"{reason}: {_some([n for n, its in report.without_vus.items() if its == reason])}"
        for reason in sorted(set(report.without_vus.values()))
    ]
    left_out = f"; left out, {'; '.join(why)}" if why else ""
    yield (
        f"VUS-PR: mean over {with_it} of {len(report.streams)} streams, buffers of 0 to "
        f"{report.settings.window} samples{left_out}"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LINES} more" if len(names) > MAX_LINES else ""
    return ", ".join(names[:MAX_LINES]) + more


def _warnings(rows: Sequence[Row]) -> Iterator[str]:
    """Where something that has seen no sensor does as well as a model."""
    for row in rows:
        for other in rows:
            mine, its = row.spread("vus_pr"), other.spread("vus_pr")
            if row.model and other.name in YARDSTICKS and mine and its and its.mean >= mine.mean:
                yield (
                    f"WARNING: {other.name} does as well as {row.name}: VUS-PR {its.mean:.3f} "
                    f"against {mine.mean:.3f}{HINTS.get(other.name, '')}"
                )


def _by_stream(report: Report) -> Iterator[str]:
    first = report.rows[0]
    shown = report.streams[:MAX_LINES]
    yield from _aligned(
        _heading(f"{first.name}, by stream", STREAMS)
        + [[name, *(_cell(first, column, name) for column in STREAMS)] for name in shown]
    )
    if len(report.streams) > len(shown):
        yield f"... and {len(report.streams) - len(shown)} more streams"


def _table(name: str, columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    """A line for each detector; below it the least and the largest of its seeds, if it has many."""
    lines = _heading(name, columns)
    for row in rows:
        lines.append([row.name, *(_cell(row, column) for column in columns)])
        if len(row.seeds) > 1:
            ranges = (_range(row, column) for column in columns)
            lines.append([f"  {len(row.seeds)} seeds", *ranges])
    return _aligned(lines)


def _heading(name: str, columns: Sequence[Column]) -> list[list[str]]:
    """Two lines, or one where the first would be empty."""
    upper, lower = ["", *(c.upper for c in columns)], [name, *(c.lower for c in columns)]
    return [upper, lower] if any(upper) else [lower]


def _cell(row: Row, column: Column, stream: str | None = None) -> str:
    spread = row.spread(column.figure, stream)
    of = row.spread(column.of, stream) if column.of else None
    if spread is None or (of is not None and not of.mean):
        return NO_FIGURE
    return column.text(spread.mean) + (f" of {column.text(of.mean)}" if of else "")


def _range(row: Row, column: Column) -> str:
    spread = row.spread(column.figure)
    if spread is None:
        return NO_FIGURE
    low, high = column.text(spread.low), column.text(spread.high)
    return low if low == high else f"{low}..{high}"


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        first, *others = line
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([f"{first:<{widths[0]}}", *cells]).rstrip()


def as_dict(report: Report) -> dict[str, Any]:
    """The report for programs: numbers, texts, None, lists and dictionaries of them."""
    return {
        "schema": SCHEMA,
        "settings": {**asdict(report.settings), "recovery": report.settings.recovery_rows},
        "streams": list(report.streams),
        "without_vus_pr": dict(report.without_vus),
        "detectors": [_row(row) for row in report.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    spreads = {each.name: row.spread(each.name) for each in fields(Figures)}
    found = row.causality
    return {
        "name": row.name,
        "model": row.model,
        "causality": None if found is None else {"cuts": found.cuts, "compared": found.compared},
        "figures": {n: None if s is None else s._asdict() for n, s in spreads.items()},
        "seeds": [_seed(seed) for seed in row.seeds],
    }


def _seed(seed: Judged) -> dict[str, Any]:
    return {
        "source": seed.source,
        "figures": asdict(seed.figures),
        "streams": {name: asdict(its) for name, its in seed.streams.items()},
    }


def write_json(path: Path, report: Report) -> None:
    """Writes the report as one JSON document; the file is the old one or the whole new one.

    Args:
        path: The file.
        report: What was found.
    """
    write_text(path, json.dumps(as_dict(report), indent=2, allow_nan=False) + "\n")
