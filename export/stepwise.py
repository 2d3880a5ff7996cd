"""Any module that offers a step, as a model that runs over time."""

from collections.abc import Mapping
from typing import Any, Protocol, cast, final

import torch
from torch import Tensor, nn

from train.cell import Cell
from train.layers import Unroll, over_time

State = dict[str, Tensor]


class Stateful(Protocol):
    """What a module must offer; docs/your-own-module.md has a whole one."""

    def initial_state(self, streams: int) -> State:
        """The state of streams that have seen nothing, each with one axis of that length."""

    def step(self, x: Tensor, state: State) -> tuple[Tensor | Mapping[str, Tensor], State]:
        """One sample ``[stream, feature]`` of every stream; the outputs, and the state after."""


def stateful(module: nn.Module) -> Stateful:
    """A module that offers what must be offered; for the type checker."""
    return cast(Stateful, module)


@final
class Stepwise(nn.Module):
    """A module that offers a step, as an `export.model.Model`.

    Args:
        module: In evaluation mode, offering what `Stateful` says.
        features: Names of the sensors.
        one_stream: The module takes one stream a call, so several are run one after the other.

    Attributes:
        mean: Zeros ``[feature]``: nothing is known about the sensors.
        scale: Ones ``[feature]``.
        state_names: The keys of the state, in the order in which the module gives them.
        look_ahead: 0; a step cannot see what is to come.
    """

    def __init__(
        self, module: nn.Module, features: tuple[str, ...], *, one_stream: bool = False
    ) -> None:
        super().__init__()
        self.features = features
        self.mean = torch.zeros(len(features))
        self.scale = torch.ones(len(features))
        self.look_ahead = 0
        self.one_stream = one_stream
        self.state_names = tuple(stateful(module).initial_state(1))
        self.cell = _Step(module, len(features), self.state_names)

    @property
    def stream_axes(self) -> dict[str, int]:
        """Which axis of each carried tensor is the stream."""
        one, two = self.initial_state(1), self.initial_state(2)
        return {name: stream_axes(one[name], two[name])[0] for name in self.state_names}

    def initial_state(self, streams: int) -> State:
        """The state of streams that have seen nothing, by name."""
        return stateful(self.cell.module).initial_state(streams)

    def forward(
        self, x: Tensor, state: State, unroll: Unroll = over_time
    ) -> tuple[Tensor, Tensor | None, State]:
        """See `export.model.Model`."""
        if not self.one_stream or x.shape[1] == 1:
            return self._run(x, state, unroll)
        axes = self.stream_axes
        runs = [
            self._run(
                x[:, stream : stream + 1],
                {name: value.narrow(axes[name], stream, 1) for name, value in state.items()},
                unroll,
            )
            for stream in range(x.shape[1])
        ]
        scores, contributions, states = zip(*runs, strict=True)
        shares = None if contributions[0] is None else torch.cat(contributions, 1)
        after = {n: torch.cat([own[n] for own in states], axis) for n, axis in axes.items()}
        return torch.cat(scores, 1), shares, after

    def _run(self, x: Tensor, state: State, unroll: Unroll) -> tuple[Tensor, Tensor | None, State]:
        y, after = unroll(self.cell, x, tuple(state[name] for name in self.state_names))
        shares = y[..., 1:] if y.shape[-1] > 1 else None
        return y[..., 0], shares, dict(zip(self.state_names, after, strict=True))


@final
class _Step(Cell):
    """A module's step as a cell; its output vector is the score and then the contribution."""

    def __init__(self, module: nn.Module, features: int, names: tuple[str, ...]) -> None:
        super().__init__(features, 1 + features)
        self.module = module
        self.names = names

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Cell.step`."""
        before = dict(zip(self.names, state, strict=True))
        said, after = stateful(self.module).step(x, before)
        score, contribution = outputs_of(said)
        y = score if score.dim() > 1 else score.unsqueeze(1)  # [stream, 1]
        if contribution is not None:
            y = torch.cat([y, contribution], dim=1)
        return y, tuple(after[name] for name in self.names)


def outputs_of(said: Any) -> tuple[Any, Any]:  # noqa: ANN401 - it is looked at by whoever calls
    """Score and contribution of what a step says; either is None if it is not there."""
    if isinstance(said, Mapping):
        return said.get("score"), said.get("contribution")
    return said, None


def stream_axes(one: Tensor, two: Tensor) -> list[int]:
    """The axes that have the length 1 in the state of one stream and 2 in that of two."""
    lengths = enumerate(zip(one.shape, two.shape, strict=True))
    return [axis for axis, pair in lengths if pair == (1, 2)]
