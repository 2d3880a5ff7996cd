"""Two temperatures from the Numenta Anomaly Benchmark (github.com/numenta/NAB).

Labels are windows around what went wrong. NAB does not score the first 15 % of a series, at most
750 rows; here the first 2,000 rows train and are not judged, all of them before the first window.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.quality.cases import Case, Figures, Result
from benchmarks.quality.detectors import Promise, train
from benchmarks.quality.markdown import by_detector, failures, short, spread, table
from benchmarks.quality.recordings import LABEL, labelled
from edge_runtime.columns import Layout
from edge_runtime.errors import PayloadError, RecordedFileError
from edge_runtime.payload import parse_ts
from edge_runtime.recorded import RecordedStream, read_streams
from evaluate.evaluation import evaluate_detectors
from evaluate.settings import Settings
from train.config import DataConfig, Files

FOLDER = "nab"
HISTORY = 2000
DAYS_PER_WEEK = 7.0
S_PER_HOUR = 3600.0


class Recording(NamedTuple):
    """One file.

    Attributes:
        name: For people.
        file: In the folder ``nab``.
        period_ms: Between two samples.
    """

    name: str
    file: str
    period_ms: float


RECORDINGS = (
    Recording("machine temperature", "machine_temperature_system_failure.csv", 300_000.0),
    Recording("ambient temperature", "ambient_temperature_system_failure.csv", 3_600_000.0),
)


def read_windows(folder: Path, file: str) -> list[tuple[int, int]]:
    """First and last labelled time of each window, in nanoseconds since 1970 UTC.

    Raises:
        RecordedFileError: If there are none.
    """
    path = folder / "windows.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[file]
        return [(_ns(first), _ns(last)) for first, last in found]
    except (OSError, ValueError, KeyError, TypeError, PayloadError) as error:
        raise RecordedFileError(f"{path}: no windows of {file}: {error!r}") from error


def _ns(text: str) -> int:
    return parse_ts(text.replace(" ", "T") + "Z")


def read_recording(folder: Path, file: str) -> RecordedStream:
    """A series, labelled within its windows.

    Raises:
        RecordedFileError: If it cannot be read, or its history reaches into the first window.
    """
    (stream,) = read_streams([folder / file], Layout(), on_notice=lambda _: None)
    label = np.zeros(len(stream.ts), np.bool_)
    for first, last in read_windows(folder, file):
        label |= (stream.ts >= first) & (stream.ts <= last)
    if label[:HISTORY].any():
        raise RecordedFileError(f"{file}: a window begins within the {HISTORY} rows that train")
    return labelled(stream, label)


def measure(case: Case, scratch: Path) -> Figures:
    """One detector on each recording, trained on its beginning."""
    folder = case.data / FOLDER
    found = {}
    for recording in RECORDINGS:
        stream = read_recording(folder, recording.file)
        config = case.kind.config(DataConfig(period_ms=recording.period_ms), case.seed)
        history = Files((folder / recording.file,), HISTORY)
        trained = train(config, [history], scratch / recording.name)
        report = evaluate_detectors(
            {case.detector: [trained.model]},
            [stream],
            Settings(label=LABEL, lead=HISTORY),
            scorers={},
        )
        found[recording.name] = {
            "judged": asdict(report.rows[0].seeds[0].figures),
            "promise": asdict(trained.promise),
        }
    return found


def tables(results: list[Result]) -> dict[str, str]:
    """``nab``: a row for each recording and detector."""
    header = [
        "recording", "detector", "windows found", "lit before", "from its beginning, h",
        "false alarms a week", "weeks", "asked, a week", "data can show",
    ]  # fmt: skip
    rows = [
        _row(recording.name, name, [r.figures[recording.name] for r in seeds if r.figures])
        for recording in RECORDINGS
        for name, seeds in by_detector(results).items()
    ]
    return {"nab": table(header, rows) + failures(results)}


def _row(recording: str, name: str, seeds: list[Figures]) -> list[str]:
    judged = [seed["judged"] for seed in seeds]
    promises = [Promise(**seed["promise"]) for seed in seeds]

    def cell(figure: str, factor: float = 1.0) -> str:
        values = [one[figure] for one in judged]
        return spread([None if v is None else v * factor for v in values], short)

    return [
        recording,
        name,
        f"{cell('found')} of {judged[0]['events']:.0f}",
        cell("lit_before"),
        cell("median_delay_s", 1 / S_PER_HOUR),
        cell("false_alarms_per_day", DAYS_PER_WEEK),
        cell("normal_hours", 1 / 24 / DAYS_PER_WEEK),
        short(promises[0].asked * DAYS_PER_WEEK),
        spread([promise.least * DAYS_PER_WEEK for promise in promises], short),
    ]
