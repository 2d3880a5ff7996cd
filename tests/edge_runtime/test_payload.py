"""Bytes to samples and back: every form, every cause, and nothing else whatever arrives."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import PayloadError
from edge_runtime.payload import (
    FLOAT32_OVERFLOW,
    MAX_TS_NS,
    Decoder,
    Flag,
    ScoreLine,
    Share,
    encode_flag,
    encode_score,
    float32_text,
    parse_ts,
    ts_text,
)

LIMIT = 1 << 16
DECODER = Decoder(("current", "pressure"), LIMIT)
MS = 1_000_000
TS = 1_700_000_000_000


def decode(message: object) -> tuple[list[int], list[list[float]]]:
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    samples = DECODER.decode(payload)
    assert samples.ts.dtype == np.int64
    assert samples.values.dtype == np.float32
    assert samples.values.shape == (len(samples.ts), 2)
    return samples.ts.tolist(), samples.values.tolist()


def refusal(message: object) -> tuple[str, str]:
    with pytest.raises(PayloadError) as caught:
        decode(message)
    assert caught.value.detail.isprintable()
    return caught.value.cause, caught.value.detail


# --- the forms


@pytest.mark.parametrize(
    "message",
    [
        {"ts": TS, "values": {"current": 2.5, "pressure": -1}},
        {"ts": TS, "values": {"pressure": -1, "current": 2.5, "other": "ignored"}},
        {"ts": TS, "values": [2.5, -1]},
        {"ts": TS, "current": 2.5, "pressure": -1, "machine": "p3"},
        [{"ts": TS, "values": [2.5, -1]}],
        {"ts": TS, "period_ms": 0.5, "values": [[2.5, -1]]},
    ],
)
def test_every_form_of_one_sample(message: object) -> None:
    assert decode(message) == ([TS * MS], [[2.5, -1.0]])


def test_an_array_keeps_its_order_and_may_mix_forms() -> None:
    ts, values = decode(
        [
            {"ts": 5, "values": [1, 2]},
            {"ts": 3, "current": 3, "pressure": 4},
            {"ts": 7, "period_ms": 2, "values": [[5, 6], [7, 8]]},
        ]
    )
    assert ts == [5 * MS, 3 * MS, 7 * MS, 9 * MS]
    assert values == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_a_block_counts_from_its_first_sample() -> None:
    ts, _ = decode({"ts": TS, "period_ms": 1 / 3, "values": [[0, 0]] * 4})
    assert ts == [TS * MS, TS * MS + 333_333, TS * MS + 666_667, TS * MS + MS]


def test_of_two_equal_keys_the_last_counts() -> None:
    assert decode(b'{"ts": 1, "ts": 2, "values": [1, 2]}')[0] == [2 * MS]


# --- the device's own count


def counts(
    message: object, features: tuple[str, ...] = ("current", "pressure")
) -> list[int] | None:
    samples = Decoder(features, LIMIT).decode(json.dumps(message).encode())
    assert samples.seq is None or samples.seq.dtype == np.int64
    return None if samples.seq is None else samples.seq.tolist()


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ({"ts": 1, "values": [1, 2]}, None),
        ({"ts": 1, "seq": 0, "values": [1, 2]}, [0]),
        ({"ts": 1, "seq": 2**63 - 1, "values": {"current": 1, "pressure": 2}}, [2**63 - 1]),
        ({"ts": 1, "seq": 7, "current": 1, "pressure": 2}, [7]),
        ({"ts": 1, "period_ms": 1, "seq": 7, "values": [[1, 2]] * 3}, [7, 8, 9]),
        ([{"ts": 1, "values": [1, 2]}, {"ts": 1, "seq": 4, "values": [1, 2]}], [-1, 4]),
    ],
)
def test_a_count_may_stand_beside_the_time(message: object, wanted: list[int] | None) -> None:
    assert counts(message) == wanted


def test_a_sensor_may_be_called_seq() -> None:
    features = ("seq", "current")
    assert counts({"ts": 1, "seq": 2.5, "current": 1}, features) is None
    assert counts({"ts": 1, "seq": 3, "values": {"seq": 2.5, "current": 1}}, features) == [3]
    assert counts({"ts": 1, "seq": 3, "values": [2.5, 1]}, features) == [3]


# --- devices without a clock


def arrived(message: object, period_ms: float = 10.0) -> list[float]:
    decoder = Decoder(("current", "pressure"), LIMIT, period_ms)
    samples = decoder.decode(json.dumps(message).encode())
    assert samples.ts.dtype == np.int64
    return [ts / MS for ts in samples.ts.tolist()]


def test_without_a_clock_the_last_sample_is_now() -> None:
    one = {"values": [1, 2]}
    block = {"period_ms": 2, "values": [[1, 2]] * 3}
    assert arrived(one) == [0]
    assert arrived({"ts": "never", "current": 1, "pressure": 2}) == [0]
    assert arrived([one] * 3) == [-20, -10, 0]
    assert arrived(block) == [-4, -2, 0]
    assert arrived([block, one, one, block]) == [-38, -36, -34, -24, -14, -4, -2, 0]
    assert arrived([one, one], 0.25) == [-0.25, 0]
    assert arrived({"period_ms": 1e-9, "values": [[1, 2]] * 3}) == [0, 0, 0]


def test_a_span_without_a_clock_is_bounded() -> None:
    decoder = Decoder(("current", "pressure"), LIMIT, 9e12)
    with pytest.raises(PayloadError, match="bad_ts"):
        decoder.decode(json.dumps([{"values": [1, 2]}] * 3).encode())


# --- the causes


@pytest.mark.parametrize(
    ("message", "cause", "words"),
    [
        (b"", "not_json", "truncated"),
        (b"\xff\xfe", "not_json", "invalid"),
        (b'{"ts": 1, "values": [1, NaN]}', "not_json", "NaN"),
        (b'{"ts": 1, "values": [1, -Infinity]}', "not_json", "Infinity"),
        (b'{"ts": 1, "values": [1, 1e400]}', "not_json", "out of range"),
        (b"[" * 60_000, "not_json", "recursion"),
        (b'{"a":' * 10_000, "not_json", "recursion"),
        (b"[" + b"9" * 5000 + b"]", "not_json", "out of range"),
        (b'{"ts": 1, "\\ud800": 1}', "not_json", "starts"),
        ([], "not_a_sample", "an empty array"),
        (None, "not_a_sample", "wanted a JSON object, got None"),
        ("text", "not_a_sample", "got 'text'"),
        (3, "not_a_sample", "got 3"),
        ([[]], "not_a_sample", "got []"),
        ([{"ts": 1, "values": [1, 2]}, None], "not_a_sample", "got None"),
        ({"ts": 1, "values": "1,2"}, "not_a_sample", "values: wanted an object or an array"),
        ({"ts": 1, "values": None}, "not_a_sample", "got None"),
        ({"ts": 1, "period_ms": 1, "values": []}, "not_a_sample", "at least one row"),
        ({"ts": 1, "period_ms": 1, "values": [1, 2]}, "not_a_sample", "wanted an array, got 1"),
        ({}, "no_ts", "wanted a key 'ts', got the keys []"),
        ({"TS": 1, "values": [1, 2]}, "no_ts", "got the keys ['TS', 'values']"),
        ({"ts": None, "values": [1, 2]}, "bad_ts", "wanted milliseconds or ISO 8601, got None"),
        ({"ts": True, "values": [1, 2]}, "bad_ts", "got True"),
        ({"ts": "yesterday", "values": [1, 2]}, "bad_ts", "got 'yesterday'"),
        ({"ts": "1700000000000", "values": [1, 2]}, "bad_ts", "got '1700000000000'"),
        ({"ts": -1, "values": [1, 2]}, "bad_ts", "1970 to 2262, got -1000000 ns"),
        ({"ts": 10**15, "values": [1, 2]}, "bad_ts", "2262"),
        ({"ts": 1e300, "values": [1, 2]}, "bad_ts", "bits"),
        ({"ts": 1, "period_ms": 0, "values": [[1, 2]]}, "bad_ts", "wanted more than 0, got 0"),
        ({"ts": 1, "period_ms": 1e300, "values": [[1, 2]]}, "bad_ts", "got 1e+300"),
        ({"ts": 9e12, "period_ms": 9e11, "values": [[1, 2]] * 2}, "bad_ts", "2262"),
        ({"ts": 1, "period_ms": True, "values": [[1, 2]]}, "not_a_number", "got True"),
        ({"ts": 1, "period_ms": "1", "values": [[1, 2]]}, "not_a_number", "got '1'"),
        ({"ts": 1, "seq": -1, "values": [1, 2]}, "bad_seq", "0 to 9223372036854775807, got -1"),
        ({"ts": 1, "seq": 2**63, "values": [1, 2]}, "bad_seq", "got 9223372036854775808"),
        ({"ts": 1, "seq": 10**40, "values": [1, 2]}, "bad_seq", "got a long number"),
        ({"ts": 1, "seq": 1.0, "values": [1, 2]}, "bad_seq", "wanted a whole number"),
        ({"ts": 1, "seq": True, "values": [1, 2]}, "bad_seq", "got True"),
        ({"ts": 1, "seq": None, "values": [1, 2]}, "bad_seq", "got None"),
        ({"ts": 1, "seq": "7", "current": 1, "pressure": 2}, "bad_seq", "got '7'"),
        (
            {"ts": 1, "seq": 2**63 - 1, "period_ms": 1, "values": [[1, 2]] * 2},
            *("bad_seq", "got 9223372036854775808"),
        ),
        ({"ts": 1, "values": {"current": 1}}, "missing_feature", "'pressure'"),
        ({"ts": 1, "Current": 1, "pressure": 2}, "missing_feature", "['ts', 'Current', "),
        ({"ts": 1, "values": [1]}, "wrong_count", "wanted 2 values, got 1"),
        ({"ts": 1, "values": [1, 2, 3]}, "wrong_count", "got 3"),
        ({"ts": 1, "values": []}, "wrong_count", "got 0"),
        ({"ts": 1, "period_ms": 1, "values": [[1, 2], [1]]}, "wrong_count", "got 1"),
        ({"ts": 1, "values": [1, "2"]}, "not_a_number", "pressure: wanted a number, got '2'"),
        ({"ts": 1, "values": [None, 2]}, "not_a_number", "current: wanted a number, got None"),
        ({"ts": 1, "values": [True, 2]}, "not_a_number", "got True"),
        ({"ts": 1, "values": [[1], 2]}, "not_a_number", "got [1]"),
        ({"ts": 1, "values": [1e39, 2]}, "not_finite", "current: wanted a float32, got 1e+39"),
        ({"ts": 1, "values": [1, -(10**300)]}, "not_finite", "got -1000"),
        ({"ts": 1, "values": [int(FLOAT32_OVERFLOW) - 1, 2]}, "not_finite", "got 34028"),
    ],
)
def test_every_cause(message: object, cause: str, words: str) -> None:
    got, detail = refusal(message)
    assert got == cause, detail
    assert words in detail


def test_one_bad_sample_refuses_the_payload_whole() -> None:
    good = {"ts": 1, "values": [1, 2]}
    assert refusal([good, good, {"ts": 2}])[0] == "missing_feature"


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("digits", [4293, 4294, 4300, 4301, 20_000])
def test_a_number_that_python_cannot_print(digits: int, sign: str) -> None:
    number = sign + "9" * digits
    assert refusal(f'{{"ts": {number}, "values": [1, 2]}}'.encode())[0] in {"bad_ts", "not_json"}
    cause, _ = refusal(f'{{"ts": 1, "values": [1, {number}]}}'.encode())
    assert cause in {"not_finite", "not_json"}
    period = f'{{"ts": 1, "period_ms": {number}, "values": [[1, 2]]}}'
    assert refusal(period.encode())[0] in {"bad_ts", "not_json"}


def test_the_size_limit_is_exact() -> None:
    payload = b'{"ts": 1, "values": [1, 2]}'
    fits = payload + b" " * (LIMIT - len(payload))
    assert decode(fits)[0] == [MS]
    assert refusal(fits + b" ") == ("too_large", f"wanted at most {LIMIT} bytes, got {LIMIT + 1}")


def test_a_detail_is_short_and_shows_no_control_characters() -> None:
    message = {"ts": 1, "values": ["\x1b[31m\n" + "x" * 1000, 1]}
    _, detail = refusal(message)
    assert len(detail) < 120
    assert "\\x1b[31m\\n" in detail


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_nothing_else(payload: bytes) -> None:
    with suppress(PayloadError):
        DECODER.decode(payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(TS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ts", "seq", "values", "period_ms", "current", "pressure"])
            | st.text(),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(message=JSON)
@example(message={"ts": 10**4299, "values": [1, 2]})
@example(message={"ts": 1, "seq": -(10**4299), "values": [1, 2]})
@example(message=[{"period_ms": 9e12, "values": [[1, 2]] * 2}] * 2)
@pytest.mark.parametrize("clock", [True, False])
def test_arbitrary_json_raises_nothing_else(message: object, clock: bool) -> None:
    decoder = DECODER if clock else Decoder(("current", "pressure"), LIMIT, 1.0)
    try:
        samples = decoder.decode(json.dumps(message).encode())
    except PayloadError:
        return
    assert np.isfinite(samples.values).all()
    assert len(samples.ts) == len(samples.values) > 0
    assert (samples.ts >= 0).all() if clock else (samples.ts <= 0).all()
    assert samples.seq is None or len(samples.seq) == len(samples.ts)


# --- time


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:01.5", 1_500_000_000),
        ("1970-01-01 00:00:01,5", 1_500_000_000),
        ("1970-01-01T02:00:01.123456789+02:00", 1_123_456_789),
        ("1969-12-31T23:00:01.25-01:00", 1_250_000_000),
        ("19700101T000001.25Z", 1_250_000_000),
        ("1970-W01-4T00:00:01.25Z", 1_250_000_000),
        ("1970-01-01T00:00:01.1234567899999Z", 1_123_456_789),
        ("2262-04-11T23:47:16.854775807Z", MAX_TS_NS),
    ],
)
def test_iso_times_are_exact(text: str, ns: int) -> None:
    assert parse_ts(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10:00",
        "1970-01-01.5",
        "19700101.5",
        "1970-01-01T10.5",
        "1970-01-01T10:30,5",
        "1970-01-01T10:30:00.",
        "1970-01-01T10:30:00.5.5",
        "1970-01-01T10:30:00.5\n",
        "1970-01-01T10:30:00+01:00.5",
        "1970-01-01T10:30:00.\N{ARABIC-INDIC DIGIT THREE}Z",
        "1969-12-31T23:59:59.999999999Z",
        "2262-04-11T23:47:16.854775808Z",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "\ud800",
    ],
)
def test_what_is_no_time_or_could_mean_two(text: str) -> None:
    with pytest.raises(PayloadError, match="bad_ts"):
        parse_ts(text)


@settings(deadline=None)
@given(st.datetimes(datetime(1970, 1, 1), datetime(2262, 1, 1)), st.integers(0, 999))
def test_iso_to_the_nanosecond(moment: datetime, nanoseconds: int) -> None:
    text = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}{nanoseconds:03d}Z"
    whole = moment.replace(tzinfo=UTC, microsecond=0)
    expected = int(whole.timestamp()) * 10**9 + moment.microsecond * 1000 + nanoseconds
    assert parse_ts(text) == expected


@pytest.mark.parametrize(
    ("ms", "ns"),
    [
        (0.5, 500_000),
        (1_700_000_000_000.5, TS * MS + 500_000),
        (1_700_000_000_000.25, TS * MS + 250_000),
        (1_700_000_000_000.000244140625, TS * MS + 244),
        (0.000001, 1),
        (0.9999999999, MS),
        (3e3, 3000 * MS),
    ],
)
def test_fractional_milliseconds_are_exact(ms: float, ns: int) -> None:
    assert parse_ts(ms) == ns


@settings(deadline=None)
@given(st.integers(0, MAX_TS_NS))
def test_a_time_is_written_exactly(ns: int) -> None:
    text = ts_text(ns)
    whole, _, fraction = text.partition(".")
    assert int(whole) * MS + int(fraction.ljust(6, "0")) == ns
    assert not text.endswith((".", ".0"))
    json.loads(text)


@settings(deadline=None)
@given(st.integers(0, MAX_TS_NS // MS))
def test_whole_milliseconds_survive_a_round_trip(ms: int) -> None:
    assert parse_ts(json.loads(ts_text(ms * MS))) == ms * MS


# --- what is written


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(1e-45)
@example(-0.0)
@example(float(np.finfo(np.float32).max))
def test_a_score_reads_back_to_the_same_float32(value: float) -> None:
    text = float32_text(np.float32(value))
    read = np.float32(json.loads(text))
    assert read.tobytes() == np.float32(value).tobytes()
    samples = DECODER.decode(f'{{"ts": 1, "values": [{text}, 0]}}'.encode())
    assert samples.values[0, 0].tobytes() == np.float32(value).tobytes()


NAMES = [
    "line1/pump-3",
    'quote " and \\ backslash',
    "new\nline\ttab\0nul",
    "Pumpe süd \N{GRINNING FACE}\u2028",
    "caf\udce9",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_score_line(name: str) -> None:
    line = ScoreLine(name, TS * MS + 500, np.float32(0.41), "warming_up", alarm=False)
    encoded = encode_score(line)
    assert b"\n" not in encoded
    assert json.loads(encoded) == {
        "stream": name,
        "ts": TS + 0.0005,
        "score": 0.41,
        "status": "warming_up",
        "alarm": False,
    }
    assert json.loads(encode_score(line._replace(alarm=True)))["alarm"] is True


def a_flag(**changes: Any) -> Flag:
    fields: dict[str, Any] = {
        "id": "0" * 32,
        "stream": "line1/pump-3",
        "ts": TS * MS,
        "event": "raised",
        "score": np.float32(1.1),
        "status": "ok",
        "top": (Share("current", 0.75), Share("pressure", 0.25)),
        "model": "f" * 16,
    }
    return Flag(**{**fields, **changes})


@pytest.mark.parametrize("name", NAMES)
def test_a_flag(name: str) -> None:
    encoded = encode_flag(a_flag(stream=name))
    assert b"\n" not in encoded
    assert json.loads(encoded) == {
        "id": "0" * 32,
        "stream": name,
        "ts": TS,
        "event": "raised",
        "score": 1.1,
        "status": "ok",
        "top": [{"feature": "current", "share": 0.75}, {"feature": "pressure", "share": 0.25}],
        "model": "f" * 16,
    }


def test_a_count_is_written_where_there_is_one() -> None:
    line = ScoreLine("p", TS * MS, np.float32(1), "ok", alarm=True, seq=2**63 - 1)
    said = json.loads(encode_score(line))
    assert list(said) == ["stream", "ts", "seq", "score", "status", "alarm"]
    assert said["seq"] == 2**63 - 1
    assert json.loads(encode_flag(a_flag(seq=0)))["seq"] == 0
    assert "seq" not in json.loads(encode_flag(a_flag()))


def test_a_flag_of_a_model_without_contribution() -> None:
    assert json.loads(encode_flag(a_flag(top=())))["top"] == []


@settings(deadline=None)
@given(st.text(st.characters(codec=None)))
def test_every_name_is_written_as_it_is(name: str) -> None:
    line = encode_score(ScoreLine(name, 1, np.float32(1), "ok", alarm=True))
    assert json.loads(line)["stream"] == name
    assert json.loads(encode_flag(a_flag(stream=name)))["stream"] == name
