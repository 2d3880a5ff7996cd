"""What is measured one by one, in two processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from benchmarks.quality.detectors import Kind
from edge_runtime.errors import AndonError

WORKERS = 2
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

Figures = dict[str, Any]
"""What was measured: numbers, texts, None, lists and dictionaries of them."""


@dataclass(frozen=True, slots=True)
class Case:
    """One detector with one seed on one data set.

    Attributes:
        part: Name of the data set.
        detector: Its name.
        kind: What it is.
        seed: Of its weights.
        data: Folder with the recorded data sets.
        yardsticks: Whether what has seen no sensor is judged beside it.
    """

    part: str
    detector: str
    kind: Kind
    seed: int
    data: Path
    yardsticks: bool


class Result(NamedTuple):
    """What was found of a case.

    Attributes:
        detector: Its name.
        seed: Of its weights.
        figures: None if the detector cannot be had on this data.
        failed: Why not, else empty.
    """

    detector: str
    seed: int
    figures: Figures | None
    failed: str = ""


Measure = Callable[[Case, Path], Figures]
"""Measures a case; the folder is for files that are not kept."""


@dataclass(frozen=True, slots=True)
class Part:
    """One data set.

    Attributes:
        measure: Measures a case.
        tables: From the results to tables in Markdown, by their place in the document.
        folder: What it needs of the data, relative to their folder; empty: nothing.
    """

    measure: Measure
    tables: Callable[[list[Result]], dict[str, str]]
    folder: str = ""


def cases(part: str, detectors: Mapping[str, Kind], seeds: int, data: Path) -> Iterator[Case]:
    """All that is to be measured on one data set; one seed where it changes nothing."""
    for number, (name, kind) in enumerate(detectors.items()):
        for seed in range(seeds if kind.seeded else 1):
            yield Case(part, name, kind, seed, data, yardsticks=number == seed == 0)


def run(
    todo: Sequence[Case], measures: Mapping[str, Measure], on_case: Callable[[Case], object]
) -> dict[str, list[Result]]:
    """Measures cases in two processes.

    Args:
        todo: What to measure.
        measures: How, by data set; functions of a module, so that a process can find them.
        on_case: Told each case when it is done.

    Returns:
        The results by data set, in the order of the cases.
    """
    # The workers inherit it: matrices this small are slower on two threads.
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    # A fork would inherit the locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    found: dict[int, Result] = {}
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        waiting = {
            pool.submit(attempt, case, measures[case.part]): number
            for number, case in enumerate(todo)
        }
        try:
            for future in as_completed(waiting):
                number = waiting[future]
                found[number] = future.result()
                on_case(todo[number])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    results: dict[str, list[Result]] = {case.part: [] for case in todo}
    for number, case in enumerate(todo):
        results[case.part].append(found[number])
    return results


def attempt(case: Case, measure: Measure) -> Result:
    """Measures one case; what the data do not allow is a finding, a defect is not.

    Raises:
        RuntimeError: For a defect, with the case's name.
    """
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        try:
            return Result(case.detector, case.seed, measure(case, Path(scratch)))
        except AndonError as error:
            return Result(case.detector, case.seed, None, str(error))
        except Exception as error:
            raise RuntimeError(
                f"{case.part}, {case.detector}, seed {case.seed}: {error!r}"
            ) from error
