"""The pool of states: take and put, growth, reset, and slots that are used again."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.alarm import QUIET, AlarmState
from edge_runtime.contract import CONTRACT_SCHEMA, Contract, Feature, Golden, State
from edge_runtime.streams import NEVER, Streams

STATES = (
    State(input="first", output="first_next", shape=("stream", 3), initial=0.5),
    State(input="middle", output="middle_next", shape=(2, "stream", 4)),
    State(input="last", output="last_next", shape=(2, 3, "stream"), dtype="float64"),
    State(input="alone", output="alone_next", shape=("stream",), dtype="int64", initial=7),
    State(input="flag", output="flag_next", shape=(1, "stream"), dtype="bool", initial=1),
)
CONTRACT = Contract(
    schema=CONTRACT_SCHEMA,
    features=(Feature(name="a"),),
    states=STATES,
    sample_period_ms=1.0,
    max_gap_ms=5.0,
    warm_up_steps=0,
    golden=Golden(x=[], score=[]),
)


def some_state(streams: int, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    initial = CONTRACT.initial_state(streams)
    return {
        name: rng.integers(0, 100, value.shape).astype(value.dtype)
        for name, value in initial.items()
    }


def assert_same(got: dict[str, NDArray[Any]], wanted: dict[str, NDArray[Any]]) -> None:
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        assert np.array_equal(got[name], value), name


def admitted(count: int, max_streams: int = 100) -> tuple[Streams, list[int]]:
    streams = Streams(CONTRACT, max_streams)
    return streams, [streams.admit(f"pump-{number}") for number in range(count)]


def test_a_new_stream_has_the_initial_state() -> None:
    streams, slots = admitted(5)
    assert_same(streams.take(slots), CONTRACT.initial_state(5))


@settings(deadline=None)
@given(st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True), st.integers(0, 9))
def test_take_gives_what_put_stored(chosen: list[int], seed: int) -> None:
    streams, slots = admitted(40)
    state = some_state(len(chosen), seed)
    streams.put([slots[n] for n in chosen], state)
    assert_same(streams.take([slots[n] for n in chosen]), state)
    others = [slot for n, slot in enumerate(slots) if n not in chosen]
    assert_same(streams.take(others), CONTRACT.initial_state(len(others)))


def test_the_order_of_the_slots_is_the_order_of_the_streams() -> None:
    streams, slots = admitted(3)
    state = some_state(3, 1)
    streams.put(slots, state)
    turned = streams.take(slots[::-1])
    for pair in STATES:
        assert np.array_equal(turned[pair.input], np.flip(state[pair.input], pair.stream_axis))


def test_take_gives_a_copy() -> None:
    streams, slots = admitted(1)
    for value in streams.take(slots).values():
        value[...] = 9
    assert_same(streams.take(slots), CONTRACT.initial_state(1))


def test_growth_keeps_every_state() -> None:
    streams, slots = admitted(16)
    state = some_state(16, 2)
    streams.put(slots, state)
    streams.last_ts[slots] = 1000 + np.arange(16)
    streams.steps[slots] = np.arange(16)
    more = [streams.admit(f"fan-{number}") for number in range(50)]
    assert len(set(slots) | set(more)) == 66
    assert_same(streams.take(slots), state)
    assert_same(streams.take(more), CONTRACT.initial_state(50))
    assert streams.last_ts[slots].tolist() == list(range(1000, 1016))
    assert streams.steps[slots].tolist() == list(range(16))
    assert (streams.last_ts[more] == NEVER).all()


@pytest.mark.parametrize("limit", [1, 5, 16, 17, 40])
def test_there_is_room_for_exactly_so_many(limit: int) -> None:
    streams, slots = admitted(limit, max_streams=limit)
    assert len(streams) == limit
    assert streams.full
    assert streams.admit("pump-0") == slots[0]
    assert streams.find("one too many") is None
    with pytest.raises(AssertionError, match="no room for one too many"):
        streams.admit("one too many")
    assert_same(streams.take(slots), CONTRACT.initial_state(limit))


def test_admit_finds_a_known_stream() -> None:
    streams, slots = admitted(3)
    assert [streams.admit(f"pump-{number}") for number in range(3)] == slots
    assert [streams.names[slot] for slot in slots] == ["pump-0", "pump-1", "pump-2"]


def test_reset_touches_the_state_and_nothing_else() -> None:
    streams, slots = admitted(3)
    state = some_state(3, 4)
    streams.put(slots, state)
    streams.steps[slots] = 9
    streams.last_ts[slots] = 1234
    lit = AlarmState(raised=True, row=1)
    streams.set_alarm(slots[1], lit)
    streams.reset(slots[1])
    assert_same(streams.take([slots[1]]), CONTRACT.initial_state(1))
    assert streams.steps[slots].tolist() == [9, 0, 9]
    assert streams.last_ts[slots[1]] == 1234
    assert streams.alarm(slots[1]) == lit
    for pair in STATES:
        wanted = np.take(state[pair.input], [0, 2], pair.stream_axis)
        assert np.array_equal(streams.take([slots[0], slots[2]])[pair.input], wanted)


def test_what_is_kept_outlives_a_reset_that_keeps_and_no_other() -> None:
    kept, lost = (
        msgspec.structs.replace(pair, kept=number == 0) for number, pair in enumerate(STATES[:2])
    )
    streams = Streams(msgspec.structs.replace(CONTRACT, states=(kept, lost)), max_streams=2)
    slot = streams.admit("pump")
    state = {name: some_state(1, 4)[name] for name in (kept.input, lost.input)}
    streams.put([slot], state)
    streams.reset(slot, keep=True)
    assert np.array_equal(streams.take([slot])[kept.input], state[kept.input])
    assert (streams.take([slot])[lost.input] == lost.initial).all()
    streams.reset(slot)
    assert (streams.take([slot])[kept.input] == kept.initial).all()


def test_a_slot_that_is_used_again_starts_clean() -> None:
    streams, slots = admitted(2, max_streams=2)
    streams.put(slots, some_state(2, 5))
    streams.steps[slots] = 9
    streams.last_ts[slots] = 1234
    streams.set_alarm(slots[0], AlarmState(raised=True, row=2))
    streams.evict("pump-0")
    assert len(streams) == 1
    assert not streams.full
    assert streams.find("pump-0") is None
    assert streams.names[slots[0]] is None
    slot = streams.admit("fan")
    assert slot == slots[0]
    assert streams.names[slot] == "fan"
    assert_same(streams.take([slot]), CONTRACT.initial_state(1))
    assert streams.steps[slot] == 0
    assert streams.last_ts[slot] == NEVER
    assert streams.alarm(slot) == QUIET
    assert streams.last_ts[slots[1]] == 1234
