"""The durable part, behind one seam: receive -> process -> commit -> acknowledge -> publish.

What `Store.commit` was given must survive before a message is acknowledged. `MemoryStore` survives
nothing but a reconnect: it holds the place of the journal and the outbox.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from edge_runtime.results import Block


class Publication(NamedTuple):
    """A message that is to leave the gateway."""

    topic: str
    payload: bytes


class Store(Protocol):
    """What the daemon asks of a store."""

    def commit(self, blocks: Sequence[Block], publications: Sequence[Publication]) -> None:
        """Makes the samples of one group and what follows from them durable, all or nothing.

        Args:
            blocks: The samples, as the pipelines took them, in order.
            publications: The flags and scores that they led to, in order.
        """
        ...

    def outbox(self) -> Iterator[Publication]:
        """Gives every publication that has been committed and not yet handed to the broker."""
        ...


class MemoryStore:
    """Keeps the outbox in memory and no journal: after a restart every stream warms up again."""

    def __init__(self) -> None:
        self._outbox: deque[Publication] = deque()

    def commit(self, blocks: Sequence[Block], publications: Sequence[Publication]) -> None:  # noqa: ARG002 - no journal
        """Takes the publications into the outbox."""
        self._outbox.extend(publications)

    def outbox(self) -> Iterator[Publication]:
        """Gives each publication once, oldest first."""
        while self._outbox:
            yield self._outbox.popleft()
