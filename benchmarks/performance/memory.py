"""Resident memory of the daemon, and what one further stream takes."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.performance.measure import Case, Figures, Measure, Plan, alternate
from benchmarks.performance.models import lstm
from benchmarks.performance.processes import DAEMON, place_for
from benchmarks.throughput import Load, messages_of

STREAMS, MORE = 10_000, 20_000
RESIDENT_BAR_MB, STREAM_BAR_KB = 110.0, 0.8


def measure(plan: Plan) -> Iterator[Figures]:
    """Row 7: at two numbers of streams; the difference is what the further ones take."""
    figures = alternate(
        {str(n): partial(_resident, plan, n, plan.size(2, 1) * n) for n in (STREAMS, MORE)},
        plan.size(3, 1),
        warm=False,
    )
    fewer, more = figures[str(STREAMS)], figures[str(MORE)]
    yield Figures([bytes_ / 1e6 for bytes_ in fewer], [])
    state = _state_bytes()
    each = [(b - a) / (MORE - STREAMS) for a, b in zip(fewer, more, strict=True)]
    yield Figures([(it - state) / 1e3 for it in each], [], f"the state itself is {state} bytes")


def _resident(plan: Plan, streams: int, messages: int) -> float:
    """Bytes, after the last message."""
    program = DAEMON.having(f"max_streams = {MORE}")
    with place_for(program, plan.folder) as place, place.ready() as pid:
        place.feed(messages_of(Load(0, messages, streams)))
        place.await_done()
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        resident = next(line for line in lines if line.startswith("VmRSS"))
        return float(resident.split()[1]) * 1024


def _state_bytes() -> int:
    states = lstm().session.contract.states
    return sum(math.prod(state.row_shape) * np.dtype(state.dtype).itemsize for state in states)


MEASURE = Measure(
    7,
    "resident memory of the daemon",
    "",
    [
        Case(f"{STREAMS:,} streams", RESIDENT_BAR_MB, "MB"),
        Case("each further stream, less its state", STREAM_BAR_KB, "kB"),
    ],
    measure,
)
