"""Both sides in alternation, and what becomes of their figures.

A measure has cases, known before anything is measured, so that one that fails is still a row. Of
each case there are two lists of figures, ours and of what it stands beside, a figure a round; what
counts is the median of the rounds' ratios. Without the other side it is the figure itself.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Turn = TypeVar("Turn")

PROCESS_CLOCK = 2  # CPUCLOCK_SCHED of Linux, in the lowest three bits of a clock's number


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and where files may lie.

    Attributes:
        folder: On a disk; emptied by whoever made it.
        rounds: Of what runs in this process.
        live_rounds: Of what starts processes.
        quick: Whether a smoke run is wanted.
    """

    folder: Path
    rounds: int
    live_rounds: int
    quick: bool

    def size(self, full: int, quick: int) -> int:
        """The one that this run takes."""
        return quick if self.quick else full


class Case(NamedTuple):
    """A line of a measure.

    Attributes:
        name: What is different in it.
        bar: What the ratio, or the figure that stands alone, must not exceed; None: no matter.
        unit: Of the figures.
    """

    name: str
    bar: float | None
    unit: str = "us"


class Figures(NamedTuple):
    """What was measured of one case.

    Attributes:
        ours: ``[round]``, in the case's unit.
        beside: ``[round]``, of the other side; empty where there is none.
        note: What else must be known.
    """

    ours: list[float]
    beside: list[float]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of what is promised.

    Attributes:
        number: By which it is asked for.
        title: What is measured.
        beside: What it stands beside.
        cases: In the order of what ``run`` gives.
        run: Measures; gives the figures of each case.
        quick_cases: How many of them a smoke run takes, the first ones; None: all.
    """

    number: int
    title: str
    beside: str
    cases: Sequence[Case]
    run: Callable[[Plan], Iterator[Figures]]
    quick_cases: int | None = None

    def cases_of(self, plan: Plan) -> list[Case]:
        """The cases that are measured."""
        return list(self.cases[: self.quick_cases] if plan.quick else self.cases)


@dataclass(frozen=True, slots=True)
class Row:
    """A case with its figures, or with the reason why there are none.

    Attributes:
        number: Of the measure.
        case: Its name.
        unit: Of the figures.
        bar: See `Case`.
        ours: See `Figures`.
        beside: See `Figures`.
        note: See `Figures`.
        failed: Why nothing was measured; empty if it was.
    """

    number: int
    case: str
    unit: str
    bar: float | None
    ours: list[float]
    beside: list[float]
    note: str = ""
    failed: str = ""

    @property
    def judged(self) -> list[float]:
        """``[round]``, the ratios, or the figures where there is no other side."""
        if not self.beside:
            return self.ours
        return [a / b for a, b in zip(self.ours, self.beside, strict=True)]

    @property
    def median(self) -> float:
        """Of what is judged."""
        return statistics.median(self.judged)

    @property
    def verdict(self) -> str:
        """``met``, ``missed by 12 %``, ``failed``, or ``-`` where there is no bar."""
        if self.failed:
            return "failed"
        if self.bar is None:
            return "-"
        return "met" if self.median <= self.bar else f"missed by {self.median / self.bar - 1:.0%}"


class NotTheSameError(Exception):
    """Both sides were to give the same bits, and do not."""


def attempt(measure: Measure, plan: Plan) -> Iterator[Row]:
    """Measures all cases of one measure.

    Args:
        measure: What.
        plan: How much.

    Yields:
        A row for each case. After a failure the cases that are left fail for the same reason.
    """
    cases, done = measure.cases_of(plan), 0
    failed = f"wanted figures of {len(cases)} cases, got fewer"
    try:
        for case, figures in zip(cases, measure.run(plan), strict=False):
            done += 1
            yield Row(measure.number, case.name, case.unit, case.bar, *figures)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a row that fails is shown as such
        failed = f"{type(error).__name__}: {error}"
    for case in cases[done:]:
        yield Row(measure.number, case.name, case.unit, case.bar, [], [], failed=failed)


def alternate(
    sides: Mapping[str, Callable[[], Turn]], rounds: int, *, warm: bool = True
) -> dict[str, list[Turn]]:
    """Lets sides take turns, forth and back: A B, B A, A B, ...

    A machine that grows slower meanwhile is slower to both.

    Args:
        sides: Each gives the figure of one turn.
        rounds: How many turns each side has.
        warm: Whether a further round, which does not count, goes before.

    Returns:
        Each side's figures in the order of the rounds.
    """
    figures: dict[str, list[Turn]] = {name: [] for name in sides}
    order = list(sides)
    for number in range(-1 if warm else 0, rounds):
        for name in order if number % 2 == 0 else order[::-1]:
            figure = sides[name]()
            if number >= 0:
                figures[name].append(figure)
    return figures


def cpu_us(work: Callable[[], object], rows: int) -> float:
    """CPU microseconds of this process for each of ``rows`` rows, in all threads."""
    gc.collect()
    gc.freeze()  # what the benchmark holds is no work for the collector
    try:
        before = time.process_time()
        work()
        return (time.process_time() - before) * 1e6 / rows
    finally:
        gc.unfreeze()


def cpu_s(pid: int) -> float:
    """CPU seconds of another process so far, in all threads, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | PROCESS_CLOCK)


def require_same(what: str, ours: NDArray[Any], theirs: NDArray[Any]) -> None:
    """Refuses a comparison of two things that are not the same.

    Raises:
        NotTheSameError: If a bit differs.
    """
    if ours.shape != theirs.shape:
        raise NotTheSameError(f"{what}: wanted shape {theirs.shape}, got {ours.shape}")
    if not np.array_equal(ours, theirs):
        raise NotTheSameError(f"{what}: {np.count_nonzero(ours != theirs)} of {ours.size} differ")
