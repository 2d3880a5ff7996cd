"""Tables in Markdown, and the place of each in the document."""

from collections.abc import Callable, Iterable, Sequence

from benchmarks.quality.cases import Result

NO_FIGURE = "-"

Format = Callable[[float], str]


def three(value: float) -> str:
    """``0.878``."""
    return f"{value:.3f}"


def percent(value: float) -> str:
    """``12.3 %``."""
    return f"{value:.1%}".replace("%", " %")


def short(value: float) -> str:
    """At most three digits that count: ``0.032``, ``12.5``, ``340``."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its lines with a line break between them."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(values: Iterable[float | None], text: Format) -> str:
    """The mean, and in brackets the least and the largest where they differ.

    Args:
        values: Of each seed; None where there is none.
        text: How one is written.
    """
    there = [value for value in values if value is not None]
    if not there:
        return NO_FIGURE
    low, high = text(min(there)), text(max(there))
    mean = text(sum(there) / len(there))
    return mean if low == high else f"{mean} ({low} to {high})"


def by_detector(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The seeds of each detector that could be had."""
    found: dict[str, list[Result]] = {}
    for result in results:
        if result.figures is not None:
            found.setdefault(result.detector, []).append(result)
    return found


def failures(results: Iterable[Result]) -> str:
    """A line for each detector that could not be had; empty if there is none."""
    lines = {f"{r.detector}: {r.failed}" for r in results if r.failed}
    return "".join(f"\n\nNot measured: {line}" for line in sorted(lines))


def put(document: str, name: str, text: str) -> str:
    """A document with new text between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Raises:
        SystemExit: If the marks are missing.
    """
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = document.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"wanted {first} and {last} in the document")
    return f"{before}{first}\n{text}\n{last}{after}"
