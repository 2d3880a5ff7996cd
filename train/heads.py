"""What is predicted from the layers' outputs, and what a wrong prediction costs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from train.layers import Reading, State


class Head(nn.Module, ABC):
    """A linear map from the layers' outputs to a prediction about the sample that is due.

    Args:
        outputs: Lengths of a reading's ``past`` and ``future``; 0 for one that there is not.
        width: Length of a prediction.

    Attributes:
        state_names: What is carried.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, outputs: tuple[int, int], width: int) -> None:
        super().__init__()
        past, future = outputs
        self.linear = nn.Linear(past, width)
        self.from_future = nn.Linear(future, width, bias=False) if future else None

    def initial_state(self, streams: int) -> State:  # noqa: ARG002
        """The state of streams that have seen nothing, by name."""
        return {}

    @abstractmethod
    def predict(self, reading: Reading, state: State) -> tuple[Tensor, State]:
        """Predicts.

        Args:
            reading: What the layers made of the samples.
            state: The tensors of `state_names`; others are ignored.

        Returns:
            One prediction for each due sample ``[time, stream, width]``, and the state after.
        """

    @abstractmethod
    def cost(self, prediction: Tensor, reading: Reading, target: Tensor) -> Tensor:
        """What each prediction costs.

        Args:
            prediction: ``[time, stream, width]``.
            reading: What it was made from.
            target: The target column at each due sample ``[time, stream]``; empty for a head that
                has none.

        Returns:
            ``[time, stream]``, zero or more.
        """

    def _with_future(self, prediction: Tensor, reading: Reading) -> Tensor:
        if self.from_future is None or reading.future is None:
            return prediction
        ahead: Tensor = self.from_future(reading.future)  # [time, stream, width]
        return prediction + ahead


@final
class Forecast(Head):
    """Foretells each normalised sample from those before it, and from those behind if any are read.

    The output after a sample foretells the next one, so the last forecast is carried. A stream that
    has seen nothing expects the mean, which is zero. The cost is the squared error.
    """

    state_names = ("forecast",)

    def initial_state(self, streams: int) -> State:
        """The forecast of streams that have seen nothing, ``[stream, feature]``."""
        return {"forecast": self.linear.bias.new_zeros(streams, self.linear.out_features)}

    def predict(self, reading: Reading, state: State) -> tuple[Tensor, State]:
        """See `Head.predict`."""
        made = self.linear(
            reading.past
        )  # [time, stream, feature], each for the sample that follows
        for_this = torch.cat([state["forecast"].unsqueeze(0), made[:-1]])
        return self._with_future(for_this, reading), {"forecast": made[-1]}

    def cost(self, prediction: Tensor, reading: Reading, target: Tensor) -> Tensor:  # noqa: ARG002
        """Mean squared error over the sensors."""
        return (reading.due - prediction).square().mean(dim=2)


@final
class Estimate(Head):
    """Reads a number that is not measured off the samples: a soft sensor. Squared error.

    Args:
        outputs: As `Head`.

    Attributes:
        mean: Of the target, in its own units, a scalar.
        scale: What counts as one unit of it, a scalar.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, outputs: tuple[int, int]) -> None:
        super().__init__(outputs, width=1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def normalise_by(self, target: NDArray[np.float64]) -> None:
        """Takes mean and scale from the values that the weights see, in place.

        Args:
            target: ``[row]``, at least two different ones.
        """
        self.mean.fill_(target.mean())
        self.scale.fill_(target.std())

    def predict(self, reading: Reading, state: State) -> tuple[Tensor, State]:  # noqa: ARG002
        """See `Head.predict`; the prediction is normalised."""
        return self._with_future(self.linear(reading.past), reading), {}

    def cost(self, prediction: Tensor, reading: Reading, target: Tensor) -> Tensor:  # noqa: ARG002
        """Squared error, in deviations of the target."""
        return (prediction.squeeze(2) - (target - self.mean) / self.scale).square()

    def answer(self, prediction: Tensor) -> Tensor:
        """The number in the target's units ``[time, stream]``."""
        return prediction.squeeze(2) * self.scale + self.mean


@final
class Classify(Head):
    """Tells which of several values the target has. Cross-entropy.

    Args:
        outputs: As `Head`.
        classes: The values that the target can have, ascending.

    Attributes:
        values: The same ``[class]``.
    """

    values: Tensor

    def __init__(self, outputs: tuple[int, int], classes: Sequence[float]) -> None:
        super().__init__(outputs, width=len(classes))
        self.register_buffer("values", torch.tensor(classes, dtype=torch.float32))

    def predict(self, reading: Reading, state: State) -> tuple[Tensor, State]:  # noqa: ARG002
        """See `Head.predict`; the prediction holds one log-odds for each class."""
        return self._with_future(self.linear(reading.past), reading), {}

    def cost(self, prediction: Tensor, reading: Reading, target: Tensor) -> Tensor:  # noqa: ARG002
        """Minus the logarithm of the probability of the right class, in nats."""
        right = torch.bucketize(target, self.values)  # [time, stream], the class of each sample
        return F.cross_entropy(prediction.movedim(2, 1), right, reduction="none")

    def answer(self, prediction: Tensor) -> Tensor:
        """The most probable value, the lowest of equals, ``[time, stream]``."""
        best = prediction.argmax(dim=2)  # [time, stream]
        return F.embedding(best, self.values.unsqueeze(1)).squeeze(2)
