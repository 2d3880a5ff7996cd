"""The detector: normaliser, layers, head and scoring as one pure function, and its checkpoint."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_runtime.errors import ConfigError, TrainingError
from train.cell import Cell
from train.config import ModelConfig
from train.heads import Classify, Estimate, Forecast
from train.layers import BothWays, Causal, Reading, Stack, State, Unroll, over_time
from train.saved import read_saved, write_saved
from train.scoring import Whitening

CHECKPOINT_SCHEMA = 2

# Normalised samples are cut off here. Healthy ones stay within a few units; a sensor that fails to
# its largest float would otherwise overflow to infinity and stay in the state for ever.
BOUND = 1e3


class Target(NamedTuple):
    """A column that is to be read off the sensors.

    Attributes:
        name: The column.
        classes: The values that it can have, ascending; None: any number.
    """

    name: str
    classes: tuple[float, ...] | None = None


@final
class Detector(nn.Module):
    """``(x, state) -> (score, contribution, state')``; the state is data, the module holds none.

    Without a target the score is how far a sample is from its forecast. With one it is what the
    samples say about the target.

    Args:
        features: Names of the sensors, in the order of the last axis of ``x``.
        model: Cells, width and look-ahead.
        target: What is read off the sensors; None: their own next values are foretold.

    Attributes:
        mean: Of each sensor in engineering units ``[feature]``.
        scale: What counts as one unit of each sensor, its standard deviation ``[feature]``.
        bound: Normalised samples are clamped to plus or minus this, a scalar.
        layers: From normalised samples to hidden vectors.
        head: From hidden vectors to a prediction.
        scoring: From forecast error to score; unused with a target.
        state_names: Names of the carried tensors, in a fixed order.
    """

    mean: Tensor
    scale: Tensor
    bound: Tensor

    def __init__(
        self, features: Sequence[str], model: ModelConfig, target: Target | None = None
    ) -> None:
        super().__init__()
        self.features = tuple(features)
        self.model = model
        self.target = target
        count = len(self.features)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.register_buffer("bound", torch.tensor(BOUND))
        self.layers = _layers(model, count)
        self.head = _head(self.layers.outputs, count, target)
        self.scoring = Whitening(count)
        self.state_names = (*self.layers.state_names, *self.head.state_names)

    @property
    def look_ahead(self) -> int:
        """Samples by which a score lags behind what came in."""
        return self.layers.look_ahead

    @property
    def stream_axes(self) -> dict[str, int]:
        """Which axis of each carried tensor is the stream."""
        one, two = self.initial_state(1), self.initial_state(2)
        return {
            name: [n == m for n, m in zip(one[name].shape, two[name].shape, strict=True)].index(
                False
            )
            for name in self.state_names
        }

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, those that read forward first."""
        return tuple(part for part in self.layers.modules() if isinstance(part, Cell))

    def normalise_by(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        """Sets the normaliser, in place.

        Args:
            mean: ``[feature]``, engineering units.
            scale: ``[feature]``, engineering units, positive.
        """
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))

    def initial_state(self, streams: int) -> State:
        """The state of streams that have seen nothing, by name, with zeros in it."""
        return {**self.layers.initial_state(streams), **self.head.initial_state(streams)}

    def forward(
        self, x: Tensor, state: State, unroll: Unroll = over_time
    ) -> tuple[Tensor, Tensor | None, State]:
        """Scores samples and carries the state.

        Args:
            x: Samples in engineering units ``[time, stream, feature]``.
            state: The tensors of `state_names`.
            unroll: How a cell runs over time; the exporter brings its own.

        Returns:
            The score ``[time, stream]``, the contribution ``[time, stream, feature]`` (None with a
            target), and the state after the last sample. With a look-ahead, row ``t`` is about the
            sample that came in ``look_ahead`` samples before.
        """
        reading, prediction, state = self._predict(x, state, unroll)
        if isinstance(self.head, Forecast):
            return *self.scoring(reading.due - prediction), state
        return self.head.answer(prediction), None, state

    def costs(self, x: Tensor, target: Tensor, state: State) -> tuple[Tensor, State]:
        """What is trained on.

        Args:
            x: Samples in engineering units ``[time, stream, feature]``.
            target: The target at each due sample ``[time, stream]``; empty where there is none.
            state: The tensors of `state_names`.

        Returns:
            The cost of each prediction ``[time, stream]``, and the state after.
        """
        reading, prediction, state = self._predict(x, state, over_time)
        return self.head.cost(prediction, reading, target), state

    def errors(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The forecast errors that are scored; only without a target.

        Args:
            x: Samples in engineering units ``[time, stream, feature]``.
            state: The tensors of `state_names`.

        Returns:
            Normalised sample minus forecast ``[time, stream, feature]``, and the state after.
        """
        reading, prediction, state = self._predict(x, state, over_time)
        return reading.due - prediction, state

    def _predict(self, x: Tensor, state: State, unroll: Unroll) -> tuple[Reading, Tensor, State]:
        xn = torch.clamp((x - self.mean) / self.scale, -self.bound, self.bound)
        reading, carried = self.layers(xn, state, unroll)
        prediction, after = self.head.predict(reading, state)
        return reading, prediction, {**carried, **after}


def _layers(model: ModelConfig, features: int) -> Causal | BothWays:
    forth = Stack(model.cells, features, model.hidden, model.options)
    if model.look_ahead == 0:
        return Causal(forth)
    back = Stack(model.cells, features, model.hidden, model.options)
    return BothWays(forth, back, features, model.look_ahead)


def _head(
    outputs: tuple[int, int], features: int, target: Target | None
) -> Forecast | Estimate | Classify:
    if target is None:
        return Forecast(outputs, features)
    return Estimate(outputs) if target.classes is None else Classify(outputs, target.classes)


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
        "features": list(detector.features),
        "model": asdict(detector.model),
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
        detector = Detector(content["features"], ModelConfig(**content["model"]), target)
        detector.load_state_dict(content["tensors"])
        meta: dict[str, Any] = json.loads(content["meta"])
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        raise TrainingError(f"{path}: the checkpoint is not complete: {error}") from error
    return Checkpoint(detector.eval(), meta)
