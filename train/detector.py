"""The detector: normaliser, layers, head and scoring as one pure function, and its checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_runtime.errors import TrainingError
from train.cells import CELLS
from train.heads import Forecast
from train.layers import Stack, Unroll, over_time
from train.saved import read_saved, write_saved
from train.scoring import Whitening

CHECKPOINT_SCHEMA = 1

# Normalised samples are cut off here. Healthy ones stay within a few units; a sensor that fails to
# its largest float would otherwise overflow to infinity and stay in the state for ever.
BOUND = 1e3


@final
class Detector(nn.Module):
    """``(x, state) -> (score, contribution, state')``; the state is data, the module holds none.

    Args:
        features: Names of the sensors, in the order of the last axis of ``x``.
        cell: A key of `train.cells.CELLS`.
        layers: Number of recurrent layers.
        hidden: Length of a hidden vector.

    Attributes:
        config: The arguments as plain data: ``Detector(**config)`` builds an equal module.
        mean: Of each sensor in engineering units ``[feature]``.
        scale: What counts as one unit of each sensor, its standard deviation ``[feature]``.
        bound: Normalised samples are clamped to plus or minus this, a scalar.
        state_names: Names of the carried tensors, in a fixed order.
    """

    mean: Tensor
    scale: Tensor
    bound: Tensor

    def __init__(
        self, features: tuple[str, ...], cell: str = "lstm", layers: int = 1, hidden: int = 64
    ) -> None:
        super().__init__()
        self.features = tuple(features)
        self.config: dict[str, Any] = {
            "features": list(self.features),
            "cell": cell,
            "layers": layers,
            "hidden": hidden,
        }
        count = len(self.features)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.register_buffer("bound", torch.tensor(BOUND))
        self.stack = Stack(CELLS[cell], count, hidden, layers)
        self.head = Forecast(hidden, count)
        self.scoring = Whitening(count)
        self.state_names = (*self.stack.state_names, *self.head.state_names)

    def normalise_by(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        """Sets the normaliser, in place.

        Args:
            mean: ``[feature]``, engineering units.
            scale: ``[feature]``, engineering units, positive.
        """
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))

    def initial_state(self, streams: int) -> dict[str, Tensor]:
        """The state of streams that have seen nothing, by name, each ``[stream, ...]``."""
        return {**self.stack.initial_state(streams), **self.head.initial_state(streams)}

    def forward(
        self, x: Tensor, state: dict[str, Tensor], unroll: Unroll = over_time
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Scores samples and carries the state.

        Args:
            x: Samples in engineering units ``[time, stream, feature]``.
            state: The tensors of `state_names`, each ``[stream, ...]``.
            unroll: How a cell runs over time; the exporter brings its own.

        Returns:
            The score ``[time, stream]``, the contribution ``[time, stream, feature]``, and the
            state after the last sample.
        """
        error, state = self.errors(x, state, unroll)
        score, contribution = self.scoring(error)
        return score, contribution, state

    def errors(
        self, x: Tensor, state: dict[str, Tensor], unroll: Unroll = over_time
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The forecast errors that are trained on and scored.

        Args:
            x: Samples in engineering units ``[time, stream, feature]``.
            state: The tensors of `state_names`.
            unroll: How a cell runs over time.

        Returns:
            Normalised sample minus forecast ``[time, stream, feature]``, and the state after.
        """
        xn = torch.clamp((x - self.mean) / self.scale, -self.bound, self.bound)
        y, carried = self.stack(xn, state, unroll)  # [time, stream, hidden]
        error, forecast = self.head.error(xn, y, state)
        return error, {**carried, **forecast}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained detector with what must be known about it.

    Attributes:
        detector: In evaluation mode.
        meta: Plain JSON data; see `train.experiment` for its keys.
    """

    detector: Detector
    meta: dict[str, Any]


def save_checkpoint(path: Path, detector: Detector, meta: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: The file.
        detector: Trained and calibrated.
        meta: Plain JSON data.
    """
    content = {
        "detector": detector.config,
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
        detector = Detector(**content["detector"])
        detector.load_state_dict(content["tensors"])
        meta: dict[str, Any] = json.loads(content["meta"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{path}: the checkpoint is not complete: {error}") from error
    return Checkpoint(detector.eval(), meta)
