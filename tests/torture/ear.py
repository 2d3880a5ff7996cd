"""Somebody who listens, at QoS 1 and with a session of its own, and forgets nothing.

It may leave and come back; the broker keeps what comes meanwhile.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

from torture.packets import (
    PUBLISH,
    SUBACK,
    Connection,
    Packet,
    connect,
    pingreq,
    puback,
    received,
    subscribe,
)
from torture.tape import Message

STATUS = b"andon/gw/status"
DETAILS = b"andon/gw/status/details"
REJECTED = b"andon/gw/rejected"
EVENTS = b"andon/gw/events"

_VERSION = 5
_RETRY_S = 0.02
_TICK_S = 0.5


class Word(NamedTuple):
    """A status of the gateway, and when it was heard (`time.monotonic`)."""

    at: float
    word: str


class Ear:
    """Listens to everything below ``andon/``. Use as a context manager.

    Attributes:
        heard: Every message in order of arrival, repeated ones too; without status and rejections.
        words: The status, each time it was said.
        details: The newest of the status's details.
        rejected: Reports of what was refused.
        connections: How often it had to connect.
    """

    def __init__(self, port: int) -> None:
        self.heard: list[Message] = []
        self.words: list[Word] = []
        self.details = b""
        self.rejected: list[bytes] = []
        self.connections = 0
        self._port = port
        self._topics: Counter[bytes] = Counter()
        self._news = threading.Condition()
        self._ready = threading.Event()
        self._stopped = False
        self._present, self._gone = threading.Event(), threading.Event()
        self._present.set()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ear")

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10.0):
            self._stopped = True
            raise TimeoutError(f"no subscription within 10 s: {self._error}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped = True
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    @contextmanager
    def away(self) -> Iterator[None]:
        """Hears nothing meanwhile, without a connection."""
        self._gone.clear()
        self._present.clear()
        try:
            assert self._gone.wait(10.0), "it never left"
            yield
        finally:
            self._present.set()

    @property
    def word(self) -> str:
        """The newest status."""
        return self.words[-1].word if self.words else ""

    def count(self, topic: bytes) -> int:
        """How many messages were heard on a topic."""
        return self._topics[topic]

    def until(self, done: Callable[[], bool], wanted: str, timeout_s: float) -> None:
        """Waits until what was heard makes ``done`` true.

        Raises:
            TimeoutError: Naming what was wanted and what came.
        """
        with self._news:
            if not self._news.wait_for(lambda: done() or self._error is not None, timeout_s):
                raise TimeoutError(
                    f"not within {timeout_s:g} s: {wanted}; heard {len(self.heard)} messages in "
                    f"{self.connections} connections, the status is {self.word!r}"
                )
        if self._error is not None:
            raise self._error

    def until_word(self, word: str, since: float, timeout_s: float) -> None:
        """Waits until the gateway has said a word after that time."""
        self.until(
            lambda: any(w.word == word and w.at >= since for w in self.words[-20:]),
            f"status {word!r}",
            timeout_s,
        )

    def _run(self) -> None:
        hello = connect("ear", version=_VERSION)
        while not self._stopped:
            if not self._present.is_set():
                self._gone.set()
                self._present.wait(_TICK_S)
                continue
            try:
                link = Connection(self._port, hello, version=_VERSION)
            except OSError:
                time.sleep(_RETRY_S)
                continue
            self.connections += 1
            try:
                self._listen(link)
            except OSError:
                continue
            except BaseException as error:  # noqa: BLE001 - raised where somebody waits
                self._error = error
                with self._news:
                    self._news.notify_all()
                return
            finally:
                link.close()

    def _listen(self, link: Connection) -> None:
        link.write(subscribe(1, "andon/#", version=_VERSION))
        pinged_at = time.monotonic()
        while not self._stopped and self._present.is_set():
            packets = link.exchange(_TICK_S)
            if packets:
                link.write(self._take(packets))
            if time.monotonic() - pinged_at > 20.0:
                pinged_at = time.monotonic()
                link.write(pingreq())

    def _take(self, packets: list[Packet]) -> bytes:
        """Keeps what has come; the acknowledgements."""
        acknowledgements = []
        with self._news:
            for packet in packets:
                if packet.kind == SUBACK:
                    self._ready.set()
                elif packet.kind == PUBLISH:
                    acknowledgements.append(self._keep(packet))
            self._news.notify_all()
        return b"".join(acknowledgements)

    def _keep(self, packet: Packet) -> bytes:
        topic, mid, payload, retain = received(packet, version=_VERSION)
        if topic == STATUS:
            if not retain:
                self.words.append(Word(time.monotonic(), payload.decode()))
        elif topic == DETAILS:
            self.details = payload
        elif topic == REJECTED:
            self.rejected.append(payload)
        else:
            self.heard.append((topic, payload))
            self._topics[topic] += 1
        return puback(mid) if mid else b""
