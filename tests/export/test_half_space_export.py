"""Half-space trees as a model file: a Scan over their own step, and the same bits however run."""

from collections import Counter
from functools import cache
from typing import final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_runtime.contract import State
from edge_runtime.session import Session, session_from_bytes
from export.canonical import graphs_of
from export.describe import describe
from export.model import Float32, Model
from export.onnx_cells import expressed
from export.to_onnx import trace, with_contract
from export.verify import PLAIN_OPERATORS, plausible_samples, verify
from sample_models import sample_meta
from train.half_space import HalfSpaceTrees, grown
from train.layers import Unroll, over_time


@final
class Alone(nn.Module):
    """Trees and nothing around them; their score is the model's."""

    def __init__(self, trees: HalfSpaceTrees) -> None:
        super().__init__()
        self.trees = trees
        self.features = tuple(f"sensor {number}" for number in range(trees.inputs))
        self.mean = torch.full((trees.inputs,), 20.0)
        self.scale = torch.full((trees.inputs,), 3.0)
        self.state_names = tuple(trees.carried)
        self.stream_axes = dict.fromkeys(self.state_names, 0)
        self.look_ahead = 0

    def initial_state(self, streams: int) -> dict[str, Tensor]:
        return dict(zip(self.state_names, self.trees.initial_state(streams), strict=True))

    def forward(
        self, x: Tensor, state: dict[str, Tensor], unroll: Unroll = over_time
    ) -> tuple[Tensor, None, dict[str, Tensor]]:
        xn = (x - self.mean) / self.scale
        y, after = unroll(self.trees, xn, tuple(state[name] for name in self.state_names))
        return y[..., 0], None, dict(zip(self.state_names, after, strict=True))


SHAPES = {
    "as River's": {"inputs": 8},
    "small windows": {"inputs": 3, "trees": 3, "height": 4, "window": 7},
    "masses beyond a byte": {"inputs": 1, "trees": 2, "height": 5, "window": 300},
}


def model_of(which: str) -> Model:
    return Alone(grown(seed=4, **SHAPES[which])).eval()


@cache
def session_of(which: str) -> Session:
    model = model_of(which)
    return session_from_bytes(with_contract(trace(model), describe(model, sample_meta())))


def samples(which: str, steps: int, streams: int) -> Float32:
    return plausible_samples(model_of(which), steps, streams, seed=6)


@pytest.mark.parametrize("which", SHAPES)
def test_every_split_and_batch_gives_the_same_bits(which: str) -> None:
    """What each export is put to; several windows fill, and streams come in every order."""
    evidence = verify(session_of(which), model_of(which), lambda _: None)
    assert evidence.score_error == 0.0
    assert evidence.exact_runs > 10


@pytest.mark.parametrize("which", SHAPES)
def test_the_file_gives_pytorchs_bits(which: str) -> None:
    """Not only close: masses are whole numbers, and what is done to them rounds once."""
    session, model, x = session_of(which), model_of(which), samples(which, 700, 5)
    outputs, after = session.run(x, session.contract.initial_state(5))
    score, _, wanted = model(torch.from_numpy(x), model.initial_state(5))
    np.testing.assert_array_equal(outputs.score, score.numpy())
    assert list(after) == list(wanted)
    for name, value in wanted.items():
        assert after[name].dtype == value.numpy().dtype
        np.testing.assert_array_equal(after[name], value.numpy())
    assert len(np.unique(outputs.score)) > 5


def test_streams_whose_windows_fill_at_different_times_share_a_call() -> None:
    session, x = session_of("small windows"), samples("small windows", 40, 6)
    fresh = session.contract.initial_state(1)
    ahead = [session.run(x[: n + 1, :1], fresh)[1] for n in range(6)]
    state = {name: np.concatenate([own[name] for own in ahead]) for name in ahead[0]}
    together, after = session.run(x, state)
    for stream in range(6):
        own = slice(stream, stream + 1)
        alone, alone_after = session.run(np.ascontiguousarray(x[:, own]), ahead[stream])
        np.testing.assert_array_equal(together.score[:, own], alone.score)
        for name, value in alone_after.items():
            np.testing.assert_array_equal(after[name][own], value)
    assert after["seen"].tolist() == [(n + 1 + 40) % 7 for n in range(6)]


def test_the_contract_says_what_is_carried() -> None:
    assert session_of("as River's").contract.states == (
        State("r", "r_next", ("stream", 5120), dtype="uint8"),
        State("l", "l_next", ("stream", 5120), dtype="uint8"),
        State("seen", "seen_next", ("stream",), dtype="int64"),
    )
    states = session_of("masses beyond a byte").contract.states
    assert [state.dtype for state in states] == ["int32", "int32", "int64"]


def test_the_graph_is_one_scan_of_operators_that_a_detector_may_have() -> None:
    nodes = [n for g in graphs_of(trace(model_of("small windows")).graph) for n in g.node]
    count = Counter(node.op_type for node in nodes)
    assert expressed(HalfSpaceTrees).operators == ("Scan",)
    assert count["Scan"] == 1
    assert set(count) <= PLAIN_OPERATORS | {"Scan"}
    assert {node.domain for node in nodes} == {""}


def test_exporting_again_gives_the_same_bytes() -> None:
    one, other = (trace(model_of("small windows")).SerializeToString() for _ in range(2))
    assert one == other
