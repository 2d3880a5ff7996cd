"""The promise: the same samples give the same bits however they are grouped; and its rules."""

import json
import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import handmade_models
from edge_runtime.config import AlarmConfig, PipelineConfig
from edge_runtime.contract import decode_contract, encode_contract
from edge_runtime.flags import flag_id
from edge_runtime.payload import NS_PER_MS, Flag
from edge_runtime.pipeline import Pipeline, Settings
from edge_runtime.results import STATUS, Block, Reset, Scored
from edge_runtime.session import Session, session_from_bytes
from handmade_models import look_ahead_model
from pipelines import (
    CAN_FAIL,
    CASES,
    MODELS,
    SECOND,
    START,
    WAYS,
    Way,
    a_pipeline,
    a_story,
    block,
    causes,
    grouped,
    model,
    one_by_one,
    seen,
    send,
    side_by_side,
    state_of,
    statuses,
)
from sample_models import MAX_GAP_MS, WARM_UP_STEPS, sample_model


@pytest.mark.parametrize(("name", "way"), CASES)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32), streams=st.integers(1, 20), rng=st.randoms(use_true_random=False)
)
def test_the_promise(name: str, way: Way, seed: int, streams: int, rng: random.Random) -> None:
    numbers = np.random.default_rng(seed)
    stories = {f"line/pump-{n}": a_story(name, numbers, way) for n in range(streams)}
    lonely = {stream: a_pipeline(name, **way.settings) for stream in stories}
    alone = {n: one_by_one(lonely[n], n, story) for n, story in stories.items()}
    pipeline = a_pipeline(name, **way.settings)
    results = [pipeline.process(blocks, None) for blocks in grouped(stories, rng)]
    beside = a_pipeline(name, **way.settings)
    others = []
    for group in grouped(stories, rng):
        blocks, abreast = side_by_side(group)
        others.append(beside.process(blocks, None, abreast))
    for stream, wanted in alone.items():
        assert seen(pipeline, results, stream) == wanted
        assert seen(beside, others, stream) == wanted


@pytest.mark.parametrize("name", MODELS)
def test_the_promise_says_something(name: str) -> None:
    """The stories above do hold gaps, late samples, alarms, ..."""
    found: Counter[str] = Counter()
    for seed in range(30):
        pipeline = a_pipeline(name, AlarmConfig(enter=0.5, leave=0.45, hold_steps=2))
        result = one_by_one(pipeline, "a", a_story(name, np.random.default_rng(seed)))
        found.update(result.rejected)
        found.update(f"reset {reset.cause}" for reset in result.resets)
        found.update(json.loads(flag)["event"] for flag in result.flags)
        found.update(status for _, _, _, status, _ in result.scored)
    expected = {"late", "duplicate", "reset gap", "raised", "ok", "warming_up"}
    expected |= {"not_finite_score", "reset not_finite_score"} if name in CAN_FAIL else set()
    assert expected <= set(found)


@pytest.mark.parametrize("way", WAYS)
def test_the_promise_says_something_in_every_way(way: str) -> None:
    found: Counter[str] = Counter()
    for seed in range(30):
        pipeline = a_pipeline(**WAYS[way].settings)
        story = a_story("lstm", np.random.default_rng(seed), WAYS[way])
        result = one_by_one(pipeline, "a", story)
        found.update(result.rejected)
        found.update(f"reset {reset.cause}" for reset in result.resets)
        found.update(status for _, _, _, status, _ in result.scored)
        found["counted"] += sum(seq is not None for _, seq, _, _, _ in result.scored)
        found["held"] += pipeline.held()
    expected = {"late", "duplicate", "reset gap", "ok", "warming_up"}
    expected |= {"uncertain"} if WAYS[way].settings.get("hold_ns") else set()
    expected |= {"counted"} if WAYS[way].counts else set()
    expected |= {"held"} if WAYS[way].settings.get("reorder_ns") else set()
    assert expected <= {name for name, count in found.items() if count}


def test_a_long_block_is_split_into_calls_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    stories = {n: a_story("gru", np.random.default_rng(seed)) for seed, n in enumerate("abc")}
    blocks = [Block(stream, samples.ts, samples.values) for stream, samples in stories.items()]
    whole, split = a_pipeline("gru"), a_pipeline("gru")
    first = [whole.process(blocks, None)]
    monkeypatch.setattr("edge_runtime.pipeline.MAX_CALL_ROWS", 7)
    second = [split.process(blocks, None)]
    for stream in stories:
        assert seen(whole, first, stream) == seen(split, second, stream)


# --- memory


def test_two_identical_messages_get_different_scores() -> None:
    pipeline = a_pipeline()
    row = [[2.0, 2.5, 3.0]]
    first = send(pipeline, block("p", [0], row)).scored[0].score
    second = send(pipeline, block("p", [1], row)).scored[0].score
    assert first[0] != second[0]


def test_a_stream_that_was_reset_answers_as_at_first() -> None:
    pipeline = a_pipeline()
    same = block("p", range(10))
    first = send(pipeline, same).scored[0].score
    later = block("p", range(100, 110))
    again = send(pipeline, later)
    assert [reset.cause for reset in again.resets] == ["gap"]
    assert np.array_equal(again.scored[0].score, first)


def test_what_a_model_knows_of_a_machine_outlives_a_gap() -> None:
    pipeline = a_pipeline("hybrid")
    send(pipeline, block("p", range(10)))
    slot = pipeline.streams.find("p")
    assert slot is not None
    before = pipeline.streams.take([slot])
    again = send(pipeline, block("p", [100]))
    assert [reset.cause for reset in again.resets] == ["gap"]
    after = pipeline.streams.take([slot])
    assert [before["seen"].item(), after["seen"].item()] == [10, 11]
    assert np.count_nonzero(before["last_sums"].any(axis=(1, 2))) > 5
    # The sums over 1, 2, 4 and 8 samples that the one sample is in.
    assert np.flatnonzero(after["last_sums"].any(axis=(1, 2))).tolist() == [0, 2, 6, 14]


# --- gaps, warm-up, status


def test_a_silence_longer_than_allowed_resets() -> None:
    pipeline = a_pipeline()
    limit = MAX_GAP_MS / 1000
    assert send(pipeline, block("p", [0, 1])).resets == []
    assert send(pipeline, block("p", [1 + limit])).resets == []
    (reset,) = send(pipeline, block("p", [1 + 2 * limit + 1e-9])).resets
    assert reset == Reset("p", START + round((1 + 2 * limit + 1e-9) * SECOND), "gap")
    inside = send(pipeline, block("p", [100, 101, 200, 201, 300]))
    assert [round((r.ts - START) / SECOND) for r in inside.resets] == [100, 200, 300]


def test_the_gateway_may_allow_another_silence() -> None:
    config = PipelineConfig(
        model=Path("m.onnx"), topic="t/{m}", stream="{m}", publish="a/{m}", max_gap_ms=1500.0
    )
    pipeline = Pipeline(model("lstm"), Settings.of(config))
    assert len(send(pipeline, block("p", [0, 1.5, 3, 4.6])).resets) == 1


def test_settings_beyond_all_time_do_no_harm() -> None:
    config = PipelineConfig(
        model=Path("m.onnx"),
        topic="t/{m}",
        stream="{m}",
        publish="a/{m}",
        max_gap_ms=1e308,
        max_ahead_ms=1e308,
    )
    pipeline = Pipeline(model("lstm"), Settings.of(config))
    result = send(pipeline, block("p", [0, 1e9]), now=0)
    assert (len(result.resets), len(result.rejected)) == (0, 0)


def test_a_stream_warms_up_after_its_start_and_after_each_reset() -> None:
    pipeline = a_pipeline()
    result = send(pipeline, block("p", [*range(6), *range(20, 26)]))
    phase = ["warming_up"] * WARM_UP_STEPS + ["ok"] * (6 - WARM_UP_STEPS)
    assert statuses(result) == phase * 2


def test_only_ok_raises_an_alarm() -> None:
    alarm = AlarmConfig(enter=1e-6, leave=1e-7, hold_steps=1)
    result = send(a_pipeline(alarm=alarm), block("p", range(8)))
    assert result.scored[0].alarm.tolist() == [False] * WARM_UP_STEPS + [True] * 4
    (flag,) = result.flags
    assert (flag.event, flag.status, flag.ts) == ("raised", "ok", START + WARM_UP_STEPS * SECOND)


def test_a_lit_lamp_survives_a_reset() -> None:
    pipeline = a_pipeline(alarm=AlarmConfig(enter=1e-6, leave=1e-7, hold_steps=1))
    assert send(pipeline, block("p", range(8))).flags[0].event == "raised"
    after = send(pipeline, block("p", range(100, 108)))
    assert [reset.cause for reset in after.resets] == ["gap"]
    assert after.scored[0].alarm.all()
    assert after.flags == []


@cache
def bounded() -> Session:
    """The LSTM, with a plausible range for two sensors."""
    proto = onnx.load(sample_model())
    contract = decode_contract(proto.metadata_props[0].value)
    current, pressure, vibration = contract.features
    features = (
        msgspec.structs.replace(current, low=0.1, high=0.3),
        pressure,
        msgspec.structs.replace(vibration, high=1e39),
    )
    narrowed = encode_contract(msgspec.structs.replace(contract, features=features))
    return session_from_bytes(handmade_models.set_contract(proto, narrowed))


def test_a_value_out_of_range_is_uncertain() -> None:
    alarm = AlarmConfig(enter=1e-6, leave=1e-7, hold_steps=1)
    pipeline = Pipeline(bounded(), Settings(alarm=alarm))
    below, above = np.nextafter(np.array([0.1, 0.3], np.float32), np.array([-1, 1], np.float32))
    current = [0.05, 0.2, 0.2, 0.2, below, above, 0.1, 0.3, 0.2]
    values = [[c, -1e9, 1e38] for c in current]
    result = send(pipeline, block("p", range(9), values))
    assert statuses(result) == ["warming_up"] * 4 + ["uncertain"] * 2 + ["ok"] * 3
    assert [flag.ts for flag in result.flags] == [START + 6 * SECOND]


# --- look-ahead


def ahead(steps: int, *, low: float | None = None, alarm: AlarmConfig | None = None) -> Pipeline:
    """The handmade model that looks ahead, without a warm-up; ``a`` is plausible from ``low``."""
    proto = onnx.load_from_string(look_ahead_model(steps, warm_up_steps=0))
    contract = decode_contract(proto.metadata_props[0].value)
    features = (msgspec.structs.replace(contract.features[0], low=low), contract.features[1])
    bounded = encode_contract(msgspec.structs.replace(contract, features=features))
    session = session_from_bytes(handmade_models.set_contract(proto, bounded))
    return Pipeline(session, Settings(alarm=alarm or AlarmConfig()))


def seconds(scored: Scored) -> list[float]:
    return [(ts - START) / SECOND for ts in scored.ts.tolist()]


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("chunk", [1, 2, 7, 40])
def test_a_score_belongs_to_its_sample(steps: int, chunk: int) -> None:
    """Against what the model is said to compute: the sum so far and the largest ``b`` to come."""
    rows = np.random.default_rng(1).integers(-9, 9, (40, 2)) + 0.5
    whole = block("p", np.arange(40) * 1.5, rows)
    pipeline = ahead(steps, low=-5)
    results = [
        pipeline.process([Block("p", whole.ts[i : i + chunk], whole.values[i : i + chunk])], None)
        for i in range(0, 40, chunk)
    ]
    scored = [part for result in results for part in result.scored]
    windows = np.array([rows[s : s + steps + 1] for s in range(40 - steps)])
    wanted = np.cumsum(rows[: 40 - steps, 0]) + windows[:, :, 1].max(axis=1)
    assert np.concatenate([part.score for part in scored]).tolist() == wanted.tolist()
    assert np.concatenate([part.ts for part in scored]).tolist() == whole.ts[: 40 - steps].tolist()
    outside: NDArray[np.bool_] = np.less(windows[:, :, 0], -5).any(axis=1)
    status = np.concatenate([part.status for part in scored])
    assert [STATUS[n] for n in status] == np.where(outside, "uncertain", "ok").tolist()
    assert 0 < outside.sum() < len(outside)
    assert pipeline.waiting() == {"p": steps}


def test_a_score_is_late_by_the_look_ahead() -> None:
    pipeline = ahead(2)
    came = [seconds(send(pipeline, block("p", [t], [[1, 1]])).scored[0]) for t in range(5)]
    assert came == [[], [], [0], [1], [2]]


def test_warming_up_counts_scores_not_samples() -> None:
    pipeline = Pipeline(session_from_bytes(look_ahead_model(3, warm_up_steps=2)), Settings())
    result = send(pipeline, block("p", range(8), [[1, 1]] * 8))
    assert statuses(result) == ["warming_up", "warming_up", "ok", "ok", "ok"]
    assert statuses(send(pipeline, block("p", [8], [[1, 1]]))) == ["ok"]


def test_a_gap_gives_up_the_scores_that_were_to_come() -> None:
    pipeline = ahead(3)
    first = send(pipeline, block("p", [0, 1, 2, 3, 4], [[1, 1]] * 5))
    assert seconds(first.scored[0]) == [0, 1]
    second = send(pipeline, block("p", [100, 101, 102, 103, 200, 201, 300], [[2, 1]] * 7))
    at = [START + t * SECOND for t in (100, 200, 300)]
    assert second.resets == [
        Reset("p", at[0], "gap", 3),
        Reset("p", at[1], "gap", 3),
        Reset("p", at[2], "gap", 2),
    ]
    assert seconds(second.scored[0]) == [100]
    assert second.scored[0].score.tolist() == [3.0]
    assert pipeline.waiting() == {"p": 1}


def test_a_score_that_is_not_finite_gives_up_those_behind_it() -> None:
    pipeline = ahead(2)
    rows = [[1, 1], [1, 1], [1, 0], [1, 1], [1, 1], [5, 1], [5, 1], [5, 1]]
    result = send(pipeline, block("p", range(8), rows))
    # The score of second 2 comes with second 4; those of 3 and 4 would be made from a spoilt sum.
    assert causes(result) == [("p", "not_finite_score", 1)]
    assert result.rejected[0].detail == (
        "the model's score at ts 1700000002000 is not a finite number"
    )
    assert result.resets == [Reset("p", START + 4 * SECOND, "not_finite_score", 2)]
    assert seconds(result.scored[0]) == [0, 1, 5]
    assert result.scored[0].score.tolist() == [2.0, 3.0, 6.0]
    assert pipeline.waiting() == {"p": 2}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), rng=st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", ["causal", "one ahead", "five ahead", "one-step", "one stream"])
def test_every_sample_is_accounted_for(name: str, seed: int, rng: random.Random) -> None:
    numbers = np.random.default_rng(seed)
    stories = {n: a_story(name, numbers) for n in "abcd"}
    pipeline = a_pipeline(name)
    results = [pipeline.process(blocks, None) for blocks in grouped(stories, rng)]
    scored = sum(len(part.ts) for result in results for part in result.scored)
    refused = sum(part.samples for result in results for part in result.rejected)
    given_up = sum(reset.unscored for result in results for reset in result.resets)
    waiting = sum(pipeline.waiting().values())
    assert scored + refused + given_up + waiting == sum(len(s.ts) for s in stories.values())


def test_a_flag_carries_the_time_and_the_reason_of_its_sample() -> None:
    pipeline = ahead(3, alarm=AlarmConfig(enter=100, leave=50, hold_steps=1))
    rows = [[1, 1], [1, 2], [200, 1], [1, 3], [1, 1], [1, 1], [1, 1]]
    results = [send(pipeline, block("p", [t], [row])) for t, row in enumerate(rows)]
    ((at, flag),) = [(t, flag) for t, result in enumerate(results) for flag in result.flags]
    assert (at, flag.ts, flag.event) == (5, START + 2 * SECOND, "raised")
    assert [(share.feature, share.share) for share in flag.top] == [("a", 200.0), ("b", 1.0)]
    assert flag.id == flag_id(pipeline.session.digest, "p", START + 2 * SECOND, "raised")


def test_a_slot_that_is_used_again_remembers_no_sample() -> None:
    pipeline = ahead(2)
    send(pipeline, block("old", range(5), [[1, 1]] * 5))
    pipeline.streams.evict("old")
    result = send(pipeline, block("new", [9, 10, 11], [[1, 1]] * 3))
    assert pipeline.streams.find("new") == 0
    assert seconds(result.scored[0]) == [9]


def test_a_value_that_the_model_cannot_take_is_refused_before_it_sees_it() -> None:
    pipeline = a_pipeline("float16")
    result = send(pipeline, block("p", range(4), [[1, 2], [1, 65_519], [1, 65_520], [1, -1e9]]))
    assert causes(result) == [("p", "not_finite", 2)]
    assert result.rejected[0].detail == (
        "wanted values that a float16 can hold, which the model takes"
    )
    assert seconds(result.scored[0]) == [0, 1]
    assert pipeline.streams.last_ts[0] == START + SECOND
    assert causes(send(pipeline, block("p", [2], [[1, 1e9]]))) == [("p", "not_finite", 1)]


# --- refusals


def test_late_and_equal_times_are_refused_and_change_nothing() -> None:
    pipeline = a_pipeline()
    send(pipeline, block("p", range(5)))
    before = state_of(pipeline, "p")
    result = send(pipeline, block("p", [4, 3, 0], seed=9))
    assert causes(result) == [("p", "duplicate", 1), ("p", "late", 2)]
    at = START // NS_PER_MS
    assert [refused.detail for refused in result.rejected] == [
        f"ts {at + 4000} against the last sample at {at + 4000}",
        f"ts {at + 3000} against the last sample at {at + 4000}",
    ]
    assert result.scored == []
    assert state_of(pipeline, "p") == before
    mixed = send(pipeline, block("p", [5, 5, 4, 6, 5.5, 7]))
    assert causes(mixed) == [("p", "duplicate", 1), ("p", "late", 2)]
    assert [(ts - START) // SECOND for ts in mixed.scored[0].ts.tolist()] == [5, 6, 7]
    assert "against the last sample at" in mixed.rejected[0].detail


def test_the_future_is_refused_and_does_not_move_the_watermark() -> None:
    pipeline = a_pipeline(max_ahead_ns=60 * SECOND)
    send(pipeline, block("p", range(3)), now=3)
    before = state_of(pipeline, "p")
    result = send(pipeline, block("p", [3 + 60.001, 1e6]), now=3)
    assert causes(result) == [("p", "future", 2)]
    assert "against the gateway's clock at 1700000003000" in result.rejected[0].detail
    assert state_of(pipeline, "p") == before
    assert causes(send(pipeline, block("p", [3, 63]), now=3)) == []
    assert causes(send(pipeline, block("p", [1e9]))) == []  # recorded data has no now


def test_a_block_with_every_fault_keeps_its_good_samples() -> None:
    pipeline = a_pipeline(max_ahead_ns=60 * SECOND)
    result = send(pipeline, block("p", [0, 1000, 1, 1, 0, 2000, 2]), now=2)
    assert causes(result) == [("p", "future", 2), ("p", "duplicate", 1), ("p", "late", 1)]
    assert [(ts - START) // SECOND for ts in result.scored[0].ts.tolist()] == [0, 1, 2]


def test_a_stream_too_many_is_refused_and_takes_no_slot() -> None:
    pipeline = a_pipeline(max_streams=2)
    send(pipeline, block("a", range(3)), block("b", range(3)))
    before = state_of(pipeline, "a"), state_of(pipeline, "b")
    result = send(pipeline, block("c", [3, 3, 4]), block("d", [3]))
    assert causes(result) == [("c", "too_many_streams", 3), ("d", "too_many_streams", 1)]
    assert "at most 2 streams" in result.rejected[0].detail
    assert pipeline.streams.find("c") is None
    assert len(pipeline.streams) == 2
    assert (state_of(pipeline, "a"), state_of(pipeline, "b")) == before
    assert causes(send(pipeline, block("a", [3]), block("b", [3]))) == []


def test_a_stream_that_sends_nothing_usable_takes_no_slot() -> None:
    pipeline = a_pipeline(max_streams=1)
    send(pipeline, block("future", [1e6]), block("empty", []), now=0)
    assert len(pipeline.streams) == 0
    assert causes(send(pipeline, block("real", [0]), now=0)) == []


def test_a_neighbour_feels_nothing_of_refusals() -> None:
    lonely, crowded = a_pipeline(), a_pipeline(max_streams=2)
    good = block("good", range(12))
    bad = block("bad", [0, 0, 9, 3, 50, 50], seed=3)
    first = [send(lonely, good)]
    second = [send(crowded, bad, good, block("third", [0]))]
    assert seen(lonely, first, "good") == seen(crowded, second, "good")


# --- a score that is no number


def test_a_score_that_is_not_finite_is_refused_and_resets() -> None:
    pipeline = a_pipeline("ratio")
    rows = [[1, 2], [1, 2], [1, 2], [1, 0], [1, 2], [1, 2], [0, 0], [1, 4]]
    result = send(pipeline, block("p", range(8), rows))
    assert causes(result) == [("p", "not_finite_score", 1)] * 2
    assert result.rejected[0].detail == (
        "the model's score at ts 1700000003000 is not a finite number"
    )
    at = [START + 3 * SECOND, START + 6 * SECOND]
    assert result.resets == [Reset("p", ts, "not_finite_score") for ts in at]
    assert result.scored[0].score.tolist() == [0.5, 1.0, 1.5, 0.5, 1.0, 0.25]
    assert statuses(result) == ["warming_up", "warming_up", "ok"] + ["warming_up"] * 3
    assert pipeline.streams.last_ts[0] == START + 7 * SECOND


@pytest.mark.parametrize("end", [1, 2, 3])
def test_a_spoilt_state_never_outlives_the_call(end: int) -> None:
    pipeline = a_pipeline("ratio")
    rows = [[1, 2], [1, 0], [0, 0]][:end]
    send(pipeline, block("p", range(end), rows), block("q", range(3), [[1, 2]] * 3))
    scores = [scored.score.tolist() for scored in send(pipeline, block("p", [4], [[1, 4]])).scored]
    assert scores == [[0.75 if end == 1 else 0.25]]


def test_a_neighbour_feels_nothing_of_a_score_that_is_not_finite() -> None:
    lonely, crowded = a_pipeline("ratio"), a_pipeline("ratio")
    good = block("good", range(20), np.random.default_rng(0).uniform(1, 2, (20, 2)))
    bad = block("bad", range(9), [[1, 2], [0, 0], [1, 2], [1, 0], [0, 0], [1, 2]] + [[1, 1]] * 3)
    first, second = [send(lonely, good)], [send(crowded, bad, good)]
    assert seen(lonely, first, "good") == seen(crowded, second, "good")


def test_many_scores_that_are_not_finite_do_not_take_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows that the model is given stay near the samples, not near their square."""
    rows = 0
    run = Session.run

    def counting(session: Session, x: NDArray[np.float32], state: Any) -> Any:
        nonlocal rows
        rows += x.shape[0]
        return run(session, x, state)

    monkeypatch.setattr(Session, "run", counting)
    pipeline = a_pipeline("ratio")
    result = send(pipeline, block("p", range(2000), [[0, 0]] * 2000))
    assert sum(refused.samples for refused in result.rejected) == 2000
    assert rows < 2000 * 15


# --- flags


def flags_of(name: str, stream: str, shift: float = 0.0) -> list[Flag]:
    pipeline = a_pipeline(name, AlarmConfig(enter=0.5, leave=0.45, hold_steps=1))
    numbers = np.random.default_rng(7).normal(2, 3, (60, 3))
    return send(pipeline, block(stream, np.arange(60) + shift, numbers)).flags


def test_flag_ids_are_deterministic_and_tell_everything_apart() -> None:
    flags = flags_of("lstm", "a")
    assert {flag.event for flag in flags} == {"raised", "cleared"}
    assert flags == flags_of("lstm", "a")
    others = [*flags_of("lstm", "b"), *flags_of("lstm", "a", 0.5), *flags_of("gru", "a")]
    ids = [flag.id for flag in [*flags, *others]]
    assert len(set(ids)) == len(ids)
    assert all(len(i) == 32 and int(i, 16) >= 0 for i in ids)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("ab\0 1", max_size=3), st.integers(0, 99)), unique=True))
def test_flag_ids_do_not_collide(keys: list[tuple[str, int]]) -> None:
    models = ("0" * 64, "1" * 64)
    events = ("raised", "cleared")
    ids = {flag_id(m, *key, event) for m in models for key in keys for event in events}
    assert len(ids) == 4 * len(keys)


def test_a_flag_id_takes_any_name() -> None:
    assert flag_id("0" * 64, "caf\udce9", 1, "raised") != flag_id("0" * 64, "cafe", 1, "raised")


def test_the_top_features_are_those_of_the_deciding_sample() -> None:
    session = model("lstm")
    numbers = np.random.default_rng(7).normal(2, 3, (60, 1, 3)).astype(np.float32)
    outputs, _ = session.run(numbers, session.contract.initial_state(1))
    assert outputs.contribution is not None
    flags = flags_of("lstm", "a")
    assert len(flags) > 4
    for flag in flags:
        shares = outputs.contribution[(flag.ts - START) // SECOND, 0]
        wanted = sorted(zip(shares.tolist(), session.contract.feature_names, strict=True))[::-1]
        assert [share.feature for share in flag.top] == [feature for _, feature in wanted]
        assert [share.share for share in flag.top] == [round(share, 4) for share, _ in wanted]
        assert flag.model == session.digest[:16]
        assert flag.score == outputs.score[(flag.ts - START) // SECOND, 0]


def test_equal_shares_keep_the_order_of_the_contract() -> None:
    pipeline = a_pipeline("ratio", AlarmConfig(enter=2.5, leave=1.0, hold_steps=1))
    (flag,) = send(pipeline, block("p", range(4), [[1, 1]] * 4)).flags
    assert [(share.feature, share.share) for share in flag.top] == [("a", 0.5), ("b", 0.5)]


def test_a_model_without_contribution_explains_nothing() -> None:
    pipeline = a_pipeline("foreign", AlarmConfig(enter=0.5, leave=0.1, hold_steps=1))
    (flag,) = send(pipeline, block("p", range(8), [[1, 1]] * 8)).flags
    assert flag.top == ()


def test_results_name_streams_in_order_of_arrival() -> None:
    pipeline = a_pipeline()
    send(pipeline, block("z", [0]), block("a", [0]))
    result = send(pipeline, block("m", [1]), block("a", [1]), block("z", [1]), block("a", [2]))
    assert [scored.stream for scored in result.scored] == ["m", "a", "z"]
    assert [len(scored.ts) for scored in result.scored] == [1, 2, 1]
