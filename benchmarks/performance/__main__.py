"""Measures what the gateway costs, and writes docs/performance.md, its picture and its figures.

python -m benchmarks.performance [--quick] [--only 3 --only 4]
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch

from benchmarks.performance import (
    chain,
    detector,
    files,
    grid,
    growth,
    latency,
    live,
    memory,
    others,
    picture,
    start,
)
from benchmarks.performance.measure import Measure, Plan, Row, attempt
from benchmarks.performance.report import (
    as_json,
    as_table,
    earlier,
    environment,
    summary,
    with_document,
)
from edge_runtime.files import write_text

SINGLE = (chain, latency, memory, growth, start, grid, detector, others)
MEASURES: dict[int, Measure] = {
    measure.number: measure
    for measure in sorted(
        [*(module.MEASURE for module in SINGLE), *files.MEASURES, *live.MEASURES],
        key=lambda measure: measure.number,
    )
}
ROUNDS, QUICK_ROUNDS = (7, 5), (2, 1)
"""Of what runs in this process, and of what starts others."""

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = "performance.json"
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog="\b\nRows:\n" + "\n".join(f"  {m.number:2} {m.title}" for m in MEASURES.values())
)
@click.option("--quick", is_flag=True, help="A smoke run; writes nothing unless told where.")
@click.option(
    "--only",
    type=click.Choice([str(number) for number in MEASURES]),
    metavar="ROW",
    multiple=True,
    help="This row; may be given again. Those of an earlier run stay.",
)
@click.option("-o", "--output", type=FOLDER, help=f"Folder for {FIGURES}.")
@click.option("--document", type=FILE, help="Where the table goes; the picture goes beside it.")
def main(*, quick: bool, only: tuple[str, ...], output: Path | None, document: Path | None) -> None:
    """Measure what the gateway costs beside what anybody can measure again; print the table.

    Without --quick the figures go to benchmarks/results and the table to docs/performance.md.
    """
    if not quick:
        output, document = output or RESULTS, document or DOCUMENT
    if document is not None:
        _require_marks(document)
    began, around = time.monotonic(), environment()
    torch.set_num_threads(1)
    measures = [m for m in MEASURES.values() if not only or str(m.number) in only]
    rows = _measured(measures, quick=quick)
    click.echo(as_table(MEASURES.values(), rows))
    click.echo(f"\n{(time.monotonic() - began) / 60:.1f} minutes, {summary(rows)}", err=True)
    if only and not quick and output is not None:
        rows = _with_earlier(rows, earlier(output / FIGURES, around))
    if output is not None:
        write_text(output / FIGURES, as_json(rows, around, quick=quick))
    if document is not None:
        text = as_table(MEASURES.values(), rows)
        write_text(document, with_document(document.read_text(encoding="utf-8"), text))
        picture.draw(document.with_suffix(".png"), rows)


def _require_marks(document: Path) -> None:
    """Before a quarter of an hour is spent on a table that has no place."""
    try:
        with_document(document.read_text(encoding="utf-8"), "")
    except (OSError, SystemExit) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise click.UsageError(f"{document}: {reason}") from error


def _measured(measures: Sequence[Measure], *, quick: bool) -> list[Row]:
    # A disk: /tmp may be memory.
    with TemporaryDirectory(dir=".", prefix=".performance-") as folder:
        plan = Plan(Path(folder), *(QUICK_ROUNDS if quick else ROUNDS), quick)
        cases = sum(len(measure.cases_of(plan)) for measure in measures)
        rows: list[Row] = []
        watched = sys.stderr.isatty()
        with click.progressbar(
            length=cases, label="performance", file=sys.stderr, item_show_func=_named
        ) as bar:
            for measure in measures:
                bar.update(0, measure)
                for row in attempt(measure, plan):
                    rows.append(row)
                    bar.update(1, measure)
                    if not watched:  # where the bar shows nothing
                        said = f"{row.number} {row.case}: {row.failed or row.verdict}"
                        click.echo(f"{bar.pos} of {cases}: {said}", err=True)
    return rows


def _named(measure: Measure | None) -> str | None:
    return None if measure is None else measure.title


def _with_earlier(rows: Sequence[Row], before: Sequence[Row]) -> list[Row]:
    """New rows in the place of those of the same measures."""
    new = {row.number for row in rows}
    return sorted([*rows, *(r for r in before if r.number not in new)], key=lambda r: r.number)


if __name__ == "__main__":
    main()
