"""Pumps that are not there: demand, surroundings, noise and faults around `edge_runtime.pump`.

A pump's own figures follow from seed and name, its demand and noise from the start as well: the
same seed gives the same pumps, and another start gives them another day. The first rows of a long
simulation are those of a short one, bit for bit.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError
from edge_runtime.faults import Fault
from edge_runtime.files import replacing
from edge_runtime.payload import MAX_TS_NS, NS_PER_MS, ts_text
from edge_runtime.pump import (
    FEATURES,
    SENSORS,
    Condition,
    Float64,
    Machine,
    lagged,
    machine_name_problem,
    operate,
)
from edge_runtime.topics import Template

NS_PER_S = 1_000_000_000
DAY_S = 86_400.0
MAX_ROWS = 3_000_000
"""Rows of one machine that are simulated at once: a month at one a second."""

SLOWEST, FASTEST = 0.55, 1.0
"""Speed setpoint at no demand and at full demand, as a share of the rated speed."""

HOLD_S = (120.0, 720.0)
"""How long a demand lasts."""

RAMP_S = (30.0, 180.0)
"""How long it takes to reach the next one, unless it is a step."""

DRIVE_S = 12.0
"""Time constant of each of the two lags that make the drive's S-curve: no pump may jump."""

WANDER, WANDER_S = 0.006, 60.0
"""Standard deviation and time constant of the small corrections of the flow controller."""

BLOCK = 4096
"""Rows that are turned into text at a time."""

Progress = Callable[[int], object]
"""Told the number of rows or messages whenever some are out."""


class Simulated(NamedTuple):
    """What one machine reported.

    Attributes:
        ts: int64 ``[row]``, nanoseconds since 1970 UTC, whole milliseconds.
        values: float64 ``[row, sensor]`` in the order of `FEATURES`, rounded as transmitters do.
        label: int8 ``[row]``, 1 from the onset of a fault on.
    """

    ts: NDArray[np.int64]
    values: Float64
    label: NDArray[np.int8]


def machine_names(count: int) -> tuple[str, ...]:
    """``pump-1``, ``pump-2``, ..."""
    return tuple(f"pump-{number}" for number in range(1, count + 1))


def built(name: str, seed: int) -> Machine:
    """The machine of that name; it is the same for every start."""
    return Machine.built(name, np.random.default_rng([seed, *name.encode()]))


def simulate_machine(  # noqa: PLR0913 - one machine, one clock, one seed, and nothing to group
    name: str,
    *,
    rows: int,
    start_ns: int,
    period_s: float = 1.0,
    seed: int = 1,
    faults: Sequence[Fault] = (),
) -> Simulated:
    """Simulates one machine, thermally settled at the start.

    Args:
        name: Its name.
        rows: How many samples.
        start_ns: Time of the first, nanoseconds since 1970 UTC, whole milliseconds.
        period_s: Time between two, whole milliseconds.
        seed: 0 or more.
        faults: Of any machine; only its own are used. Of two of a kind, the worse one counts.

    Returns:
        What it reported; the same arguments give the same bits.

    Raises:
        ConfigError: If an argument is out of its range.
    """
    problems = list(_run_problems(rows, start_ns, period_s, seed))
    if problem := machine_name_problem(name):
        problems.append(problem)
    if problems:
        raise ConfigError([f"{name}: {problem}" for problem in problems])
    seconds: Float64 = np.multiply(np.arange(rows), period_s)
    today = np.random.SeedSequence([seed, start_ns, *name.encode()])
    load_rng, wander_rng, noise_rng = map(np.random.default_rng, today.spawn(3))
    day_s = start_ns / NS_PER_S % DAY_S + seconds
    demand = _demand(load_rng, seconds, day_s[0].item())
    asked = SLOWEST + (FASTEST - SLOWEST) * demand
    setpoint = lagged(lagged(asked, period_s, DRIVE_S), period_s, DRIVE_S)
    setpoint += WANDER * _wander(wander_rng, rows, period_s)
    own = [fault for fault in faults if fault.machine == name]
    condition = Condition(
        wear=_progress("bearing_wear", own, seconds),
        closing=_progress("closing_valve", own, seconds),
        leak=_progress("leak", own, seconds),
    )
    true = operate(built(name, seed), setpoint, _ambient(day_s), condition, period_s)
    noise = noise_rng.standard_normal(true.shape) * _noise_size(true)
    values = _sent(true + noise)
    for fault in own:
        if fault.kind == "stuck_sensor":
            _stick(values, noise, fault, seconds)
    label = np.zeros(rows, np.int8)
    for fault in own:
        label[seconds >= fault.onset_s] = 1
    ts = start_ns + np.arange(rows) * round(period_s * NS_PER_S)
    return Simulated(ts.astype(np.int64), values, label)


def _run_problems(rows: int, start_ns: int, period_s: float, seed: int) -> Iterator[str]:
    if not 1 <= rows <= MAX_ROWS:
        yield f"wanted 1 to {MAX_ROWS:,} samples of a machine, got {rows:,}"
    if start_ns < 0 or start_ns % NS_PER_MS:
        yield f"start: wanted whole milliseconds since 1970, got {start_ns} ns"
    ms = period_s * 1000
    if not (math.isfinite(ms) and ms >= 1 and abs(ms - round(ms)) < 1e-6):  # noqa: PLR2004 - of a float's rounding
        yield f"period: wanted whole milliseconds, 0.001 s or more, got {period_s} s"
    if math.isfinite(ms) and start_ns + rows * ms * NS_PER_MS > MAX_TS_NS:
        yield "start: wanted an end before the year 2262, got one after it"
    if seed < 0:
        yield f"seed: wanted 0 or more, got {seed}"


def _demand(rng: np.random.Generator, seconds: Float64, first_s: float) -> Float64:
    """Demand from 0 to 1, ``[row]``: held for minutes, then a step or a ramp to the next.

    Args:
        rng: Draws hold, ramp, whether it is a step, and level of each.
        seconds: Time since the start, ``[row]``.
        first_s: Time of day at the start.
    """
    draws = rng.random((int(seconds[-1] / HOLD_S[0]) + 2, 4))
    hold = HOLD_S[0] + (HOLD_S[1] - HOLD_S[0]) * draws[:, 0]
    ramp = np.where(draws[:, 2] < 0.5, 1.0, RAMP_S[0] + (RAMP_S[1] - RAMP_S[0]) * draws[:, 1])  # noqa: PLR2004 - half of them
    ends = np.cumsum(hold + ramp)
    busy = 0.5 - 0.5 * np.cos(2 * np.pi * (first_s + ends - hold - 3 * 3600.0) / DAY_S)
    level = 0.8 * draws[:, 3] + 0.2 * busy
    times = np.stack([ends - hold, ends], axis=1).ravel()
    result: Float64 = np.interp(seconds, times, np.repeat(level, 2))
    return result


def _wander(rng: np.random.Generator, rows: int, period_s: float) -> Float64:
    """Noise of standard deviation 1 that is alike for about `WANDER_S`, ``[row]``."""
    share = -np.expm1(-period_s / WANDER_S).item()
    noise = rng.standard_normal(rows)
    noise[1:] *= math.sqrt((2.0 - share) / share)
    return lagged(noise, period_s, WANDER_S)


def _ambient(day_s: Float64) -> Float64:
    """Temperature around the machine in degC, ``[row]``: warmest at three in the afternoon."""
    result: Float64 = 22.0 + 3.0 * np.cos(2 * np.pi * (day_s - 15 * 3600.0) / DAY_S)
    return result


def _progress(kind: str, faults: Sequence[Fault], seconds: Float64) -> Float64:
    """How far faults of one kind have come, ``[row]``, 0 to 1."""
    worst = np.zeros(len(seconds))
    for fault in faults:
        if fault.kind == kind:
            since = seconds - fault.onset_s
            share = np.clip(since / fault.ramp_s, 0.0, 1.0) if fault.ramp_s else since >= 0
            np.maximum(worst, fault.severity * share, out=worst)
    return worst


def _noise_size(true: Float64) -> Float64:
    """Standard deviation of the noise, ``[row, sensor]``."""
    noise = np.array([sensor.noise for sensor in FEATURES])
    return noise + np.array([sensor.scatter for sensor in FEATURES]) * true


def _sent(values: Float64) -> Float64:
    """Rounds each sensor to the digits that its transmitter sends."""
    columns = zip(values.T, FEATURES, strict=True)
    return np.stack([np.round(column, sensor.decimals) for column, sensor in columns], axis=1)


def _stick(values: Float64, noise: Float64, fault: Fault, seconds: Float64) -> None:
    column = SENSORS.index(fault.sensor)
    first = int(np.searchsorted(seconds, fault.onset_s))
    held = values[max(first - 1, 0), column]
    stuck = held + (1.0 - fault.severity) * noise[first:, column]
    values[first:, column] = np.round(stuck, FEATURES[column].decimals)


def _silent(_: int) -> None:
    pass


def write_csv(
    path: Path,
    parts: Iterable[tuple[str, Simulated]],
    *,
    machine_column: bool = True,
    label: bool = False,
    progress: Progress = _silent,
) -> None:
    """Writes machines one after the other; the file appears when it is complete.

    Args:
        path: The file. Its header is its schema: time (ISO 8601, milliseconds, UTC), machine, the
            sensors, and the label as ``anomaly``.
        parts: Name and samples of each machine.
        machine_column: Whether there is a column for the name.
        label: Whether there is a column for the label.
        progress: Told the number of rows whenever some are written.
    """
    header = ["time", *["machine"] * machine_column, *SENSORS, *["anomaly"] * label]
    with replacing(path) as temporary, temporary.open("w", encoding="ascii", newline="") as file:
        file.write(",".join(header) + "\n")
        for name, simulated in parts:
            line = _line_format(name if machine_column else None, label=label)
            for at in range(0, len(simulated.ts), BLOCK):
                rows = slice(at, at + BLOCK)
                ms = (simulated.ts[rows] // NS_PER_MS).astype("datetime64[ms]")
                columns = [np.datetime_as_string(ms).tolist(), *simulated.values[rows].T.tolist()]
                if label:
                    columns.append(simulated.label[rows].tolist())
                file.writelines(map(line.__mod__, zip(*columns, strict=True)))
                progress(len(ms))


def _line_format(name: str | None, *, label: bool) -> str:
    """A line of the file for the ``%`` operator."""
    cells = ["%sZ", *([] if name is None else [name])]
    cells += [f"%.{sensor.decimals}f" for sensor in FEATURES]
    return ",".join([*cells, *["%d"] * label]) + "\n"


class Message(NamedTuple):
    """What a machine publishes.

    Attributes:
        due_s: When, in seconds of its own clock after the start.
        topic: Where.
        payload: ``{"ts": ms, "values": {...}}``.
    """

    due_s: float
    topic: str
    payload: bytes


def messages(parts: Sequence[tuple[str, Simulated]], topic: str) -> Iterator[Message]:
    """The messages of machines that share a clock, in the order of their time.

    Args:
        parts: Topic name and samples of each machine, the same number of samples.
        topic: Template with the placeholder ``{machine}``.

    Yields:
        One message for each sample.
    """
    template = Template(topic)
    topics = [template.render({"machine": name}) for name, _ in parts]
    start = int(parts[0][1].ts[0])
    for at in range(0, len(parts[0][1].ts), BLOCK):
        rows = slice(at, at + BLOCK)
        ts = parts[0][1].ts[rows].tolist()
        blocks = [simulated.values[rows].tolist() for _, simulated in parts]
        for row, ns in enumerate(ts):
            stamp = msgspec.Raw(ts_text(ns).encode())
            for place, block in zip(topics, blocks, strict=True):
                values = dict(zip(SENSORS, block[row], strict=True))
                payload = msgspec.json.encode({"ts": stamp, "values": values})
                yield Message((ns - start) / NS_PER_S, place, payload)
