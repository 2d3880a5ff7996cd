"""What stands in the columns of the gateway's database, as bytes.

Each piece carries a CRC-32 of its content and of the numbers that say where it belongs: SQLite
notices damage to its own structure, but not a bit that has flipped inside a row, nor a row that has
changed its number. Numbers are little-endian.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import StoreDamagedError
from edge_runtime.results import NO_SEQ, Abreast, Block

_VERSION = 1
_HEADER = struct.Struct("<BBHII")  # version, what is in it, features, streams, samples
_HAS_SEQ, _EVICTED = 1, 2
_CRC = struct.Struct("<I")
_NUMBER = struct.Struct("<q")
_PLACES = tuple(struct.Struct(f"<{count}q") for count in range(3))


class Place(NamedTuple):
    """Where a row of the journal belongs.

    Attributes:
        seq: Its number.
        pipeline: Number of the pipeline in the database.
    """

    seq: int
    pipeline: int


class Admitted(NamedTuple):
    """Samples of one pipeline as the journal holds them, or the streams that it has evicted.

    Attributes:
        streams: ``[block]``, number of the stream in the database.
        counts: ``[block]``, how many samples each block has.
        ts: ``[sample]``, nanoseconds since 1970 UTC.
        seq: ``[sample]``, the device's own count, or `NO_SEQ`.
        values: ``[sample, feature]``.
        evicted: The streams were evicted; there are no samples.
    """

    streams: NDArray[np.int64]
    counts: NDArray[np.int64]
    ts: NDArray[np.int64]
    seq: NDArray[np.int64]
    values: NDArray[np.float32]
    evicted: bool


def encode_admitted(place: Place, streams: Sequence[int], blocks: Sequence[Block]) -> bytes:
    """One row of the journal.

    Args:
        place: Where it belongs.
        streams: Number of each block's stream in the database.
        blocks: At least one.
    """
    numbers = np.asarray(streams, "<u4")
    counts = np.fromiter((len(block.ts) for block in blocks), "<u4", len(blocks))
    ts = np.concatenate([block.ts for block in blocks])
    values = np.concatenate([block.values for block in blocks])
    parts = [numbers.tobytes(), counts.tobytes(), ts.astype("<i8", copy=False).tobytes()]
    kind = 0
    if any(block.seq is not None for block in blocks):
        kind = _HAS_SEQ
        parts.append(np.concatenate([_seq(block) for block in blocks]).tobytes())
    parts.append(values.astype("<f4", copy=False).tobytes())
    header = _HEADER.pack(_VERSION, kind, values.shape[1], len(blocks), len(ts))
    return sealed(header + b"".join(parts), *place)


def encode_abreast(place: Place, streams: Sequence[int], samples: Abreast) -> bytes:
    """The same for one sample of each of several streams, `decode_admitted` is the inverse.

    Args:
        place: Where it belongs.
        streams: Number of each stream in the database.
        samples: At least one.
    """
    count = len(samples)
    numbers, ones = np.asarray(streams, "<u4"), np.ones(count, "<u4")
    parts = [numbers.tobytes(), ones.tobytes(), samples.ts.astype("<i8", copy=False).tobytes()]
    kind = 0
    if bool((samples.seq != NO_SEQ).any()):
        kind = _HAS_SEQ
        parts.append(samples.seq.astype("<i8", copy=False).tobytes())
    parts.append(samples.values.astype("<f4", copy=False).tobytes())
    header = _HEADER.pack(_VERSION, kind, samples.values.shape[1], count, count)
    return sealed(header + b"".join(parts), *place)


def encode_evicted(place: Place, streams: Sequence[int]) -> bytes:
    """One row of the journal: these streams were forgotten, after all that stands before it."""
    header = _HEADER.pack(_VERSION, _EVICTED, 0, len(streams), 0)
    return sealed(header + np.asarray(streams, "<u4").tobytes(), *place)


def decode_admitted(place: Place, row: bytes) -> Admitted:
    """The inverse of both.

    Raises:
        StoreDamagedError: If it is not what was written.
    """
    content = opened(row, f"row {place.seq} of the journal", *place)
    if len(content) < _HEADER.size:
        raise StoreDamagedError(f"row {place.seq} of the journal has {len(content)} bytes")
    version, kind, features, streams, samples = _HEADER.unpack_from(content)
    body = memoryview(content)[_HEADER.size :]
    evicted, has_seq = bool(kind & _EVICTED), bool(kind & _HAS_SEQ)
    size = streams * (4 if evicted else 8) + samples * (8 + 8 * has_seq + 4 * features)
    if version != _VERSION or len(body) != size:
        raise StoreDamagedError(f"row {place.seq} of the journal is not what was written")
    at = 0

    def column(dtype: str, count: int) -> NDArray[Any]:
        nonlocal at
        array = np.frombuffer(body, dtype, count, at)
        at += array.nbytes
        return array

    numbers = column("<u4", streams).astype(np.int64)
    counts = np.zeros(streams, np.int64) if evicted else column("<u4", streams).astype(np.int64)
    if counts.sum() != samples:
        raise StoreDamagedError(f"row {place.seq} of the journal has other counts than samples")
    ts = column("<i8", samples)
    seq = column("<i8", samples) if has_seq else np.full(samples, NO_SEQ, np.int64)
    values = column("<f4", samples * features).reshape(samples, features)
    return Admitted(numbers, counts, ts, seq, values, evicted)


def encode_outgoing(number: int, messages: Sequence[tuple[str, bytes]]) -> bytes:
    """The row of the outbox with that number: what one group leads to, in order."""
    return sealed(msgspec.msgpack.encode(messages), number)


def decode_outgoing(number: int, row: bytes) -> list[tuple[str, bytes]]:
    """The inverse.

    Raises:
        StoreDamagedError: If it is not what was written.
    """
    content = opened(row, f"row {number} of the outbox", number)
    try:
        return msgspec.msgpack.decode(content, type=list[tuple[str, bytes]])
    except msgspec.MsgspecError as error:
        raise StoreDamagedError(f"row {number} of the outbox: {error}") from error


def sealed(content: bytes, *place: int) -> bytes:
    """Content with a CRC-32 of itself and of the numbers that say where it belongs."""
    return content + _CRC.pack(_crc(content, place))


def opened(row: object, what: str, *place: int) -> bytes:
    """The inverse.

    Raises:
        StoreDamagedError: Naming ``what`` if it is not what was written there.
    """
    if not isinstance(row, bytes) or len(row) < _CRC.size:
        raise StoreDamagedError(f"{what} is not what was written")
    content = row[: -_CRC.size]
    if _CRC.pack(_crc(content, place)) != row[-_CRC.size :]:
        raise StoreDamagedError(f"{what} is not what was written")
    return content


def sealed_number(*numbers: int) -> bytes:
    """A number, or some of them, with a CRC-32."""
    return sealed(b"".join(map(_NUMBER.pack, numbers)))


def opened_number(row: object, what: str) -> int:
    """The inverse; raises as `opened` does."""
    content = opened(row, what)
    if len(content) != _NUMBER.size:
        raise StoreDamagedError(f"{what} is not what was written")
    return int(_NUMBER.unpack(content)[0])


def _crc(content: bytes, place: Sequence[int]) -> int:
    return zlib.crc32(content, zlib.crc32(_PLACES[len(place)].pack(*place)))


def _seq(block: Block) -> NDArray[np.int64]:
    if block.seq is None:
        return np.full(len(block.ts), NO_SEQ, "<i8")
    return block.seq.astype("<i8", copy=False)
