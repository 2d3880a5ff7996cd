"""MQTT as bytes, for machines and listeners that need neither paho nor its pace."""

import select
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13
DUP = 0x08

_ANSWER_S = 5.0
_CHUNK_BYTES = 1 << 18
_FOR_EVER = 0xFFFF_FFFF
_RECEIVE_MAXIMUM = 65_535
_U16 = struct.Struct(">H")
_SEVEN_BITS = 0x7F
_MORE = 0x80


class Packet(NamedTuple):
    """One packet from the broker.

    Attributes:
        kind: Its type.
        flags: The low four bits of its first byte.
        body: What follows the fixed header.
    """

    kind: int
    flags: int
    body: bytes


class Received(NamedTuple):
    """What a PUBLISH packet at QoS 0 or 1 says; ``mid`` is 0 at QoS 0."""

    topic: bytes
    mid: int
    payload: bytes
    retain: bool


def connect(client_id: str, *, version: int, keepalive_s: int = 60) -> bytes:
    """A CONNECT for a session that stays with the broker.

    Args:
        client_id: As whom.
        version: 4 for MQTT 3.1.1, or 5.
        keepalive_s: Keep-alive in seconds.
    """
    properties = struct.pack(">BBIBH", 8, 0x11, _FOR_EVER, 0x21, _RECEIVE_MAXIMUM)
    return _packet(
        0x10,
        _text(b"MQTT"),
        bytes([version, 0]),
        _U16.pack(keepalive_s),
        properties if version == 5 else b"",
        _text(client_id.encode()),
    )


def subscribe(mid: int, topic_filter: str, *, version: int) -> bytes:
    """A SUBSCRIBE at QoS 1."""
    properties = b"\0" if version == 5 else b""
    return _packet(0x82, _U16.pack(mid), properties, _text(topic_filter.encode()), b"\1")


def publish(mid: int, topic: bytes, payload: bytes, *, version: int) -> bytes:
    """A PUBLISH at QoS 1, sent for the first time."""
    properties = b"\0" if version == 5 else b""
    return _packet(0x32, _text(topic), _U16.pack(mid), properties, payload)


def again(packet: bytes) -> bytes:
    """The same PUBLISH, sent once more."""
    return bytes([packet[0] | DUP]) + packet[1:]


def puback(mid: int) -> bytes:
    """A PUBACK."""
    return b"\x40\x02" + _U16.pack(mid)


def pingreq() -> bytes:
    """A PINGREQ."""
    return b"\xc0\0"


def mid_of(packet: Packet) -> int:
    """The message id that a PUBACK or SUBACK begins with."""
    return int(_U16.unpack_from(packet.body)[0])


def received(packet: Packet, *, version: int) -> Received:
    """Takes a PUBLISH apart."""
    body = packet.body
    at = 2 + _U16.unpack_from(body)[0]
    topic, mid = body[2:at], 0
    if packet.flags & 0x06:
        mid = _U16.unpack_from(body, at)[0]
        at += 2
    if version == 5:
        length, at = _varint(body, at) or (0, at)
        at += length
    return Received(topic, mid, body[at:], bool(packet.flags & 1))


class Connection:
    """A connection that the broker has accepted.

    Args:
        port: The broker's, on 127.0.0.1.
        hello: The CONNECT packet.
        version: 4 or 5, as in it.

    Raises:
        OSError: If the broker does not accept it in time.
    """

    def __init__(self, port: int, hello: bytes, *, version: int) -> None:
        self.version = version
        self._in = bytearray()
        self._out = bytearray()
        self._early: list[Packet] = []  # came together with CONNACK
        self._socket = socket.create_connection(("127.0.0.1", port), _ANSWER_S)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(hello)
            self._accepted()
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Hangs up without a word; the session stays with the broker."""
        self._socket.close()

    def write(self, data: bytes) -> None:
        """Sends, now or with the next `exchange`."""
        self._out += data
        if len(self._out) == len(data):
            self._flush()

    def exchange(self, timeout_s: float) -> list[Packet]:
        """Waits until something has come or could be sent, at most so long; what has come.

        Raises:
            OSError: If the connection is gone.
        """
        early, self._early = self._early, []
        if early:
            return early
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))
        if not waiting.poll(timeout_s * 1000):
            return []
        if self._out:
            self._flush()
        return list(self._read())

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            return
        del self._out[:sent]

    def _read(self) -> Iterator[Packet]:
        try:
            data = self._socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError("the broker hung up")
        self._in += data
        yield from self._split()

    def _split(self) -> Iterator[Packet]:
        buffer, at = bytes(self._in), 0
        while (header := _varint(buffer, at + 1)) is not None:
            length, start = header
            if start + length > len(buffer):
                break
            first = buffer[at]
            yield Packet(first >> 4, first & 0x0F, buffer[start : start + length])
            at = start + length
        del self._in[:at]

    def _accepted(self) -> None:
        packets: list[Packet] = []
        while not packets:
            packets = list(self._read())
        first, *self._early = packets
        if first.kind != CONNACK or first.body[1]:
            raise ConnectionRefusedError(f"wanted CONNACK, got {first}")


def _packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length, head = len(body), bytearray([first])
    while True:
        more, digit = divmod(length, 128)
        head.append(digit | (_MORE if more else 0))
        length = more
        if not length:
            return bytes(head) + body


def _varint(buffer: bytes, at: int) -> tuple[int, int] | None:
    """A variable byte integer and where it ends; None if it is not complete."""
    value = shift = 0
    while at < len(buffer):
        digit = buffer[at]
        value |= (digit & _SEVEN_BITS) << shift
        at, shift = at + 1, shift + 7
        if not digit & _MORE:
            return value, at
    return None


def _text(text: bytes) -> bytes:
    return _U16.pack(len(text)) + text
