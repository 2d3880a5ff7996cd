"""What is predicted from the hidden vectors, and how far it was off."""

from typing import ClassVar, final

import torch
from torch import Tensor, nn


@final
class Forecast(nn.Module):
    """A linear map from the hidden vector to the next normalised sample.

    The error of a sample is its distance from the forecast made one sample earlier, so the last
    forecast is carried. A stream that has seen nothing expects the mean, which is zero.

    Args:
        hidden: Length of a hidden vector.
        features: Length of a sample.
    """

    state_names: ClassVar[tuple[str, ...]] = ("forecast",)

    def __init__(self, hidden: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, features)

    def initial_state(self, streams: int) -> dict[str, Tensor]:
        """The forecast of streams that have seen nothing, ``[stream, feature]``."""
        return {"forecast": self.linear.bias.new_zeros(streams, self.linear.out_features)}

    def error(
        self, xn: Tensor, y: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compares each sample with the forecast made for it.

        Args:
            xn: Normalised samples ``[time, stream, feature]``.
            y: Hidden vectors after each of them ``[time, stream, hidden]``.
            state: With the carried ``forecast`` ``[stream, feature]``; others are ignored.

        Returns:
            Sample minus forecast ``[time, stream, feature]``, and the forecast to carry.
        """
        made = self.linear(y)  # [time, stream, feature], each for the sample that follows
        for_this = torch.cat([state["forecast"].unsqueeze(0), made[:-1]])
        return xn - for_this, {"forecast": made[-1]}

    @staticmethod
    def loss(error: Tensor, counts: Tensor) -> Tensor:
        """Mean squared error over the samples that count.

        Args:
            error: Sample minus forecast ``[time, stream, feature]``.
            counts: 1 where a sample counts, else 0, ``[time, stream]``.

        Returns:
            A scalar; zero where nothing counts.
        """
        squared = error.square().mean(dim=2)  # [time, stream]
        return (squared * counts).sum() / counts.sum().clamp(min=1)
