"""The contract: what it accepts, what it refuses, and that it says every problem at once."""

import json
import re
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.contract import (
    CONTRACT_SCHEMA,
    STATE_DTYPES,
    Calibration,
    Contract,
    Feature,
    Golden,
    State,
    Tensor,
    decode_contract,
    encode_contract,
)
from edge_runtime.errors import ModelError
from edge_runtime.session import load_model
from sample_models import FEATURES, sample_model

GOLDEN = Golden(x=[[[1.0, 2.0]]], score=[[0.5]], contribution=[[[0.25, 0.75]]])
H = State(input="h", output="h_next", shape=("stream", 8))


def contract(**changes: Any) -> Contract:
    whole: dict[str, Any] = {
        "schema": CONTRACT_SCHEMA,
        "features": (Feature(name="a", unit="A", low=-1.5, high=7), Feature(name="b")),
        "states": (
            H,
            State(input="n", output="n_next", shape=(2, "stream"), dtype="int64", initial=3),
        ),
        "sample_period_ms": 0.5,
        "max_gap_ms": 2.5,
        "warm_up_steps": 4,
        "golden": GOLDEN,
        "contribution": "contribution",
        "constants": {"rate": 16000.0},
        "calibration": Calibration(
            data_digest="0" * 64,
            rows=1000,
            false_alarms_per_day=1.0,
            supported_false_alarms_per_day=2.5,
        ),
        "training": {"seed": 0, "note": 'quotes " and ü'},
    }
    return Contract(**{**whole, **changes})


INPUTS = {
    "x": Tensor("float32", ("time", "stream", 2)),
    "h": Tensor("float32", ("stream", 8)),
    "n": Tensor("int64", (2, "stream")),
    "rate": Tensor("int64", ()),
}
OUTPUTS = {
    "score": Tensor("float32", ("time", "stream")),
    "contribution": Tensor("float32", ("time", "stream", 2)),
    "h_next": Tensor("float32", ("stream", 8)),
    "n_next": Tensor("int64", (2, "stream")),
}


def test_round_trip() -> None:
    assert decode_contract(encode_contract(contract())) == contract()


def test_the_document_is_plain_json_with_explicit_pairs() -> None:
    document = json.loads(encode_contract(contract()))
    assert document["schema"] == 3
    assert document["states"][1] == {
        "input": "n",
        "output": "n_next",
        "shape": [2, "stream"],
        "dtype": "int64",
        "initial": 3.0,
        "kept": False,
    }


def test_an_exported_contract_round_trips() -> None:
    exported = load_model(sample_model()).contract
    assert decode_contract(encode_contract(exported)) == exported
    assert exported.feature_names == FEATURES


def test_initial_state_has_the_shapes_the_model_takes() -> None:
    state = contract().initial_state(5)
    assert {name: (value.shape, value.dtype.name) for name, value in state.items()} == {
        "h": ((5, 8), "float32"),
        "n": ((2, 5), "int64"),
    }
    assert (state["n"] == 3).all()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"features": ()}, "no features"),
        ({"features": (Feature(name="a"), Feature(name="a"))}, "feature 'a' stands twice"),
        ({"features": (Feature(name="a", low=2.0, high=1.0),)}, "low 2.0 is above high 1.0"),
        ({"x": "h"}, "input 'h' stands twice"),
        ({"constants": {"h": 1.0}}, "input 'h' stands twice"),
        ({"score": "h_next"}, "output 'h_next' stands twice"),
        ({"contribution": "score"}, "output 'score' stands twice"),
        ({"states": (msgspec.structs.replace(H, shape=(8,)),)}, "wanted one axis 'stream'"),
        ({"states": (msgspec.structs.replace(H, shape=("stream", "stream")),)}, "one axis"),
        ({"states": (msgspec.structs.replace(H, shape=("stream", "hidden")),)}, "'hidden'"),
        ({"states": (msgspec.structs.replace(H, shape=("stream", -8)),)}, "['stream', -8]"),
        ({"states": (msgspec.structs.replace(H, dtype="complex64"),)}, "'complex64' is none of"),
        (
            {"states": (msgspec.structs.replace(H, dtype="int8", initial=300),)},
            "int8 does not hold the initial value 300",
        ),
        (
            {"states": (msgspec.structs.replace(H, dtype="int64", initial=0.5),)},
            "int64 does not hold the initial value 0.5",
        ),
        (
            {"states": (msgspec.structs.replace(H, dtype="float16", initial=1e6),)},
            "float16 does not hold",
        ),
        (
            {"x_shape": ("time", "feature")},
            "x: wanted stream and feature once each, time at most once, else 1s, "
            "got ['time', 'feature']",
        ),
        ({"x_shape": ("stream", "stream", "feature")}, "got ['stream', 'stream', 'feature']"),
        ({"x_shape": ("time", "time", "stream", "feature")}, "x: wanted"),
        ({"x_shape": ("stream", 2, "feature")}, "else 1s, got ['stream', 2, 'feature']"),
        ({"x_shape": ("stream", "batch", "feature")}, "got ['stream', 'batch', 'feature']"),
        ({"score_shape": ("stream",)}, "score: wanted time and stream once each, else 1s"),
        ({"score_shape": ("time", "stream", "feature")}, "because x has a time axis"),
        ({"x_shape": ("stream", "feature")}, "because x has no time axis"),
        ({"x_dtype": "int16"}, "x: dtype 'int16' is none of float32, float64, float16"),
        (
            {"one_stream": True, "x_shape": ("time", "stream")},
            "x: wanted feature once, time and stream at most once, else 1s",
        ),
        (
            {"one_stream": True, "x_shape": ("feature",), "score_shape": ("time",)},
            "score: wanted stream at most once, else 1s, got ['time'], because x has no time axis",
        ),
        ({"look_ahead": -1}, "look_ahead must not be negative, got -1"),
        ({"schema": 1, "look_ahead": 2}, "look_ahead needs schema 2, got schema 1"),
        ({"schema": 1, "one_stream": True}, "one_stream needs schema 2, got schema 1"),
        (
            {
                "schema": 2,
                "states": (State(input="h", output="h_next", shape=("stream", 8), kept=True),),
            },
            "state h: kept needs schema 3, got schema 2",
        ),
        ({"sample_period_ms": 0.0}, "sample_period_ms must be positive"),
        ({"features": (Feature(name=""),)}, "feature '': wanted a name"),
        ({"max_gap_ms": 0.25}, "max_gap_ms 0.25 is below the sample period"),
        ({"warm_up_steps": -1}, "warm_up_steps must not be negative"),
    ],
)
def test_what_cannot_be_promised_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        contract(**changes)
    document = json.loads(encode_contract(contract()))
    document |= json.loads(msgspec.json.encode(changes))
    with pytest.raises(ModelError, match="the contract is not valid") as read:
        decode_contract(json.dumps(document))
    assert complaint in str(read.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"sample_period_ms": float("inf")},
            "sample_period_ms must be positive and finite, got inf",
        ),
        (
            {"sample_period_ms": float("nan")},
            "sample_period_ms must be positive and finite, got nan",
        ),
        ({"max_gap_ms": float("inf")}, "max_gap_ms must be finite, got inf"),
        ({"max_gap_ms": float("nan")}, "max_gap_ms must be finite, got nan"),
        ({"features": (Feature(name="\ud800"),)}, "wanted a name of one letter or more, in UTF-8"),
    ],
)
def test_what_no_document_could_hold_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        contract(**changes)


def test_every_problem_is_listed() -> None:
    with pytest.raises(ValueError, match="no features") as caught:
        contract(features=(), look_ahead=-1, warm_up_steps=-1, sample_period_ms=-1.0)
    assert str(caught.value).count(";") == 3


@pytest.mark.parametrize("dtype", STATE_DTYPES)
def test_every_state_dtype_can_be_carried(dtype: str) -> None:
    state = msgspec.structs.replace(H, dtype=dtype, initial=1)
    assert contract(states=(state,)).initial_state(2)["h"].dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("schema", "advice"),
    [(4, "newer than.*schemas 1 to 3: upgrade andon"), (0, "older than.*export again")],
)
def test_another_schema_is_refused_with_advice(schema: int, advice: str) -> None:
    document = json.dumps({"schema": schema, "of": ["unknown", "content"]})
    with pytest.raises(ModelError, match=advice):
        decode_contract(document)


@pytest.mark.parametrize(
    "document", ["", "{", "[]", "null", "{}", '{"schema": "1"}', "[" * 100_000, '{"schema": 1}']
)
def test_a_document_that_is_none(document: str) -> None:
    with pytest.raises(ModelError, match=r"the contract is not (readable|valid)"):
        decode_contract(document)


def test_an_unknown_key_is_an_error() -> None:
    document = json.loads(encode_contract(contract()))
    document["states"][0]["initail"] = 1
    with pytest.raises(ModelError, match="initail"):
        decode_contract(json.dumps(document))


def test_a_graph_that_fits() -> None:
    contract().check_graph(INPUTS, OUTPUTS)


def test_a_graph_may_leave_fixed_lengths_open() -> None:
    contract().check_graph({**INPUTS, "h": Tensor("float32", (None, "hidden"))}, OUTPUTS)


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("inputs", "outputs", "complaint"),
    [
        (without(INPUTS, "h"), OUTPUTS, "no input 'h'"),
        (INPUTS, without(OUTPUTS, "h_next"), "no output 'h_next'"),
        (INPUTS, without(OUTPUTS, "contribution"), "no output 'contribution'"),
        (without(INPUTS, "rate"), OUTPUTS, "no input for the constant 'rate'"),
        (
            {**INPUTS, "h": Tensor("float64", ("stream", 8))},
            OUTPUTS,
            "input h: wanted float32, the graph has float64",
        ),
        (
            {**INPUTS, "h": Tensor("float32", (1, 8))},
            OUTPUTS,
            "input h: wanted ['stream', 8], the graph has [1, 8]",
        ),
        (
            {**INPUTS, "x": Tensor("float32", (1, "stream", 2))},
            OUTPUTS,
            "input x: wanted ['time', 'stream', 2], the graph has [1, 'stream', 2]",
        ),
        ({**INPUTS, "h": Tensor("float32", ("stream", 16))}, OUTPUTS, "the graph has"),
        (
            {**INPUTS, "sr": Tensor("int64", ())},
            OUTPUTS,
            "input 'sr' is neither x, a state nor a constant",
        ),
        (
            {**INPUTS, "rate": Tensor("int64", (2,))},
            OUTPUTS,
            "constant rate: wanted a single number that can be 16000.0, the graph has int64 [2]",
        ),
        ({**INPUTS, "rate": Tensor("int8", ())}, OUTPUTS, "constant rate"),
        ({**INPUTS, "rate": Tensor("tensor(string)", ())}, OUTPUTS, "tensor(string)"),
        (INPUTS, {**OUTPUTS, "score": Tensor("float32", ("time", "stream", 1))}, "output score"),
    ],
)
def test_a_graph_that_does_not_fit(
    inputs: dict[str, Tensor], outputs: dict[str, Tensor], complaint: str
) -> None:
    with pytest.raises(ModelError, match="the contract does not fit the graph") as caught:
        contract().check_graph(inputs, outputs)
    assert complaint in str(caught.value)


def test_every_difference_from_the_graph_is_listed() -> None:
    with pytest.raises(ModelError) as caught:
        contract().check_graph({}, {})
    for name in (*INPUTS, *OUTPUTS):
        assert repr(name) in str(caught.value)
