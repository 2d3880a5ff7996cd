"""The detectors that are compared, and the way from recordings to a model file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.to_onnx import export_checkpoint
from train.config import DataConfig, Files, TrainConfig, override
from train.detectors import load_checkpoint
from train.experiment import Experiment, Folder


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the tables.

    Attributes:
        options: Of ``andon train``; what they do not say has its default.
        seeded: Whether a seed changes anything; if not, one is measured.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = True

    def config(self, data: DataConfig, seed: int) -> TrainConfig:
        """The configuration to train with, the same for all data sets but for ``data``."""
        return override(TrainConfig(data=data), {**self.options, "seed": seed})


DETECTORS: dict[str, Kind] = {
    "hybrid": Kind({"detector": "hybrid"}),
    "multiscale": Kind({"detector": "multiscale"}, seeded=False),
    "mewma": Kind({"detector": "mewma"}, seeded=False),
    "t2": Kind({"detector": "t2"}, seeded=False),
    "ewma": Kind({"detector": "ewma"}, seeded=False),
    "halfspace": Kind({"detector": "halfspace"}, seeded=False),
    "forecast": Kind({"detector": "forecast"}),
}


@dataclass(frozen=True, slots=True)
class Promise:
    """What a training says about false alarms.

    Attributes:
        asked: False alarms a day and machine that were asked for.
        least: The lowest rate that its calibration data can show, a day and machine.
        interval: In which it expects the rate, a day and machine; None if it says nothing.
    """

    asked: float
    least: float
    interval: tuple[float, float] | None

    @property
    def supported(self) -> bool:
        """Whether the data can show the rate that was asked for."""
        return self.least <= self.asked * (1 + 1e-9)

    @classmethod
    def of(cls, calibration: Mapping[str, Any]) -> "Promise":
        """From ``calibration`` of ``run.json``."""
        low, high = calibration["interval"]["per_day"]
        return cls(
            asked=calibration["false_alarms_per_day"],
            least=calibration["supported_false_alarms_per_day"],
            interval=(low, high),
        )


@dataclass(frozen=True, slots=True)
class Trained:
    """A detector that was trained, calibrated and exported.

    Attributes:
        model: The ONNX file.
        promise: What the training said.
    """

    model: Path
    promise: Promise


def train(config: TrainConfig, files: Sequence[Files], folder: Path) -> Trained:
    """Trains, calibrates and exports as ``andon train`` and ``andon export`` do.

    Args:
        config: How.
        files: Normal operation.
        folder: Where run and model go.

    Returns:
        The detector.

    Raises:
        AndonError: If it cannot be trained on these files.
    """
    (trained,) = train_at(config, files, folder, [config.calibration.false_alarms_per_day])
    return trained


def train_at(
    config: TrainConfig, files: Sequence[Files], folder: Path, rates: Sequence[float]
) -> Iterator[Trained]:
    """Trains once and calibrates for each of several rates of false alarms.

    Args:
        config: How.
        files: Normal operation.
        folder: Where runs and models go.
        rates: False alarms a day and machine.

    Yields:
        The detector at each rate, in order.
    """
    experiment = Experiment(config, files, _silent)
    progress = experiment.start()
    first = Folder(folder / "0")
    first.path.mkdir(parents=True)
    if progress is not None:
        for _ in experiment.fit(progress, first):
            pass
        for _ in experiment.cross_fit(progress):
            pass
    for number, rate in enumerate(rates):
        run = Folder(folder / str(number))
        run.path.mkdir(exist_ok=True)
        experiment.config = override(config, {"false_alarms_per_day": rate})
        report = experiment.finish(progress, run)
        model = run.path / "model.onnx"
        export_checkpoint(load_checkpoint(run.checkpoint), model, _silent)
        yield Trained(model, Promise.of(report["calibration"]))


def _silent(_: str) -> None:
    pass
