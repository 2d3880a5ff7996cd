"""Loading and running model files: what is refused and how it is said, and what a run promises."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx.external_data_helper import set_external_data

import handmade_models
from edge_runtime.contract import (
    CONTRACT_KEY,
    Contract,
    State,
    decode_contract,
    encode_contract,
)
from edge_runtime.errors import ModelError, StateError
from edge_runtime.session import Session, load_model, session_from_bytes
from handmade_models import LAYOUTS, ONE_STREAM, Layout, layout_model
from sample_models import FEATURES, sample_model

Change = Callable[[onnx.ModelProto], object]


@pytest.fixture(scope="module")
def content() -> bytes:
    return sample_model().read_bytes()


@pytest.fixture(scope="module")
def lstm(content: bytes) -> Session:
    return session_from_bytes(content)


def refusal(content: bytes) -> str:
    with pytest.raises(ModelError) as caught:
        session_from_bytes(content)
    return str(caught.value)


def changed(content: bytes, change: Change) -> bytes:
    proto = onnx.load_from_string(content)
    change(proto)
    result: bytes = proto.SerializeToString()
    return result


def with_document(content: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    proto = onnx.load_from_string(content)
    document = json.loads(proto.metadata_props[0].value)
    change(document)
    return handmade_models.set_contract(proto, json.dumps(document))


def samples(
    steps: int, streams: int, seed: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    shape = (steps, streams, len(FEATURES))
    return np.random.default_rng(seed).normal(2, 3, shape).astype(np.float32)


# --- files that are refused


def test_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"pump\.onnx: cannot be read: No such file"):
        load_model(tmp_path / "pump.onnx")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        load_model(tmp_path)
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelError, match=r"empty\.onnx: is empty or not an ONNX file"):
        load_model(tmp_path / "empty.onnx")


@pytest.mark.parametrize(
    "content", [b"time;a;b\n1;2;3\n", b"\0" * 100, b"\x18\0\0\0ORTM" + b"\0" * 100, b"{}"]
)
def test_what_is_not_onnx(content: bytes) -> None:
    assert "not an ONNX file" in refusal(content)


def test_no_truncated_file_is_accepted(content: bytes) -> None:
    lengths = {
        *range(0, 100, 9),
        *range(100, len(content), 401),
        *range(len(content) - 20, len(content)),
    }
    for length in lengths:
        reason = refusal(content[:length])
        assert "truncated" in reason or "is empty or not" in reason, (length, reason)


def test_a_file_cut_at_the_end_of_a_field(content: bytes) -> None:
    def last_field_gone(name: str) -> bytes:
        return changed(content, lambda proto: proto.ClearField(name))

    assert "has no contract" in refusal(last_field_gone("metadata_props"))
    assert "is empty or not an ONNX file" in refusal(last_field_gone("graph"))
    refusal(last_field_gone("opset_import"))


def test_no_contract_says_what_to_do(content: bytes) -> None:
    reason = refusal(changed(content, lambda proto: proto.ClearField("metadata_props")))
    assert "andon export" in reason


def test_a_contract_that_is_not_text(content: bytes) -> None:
    mark = "Q" * 32
    proto = onnx.load_from_string(content)
    damaged = handmade_models.set_contract(proto, mark).replace(mark.encode(), b"\xff" * 32)
    assert "is not UTF-8" in refusal(damaged)


def test_a_newer_contract(content: bytes) -> None:
    reason = refusal(with_document(content, lambda document: document.update(schema=4)))
    assert "schema 4 is newer than this andon, which reads schemas 1 to 3: upgrade andon" in reason


def test_a_contract_that_does_not_fit_the_graph(content: bytes) -> None:
    reason = refusal(changed(content, lambda proto: proto.graph.output.pop()))
    assert "no output 'forecast_next'" in reason


def test_a_golden_score_that_this_processor_does_not_give(content: bytes) -> None:
    def change(document: dict[str, object]) -> None:
        document["golden"]["score"][3][1] += 0.01  # type: ignore[index]

    reason = refusal(with_document(content, change))
    assert "does not reproduce the golden score: it differs by 0.01" in reason
    assert ort.__version__ in reason


def test_a_golden_contribution_that_this_processor_does_not_give(content: bytes) -> None:
    def change(document: dict[str, object]) -> None:
        document["golden"]["contribution"][0][0][0] += 0.01  # type: ignore[index]

    assert "the golden contribution" in refusal(with_document(content, change))


def test_changed_weights_are_found_by_the_golden_vectors(content: bytes) -> None:
    def change(proto: onnx.ModelProto) -> None:
        weights = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weights.raw_data = weights.raw_data[4:] + weights.raw_data[:4]

    assert "does not reproduce" in refusal(changed(content, change))


@pytest.mark.parametrize(
    ("golden", "complaint"),
    [
        ({"x": [[[1, 2, 3]], [[1, 2]]], "score": [[1]]}, "golden x has rows of unequal length"),
        ({"x": [[[1, 2, 1e39]]], "score": [[1]]}, "golden x holds a number that is no finite"),
        ({"x": [[[1, 2]]], "score": [[1]]}, "the golden input does not fit: x wants float32"),
        ({"x": [], "score": []}, "the golden input does not fit"),
        ({"x": [[[1, 2, 3]]], "score": [[1], [1]]}, "wants [2, 1], the model gives [1, 1]"),
    ],
)
def test_golden_vectors_that_make_no_sense(
    content: bytes, golden: dict[str, object], complaint: str
) -> None:
    reason = refusal(with_document(content, lambda document: document.update(golden=golden)))
    assert complaint in reason


def external(content: bytes, folder: Path, least: int) -> Path:
    """The model with its larger weights in ``weights.bin``."""
    proto = onnx.load_from_string(content)
    moved = [tensor for tensor in proto.graph.initializer if len(tensor.raw_data) >= least]
    (folder / "weights.bin").write_bytes(b"".join(tensor.raw_data for tensor in moved))
    offset = 0
    for tensor in moved:
        length = len(tensor.raw_data)
        set_external_data(tensor, "weights.bin", offset, length)
        tensor.ClearField("raw_data")
        offset += length
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("least", [1, 1000], ids=["all", "weights"])
@pytest.mark.parametrize("inside", [True, False], ids=["started-there", "started-elsewhere"])
def test_external_data_is_refused_wherever_the_gateway_is_started(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, *, inside: bool
) -> None:
    path = external(content, tmp_path, least)
    if inside:
        monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"model\.onnx: keeps its weights in another file"):
        load_model(path)


def first_node(**fields: str) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        for name, value in fields.items():
            setattr(proto.graph.node[0], name, value)

    return change


def opset(version: int) -> Change:
    return lambda proto: setattr(proto.opset_import[0], "version", version)


def known_domain(proto: onnx.ModelProto) -> None:
    first_node(domain="com.acme")(proto)
    proto.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (known_domain, ["uses a custom operator", "com.acme:Sub"]),
        (first_node(domain="com.acme"), ["uses a custom operator", "'com.acme'"]),
        (
            first_node(op_type="Frobnicate", name="external_opset_flow"),
            ["uses an operator that this onnxruntime does not have", "Frobnicate"],
        ),
        (opset(99), ["is written for a newer onnxruntime", "opset"]),
        (opset(5), ["onnxruntime refuses it", "Unsqueeze"]),
        (
            lambda proto: setattr(proto, "ir_version", 99),
            ["is written for a newer onnxruntime", "IR version: 99"],
        ),
    ],
    ids=["custom-domain", "no-import", "unknown-operator", "opset-99", "opset-5", "ir-99"],
)
def test_what_this_onnxruntime_cannot_run(content: bytes, change: Change, words: list[str]) -> None:
    reason = refusal(changed(content, change))
    assert all(word in reason for word in words), reason
    assert "\n" not in reason
    assert "ONNXRuntimeError" not in reason


def test_a_model_whose_batch_changes_a_score_is_refused() -> None:
    """A score that looks at its neighbours: the mean over the stream axis."""
    nodes = [
        onnx.helper.make_node("ReduceMean", ["x", "both"], ["mean"], keepdims=1),
        onnx.helper.make_node("Sub", ["x", "mean"], ["apart"]),
        onnx.helper.make_node("ReduceSum", ["apart", "last"], ["score"], keepdims=0),
        onnx.helper.make_node("Identity", ["h"], ["h_next"]),
    ]
    reason = refusal(_entangled(nodes))
    assert "scores a sample alone otherwise than the same sample in a batch" in reason


def test_a_model_whose_batch_changes_a_state_is_refused() -> None:
    nodes = [
        onnx.helper.make_node("ReduceSum", ["x", "last"], ["score"], keepdims=0),
        onnx.helper.make_node("ReduceSum", ["h", "both"], ["all"], keepdims=1),
        onnx.helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        onnx.helper.make_node("Add", ["all", "most"], ["more"]),
        onnx.helper.make_node("Add", ["h", "more"], ["h_next"]),
    ]
    assert "with another state h" in refusal(_entangled(nodes))


def _entangled(nodes: list[onnx.NodeProto]) -> bytes:
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    numbers = {"both": [0, 1], "last": [2]}
    used = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        nodes,
        "entangled",
        [info("x", kind, ("time", "stream", 2)), info("h", kind, ("stream", 1))],
        [info("score", kind, ("time", "stream")), info("h_next", kind, ("stream", 1))],
        [
            onnx.numpy_helper.from_array(np.array(value), name)
            for name, value in numbers.items()
            if name in used
        ],
    )
    proto = onnx.helper.make_model(
        graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    state = State(input="h", output="h_next", shape=("stream", 1))
    return handmade_models.with_contract(proto, [state])


# --- running


def test_the_digest_is_that_of_the_file(lstm: Session, content: bytes) -> None:
    assert session_from_bytes(content).digest == lstm.digest
    proto = onnx.load_from_string(content)
    other = handmade_models.set_contract(proto, proto.metadata_props[0].value + " ")
    assert session_from_bytes(other).digest != lstm.digest


def test_run_changes_neither_samples_nor_state(lstm: Session) -> None:
    x, state = samples(7, 3), lstm.contract.initial_state(3)
    _, state = lstm.run(x, state)
    before = x.copy(), {name: value.copy() for name, value in state.items()}
    first, after = lstm.run(x, state)
    assert np.array_equal(x, before[0])
    assert all(np.array_equal(state[name], value) for name, value in before[1].items())
    second, _ = lstm.run(x, state)
    assert np.array_equal(first.score, second.score)
    assert not np.array_equal(after["h"], state["h"])


def test_run_gives_the_promised_shapes(lstm: Session) -> None:
    outputs, state = lstm.run(samples(7, 3), lstm.contract.initial_state(3))
    assert outputs.score.shape == (7, 3)
    assert outputs.contribution is not None
    assert outputs.contribution.shape == (7, 3, len(FEATURES))
    assert set(state) == {pair.input for pair in lstm.contract.states}


def test_a_sliced_input_gives_the_same_scores(lstm: Session) -> None:
    wide = samples(9, 4)
    state = lstm.contract.initial_state(2)
    sliced, _ = lstm.run(wide[::2, 1:3], state)
    packed, _ = lstm.run(np.ascontiguousarray(wide[::2, 1:3]), state)
    assert np.array_equal(sliced.score, packed.score)


def test_a_state_of_another_width_names_both_shapes(lstm: Session) -> None:
    state = lstm.contract.initial_state(3)
    state["h"] = np.zeros((3, 16), np.float32)
    with pytest.raises(StateError, match=r"state h wants float32 \[3, 8\], got float32 \[3, 16\]"):
        lstm.run(samples(1, 3), state)


def test_a_state_for_other_streams_is_refused(lstm: Session) -> None:
    with pytest.raises(StateError, match=r"wants float32 \[3, \d+\], got float32 \[2, \d+\]"):
        lstm.run(samples(1, 3), lstm.contract.initial_state(2))


def test_a_state_of_another_dtype_is_refused(lstm: Session) -> None:
    state = lstm.contract.initial_state(1)
    state["c"] = state["c"].astype(np.float64)
    with pytest.raises(StateError, match=r"state c wants float32 \[1, 8\], got float64 \[1, 8\]"):
        lstm.run(samples(1, 1), state)


def test_missing_and_unknown_states_are_named(lstm: Session) -> None:
    state = lstm.contract.initial_state(1)
    with pytest.raises(StateError, match="carries no state extra"):
        lstm.run(samples(1, 1), {**state, "extra": np.zeros(1)})
    del state["c"]
    with pytest.raises(StateError, match="state c is missing: wanted h") as missing:
        lstm.run(samples(1, 1), state)
    assert str(missing.value) == (
        "state c is missing: wanted h float32 [1, 8], c float32 [1, 8], forecast float32 [1, 3], "
        "got h float32 [1, 8], forecast float32 [1, 3]"
    )
    with pytest.raises(StateError, match="state c is missing; the model carries no state C: "):
        lstm.run(samples(1, 1), {**state, "C": np.zeros(1)})


def test_the_state_of_another_cell_is_refused_with_all_shapes() -> None:
    gru, wide = load_model(sample_model("gru")), load_model(sample_model("lstm", 2))
    with pytest.raises(StateError) as caught:
        gru.run(samples(1, 2), wide.contract.initial_state(2))
    assert str(caught.value) == (
        "state h is missing; the model carries no state h_1; the model carries no state c_1; "
        "the model carries no state h_2; the model carries no state c_2: "
        "wanted h float32 [2, 8], forecast float32 [2, 3], "
        "got h_1 float32 [2, 8], c_1 float32 [2, 8], h_2 float32 [2, 8], c_2 float32 [2, 8], "
        "forecast float32 [2, 3]"
    )


@pytest.mark.parametrize(
    "x", [samples(2, 1)[:, :, :2], samples(2, 1)[0], samples(2, 1).astype(np.float64)]
)
def test_samples_of_another_form_are_refused(
    lstm: Session, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    with pytest.raises(StateError, match=r"x wants float32 \[time, stream, 3\], got"):
        lstm.run(x, lstm.contract.initial_state(1))


# --- models that were not made here, in any shape


Axes = tuple[int | str, ...]


def by_hand(layout: Layout, x: NDArray[np.float32], start: NDArray[Any]) -> NDArray[np.float64]:
    """What `layout_model` computes, ``[time, stream]``, from the sum that the state holds."""
    part = 0.75 * x[:, :, 0] + 0.5 * x[:, :, 1]
    return start + np.cumsum(np.floor(part) if layout.whole else part, axis=0, dtype=np.float64)


@pytest.mark.parametrize("name", [*LAYOUTS, *ONE_STREAM])
def test_every_layout_scores_as_by_hand(name: str) -> None:
    layout = (LAYOUTS | ONE_STREAM)[name]
    session = session_from_bytes(layout_model(layout, one_stream=name in ONE_STREAM))
    x = np.random.default_rng(5).integers(-8, 8, (7, 3, 2)).astype(np.float32)
    outputs, state = session.run(x, session.contract.initial_state(3))
    wanted = by_hand(layout, x, np.array(2.0))
    assert outputs.score.dtype == np.float32
    assert outputs.score.shape == (7, 3)
    assert np.array_equal(outputs.score, wanted)
    assert outputs.contribution is not None
    assert outputs.contribution.dtype == np.float32
    assert np.array_equal(outputs.contribution, np.abs(x))
    (pair,) = session.contract.states
    assert state["sum"].dtype == pair.dtype
    assert state["sum"].shape == tuple(3 if n == "stream" else n for n in pair.shape)
    held = np.moveaxis(state["sum"], pair.stream_axis, 0).reshape(3, -1)
    assert np.array_equal(held, np.repeat(wanted[-1:].T, held.shape[1], axis=1))


@pytest.mark.parametrize("name", [*LAYOUTS, *ONE_STREAM])
def test_every_layout_gives_the_same_bits_in_any_chunks(name: str) -> None:
    layout = (LAYOUTS | ONE_STREAM)[name]
    session = session_from_bytes(layout_model(layout, one_stream=name in ONE_STREAM))
    x = np.random.default_rng(6).normal(2, 3, (9, 4, 2)).astype(np.float32)
    whole, after = session.run(x, session.contract.initial_state(4))
    state = session.contract.initial_state(4)
    scores = []
    for part in (x[:1], x[1:6], x[6:]):
        outputs, state = session.run(part, state)
        scores.append(outputs.score)
    assert np.array_equal(np.concatenate(scores), whole.score)
    assert np.array_equal(state["sum"], after["sum"])
    for stream in range(4):
        alone, _ = session.run(x[:, [stream]], session.contract.initial_state(1))
        assert np.array_equal(alone.score[:, 0], whole.score[:, stream])


def test_rows_that_influence_each_other_are_called_one_by_one() -> None:
    layout = Layout(mixing=True)
    with pytest.raises(ModelError, match="scores a sample alone otherwise"):
        session_from_bytes(layout_model(layout))
    session = session_from_bytes(layout_model(layout, one_stream=True))
    x = np.random.default_rng(7).normal(2, 3, (5, 3, 2)).astype(np.float32)
    together, after = session.run(x, session.contract.initial_state(3))
    for stream in range(3):
        alone, state = session.run(x[:, [stream]], session.contract.initial_state(1))
        assert np.array_equal(alone.score[:, 0], together.score[:, stream])
        assert np.array_equal(state["sum"][0], after["sum"][stream])


def test_a_stream_axis_of_one_wants_one_stream_a_call() -> None:
    layout = Layout(frozen=True)
    content = layout_model(layout, one_stream=True)
    assert session_from_bytes(content).contract.one_stream
    reason = refusal(with_document(content, lambda document: document.update(one_stream=False)))
    assert "input x: wanted ['time', 'stream', 2], the graph has ['time', 1, 2]" in reason
    assert "output contribution" in reason


def test_a_model_that_breaks_its_word_on_shapes_is_refused() -> None:
    """The graph leaves the score's axes open and gives them in the other order."""
    layout = Layout(score_axes=("stream", "time"), vague=True)
    proto = onnx.load_from_string(layout_model(layout))
    contract = decode_contract(proto.metadata_props[0].value)
    lying = msgspec.structs.replace(contract, score_shape=("time", "stream"), one_stream=True)
    content = handmade_models.set_contract(proto, encode_contract(lying))
    assert "output score wants [8, 1] for x [8, 1, 2], the model gave [1, 8]" in refusal(content)


def test_samples_are_needed() -> None:
    session = session_from_bytes(layout_model(LAYOUTS["one-step"]))
    with pytest.raises(StateError, match=r"x holds no sample: got \[0, 2, 2\]"):
        session.run(np.zeros((0, 2, 2), np.float32), session.contract.initial_state(2))


def test_a_memoryless_model_is_legal() -> None:
    session = session_from_bytes(handmade_models.memoryless_model())
    outputs, state = session.run(np.ones((2, 3, 2), np.float32), {})
    assert state == {}
    assert outputs.score.tolist() == [[2.0] * 3] * 2
    with pytest.raises(StateError, match="the model carries no state h: wanted none, got h"):
        session.run(np.ones((2, 3, 2), np.float32), {"h": np.zeros((3, 1), np.float32)})


# --- look-ahead


def test_void_outputs_may_be_anything() -> None:
    """They are NaN here, at the golden vectors too; what follows must be exact."""
    session = session_from_bytes(handmade_models.look_ahead_model(3))
    x = np.random.default_rng(8).normal(2, 3, (6, 2, 2)).astype(np.float32)
    outputs, _ = session.run(x, session.contract.initial_state(2))
    assert np.isnan(outputs.score[:3]).all()
    assert np.isfinite(outputs.score[3:]).all()


def test_void_golden_scores_do_not_widen_the_tolerance() -> None:
    def change(document: dict[str, object]) -> None:
        score = document["golden"]["score"]  # type: ignore[index]
        score[0][0], score[5][1] = 1e9, score[5][1] + 0.1

    reason = refusal(with_document(handmade_models.look_ahead_model(3), change))
    assert "does not reproduce the golden score: it differs by 0.1" in reason


def test_a_state_may_hold_what_is_no_number() -> None:
    """As long as no score is made of it, and it does so alone and in a batch."""
    proto = onnx.load_from_string(handmade_models.memoryless_model())
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    proto.graph.input.append(info("h", kind, ("stream", 1)))
    proto.graph.output.append(info("h_next", kind, ("stream", 1)))
    proto.graph.node.append(onnx.helper.make_node("Div", ["h", "h"], ["h_next"]))
    state = State(input="h", output="h_next", shape=("stream", 1))
    session = session_from_bytes(handmade_models.with_contract(proto, [state]))
    _, after = session.run(np.ones((1, 2, 2), np.float32), session.contract.initial_state(2))
    assert np.isnan(after["h"]).all()


def test_a_look_ahead_that_is_not_as_long_as_promised_is_refused() -> None:
    content = handmade_models.look_ahead_model(3)
    reason = refusal(with_document(content, lambda document: document.update(look_ahead=2)))
    assert "does not reproduce the golden score: it differs by nan" in reason
    reason = refusal(with_document(content, lambda document: document.update(look_ahead=99)))
    assert "golden x wants more than 99 samples, the look-ahead; got 8" in reason


# --- contracts of schema 1


def test_a_file_of_schema_1_means_what_it_meant(content: bytes) -> None:
    def as_written_then(document: dict[str, object]) -> None:
        document["schema"] = 1
        for name in ("x_dtype", "score_shape", "one_stream"):
            del document[name]

    old, new = (
        session_from_bytes(with_document(content, as_written_then)),
        session_from_bytes(content),
    )
    assert (old.contract.schema, new.contract.schema) == (1, 3)
    assert msgspec.structs.replace(old.contract, schema=3) == new.contract
    x = samples(9, 3)
    then, now = (m.run(x, m.contract.initial_state(3))[0].score for m in (old, new))
    assert np.array_equal(then, now)


def test_a_foreign_model_with_states_of_every_layout() -> None:
    session = session_from_bytes(handmade_models.foreign_model())
    x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    outputs, state = session.run(x, session.contract.initial_state(2))
    assert outputs.contribution is None
    sums = 1.0 + np.cumsum(x.sum(axis=2), axis=0)
    assert np.array_equal(outputs.score, sums / 16)
    assert state["mem"].shape == (2, 2, 4)
    assert (state["mem"] == sums[-1][None, :, None]).all()
    assert state["seen"].dtype == np.int64
    assert state["seen"].tolist() == [10, 10]
    assert state["half"].dtype == np.float64
    assert (state["half"] == sums[-1][:, None] / 2).all()


def test_the_constant_is_fed() -> None:
    content = handmade_models.foreign_model()
    proto = onnx.load_from_string(content)
    contract = decode_contract(proto.metadata_props[0].value)
    fields = {name: getattr(contract, name) for name in contract.__struct_fields__}
    golden = fields["golden"]
    halved = type(golden)(x=golden.x, score=(np.asarray(golden.score) / 2).tolist())
    other = Contract(**{**fields, "constants": {"rate": 32.0}, "golden": halved})
    slower = handmade_models.set_contract(proto, encode_contract(other))
    x = np.ones((1, 1, 2), np.float32)
    scores = [
        model.run(x, model.contract.initial_state(1))[0].score.item()
        for model in (session_from_bytes(content), session_from_bytes(slower))
    ]
    assert scores[0] == 2 * scores[1]


def test_the_contract_key_is_the_documented_one(content: bytes) -> None:
    assert CONTRACT_KEY == "andon.contract"
    assert [prop.key for prop in onnx.load_from_string(content).metadata_props] == [CONTRACT_KEY]
