"""What a connection to the broker is made of: socket, certificates, password. No MQTT here."""

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from edge_runtime.config import BrokerConfig
from edge_runtime.errors import BrokerError
from edge_runtime.publish_packets import Published, take_published

_READ_AHEAD_BYTES = 1 << 16
# What writing meets when the other side has closed the connection.
_GONE = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)


def credentials(broker: BrokerConfig) -> tuple[str, str]:
    """User and password, from the configuration or else from the environment; empty for none.

    Raises:
        BrokerError: If the password file cannot be used, or there is a password without a user.
    """
    user = broker.user or os.environ.get("ANDON_MQTT_USER", "")
    password = _read_password(broker)
    if password and not user:
        raise BrokerError("a password without a user: wanted user or ANDON_MQTT_USER as well")
    return user, password


def _read_password(broker: BrokerConfig) -> str:
    """The first line of ``password_file``, or else ``ANDON_MQTT_PASSWORD``; empty for none.

    Raises:
        BrokerError: If the file cannot be read or begins with an empty line.
    """
    if broker.password_file is None:
        return os.environ.get("ANDON_MQTT_PASSWORD", "")
    try:
        first, *_ = broker.password_file.read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        # The text of a UnicodeDecodeError shows a byte of the password.
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise BrokerError(f"password_file {broker.password_file}: cannot be read: {why}") from None
    if not first:
        raise BrokerError(f"password_file {broker.password_file}: the first line is empty")
    return first


class Framing:
    """Follows where packets begin in what is received bit by bit (MQTT 5, 2.1)."""

    __slots__ = ("_left", "_length", "_shift", "between")

    def __init__(self) -> None:
        self.between = True
        """Whether what comes next is the first byte of a packet."""
        self._length = self._left = 0
        self._shift = -1

    def follow(self, data: bytes) -> None:
        """Takes note of what was received."""
        at, size = 0, len(data)
        while at < size:
            if self.between:
                self.between, self._length, self._shift = False, 0, 0
                at += 1
            elif self._shift >= 0:
                self._length |= (data[at] & 0x7F) << self._shift
                self._shift = self._shift + 7 if data[at] & 0x80 else -1
                self._left = self._length
                at += 1
                self.between = self._shift < 0 and not self._left
            else:
                taken = min(self._left, size - at)
                self._left -= taken
                at += taken
                self.between = not self._left


class _Buffers:
    """What one socket has read ahead, and what it holds back."""

    __slots__ = ("at", "corked", "framing", "read", "unsent")

    def __init__(self) -> None:
        self.read = b""
        self.at = 0
        self.framing = Framing()
        self.unsent = bytearray()
        self.corked = False


# By file descriptor: a socket that paho has made can change its class, but gets no new attributes.
_BUFFERS: dict[int, _Buffers] = {}


def _buffers_of(sock: socket.socket) -> _Buffers:
    """Its own; some that nobody else sees if it is closed."""
    return _BUFFERS.get(sock.fileno()) or _Buffers()


class PlainSocket(socket.socket):
    """One that reads ahead, writes together what is written together, and is read to its end.

    paho asks for a byte, another byte and the rest of each packet, and sends each acknowledgement
    alone. With this every few hundred packets cost one call of the system, and so do a group's
    acknowledgements.

    And it cannot fail in writing. paho closes at the first write that fails. But what a broker has
    sent before it died is still there to be read, nobody else has it, and the machines have the
    broker's word for it.
    """

    __slots__ = ()

    @classmethod
    def instead_of(cls, sock: socket.socket) -> "PlainSocket":
        """Makes a plain socket one of these."""
        sock.__class__ = cls
        if not isinstance(sock, cls):
            raise TypeError(f"wanted a socket, got {sock!r}")
        _BUFFERS[sock.fileno()] = _Buffers()
        return sock

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receives up to so many bytes, as sockets do."""
        buffers = _buffers_of(self)
        if not self.pending():
            if bufsize >= _READ_AHEAD_BYTES:
                data = super().recv(bufsize, flags)
                buffers.framing.follow(data)
                return data
            buffers.read, buffers.at = super().recv(_READ_AHEAD_BYTES, flags), 0
        at = buffers.at
        data = buffers.read[at : at + bufsize]
        buffers.at = at + len(data)
        buffers.framing.follow(data)
        return data

    def published(self, most: int, *, properties: bool) -> list[Published]:
        """Receives publications, as long as nothing else stands before them and they are whole.

        Args:
            most: How many.
            properties: Whether they have any, which is so in MQTT 5.
        """
        buffers = _buffers_of(self)
        if not buffers.framing.between:
            return []
        if not self.pending():
            try:
                buffers.read, buffers.at = super().recv(_READ_AHEAD_BYTES), 0
            except OSError:
                return []  # whoever reads on meets it again
        found, buffers.at = take_published(buffers.read, buffers.at, most, properties=properties)
        return found

    def pending(self) -> int:
        """How many bytes are read and not received, which no poll can see."""
        buffers = _buffers_of(self)
        return max(0, len(buffers.read) - buffers.at)

    def send(self, data: bytes | bytearray, flags: int = 0) -> int:  # type: ignore[override]
        """Sends what goes; what has nowhere to go waits, until reading shows the end."""
        buffers = _buffers_of(self)
        if buffers.corked:
            buffers.unsent += data
            return len(data)
        if self.flush():
            raise BlockingIOError("what was written before is not sent yet")
        return self._send(data, flags)

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Sends at the end, together, what is sent meanwhile."""
        buffers = _buffers_of(self)
        buffers.corked = True
        try:
            yield
        finally:
            buffers.corked = False
            self.flush()

    def flush(self) -> bool:
        """Sends what was held back; whether some of it could not be sent yet."""
        buffers = _buffers_of(self)
        if not buffers.unsent:
            return False
        with suppress(BlockingIOError):
            del buffers.unsent[: self._send(buffers.unsent)]
        return bool(buffers.unsent)

    def close(self) -> None:
        """Closes it, and forgets what was not sent."""
        _BUFFERS.pop(self.fileno(), None)
        super().close()

    def _send(self, data: bytes | bytearray, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except _GONE as error:
            raise BlockingIOError from error


class _TlsSocket(ssl.SSLSocket):
    """The same with TLS.

    And it closes itself when the handshake fails; paho leaves that to the garbage collector.
    """

    def send(self, data: bytes | bytearray, flags: int = 0) -> int:  # type: ignore[override]
        try:
            return super().send(data, flags)
        except _GONE as error:
            raise BlockingIOError from error

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def tls_context(broker: BrokerConfig) -> ssl.SSLContext:
    """What the broker's certificate is verified with, and our own.

    Raises:
        BrokerError: If one of the files cannot be used.
    """
    # Certificates and host name are verified; without the pickiness about extensions that
    # create_default_context adds in Python 3.13 and that a plant's own CA often does not meet.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _TlsSocket
    try:
        if broker.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(broker.ca)
    except OSError as error:
        raise BrokerError(f"ca {broker.ca}: cannot be used: {error}") from error
    if broker.cert is not None:

        def locked() -> str:
            raise BrokerError(f"key {broker.key or broker.cert}: wanted a key without a password")

        try:
            context.load_cert_chain(broker.cert, broker.key, locked)
        except OSError as error:
            files = f"cert {broker.cert}, key {broker.key}"
            raise BrokerError(f"{files}: cannot be used: {error}") from error
    return context
