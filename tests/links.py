"""Links at work, for the tests of the network."""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from edge_runtime.config import BrokerConfig, Protocol
from edge_runtime.link import Backoff, Link, Publisher, Subscriber
from edge_runtime.mqtt import Message
from edge_runtime.stop import StopEvent

STATUS = "andon/gateway/status"
AT_ONCE = Backoff(low_s=0.01, high_s=0.01)
NEVER = Backoff(low_s=3600.0, high_s=3600.0)
PROTOCOLS: tuple[Protocol, ...] = ("5", "3.1.1")


@dataclass(slots=True)
class Running:
    """A link whose batches are being asked for."""

    link: Link
    batches: Iterator[list[Message]]
    stop: StopEvent

    def take(self, count: int) -> list[Message]:
        """The next ``count`` messages, and what arrived together with the last of them."""
        taken: list[Message] = []
        while len(taken) < count:
            taken += next(self.batches)
        return taken

    def acknowledged(self, count: int) -> list[Message]:
        """The next ``count`` messages, each batch acknowledged."""
        taken: list[Message] = []
        while len(taken) < count:
            batch = next(self.batches)
            self.link.acknowledge(batch)
            taken += batch
        return taken

    def run(self, *, until: Callable[[], bool]) -> None:
        """Lets the link work until something has happened."""
        while not until():
            next(self.batches)


RunLink: TypeAlias = Callable[..., Running]


@contextmanager
def running_links() -> Iterator[RunLink]:
    """Starts links, which are closed at the end of the block."""
    with ExitStack() as ends:

        def started(
            config: BrokerConfig,
            filters: Sequence[str] = ("in/#",),
            backoff: Backoff = AT_ONCE,
            linger_s: float = 0.0,
        ) -> Running:
            status = f"andon/{config.client_id}/status"
            link = Link(
                config, filters=filters, status_topic=status, backoff=backoff, linger_s=linger_s
            )
            ends.callback(link.close, 0.0)
            stop = StopEvent()
            return Running(link, link.batches(stop), stop)

        yield started


def subscribed(running: Running, config: BrokerConfig) -> Running:
    """Waits until the link says that it is online; it says so once it is subscribed."""
    status = f"andon/{config.client_id}/status"
    with Subscriber(replace(config, client_id="watcher"), [status]) as watcher:
        running.run(until=lambda: (status, b"online") in [m[:2] for m in watcher.messages(0.0)])
    return running


def cut(running: Running) -> None:
    """Ends the connection, for both sides; the broker goes on."""
    sock = running.link._wire._client.socket()
    assert isinstance(sock, socket.socket)
    sock.shutdown(socket.SHUT_RDWR)


def send(config: BrokerConfig, payloads: Sequence[str], topic: str = "in/a") -> None:
    with Publisher(config) as publisher:
        for payload in payloads:
            publisher.publish(topic, payload.encode())


def texts(messages: Sequence[Message]) -> list[str]:
    return [message.payload.decode() for message in messages]


def numbers(count: int, start: int = 0) -> list[str]:
    return [str(number) for number in range(start, start + count)]


def publish_numbered(running: Running, tokens: range, topic: str = "out/a") -> None:
    for token in tokens:
        running.link.publish(topic, b"%d" % token, token=token)


def unusable(folder: Path, name: str, content: bytes | None) -> Path:
    """A file that cannot be used; a folder, which cannot be read, where there is no content."""
    path = folder / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    return path
