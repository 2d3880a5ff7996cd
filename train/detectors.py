"""Every kind of detector, built by its name; and the checkpoint that keeps one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError, TrainingError
from train.charts import Chart
from train.config import ModelConfig
from train.detector import Detector, Target
from train.hybrid import Hybrid
from train.saved import read_saved, write_saved
from train.trees import Trees

CHECKPOINT_SCHEMA = 4

AnyDetector = Detector | Hybrid | Chart | Trees


def build(
    features: Sequence[str], model: ModelConfig, target: Target | None = None, *, network: bool
) -> AnyDetector:
    """A detector with nothing learnt in it.

    Args:
        features: Names of the sensors.
        model: Which kind, and its cells.
        target: What is read off the sensors; then the kind is a forecaster's.
        network: Whether a hybrid has one.
    """
    if target is not None or model.kind == "forecast":
        return Detector(features, model, target)
    return _other(features, model, network=network)


def _other(features: Sequence[str], model: ModelConfig, *, network: bool) -> AnyDetector:
    if model.kind in ("hybrid", "multiscale"):
        return Hybrid(features, model, network=network and model.kind == "hybrid")
    return Trees(features, model) if model.kind == "halfspace" else Chart(features, model)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained detector with what must be known about it.

    Attributes:
        detector: In evaluation mode.
        meta: Plain JSON data; see `train.experiment` for its keys.
    """

    detector: AnyDetector
    meta: dict[str, Any]


def save_checkpoint(path: Path, detector: AnyDetector, meta: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: The file.
        detector: Trained and calibrated.
        meta: Plain JSON data.
    """
    content = {
        "features": list(detector.features),
        "model": asdict(detector.model),
        "forecaster": isinstance(detector, Detector),
        "network": isinstance(detector, Hybrid) and detector.network is not None,
        "target": None if detector.target is None else tuple(detector.target),
        "tensors": detector.state_dict(),
        "meta": json.dumps(meta),  # says at once what is not plain data
    }
    write_saved(path, "checkpoint", CHECKPOINT_SCHEMA, content)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint; no code in it is run.

    Args:
        path: The file, or the folder of a run with a ``checkpoint.pt`` in it.

    Returns:
        The detector with its meta data.

    Raises:
        TrainingError: If it is missing, damaged, something else or of another version.
    """
    if path.is_dir():
        path = path / "checkpoint.pt"
        if not path.exists() and (path.parent / "last.pt").exists():
            raise TrainingError(
                f"{path.parent}: this training is not finished; `andon train ... -o {path.parent} "
                "--resume` goes on with it"
            )
    content = read_saved(path, "checkpoint", CHECKPOINT_SCHEMA)
    try:
        target = None if content["target"] is None else Target(*content["target"])
        model = ModelConfig(**content["model"])
        detector = (
            Detector(content["features"], model, target)
            if content["forecaster"]
            else _other(content["features"], model, network=content["network"])
        )
        detector.load_state_dict(content["tensors"])
        meta: dict[str, Any] = json.loads(content["meta"])
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        raise TrainingError(f"{path}: the checkpoint is not complete: {error}") from error
    return Checkpoint(detector.eval(), meta)
