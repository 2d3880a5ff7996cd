"""Bytes to samples, flags to bytes. Every payload is untrusted.

A machine's message is JSON in one of five forms (``ts`` in milliseconds since 1970 UTC, decimals
allowed, or ISO 8601):

    {"ts": 1700000000000, "values": {"Current": 2.1, "Pressure": 0.05}}
    {"ts": 1700000000000, "values": [2.1, 0.05]}           in the contract's feature order
    {"ts": 1700000000000, "Current": 2.1, "Pressure": 0.05}
    [{...}, {...}]                                         an array of the above
    {"ts": 1700000000000, "period_ms": 0.5, "values": [[2.1, 0.05], [2.2, 0.05]]}

Beside each ``ts`` may stand a ``seq``, the device's own count from 0: it tells samples of one time
apart and orders them. That of a block is the count of its first row; in the flat form ``seq`` is a
sensor if the model has one of that name.

A device without a clock sends no ``ts``; one that is there is ignored. The last sample of a payload
has the time of its arrival, those before it stand back by ``period_ms``, or else by the model's
period.

A payload is taken whole or not at all.
"""

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import PayloadError

NS_PER_MS = 1_000_000
MAX_TS_NS = 2**63 - 1
MAX_SEQ = 2**63 - 1
FLOAT32_OVERFLOW = 2.0**128 - 2.0**103  # the least number that rounds to infinity

# Only seconds may have a fraction: Python takes that of an hour for one of a second.
_ISO = re.compile(r"(?:([^.,]*[^\d+-]\d\d:?\d\d:?\d\d)[.,](\d{1,9})\d*)?([^.,]*)", re.ASCII)
_LARGE = 10**30  # Python refuses to print a number of more than 4,300 digits
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Samples(NamedTuple):
    """Decoded samples.

    Attributes:
        ts: int64 ``[sample]``, nanoseconds since 1970 UTC; of a device without a clock nanoseconds
            since the payload arrived, so 0 or less.
        values: float32 ``[sample, feature]``, engineering units, all finite.
        seq: int64 ``[sample]``, the device's own count, -1 where it gave none; None if it gave none
            at all.
    """

    ts: NDArray[np.int64]
    values: NDArray[np.float32]
    seq: NDArray[np.int64] | None = None


class Decoder:
    """Decodes the payloads of one model.

    Args:
        features: Names of the sensors, in the contract's order.
        max_bytes: A larger payload is rejected unread.
        arrival_period_ms: Of devices without a clock: milliseconds from one sample to the next,
            where the payload does not say it; None for devices that have one.
    """

    def __init__(
        self, features: Sequence[str], max_bytes: int, arrival_period_ms: float | None = None
    ) -> None:
        self._features = tuple(features)
        self._max_bytes = max_bytes
        self._arrival = arrival_period_ms is not None
        self._period_ns = (arrival_period_ms or 0.0) * NS_PER_MS
        self._flat_seq = "seq" not in self._features

    def decode(self, payload: bytes) -> Samples:
        """Reads a payload.

        Args:
            payload: As received.

        Returns:
            Its samples, in its own order.

        Raises:
            PayloadError: With the cause and what was wanted.
        """
        if len(payload) > self._max_bytes:
            raise PayloadError(
                "too_large", f"wanted at most {self._max_bytes} bytes, got {len(payload)}"
            )
        try:
            message = msgspec.json.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise PayloadError(
                "not_json", f"{error}; the payload starts {_head(payload)}"
            ) from error
        messages = message if type(message) is list else [message]
        found = _Found([], [], [])
        starts = []
        for item in messages:
            starts.append(len(found.rows))
            self._read(item, found)
        if not found.rows:
            raise PayloadError("not_a_sample", "wanted at least one sample, got an empty array")
        ts = _back_from_now(found.ts, starts, self._period_ns) if self._arrival else found.ts
        seq = np.asarray(found.seq, np.int64) if max(found.seq) >= 0 else None
        return Samples(np.asarray(ts, np.int64), np.asarray(found.rows, np.float32), seq)

    def _read(self, message: Any, found: "_Found") -> None:  # noqa: ANN401 - JSON
        if type(message) is not dict:
            raise PayloadError("not_a_sample", f"wanted a JSON object, got {_shown(message)}")
        start, count = self._start(message), self._count(message)
        values = message.get("values", message)
        if type(values) is dict:
            found.add(start, count, self._named(values))
        elif type(values) is not list:
            raise PayloadError(
                "not_a_sample", f"values: wanted an object or an array, got {_shown(values)}"
            )
        elif "period_ms" in message:
            period = _period_ns(message["period_ms"])
            if not values:
                raise PayloadError("not_a_sample", "values: wanted at least one row, got none")
            if count >= 0:
                _checked_seq(count + len(values) - 1)
            for i, row in enumerate(values):
                ts = _checked_ts(start + round(i * period))
                found.add(ts, count if count < 0 else count + i, self._ordered(row))
        else:
            found.add(start, count, self._ordered(values))

    def _start(self, message: dict[str, Any]) -> int:
        if self._arrival:
            return 0
        if "ts" not in message:
            raise PayloadError("no_ts", f"wanted a key 'ts', got {_keys(message)}")
        return parse_ts(message["ts"])

    def _count(self, message: dict[str, Any]) -> int:
        if "seq" in message and (self._flat_seq or "values" in message):
            return _checked_seq(message["seq"])
        return -1

    def _named(self, values: dict[str, Any]) -> list[float]:
        missing = [name for name in self._features if name not in values]
        if missing:
            raise PayloadError("missing_feature", f"wanted {missing[0]!r}, got {_keys(values)}")
        return [_number(values[name], name) for name in self._features]

    def _ordered(self, values: Any) -> list[float]:  # noqa: ANN401 - JSON
        if type(values) is not list:
            raise PayloadError("not_a_sample", f"values: wanted an array, got {_shown(values)}")
        if len(values) != len(self._features):
            raise PayloadError(
                "wrong_count", f"wanted {len(self._features)} values, got {len(values)}"
            )
        return [_number(v, name) for v, name in zip(values, self._features, strict=True)]


class _Found(NamedTuple):
    """Samples of a payload so far: nanoseconds, count or -1, values."""

    ts: list[int]
    seq: list[int]
    rows: list[list[float]]

    def add(self, ts: int, seq: int, row: list[float]) -> None:
        """One more."""
        self.ts.append(ts)
        self.seq.append(seq)
        self.rows.append(row)


def _back_from_now(ts: list[int], starts: list[int], period_ns: float) -> list[int]:
    """Times of samples without a clock, from the last one backwards, in nanoseconds.

    Args:
        ts: Of each sample, counted from the first of its message.
        starts: Index of the first sample of each message.
        period_ns: From the last sample of a message to the first of the next.
    """
    back = [0] * len(ts)
    last, stop = 0, len(ts)  # time of the last sample of a message; index behind it
    for start in reversed(starts):
        for index in range(start, stop):
            back[index] = last - (ts[stop - 1] - ts[index])
        last, stop = back[start] - round(period_ns), start
    _checked_ts(-back[0])
    return back


def parse_ts(value: Any) -> int:  # noqa: ANN401 - JSON
    """Reads a time stamp.

    Args:
        value: Milliseconds since 1970 UTC, or ISO 8601 (without an offset: UTC).

    Returns:
        Nanoseconds since 1970 UTC.

    Raises:
        PayloadError: If it is neither, or beyond the years 1970 to 2262.
    """
    if type(value) is int:
        return _checked_ts(value * NS_PER_MS)
    if type(value) is float and math.isfinite(value):
        whole = math.floor(value)  # apart, so that the fraction keeps its own precision
        return _checked_ts(whole * NS_PER_MS + round((value - whole) * NS_PER_MS))
    if type(value) is str:
        return _checked_ts(_parse_iso(value))
    raise PayloadError("bad_ts", f"ts: wanted milliseconds or ISO 8601, got {_shown(value)}")


def ts_text(ns: int) -> str:
    """Milliseconds since 1970 UTC as a JSON number, exact to the nanosecond."""
    whole, rest = divmod(ns, NS_PER_MS)
    return f"{whole}.{rest:06d}".rstrip("0") if rest else str(whole)


def utc_text(ns: int) -> str:
    """A time for people, to the millisecond: ``2026-01-05 06:00:00.000Z``."""
    ms = ns // NS_PER_MS
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%d %H:%M:%S}.{ms % 1000:03d}Z"


def float32_text(value: np.float32) -> str:
    """The shortest decimal that reads back to the same float32, as a JSON number."""
    return str(value)


def name_json(name: str) -> bytes:
    """A name as a JSON string; one from a file name may hold bytes that are not UTF-8."""
    try:
        return msgspec.json.encode(name)
    except UnicodeEncodeError:
        return json.dumps(name).encode()


class ScoreLine(NamedTuple):
    """What is said of one sample: a line of ``--scores``, a message of ``emit = "scores"``.

    ``seq`` is the device's own count, if it gave one.
    """

    stream: str
    ts: int
    score: np.float32
    status: str
    alarm: bool
    seq: int | None = None


def encode_score(line: ScoreLine) -> bytes:
    """Writes a score as one JSON object."""
    stream = name_json(line.stream).decode()
    at = ts_text(line.ts) if line.seq is None else f'{ts_text(line.ts)}, "seq": {line.seq}'
    return (
        f'{{"stream": {stream}, "ts": {at}, "score": {float32_text(line.score)}, '
        f'"status": "{line.status}", "alarm": {"true" if line.alarm else "false"}}}'
    ).encode()


class Share(msgspec.Struct, frozen=True):
    """One sensor's share in a score, 0 to 1."""

    feature: str
    share: float


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """The lamp of one stream changes.

    Attributes:
        id: Deterministic: the same for the same model, stream, time, event and ``seq``.
        stream: Its name.
        ts: Nanoseconds since 1970 UTC of the sample that decided.
        event: ``raised`` or ``cleared``.
        score: Of that sample.
        status: Of that sample.
        top: The sensors with the largest shares, largest first.
        model: First 16 hexadecimal digits of the model file's SHA-256.
        seq: The device's own count of that sample, if it gave one.
    """

    id: str
    stream: str
    ts: int
    event: str
    score: np.float32
    status: str
    top: tuple[Share, ...]
    model: str
    seq: int | None = None


def encode_flag(flag: Flag) -> bytes:
    """Writes a flag as one JSON object."""
    return msgspec.json.encode(
        {
            "id": flag.id,
            "stream": msgspec.Raw(name_json(flag.stream)),
            "ts": msgspec.Raw(ts_text(flag.ts).encode()),
            **({} if flag.seq is None else {"seq": flag.seq}),
            "event": flag.event,
            "score": msgspec.Raw(float32_text(flag.score).encode()),
            "status": flag.status,
            "top": flag.top,
            "model": flag.model,
        }
    )


def _number(value: Any, name: str) -> float:  # noqa: ANN401 - JSON
    if type(value) is not float and type(value) is not int:
        raise PayloadError("not_a_number", f"{name}: wanted a number, got {_shown(value)}")
    # A whole number just below the limit is rounded to it.
    inside = -FLOAT32_OVERFLOW < value < FLOAT32_OVERFLOW
    if not inside or abs(number := float(value)) == FLOAT32_OVERFLOW:
        raise PayloadError("not_finite", f"{name}: wanted a float32, got {_shown(value)}")
    return number


def _checked_seq(value: Any) -> int:  # noqa: ANN401 - JSON
    if type(value) is not int or not 0 <= value <= MAX_SEQ:
        got = _shown(value) if type(value) is not int or abs(value) < _LARGE else "a long number"
        raise PayloadError("bad_seq", f"seq: wanted a whole number of 0 to {MAX_SEQ}, got {got}")
    return value


def _period_ns(value: Any) -> float:  # noqa: ANN401 - JSON
    if type(value) is not float and type(value) is not int:
        raise PayloadError("not_a_number", f"period_ms: wanted a number, got {_shown(value)}")
    if not 0 < value < MAX_TS_NS / NS_PER_MS:
        raise PayloadError("bad_ts", f"period_ms: wanted more than 0, got {_shown(value)}")
    return value * NS_PER_MS


def _checked_ts(ns: int) -> int:
    if not 0 <= ns <= MAX_TS_NS:
        got = f"{ns} ns" if abs(ns) < _LARGE else f"a number of {ns.bit_length()} bits"
        raise PayloadError("bad_ts", f"ts: wanted a time from 1970 to 2262, got {got}")
    return ns


def _parse_iso(text: str) -> int:
    """``datetime`` stops at microseconds, so the fraction is read apart."""
    parts = _ISO.fullmatch(text)
    before, digits, after = parts.groups("") if parts else ("", "", "")
    try:
        moment = datetime.fromisoformat(before + after)
    except ValueError as error:
        raise PayloadError(
            "bad_ts", f"ts: wanted milliseconds or ISO 8601, got {_shown(text)}"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - _EPOCH
    seconds = since.days * 86400 + since.seconds
    return seconds * 1_000_000_000 + since.microseconds * 1000 + int(digits.ljust(9, "0"))


def _shown(value: Any) -> str:  # noqa: ANN401 - JSON
    """A value as it may stand in a log: short, one line, no control characters."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line's worth


def _keys(message: dict[str, Any]) -> str:
    return f"the keys {_shown(list(message))}"


def _head(payload: bytes) -> str:
    return _shown(payload[:40])
