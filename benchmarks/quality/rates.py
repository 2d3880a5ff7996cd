"""False alarms on simulated pumps: asked for, promised, and measured on others in the next month.

A sample every two minutes, so that 30 machine-months can be afforded. The simulator takes any
period. Beside every 120th sample of one at a second, each sensor's mean is the same within 0.1 %,
its deviation within 2 %, and from sample to sample it changes by 5 to 7 % more: the drive settles
within a period.
"""

from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.quality.cases import Case, Figures, Result
from benchmarks.quality.detectors import Promise, train_at
from benchmarks.quality.markdown import NO_FIGURE, by_detector, failures, short, spread, table
from benchmarks.quality.recordings import EPOCH_NS, count_lamp, labelled, write_stream
from benchmarks.quality.verdict import FACTOR, verdict
from edge_runtime.pump import SENSORS
from edge_runtime.recorded import RecordedStream
from edge_runtime.simulated import DAY_S, NS_PER_S, machine_names, simulate_machine
from train.config import DataConfig, Files

PERIOD_S = 120.0
DAYS = 30
TRAINED, OTHERS = 8, 30
RATES = {"1 a day": 1.0, "1 a week": 1 / 7}


def healthy(name: str, start_ns: int, period_s: float, days: float) -> RecordedStream:
    """A machine that nothing ails.

    Args:
        name: Its name.
        start_ns: Time of the first sample, nanoseconds since 1970 UTC.
        period_s: Between two samples.
        days: For how long.

    Returns:
        What it reports, without a label.
    """
    rows = round(days * DAY_S / period_s)
    run = simulate_machine(name, rows=rows, start_ns=start_ns, period_s=period_s)
    return RecordedStream(name, Path(name), run.ts, SENSORS, run.values)


@cache
def _others() -> list[RecordedStream]:
    """The machines that are judged, in the month after the one that trains."""
    names = machine_names(TRAINED + OTHERS)[TRAINED:]
    start_ns = EPOCH_NS + round(DAYS * DAY_S) * NS_PER_S
    streams = [healthy(name, start_ns, PERIOD_S, DAYS) for name in names]
    return [labelled(stream, np.zeros(len(stream.ts), np.bool_)) for stream in streams]


def measure(case: Case, scratch: Path) -> Figures:
    """One detector, trained once, with its alarm level for each rate."""
    history = [healthy(name, EPOCH_NS, PERIOD_S, DAYS) for name in machine_names(TRAINED)]
    files = [write_stream(scratch, stream) for stream in history]
    config = case.kind.config(DataConfig(period_ms=PERIOD_S * 1000), case.seed)
    trained = train_at(config, [Files(tuple(files))], scratch, list(RATES.values()))
    found = {}
    for rate, detector in zip(RATES, trained, strict=True):
        lamp = count_lamp(detector.model, _others())
        found[rate] = {
            "promise": asdict(detector.promise),
            "episodes": list(lamp.episodes),
            "days": sum(lamp.days),
        }
    return found


def tables(results: list[Result]) -> dict[str, str]:
    """``rates``: a row for each rate and detector."""
    header = [
        "asked", "detector", "data can show, a day", "promised, a day", "measured, a day",
        "measured / asked", "supported", "kept", f"machines above {FACTOR:g} times",
    ]  # fmt: skip
    rows = [
        _row(rate, name, [r.figures[rate] for r in seeds if r.figures])
        for rate in RATES
        for name, seeds in by_detector(results).items()
    ]
    return {"rates": table(header, rows) + failures(results)}


def _row(rate: str, name: str, seeds: list[Figures]) -> list[str]:
    promises = [Promise(**seed["promise"]) for seed in seeds]
    asked, days = promises[0].asked, float(np.mean([seed["days"] for seed in seeds]))
    counts = [sum(seed["episodes"]) for seed in seeds]
    most = FACTOR * asked * days / OTHERS
    loud = [sum(count > most for count in seed["episodes"]) for seed in seeds]
    supported = {promise.supported for promise in promises}
    return [
        rate,
        name,
        spread([promise.least for promise in promises], short),
        _interval(promises),
        spread([count / days for count in counts], short),
        spread([count / days / asked for count in counts], short),
        "yes" if supported == {True} else "no" if supported == {False} else "by seed",
        verdict(promises, float(np.mean(counts)), days),
        f"{spread(loud, short)} of {OTHERS}",
    ]


def _interval(promises: list[Promise]) -> str:
    """The widest over the seeds."""
    said = [promise.interval for promise in promises if promise.interval is not None]
    if not said:
        return NO_FIGURE
    return f"{short(min(low for low, _ in said))} to {short(max(high for _, high in said))}"
