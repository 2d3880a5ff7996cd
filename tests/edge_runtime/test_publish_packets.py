"""PUBLISH packets out of what was received, beside paho's own reading of them."""

import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt._packet import decode_publish
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_runtime.publish_packets import Published, take_published
from edge_runtime.sockets import Framing, PlainSocket

MOST = 1000
V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311

topics = st.one_of(
    st.sampled_from([b"a", b"plant/m1/telemetry", "ä/€".encode(), b"\xff", b"", b"x" * 300]),
    st.binary(max_size=9),
)
payloads = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"x" * 20_000]))


def length_of(size: int) -> bytes:
    """A length as MQTT writes it (section 1.5.5)."""
    written = b""
    while True:
        size, byte = divmod(size, 128)
        written += bytes([byte | 128 * bool(size)])
        if not size:
            return written


def framed(header: int, body: bytes) -> bytes:
    return bytes([header]) + length_of(len(body)) + body


def publish(flags: int, topic: bytes, payload: bytes, properties: bytes | None) -> bytes:
    body = len(topic).to_bytes(2) + topic
    if flags & 6:
        body += (1000 + len(payload)).to_bytes(2)
    return framed(0x30 | flags, body + (properties or b"") + payload)


def with_expiry() -> bytes:
    properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = 7
    packed: bytes = properties.pack()
    return packed


packets = st.builds(publish, st.integers(0, 15), topics, payloads, st.just(b"\0"))
others = st.sampled_from([framed(0xD0, b""), framed(0x40, b"\0\7"), framed(0x90, b"\0\1\0\1")])


def by_paho(packet: bytes, version: MQTTProtocolVersion) -> Published:
    at = next(at for at in range(1, len(packet)) if packet[at] < 128)
    its = decode_publish(packet[0], packet[at + 1 :], version)
    topic = its.topic.decode()
    return Published(topic, bytes(its.payload), its.mid, its.qos, its.dup, its.retain)


@given(st.lists(packets, max_size=6), st.integers(0, 50))
def test_packets_are_read_as_paho_reads_them(many: list[bytes], missing: int) -> None:
    """Up to the first that is not whole or that paho shall judge."""
    data = b"before" + b"".join(many)
    found, at = take_published(data[: len(data) - missing], 6, MOST, properties=True)
    assert at == 6 + sum(map(len, many[: len(found)]))
    assert found == [by_paho(packet, V5) for packet in many[: len(found)]]
    if len(found) < len(many) and at + len(many[len(found)]) <= len(data) - missing:
        left = many[len(found)]
        assert left[0] & 6 > 2 or _is_odd(left)


def _is_odd(packet: bytes) -> bool:
    """Whether its topic is empty or no UTF-8, which is not for us to judge."""
    try:
        return not by_paho(packet, V5).topic
    except UnicodeDecodeError:
        return True


@given(st.integers(0, 3), st.binary(min_size=1, max_size=20), payloads)
def test_without_properties_too(flags: int, topic: bytes, payload: bytes) -> None:
    packet = publish(flags, b"t" + topic.hex().encode(), payload, None)
    ((found,), at) = take_published(packet, 0, MOST, properties=False)
    assert at == len(packet)
    assert found == by_paho(packet, V311)


@pytest.mark.parametrize(
    "packet",
    [
        publish(2, b"a", b"x", with_expiry()),  # a property
        publish(4, b"a", b"x", b"\0"),  # QoS 2
        publish(6, b"a", b"x", b"\0"),  # a QoS that there is none
        publish(2, b"", b"x", b"\0"),  # an alias in the place of a topic
        publish(2, b"\xff", b"x", b"\0"),
        framed(0x32, b"\0"),
        framed(0x32, b"\0\1a"),  # no identifier
        framed(0x32, b"\0\1a\0\7"),  # no properties
        framed(0x32, b"\0\x09a\0\7\0"),  # a topic that is longer than the packet
        b"\x32\xff\xff\xff\xff\1",  # a length of five bytes
        b"\x32\x80",
        b"\x32",
        b"",
        framed(0xD0, b""),
    ],
)
def test_what_is_not_plain_is_left(packet: bytes) -> None:
    """Also where more follows that would make it whole."""
    plain = publish(2, b"a", b"x", b"\0")
    assert take_published(plain + packet, 0, MOST, properties=True)[1] == len(plain)
    if len(packet) > 5:
        assert take_published(packet + plain, 0, MOST, properties=True) == ([], 0)


@example([publish(2, b"a", b"x" * 200, b"\0")], [1])
@given(st.lists(st.one_of(packets, others), max_size=6), st.lists(st.integers(1, 9), min_size=1))
def test_where_packets_begin(many: list[bytes], steps: list[int]) -> None:
    framing, data, begins = Framing(), b"".join(many), {0}
    for packet in many:
        begins.add(max(begins) + len(packet))
    at = 0
    for step in itertools.cycle(steps):
        assert framing.between == (at in begins)
        if at >= len(data):
            break
        framing.follow(data[at : at + step])
        at = min(at + step, len(data))


@pytest.fixture
def pair() -> Iterator[tuple[PlainSocket, socket.socket]]:
    one, other = socket.socketpair()
    one.setblocking(False)
    ours = PlainSocket.instead_of(one)
    yield ours, other
    ours.close()
    other.close()


def test_both_readers_share_a_socket(pair: tuple[PlainSocket, socket.socket]) -> None:
    """What is cut in two is read on by the one who has begun it."""
    ours, other = pair
    plain, ping = publish(2, b"a", b"x", b"\0"), framed(0xD0, b"")
    assert ours.published(MOST, properties=True) == []
    other.sendall(plain + plain + ping + plain + plain[:4])
    assert len(ours.published(1, properties=True)) == 1
    assert len(ours.published(MOST, properties=True)) == 1
    assert ours.published(MOST, properties=True) == []
    assert [ours.recv(1), ours.recv(1)] == [ping[:1], ping[1:]]
    assert len(ours.published(MOST, properties=True)) == 1
    assert ours.published(MOST, properties=True) == []
    assert ours.recv(1) == plain[:1]
    other.sendall(plain[4:] + plain)
    assert ours.published(MOST, properties=True) == []
    assert ours.recv(1) + ours.recv(2) == plain[1:4]
    assert ours.recv(len(plain) - 4) == plain[4:]
    assert len(ours.published(MOST, properties=True)) == 1
    other.close()
    assert ours.published(MOST, properties=True) == []
    assert ours.recv(1) == b""


def test_a_packet_inside_a_payload_is_none(pair: tuple[PlainSocket, socket.socket]) -> None:
    """Whoever has begun a packet reads it to its end, whatever is in it."""
    ours, other = pair
    inner = publish(2, b"a", b"x", b"\0")
    outer = publish(2, b"b", inner * 2, with_expiry())  # for paho
    other.sendall(outer + inner)
    assert ours.published(MOST, properties=True) == []
    begun = len(outer) - 2 * len(inner)
    assert b"".join(ours.recv(1) for _ in range(begun)) == outer[:begun]
    assert ours.published(MOST, properties=True) == []
    assert ours.recv(2 * len(inner)) == inner * 2
    assert len(ours.published(MOST, properties=True)) == 1
