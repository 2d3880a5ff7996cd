"""Foreign models get a contract, or the reason why not; all of them are real ONNX files."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edge_runtime.contract import CONTRACT_KEY, Contract, Golden
from edge_runtime.errors import AdoptError
from edge_runtime.inference import open_inference, tensors_of
from edge_runtime.pipeline import Pipeline, Settings
from edge_runtime.results import Block
from edge_runtime.session import Session, load_model
from export.adopt import Adopted, adopt
from export.adopt_file import Foreign, Request, read_foreign, suggestion
from handmade_models import LAYOUTS, ONE_STREAM, Layout, layout_graph, one_step_graph
from sample_models import sample_model

SECOND = 1_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def adopted(folder: Path, proto: onnx.ModelProto | bytes, **said: Any) -> Adopted:
    source = folder / "foreign.onnx"
    source.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return adopt(read_foreign(source), Request(**said), folder / "adopted.onnx", lambda _: None)


def refusal(folder: Path, proto: onnx.ModelProto | bytes, **said: Any) -> str:
    with pytest.raises(AdoptError) as caught:
        adopted(folder, proto, **said)
    assert not (folder / "adopted.onnx").exists()
    assert [path.name for path in folder.iterdir() if path.name[0] == "."] == []
    return str(caught.value)


LAYOUT_SAID: dict[str, Any] = {
    "x": "x",
    "score": "score",
    "states": {"sum": "sum_next"},
    "initial": {"sum": 2.0},
    "contribution": "contribution",
}
ONE_STEP_SAID: dict[str, Any] = {
    "x": "x",
    "score": "out",
    "states": {"state": "stateN"},
    "constants": {"sr": 4.0},
}
LSTM_SAID: dict[str, Any] = {"x": "x", "score": "out", "states": {"h": "hn", "c": "cn"}}


def odd_names(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with names of axes that say nothing."""
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = {"time": "s77", "stream": "unk__5", "batch": "Add_dim_0"}.get(
                    dim.dim_param, dim.dim_param
                )
    return proto


# --- what is found out


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_found_out_by_running_it(folder: Path, name: str) -> None:
    layout = LAYOUTS[name]
    found = adopted(folder, odd_names(layout_graph(layout)), **LAYOUT_SAID)
    contract = load_model(found.path).contract
    assert contract.x_shape == layout.x_axes
    assert contract.score_shape == layout.score_axes
    assert contract.x_dtype == layout.x_dtype
    assert contract.feature_names == ("x0", "x1")
    assert not contract.one_stream
    (state,) = contract.states
    assert (state.input, state.output, state.initial) == ("sum", "sum_next", 2.0)
    assert (state.shape, state.dtype) == (layout.state_axes, layout.state_dtype)
    assert found.batches == (58 if "time" in layout.x_axes else 24)
    assert found.warnings == ()


FROZEN = {
    **ONE_STREAM,
    "frozen": Layout(frozen=True),
    "frozen, 1s": Layout(("stream", 1, "feature"), ("stream", 1), (1, 2, "stream"), frozen=True),
}


@pytest.mark.parametrize("name", FROZEN)
def test_a_stream_axis_of_one_wants_consent(folder: Path, name: str) -> None:
    layout = FROZEN[name]
    graph = layout_graph(layout)
    reason = refusal(folder, graph, **LAYOUT_SAID)
    assert "its stream axis has the length 1, or there is none; with --one-stream it" in reason
    found = adopted(folder, graph, **LAYOUT_SAID, one_stream=True)
    contract = load_model(found.path).contract
    assert contract.one_stream
    assert contract.x_shape == layout.x_axes
    assert found.batches == 0
    assert found.warnings[0].startswith("it is called with one stream at a time")


def by_hand(content: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The voice-activity detector called as its maker would: one sample, one stream, a loop."""
    inference = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    state, scores = np.zeros((2, 1, 128), np.float32), []
    for row in x:
        feeds = {"x": row[None], "state": state, "sr": np.array(4, np.int64)}
        score, state = inference.run(["out", "stateN"], feeds)
        scores.append(score[0, 0])
    return np.array(scores)


def test_a_voice_activity_detector_is_what_it_is_by_hand(folder: Path) -> None:
    graph = one_step_graph()
    found = adopted(folder, graph, **ONE_STEP_SAID, features=("left", "right"), warm_up_steps=3)
    session = load_model(found.path)
    assert session.contract.x_shape == ("stream", "feature")
    assert session.contract.score_shape == ("stream", 1)
    assert session.contract.states[0].shape == (2, "stream", 128)
    assert session.contract.feature_names == ("left", "right")
    pipeline = Pipeline(session, Settings())
    x = np.random.default_rng(4).normal(0, 2, (5, 60, 2)).astype(np.float32)
    ts = np.arange(60) * SECOND
    scored: dict[str, list[float]] = {f"s{n}": [] for n in range(5)}
    for start, stop in ((0, 1), (1, 20), (20, 60)):  # live, an array, a catch-up; all batched
        blocks = [Block(f"s{n}", ts[start:stop], x[n, start:stop]) for n in range(5)]
        for part in pipeline.process(blocks, None).scored:
            scored[part.stream] += part.score.tolist()
    for n in range(5):
        assert scored[f"s{n}"] == by_hand(graph.SerializeToString(), x[n]).tolist()


def lstm_graph(*, hidden: int = 6, seed: int = 1) -> onnx.ModelProto:
    """``x [time, stream, 3]``, ``h``, ``c`` ``[1, stream, hidden]``; ``out [time, stream, 1]``."""
    rng = np.random.default_rng(seed)
    shapes = {
        "W": (1, 4 * hidden, 3),
        "R": (1, 4 * hidden, hidden),
        "B": (1, 8 * hidden),
        "w_out": (hidden, 1),
    }
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    weights.append(numpy_helper.from_array(np.array([1]), "one"))
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["y", "hn", "cn"], hidden_size=hidden),
        node("Squeeze", ["y", "one"], ["hidden"]),
        node("MatMul", ["hidden", "w_out"], ["out"]),
    ]
    carried = (1, "N", hidden)
    graph = helper.make_graph(
        nodes,
        "lstm",
        [
            info("x", TensorProto.FLOAT, ("T", "N", 3)),
            info("h", TensorProto.FLOAT, carried),
            info("c", TensorProto.FLOAT, carried),
        ],
        [
            info("out", TensorProto.FLOAT, ("T", "N", 1)),
            info("hn", TensorProto.FLOAT, carried),
            info("cn", TensorProto.FLOAT, carried),
        ],
        weights,
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def test_swapped_pairs_are_named_with_the_right_ones(folder: Path) -> None:
    found = adopted(folder, lstm_graph(), **LSTM_SAID)
    assert found.contract.x_shape == ("time", "stream", "feature")
    assert found.contract.score_shape == ("time", "stream", 1)
    found.path.unlink()
    reason = refusal(folder, lstm_graph(), x="x", score="out", states={"h": "cn", "c": "hn"})
    assert "24 steps at once are not 24 steps by 1 with the state carried: score differs" in reason
    assert "it is with --state h=hn --state c=cn" in reason


def test_swapped_pairs_are_not_hidden_by_calling_it_step_by_step(folder: Path) -> None:
    """Without a stream axis ``x [T, 3]`` could also be one step of several streams."""
    proto = lstm_graph()
    proto.graph.node[0].input[0] = "x_wide"
    proto.graph.node.insert(0, helper.make_node("Unsqueeze", ["x", "one"], ["x_wide"]))
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name == "x":
            del dims[1]
        else:
            dims[1].dim_value = 1
    right = adopted(folder, proto, **LSTM_SAID, one_stream=True)
    assert right.contract.x_shape == ("time", "feature")
    right.path.unlink()
    said: dict[str, Any] = {**LSTM_SAID, "states": {"h": "cn", "c": "hn"}, "one_stream": True}
    assert "it is with --state h=hn --state c=cn" in refusal(folder, proto, **said)


def test_swapped_pairs_of_a_one_step_model_cannot_be_told_which_is_said(folder: Path) -> None:
    found = adopted(folder, lstm_graph(), **LSTM_SAID, axes=(1, "stream", "feature"))
    assert found.contract.x_shape == (1, "stream", "feature")
    assert any("h, c have one shape" in warning for warning in found.warnings)


def test_a_model_that_is_another_at_once_is_refused_with_the_difference(folder: Path) -> None:
    """It takes the mean over time away, which a single step does not have."""
    proto = layout_graph(Layout())
    axes = numpy_helper.from_array(np.array([0]), "time_axis")
    proto.graph.initializer.append(axes)
    for node in proto.graph.node:
        node.input[:] = ["x_off" if name == "x" else name for name in node.input]
    proto.graph.node.insert(0, helper.make_node("ReduceMean", ["x", "time_axis"], ["level"]))
    proto.graph.node.insert(1, helper.make_node("Sub", ["x", "level"], ["x_off"]))
    reason = refusal(folder, proto, **LAYOUT_SAID)
    assert "x as [time, stream, feature]: 24 steps at once are not 24 steps by 1" in reason
    assert "differs by up to" in reason
    assert "--axes 1,stream,feature would call it sample by sample" in reason
    found = adopted(folder, proto, **LAYOUT_SAID, axes=(1, "stream", "feature"))
    assert found.contract.x_shape == (1, "stream", "feature")


def test_rows_that_influence_each_other_are_refused_for_batching(folder: Path) -> None:
    graph = layout_graph(Layout(mixing=True))
    reason = refusal(folder, graph, **LAYOUT_SAID)
    assert "rows influence each other: a row's score differs by up to" in reason
    assert "with --one-stream it is called with one stream at a time" in reason
    found = adopted(folder, graph, **LAYOUT_SAID, one_stream=True)
    assert load_model(found.path).contract.one_stream
    assert found.warnings == (
        "it is called with one stream at a time, which costs a call for each",
    )


def test_consent_that_is_not_needed_is_said(folder: Path) -> None:
    found = adopted(folder, layout_graph(Layout()), **LAYOUT_SAID, one_stream=True)
    assert "its rows are independent, --one-stream is not needed" in found.warnings[0]


def test_a_neighbour_that_matters_only_when_it_is_wild_is_found(folder: Path) -> None:
    """The largest sample of all rows, beyond 1000, is added to each."""
    proto = layout_graph(Layout())
    proto.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(1000, np.float32), "limit"),
            numpy_helper.from_array(np.array([1, 2]), "row_axes"),
        ]
    )
    for node in proto.graph.node:
        node.input[:] = ["x_pushed" if name == "x" else name for name in node.input]
    new = [
        helper.make_node("ReduceMax", ["x", "row_axes"], ["largest"]),
        helper.make_node("Sub", ["largest", "limit"], ["above"]),
        helper.make_node("Relu", ["above"], ["push"]),
        helper.make_node("Add", ["x", "push"], ["x_pushed"]),
    ]
    for at, node in enumerate(new):
        proto.graph.node.insert(at, node)
    reason = refusal(folder, proto, **LAYOUT_SAID)
    assert "rows influence each other: beside 6 wild ones a row's score differs by up to" in reason


# --- axes that cannot be found out


def memoryless(*shape: int | str) -> onnx.ModelProto:
    """``abs`` of one sensor: it does the same whatever its axes mean."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("Squeeze", ["size", "last"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "memoryless",
        [info("x", TensorProto.FLOAT, shape)],
        [info("score", TensorProto.FLOAT, shape[:-1])],
        [numpy_helper.from_array(np.array([-1]), "last")],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def test_axes_that_cannot_be_told_are_asked_for(folder: Path) -> None:
    graph = memoryless("A", "B", 1)
    reason = refusal(folder, graph, x="x", score="score")
    assert "[stream, time, feature]" in reason
    assert "[time, stream, feature]" in reason
    assert "it runs as well as each: say --axes" in reason
    axes = ("stream", "time", "feature")
    found = adopted(folder, graph, x="x", score="score", axes=axes)
    assert found.contract.x_shape == axes
    assert found.contract.score_shape == ("stream", "time")
    assert "nothing is carried: the model has no memory" in found.warnings


def test_a_number_of_features_that_is_open_is_asked_for(folder: Path) -> None:
    graph = memoryless("A", "B", 1)
    graph.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "F"
    reason = refusal(folder, graph, x="x", score="score")
    assert "if the number of features is open, say --features COUNT" in reason
    said: dict[str, Any] = {"x": "x", "score": "score", "axes": ("time", "stream", "feature")}
    assert "say --features COUNT" in refusal(folder, graph, **said)
    assert len(adopted(folder, graph, **said, feature_count=1).contract.features) == 1


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (("time", "stream"), "got ['time', 'stream']"),
        (("stream", "feature"), "wanted 3 axes, got ['stream', 'feature']"),
        (("time", "stream", "sensor"), "got ['time', 'stream', 'sensor']"),
    ],
)
def test_axes_that_make_no_sense(folder: Path, axes: tuple[str, ...], words: str) -> None:
    reason = refusal(folder, layout_graph(Layout()), **LAYOUT_SAID, axes=axes)
    assert "--axes for x float32 [time, stream, 2]: " in reason
    assert words in reason


def test_wrong_axes_are_refused_with_what_went_wrong(folder: Path) -> None:
    reason = refusal(
        folder, layout_graph(Layout()), **LAYOUT_SAID, axes=("stream", "time", "feature")
    )
    assert "x as [stream, time, feature]: " in reason


def test_a_state_with_several_open_lengths_is_asked_for(folder: Path) -> None:
    proto = one_step_graph()
    proto.graph.input[1].type.tensor_type.shape.dim[2].dim_param = "hidden"
    reason = refusal(folder, proto, **ONE_STEP_SAID)
    assert "state state: float32 [2, batch, hidden] leaves 2 lengths open" in reason
    shapes = {"state": (2, "stream", 128)}
    assert adopted(folder, proto, **ONE_STEP_SAID, shapes=shapes).contract.states[0].shape == (
        2,
        "stream",
        128,
    )
    wrong = {"state": (3, "stream", 128)}
    (folder / "adopted.onnx").unlink()
    reason = refusal(folder, proto, **ONE_STEP_SAID, shapes=wrong)
    assert "[3, 'stream', 128] does not fit the file's float32 [2, batch, hidden]" in reason


# --- what was said and does not fit


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"x": "X"}, ["no input 'X', it has x, state, sr", "input 'x' float32 [batch, 2] is"]),
        ({"score": "oot"}, ["no output 'oot', it has out, stateN; did you mean out?"]),
        ({"states": {}}, ["input 'state' float32 [2, batch, 128] is neither x, a state nor a"]),
        ({"constants": {}}, ["input 'sr' int64 [] is neither", "say --constant sr=VALUE or"]),
        ({"constants": {"sr": 4, "state": 1}}, ["input 'state' is said to be two things"]),
        ({"states": {"state": "out"}}, ["output 'out' is said to be two things"]),
        ({"states": {"state": "out"}, "score": "stateN"}, ["its successor must have its dtype"]),
        ({"states": {"x": "stateN", "state": "stateN"}}, ["output 'stateN' is said to be two"]),
        ({"initial": {"stat": 1}}, ["--initial stat: no such --state"]),
        ({"constants": {"sr": 0.5}}, ["constant sr: 0.5 is no int64, which the file has"]),
        ({"constants": {"sr": 1e30}}, ["constant sr: 1e+30 is no int64"]),
        ({"initial": {"state": 1e300}}, ["float32 does not hold the initial value 1e+300"]),
        ({"features": ("a", "b", "c")}, ["x x: float32 [batch, 2] has no place for 3 features"]),
        ({"features": ("a", "a")}, ["feature 'a' stands twice"]),
        ({"period_ms": 0.0}, ["sample_period_ms must be positive"]),
    ],
)
def test_what_was_said_is_compared_with_the_file(
    folder: Path, said: dict[str, Any], words: list[str]
) -> None:
    reason = refusal(folder, one_step_graph(), **{**ONE_STEP_SAID, **said})
    assert all(word in reason for word in words), reason
    assert "foreign.onnx: " in reason


def test_everything_that_does_not_fit_is_said_at_once(folder: Path) -> None:
    reason = refusal(folder, one_step_graph(), x="a", score="b", states={"c": "d"})
    assert len(reason.splitlines()) == 7


def with_node(change: Callable[[onnx.GraphProto], object]) -> onnx.ModelProto:
    proto = layout_graph(Layout())
    change(proto.graph)
    return proto


def noisy(graph: onnx.GraphProto) -> None:
    graph.node[-2].output[0] = "quiet"
    graph.node.insert(
        len(graph.node) - 1, helper.make_node("RandomNormalLike", ["quiet"], ["dust"])
    )
    graph.node.insert(len(graph.node) - 1, helper.make_node("Add", ["quiet", "dust"], ["score"]))


def rooted(graph: onnx.GraphProto) -> None:
    graph.node[-2].output[0] = "plain"
    graph.node.insert(len(graph.node) - 1, helper.make_node("Sqrt", ["plain"], ["score"]))


def stuck(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.output[:] = ["unused" if name == "sum_next" else name for name in node.output]
    graph.node.append(helper.make_node("Sub", ["sum", "sum"], ["sum_next"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (noisy, "two equal runs do not give the same bits: score differs by up to"),
        (rooted, "score score is nan at step"),
        (stuck, "24 steps at once are not 24 steps by 1 with the state carried"),
    ],
)
def test_what_no_detector_does_is_refused(
    folder: Path, change: Callable[[onnx.GraphProto], object], words: str
) -> None:
    assert words in refusal(folder, with_node(change), **LAYOUT_SAID)


def test_a_successor_that_is_always_the_same_is_refused(folder: Path) -> None:
    said = {**LAYOUT_SAID, "axes": (1, "stream", "feature")}
    reason = refusal(folder, with_node(stuck), **said)
    assert (
        "output sum_next is always 0.0, whatever the samples and states are: is it the successor "
        "of sum?"
    ) in reason


def test_a_state_that_is_never_read_is_worth_a_warning(folder: Path) -> None:
    proto = one_step_graph()
    info = helper.make_tensor_value_info
    proto.graph.input.append(info("idle", TensorProto.FLOAT, ("batch", 2)))
    proto.graph.output.append(info("idle_next", TensorProto.FLOAT, ("batch", 2)))
    proto.graph.node.append(helper.make_node("Neg", ["x"], ["idle_next"]))
    states = {"state": "stateN", "idle": "idle_next"}
    found = adopted(folder, proto, **{**ONE_STEP_SAID, "states": states})
    assert found.warnings == ("state idle is never read: changing it changes nothing",)


def test_dtypes_that_nobody_can_carry(folder: Path) -> None:
    proto = one_step_graph()
    proto.graph.input.append(helper.make_tensor_value_info("text", TensorProto.STRING, ("batch",)))
    proto.graph.output.append(helper.make_tensor_value_info("same", TensorProto.STRING, ("batch",)))
    proto.graph.node.append(helper.make_node("Identity", ["text"], ["same"]))
    said = {**ONE_STEP_SAID, "states": {"state": "stateN", "text": "same"}}
    assert "state text: wanted one of float32" in refusal(folder, proto, **said)
    assert "the file has tensor(string)" in refusal(folder, proto, **said)


def test_axes_with_one_name_are_refused(folder: Path) -> None:
    reason = refusal(folder, memoryless("N", "N", 1), x="x", score="score")
    assert "x x: axes [0, 1] have one length, 'N': they cannot be told apart" in reason


def test_files_that_no_gateway_opens_are_refused(folder: Path) -> None:
    with pytest.raises(AdoptError, match=r"nowhere\.onnx: cannot be read: No such file"):
        read_foreign(folder / "nowhere.onnx")
    assert "is truncated or not an ONNX file" in refusal(
        folder, b"time;a;b\n" * 9, x="x", score="s"
    )
    custom = one_step_graph()
    custom.graph.node[0].domain = "com.acme"
    assert "uses a custom operator" in refusal(folder, custom, **ONE_STEP_SAID)
    outside = one_step_graph()
    tensor = next(t for t in outside.graph.initializer if t.name == "W")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    assert "keeps its weights in another file" in refusal(folder, outside, **ONE_STEP_SAID)


# --- the file that is written


def test_the_rest_of_the_file_stays_as_it_is(folder: Path) -> None:
    proto = one_step_graph()
    helper.set_model_props(proto, {"licence": "MIT", "author": "somebody"})
    found = adopted(folder, proto, **ONE_STEP_SAID)
    written = onnx.load(found.path)
    assert [prop.key for prop in written.metadata_props] == ["licence", "author", CONTRACT_KEY]
    del written.metadata_props[2]
    assert written.SerializeToString(deterministic=True) == proto.SerializeToString(
        deterministic=True
    )
    assert found.size == found.path.stat().st_size


def test_a_contract_is_replaced_and_not_doubled(folder: Path) -> None:
    first = adopted(folder, one_step_graph(), **ONE_STEP_SAID)
    second = adopted(folder, first.path.read_bytes(), **ONE_STEP_SAID, warm_up_steps=9)
    keys = [prop.key for prop in onnx.load(second.path).metadata_props]
    assert keys == [CONTRACT_KEY]
    assert load_model(second.path).contract.warm_up_steps == 9


def test_our_own_model_is_adopted_as_it_was_exported(folder: Path) -> None:
    own = load_model(sample_model("gru")).contract
    found = adopted(
        folder,
        sample_model("gru").read_bytes(),
        x="x",
        score="score",
        states={"h": "h_next", "forecast": "forecast_next"},
        contribution="contribution",
        features=own.feature_names,
        warm_up_steps=own.warm_up_steps,
    )
    assert isinstance(found.contract, Contract)
    for name in ("features", "states", "x_shape", "score_shape", "contribution", "one_stream"):
        assert getattr(found.contract, name) == getattr(own, name)


def test_shapes_of_outputs_that_the_file_does_not_say_are_added(folder: Path) -> None:
    proto = one_step_graph()
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    found = adopted(folder, proto, **ONE_STEP_SAID)
    assert load_model(found.path).contract.score_shape == ("stream", 1)


def test_shapes_of_outputs_that_the_file_says_wrongly_are_set_right(folder: Path) -> None:
    """Some exporters write the example's length of the stream axis for a score."""
    proto = one_step_graph()
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    found = adopted(folder, proto, **ONE_STEP_SAID)
    assert load_model(found.path).contract.score_shape == ("stream", 1)


def test_a_successor_of_another_shape_is_refused(folder: Path) -> None:
    proto = one_step_graph()
    at = next(i for i, node in enumerate(proto.graph.node) if node.op_type == "Concat")
    del proto.graph.node[at]
    new = [  # as many as the constant says, which the file cannot know
        helper.make_node("Unsqueeze", ["sr", "zero"], ["times"]),
        helper.make_node("Concat", ["times", "one", "one"], ["repeats"], axis=0),
        helper.make_node("Tile", ["h_n", "repeats"], ["stateN"]),
    ]
    for place, node in enumerate(new):
        proto.graph.node.insert(at + place, node)
    for axis, dim in enumerate(proto.graph.output[1].type.tensor_type.shape.dim):
        dim.dim_param = f"open_{axis}"
    reason = refusal(folder, proto, **ONE_STEP_SAID)
    assert (
        "output stateN must have the shape [2, 3, 128] for 1 steps of 3 streams, got [4, 3, 128]"
    ) in reason


def test_a_file_that_no_gateway_would_load_is_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = Golden(x=[[[1.0, 2.0]]], score=[[17.0]])
    monkeypatch.setattr("export.adopt._golden", lambda *_: golden)
    assert "does not reproduce the golden score" in refusal(
        folder, one_step_graph(), **ONE_STEP_SAID
    )


def test_golden_vectors_come_from_the_graph_as_it_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    opened = open_inference

    def watched(content: bytes, *, optimise: bool = True) -> ort.InferenceSession:
        asked.append(optimise)
        return opened(content, optimise=optimise)

    monkeypatch.setattr("export.adopt.open_inference", watched)
    golden = adopted(folder, one_step_graph(), **ONE_STEP_SAID).contract.golden
    assert asked == [True, False]
    assert np.asarray(golden.x).shape == (24, 3, 2)
    assert np.ptp(golden.score) > 0.1


def test_many_features_make_a_short_golden_input(folder: Path) -> None:
    found = adopted(folder, one_step_graph(features=576), **ONE_STEP_SAID)
    assert np.asarray(found.contract.golden.x).shape == (4, 3, 576)


def test_a_look_ahead_is_taken_at_its_word(folder: Path) -> None:
    found = adopted(folder, layout_graph(Layout()), **LAYOUT_SAID, look_ahead=3)
    session = load_model(found.path)
    assert session.contract.look_ahead == 3
    assert np.asarray(session.contract.golden.x).shape == (27, 3, 2)


# --- models by other tools


class Watcher(nn.Module):
    """One step of a GRU and a distance, as somebody may write it who knows nothing of us."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.cell(x, hidden)
        return (self.head(hidden) - x).square().mean(dim=1, keepdim=True), hidden


class Sequence(nn.Module):
    """An LSTM over time with its state in the open."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 16)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x, (h, c))
        return self.head(y).squeeze(-1), h, c


class Simple(nn.Module):
    """As `Sequence`, with a plain RNN."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(8, 64)
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.rnn(x, h)
        return self.head(y).squeeze(-1), h


def exported(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, **options: Any) -> bytes:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own, about their own parts
        torch.onnx.export(module.eval(), inputs, path, **options)
    return path.read_bytes()


def scores_of(session: Session, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return session.run(x, session.contract.initial_state(x.shape[1]))[0].score


def test_a_cell_by_the_dynamo_exporter(folder: Path) -> None:
    module, stream = Watcher(), torch.export.Dim("n", min=1)
    content = exported(
        module,
        (torch.zeros(3, 3), torch.zeros(3, 16)),
        folder / "dynamo.onnx",
        dynamo=True,
        input_names=["x", "hidden"],
        output_names=["error", "hidden_out"],
        dynamic_shapes=({0: stream}, {0: stream}),
        external_data=False,
        verbose=False,
    )
    found = adopted(folder, content, x="x", score="error", states={"hidden": "hidden_out"})
    assert found.contract.x_shape == ("stream", "feature")
    assert found.contract.score_shape == ("stream", 1)
    x = np.random.default_rng(0).normal(size=(20, 4, 3)).astype(np.float32)
    hidden, wanted = torch.zeros(4, 16), []
    with torch.no_grad():
        for row in torch.from_numpy(x):
            score, hidden = module(row, hidden)
            wanted.append(score[:, 0].numpy())
    assert np.allclose(scores_of(load_model(found.path), x), wanted, rtol=1e-5, atol=1e-6)


def test_a_sequence_by_the_torchscript_exporter(folder: Path) -> None:
    module = Sequence()
    carried = {1: "batch"}
    content = exported(
        module,
        (torch.zeros(5, 3, 3), torch.zeros(1, 3, 16), torch.zeros(1, 3, 16)),
        folder / "script.onnx",
        dynamo=False,
        opset_version=17,
        input_names=["x", "h", "c"],
        output_names=["score", "h_n", "c_n"],
        dynamic_axes={
            "x": {0: "length", 1: "batch"},
            "score": {0: "length", 1: "batch"},
            **dict.fromkeys(("h", "c", "h_n", "c_n"), carried),
        },
    )
    found = adopted(folder, content, x="x", score="score", states={"h": "h_n", "c": "c_n"})
    assert found.contract.x_shape == ("time", "stream", "feature")
    assert found.contract.score_shape == ("time", "stream")
    x = np.random.default_rng(0).normal(size=(20, 4, 3)).astype(np.float32)
    zero = torch.zeros(1, 4, 16)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x), zero, zero)[0].numpy()
    assert np.allclose(scores_of(load_model(found.path), x), wanted, rtol=1e-5, atol=1e-6)
    found.path.unlink()
    swapped = refusal(folder, content, x="x", score="score", states={"h": "c_n", "c": "h_n"})
    assert "it is with --state h=h_n --state c=c_n" in swapped


def test_a_kernel_that_rounds_with_the_size_of_the_batch_is_refused(folder: Path) -> None:
    """Onnxruntime's ``RNN`` does; its difference is in the last bits."""
    module = Simple()
    content = exported(
        module,
        (torch.zeros(5, 3, 8), torch.zeros(1, 3, 64)),
        folder / "simple.onnx",
        dynamo=False,
        opset_version=17,
        input_names=["x", "h"],
        output_names=["score", "h_n"],
        dynamic_axes={
            "x": {0: "length", 1: "batch"},
            "score": {0: "length", 1: "batch"},
            "h": {1: "batch"},
            "h_n": {1: "batch"},
        },
    )
    said: dict[str, Any] = {"x": "x", "score": "score", "states": {"h": "h_n"}}
    reason = refusal(folder, content, **said)
    assert "rows influence each other: a row's score differs by up to" in reason
    assert 0 < float(reason.partition("by up to ")[2].partition(" ")[0]) < 1e-3


# --- the suggestion


def test_the_suggestion_is_a_command_that_works_here() -> None:
    path = Path("m.onnx")
    foreign = read_of(one_step_graph(), path)
    assert suggestion(foreign) == (
        "andon adopt m.onnx --input x --state state=stateN --constant sr=VALUE --score out "
        "-o ADOPTED.onnx"
    )
    assert suggestion(read_of(lstm_graph(), path)) == (
        "andon adopt m.onnx --input x --state h=hn --state c=cn --score out -o ADOPTED.onnx"
    )


def read_of(proto: onnx.ModelProto, path: Path) -> Foreign:
    content = proto.SerializeToString()

    inference = open_inference(content)
    inputs, outputs = tensors_of(inference.get_inputs()), tensors_of(inference.get_outputs())
    return Foreign(path, content, inputs, outputs, has_contract=False)
