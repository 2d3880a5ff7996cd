"""The quick way reads a payload as the thorough one does, or leaves it to it."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import PayloadError
from edge_runtime.payload import MAX_SEQ, MAX_TS_NS, Decoder, Samples
from edge_runtime.results import NO_SEQ
from edge_runtime.typed import TypedDecoder

FEATURES = ("current", "pr\u00e9ssure")
LIMIT = 4096
THOROUGH, QUICK = Decoder(FEATURES, LIMIT), TypedDecoder(FEATURES, LIMIT)
TS = 1_700_000_000_000

numbers: st.SearchStrategy[Any] = st.one_of(
    st.floats(allow_nan=True),
    st.floats(-1e3, 1e3),
    st.integers(-(2**70), 2**70),
    st.integers(-5, 5),
    st.sampled_from([True, None, "1", 2**128, -(2.0**128), 3.4028235677973362e38, 1e400]),
)
rows = st.one_of(st.lists(numbers, max_size=3), st.tuples(*[st.floats(-9, 9)] * 2).map(list))
values = st.one_of(
    rows,
    st.fixed_dictionaries(dict.fromkeys(FEATURES, numbers), optional={"more": numbers}),
    st.lists(rows, max_size=4),
    st.lists(st.tuples(*[st.floats(-9, 9)] * 2).map(list), min_size=1, max_size=4),
)
times: st.SearchStrategy[Any] = st.one_of(
    st.integers(-5, 2**66), st.just(TS), st.floats(), st.just("2026-01-01")
)
messages = st.fixed_dictionaries(
    {"ts": times, "values": values},
    optional={
        "seq": st.one_of(st.integers(-2, 3), st.sampled_from([MAX_SEQ, MAX_SEQ + 1, 1.0, True])),
        "period_ms": st.one_of(st.floats(), st.floats(1e-6, 1e3), st.integers(-1, 10), st.none()),
        "x": st.text(max_size=3),
    },
)


def quickly(payload: bytes) -> Samples | None:
    one = QUICK.one(payload)
    if one is None:
        return QUICK.block(payload)
    ts, seq, row = one
    counts = None if seq == NO_SEQ else np.array([seq])
    return Samples(np.array([ts]), np.asarray([row], np.float32), counts)


def assert_no_other(payload: bytes) -> bool:
    """If the quick way takes it, the thorough one takes it too, bit for bit."""
    quick = quickly(payload)
    if quick is None:
        return False
    thorough = THOROUGH.decode(payload)
    assert quick.ts.dtype == np.int64
    assert quick.ts.tolist() == thorough.ts.tolist()
    assert quick.values.dtype == np.float32
    assert quick.values.tobytes() == thorough.values.tobytes()
    assert (quick.seq is None) == (thorough.seq is None)
    if quick.seq is not None and thorough.seq is not None:
        assert quick.seq.tolist() == thorough.seq.tolist()
    return True


@settings(max_examples=1500)
@given(messages)
@example({"ts": MAX_TS_NS // 10**6, "period_ms": 1e9, "values": [[0, 0], [0, 0]]})
@example({"ts": TS, "period_ms": 0.5, "values": [[0, 0], [0, 0, 0]]})
@example({"ts": TS, "period_ms": 0.5, "values": []})
@example({"ts": TS, "seq": MAX_SEQ, "period_ms": 0.5, "values": [[0, 0], [0, 0]]})
@example({"ts": TS, "seq": -1, "values": [0, 0]})
@example({"ts": TS, "period_ms": 1, "values": [0, 0]})
@example({"ts": TS, "values": [1e39, 0]})
def test_what_both_take_they_read_the_same(message: dict[str, Any]) -> None:
    assert_no_other(json.dumps(message).encode())
    assert_no_other(json.dumps(message, ensure_ascii=False).encode())


@settings(max_examples=1500)
@given(st.data())
def test_a_spoilt_payload_is_not_taken_where_the_thorough_way_refuses_it(
    data: st.DataObject,
) -> None:
    form = data.draw(
        st.sampled_from(
            [
                {"ts": TS, "values": dict.fromkeys(FEATURES, 1.5), "seq": 7},
                {"ts": TS, "values": [1.5, -2]},
                {"ts": TS, "period_ms": 0.5, "values": [[1.5, 2], [3, 4.25]]},
            ]
        )
    )
    payload = bytearray(json.dumps(form, ensure_ascii=False).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        what = data.draw(st.sampled_from(["set", "cut", "twice"]))
        if what == "set":
            payload[at] = data.draw(
                st.one_of(st.integers(0, 255), st.sampled_from(b'"\\{}[],:0eE.-'))
            )
        elif what == "cut" and len(payload) > 1:
            del payload[at]
        else:
            payload[at:at] = payload[at : at + 9]
    assert_no_other(bytes(payload))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"ts": 5, "ts": 6, "values": [1, 2]}',
        b'{"ts": 5, "values": [1, 2], "values": {"current": 1, "pr\xc3\xa9ssure": 2}}',
        b'{"ts": 5, "values": {"current": 1, "current": 3, "pr\\u00e9ssure": 2}}',
        b'{"\\u0074s": 5, "values": [1, 2]}',
        b' {"ts" :5 ,"values":[1e0,2E-3] }\n',
        b'{"ts": 5, "values": [-0, -0.0]}',
        b'{"ts": 5, "period_ms": 0.3333333333333333, "values": [[0, 0], [1, 1], [2, 2], [3, 3]]}',
    ],
)
def test_spellings_that_it_takes(payload: bytes) -> None:
    assert assert_no_other(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"ts": 5, "values": [1, 2], "unit": "\xff"}',
        b'{"ts": 5, "values": [1, 2], "unit": 1e999}',
        b'{"ts": 5, "values": [1, 2]} ',
        b'{"ts": 5, "values": [1, 2]}x',
        b'{"ts": 5, "current": 1, "pr\xc3\xa9ssure": 2}',
        b'[{"ts": 5, "values": [1, 2]}]',
        b'{"ts": 5, "values": [1, true]}',
        b'{"ts": 5, "values": [1]}',
        b'{"ts": 5, "values": []}',
        b"[" * 100_000,
        b"",
        b'{"ts": 5, "values": [1, ' + b" " * LIMIT + b"2]}",
    ],
)
def test_what_it_leaves_to_the_other(payload: bytes) -> None:
    taken = quickly(payload) is not None
    assert taken == (payload == b'{"ts": 5, "values": [1, 2]} ')
    if not taken:
        return
    THOROUGH.decode(payload)


def test_refusals_are_not_its_business() -> None:
    for payload in (b"nothing", b'{"ts": -1, "values": [1, 2]}', b'{"ts": 1, "values": [1, NaN]}'):
        assert quickly(payload) is None
        with pytest.raises(PayloadError):
            THOROUGH.decode(payload)
