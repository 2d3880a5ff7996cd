"""The verification against graphs made by hand, each with one thing wrong that it must find."""

from collections.abc import Sequence

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

import export.verify
from edge_runtime.contract import (
    CONTRACT_KEY,
    CONTRACT_SCHEMA,
    Contract,
    Feature,
    Golden,
    State,
    encode_contract,
)
from edge_runtime.errors import ExportError
from edge_runtime.session import Float32, Session, load_model, session_from_bytes
from export.canonical import graphs_of
from export.describe import describe
from export.to_onnx import trace, with_contract
from export.verify import (
    TANH_ERROR,
    TOLERANCE,
    WIDE,
    _moved,
    check_finite,
    check_operators,
    compare_with_itself,
    compare_with_torch,
    in_torch,
    plausible_samples,
    verify,
)
from sample_models import sample_detector, sample_meta, sample_model
from train.cells import GRU
from train.config import ModelConfig
from train.detector import Detector
from train.layers import over_time
from train.trees import Trees

FEATURES = 2
GOLDEN_STEPS, GOLDEN_STREAMS = 4, 3

# Each sample's distance from the one before, which is carried as the state `last`.
DIFFERENCE = (
    helper.make_node("Unsqueeze", ["last", "zero"], ["row"]),
    helper.make_node("Slice", ["x", "zero", "minus_one", "zero"], ["all_but_one"]),
    helper.make_node("Concat", ["row", "all_but_one"], ["before"], axis=0),
    helper.make_node("Sub", ["x", "before"], ["difference"]),
)
SCORE = (
    helper.make_node("Abs", ["difference"], ["distance"]),
    helper.make_node("ReduceMax", ["distance", "two"], ["plain_score"], keepdims=0),
)
AFTER = (helper.make_node("Gather", ["x", "last_row"], ["plain_last"], axis=0),)
CONSTANTS = {
    "zero": np.array([0]),
    "two": np.array([2]),
    "minus_one": np.array([-1]),
    "last_row": np.array(-1),
    "many": np.array(24),
    "tiny": np.array(1e-6, np.float32),
}
HONEST = {"score": "plain_score", "contribution": "difference", "last_next": "plain_last"}

# 1e-6 where the time axis, or the stream axis, is longer than any golden input, else 0.
LONG = (
    helper.make_node("Shape", ["x"], ["size"]),
    helper.make_node("Gather", ["size", "axis"], ["length"], axis=0),
    helper.make_node("Greater", ["length", "many"], ["is_long"]),
    helper.make_node("Cast", ["is_long"], ["long"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["long", "tiny"], ["leak"]),
)


def model(
    more: Sequence[NodeProto] = (), outputs: dict[str, str] = HONEST, leak_axis: int = 1
) -> Session:
    """A stateful graph as a gateway loads it.

    Args:
        more: Further nodes.
        outputs: The tensor that each output gives.
        leak_axis: What `LONG` looks at: 0 is time, 1 is stream.
    """
    named = [helper.make_node("Identity", [source], [name]) for name, source in outputs.items()]
    constants = {**CONSTANTS, "axis": np.array(leak_axis)}
    graph = helper.make_graph(
        [*DIFFERENCE, *SCORE, *AFTER, *more, *named],
        "by_hand",
        [tensor("x", "time", "stream", FEATURES), tensor("last", "stream", FEATURES)],
        [
            tensor("score", "time", "stream"),
            tensor("contribution", "time", "stream", FEATURES),
            tensor("last_next", "stream", FEATURES),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    x = samples(GOLDEN_STEPS, GOLDEN_STREAMS)
    difference = np.diff(x, axis=0, prepend=np.zeros_like(x[:1]))
    contract = Contract(
        schema=CONTRACT_SCHEMA,
        features=(Feature("a"), Feature("b")),
        states=(State("last", "last_next", ("stream", FEATURES)),),
        sample_period_ms=1000.0,
        max_gap_ms=5000.0,
        warm_up_steps=1,
        contribution="contribution",
        golden=Golden(x=x.tolist(), score=np.abs(difference).max(axis=2).tolist()),
    )
    helper.set_model_props(proto, {CONTRACT_KEY: encode_contract(contract)})
    return session_from_bytes(proto.SerializeToString())


def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def samples(steps: int, streams: int) -> Float32:
    rng = np.random.default_rng(6)
    return rng.normal(0, 1, (steps, streams, FEATURES)).astype(np.float32)


def test_an_exact_graph_passes_every_way() -> None:
    # 3 lengths, 3 batches at both ends, and another order.
    assert compare_with_itself(model(), samples(100, WIDE)) == 19


@pytest.mark.parametrize("axis", [0, 1], ids=["long-calls", "wide-batches"])
@pytest.mark.parametrize(
    ("output", "where"),
    [("score", "score"), ("contribution", "contribution"), ("last_next", "state last")],
)
def test_what_shows_only_beyond_the_golden_input_is_found(
    axis: int, output: str, where: str
) -> None:
    """These load on a gateway: the golden vectors are too small to show it."""
    spoil = helper.make_node("Add", [HONEST[output], "leak"], ["spoilt"])
    session = model([*LONG, spoil], {**HONEST, output: "spoilt"}, axis)
    with pytest.raises(ExportError, match=f"^{where}, .* not the same bits, differs by up to"):
        compare_with_itself(session, samples(100, WIDE))


def test_a_neighbour_that_shows_through_is_found() -> None:
    """Each row takes a millionth of the row 40 before it; batches of up to 7 show nothing."""
    leak = (
        helper.make_node("Constant", [], ["forty"], value_ints=[40]),
        helper.make_node("Constant", [], ["end"], value_ints=[2**31]),
        helper.make_node("Constant", [], ["one"], value_ints=[1]),
        helper.make_node("Slice", ["difference", "forty", "end", "one"], ["ahead"]),
        helper.make_node("Slice", ["difference", "zero", "forty", "one"], ["behind"]),
        helper.make_node("Concat", ["ahead", "behind"], ["rolled"], axis=1),
        helper.make_node("Mul", ["rolled", "tiny"], ["whisper"]),
        helper.make_node("Add", ["difference", "whisper"], ["spoilt"]),
    )
    session = model(leak, {**HONEST, "contribution": "spoilt"})
    with pytest.raises(ExportError, match=r"^contribution, 1 of 64 streams from 0, 1 samples a"):
        compare_with_itself(session, samples(100, WIDE))


def test_the_file_agrees_with_what_it_was_exported_from_and_with_nothing_else() -> None:
    session = load_model(sample_model("gru"))
    detector = sample_detector("gru")
    x = plausible_samples(detector, 100, 7, seed=1)
    assert compare_with_torch(session, detector, x) < TOLERANCE
    with pytest.raises(ExportError, match=r"^score: differs from PyTorch by .* allowed is 1e-05"):
        compare_with_torch(session, sample_detector("gru", seed=1), x)


def test_a_state_that_differs_is_found_even_where_no_score_does() -> None:
    """The last row only decides what comes after the comparison."""
    session = load_model(sample_model("gru"))
    detector = sample_detector("gru")
    with torch.no_grad():
        detector.head.linear.bias.add_(1e-3)
    x = plausible_samples(detector, 1, 7, seed=1)
    with pytest.raises(ExportError, match=r"^state forecast: differs from PyTorch"):
        compare_with_torch(session, detector, x)


def test_a_share_that_differs_is_found_even_where_no_score_does() -> None:
    session = load_model(sample_model("gru"))
    detector = sample_detector("gru")
    turn = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    detector.scoring.matrix.copy_(turn)  # the same length, in other directions
    x = plausible_samples(detector, 100, 7, seed=1)
    with pytest.raises(ExportError, match=r"^contribution: differs from PyTorch"):
        compare_with_torch(session, detector, x)


def test_evidence_says_what_was_done() -> None:
    steps: list[str] = []
    evidence = verify(load_model(sample_model("elman")), sample_detector("elman"), steps.append)
    assert (evidence.steps, evidence.streams, evidence.exact_runs) == (512, 7, 19)
    assert 0 < evidence.score_error < TOLERANCE
    assert len(steps) == 2


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("ReduceSum", ["x"], ["y"]), "unexpected operators: ReduceSum$"),
        (helper.make_node("Softmax", ["x"], ["y"]), "unexpected operators: Softmax$"),
        (helper.make_node("Add", ["x"], ["y"], domain="acme"), "unexpected operators: acme$"),
        (helper.make_node("GRU", ["x"], ["y"]), r"wanted .*\['LSTM'\], the graph has .*'GRU'"),
        (helper.make_node("LSTM", ["x"], ["y"]), r"the graph has \['LSTM', 'LSTM'\]"),
        (helper.make_node("Loop", ["x"], ["y"]), "the graph has .*'Loop'"),
    ],
    ids=lambda value: value.op_type if isinstance(value, NodeProto) else "",
)
@pytest.mark.parametrize("depth", [0, 2])
def test_an_operator_that_was_not_meant_is_named(node: NodeProto, reason: str, depth: int) -> None:
    proto = onnx.load(sample_model("lstm"))
    check_operators(proto, sample_detector("lstm"))
    for _ in range(depth):
        node = helper.make_node("Add", ["x"], ["y"], body=helper.make_graph([node], "b", [], []))
    proto.graph.node.append(node)
    assert len(graphs_of(proto.graph)) == 1 + depth
    with pytest.raises(ExportError, match=reason):
        check_operators(proto, sample_detector("lstm"))


def test_a_graph_without_its_recurrent_operator_is_refused() -> None:
    proto = onnx.load(sample_model("lstm"))
    wanted = r"wanted the recurrent operators \['LSTM', 'LSTM'\], the graph has \['LSTM'\]"
    with pytest.raises(ExportError, match=wanted):
        check_operators(proto, sample_detector("lstm", layers=2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name", ["layers.forth.cells.0.U", "head.linear.bias", "scale", "scoring.limit"]
)
def test_a_number_that_is_none_is_named(name: str, value: float) -> None:
    detector = sample_detector()
    check_finite(detector)
    detector.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(ExportError, match=f"^{name} holds NaN or infinity"):
        check_finite(detector)


def test_made_up_samples_are_repeatable_and_lie_where_the_sensors_are() -> None:
    detector = sample_detector()
    x = plausible_samples(detector, 400, 5, seed=2)
    assert x.shape == (400, 5, 3)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, plausible_samples(detector, 400, 5, seed=2))
    assert (x != plausible_samples(detector, 400, 5, seed=3)).any()
    assert abs(np.median(x) - float(detector.mean[0])) < 0.5
    assert 0.5 < np.percentile(np.abs(x - 2.0), 68) / float(detector.scale[0]) < 1.5
    assert np.abs(x - 2.0).max() > 5 * float(detector.scale[0])  # with outliers


# --- Networks that make more of a rounding with every step ---------------------------------------


def exported(detector: Detector) -> Session:
    contract = describe(detector, sample_meta())
    return session_from_bytes(with_contract(trace(detector), contract))


def restless() -> Detector:
    """Jordan's loop with a gain above one: what differs by a bit differs by more at each step."""
    torch.manual_seed(0)
    detector = Detector(("a", "b"), ModelConfig(cell="jordan", hidden=16)).eval()
    with torch.no_grad():
        for name in ("U", "V"):
            detector.layers.forth.cells[0].get_parameter(name).mul_(1.5)
    return detector


def test_roundings_that_grow_are_held_against_the_exact_result() -> None:
    detector = restless()
    session, x = exported(detector), plausible_samples(detector, 128, 7, seed=1)
    _, state = session.run(x, session.contract.initial_state(7))
    apart = np.abs(state["y"] - in_torch(detector, torch.from_numpy(x))["state y"]).max()
    assert apart > 10 * TOLERANCE  # or this would show nothing
    compare_with_torch(session, detector, x)
    with torch.no_grad():
        detector.layers.forth.cells[0].get_parameter("c").add_(1e-4)
    with pytest.raises(ExportError, match=r"^score: differs from PyTorch by 0\.00"):
        compare_with_torch(session, detector, x)


def test_what_forgets_nothing_moves_by_an_error_of_the_tanh_in_each_step() -> None:
    cell = GRU(2, 16).double()
    with torch.no_grad():
        cell.b[16:32] = 40.0  # the update gate: what is there stays
    x = torch.zeros(100, 3, 2, dtype=torch.float64)
    _, (h,) = _moved(cell, x, cell.double().initial_state(3), seed=0)
    torch.testing.assert_close(h.abs(), torch.full_like(h, 100 * TANH_ERROR))
    assert 0 < (h > 0).double().mean() < 1  # to either side
    trees = Trees(("a", "b"), ModelConfig(detector="halfspace")).trees  # of which a step is exact
    state = trees.initial_state(3)
    wanted, _ = over_time(trees, x.float(), state)
    assert torch.equal(_moved(trees, x.float(), state, seed=0)[0], wanted)


def test_a_file_may_be_as_far_off_as_the_kernels_error_moves_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shown with a weight that is off, as no two machines round alike."""
    detector = sample_detector("gru")
    session, x = exported(detector), plausible_samples(detector, 100, 7, seed=1)
    with torch.no_grad():
        detector.layers.forth.cells[0].get_parameter("b").add_(2e-5)
    with pytest.raises(ExportError, match="differs from PyTorch by"):
        compare_with_torch(session, detector, x)
    monkeypatch.setattr(export.verify, "TANH_ERROR", 1e-4)
    compare_with_torch(session, detector, x)
    with torch.no_grad():
        detector.layers.forth.cells[0].get_parameter("b").add_(0.1)
    with pytest.raises(ExportError, match=r"^score: differs from PyTorch by 0\.0"):
        compare_with_torch(session, detector, x)


def test_where_roundings_are_all_that_is_left_nothing_can_be_verified() -> None:
    detector = restless()
    x = plausible_samples(detector, 512, 7, seed=1)
    with pytest.raises(ExportError, match=r"differs from PyTorch by .*, allowed is 0.001"):
        compare_with_torch(exported(detector), detector, x)


def test_an_integer_state_is_equal_or_wrong() -> None:
    """A clock that is off by one among large numbers is no rounding."""
    detector = Detector(("a", "b"), ModelConfig(cell="clockwork", hidden=4, periods=(1, 2**20)))
    session, x = exported(detector.eval()), plausible_samples(detector, 60, 7, seed=1)
    compare_with_torch(session, detector, x)
    begin = Detector.initial_state

    def late(self: Detector, streams: int) -> dict[str, torch.Tensor]:
        state = begin(self, streams)
        return {**state, "clock": state["clock"] + 2**20 - 70}

    contract = session.contract
    moved = [
        msgspec.structs.replace(s, initial=float(2**20 - 69)) if s.input == "clock" else s
        for s in contract.states
    ]
    session.contract = msgspec.structs.replace(contract, states=tuple(moved))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Detector, "initial_state", late)
        with pytest.raises(ExportError, match=r"^state clock: .* differs by up to 1$"):
            compare_with_torch(session, detector, x)
