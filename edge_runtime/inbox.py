"""What has arrived and was not taken yet.

Messages at QoS 1 are never dropped: until they are acknowledged, the broker's window bounds them.
What bounds those at QoS 0 is here.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from edge_runtime.mqtt import MAX_BATCH, MAX_BATCH_BYTES, Message

log = logging.getLogger("andon.mqtt")

# More than what `full` admits and one reading of the socket together: only who holds the input back
# for long loses any.
MAX_LOOSE = 20_000
MAX_LOOSE_BYTES = 48 << 20


class Inbox:
    """Messages in the order of their arrival.

    Of what the broker sends again after a reconnect, while the first copy still waits here, the
    first copy goes: else each reconnect during a long wait would bring another window full. The
    second stays a message that was never seen (``dup`` of the first), and stands where it arrived:
    acknowledgements have to leave in that order (MQTT 5, 4.6), else mosquitto 2.0.11 lets new
    messages overtake those that it has queued.

    Attributes:
        since: When the first of what is here came, in seconds of the monotonic clock.
        overflowed: QoS 0 messages dropped because 20,000 of them, or 48 MiB, were waiting.
    """

    def __init__(self) -> None:
        self.since = 0.0
        self.overflowed = 0
        self._messages: dict[int, Message] = {}  # by number of arrival
        self._arrived = 0
        self._bytes = self._loose = self._loose_bytes = 0
        self._warned = False
        self._connection = 0
        self._older: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def full(self) -> bool:
        """There is no sense in reading on before something is taken."""
        return len(self._messages) >= MAX_BATCH or self._bytes >= MAX_BATCH_BYTES

    def add(self, messages: Sequence[Message]) -> None:
        """Adds what has arrived."""
        if messages and not self._messages:
            self.since = time.monotonic()
        for message in messages:
            if message.qos == 0:
                if not self._has_room(message):
                    continue
            elif message.dup:
                message = self._instead_of_first(message)
            self._messages[self._arrived] = message
            self._arrived += 1
            self._bytes += len(message.payload)

    def take(self, most: int) -> list[Message]:
        """Gives the oldest messages, up to so many."""
        numbers = list(islice(self._messages, most))
        taken = [self._messages.pop(number) for number in numbers]
        self._bytes -= sum(len(message.payload) for message in taken)
        if self._loose:
            loose = [message for message in taken if message.qos == 0]
            self._loose -= len(loose)
            self._loose_bytes -= sum(len(message.payload) for message in loose)
        self._warned = self._warned and bool(self._messages)
        return taken

    def _has_room(self, message: Message) -> bool:
        size = len(message.payload)
        # One is taken however large it is: it came, and nothing else is waiting.
        if self._loose and (self._loose >= MAX_LOOSE or self._loose_bytes + size > MAX_LOOSE_BYTES):
            self.overflowed += 1
            if not self._warned:
                self._warned = True
                log.error("%d messages at QoS 0 are waiting: further ones are lost", self._loose)
            return False
        self._loose += 1
        self._loose_bytes += size
        return True

    def _instead_of_first(self, message: Message) -> Message:
        """A copy that came again, as what it is; the first one goes if that is still here."""
        if self._connection != message.connection:
            self._connection = message.connection
            self._older = {
                held.mid: number
                for number, held in self._messages.items()
                if held.qos and held.connection != message.connection
            }
        number = self._older.get(message.mid, -1)
        held = self._messages.get(number)
        if held is None or (held.topic, held.payload) != (message.topic, message.payload):
            return message
        del self._older[message.mid], self._messages[number]
        self._bytes -= len(held.payload)
        return replace(message, dup=held.dup)
