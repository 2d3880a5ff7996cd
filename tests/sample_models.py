"""Small real models for tests: exported by the real exporter, calibrated by hand, not trained."""

import atexit
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from export.to_onnx import export_checkpoint
from train.config import ModelConfig
from train.detector import Detector
from train.detectors import AnyDetector, Checkpoint, build

FEATURES = ("current", "pressure", "vibration")
PERIOD_MS = 1000.0
MAX_GAP_MS = 5000.0
WARM_UP_STEPS = 4

_temporary = TemporaryDirectory(prefix="andon-models-")
atexit.register(_temporary.cleanup)
_folder = Path(_temporary.name)


def keep_in(folder: Path) -> None:
    """Has the files made in a folder that other processes of the same test run look into too."""
    global _folder
    folder.mkdir(exist_ok=True)
    _folder = folder


def sample_detector(
    cell: str | None = "lstm",
    layers: int | tuple[str, ...] = 1,
    features: tuple[str, ...] = FEATURES,
    seed: int = 0,
    **model: Any,
) -> Detector:
    """A detector with random weights: every score depends on all that came before."""
    generator = torch.Generator().manual_seed(seed)
    # Jordan's loop goes through two matrices; with larger ones it is chaotic, and every rounding
    # grows until it is all that a score tells.
    scale = 0.3 if "jordan" in (cell, *(layers if isinstance(layers, tuple) else ())) else 0.5
    detector = Detector(features, ModelConfig(cell=cell, layers=layers, hidden=8, **model))
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        detector.mean.fill_(2.0)
        detector.scale.fill_(3.0)
    return detector.eval()


def plausible_detector(kind: str, features: Sequence[str], hidden: int = 8) -> AnyDetector:
    """A detector of any kind, with random figures wherever calibration puts some."""
    generator = torch.Generator().manual_seed(len(features))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(features))
        detector = build(features, ModelConfig(detector=kind, hidden=hidden), network=True)
    ranges = {
        "location": (1, 100), "spread": (1, 100), "variance": (0.5, 1.5), "centre": (1, 2),
        "deviation": (0.3, 0.5), "mean": (-1, 1), "scale": (0.5, 5), "matrix": (-0.3, 0.3),
    }  # fmt: skip
    figures = detector.state_dict()
    for name, buffer in figures.items():
        leaf = name.rpartition(".")[2]
        if leaf in ranges:
            low, high = ranges[leaf]
            drawn = low + (high - low) * torch.rand(buffer.shape, generator=generator)
            buffer.copy_(buffer + drawn if leaf == "matrix" else drawn)
        elif leaf == "limit":
            buffer.fill_(0.6 if kind == "halfspace" else 2.0)
    detector.load_state_dict(figures)
    return detector.eval()


def sample_meta(**changes: Any) -> dict[str, Any]:
    """What a checkpoint says beside the tensors."""
    return {
        "sample_period_ms": PERIOD_MS,
        "max_gap_ms": MAX_GAP_MS,
        "warm_up_steps": WARM_UP_STEPS,
        "calibration": {
            "data_digest": "0" * 64,
            "rows": 1000,
            "false_alarms_per_day": 1.0,
            "supported_false_alarms_per_day": 86.4,
        },
        "training": {"seed": 0},
        **changes,
    }


def sample_model(
    cell: str | None = "lstm",
    layers: int | tuple[str, ...] = 1,
    features: tuple[str, ...] = FEATURES,
    seed: int = 0,
    **model: Any,
) -> Path:
    """The exported file of `sample_detector`; made once a test run. Do not change it in place.

    With a ``detector`` that of `plausible_detector`.
    """
    return _exported(cell, layers, features, seed, tuple(sorted(model.items())))


@cache
def _exported(
    cell: str | None,
    layers: int | tuple[str, ...],
    features: tuple[str, ...],
    seed: int,
    model: tuple[tuple[str, Any], ...],
) -> Path:
    which = repr((cell, layers, features, seed, model))
    path = _folder / f"{hashlib.sha256(which.encode()).hexdigest()[:16]}.onnx"
    if path.exists():
        return path
    kind = dict(model).get("detector")
    detector = (
        plausible_detector(kind, features)
        if kind
        else sample_detector(cell, layers, features, seed, **dict(model))
    )
    checkpoint = Checkpoint(detector, sample_meta())
    export_checkpoint(checkpoint, path, lambda _: None)
    return path
