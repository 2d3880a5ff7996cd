"""Small real models for tests: exported by the real exporter, calibrated by hand, not trained."""

import atexit
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from export.to_onnx import export_checkpoint
from train.detector import Checkpoint, Detector

FEATURES = ("current", "pressure", "vibration")
PERIOD_MS = 1000.0
MAX_GAP_MS = 5000.0
WARM_UP_STEPS = 4

_temporary = TemporaryDirectory(prefix="andon-models-")
atexit.register(_temporary.cleanup)
_folder = Path(_temporary.name)


def sample_detector(
    cell: str = "lstm", layers: int = 1, features: tuple[str, ...] = FEATURES, seed: int = 0
) -> Detector:
    """A detector with random weights: every score depends on all that came before."""
    generator = torch.Generator().manual_seed(seed)
    detector = Detector(features, cell=cell, layers=layers, hidden=8)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        detector.mean.fill_(2.0)
        detector.scale.fill_(3.0)
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
    cell: str = "lstm", layers: int = 1, features: tuple[str, ...] = FEATURES, seed: int = 0
) -> Path:
    """The exported file of `sample_detector`; made once a test run. Do not change it in place."""
    return _exported(cell, layers, features, seed)


@cache
def _exported(cell: str, layers: int, features: tuple[str, ...], seed: int) -> Path:
    path = _folder / f"{cell}-{layers}-{len(features)}-{seed}.onnx"
    checkpoint = Checkpoint(sample_detector(cell, layers, features, seed), sample_meta())
    export_checkpoint(checkpoint, path, lambda _: None)
    return path
