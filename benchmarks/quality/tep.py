"""The Tennessee Eastman process: a simulated chemical plant, 52 variables, one sample in 3 minutes.

``d00.dat`` is normal and trains (it is transposed: a variable a line); ``d00_te.dat`` is normal
too, and in ``dNN_te.dat`` fault NN begins at row 160. Faults 3, 9 and 15 hardly show in any
variable, and most studies leave them out. (Downs & Vogel, Comp. Chem. Eng. 17(3), 1993; data of
Chiang, Russell & Braatz, 2001.)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.cases import Case, Figures, Result
from benchmarks.quality.detectors import Promise, train
from benchmarks.quality.markdown import (
    by_detector,
    failures,
    percent,
    short,
    spread,
    table,
    three,
)
from benchmarks.quality.recordings import LABEL, in_memory, labelled, write_stream
from edge_runtime.config import AlarmConfig
from edge_runtime.errors import RecordedFileError
from edge_runtime.recorded import RecordedStream
from edge_runtime.session import load_model
from evaluate.judge import Series, readings_for, run_model
from evaluate.scenes import Scene, draw_scenes, whole_scenes
from evaluate.settings import Settings
from train.config import DataConfig, Files

FOLDER = "tep"
VARIABLES = (*(f"xmeas_{n}" for n in range(1, 42)), *(f"xmv_{n}" for n in range(1, 12)))
PERIOD_S = 180.0
ONSET = 160
HARDLY_SHOWN = frozenset({3, 9, 15})
SETTINGS = Settings(label=LABEL, crop=100, repeats=5)
NORMAL = "d00_te"
EQUAL = 0.01
"""Share of the normal samples of `NORMAL` above the threshold at which detectors are compared."""


def read_plant(path: Path, *, transposed: bool = False) -> RecordedStream:
    """One file.

    Args:
        path: ``.dat``: numbers with blanks between them.
        transposed: Whether a line is a variable.

    Returns:
        The stream, of the file's stem as name.

    Raises:
        RecordedFileError: If it does not hold 52 variables.
    """
    try:
        values: NDArray[np.float64] = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise RecordedFileError(f"{path}: {error}") from error
    values = values.T if transposed else values  # [row, variable]
    if values.shape[1] != len(VARIABLES):
        wanted = f"wanted {len(VARIABLES)} variables, got {values.shape[1]}"
        raise RecordedFileError(f"{path}: {wanted}")
    return in_memory(path.stem, values, VARIABLES, PERIOD_S)


def read_tests(folder: Path) -> list[RecordedStream]:
    """The normal test and those with faults, labelled from their onset on, in order.

    Raises:
        RecordedFileError: If there are none.
    """
    streams = []
    for path in sorted(folder.glob("d*_te.dat")):
        stream = read_plant(path)
        faulty = np.arange(len(stream.ts)) >= (ONSET if fault_of(stream.name) else len(stream.ts))
        streams.append(labelled(stream, faulty))
    if len(streams) < 2 or streams[0].name != NORMAL:
        raise RecordedFileError(f"{folder}: wanted {NORMAL}.dat and dNN_te.dat")
    return streams


def fault_of(name: str) -> int:
    """Number of the fault in a stream; 0 is none."""
    found = re.match(r"d(\d+)", name)
    return int(found[1]) if found else 0


class Shares(NamedTuple):
    """Samples above a threshold, as shares of those that count; None where none counts.

    Attributes:
        found: Of those since the onset of a fault.
        false: Of the normal ones.
    """

    found: float | None
    false: float | None


def shares(scene: Scene, series: Series, threshold: float) -> Shares:
    """Counts one stream in one draw."""
    above = series.score > threshold
    return Shares(_mean(above[series.ok & scene.label]), _mean(above[series.ok & ~scene.label]))


def equal_threshold(series: Series) -> float:
    """The score that a share `EQUAL` of a normal stream's samples exceeds."""
    return float(np.quantile(series.score[series.ok], 1 - EQUAL))


def measure(case: Case, scratch: Path) -> Figures:
    """One detector over all faults: at its own threshold, and at equal false alarms."""
    folder = case.data / FOLDER
    history = write_stream(scratch, read_plant(folder / "d00.dat", transposed=True))
    config = case.kind.config(DataConfig(period_ms=PERIOD_S * 1000), case.seed)
    trained = train(config, [Files((history,))], scratch)
    session = load_model(trained.model)
    tests = read_tests(folder)
    alarm = AlarmConfig()

    def series_of(scenes: Sequence[Scene]) -> list[Series]:
        return run_model(session, readings_for(scenes, session.contract, LABEL), alarm)

    threshold = equal_threshold(series_of(whole_scenes(tests[:1], SETTINGS))[0])
    draws: dict[str, list[tuple[Shares, Shares]]] = {}
    for draw in range(SETTINGS.repeats):
        scenes = draw_scenes(tests, SETTINGS, draw)
        for scene, series in zip(scenes, series_of(scenes), strict=True):
            both = shares(scene, series, alarm.enter), shares(scene, series, threshold)
            draws.setdefault(scene.name, []).append(both)
    return {
        "promise": asdict(trained.promise),
        "threshold": threshold,
        "own": {name: _over_draws([own for own, _ in pairs]) for name, pairs in draws.items()},
        "equal": {
            name: _over_draws([equal for _, equal in pairs]) for name, pairs in draws.items()
        },
    }


def tables(results: list[Result]) -> dict[str, str]:
    """``tep``: the means over the faults; ``tep-faults``: each fault, at equal false alarms."""
    names = next((sorted(r.figures["own"]) for r in results if r.figures), [])
    faults = [name for name in names if fault_of(name)]
    shown = [name for name in faults if fault_of(name) not in HARDLY_SHOWN]
    groups = {f"{len(shown)} faults": shown, f"{len(faults)} faults": faults}
    rows, each = [], []
    for name, its in by_detector(results).items():
        seeds = [r.figures for r in its if r.figures]
        rows.append([name, *_means(seeds, groups), *_false(seeds, faults)])
        by_fault = ([seed["equal"][fault]["found"] for seed in seeds] for fault in faults)
        each.append([name, *(spread(values, three) for values in by_fault)])
    header = [
        "detector", *(f"found, {group}" for group in groups),
        *(f"found at equal false alarms, {group}" for group in groups),
        "false before onset", f"false on {NORMAL}", "asked, a day", "data can show",
    ]  # fmt: skip
    return {
        "tep": table(header, rows) + failures(results),
        "tep-faults": table(["detector", *(f"fault {fault_of(name)}" for name in faults)], each),
    }


def _means(seeds: Sequence[Figures], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Share found over each group of faults: at the own threshold, then at the equal one."""
    return [
        spread([_over(seed[at], group, "found") for seed in seeds], three)
        for at in ("own", "equal")
        for group in groups.values()
    ]


def _false(seeds: Sequence[Figures], faults: Sequence[str]) -> list[str]:
    """Shares of normal samples above the own threshold, and what was promised."""
    promises = [Promise(**seed["promise"]) for seed in seeds]
    return [
        spread([_over(seed["own"], faults, "false") for seed in seeds], percent),
        spread([seed["own"][NORMAL]["false"] for seed in seeds], percent),
        short(promises[0].asked),
        spread([promise.least for promise in promises], short),
    ]


def _over(streams: Mapping[str, Figures], names: Sequence[str], figure: str) -> float | None:
    values = [streams[name][figure] for name in names if streams[name][figure] is not None]
    return float(np.mean(values)) if values else None


def _over_draws(several: Sequence[Shares]) -> Figures:
    """The mean of each share over the draws that have it."""
    columns = {name: [getattr(one, name) for one in several] for name in Shares._fields}
    return {
        name: _mean(np.array([value for value in values if value is not None]))
        for name, values in columns.items()
    }


def _mean(values: NDArray[np.bool_ | np.float64]) -> float | None:
    return float(np.mean(values)) if values.size else None
