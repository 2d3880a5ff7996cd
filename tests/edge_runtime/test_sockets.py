"""A socket that reads ahead, writes together, and never fails in writing."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from edge_runtime.sockets import PlainSocket

Pair = tuple[PlainSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Ours, which does not wait, and the other side."""
    one, other = socket.socketpair()
    one.setblocking(False)
    ours = PlainSocket.instead_of(one)
    yield ours, other
    ours.close()
    other.close()


def read_all(other: socket.socket) -> bytes:
    other.setblocking(False)
    read = b""
    with contextlib.suppress(BlockingIOError):
        while more := other.recv(1 << 16):
            read += more
    return read


def filled(ours: PlainSocket) -> int:
    """Sends until nothing goes any more; how much that was."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += ours.send(b"x" * 4096)
    return sent


def test_it_receives_what_a_plain_one_does(pair: Pair) -> None:
    ours, other = pair
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    other.sendall(b"abcdef")
    assert [ours.recv(1), ours.recv(1)] == [b"a", b"b"]
    assert ours.pending() == 4
    assert ours.recv(3) == b"cde"
    other.sendall(b"gh")
    assert ours.recv(100) == b"f"  # less than was asked for, as a socket may
    assert ours.pending() == 0
    assert ours.recv(1 << 20) == b"gh"
    other.close()
    assert ours.recv(1) == b""


def test_what_was_sent_before_the_end_is_read_to_the_end(pair: Pair) -> None:
    ours, other = pair
    other.sendall(b"last words")
    other.close()
    with pytest.raises(BlockingIOError):  # not BrokenPipeError, at which paho would close
        ours.send(b"!")
    assert ours.recv(1) == b"l"
    with ours.corked():
        assert ours.send(b"!!") == 2
    assert ours.recv(100) == b"ast words"
    assert ours.recv(1) == b""


def test_what_is_corked_leaves_together_at_the_end(pair: Pair) -> None:
    ours, other = pair
    other.setblocking(False)
    with ours.corked():
        for part in (b"a", bytearray(b"bc"), b"d"):
            assert ours.send(part) == len(part)
        with pytest.raises(BlockingIOError):
            other.recv(10)
    assert other.recv(10) == b"abcd"
    assert ours.send(b"e") == 1
    assert other.recv(10) == b"e"


def test_what_does_not_fit_waits_and_nothing_overtakes_it(pair: Pair) -> None:
    ours, other = pair
    before = filled(ours)
    with ours.corked():
        ours.send(b"held back")
    assert ours.flush()
    with pytest.raises(BlockingIOError):
        ours.send(b"later")
    assert read_all(other) == b"x" * before
    assert not ours.flush()
    assert ours.send(b", later") == 7
    assert read_all(other) == b"held back, later"


def test_an_error_inside_does_not_leave_it_corked(pair: Pair) -> None:
    ours, other = pair
    with contextlib.suppress(ValueError), ours.corked():
        ours.send(b"a")
        raise ValueError("inside")
    assert other.recv(10) == b"a"
    ours.send(b"b")
    assert other.recv(10) == b"b"


def test_a_closed_one_forgets_and_says_so(pair: Pair) -> None:
    ours, other = pair
    other.sendall(b"abc")
    assert ours.recv(1) == b"a"
    ours.close()
    assert ours.pending() == 0
    assert not ours.flush()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ours.recv(1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        ours.send(b"x")
    with ours.corked():
        pass


def test_a_descriptor_that_is_used_again_begins_afresh(pair: Pair) -> None:
    ours, other = pair
    other.sendall(b"abc")
    assert ours.recv(1) == b"a"
    number = ours.fileno()
    ours.close()
    others = socket.socketpair()
    again = next(sock for sock in others if sock.fileno() == number)
    fresh = PlainSocket.instead_of(again)
    assert fresh.pending() == 0
    for sock in others:
        sock.close()
