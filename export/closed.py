"""Whether a module is closed: all that a step depends on is its sample and its state.

The module is run, not read. Each check says in one sentence what is wrong and names it, before the
exporter, which would bake the values in or fail far from the cause.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_runtime.errors import ExportError
from export.carried import check_initial, check_successor, initial_state
from export.model import Samples
from export.snapshot import changed, snapshot_of
from export.stepwise import State, outputs_of, stateful, stream_axes
from export.user_code import call

STEPS = 6
STREAMS = 3
WILD = 1e6
ALIKE = 1e-4  # of the largest output: PyTorch's own kernels round by the size of the batch
ALONE = "--one-stream exports it for one stream a call"


@dataclass(frozen=True, slots=True)
class _Run:
    """A module over some samples.

    Attributes:
        score: ``[time, stream]``.
        contribution: ``[time, stream, feature]``, if there is one.
        after: The state after them.
    """

    score: Tensor
    contribution: Tensor | None
    after: State

    def of(self, stream: int, axes: dict[str, int]) -> dict[str, Tensor]:
        """All that belongs to one stream, by name."""
        found = {"score": self.score[:, stream]}
        if self.contribution is not None:
            found["contribution"] = self.contribution[:, stream]
        return found | {f"state {n!r}": v.select(axes[n], stream) for n, v in self.after.items()}


def check_closed(
    module: nn.Module, features: tuple[str, ...], samples: Samples, *, one_stream: bool
) -> None:
    """Runs the module, and finds what it would not say of itself.

    Args:
        module: In evaluation mode, with ``step`` and ``initial_state``.
        features: Names of the sensors.
        samples: What it is tried with.
        one_stream: It takes one stream a call, so nothing is said about others.

    Raises:
        ExportError: Naming the first thing that is wrong.
    """
    streams = 1 if one_stream else STREAMS
    x = torch.from_numpy(samples(STEPS, streams, 0))
    with torch.no_grad():
        _check_mode(module)
        untouched = snapshot_of(module)
        check_initial(module)
        _check_unchanged(module, untouched, "initial_state")
        untouched = snapshot_of(module)
        whole = _run(module, x, len(features))
        _check_unchanged(module, untouched, "step")
        _check_repeats(module, x, len(features), whole)
        if not one_stream:
            _check_rows(module, x, whole)


def _check_mode(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if part.training:
            raise ExportError(
                f"submodule {name or 'itself'!r} stays in training mode after eval(): it would go "
                "on learning on the gateway"
            )


def _check_unchanged(module: nn.Module, before: dict[str, Any], function: str) -> None:
    names = changed(before, snapshot_of(module))
    if names:
        s = "s" if len(names) == 1 else ""
        raise ExportError(
            f"{', '.join(names)} change{s} during {function}: carry it in the state, the only "
            "thing that is kept from one sample of a stream to the next"
        )


def _run(module: nn.Module, x: Tensor, features: int) -> _Run:
    """Runs ``x [time, stream, feature]`` from the initial state, and checks what comes at each."""
    state = initial_state(module, x.shape[1])
    scores, shares = [], []
    for number, x_t in enumerate(x):
        score, contribution, state = _step(module, x_t.clone(), state, features)
        for name, value in (("score", score), ("contribution", contribution)):
            if value is not None and not torch.isfinite(value).all():
                raise ExportError(f"the {name} is not finite at step {number}{_culprits(module)}")
        scores.append(score.reshape(-1))
        shares.append(contribution)
    together = [share for share in shares if share is not None]
    if together and len(together) < len(shares):
        raise ExportError("step gives a contribution for some samples and not for others")
    return _Run(torch.stack(scores), torch.stack(together) if together else None, state)


def _step(
    module: nn.Module, x: Tensor, state: State, features: int
) -> tuple[Tensor, Tensor | None, State]:
    before = {name: value.clone() for name, value in state.items()}
    x_before = x.clone()
    given = dict(state)
    result = call("step", stateful(module).step, x, given)
    for name, value in before.items():
        if not torch.equal(state[name], value):
            raise ExportError(
                f"step changes the state {name!r} that it was given in place: give back a new "
                "tensor"
            )
    if list(given) != list(before) or not torch.equal(x, x_before):
        what = "samples" if list(given) == list(before) else "dictionary of states"
        raise ExportError(f"step changes the {what} that it was given in place")
    if not isinstance(result, tuple) or len(result) != 2:  # noqa: PLR2004 - outputs, state
        length = f" of {len(result)}" if isinstance(result, tuple | list) else ""
        raise ExportError(
            f"step wants to give (outputs, state), got {type(result).__name__}{length}"
        )
    said, after = result
    check_successor(before, after)
    score, contribution = _checked_outputs(said, x.shape[0], features)
    return score, contribution, {name: after[name] for name in before}


def _checked_outputs(said: object, streams: int, features: int) -> tuple[Tensor, Tensor | None]:
    if isinstance(said, dict):
        unknown = sorted(map(repr, set(said) - {"score", "contribution"}))
        if unknown:
            raise ExportError(
                f"step gives the outputs {', '.join(unknown)}: wanted 'score' and, if there is "
                "one, 'contribution'"
            )
    score, contribution = outputs_of(said)
    _check_output("score", score, [(streams,), (streams, 1)])
    if contribution is not None:
        _check_output("contribution", contribution, [(streams, features)])
    return score, contribution


def _check_output(name: str, value: object, shapes: list[tuple[int, ...]]) -> None:
    wanted = f"float32 {' or '.join(str(list(shape)) for shape in shapes)}"
    if not isinstance(value, Tensor):
        raise ExportError(f"step wants the {name} as {wanted}, got {type(value).__name__}")
    if tuple(value.shape) not in shapes or value.dtype != torch.float32:
        got = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        raise ExportError(f"step wants the {name} as {wanted}, got {got}")


def _culprits(module: nn.Module) -> str:
    names = [n for n, value in module.named_parameters() if not torch.isfinite(value).all()]
    return f": {', '.join(names)} hold NaN or infinity" if names else ""


def _check_repeats(module: nn.Module, x: Tensor, features: int, first: _Run) -> None:
    """The same once more, after other samples, gives the same."""
    _run(module, x.flip(0), features)
    again = _run(module, x, features)
    axes = _axes(module)
    for stream in range(x.shape[1]):
        one, other = first.of(stream, axes), again.of(stream, axes)
        for name, value in one.items():
            if not torch.equal(value, other[name]):
                raise ExportError(
                    f"the same samples from the same state give another {name} the second time: "
                    "step depends on something that is neither (random numbers, dropout, the "
                    "time, a variable outside of the module)"
                )


def _check_rows(module: nn.Module, x: Tensor, whole: _Run) -> None:
    """Neither the neighbours nor their number may show in a stream."""
    axes, features = _axes(module), x.shape[2]
    for own in (0, STREAMS - 1):
        others = torch.tensor([stream != own for stream in range(STREAMS)])
        # Of the same size, so that the same kernels run, and any difference is the neighbours'.
        elsewhere = _run(module, torch.where(others[:, None], x.flip(0) + 1, x), features)
        _compare(whole.of(own, axes), elsewhere.of(own, axes), 0.0, "other samples beside it")
        try:
            wild = _run(module, torch.where(others[:, None], WILD * (x + 1), x), features)
        except ExportError:
            continue  # it has no finite score for what is that large, and so no say in others'
        _compare(whole.of(own, axes), wild.of(own, axes), 0.0, "wild samples beside it")
    for streams in range(1, STREAMS):
        size = f"{streams} stream{'s' * (streams > 1)} in the call instead of {STREAMS}"
        try:
            fewer = _run(module, x[:, :streams], features)
        except ExportError as error:
            raise ExportError(f"with {size}: {error}") from error
        _compare(whole.of(0, axes), fewer.of(0, axes), ALIKE, size)


def _compare(one: dict[str, Tensor], other: dict[str, Tensor], allowed: float, when: str) -> None:
    for name, value in one.items():
        wanted, got = value.double(), other[name].double()
        difference = float((wanted - got).abs().max())
        if difference > allowed * max(float(wanted.abs().max()), 1e-30):
            raise ExportError(
                f"the rows of a call influence each other: with {when}, the {name} of a stream "
                f"differs by up to {difference:.2g}; {ALONE}"
            )


def _axes(module: nn.Module) -> dict[str, int]:
    one, two = initial_state(module, 1), initial_state(module, 2)
    return {name: stream_axes(value, two[name])[0] for name, value in one.items()}
