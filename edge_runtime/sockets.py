"""What a connection to the broker is made of: socket, certificates, password. No MQTT here."""

import os
import socket
import ssl

from edge_runtime.config import BrokerConfig
from edge_runtime.errors import BrokerError

# What writing meets when the other side has closed the connection.
_GONE = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)


def read_password(broker: BrokerConfig) -> str:
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


class PlainSocket(socket.socket):
    """One that cannot fail in writing, so that paho reads it to its end.

    paho closes at the first write that fails. But what a broker has sent before it died is still
    there to be read, nobody else has it, and the machines have the broker's word for it.
    """

    __slots__ = ()

    def send(self, data: bytes | bytearray, flags: int = 0) -> int:  # type: ignore[override]
        """Sends what goes; what has nowhere to go waits, until reading shows the end."""
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
