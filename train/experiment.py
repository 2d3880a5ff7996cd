"""One experiment from files to a calibrated checkpoint; the command line only talks."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_runtime.errors import TrainingError
from edge_runtime.files import write_text
from edge_runtime.tables import did_you_mean
from train import curves, loop
from train.calibration import (
    LEAST_CALIBRATION_ROWS,
    WARM_ROWS,
    Calibration,
    calibrate,
    evaluation,
    measure_warm_up,
)
from train.config import WITH_NETWORK, FeatureConfig, Files, ModelConfig, TrainConfig
from train.data import History, Notice, Segment, Use, normaliser, read_history
from train.detector import Detector, Target
from train.detectors import AnyDetector, build, save_checkpoint
from train.false_alarms import COVERAGE, SECONDS_PER_DAY
from train.fitting import (
    SKILL,
    bounded_segments,
    fit_adaptation,
    halves,
    usual_likelihood,
)
from train.heads import Estimate
from train.horizons import Horizons
from train.hybrid import Hybrid
from train.windows import Piece, Windows, lay_out, pieces

RUN_SCHEMA = 2
LEAST_ROWS: Mapping[Use, int] = {
    "fit": 200,
    "validation": 30,
    "calibration": LEAST_CALIBRATION_ROWS,
}
# Lanes chosen by themselves: as many as leave this many updates of the weights in a pass.
UPDATES, MOST_LANES = 32, 64
MOST_CLASSES = 256


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
        self.look_ahead = config.model.look_ahead
        _require_known(config, self.history)
        require_enough(self.history, self.look_ahead)
        _require_possible(config.calibration.false_alarms_per_day, self.history.period_ms)
        self.target = find_target(self.history, config.training.cost)
        _require_causal(config.model, self.target)
        self._mean, self._scale = normaliser(self.history, on_notice)
        if self._alone and self.target is None:
            on_notice(
                "one sensor: what a network adds is what the others say, so there is none, and the "
                "samples alone are judged; --detector forecast has one"
            )
        self.detector = self._begun()
        self.stand_ins: dict[str, Horizons] = {}
        self._usual: float | None = None
        self.segments = self.history.segments
        if isinstance(self.detector, Hybrid):
            fit_adaptation(self.detector, self.history)
            self.segments = bounded_segments(self.detector, self.segments)
        self.train = _training_windows(config, self.segments)
        self.validation = evaluation(self.segments, "validation", WARM_ROWS, self.look_ahead)

    @property
    def learns(self) -> bool:
        """Whether there is a network to train."""
        return self.target is not None or (
            self.config.model.kind in WITH_NETWORK and not self._alone
        )

    @property
    def _alone(self) -> bool:
        """Whether a hybrid has one sensor; its network would tell it from itself only."""
        return self.config.model.kind == "hybrid" and len(self.history.features) == 1

    @property
    def kept_whatever(self) -> bool:
        """Whether the network is used however little it foretells."""
        return isinstance(self.detector, Detector)

    def _begun(self, *, network: bool = True) -> AnyDetector:
        """A detector with its initial weights and its normaliser."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.training.seed)
            model = self.config.model
            network = network and self.learns
            detector = build(self.history.features, model, self.target, network=network)
        detector.normalise_by(self._mean, self._scale)
        if isinstance(detector, Detector) and isinstance(detector.head, Estimate):
            detector.head.normalise_by(target_values(self.history, "fit"))
        return detector

    def start(self) -> loop.Progress[Any] | None:
        """A network with its initial weights, before the first pass; None if there is none."""
        if isinstance(self.detector, Detector):
            return loop.start(self.detector, self.config.training.learning_rate)
        if isinstance(self.detector, Hybrid) and self.detector.network is not None:
            return loop.start(self.detector.network, self.config.training.learning_rate)
        return None

    def fit(self, progress: loop.Progress[Any], folder: Folder) -> Iterator[loop.Epoch]:
        """Trains on, and saves the progress after every pass."""
        for epoch in loop.fit(progress, self.train, self.validation, self.config.training):
            loop.save_progress(folder.progress, progress, self.settings())
            yield epoch

    def cross_fit(self, progress: loop.Progress[Any]) -> Iterator[loop.Epoch]:
        """Trains stand-ins: for each half of the streams, a network that has seen the other half.

        They take as many passes as the network itself needed. What they make of the streams that
        they have not seen is what a machine that nobody has seen would show.
        """
        training = self.config.training
        best = progress.best_epoch.number
        training = replace(training, epochs=best, patience=best)
        for held in halves(self.segments) if self.stands_in(progress) else []:
            others = [segment for segment in self.segments if segment.stream not in held]
            hybrid = self._begun()
            assert isinstance(hybrid, Hybrid)  # noqa: S101 - as `stands_in` has said
            assert hybrid.network is not None  # noqa: S101
            validation = evaluation(others, "validation", WARM_ROWS)
            own = loop.start(hybrid.network, training.learning_rate)
            yield from loop.fit(own, _training_windows(self.config, others), validation, training)
            self.stand_ins |= dict.fromkeys(held, hybrid.network.eval())

    def stands_in(self, progress: loop.Progress[Any]) -> int:
        """How many passes `cross_fit` takes."""
        if not isinstance(self.detector, Hybrid) or self._skill(progress) < SKILL:
            return 0
        return progress.best_epoch.number * len(halves(self.segments))

    def _skill(self, progress: loop.Progress[Any]) -> float:
        """By how many nats the network is better than what it has to beat."""
        return min(self.baselines().values()) - progress.best_epoch.validation_loss

    def settings(self) -> dict[str, Any]:
        """What must not change when training goes on; when to stop may."""
        training = asdict(self.config.training)
        del training["epochs"], training["patience"]
        return {
            **_said(self.config.model, self.target),
            **training,
            "features": list(self.history.features),
            "data": self.history.digest,
            "rows": self.history.rows("fit"),
            "max_gap_ms": self.history.max_gap_ms,
        }

    def finish(self, progress: loop.Progress[Any] | None, folder: Folder) -> dict[str, Any]:
        """Calibrates the best weights and writes the run's files.

        Args:
            progress: After the last pass; None if there was no network to train.
            folder: Of the run.

        Returns:
            What ``run.json`` says.
        """
        detector, baselines = self.detector.eval(), {}
        if progress is not None:
            progress.take_best()
            baselines = self.baselines()
            detector = self._earned(progress)
        warm_up_steps, calibration = self._calibrate(detector)
        meta = {
            "features": self._features(),
            "sample_period_ms": self.history.period_ms,
            "max_gap_ms": self.history.max_gap_ms,
            "warm_up_steps": warm_up_steps,
            "calibration": calibration,
            "training": self._provenance(detector, progress, baselines),
        }
        save_checkpoint(folder.checkpoint, detector, meta)
        report = {"schema": RUN_SCHEMA, **meta}
        write_text(folder.report, json.dumps(report, indent=2) + "\n")
        if progress is not None:
            curves.write_table(folder.path / "curves.csv", progress.history)
            picture = folder.path / "curves.png"
            curves.write_picture(picture, progress.history, baselines, self.config.training)
        return report

    def _earned(self, progress: loop.Progress[Any]) -> AnyDetector:
        """The detector with its network, or without where that foretells too little."""
        if not isinstance(self.detector, Hybrid):
            return self.detector.eval()
        skill = self._skill(progress)
        if skill >= SKILL:
            return self.detector.eval()
        self.on_notice(
            f"the network foretells the sensors by {skill:.2f} nats better than their own "
            f"distribution does, wanted at least {SKILL:g}: it is left out, and the samples alone "
            "are judged"
        )
        without = self._begun(network=False)
        assert isinstance(without, Hybrid)  # noqa: S101 - of the same kind
        without.adaptation.load_state_dict(self.detector.adaptation.state_dict())
        return without.eval()

    def _calibrate(self, detector: AnyDetector) -> tuple[int, dict[str, Any] | None]:
        """Warm-up and alarm level; what reads a target off has no alarm level."""
        if isinstance(detector, Detector) and self.target is not None:
            return measure_warm_up(detector, self.history.segments, self.on_notice), None
        per_day = self.config.calibration.false_alarms_per_day
        found = calibrate(detector, self.history, per_day, self.on_notice, self.stand_ins)
        return found.warm_up_steps, _calibration(found, self.history.digest, per_day)

    def baselines(self) -> dict[str, float]:
        """Validation loss of predictions that need no network, over the very same samples."""
        detector = self.detector
        parts = pieces(self.segments, "validation", 1, WARM_ROWS, self.look_ahead)
        if not isinstance(detector, Detector):
            if self._usual is None:
                self._usual = usual_likelihood(self.segments, parts)
            return {"own distribution": self._usual}
        if self.target is not None:
            return _target_baselines(detector, self.history, parts)
        mean, scale = detector.mean.double().numpy(), detector.scale.double().numpy()
        xn = [((part.values - mean) / scale, part.first) for part in parts]
        ends = [len(values) - self.look_ahead for values, _ in xn]
        persistence = [
            np.diff(v[first - 1 : end], axis=0) for (v, first), end in zip(xn, ends, strict=True)
        ]
        due = [v[first:end] for (v, first), end in zip(xn, ends, strict=True)]
        return {
            "last value": float(np.mean(np.concatenate(persistence) ** 2)),
            "mean value": float(np.mean(np.concatenate(due) ** 2)),
        }

    def _features(self) -> dict[str, Any]:
        known = {feature.name: feature for feature in self.config.feature}
        described = (known.get(n, FeatureConfig(name=n)) for n in self.history.features)
        return {f.name: {"unit": f.unit, "range": [f.low, f.high]} for f in described}

    def _provenance(
        self,
        detector: AnyDetector,
        progress: loop.Progress[Any] | None,
        baselines: Mapping[str, float],
    ) -> dict[str, Any]:
        said = _said(self.config.model, self.target)
        if isinstance(detector, Hybrid):
            said["network"] = detector.network is not None
        common = {
            "andon": version("andon"),
            "torch": str(torch.__version__),
            "python": sys.version.split()[0],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **said,
            "files": list(self.history.files),
            "rows": {use: self.history.rows(use) for use in LEAST_ROWS},
        }
        if progress is None:
            return common
        best = progress.best_epoch
        return common | {
            **asdict(self.config.training),
            "lanes": self.train.lanes,
            "epochs": len(progress.history),
            "best_epoch": best.number,
            "validation_loss": best.validation_loss,
            "baselines": dict(baselines),
        }


def find_target(history: History, cost: str) -> Target | None:
    """What is to be read off the sensors, with its classes where the cost wants some.

    Raises:
        TrainingError: For a target with one value, or with too many to be classes.
    """
    if history.target is None:
        return None
    found = np.unique(target_values(history, "fit"))
    if len(found) < 2:  # noqa: PLR2004 - one from another
        raise TrainingError(f"target {history.target!r} is always {found[0]:g}: nothing to learn")
    if cost == "squared_error":
        return Target(history.target)
    every = np.unique(np.concatenate([target_values(history, use) for use in LEAST_ROWS]))
    if len(every) > MOST_CLASSES:
        raise TrainingError(
            f"target {history.target!r} has {len(every):,} values, cross_entropy tells at most "
            f"{MOST_CLASSES} apart; squared_error takes any number"
        )
    (merged,) = np.nonzero(np.diff(every.astype(np.float32)) == 0)
    if len(merged):
        one, other = every[merged[0] : merged[0] + 2]
        raise TrainingError(
            f"target {history.target!r}: float32 cannot tell {one:.12g} and {other:.12g} "
            "apart; give the classes smaller numbers"
        )
    unseen = [f"{value:g}" for value in every if value not in found]
    if unseen:
        raise TrainingError(
            f"target {history.target!r}: the rows that the weights see never have the value "
            f"{', '.join(unseen)}, later ones do; record more, so that the first 70 % has them all"
        )
    return Target(history.target, tuple(found.tolist()))


def target_values(history: History, use: Use) -> NDArray[np.float64]:
    """The target at all rows for a use, ``[row]``."""
    return np.concatenate(
        [s.target[slice(*s.rows(use))] for s in history.segments if s.target is not None]
    )


def _target_baselines(
    detector: Detector, history: History, parts: Sequence[Piece]
) -> dict[str, float]:
    ahead = detector.look_ahead
    found = [p.target[p.first : len(p.values) - ahead] for p in parts if p.target is not None]
    right = np.concatenate(found)  # [sample]
    known = target_values(history, "fit")
    if isinstance(detector.head, Estimate):
        deviation = float(detector.head.scale)
        return {"mean value": float(np.mean((right - known.mean()) ** 2) / deviation**2)}
    values, times = np.unique(known, return_counts=True)
    share = times / times.sum()  # [class]
    return {"frequencies": float(-np.mean(np.log(share[np.searchsorted(values, right)])))}


def _said(model: ModelConfig, target: Target | None) -> dict[str, Any]:
    """The model's settings that are not left to themselves, for people."""
    named = {"detector": model.kind} if target is None else {"target": target.name}
    if target is None and model.kind not in WITH_NETWORK:
        return named
    ahead = {"hidden": model.hidden, "look_ahead": model.look_ahead}
    return {**named, "layers": list(model.cells), **ahead, **model.options}


def _require_causal(model: ModelConfig, target: Target | None) -> None:
    if target is None and model.look_ahead and model.kind != "forecast":
        raise TrainingError(
            f"--detector {model.kind} looks at no sample that is to come; --detector forecast does"
        )
    if target is not None and model.detector not in (None, "forecast"):
        raise TrainingError(
            f"--detector {model.detector} reads no target off the sensors: leave one of the two out"
        )


def require_enough(history: History, look_ahead: int = 0) -> None:
    """Refuses a history that is too short, before any time is spent on it.

    Raises:
        TrainingError: With what there is and what is wanted for each use.
    """
    longest = max((len(segment.values) for segment in history.segments), default=0)
    if look_ahead and longest < 2 * look_ahead + WARM_ROWS:
        raise TrainingError(
            f"too little data: to look {look_ahead} samples ahead, wanted a segment without gaps of"
            f" at least {2 * look_ahead + WARM_ROWS} samples; the longest has {longest}"
        )
    warm: dict[Use, int] = {"fit": 1, "validation": WARM_ROWS, "calibration": WARM_ROWS}
    counted = {
        use: _count(pieces(history.segments, use, 1, warm[use], look_ahead), look_ahead)
        for use in LEAST_ROWS
    }
    if any(counted[use] < least for use, least in LEAST_ROWS.items()):
        rows = sum(len(segment.values) for segment in history.segments)
        wanted = ", ".join(f"{n} samples for {use}" for use, n in LEAST_ROWS.items())
        got = ", ".join(f"{n} for {use}" for use, n in counted.items())
        raise TrainingError(
            f"too little data: wanted at least {wanted}; got {got}, from {rows:,} rows in "
            f"{len(history.segments):,} segments. After a gap, {WARM_ROWS} samples warm up before "
            f"validation and calibration count{_ahead_too(look_ahead)}"
        )


def _ahead_too(look_ahead: int) -> str:
    return f"; the last {look_ahead} samples are only looked ahead at" if look_ahead else ""


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


def _training_windows(config: TrainConfig, segments: Sequence[Segment]) -> Windows:
    window = config.training.window
    rows = sum(segment.fit_rows for segment in segments)
    chosen = min(max(rows // (window * UPDATES), 1), MOST_LANES)
    lanes = config.training.lanes or chosen
    ahead = config.model.look_ahead
    return lay_out(pieces(segments, "fit", lanes, 1, ahead), window, lanes, ahead)


def _count(parts: Sequence[Piece], look_ahead: int) -> int:
    return sum(len(part.values) - part.first - look_ahead for part in parts)


def _calibration(found: Calibration, digest: str, per_day: float) -> dict[str, Any]:
    median, high, largest = np.quantile(found.levels, [0.5, 0.99, 1.0]).tolist()
    level = found.level
    return {
        "data_digest": digest,
        "rows": len(found.levels),
        "false_alarms_per_day": per_day,
        "supported_false_alarms_per_day": level.supported_per_day,
        "expected_false_alarms_per_day": level.per_day,
        "interval": {"probability": COVERAGE, "per_day": list(level.interval)},
        "method": level.method,
        "episodes": level.episodes,
        "machine_days": level.days,
        "limit": level.distance,
        "level": {"median": median, "q99": high, "largest": largest},
        "shrinkage": found.shrinkage,
    }
