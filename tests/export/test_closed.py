"""Modules with one thing wrong each, which must be named before anything is traced."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from edge_runtime.errors import ExportError
from export.closed import check_closed
from export.model import Float32
from own_module import own_module

FEATURES = ("a", "b")
State = dict[str, Tensor]
_calls = itertools.count()


class Good(nn.Module):
    """A filter that carries its last output and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("mean", torch.zeros(2))
        self.table = {"notes": [1, 2], "far": torch.ones(2)}

    def initial_state(self, streams: int) -> State:
        return {
            "level": torch.full((streams, 2), 0.25),
            "seen": torch.zeros(streams, dtype=torch.int64),
        }

    def step(self, x: Tensor, state: State) -> tuple[Any, Any]:
        level = state["level"] + self.gain * (x - state["level"])
        return level.abs().amax(1), {"level": level, "seen": state["seen"] + 1}


def samples(steps: int, streams: int, seed: int) -> Float32:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (steps, streams, len(FEATURES))).astype(np.float32)


def check(module: nn.Module, *, one_stream: bool = False) -> None:
    check_closed(module, FEATURES, samples, one_stream=one_stream)


def test_a_closed_module_passes_whatever_is_constant_in_it() -> None:
    check(Good().eval())
    check(Good().eval(), one_stream=True)
    module = own_module()
    wider = partial(np.repeat, repeats=2, axis=2)
    three = lambda *size: np.ascontiguousarray(wider(samples(*size))[:, :, :3])  # noqa: E731
    check_closed(module, module.features, three, one_stream=False)


Spoil = Callable[[Any], None]


def stepping(change: Callable[[Any, Tensor, State, Any, State], Any]) -> Spoil:
    """A step that ends with ``change(module, x, state before, outputs, state after)``."""

    def spoil(module: Any) -> None:
        plain = module.step

        def step(x: Tensor, state: State) -> Any:
            outputs, after = plain(x, state)
            changed = change(module, x, state, outputs, after)
            return (outputs, after) if changed is None else changed

        module.step = step

    return spoil


def saying(outputs: Callable[[Tensor], Any]) -> Spoil:
    return stepping(lambda _m, _x, _s, y, after: (outputs(y), after))


def giving(**values: Callable[[Tensor], Any]) -> Spoil:
    """State in which some tensors are given back otherwise."""

    def change(_m: Any, _x: Tensor, _s: State, y: Any, after: State) -> Any:
        return y, {n: values[n](v) if n in values else v for n, v in after.items()}

    return stepping(change)


def beginning(**values: Callable[[int], Any]) -> Spoil:
    def spoil(module: Any) -> None:
        plain = module.initial_state
        module.initial_state = lambda streams: {
            **plain(streams),
            **{name: value(streams) for name, value in values.items()},
        }

    return spoil


def running_mean(module: Any, x: Tensor, *_: Any) -> None:
    module.mean += x.mean(0)


def replaced_buffer(module: Any, x: Tensor, *_: Any) -> None:
    module.mean = x[0] * 1.0


def learning(module: Any, *_: Any) -> None:
    module.gain *= 0.9


def counting(module: Any, *_: Any) -> None:
    module.count = getattr(module, "count", 0) + 1


def hidden_tensor(module: Any, x: Tensor, *_: Any) -> None:
    module.table["far"] += x[0]


def deep_list(module: Any, x: Tensor, *_: Any) -> None:
    module.table["notes"].append(0)


def tensor_deep_in_list(module: Any, *_: Any) -> None:
    """In the middle of one so long that its text would not show it."""
    module.line[0][2500] += 1


def long_line(module: Any) -> None:
    module.line = [torch.zeros(5000)]
    stepping(tensor_deep_in_list)(module)


def part_with_memory(module: Any) -> None:
    module.part = nn.Identity().eval()
    stepping(lambda m, *_: setattr(m.part, "last", next(_calls)))(module)


def norm_that_learns(module: Any) -> None:
    module.norm = nn.BatchNorm1d(2, affine=False).train()
    stepping(lambda m, x, s, y, after: (y + m.norm(x)[:, 0], after))(module)


def norm_that_is_made_to_learn(module: Any) -> None:
    """In evaluation mode until its step is called."""
    module.norm = nn.BatchNorm1d(2, affine=False).eval()
    stepping(
        lambda m, x, s, y, after: (
            y + F.batch_norm(x, m.norm.running_mean, m.norm.running_var, training=True)[:, 0],
            after,
        )
    )(module)


def remembers_the_size(module: Any) -> None:
    plain = module.initial_state

    def initial_state(streams: int) -> Any:
        module.streams = streams
        return plain(streams)

    module.initial_state = initial_state


def in_place(_m: Any, _x: Tensor, state: State, *_: Any) -> None:
    state["level"] *= 0.5


def pops(_m: Any, _x: Tensor, state: State, *_: Any) -> None:
    state.pop("level")


def scaled_samples(_m: Any, x: Tensor, *_: Any) -> None:
    x *= 0.5


def raises(*_: Any) -> None:
    raise RuntimeError("no sensor today\nand more of it")


def nan_weights(module: Any) -> None:
    module.gain.data.fill_(torch.nan)


def nan_score_weights(module: Any) -> None:
    module.weight = nn.Parameter(torch.tensor(torch.nan))
    stepping(lambda m, x, s, y, after: (y * m.weight, after))(module)


def by_count(_m: Any, x: Tensor, _s: State, y: Tensor, after: State) -> Any:
    return y / x.shape[0], after


def crowded(_m: Any, x: Tensor, _s: State, y: Tensor, after: State) -> Any:
    """Only a machine that has gone wild is heard by the others."""
    return y + (x.abs().amax(dim=(0, 1)) - 100).clamp(min=0), after


def leaning(_m: Any, _x: Tensor, _s: State, y: Tensor, after: State) -> Any:
    """Each row takes a tenth of a millionth of the one before it."""
    return y, {**after, "level": after["level"] + 1e-7 * after["level"].roll(1, 0)}


REFUSED: dict[str, tuple[Spoil, str]] = {
    "buffer": (stepping(running_mean), "^buffer 'mean' changes during step: carry it in the state"),
    "replaced-buffer": (stepping(replaced_buffer), "^buffer 'mean' changes during step"),
    "parameter": (stepping(learning), "^parameter 'gain' changes during step"),
    "new-attribute": (stepping(counting), "^attribute 'count' changes during step"),
    "tensor-in-attribute": (stepping(hidden_tensor), "^attribute 'table' changes during step"),
    "list-in-attribute": (stepping(deep_list), "^attribute 'table' changes during step"),
    "tensor-in-list": (long_line, "^attribute 'line' changes during step"),
    "attribute-of-part": (part_with_memory, "^attribute 'part.last' changes during step"),
    "training-mode": (norm_that_learns, "^submodule 'norm' stays in training mode after eval"),
    "batch-norm": (
        norm_that_is_made_to_learn,
        "^buffer 'norm.running_mean', buffer 'norm.running_var' change during step",
    ),
    "size": (remembers_the_size, "^attribute 'streams' changes during initial_state"),
    "random": (
        saying(lambda y: y + torch.rand_like(y)),
        "^the same samples from the same state give another score the second time",
    ),
    "dropout": (
        giving(level=partial(F.dropout, p=0.9)),
        "the same state give another .* the second time",
    ),
    "global": (saying(lambda y: y + next(_calls)), "another score the second time"),
    "state-missing": (
        stepping(lambda m, x, s, y, after: (y, {"level": after["level"]})),
        "^step gives back another state than it takes: 'seen' is missing; wanted 'level', 'seen'",
    ),
    "state-new": (
        stepping(lambda m, x, s, y, after: (y, {**after, "more": y})),
        "^step gives back another state than it takes: 'more' is new",
    ),
    "state-shape": (
        giving(level=lambda v: v[:, :1]),
        r"^step changes the state 'level' from float32 \[3, 2\] to float32 \[3, 1\]",
    ),
    "state-dtype": (
        giving(seen=lambda v: v.float()),
        r"^step changes the state 'seen' from int64 \[3\] to float32 \[3\]",
    ),
    "state-list": (
        giving(seen=lambda v: v.tolist()),
        "^step gives back a list as the state 'seen'",
    ),
    "state-nan": (giving(level=lambda v: v / 0), "^the state 'level' is not finite after a step"),
    "state-tuple": (
        stepping(lambda m, x, s, y, after: (y, tuple(after.values()))),
        "^step wants to give the state back as a dictionary, got tuple",
    ),
    "state-in-place": (stepping(in_place), "^step changes the state 'level' that it was given in"),
    "state-popped": (stepping(pops), "^step changes the dictionary of states that it was given in"),
    "samples-in-place": (
        stepping(scaled_samples),
        "^step changes the samples that it was given in",
    ),
    "no-state": (
        stepping(lambda m, x, s, y, after: y),
        r"^step wants to give \(outputs, state\), got Tensor",
    ),
    "three-results": (
        stepping(lambda m, x, s, y, after: (y, y, after)),
        r"^step wants to give \(outputs, state\), got tuple of 3",
    ),
    "score-shape": (
        saying(lambda y: y.unsqueeze(0)),
        r"^step wants the score as float32 \[3\] or \[3, 1\], got float32 \[1, 3\]",
    ),
    "score-dtype": (saying(lambda y: y.double()), r"\[3, 1\], got float64 \[3\]"),
    "score-number": (saying(lambda y: y.sum().item()), r"\[3, 1\], got float$"),
    "score-missing": (saying(lambda y: {"contribution": y}), "wants the score as .* got NoneType"),
    "output-unknown": (
        saying(lambda y: {"score": y, "shares": y}),
        "^step gives the outputs 'shares': wanted 'score' and, if there is one, 'contribution'",
    ),
    "contribution-shape": (
        saying(lambda y: {"score": y, "contribution": y}),
        r"^step wants the contribution as float32 \[3, 2\], got float32 \[3\]",
    ),
    "score-nan": (saying(lambda y: y.sub(1).log()), "^the score is not finite at step 0$"),
    "weights-nan": (nan_score_weights, "score is not finite at step 0: weight hold NaN or inf"),
    "raises": (stepping(raises), r"^step raises RuntimeError: no sensor today \(.*test_closed.py:"),
    "neighbours": (
        saying(lambda y: y - y.mean()),
        "^the rows of a call influence each other: with other samples beside it, the score of a "
        "stream differs by up to .*; --one-stream exports it",
    ),
    "crowd": (
        stepping(crowded),
        "^the rows of a call influence each other: with wild samples beside it, the score of a str",
    ),
    "whisper": (
        stepping(leaning),
        "^the rows of a call influence .* up to [0-9.]+e-0[78]",
    ),
    "those-before": (saying(lambda y: y.cumsum(0)), "^the rows of a call influence each other"),
    "count": (stepping(by_count), "with 1 stream in the call instead of 3, the score of a stream"),
    "three-only": (
        giving(level=lambda v: v + torch.zeros(3, 1)),
        r"^with 1 stream in the call instead of 3: step changes the state 'level' from .* \[1, 2\]",
    ),
    "initial-empty": (
        lambda m: setattr(m, "initial_state", lambda streams: {}),
        "^initial_state wants a dictionary of tensors with at least one in it, got an empty one",
    ),
    "initial-tuple": (
        lambda m: setattr(m, "initial_state", lambda streams: (torch.zeros(streams),)),
        "^initial_state wants a dictionary of tensors .* got tuple",
    ),
    "initial-number": (beginning(level=lambda n: 0.0), "^state 'level' wants a tensor, got float"),
    "initial-names": (
        lambda m: setattr(m, "initial_state", lambda n: {f"h{n}": torch.zeros(n)}),
        r"^initial_state gives \['h1'\] for one stream and \['h2'\] for two",
    ),
    "initial-raises": (
        beginning(level=raises),
        r"^initial_state\(1\) raises RuntimeError: no sens",
    ),
    "no-stream-axis": (
        beginning(level=lambda n: torch.zeros(2)),
        r"^state 'level' has the shape \[2\] for one stream and \[2\] for two: .* none has",
    ),
    "two-stream-axes": (
        beginning(level=lambda n: torch.zeros(n, n)),
        r"^state 'level' has the shape \[1, 1\] .* \[2, 2\] for two: wanted one axis .* 2 have",
    ),
    "other-axis": (
        beginning(level=lambda n: torch.zeros(n, 3 * n)),
        r"the shape \[1, 3\] .* more change",
    ),
    "other-rank": (beginning(level=lambda n: torch.zeros((n,) * n)), "wanted as many axes"),
    "empty-axis": (beginning(level=lambda n: torch.zeros(n, 0)), r"\[1, 0\]: it holds nothing"),
    "initial-varies": (
        beginning(level=lambda n: torch.arange(2.0).repeat(n, 1)),
        "^state 'level' begins with 0.0 to 1.0: a contract holds one initial value",
    ),
    "initial-by-stream": (
        beginning(level=lambda n: torch.arange(float(n)).unsqueeze(1).repeat(1, 2)),
        "^state 'level' begins with other values, or another type, for two streams",
    ),
    "initial-random": (
        beginning(level=lambda n: torch.rand(1).expand(n, 2)),
        "^state 'level' begins otherwise each time",
    ),
    "initial-infinite": (
        beginning(level=lambda n: torch.full((n, 2), -torch.inf)),
        "^state 'level' begins with -inf: a contract writes a number that is finite",
    ),
    "initial-beyond-float": (
        beginning(level=lambda n: torch.full((n, 2), 2**53 + 1)),
        "^state 'level' begins with 9007199254740993: a contract writes a number that is .* exact",
    ),
    "initial-dtype": (
        beginning(level=lambda n: torch.zeros(n, 2, dtype=torch.bfloat16)),
        "^state 'level' is bfloat16: wanted one of float32,",
    ),
    "name-taken": (beginning(score=torch.zeros), "^a state must not be called 'score': another"),
    "name-of-successor": (beginning(level_next=torch.zeros), "must not be called 'level_next'"),
    "name-bad": (
        lambda m: setattr(m, "initial_state", lambda n: {"": torch.zeros(n)}),
        "^a state wants a name such as 'h', got ''",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_closed_is_named(spoil: Spoil, reason: str) -> None:
    module = Good().eval()
    spoil(module)
    with pytest.raises(ExportError, match=reason) as caught:
        check(module)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["neighbours", "whisper", "count"])
def test_one_stream_a_call_has_no_neighbours(name: str) -> None:
    module = Good().eval()
    REFUSED[name][0](module)
    check(module, one_stream=True)


@pytest.mark.parametrize("name", ["buffer", "random", "state-dtype", "score-nan"])
def test_one_stream_is_no_excuse_for_anything_else(name: str) -> None:
    module = Good().eval()
    REFUSED[name][0](module)
    with pytest.raises(ExportError):
        check(module, one_stream=True)


def test_as_many_features_as_streams_are_not_taken_for_them() -> None:
    """[feature] and [stream] have the same length when three of each are tried."""

    class Turned(Good):
        def initial_state(self, streams: int) -> State:
            return {"level": torch.zeros(streams, 3)}

        def step(self, x: Tensor, state: State) -> tuple[Any, Any]:
            level = state["level"] + x
            return 0 * level.amax(0), {"level": level}

    x = np.ones((6, 3, 3), np.float32)
    with pytest.raises(ExportError, match=r"with 1 stream .* wants the score as float32 \[1\]"):
        check_closed(Turned().eval(), ("a", "b", "c"), lambda t, s, _: x[:t, :s], one_stream=False)
