"""The default detector beside the one recurrent operator that is in it."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.performance.measure import Case, Figures, Measure, Plan, alternate, cpu_us
from benchmarks.performance.models import Alone, Module, fitted_hybrid, kernel, pump
from edge_runtime.session import Float32
from train.config import ModelConfig

STEPS = 1000
MACHINES = 4


class Shape(NamedTuple):
    """How many machines' history, how many streams, how many steps a call, and the bar."""

    machines: int
    streams: int
    steps: int
    bar: float | None

    @property
    def name(self) -> str:
        """For people."""
        steps = "one step" if self.steps == 1 else f"{self.steps:,} steps"
        calls = f"{self.streams} stream{'s' * (self.streams > 1)}, {steps} a call"
        return calls if self.machines > 1 else f"fitted to one machine: {calls}"


SHAPES = (
    Shape(MACHINES, 1, STEPS, 2.5),
    Shape(MACHINES, 64, STEPS, 2.0),
    Shape(MACHINES, 64, 1, 2.0),
    Shape(1, 1, STEPS, None),
    Shape(1, 64, STEPS, None),
    Shape(1, 64, 1, None),
)
MODULES: dict[str, type[torch.nn.LSTM | torch.nn.GRU]] = {
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
}


def measure(plan: Plan) -> Iterator[Figures]:
    """Row 12: both get the samples of simulated pumps, the operator in units of their spread."""
    sessions = {
        machines: fitted_hybrid(plan.folder / f"hybrid-{machines}", machines)
        for machines in (MACHINES, 1)
    }
    model, features = ModelConfig(), sessions[1].contract.features
    (cell,) = model.cells
    module: Module = MODULES[cell](len(features), model.hidden)
    operator = kernel(module)
    what = f"{cell.upper()}-{model.hidden}, {len(features)} sensors"
    for shape in SHAPES:
        detector = Alone.of(sessions[shape.machines])
        values = [pump(f"pump-{at + 1}", STEPS).values for at in range(shape.streams)]
        x = np.stack(values, axis=1)
        scaled = (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
        calls = STEPS // shape.steps
        times = plan.size(30, 5) if shape.streams == 1 else plan.size(2, 1)
        figures = alternate(
            {
                "ours": partial(_turn, detector, np.split(x.astype(np.float32), calls), times),
                "beside": partial(
                    _turn, operator, np.split(scaled.astype(np.float32), calls), times
                ),
            },
            plan.rounds,
        )
        yield Figures(figures["ours"], figures["beside"], what)


def _turn(alone: Alone, calls: list[Float32], times: int) -> float:
    def work() -> None:
        for _ in range(times):
            state = alone.initial_state(calls[0].shape[1])
            for x in calls:
                _, state = alone.run(x, state)

    return cpu_us(work, times * len(calls) * calls[0][..., 0].size)


MEASURE = Measure(
    12,
    "the default detector as exported, in onnxruntime: CPU a row",
    "an ONNX graph with the one recurrent operator that is in it",
    [Case(shape.name, shape.bar) for shape in SHAPES],
    measure,
)
