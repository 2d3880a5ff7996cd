"""Simulated faults of every kind, from faint to plain, on pumps that no training saw.

A sample a second. A fault begins 30 to 60 minutes after the start, half of them at once and half
over ten minutes (a stuck sensor is stuck at once), and lasts for an hour.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.cases import Case, Figures, Result
from benchmarks.quality.detectors import Promise, train
from benchmarks.quality.markdown import (
    Format,
    by_detector,
    failures,
    percent,
    short,
    spread,
    table,
)
from benchmarks.quality.rates import healthy
from benchmarks.quality.recordings import EPOCH_NS, write_stream
from edge_runtime.faults import AFFECTED, Fault
from edge_runtime.pipeline import Pipeline, Settings
from edge_runtime.pump import SENSORS
from edge_runtime.replay import Readings, replay
from edge_runtime.results import OK
from edge_runtime.session import Session, load_model
from edge_runtime.simulated import DAY_S, NS_PER_S, machine_names, simulate_machine
from edge_runtime.summary import Summary
from train.config import DataConfig, Files

PERIOD_S = 1.0
TRAINED, HOURS, APART_H = 8, 4.0, 3.0
"""Machines that train, for how long each, and how much later each begins: all hours of a day."""

SEVERITIES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
PLAIN = 0.7
"""From this severity on a fault is plain."""

STUCK = "stuck_sensor"
"""Hardly plainer at 1 than at 0.05: whatever noise is left, it does not follow the machine."""

MACHINES = 4
"""With each kind and severity; a stuck sensor has one for each sensor."""

RAMPS_S = (0.0, 600.0)
QUIET_S = (1800.0, 3600.0)
LASTS_S = 3600.0
SEED = 2026


@dataclass(frozen=True, slots=True)
class Run:
    """One machine that falls ill.

    Attributes:
        fault: What it has.
        readings: What it reports, named by its fault.
        touched: ``[row, sensor]``, whether the fault had changed the sensor by then.
    """

    fault: Fault
    readings: Readings
    touched: NDArray[np.bool_]

    @property
    def onset_ns(self) -> int:
        """When the fault begins."""
        return int(self.readings.ts[0]) + round(self.fault.onset_s * NS_PER_S)


def all_faults() -> list[Fault]:
    """Every kind with every severity, each on machines of its own.

    Machine and onset follow from kind and number alone, so severities can be compared.
    """
    faults = []
    first = TRAINED + 1
    for kind in AFFECTED:
        sensors = SENSORS if kind == STUCK else ("",) * MACHINES
        rng = np.random.default_rng([SEED, *kind.encode()])
        onsets = np.round(rng.uniform(*QUIET_S, len(sensors))).tolist()
        for number, (sensor, onset_s) in enumerate(zip(sensors, onsets, strict=True)):
            ramp_s = 0.0 if sensor else RAMPS_S[number % len(RAMPS_S)]
            faults += [
                Fault(
                    machine=f"pump-{first + number}",
                    kind=kind,
                    onset_s=onset_s,
                    severity=severity,
                    ramp_s=ramp_s,
                    sensor=sensor,
                )
                for severity in SEVERITIES
            ]
        first += len(sensors)
    return faults


def simulate(fault: Fault) -> Run:
    """The machine with its fault, and beside it the same without: what differs is its doing."""
    rows = round((fault.onset_s + LASTS_S) / PERIOD_S)
    # Another day than that of the training, at any hour.
    hour = np.random.default_rng([SEED, *fault.machine.encode()]).integers(24)
    start_ns = EPOCH_NS + round(7 * DAY_S + 3600 * int(hour)) * NS_PER_S
    ill, well = (
        simulate_machine(
            fault.machine, rows=rows, start_ns=start_ns, period_s=PERIOD_S, faults=faults
        )
        for faults in ([fault], [])
    )
    touched = np.maximum.accumulate(ill.values != well.values, axis=0)
    name = f"{fault.machine}/{fault.kind}/{fault.severity:g}"
    return Run(fault, Readings(name, ill.ts, ill.values, None), touched)


@cache
def _runs() -> list[Run]:
    return [simulate(fault) for fault in all_faults()]


class Seen(NamedTuple):
    """What a detector said of one run.

    Attributes:
        kind: Of the fault.
        severity: Of the fault.
        ramp_s: Of the fault.
        delay_s: From its onset to the lamp; None if the lamp did not go on.
        lit_before: It did not, and was lit already at the onset.
        top: The sensor with the largest share when it went on; empty if it did not, or if the
            detector gives no shares.
        right: Whether the fault had changed that sensor by then.
        chance: Share of the sensors that it had changed: how often any of them would be right.
        false: How often the lamp went on before the onset.
        hours: Before the onset, of samples that count.
    """

    kind: str
    severity: float
    ramp_s: float
    delay_s: float | None
    lit_before: bool
    top: str
    right: bool
    chance: float
    false: int
    hours: float


def look(session: Session, runs: Sequence[Run]) -> list[Seen]:
    """Runs a detector over the runs as a gateway with default settings would."""
    settings = Settings(max_streams=len(runs))
    summary = Summary(settings.alarm.enter, keep=True)
    readings = [run.readings for run in runs]
    for result in replay(Pipeline(session, settings), readings, lambda _: None):
        summary.add(result)
    raised: dict[str, list[tuple[int, str]]] = {each.stream: [] for each in readings}
    for flag in summary.flags:
        if flag.event == "raised":
            raised[flag.stream].append((flag.ts, flag.top[0].feature if flag.top else ""))
    return [_seen(run, summary, raised[run.readings.stream]) for run in runs]


def _seen(run: Run, summary: Summary, raised: Sequence[tuple[int, str]]) -> Seen:
    onset, fault = run.onset_ns, run.fault
    scored = summary.series(run.readings.stream)
    before = scored.ts < onset
    lit = bool(before.any()) and bool(scored.alarm[before][-1])
    ts, top = next(((ts, top) for ts, top in raised if ts >= onset), (None, ""))
    touched = np.zeros(len(SENSORS), np.bool_)
    if ts is not None:
        touched = run.touched[int(np.searchsorted(run.readings.ts, ts))]
    return Seen(
        kind=fault.kind,
        severity=fault.severity,
        ramp_s=fault.ramp_s,
        delay_s=None if ts is None else (ts - onset) / NS_PER_S,
        lit_before=ts is None and lit,
        top=top,
        right=bool(top) and bool(touched[SENSORS.index(top)]),
        chance=float(touched.mean()),
        false=sum(ts < onset for ts, _ in raised),
        hours=int((scored.status[before] == OK).sum()) * PERIOD_S / 3600,
    )


def measure(case: Case, scratch: Path) -> Figures:
    """One detector, trained on other pumps in good health."""
    history = [
        healthy(name, EPOCH_NS + round(APART_H * 3600 * at) * NS_PER_S, PERIOD_S, HOURS / 24)
        for at, name in enumerate(machine_names(TRAINED))
    ]
    files = [write_stream(scratch, stream) for stream in history]
    config = case.kind.config(DataConfig(period_ms=PERIOD_S * 1000), case.seed)
    trained = train(config, [Files(tuple(files))], scratch)
    seen = look(load_model(trained.model), _runs())
    return {
        "promise": asdict(trained.promise),
        "columns": list(Seen._fields),
        "runs": [list(each) for each in seen],
    }


def runs_of(result: Result) -> list[Seen]:
    """What a detector said, from its figures."""
    return [Seen(*run) for run in result.figures["runs"]] if result.figures else []


def detected(seen: Iterable[Seen]) -> float | None:
    """Share of the runs in which the lamp went on; None of none."""
    found = [each.delay_s is not None for each in seen]
    return float(np.mean(found)) if found else None


def median_delay_s(seen: Iterable[Seen]) -> float | None:
    """Over the runs in which the lamp went on; None of none."""
    delays = [each.delay_s for each in seen if each.delay_s is not None]
    return float(np.median(delays)) if delays else None


def top_right(seen: Iterable[Seen]) -> float | None:
    """Share of the runs with a lamp in which the top sensor is one that the fault had changed."""
    found = [each.right for each in seen if each.delay_s is not None]
    return float(np.mean(found)) if found else None


def top_chance(seen: Iterable[Seen]) -> float | None:
    """The same share for a sensor picked at random."""
    found = [each.chance for each in seen if each.delay_s is not None]
    return float(np.mean(found)) if found else None


def false_per_day(seen: Iterable[Seen]) -> float | None:
    """How often the lamp goes on in a day before the onset.

    The severities of a fault share machine and onset, so they say the same: one counts.
    """
    first = [each for each in seen if each.severity == SEVERITIES[0]]
    hours = sum(each.hours for each in first)
    return 24 * sum(each.false for each in first) / hours if hours else None


def tables(results: list[Result]) -> dict[str, str]:
    """``pumps``, ``pumps-delay``: by severity; ``-kinds``: plain ones; ``-top``: the top sensor."""
    seeds = by_detector(results)
    found = {name: [runs_of(result) for result in its] for name, its in seeds.items()}
    severity = ["detector", *(f"{severity:g}" for severity in SEVERITIES)]
    rows, delays = [], []
    for name, its in found.items():
        alarms = _alarms(its, [r.figures for r in seeds[name] if r.figures])
        rows.append([name, *_by_severity(its, detected, percent), *alarms])
        delays.append([name, *_by_severity(its, median_delay_s, short)])
    kinds = ["detector"]
    for kind in AFFECTED:
        kinds += [f"{_words(kind)}: found", "delay, s"]
    tops = [_tops(name, its) for name, its in found.items()]
    tops += [_chances(its) for its in list(found.values())[:1]]
    return {
        "pumps": table([*severity, "false alarms a day", "asked, a day", "data can show"], rows)
        + failures(results),
        "pumps-delay": table(severity, delays),
        "pumps-kinds": table(kinds, [_by_kind(name, its) for name, its in found.items()]),
        "pumps-top": table(["detector", *map(_words, AFFECTED), "all"], tops),
    }


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _by_severity(
    seeds: Sequence[Sequence[Seen]], figure: Callable[[Iterable[Seen]], float | None], text: Format
) -> list[str]:
    """A cell for each severity, over the kinds that have any."""
    return [
        spread(
            [
                figure(s for s in seen if s.severity == severity and s.kind != STUCK)
                for seen in seeds
            ],
            text,
        )
        for severity in SEVERITIES
    ]


def _alarms(seeds: Sequence[Sequence[Seen]], figures: Sequence[Figures]) -> list[str]:
    promises = [Promise(**each["promise"]) for each in figures]
    return [
        spread(map(false_per_day, seeds), short),
        short(promises[0].asked),
        spread([promise.least for promise in promises], short),
    ]


def _plain(seen: Iterable[Seen], kind: str | None = None) -> list[Seen]:
    return [s for s in seen if s.severity >= PLAIN and kind in (None, s.kind)]


def _by_kind(name: str, seeds: Sequence[Sequence[Seen]]) -> list[str]:
    cells = [name]
    for kind in AFFECTED:
        some = [_plain(seen, kind) for seen in seeds]
        cells.append(spread(map(detected, some), percent))
        cells.append(spread(map(median_delay_s, some), short))
    return cells


def _tops(name: str, seeds: Sequence[Sequence[Seen]]) -> list[str]:
    cells = [
        spread([top_right(_plain(seen, kind)) for seen in seeds], percent)
        for kind in (*AFFECTED, None)
    ]
    return [name, *cells]


def _chances(seeds: Sequence[Sequence[Seen]]) -> list[str]:
    """Any sensor, over the runs that a detector found."""
    cells = [
        spread([top_chance(_plain(seen, kind)) for seen in seeds], percent)
        for kind in (*AFFECTED, None)
    ]
    return ["a sensor at random", *cells]
