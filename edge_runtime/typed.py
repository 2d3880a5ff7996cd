"""The two commonest payloads, decoded straight into what the gateway needs.

    {"ts": 1700000000000, "values": {...} or [...]}                         one sample
    {"ts": 1700000000000, "period_ms": 0.5, "values": [[...], [...]]}       a block

with or without ``seq``, and nothing else in them. msgspec reads them into structures made for the
model's sensors, several times faster than into dictionaries that are looked at afterwards. Whatever
is not exactly so is not judged here: `edge_runtime.payload.Decoder` takes it or refuses it, and
where both take a payload they read the same.
"""

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np

from edge_runtime.payload import FLOAT32_OVERFLOW, MAX_SEQ, MAX_TS_NS, NS_PER_MS, Samples
from edge_runtime.results import NO_SEQ

_astuple = msgspec.structs.astuple


One: TypeAlias = tuple[int, int, tuple[float, ...]]
"""One sample: nanoseconds since 1970 UTC; the device's own count, or `NO_SEQ`; a value of each
sensor, in the contract's order."""

# The limits are in the types, where msgspec checks them on its way.
_Value: TypeAlias = Annotated[float, msgspec.Meta(gt=-FLOAT32_OVERFLOW, lt=FLOAT32_OVERFLOW)]
_Time: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_TS_NS // NS_PER_MS)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]  # one that is given: not NO_SEQ


class TypedDecoder:
    """Decodes what is of the common forms.

    Args:
        features: Names of the sensors, in the contract's order.
        max_bytes: Of a payload.
    """

    def __init__(self, features: Sequence[str], max_bytes: int) -> None:
        self._count = len(features)
        self._max_bytes = max_bytes
        named = msgspec.defstruct(
            "Named",
            [(f"f{number}", _Value) for number in range(len(features))],
            rename={f"f{number}": name for number, name in enumerate(features)},
            forbid_unknown_fields=True,
            gc=False,
        )
        # A tuple of that length: msgspec itself wants it to be so long.
        row: Any = tuple.__class_getitem__((_Value,) * len(features))
        self._one = msgspec.json.Decoder(_message(named | row))
        self._block = msgspec.json.Decoder(_message(list[row], ("period_ms", float)))

    def one(self, payload: bytes) -> One | None:
        """Reads a payload of one sample; None if it is not of that form."""
        if len(payload) > self._max_bytes:
            return None
        try:
            message: Any = self._one.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        values = message.values
        row = values if type(values) is tuple else _astuple(values)
        return message.ts * NS_PER_MS, message.seq, row

    def block(self, payload: bytes) -> Samples | None:
        """Reads a payload of rows at one rate; None if it is not of that form."""
        if len(payload) > self._max_bytes:
            return None
        try:
            message: Any = self._block.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        rows, seq, period_ns = message.values, message.seq, message.period_ms * NS_PER_MS
        last = len(rows) - 1
        if (
            last < 0
            or seq > MAX_SEQ - last
            or not 0 < period_ns < MAX_TS_NS
            or message.ts * NS_PER_MS + round(last * period_ns) > MAX_TS_NS
        ):
            return None
        # Half the time of an array of rows.
        packed = struct.pack(f"<{len(rows) * self._count}f", *chain.from_iterable(rows))
        values = np.frombuffer(packed, "<f4").reshape(len(rows), self._count)
        steps = np.arange(len(rows))
        after = steps * period_ns if period_ns % 1 == 0 else np.rint(steps * period_ns)
        ts = message.ts * NS_PER_MS + after.astype(np.int64)
        return Samples(ts, values, None if seq == NO_SEQ else seq + steps)


def _message(values: Any, *more: tuple[str, Any]) -> Any:  # noqa: ANN401 - a type
    """The type of a message with such values."""
    return msgspec.defstruct(
        "Message",
        [("ts", _Time), *more, ("values", values), ("seq", _Count, NO_SEQ)],
        forbid_unknown_fields=True,
        gc=False,
    )
