"""Own publications on their way to the broker, and for a moment longer than it asks for.

A broker that is killed may have acknowledged what it had not saved yet: mosquitto 2.0 answers a
packet first and saves then, before it reads the next one. So an acknowledgement counts for good
only with that of a publication that was sent after it had come. Until then a new connection begins
with it once more, in the order in which everything was sent first.

That differs from MQTT 3.1.1 and 5, section 4.4 [MQTT-4.4.0-1], in the packet identifiers: what is
sent again has new ones, as after a restart of the gateway. At QoS 1 the receiver keeps none.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple


class Parcel(NamedTuple):
    """A publication.

    Attributes:
        topic: Where to.
        payload: What.
        retain: The broker keeps it. Such a one is said anew by whoever said it, so an
            acknowledgement counts at once.
        token: What `Outgoing.delivered` gives in the end; None for nothing.
    """

    topic: str
    payload: bytes
    retain: bool
    token: int | None


class _Sent(NamedTuple):
    number: int  # of all that were sent
    parcel: Parcel


class _Answered(NamedTuple):
    sent: _Sent
    before: int  # what has a greater number was sent when the answer had come


class Outgoing:
    """Publications in order: waiting, in flight, acknowledged but not for good."""

    def __init__(self) -> None:
        self._waiting: deque[Parcel] = deque()
        self._in_flight: dict[int, _Sent] = {}
        self._answered: deque[_Answered] = deque()
        self._delivered: list[int] = []
        self._number = 0

    def __len__(self) -> int:
        """Publications without an acknowledgement."""
        return len(self._waiting) + len(self._in_flight)

    def put(self, parcel: Parcel) -> None:
        """Adds one behind all others."""
        self._waiting.append(parcel)

    def sendable(self, window: int) -> bool:
        """Whether `send` would send."""
        return bool(self._waiting) and len(self._in_flight) < window

    def send(self, publish: Callable[[Parcel], int | None], window: int) -> None:
        """Sends what is waiting, until so many are in flight.

        Args:
            publish: Gives the packet identifier, or None if there is no room for this one now.
            window: In flight at most.
        """
        while self._waiting and len(self._in_flight) < window:
            mid = publish(self._waiting[0])
            if mid is None:
                return
            self._number += 1
            self._in_flight[mid] = _Sent(self._number, self._waiting.popleft())

    def acknowledge(self, mid: int, *, refused: bool = False) -> Parcel | None:
        """Takes note of an acknowledgement.

        Args:
            mid: Its packet identifier.
            refused: The broker does not want it. Asked again, it would refuse again: it counts.

        Returns:
            The publication; None if none in flight has this identifier.
        """
        sent = self._in_flight.pop(mid, None)
        if sent is None:
            return None
        answered = self._answered
        if refused or sent.parcel.retain:
            self._deliver(sent.parcel)
        else:
            answered.append(_Answered(sent, self._number))
        while answered and answered[0].before < sent.number:
            self._deliver(answered.popleft().sent.parcel)
        return sent.parcel

    def again(self) -> None:
        """On a new connection: all of which it is not certain that the broker has it goes first."""
        unsure = [answered.sent for answered in self._answered]
        unsure = sorted([*unsure, *self._in_flight.values()])
        self._waiting.extendleft(sent.parcel for sent in reversed(unsure))
        self._in_flight.clear()
        self._answered.clear()

    def delivered(self) -> list[int]:
        """Tokens of the publications that the broker has for good, since the last call."""
        delivered, self._delivered = self._delivered, []
        return delivered

    def _deliver(self, parcel: Parcel) -> None:
        if parcel.token is not None:
            self._delivered.append(parcel.token)
