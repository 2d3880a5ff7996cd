"""The faults that a simulated pump can have, and how the command line writes them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from edge_runtime.errors import ConfigError
from edge_runtime.pump import SENSORS, machine_name_problem
from edge_runtime.tables import Check, Problem, Table, at_least, between, did_you_mean, show

AFFECTED = {
    "bearing_wear": ("vibration_mm_s", "bearing_temp_c", "current_a", "motor_temp_c"),
    "closing_valve": ("flow_m3h", "current_a", "pressure_bar", "vibration_mm_s", "motor_temp_c"),
    "leak": ("flow_m3h", "pressure_bar", "current_a", "motor_temp_c", "vibration_mm_s"),
    "stuck_sensor": (),
}
"""The sensors that each fault moves, the most telling first; a stuck sensor is named by its fault.

No other sensor changes by a bit. What leads a list is furthest from what the speed says it should
be; temperatures follow over minutes.
"""


def _kind_problem(kind: str) -> str | None:
    return (
        None if kind in AFFECTED else f"unknown fault {show(kind)}, {did_you_mean(kind, AFFECTED)}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Table):
    """Something that goes wrong with one machine and stays wrong.

    Attributes:
        machine: Its name.
        kind: ``bearing_wear``; ``closing_valve`` (in the loop; little happens until it is half
            shut, as with any gate valve); ``leak`` (behind the pump and its sensors); or
            ``stuck_sensor``.
        onset_s: When it begins, in seconds after the first sample.
        severity: Above 0 (nothing) up to 1. At 0.1 a fault is about as large as the noise. A
            stuck sensor repeats its last value; severity 1 leaves no noise on it (a dead
            transmitter), less leaves 1 - severity of it (a blocked tube before a live one).
        ramp_s: How long it takes to reach its severity. A sensor is stuck at once.
        sensor: Which one is stuck; only for ``stuck_sensor``.

    Raises:
        ConfigError: With everything that is wrong with it.
    """

    machine: Annotated[str, Check(machine_name_problem)]
    kind: Annotated[str, Check(_kind_problem)]
    onset_s: Annotated[float, at_least(0)]
    severity: Annotated[float, between(0, 1)] = 1.0
    ramp_s: Annotated[float, at_least(0)] = 0.0
    sensor: str = ""

    def _severe(self) -> Iterator[Problem]:
        if self.severity == 0:
            yield Problem(("severity",), "wanted more than 0: a fault of 0 is none")

    def _sensor_known(self) -> Iterator[Problem]:
        if self.kind != "stuck_sensor":
            if self.sensor:
                yield Problem(("sensor",), f"only stuck_sensor has one, got {show(self.sensor)}")
        elif not self.sensor:
            yield Problem(("sensor",), f"wanted one of {', '.join(SENSORS)}, got none")
        elif self.sensor not in SENSORS:
            advice = did_you_mean(self.sensor, SENSORS)
            yield Problem(("sensor",), f"unknown sensor {show(self.sensor)}, {advice}")

    def _stuck_at_once(self) -> Iterator[Problem]:
        if self.kind == "stuck_sensor" and self.ramp_s:
            yield Problem(("ramp_s",), f"a sensor is stuck at once, got {show(self.ramp_s)}")

    relations = (_severe, _sensor_known, _stuck_at_once)

    @property
    def affected(self) -> tuple[str, ...]:
        """The sensors that it moves, the most telling first."""
        return AFFECTED[self.kind] or (self.sensor,)


_FAULT_KEYS = {"onset": "onset_s", "severity": "severity", "ramp": "ramp_s", "sensor": "sensor"}
_FAULT_FORM = "pump-1:leak:onset=3600,severity=0.5,ramp=600"


def parse_fault(text: str) -> Fault:
    """Reads a fault as the command line has it.

    Args:
        text: ``pump-2:bearing_wear:onset=3600,severity=0.8,ramp=600`` (seconds); all but the onset
            may be left out. ``pump-1:stuck_sensor:onset=60,sensor=flow_m3h``.

    Returns:
        The fault.

    Raises:
        ConfigError: With what was wanted and what came.
    """
    parts = text.split(":")
    if len(parts) != 3:  # noqa: PLR2004 - machine, kind, details
        raise ConfigError([f"{show(text)}: wanted MACHINE:FAULT:onset=SECONDS, as {_FAULT_FORM}"])
    given: dict[str, Any] = {"machine": parts[0], "kind": parts[1]}
    found = [machine_name_problem(parts[0]), _kind_problem(parts[1])]
    problems = [problem for problem in found if problem]
    for item in filter(None, parts[2].split(",")):
        key, _, value = item.partition("=")
        name = _FAULT_KEYS.get(key)
        if name is None:
            problems.append(f"unknown key {show(key)}, {did_you_mean(key, _FAULT_KEYS)}")
        elif name in given:
            problems.append(f"{key}: wanted once, got it again")
        else:
            given[name] = value if name == "sensor" else _number(key, value, problems)
    if "onset_s" not in given:
        problems.append("onset: wanted seconds after the first sample, got none")
    if not problems:
        try:
            return Fault(**given)
        except ConfigError as error:
            problems = [problem.removeprefix("Fault ") for problem in error.problems]
    raise ConfigError([f"{show(text)}: {problem}" for problem in problems])


def _number(key: str, text: str, problems: list[str]) -> float:
    try:
        return float(text)
    except ValueError:
        problems.append(f"{key}: wanted a number, got {show(text)}")
        return math.nan
