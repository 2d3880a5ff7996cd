"""The PUBLISH packets in what a broker has sent (MQTT 5 and MQTT 3.1.1, section 3.3).

Nearly all that a gateway reads. paho makes a dozen objects of each; this takes a tenth of the time.
It takes only whole packets of the plainest kind and refuses nothing: whatever it stops at is for
paho to read.
"""

from typing import NamedTuple

PUBLISH = 0x30
_MORE = 0x80  # in a byte of a length: another one follows


class Published(NamedTuple):
    """One packet.

    Attributes:
        topic: Its topic.
        payload: Its payload.
        mid: Its packet identifier; 0 at QoS 0.
        qos: 0 or 1.
        dup: The broker has sent it before.
        retain: It was kept by the broker and is not new.
    """

    topic: str
    payload: bytes
    mid: int
    qos: int
    dup: bool
    retain: bool


def take_published(
    data: bytes, at: int, most: int, *, properties: bool
) -> tuple[list[Published], int]:
    """Reads the packets that stand next to each other from a place on.

    Args:
        data: What was received.
        at: Where a packet begins.
        most: How many packets are wanted.
        properties: Whether packets have them: MQTT 5. One in which there are any is left.

    Returns:
        The packets, and where the first thing begins that is none, or not whole, or not plain.
    """
    found: list[Published] = []
    while len(found) < most:
        packet, end = _published(data, at, properties)
        if packet is None:
            break
        found.append(packet)
        at = end
    return found, at


def _published(data: bytes, at: int, properties: bool) -> tuple[Published | None, int]:
    size = len(data)
    if at + 4 > size or data[at] & 0xF0 != PUBLISH:
        return None, at
    flags = data[at]
    length, begin = data[at + 1], at + 2
    if length >= _MORE:
        length, begin = _length(data, at + 1)
    end, topic = begin + length, begin + 2
    if not begin or end > size or topic > end:
        return None, at
    place = topic + (data[begin] << 8 | data[begin + 1])
    topic_end, mid, qos = place, 0, flags >> 1 & 3
    if qos:
        mid, place = int.from_bytes(data[place : place + 2]), place + 2
    if properties:
        if place >= end or data[place]:
            return None, at
        place += 1
    if qos > 1 or place > end or topic_end == topic:
        return None, at
    try:
        name = data[topic:topic_end].decode()
    except UnicodeDecodeError:
        return None, at
    return Published(name, data[place:end], mid, qos, bool(flags & 8), bool(flags & 1)), end


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length of several bytes, and where what it counts begins; 0 if that is not here yet."""
    length = 0
    for count, byte in enumerate(data[at : at + 4]):
        length |= (byte & (_MORE - 1)) << 7 * count
        if byte < _MORE:
            return length, at + count + 1
    return 0, 0
