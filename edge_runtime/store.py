"""The durable part, behind one seam: receive -> process -> commit -> acknowledge -> publish.

What `Store.commit` was given must survive before a message is acknowledged. The store of a gateway
is `edge_runtime.journal.Journal`; `MemoryStore` survives nothing but a reconnect, and is there to
measure what the journal costs.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from edge_runtime.payload import Flag
from edge_runtime.results import Abreast, Block, Result


class Publication(NamedTuple):
    """A message that is to leave the gateway."""

    topic: str
    payload: bytes


class Raised(NamedTuple):
    """A flag as it is remembered, to be explained later.

    Attributes:
        pipeline: Index of its pipeline.
        flag: What was decided.
        payload: What is published of it.
    """

    pipeline: int
    flag: Flag
    payload: bytes


@dataclass(slots=True)
class Group:
    """What one batch of messages leads to. Pipelines are told apart by their index.

    Attributes:
        abreast: The samples that each pipeline took side by side, before all others.
        admitted: The samples that each pipeline took, in order.
        evicted: The streams that each pipeline has forgotten, before it took any of those samples.
        publications: What is to be published, in order.
        flags: The flags among them.
    """

    abreast: dict[int, list[Abreast]] = field(default_factory=dict)
    admitted: dict[int, list[Block]] = field(default_factory=dict)
    evicted: dict[int, list[str]] = field(default_factory=dict)
    publications: list[Publication] = field(default_factory=list)
    flags: list[Raised] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Nothing in it has to survive."""
        return not (self.abreast or self.admitted or self.evicted or self.publications)

    def add(self, pipeline: int, result: Result) -> None:
        """Takes the samples that a pipeline has admitted."""
        if result.admitted_abreast:
            self.abreast[pipeline] = result.admitted_abreast
        if result.admitted:
            self.admitted[pipeline] = result.admitted


class Start(NamedTuple):
    """How one pipeline has started.

    Attributes:
        streams: Streams that go on where they were.
        samples: Samples of the journal that were run again for that.
        cold: Why it starts without any state; empty if it does not.
        lost: There was a state, and it is not used.
    """

    streams: int
    samples: int
    cold: str
    lost: bool


class Store(Protocol):
    """What the daemon asks of a store.

    Attributes:
        starts: How each pipeline has started; empty before `open`.
        aside: What was set aside since the start, each with the reason.
        topics: Topic patterns that it has seen, also those that are not configured any more.
    """

    starts: list[Start]
    aside: list[str]
    topics: list[str]

    def open(self) -> None:
        """Brings every stream to where it was; nothing if that has been done.

        Raises:
            StoreUnavailableError: If that is not possible now. It may be tried again.
        """
        ...

    def commit(self, group: Group) -> None:
        """Makes the samples of one group and what follows from them durable, all or nothing.

        Raises:
            StoreUnavailableError: If that is not possible now. The same group may be tried again,
                and no other before it.
        """
        ...

    def outbox(self) -> Iterator[tuple[Publication, int]]:
        """Gives every publication that was not given before, oldest first, with a token."""
        ...

    def delivered(self, tokens: Sequence[int]) -> None:
        """Takes note that the broker has a publication; with its token, once for each."""
        ...

    def tidy(self, now_ns: int) -> None:
        """Does what must be done now and then, when it is time to; costs nothing otherwise.

        Args:
            now_ns: The gateway's clock, nanoseconds since 1970 UTC.

        Raises:
            StoreUnavailableError: If that is not possible now.
        """
        ...

    def close(self) -> None:
        """Comes to an end, so that the next start is quick.

        Raises:
            StoreUnavailableError: If something cannot be written, without which it works as well.
        """
        ...


class MemoryStore:
    """Keeps the outbox in memory and no journal."""

    def __init__(self) -> None:
        self.starts: list[Start] = []
        self.aside: list[str] = []
        self.topics: list[str] = []
        self._outbox: deque[Publication] = deque()

    def open(self) -> None:
        """There is nothing to open."""

    def commit(self, group: Group) -> None:
        """Takes the publications into the outbox."""
        self._outbox.extend(group.publications)

    def outbox(self) -> Iterator[tuple[Publication, int]]:
        """Gives each publication once, oldest first."""
        while self._outbox:
            yield self._outbox.popleft(), 0

    def delivered(self, tokens: Sequence[int]) -> None:
        """Nothing waits for it."""

    def tidy(self, now_ns: int) -> None:
        """Nothing has to be done."""

    def close(self) -> None:
        """Nothing has to be closed."""
