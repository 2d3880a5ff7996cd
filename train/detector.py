"""The forecaster: normaliser, layers, head and scoring as one pure function.

It foretells the next sample, or reads a target off the samples. See `train.detectors` for others.
"""

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.cell import Cell
from train.config import ModelConfig
from train.heads import Classify, Estimate, Forecast
from train.layers import BothWays, Causal, Reading, Stack, State, Unroll, in_one_call, over_time
from train.scoring import BOUND, LEAVE, Whitening


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
        layers: From normalised samples to hidden vectors.
        head: From hidden vectors to a prediction.
        scoring: From forecast error to score; unused with a target.
        state_names: Names of the carried tensors, in a fixed order.
    """

    mean: Tensor
    scale: Tensor

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
        reading, prediction, state = self._predict(x, state, in_one_call)
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

    def level(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What the alarm level is chosen from: the distance ``[time, stream]``, and the state."""
        error, after = self.errors(x, state)
        return self.scoring.distance(error)[0], after

    def set_limit(self, level: float) -> None:
        """The distance that shall score 1.0; positive."""
        self.scoring.limit.fill_(level)

    def leaves(self, level: float) -> float:
        """The level below which a lamp goes out that went on above ``level``."""
        return LEAVE * level

    def _predict(self, x: Tensor, state: State, unroll: Unroll) -> tuple[Reading, Tensor, State]:
        xn = torch.clamp((x - self.mean) / self.scale, -BOUND, BOUND)
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
