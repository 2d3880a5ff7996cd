"""The physics of a simulated pump, in as few laws as its sensors need.

A coolant loop: a radial pump on a variable-speed drive draws from an open tank and returns to it,
so there is no static head. With the speed as a share ``r`` of the rated speed:

    pump curve       p = shutoff_bar r^2 - inner_bar (Q / Qr)^2      (affinity laws)
    loop curve       p = loop_bar (Q / Qr)^2
    shaft power      P = Q (p + inner loss) / 36 + disc_kw r^3       (kW; m3/h times bar is 1/36 kW)
    active current   amps_per_kw P / r       (constant V/f: the voltage follows the speed)
    current          magnetising and active current, at right angles
    temperatures     first-order towards ambient + rise; motor: copper losses (I^2) and iron (r^2),
                     bearing: viscous friction (r) and the power lost in worn rollers
    vibration        unbalance (r^2), turbulence away from the best point, and wear (r); they are
                     independent, so their squares add

The demand on a healthy pump only moves ``r``. So flow, pressure, current and vibration are tied to
the speed, and each fault breaks one of these ties. Not modelled: motor heat in the bearing, the
coolant's temperature, radial thrust.

Sources: J. F. Guelich, *Centrifugal Pumps*, on affinity laws, pump and loop curves, and noise and
vibration; ISO 10816-7 for what a pump's vibration may be. The figures are round ones of a pump of
this size, not of a certain make.
"""

import dataclasses
import re
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.tables import Check, Table, above, show

Float64 = NDArray[np.float64]

RATED_RPM = 2900.0
RATED_FLOW_M3H = 50.0
RATED_A = 14.2

SPREAD = 0.02
"""Standard deviation, as a share, of what differs between two pumps of one make."""

INERTIA_S = 4.0
"""Time constant of rotor and water column."""

COPPER_SHARE = 0.8
"""Share of the motor's losses at rated load that grows with the square of the current."""

TURBULENCE_MM_S = 2.5
"""Vibration at rated speed per unit of flow away from the best point."""

VALVE_SHARE = 0.1
"""Share of the loop's resistance that is the open valve."""

VALVE_TRAVEL = 0.9
"""How far a fault of severity 1 closes the valve."""

LEAK_AREA = 0.25
"""Conductance of a leak of severity 1, as a share of the loop's."""

WEAR_MM_S = 4.5
"""Vibration at rated speed from a bearing worn to severity 1."""

WEAR_K = 22.0
"""Further temperature rise of that bearing."""

WEAR_KW = 0.35
"""Power at rated speed lost in that bearing."""


class Sensor(NamedTuple):
    """A measured quantity as its transmitter reports it.

    Attributes:
        name: Column and JSON key; it ends with the unit.
        unit: For people.
        noise: Standard deviation of the measurement noise, in the unit.
        scatter: Further noise as a share of the value.
        decimals: Digits after the point that the transmitter sends.
    """

    name: str
    unit: str
    noise: float
    scatter: float
    decimals: int


FEATURES = (
    Sensor("speed_rpm", "rpm", noise=2.0, scatter=0.0, decimals=1),
    Sensor("current_a", "A", noise=0.08, scatter=0.0, decimals=2),
    Sensor("flow_m3h", "m3/h", noise=0.3, scatter=0.005, decimals=2),
    Sensor("pressure_bar", "bar", noise=0.03, scatter=0.0, decimals=3),
    Sensor("motor_temp_c", "degC", noise=0.1, scatter=0.0, decimals=2),
    Sensor("bearing_temp_c", "degC", noise=0.1, scatter=0.0, decimals=2),
    Sensor("vibration_mm_s", "mm/s", noise=0.0, scatter=0.04, decimals=3),
)
SENSORS = tuple(sensor.name for sensor in FEATURES)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def machine_name_problem(name: str) -> str | None:
    """Why a machine cannot have this name, which is a topic level, a file and a CSV cell."""
    if _NAME.fullmatch(name):
        return None
    return f"wanted a name of letters, digits and . _ -, got {show(name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(Table):
    """One pump. The defaults are the make's; `Machine.built` gives a specimen.

    Attributes:
        name: Such as ``pump-1``.
        shutoff_bar: Pressure at rated speed against a closed loop.
        inner_bar: Pressure lost inside the pump at rated flow.
        loop_bar: Pressure that the loop takes at rated flow.
        disc_kw: Power at rated speed to turn the impeller in its housing.
        amps_per_kw: Active current per shaft power at rated speed.
        magnetising_a: Current without load.
        motor_rise_k: The motor's final temperature rise at rated load.
        motor_s: Its thermal time constant.
        bearing_rise_k: The bearing's final temperature rise at rated speed.
        bearing_s: Its thermal time constant.
        unbalance_mm_s: Vibration of the healthy pump at rated speed.
    """

    name: Annotated[str, Check(machine_name_problem)]
    shutoff_bar: Annotated[float, above(0)] = 5.2
    inner_bar: Annotated[float, above(0)] = 1.2
    loop_bar: Annotated[float, above(0)] = 4.0
    disc_kw: Annotated[float, above(0)] = 0.8
    amps_per_kw: Annotated[float, above(0)] = 1.6
    magnetising_a: Annotated[float, above(0)] = 6.0
    motor_rise_k: Annotated[float, above(0)] = 48.0
    motor_s: Annotated[float, above(0)] = 900.0
    bearing_rise_k: Annotated[float, above(0)] = 22.0
    bearing_s: Annotated[float, above(0)] = 480.0
    unbalance_mm_s: Annotated[float, above(0)] = 1.4

    @classmethod
    def built(cls, name: str, rng: np.random.Generator) -> "Machine":
        """A specimen: every figure of the make, a few percent off."""
        make = {f.name: f.default for f in dataclasses.fields(cls) if f.name != "name"}
        spread = 1.0 + SPREAD * np.clip(rng.standard_normal(len(make)), -2.0, 2.0)
        figures = zip(make.items(), spread.tolist(), strict=True)
        return cls(name=name, **{key: value * factor for (key, value), factor in figures})


class Condition(NamedTuple):
    """How far each fault has come at each row: 0 healthy, 1 as bad as it gets; all ``[row]``."""

    wear: Float64
    closing: Float64
    leak: Float64


def operate(
    machine: Machine,
    setpoint: Float64,
    ambient_c: Float64,
    condition: Condition,
    period_s: float,
) -> Float64:
    """Runs a pump that was thermally settled at its first setpoint before the first row.

    Args:
        machine: The pump.
        setpoint: Speed asked of the drive as a share of the rated speed, ``[row]``, above 0.
        ambient_c: Temperature around it, ``[row]``.
        condition: Its faults.
        period_s: Time between two rows.

    Returns:
        What perfect sensors would show, ``[row, sensor]``, in the order of `FEATURES`.
    """
    speed = lagged(setpoint, period_s, INERTIA_S)
    flow, pressure = _working_point(machine, speed, condition)
    current = _current(machine, speed, flow, condition.wear)
    heat = COPPER_SHARE * (current / RATED_A) ** 2 + (1.0 - COPPER_SHARE) * speed**2
    motor = lagged(ambient_c + machine.motor_rise_k * heat, period_s, machine.motor_s)
    # What a worn bearing wastes grows with the square of its vibration.
    friction = machine.bearing_rise_k * speed + WEAR_K * condition.wear**2 * speed
    bearing = lagged(ambient_c + friction, period_s, machine.bearing_s)
    vibration = _vibration(machine, speed, flow, condition.wear)
    return np.stack(
        [RATED_RPM * speed, current, RATED_FLOW_M3H * flow, pressure, motor, bearing, vibration],
        axis=1,
    )


def lagged(values: Float64, period_s: float, tau_s: float) -> Float64:
    """Follows ``values`` with a first-order lag, settled at the first of them; ``[row]``."""
    share = -np.expm1(-period_s / tau_s).item()
    follow = accumulate(values.tolist(), lambda now, goal: now + share * (goal - now))
    return np.fromiter(follow, np.float64, len(values))


def _working_point(
    machine: Machine, speed: Float64, condition: Condition
) -> tuple[Float64, Float64]:
    """Where pump curve and loop curve meet: flow as a share of the rated flow, pressure in bar.

    The valve lies in series with the pipes, so resistances add; a leak lies beside the loop, so
    conductances add.
    """
    opening = 1.0 - VALVE_TRAVEL * condition.closing
    resistance = machine.loop_bar * (1.0 - VALVE_SHARE + VALVE_SHARE / opening**2)
    conductance = 1.0 / np.sqrt(resistance) + LEAK_AREA * condition.leak / np.sqrt(machine.loop_bar)
    outside = 1.0 / conductance**2
    flow = speed * np.sqrt(machine.shutoff_bar / (machine.inner_bar + outside))
    return flow, outside * flow**2


def _current(machine: Machine, speed: Float64, flow: Float64, wear: Float64) -> Float64:
    # Pressure behind the pump plus what is lost inside it is what the impeller gives.
    hydraulic_kw = RATED_FLOW_M3H * flow * machine.shutoff_bar * speed**2 / 36.0
    shaft_kw = hydraulic_kw + machine.disc_kw * speed**3 + WEAR_KW * wear**2 * speed
    return np.hypot(machine.magnetising_a, machine.amps_per_kw * shaft_kw / speed)


def _vibration(machine: Machine, speed: Float64, flow: Float64, wear: Float64) -> Float64:
    unbalance = machine.unbalance_mm_s * speed**2
    turbulence = TURBULENCE_MM_S * (flow / speed - 1.0) * speed**2
    return np.sqrt(unbalance**2 + turbulence**2 + (WEAR_MM_S * wear * speed) ** 2)
