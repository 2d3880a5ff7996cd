"""SKAB valve1: 16 runs of a water-pump rig (github.com/waico/SKAB), one sample a second.

By its protocol the first 400 rows of each run are normal and may train, the rest is scored. In most
runs the anomaly begins at nearly the same row, so rows are cropped and spliced in at random.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.quality.cases import Case, Figures, Result
from benchmarks.quality.detectors import Promise, train
from benchmarks.quality.markdown import by_detector, failures, percent, short, spread, table, three
from benchmarks.quality.recordings import LABEL, count_lamp
from benchmarks.quality.verdict import poisson_interval, verdict
from edge_runtime.columns import Layout
from edge_runtime.recorded import RecordedStream, read_streams
from evaluate.evaluation import evaluate_detectors
from evaluate.settings import Settings
from evaluate.yardsticks import YARDSTICKS
from train.config import DataConfig, Files

FOLDER = "skab/valve1"
LEAD = 400
PERIOD_MS = 1000.0
SETTINGS = Settings(label=LABEL, window=60, lead=LEAD, crop=300, splice=300, repeats=3)
LABELS = (LABEL, "changepoint")
HOURS_PER_DAY = 24.0


def measure(case: Case, scratch: Path) -> Figures:
    """One detector over all runs, and over their normal rows that no training saw."""
    folder = case.data / FOLDER
    config = case.kind.config(DataConfig(ignore=LABELS, period_ms=PERIOD_MS), case.seed)
    trained = train(config, [Files((folder,), LEAD)], scratch)
    runs = read_streams([folder], Layout(ignore=LABELS[1:]), on_notice=lambda _: None)
    report = evaluate_detectors(
        {case.detector: [trained.model]},
        runs,
        SETTINGS,
        scorers=YARDSTICKS if case.yardsticks else {},
    )
    own, *others = report.rows
    lamp = count_lamp(trained.model, [until_onset(run) for run in runs], LEAD)
    return {
        "judged": asdict(own.seeds[0].figures),
        "compared": own.causality.compared if own.causality else 0,
        "yardsticks": {row.name: asdict(row.seeds[0].figures) for row in others},
        "normal": {"episodes": sum(lamp.episodes), "days": sum(lamp.days)},
        "promise": asdict(trained.promise),
    }


def until_onset(run: RecordedStream) -> RecordedStream:
    """The rows before the first labelled one."""
    label = run.column(LABEL) != 0
    rows = slice(int(np.argmax(label)) if label.any() else len(label))
    return replace(run, ts=run.ts[rows], values=run.values[rows])


def tables(results: list[Result]) -> dict[str, str]:
    """``skab``: the detectors and yardsticks; ``skab-normal``: what was promised, and was kept."""
    found = by_detector(results)
    rows = [
        _row(name, [r.figures["judged"] for r in seeds if r.figures])
        for name, seeds in found.items()
    ]
    beside: Figures = next((r.figures["yardsticks"] for r in results if r.figures), {})
    rows += [_row(name, [figures]) for name, figures in beside.items()]
    header = [
        "detector", "VUS-PR", "events found", "delay, s", "F1", "FAR", "MAR",
        "false alarms an hour, before", "after", "elsewhere",
    ]  # fmt: skip
    normal = table(
        ["detector", "asked, a day", "data can show", "hours", "episodes", "measured, a day",
         "95 % interval", "kept"],
        [_normal(name, [r.figures for r in seeds if r.figures]) for name, seeds in found.items()],
    )  # fmt: skip
    failed = failures(results)
    return {"skab": table(header, rows) + failed, "skab-normal": normal + failed}


def _row(name: str, seeds: list[Figures]) -> list[str]:
    events = seeds[0]["events"]
    columns = (
        ("vus_pr", three), ("found", short), ("median_delay_s", short), ("f1", three),
        ("far", percent), ("mar", percent),
        ("before_per_hour", short), ("after_per_hour", short), ("elsewhere_per_hour", short),
    )  # fmt: skip
    cells = [spread([seed[key] for seed in seeds], text) for key, text in columns]
    cells[1] += f" of {events:.0f}"
    return [name, *cells]


def _normal(name: str, seeds: list[Figures]) -> list[str]:
    promises = [Promise(**seed["promise"]) for seed in seeds]
    episodes = [seed["normal"]["episodes"] for seed in seeds]
    days = float(np.mean([seed["normal"]["days"] for seed in seeds]))
    low, high = poisson_interval(float(np.mean(episodes)), days)
    return [
        name,
        short(promises[0].asked),
        spread([promise.least for promise in promises], short),
        short(days * HOURS_PER_DAY),
        spread(episodes, short),
        spread([count / days for count in episodes], short),
        f"{short(low)} to {short(high)}",
        verdict(promises, float(np.mean(episodes)), days),
    ]
