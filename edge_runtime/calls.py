"""How a model that does not have our axes is called as if it had them.

`ForeignCalls` takes and gives ``[time, stream, ...]`` like the inference that it wraps:

    axes in another order, other dtypes   arranged before the call and back after it
    no time axis (a one-step model)       one call for each sample, the state carried between them
    one stream a call                     stream by stream
"""

from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.axes import FEATURE, STREAM, TIME, Axes, from_model, lengths_of, to_model
from edge_runtime.contract import Contract
from edge_runtime.errors import ModelError, StateError

Array = NDArray[Any]
Infer = Callable[[Array, Mapping[str, Array]], list[Array]]
"""Samples and state in; outputs and then the states' successors out, in the contract's order."""


@final
class ForeignCalls:
    """Calls a model of any shape.

    Args:
        contract: Says the shape.
        infer: One call of the model as it is.
    """

    def __init__(self, contract: Contract, infer: Infer) -> None:
        self._contract = contract
        self._infer = infer
        self._outputs: list[tuple[str, Axes]] = [(contract.score, contract.score_shape)]
        if contract.contribution is not None:
            self._outputs.append((contract.contribution, contract.x_shape))

    def __call__(self, x: Array, state: Mapping[str, Array]) -> list[Array]:
        """Runs ``x [time, stream, feature]`` from ``state``.

        Raises:
            StateError: If there is no sample.
            ModelError: If the model gives another shape than its contract says.
        """
        if not x.size:
            raise StateError(f"x holds no sample: got {list(x.shape)}")
        return (
            self._stream_by_stream(x, state) if self._contract.one_stream else self._run(x, state)
        )

    def _stream_by_stream(self, x: Array, state: Mapping[str, Array]) -> list[Array]:
        pairs = self._contract.states
        rows = []
        for stream in range(x.shape[1]):
            own = {p.input: np.take(state[p.input], [stream], p.stream_axis) for p in pairs}
            rows.append(self._run(x[:, stream : stream + 1], own))
        axes = [1] * len(self._outputs) + [pair.stream_axis for pair in pairs]
        return [np.concatenate(parts, axis) for axis, *parts in zip(axes, *rows, strict=True)]

    def _run(self, x: Array, state: Mapping[str, Array]) -> list[Array]:
        if TIME in self._contract.x_shape:
            return self._call(x, state)
        count = len(self._outputs)
        steps = []
        for t in range(len(x)):
            results = self._call(x[t : t + 1], state)
            steps.append(results[:count])
            pairs = zip(self._contract.states, results[count:], strict=True)
            state = {pair.input: value for pair, value in pairs}
        outputs = [np.concatenate(parts) for parts in zip(*steps, strict=True)]
        return outputs + results[count:]

    def _call(self, x: Array, state: Mapping[str, Array]) -> list[Array]:
        contract = self._contract
        results = self._infer(to_model(x, contract.x_shape, contract.x_dtype), state)
        lengths = dict(zip((TIME, STREAM, FEATURE), x.shape, strict=True))
        wanted = self._outputs + [(pair.output, pair.shape) for pair in contract.states]
        for (name, axes), value in zip(wanted, results, strict=True):
            if value.shape != lengths_of(axes, lengths):
                raise ModelError(
                    f"output {name} wants {list(lengths_of(axes, lengths))} for x "
                    f"{list(x.shape)}, the model gave {list(value.shape)}"
                )
        count = len(self._outputs)
        pairs = zip(self._outputs, results[:count], strict=True)
        return [from_model(value, axes) for (_, axes), value in pairs] + results[count:]
