"""One experiment from files to a calibrated checkpoint; the command line only talks."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_runtime.errors import TrainingError
from edge_runtime.files import write_text
from edge_runtime.tables import did_you_mean
from train import curves, loop
from train.calibration import (
    LEAST_CALIBRATION_ROWS,
    SECONDS_PER_DAY,
    WARM_ROWS,
    Calibration,
    calibrate,
    evaluation,
)
from train.config import FeatureConfig, Files, TrainConfig
from train.data import History, Notice, Use, normaliser, read_history
from train.detector import Detector, save_checkpoint
from train.windows import Piece, Windows, lay_out, pieces

RUN_SCHEMA = 1
LEAST_ROWS: Mapping[Use, int] = {
    "fit": 200,
    "validation": 30,
    "calibration": LEAST_CALIBRATION_ROWS,
}
# Lanes chosen by themselves: as many as leave this many updates of the weights in a pass.
UPDATES, MOST_LANES = 32, 64


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of a run."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The trained and calibrated detector."""
        return self.path / "checkpoint.pt"

    @property
    def progress(self) -> Path:
        """What is needed to go on."""
        return self.path / "last.pt"

    @property
    def report(self) -> Path:
        """What the checkpoint's meta data says, as JSON."""
        return self.path / "run.json"

    def require_free(self, *, resume: bool, force: bool) -> None:
        """Makes sure that nothing is overwritten unasked.

        Raises:
            TrainingError: If there is a run already, or none that could be gone on with.
        """
        if resume and self.checkpoint.exists() and not self.progress.exists():
            raise TrainingError(f"{self.progress} is gone: --force begins anew")
        existing = [path for path in (self.checkpoint, self.progress) if path.exists()]
        if existing and not resume and not force:
            raise TrainingError(
                f"{existing[0]} exists: --resume goes on with it, --force begins anew, "
                "or choose another folder with -o"
            )

    def clear(self) -> None:
        """Removes what an earlier run left, so that no file of it passes for one of this."""
        for path in (self.checkpoint, self.progress, self.report):
            path.unlink(missing_ok=True)


class Experiment:
    """A history, the network that learns it, and how.

    Args:
        config: How.
        files: The history's files.
        on_notice: Called with one sentence for each thing worth knowing.

    Raises:
        AndonError: If the files cannot be read or hold too little.
    """

    def __init__(self, config: TrainConfig, files: Sequence[Files], on_notice: Notice) -> None:
        self.config = config
        self.on_notice = on_notice
        self.history = read_history(config.data, files, on_notice)
        _require_known(config, self.history)
        require_enough(self.history)
        _require_possible(config.calibration.false_alarms_per_day, self.history.period_ms)
        self.train = _training_windows(config, self.history)
        self.validation = evaluation(self.history.segments, "validation", WARM_ROWS)

    def start(self) -> loop.Progress:
        """A network with its initial weights, before the first pass."""
        model, training = self.config.model, self.config.training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            detector = Detector(self.history.features, model.cell, model.layers, model.hidden)
        detector.normalise_by(*normaliser(self.history, self.on_notice))
        return loop.start(detector, training.learning_rate)

    def fit(self, progress: loop.Progress, folder: Folder) -> Iterator[loop.Epoch]:
        """Trains on, and saves the progress after every pass."""
        for epoch in loop.fit(progress, self.train, self.validation, self.config.training):
            loop.save_progress(folder.progress, progress, self.settings())
            yield epoch

    def settings(self) -> dict[str, Any]:
        """What must not change when training goes on; when to stop may."""
        training = asdict(self.config.training)
        del training["epochs"], training["patience"]
        return {
            **asdict(self.config.model),
            **training,
            "features": list(self.history.features),
            "data": self.history.digest,
            "rows": self.history.rows("fit"),
            "max_gap_ms": self.history.max_gap_ms,
        }

    def finish(self, progress: loop.Progress, folder: Folder) -> dict[str, Any]:
        """Calibrates the best weights and writes the run's files.

        Returns:
            What ``run.json`` says.
        """
        detector = progress.take_best()
        per_day = self.config.calibration.false_alarms_per_day
        found = calibrate(detector, self.history, per_day, self.on_notice)
        baselines = self.baselines(detector)
        meta = {
            "features": self._features(),
            "sample_period_ms": self.history.period_ms,
            "max_gap_ms": self.history.max_gap_ms,
            "warm_up_steps": found.warm_up_steps,
            "calibration": _calibration(found, self.history.digest, per_day),
            "training": self._provenance(progress, baselines),
        }
        save_checkpoint(folder.checkpoint, detector, meta)
        report = {"schema": RUN_SCHEMA, **meta}
        write_text(folder.report, json.dumps(report, indent=2) + "\n")
        curves.write_table(folder.path / "curves.csv", progress.history)
        curves.write_picture(folder.path / "curves.png", progress.history, baselines)
        return report

    def baselines(self, detector: Detector) -> dict[str, float]:
        """Validation loss of forecasts that need no network, over the very same samples."""
        parts = pieces(self.history.segments, "validation", 1, WARM_ROWS)
        mean, scale = detector.mean.double().numpy(), detector.scale.double().numpy()
        xn = [((part.values - mean) / scale, part.first) for part in parts]
        persistence = [np.diff(values[first - 1 :], axis=0) for values, first in xn]
        return {
            "last value": float(np.mean(np.concatenate(persistence) ** 2)),
            "mean value": float(np.mean(np.concatenate([v[first:] for v, first in xn]) ** 2)),
        }

    def _features(self) -> dict[str, Any]:
        known = {feature.name: feature for feature in self.config.feature}
        described = (known.get(n, FeatureConfig(name=n)) for n in self.history.features)
        return {f.name: {"unit": f.unit, "range": [f.low, f.high]} for f in described}

    def _provenance(self, progress: loop.Progress, baselines: dict[str, float]) -> dict[str, Any]:
        training = asdict(self.config.training)
        best = progress.best_epoch
        return {
            "andon": version("andon"),
            "torch": str(torch.__version__),
            "python": sys.version.split()[0],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **asdict(self.config.model),
            **training,
            "lanes": self.train.lanes,
            "epochs": len(progress.history),
            "best_epoch": best.number,
            "validation_loss": best.validation_loss,
            "baselines": baselines,
            "files": list(self.history.files),
            "rows": {use: self.history.rows(use) for use in LEAST_ROWS},
        }


def require_enough(history: History) -> None:
    """Refuses a history that is too short, before any time is spent on it.

    Raises:
        TrainingError: With what there is and what is wanted for each use.
    """
    warm: dict[Use, int] = {"fit": 1, "validation": WARM_ROWS, "calibration": WARM_ROWS}
    counted = {use: _count(pieces(history.segments, use, 1, warm[use])) for use in LEAST_ROWS}
    if any(counted[use] < least for use, least in LEAST_ROWS.items()):
        rows = sum(len(segment.values) for segment in history.segments)
        wanted = ", ".join(f"{n} samples for {use}" for use, n in LEAST_ROWS.items())
        got = ", ".join(f"{n} for {use}" for use, n in counted.items())
        raise TrainingError(
            f"too little data: wanted at least {wanted}; got {got}, from {rows:,} rows in "
            f"{len(history.segments):,} segments. After a gap, {WARM_ROWS} samples warm up before "
            "validation and calibration count"
        )


def _require_possible(per_day: float, period_ms: float) -> None:
    samples = SECONDS_PER_DAY * 1000 / period_ms
    if per_day >= samples:
        raise TrainingError(
            f"--false-alarms-per-day wants fewer than the {samples:,.0f} samples of a day, "
            f"got {per_day:g}"
        )


def _require_known(config: TrainConfig, history: History) -> None:
    for feature in config.feature:
        if feature.name not in history.features:
            hint = did_you_mean(feature.name, history.features)
            raise TrainingError(f"[[feature]] {feature.name!r} is no sensor of the data: {hint}")


def _training_windows(config: TrainConfig, history: History) -> Windows:
    window = config.training.window
    chosen = min(max(history.rows("fit") // (window * UPDATES), 1), MOST_LANES)
    lanes = config.training.lanes or chosen
    return lay_out(pieces(history.segments, "fit", lanes, 1), window, lanes)


def _count(parts: Sequence[Piece]) -> int:
    return sum(len(part.values) - part.first for part in parts)


def _calibration(found: Calibration, digest: str, per_day: float) -> dict[str, Any]:
    median, high, largest = np.quantile(found.distances, [0.5, 0.99, 1.0]).tolist()
    return {
        "data_digest": digest,
        "rows": len(found.distances),
        "false_alarms_per_day": per_day,
        "supported_false_alarms_per_day": found.limit.supported_per_day,
        "quantile": found.limit.quantile,
        "rows_above": found.limit.above,
        "limit": found.limit.distance,
        "distance": {"median": median, "q99": high, "largest": largest},
        "shrinkage": found.whitening.shrinkage,
    }
