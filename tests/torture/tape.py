"""What was sent, written down before it is sent, so that the reference is what was sent.

A tape is a file of messages, each a topic and a payload. Who plays one needs nothing else.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

Message: TypeAlias = tuple[bytes, bytes]
"""Topic and payload."""

_LENGTHS = struct.Struct("<HI")


def write_tape(path: Path, messages: Iterable[Message]) -> int:
    """Writes messages into a file; how many they were."""
    count = 0
    with path.open("wb") as file:
        for topic, payload in messages:
            file.write(_LENGTHS.pack(len(topic), len(payload)) + topic + payload)
            count += 1
    return count


def read_tape(path: Path) -> Iterator[Message]:
    """Yields the messages of a tape."""
    data = path.read_bytes()
    at, header = 0, _LENGTHS.size
    while at < len(data):
        topic, payload = _LENGTHS.unpack_from(data, at)
        middle = at + header + topic
        yield data[at + header : middle], data[middle : middle + payload]
        at = middle + payload
