"""Measures the detectors and writes docs/quality.md, its picture and its figures.

python -m benchmarks.quality DATA [--only skab,tep] [--detectors forecast] [--seeds 3]
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import click

from benchmarks.quality import nab, picture, pumps, rates, skab, tep
from benchmarks.quality.cases import Case, Measure, Part, Result, cases, run
from benchmarks.quality.detectors import DETECTORS
from benchmarks.quality.markdown import put
from edge_runtime.files import write_text
from edge_runtime.tables import did_you_mean

SCHEMA = 1
PARTS: dict[str, Part] = {
    "rates": Part(rates.measure, rates.tables),
    "pumps": Part(pumps.measure, pumps.tables),
    "skab": Part(skab.measure, skab.tables, skab.FOLDER),
    "nab": Part(nab.measure, nab.tables, nab.FOLDER),
    "tep": Part(tep.measure, tep.tables, tep.FOLDER),
}
"""What takes longest first, so that both processes end at about the same time."""

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "quality.md"
FIGURES = ROOT / "benchmarks" / "results" / "quality.json"
FILE = click.Path(dir_okay=False, path_type=Path)


def _listed(known: Mapping[str, object]) -> Callable[..., list[str]]:
    """Reads ``a,b``; by default all that is known."""

    def read(_: click.Context, parameter: click.Parameter, text: str | None) -> list[str]:
        names = list(known) if text is None else [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                hint = f"unknown {name!r}, {did_you_mean(name, list(known))}"
                raise click.BadParameter(hint, param=parameter)
        return [name for name in known if name in names]

    return read


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--only",
    metavar="PART,PART",
    callback=_listed(PARTS),
    help=f"Of {', '.join(PARTS)}; by default all. The tables of the others stay.",
)
@click.option(
    "--detectors",
    metavar="NAME,NAME",
    callback=_listed(DETECTORS),
    help=f"Of {', '.join(DETECTORS)}; by default all.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Of weights.")
@click.option("--document", type=FILE, default=DOCUMENT, help="Where the tables go.")
@click.option("-o", "--output", type=FILE, default=FIGURES, help="Where the figures go, as JSON.")
def main(  # noqa: PLR0913, PLR0917 - one parameter an option
    data: Path, only: list[str], detectors: list[str], seeds: int, document: Path, output: Path
) -> None:
    """Measure the detectors on the data sets in DATA; print the tables and write the document.

    The picture goes beside the document.
    """
    for name in only:
        if not (data / PARTS[name].folder).is_dir():
            raise click.UsageError(f"{data}: wanted a folder {PARTS[name].folder!r} in it")
    began = time.monotonic()
    chosen = {name: DETECTORS[name] for name in detectors}
    todo = [case for part in only for case in cases(part, chosen, seeds, data)]
    results = {**read_figures(output), **_run(todo)}
    minutes = (time.monotonic() - began) / 60
    write_text(output, figures(results, minutes))
    shown = with_tables(document.read_text(encoding="utf-8"), results)
    write_text(document, shown)
    if "pumps" in only:
        picture.draw(document.with_suffix(".png"), results["pumps"])
    for part in only:
        for name, text in PARTS[part].tables(results[part]).items():
            click.echo(f"\n{name}\n\n{text}")
    click.echo(f"\n{len(todo)} cases in {minutes:.1f} minutes", err=True)


def _run(todo: list[Case]) -> dict[str, list[Result]]:
    measures: dict[str, Measure] = {name: part.measure for name, part in PARTS.items()}
    watched = sys.stderr.isatty()
    with click.progressbar(
        length=len(todo), label="quality", file=sys.stderr, item_show_func=_named
    ) as bar:

        def on_case(case: Case) -> None:
            bar.update(1, case)
            if not watched:  # where the bar shows nothing
                click.echo(f"{bar.pos} of {len(todo)}: {_named(case)}", err=True)

        return run(todo, measures, on_case)


def _named(case: Case | None) -> str | None:
    return None if case is None else f"{case.part}, {case.detector}, seed {case.seed}"


def with_tables(document: str, results: Mapping[str, list[Result]]) -> str:
    """The document with the tables of all data sets that were measured."""
    for part, its in results.items():
        for name, text in PARTS[part].tables(its).items():
            document = put(document, name, text)
    return document


def figures(results: Mapping[str, list[Result]], minutes: float) -> str:
    """All figures as JSON, a result a line."""
    head = {
        "schema": SCHEMA,
        **{name: version(name) for name in ("andon", "torch", "onnxruntime", "aeon")},
        "minutes": round(minutes, 1),
    }
    parts = (
        f'"{part}": [\n' + ",\n".join(json.dumps(r._asdict()) for r in results[part]) + "\n]"
        for part in PARTS
        if part in results
    )
    return json.dumps(head)[:-1] + ', "parts": {\n' + ",\n".join(parts) + "\n}}\n"


def read_figures(path: Path) -> dict[str, list[Result]]:
    """The results by data set of an earlier `figures`; none without a file."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        part: [Result(**result) for result in found["parts"][part]]
        for part in PARTS
        if part in found["parts"]
    }


if __name__ == "__main__":
    main()
