"""What is remembered of a stream: written as a record, read again, run again from the journal."""

import json
import random
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from edge_runtime.config import AlarmConfig
from edge_runtime.errors import ConfigError, StateError
from edge_runtime.pipeline import Pipeline, Settings
from edge_runtime.results import Block, Evicted, Result
from pipelines import (
    CASES,
    GAP,
    SECOND,
    START,
    Samples,
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
)

Disk = dict[str, bytes]


def snapshot(pipeline: Pipeline, disk: Disk) -> None:
    """Writes the streams that were touched, as a store does."""
    slots = np.flatnonzero(pipeline.streams.touched).tolist()
    names = [pipeline.streams.names[slot] for slot in slots]
    for name, record in zip(names, pipeline.streams.dump(slots), strict=True):
        assert name is not None
        disk[name] = record
    pipeline.streams.touched[:] = False


def loaded(fresh: Pipeline, disk: Disk) -> Pipeline:
    fresh.streams.load(list(disk), list(disk.values()))
    return fresh


def everything(pipeline: Pipeline) -> Disk:
    names = [name for name in pipeline.streams.names if name is not None]
    slots = [slot for slot, name in enumerate(pipeline.streams.names) if name is not None]
    return dict(zip(names, pipeline.streams.dump(slots), strict=True))


def decided(results: Sequence[Result]) -> list[Any]:
    """Scores, flags and resets, bit by bit, in order."""
    columns = [
        [
            (s.stream, *(c.tobytes() for c in (s.ts, s.score, s.status, s.alarm)), list(s.lines()))
            for s in r.scored
        ]
        for r in results
    ]
    return [(c, r.flags, r.resets) for c, r in zip(columns, results, strict=True)]


def stories_of(name: str, way: Way, seed: int, streams: int) -> dict[str, Samples]:
    numbers = np.random.default_rng(seed)
    return {f"line/pump-{n}": a_story(name, numbers, way) for n in range(streams)}


# --- records


@pytest.mark.parametrize(("name", "way"), CASES)
@example_settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32), streams=st.integers(1, 12), rng=st.randoms(use_true_random=False)
)
def test_a_stream_goes_on_from_its_record(
    name: str, way: Way, seed: int, streams: int, rng: random.Random
) -> None:
    stories = stories_of(name, way, seed, streams)
    pipeline, disk, results = a_pipeline(name, **way.settings), Disk(), []
    for blocks in grouped(stories, rng):
        results.append(pipeline.process(blocks, None))
        if rng.random() < 0.4:
            snapshot(pipeline, disk)
            assert disk == everything(pipeline)
            pipeline = loaded(a_pipeline(name, **way.settings), disk)
            assert disk == everything(pipeline)
            assert not pipeline.streams.touched.any()
    for stream, story in stories.items():
        alone = one_by_one(a_pipeline(name, **way.settings), stream, story)
        assert seen(pipeline, results, stream) == alone


@pytest.mark.parametrize(("name", "way"), CASES)
@example_settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32), streams=st.integers(1, 12), rng=st.randoms(use_true_random=False)
)
def test_what_was_admitted_gives_the_same_again(
    name: str, way: Way, seed: int, streams: int, rng: random.Random
) -> None:
    """With refusals of every kind while it was live, and none but those of the model afterwards."""
    stories = stories_of(name, way, seed, streams)
    if name == "float16":
        stories["line/pump-0"].values[::3] = 1e9
    limits = way.settings | {"max_streams": max(1, streams - 1), "max_ahead_ns": 5 * SECOND}
    live, again, late = (a_pipeline(name, **limits) for _ in range(3))
    calls = grouped(stories, rng)
    results, journal, disk = [], [], Disk()
    switch = rng.randrange(len(calls))
    for number, blocks in enumerate(calls):
        if number == switch:
            snapshot(live, disk)
        now = START + rng.randrange(60) * SECOND
        results.append(live.process(blocks, now))
        if number >= switch:
            journal.append(results[-1].admitted)
    second = [again.process(result.admitted, None) for result in results]
    assert decided(second) == decided(results)
    assert {r.cause for result in second for r in result.rejected} <= {"not_finite_score"}
    assert everything(again) == everything(live)
    loaded(late, disk)
    recovered = [late.process(blocks, None) for blocks in journal]
    assert decided(recovered) == decided(results[switch:])
    assert everything(late) == everything(live)


def test_admitted_is_what_was_not_refused_in_order() -> None:
    pipeline = a_pipeline(max_streams=2, max_ahead_ns=60 * SECOND)
    first, second = block("a", [0, 1, 1, 900, 2]), block("b", [0])
    result = send(pipeline, first, second, block("c", [0]), block("a", [3]), block("b", [0]), now=2)
    assert [(b.stream, ((b.ts - START) // SECOND).tolist()) for b in result.admitted] == [
        ("a", [0, 1, 2]),
        ("b", [0]),
        ("a", [3]),
    ]
    assert result.admitted[0].values.tobytes() == first.values[[0, 1, 4]].tobytes()


def test_touched_are_those_that_had_a_sample_that_was_taken() -> None:
    pipeline = a_pipeline()
    send(pipeline, block("a", [0]), block("b", [5]))
    assert pipeline.streams.touched[:2].tolist() == [True, True]
    pipeline.streams.touched[:] = False
    send(pipeline, block("a", [1]), block("b", [4]))
    assert pipeline.streams.touched[:2].tolist() == [True, False]
    pipeline.evict(["a"])
    assert not pipeline.streams.touched.any()


def a_record(name: str = "lstm") -> bytes:
    pipeline = a_pipeline(name)
    features = len(model(name).contract.features)
    send(pipeline, block("p", range(3), np.ones((3, features))))
    (record,) = pipeline.streams.dump([0])
    return record


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda record: b"", "wanted a record of version 1, got an empty one"),
        (lambda record: b"\x02" + record[1:], "wanted a record of version 1, got version 2"),
        (lambda record: record[:-1], "it is another model's"),
        (lambda record: record + b"\0", "it is another model's"),
        (lambda record: a_record("lstm-2"), "it is another model's"),
    ],
    ids=["empty", "version", "short", "long", "other model"],
)
def test_a_record_that_does_not_fit_is_refused_by_name(spoil: Any, reason: str) -> None:
    pipeline = a_pipeline()
    send(pipeline, block("known", range(9)))
    before = everything(pipeline)
    with pytest.raises(StateError, match=f"^pump-2: .*{reason}"):
        pipeline.streams.load(["known", "pump-2"], [a_record(), spoil(a_record())])
    assert everything(pipeline) == before
    assert len(pipeline.streams) == 1


def test_records_of_more_streams_than_there_is_room_for_are_refused() -> None:
    pipeline = a_pipeline(max_streams=2)
    send(pipeline, block("a", [0]))
    with pytest.raises(StateError, match="wanted at most 2 streams, got 3"):
        pipeline.streams.load(["a", "b", "c"], [a_record()] * 3)
    pipeline.streams.load(["a", "b"], [a_record()] * 2)
    assert everything(pipeline) == {"a": a_record(), "b": a_record()}


def test_a_record_is_little_endian() -> None:
    assert a_record()[:9] == struct.pack("<bq", 1, START + 2 * SECOND)


def test_many_streams_at_once_are_each_their_own() -> None:
    """Beyond the first capacity, and into slots in another order."""
    pipeline = a_pipeline()
    send(pipeline, *(block(f"p{n}", range(3 + n % 4), seed=n) for n in range(100)))
    disk = everything(pipeline)
    assert len(set(disk.values())) == 100
    other = a_pipeline()
    turned = dict(sorted(disk.items(), reverse=True))
    assert everything(loaded(other, turned)) == turned


# --- idle streams


def idling() -> Pipeline:
    """Three streams that end at second 10, and one that goes on until second 1000."""
    pipeline = a_pipeline(
        alarm=AlarmConfig(enter=0.5, leave=0.45, hold_steps=2), evict_after_ns=100 * SECOND
    )
    calm = np.full((11, 3), 2.0)
    send(pipeline, *(block(name, range(11), calm) for name in ("a", "b", "c")), now=10)
    send(pipeline, block("busy", range(900, 1001)), now=1000)
    return pipeline


def at(seconds: float) -> int:
    return START + round(seconds * SECOND)


def test_a_stream_that_is_silent_for_long_is_idle() -> None:
    pipeline = idling()
    alarms = {name: pipeline.streams.alarm(slot) for slot, name in enumerate("abc")}
    quiet = [n for n, alarm in alarms.items() if not alarm.raised and alarm.row == 0]
    assert quiet == ["a", "b", "c"]
    assert pipeline.idle(at(900)) == quiet
    assert pipeline.idle(at(10)) == []


def test_a_lamp_that_is_lit_or_about_to_be_keeps_its_stream() -> None:
    eager = a_pipeline(alarm=AlarmConfig(enter=1e-6, leave=1e-7, hold_steps=2))
    send(eager, block("lit", range(11)), block("row", range(5)), block("dark", range(3)), now=10)
    send(eager, block("busy", [1000]), now=1000)
    alarms = [eager.streams.alarm(slot) for slot in range(3)]
    states = [(alarm.raised, alarm.row) for alarm in alarms]
    assert states == [(True, 0), (False, 1), (False, 0)]
    assert eager.idle(at(900)) == ["dark"]


def test_a_backlog_is_no_silence() -> None:
    """After two days without the broker its queue is read: every stream is old, none is idle."""
    pipeline = a_pipeline(evict_after_ns=100 * SECOND)
    send(pipeline, block("a", range(5)), block("b", range(5)), now=5)
    two_days = 2 * 86400
    send(pipeline, block("a", range(5, 10)), now=two_days)
    assert pipeline.idle(at(two_days - 100)) == []
    assert pipeline.idle(at(two_days + 1000)) == []


def test_a_device_whose_clock_is_behind_is_not_idle_while_it_sends() -> None:
    pipeline = a_pipeline(evict_after_ns=100 * SECOND)
    send(pipeline, block("right", [5000]), block("behind", [0]), now=5000)
    send(pipeline, block("right", [6000]), block("behind", [1]), now=6000)
    assert pipeline.idle(at(5900)) == []
    assert pipeline.idle(at(6001)) == ["behind"]


def test_after_a_start_silence_is_measured_from_there() -> None:
    disk = everything(idling())
    pipeline = loaded(a_pipeline(evict_after_ns=100 * SECOND), disk)
    assert pipeline.idle(at(5000)) == []
    send(pipeline, block("busy", [5000]), now=5000)
    assert pipeline.idle(at(4999)) == []
    assert pipeline.idle(at(5001)) == ["a", "b", "c"]


def test_an_evicted_stream_goes_on_as_after_any_silence() -> None:
    pipeline, whole = idling(), idling()
    assert pipeline.evict([*pipeline.idle(at(900)), "nobody"]) == [
        Evicted(name, at(10), 0) for name in "abc"
    ]
    assert len(pipeline.streams) == 1
    later = block("a", range(2000, 2012))
    one, other = send(pipeline, later), send(whole, later)
    assert decided([one])[0][:2] == decided([other])[0][:2]
    assert ([reset.cause for reset in other.resets], one.resets) == (["gap"], [])
    assert everything(pipeline)["a"] == everything(whole)["a"]


def test_eviction_gives_up_the_scores_that_were_to_come() -> None:
    pipeline = a_pipeline("five ahead")
    send(pipeline, block("p", range(3), [[1, 1]] * 3), now=3)
    send(pipeline, block("busy", [900], [[1, 1]]), now=900)
    assert pipeline.evict(pipeline.idle(at(800))) == [Evicted("p", at(2), 3)]
    assert pipeline.waiting() == {"busy": 1}


def test_nothing_is_idle_within_the_longest_gap() -> None:
    pipeline = a_pipeline()
    send(pipeline, block("a", [0]), now=0)
    send(pipeline, Block("b", np.array([START + GAP]), np.ones((1, 3), np.float32)), now=0)
    assert pipeline.idle(at(1e6)) == []
    send(pipeline, Block("b", np.array([START + GAP + 1]), np.ones((1, 3), np.float32)), now=0)
    assert pipeline.idle(at(1e6)) == ["a"]


@pytest.mark.parametrize("name", ["lstm", "five ahead"])
def test_a_slot_is_free_for_another_stream(name: str) -> None:
    features = len(model(name).contract.features)
    pipeline, fresh = (a_pipeline(name, max_streams=1) for _ in range(2))
    send(pipeline, block("old", range(9), np.ones((9, features))))
    new = block("new", range(2), np.ones((2, features)))
    assert causes(send(pipeline, new)) == [("new", "too_many_streams", 2)]
    pipeline.evict(["old"])
    assert decided([send(pipeline, new)]) == decided([send(fresh, new)])
    assert everything(pipeline) == everything(fresh)


# --- settings


def test_settings_survive_json() -> None:
    settings = Settings(
        alarm=AlarmConfig(enter=1.25, leave=0.5, hold_steps=7),
        max_streams=3,
        max_gap_ns=2**62 + 1,
        evict_after_ns=5,
    )
    assert Settings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings
    assert Settings.from_dict({}) == Settings()
    assert Settings.from_dict({"alarm": {"enter": 2.0}}).alarm == AlarmConfig(enter=2.0)


def test_settings_that_are_not_known_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"wanted settings out of alarm, .*; got horizon"):
        Settings.from_dict({"horizon": 3})
    with pytest.raises(ConfigError, match=r"wanted settings out of enter, .*; got grace"):
        Settings.from_dict({"alarm": {"grace": 3}})
