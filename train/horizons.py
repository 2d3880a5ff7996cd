"""A recurrent network that foretells the distribution of several coming samples."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from train.cell import Cell
from train.delays import behind
from train.layers import Stack, State, Unroll, in_one_call, over_time

HORIZONS = (1, 4, 8)
FREEDOM = 4.0
"""Degrees of freedom of the Student-t distribution that is foretold."""
NOISE, DROPPED = 0.3, 0.2
"""While training: deviation of the noise on what the network reads, and share of the sensors that
it is not shown in a window."""


def positive(w: Tensor) -> Tensor:
    """``exp(asinh(w))``: about 1 + w near 0, 2 w far above, -1 / (2 w) far below."""
    root = torch.sqrt(w * w + 1.0) + w.abs()
    below = w < 0  # one over the root
    return torch.where(below, 1.0, root) / torch.where(below, root, 1.0)


def one_over_positive(w: Tensor) -> Tensor:
    """``1 / positive(w)`` for scores; far above 0 it is small, or 0, and no digit of it right.

    Made of operators that IEEE 754 rounds correctly, unlike ``exp``, whose rounding may depend on
    the size of the batch.
    """
    return torch.sqrt(w * w + 1.0) - w


@final
class Horizons(nn.Module):
    """Samples -> how surprising each is beside what was foretold of it.

    For each horizon k the network says after sample t - k a location and a scale of sample t, each
    sensor by itself; the cost is the negative log-likelihood of a Student-t distribution with 4
    degrees of freedom (as in DeepAR, Salinas et al. 2020, which is Gaussian), which outliers do not
    pull along.

    Args:
        kinds: Keys of `train.cells.CELLS`, lowest layer first.
        features: Length of a sample.
        hidden: Length of a hidden vector.
        options: What the configuration says about the cells.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        features: int,
        hidden: int,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.stack = Stack(kinds, features, hidden, options)
        self.linear = nn.Linear(self.stack.outputs, 2 * len(HORIZONS) * features)
        nn.init.zeros_(self.linear.bias)
        self.waiting = tuple(f"foretold_{k}" for k in HORIZONS)
        self.state_names = (*self.stack.state_names, *self.waiting)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, lowest first."""
        return tuple(part for part in self.stack.modules() if isinstance(part, Cell))

    @property
    def stream_axes(self) -> dict[str, int]:
        """Which axis of each carried tensor is the stream."""
        return dict.fromkeys(self.stack.state_names, 0) | dict.fromkeys(self.waiting, 1)

    def initial_state(self, streams: int) -> State:
        """Zeros: what nobody foretold was expected to be 0, give or take 1."""
        waiting = {
            name: self.linear.bias.new_zeros(k, streams, 2 * self.features)
            for name, k in zip(self.waiting, HORIZONS, strict=True)
        }
        return {**self.stack.initial_state(streams), **waiting}

    def forward(self, u: Tensor, state: State, unroll: Unroll = over_time) -> tuple[Tensor, State]:
        """Standardised forecast errors of each horizon.

        Args:
            u: Bounded samples ``[time, stream, feature]``.
            state: The tensors of `state_names`; others are ignored.
            unroll: How a cell runs over time.

        Returns:
            ``(sample - location) / scale``, side by side ``[time, stream, horizon * feature]``, and
            the state after.
        """
        location, w, after = self._foretold(u, state, unroll)
        apart = torch.cat([u] * len(HORIZONS), dim=2) - location
        return apart * one_over_positive(w), after

    def costs(self, x: Tensor, target: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: ARG002
        """What is trained on; in training mode the network reads a disturbed input.

        Args:
            x: Bounded samples ``[time, stream, feature]``.
            target: Not used.
            state: The tensors of `state_names`.

        Returns:
            Negative log-likelihood ``[time, stream]`` in nats, mean over sensors and horizons, and
            the state after.
        """
        shown = x
        if self.training:
            kept = (torch.rand(1, *x.shape[1:]) >= DROPPED).to(x.dtype)
            shown = (x + NOISE * torch.randn_like(x)) * kept
        location, w, after = self._foretold(shown, state, in_one_call)
        shape = (*x.shape[:2], len(HORIZONS), self.features)
        lost = negative_log_likelihood(x.unsqueeze(2), location.reshape(shape), w.reshape(shape))
        return lost.mean(dim=(2, 3)), after

    def _foretold(
        self, shown: Tensor, state: State, unroll: Unroll
    ) -> tuple[Tensor, Tensor, State]:
        """What was said of each sample: locations and scales ``[time, stream, horizon * feature]``.

        Args:
            shown: What the network reads ``[time, stream, feature]``.
            state: The tensors of `state_names`.
            unroll: How a cell runs over time.
        """
        hidden, after = self.stack(shown, state, unroll)
        locations, scales = [], []
        for ahead, name, foretold in zip(
            HORIZONS,
            self.waiting,
            torch.split(self.linear(hidden), 2 * self.features, dim=2),
            strict=True,
        ):
            line = behind(state[name], foretold)
            location, w = torch.split(line[:-ahead], self.features, dim=2)
            locations.append(location)
            scales.append(w)
            after[name] = line[-ahead:]
        return torch.cat(locations, dim=2), torch.cat(scales, dim=2), after


def negative_log_likelihood(x: Tensor, location: Tensor, w: Tensor) -> Tensor:
    """Of a Student-t distribution with scale ``positive(w)``, up to a constant, in nats."""
    z = (x - location) / positive(w)
    return torch.asinh(w) + (FREEDOM + 1) / 2 * torch.log1p(z * z / FREEDOM)
