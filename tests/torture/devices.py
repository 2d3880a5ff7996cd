"""Machines, as a process of their own: they send a tape until everything is acknowledged.

    python -m torture.devices PORT CLIENT_ID TAPE [--rate N] [--window N] ...

At QoS 1, over one connection, with at most ``window`` messages unacknowledged. When the connection
breaks they come back under the same client id and send what was not acknowledged again, in order
and marked DUP. ``--memory`` is for a broker that forgets: after a break the machines send so many
of their last messages anew, acknowledged or not.

SIGTERM ends the tape early. The last line on standard output is a JSON object: how many messages of
the tape were sent, and how often what else happened.
"""

import itertools
import json
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click

from torture.packets import PINGRESP, PUBACK, Connection, again, connect, mid_of, pingreq, publish
from torture.tape import Message, read_tape

_PATIENCE_S = 5.0  # without an acknowledgement
_RETRY_S = 0.05
_TICK_S = 0.02
_MOST_AT_ONCE = 200
_MIDS = 65_535


class Player:
    """Sends a tape.

    Args:
        messages: The tape.
        window: Messages without an acknowledgement at most.
        rate: Messages a second at most; 0 for as many as possible.
        memory: How many of the last messages are sent anew after a break.
        version: 4 for MQTT 3.1.1, or 5.

    Attributes:
        counts: ``sent`` from the tape, ``dup`` and ``anew`` after a break, ``connections``.
        stopped: Ends the tape.
    """

    def __init__(
        self, messages: Iterator[Message], *, window: int, rate: float, memory: int, version: int
    ) -> None:
        if 0 < memory <= window:
            raise ValueError(f"memory must exceed the window, got {memory} and {window}")
        self._messages = messages
        self._window = window
        self._rate = rate
        self._version = version
        self._mids = itertools.cycle(range(1, _MIDS + 1))
        self._pending: dict[int, bytes] = {}
        self._last: deque[tuple[int, Message]] = deque(maxlen=memory)
        self._repeating: deque[Message] = deque()
        self._over = self._certain = self.stopped = False
        self.counts = {"sent": 0, "dup": 0, "anew": 0, "connections": 0}

    def play(self, port: int, client_id: str) -> None:
        """Sends everything, however often the connection breaks."""
        hello = connect(client_id, version=self._version)
        began = time.monotonic()
        while not self._certain:
            try:
                link = Connection(port, hello, version=self._version)
            except OSError:
                time.sleep(_RETRY_S)
                continue
            self.counts["connections"] += 1
            try:
                self._play(link, began)
                self._make_certain(link)
            except OSError:
                continue
            finally:
                link.close()

    @property
    def _done(self) -> bool:
        ended = self._over or self.stopped
        return ended and not self._pending and not self._repeating

    def _play(self, link: Connection, began: float) -> None:
        if self.counts["connections"] > 1:
            self._send_again(link)
        heard_at = time.monotonic()
        while not self._done:
            now = time.monotonic()
            packets = b"".join(self._next(now - began))
            if packets:
                link.write(packets)
            for packet in link.exchange(_TICK_S):
                heard_at = now
                if packet.kind == PUBACK:
                    self._pending.pop(mid_of(packet), None)
            if not self._pending and now - heard_at > _PATIENCE_S / 2:
                link.write(pingreq())
                heard_at = now
            elif now - heard_at > _PATIENCE_S:
                raise TimeoutError("no acknowledgement")

    def _make_certain(self, link: Connection) -> None:
        """The connection stands: nothing that was acknowledged is forgotten in a break unseen."""
        asked_at = time.monotonic()
        link.write(pingreq())
        while not any(packet.kind == PINGRESP for packet in link.exchange(_TICK_S)):
            if time.monotonic() - asked_at > _PATIENCE_S:
                raise TimeoutError("no answer to PINGREQ")
        self._certain = True

    def _send_again(self, link: Connection) -> None:
        """What was not acknowledged; before it, in order, what the broker may have forgotten."""
        pending = self._pending
        anew = [message for mid, message in self._last if mid not in pending]
        if not anew:
            self.counts["dup"] += len(pending)
            link.write(b"".join(map(again, pending.values())))
            return
        # A fresh start from there: the order is what counts.
        waiting = [message for mid, message in self._last if mid in pending]
        self._pending = {}
        self._last.clear()
        self.counts["anew"] += len(anew) + len(waiting)
        self._repeating.extendleft(reversed(anew + waiting))

    def _next(self, elapsed_s: float) -> Iterator[bytes]:
        """What may be sent now."""
        room = min(self._window - len(self._pending), _MOST_AT_ONCE)
        while room > 0 and self._repeating:
            yield self._packet(self._repeating.popleft())
            room -= 1
        if self._over or self.stopped or self._repeating:
            return
        if self._rate:
            room = min(room, int(elapsed_s * self._rate) - self.counts["sent"])
        if room <= 0:
            return
        messages = list(itertools.islice(self._messages, room))
        self._over = len(messages) < room
        self.counts["sent"] += len(messages)
        yield from map(self._packet, messages)

    def _packet(self, message: Message) -> bytes:
        mid = next(self._mids)
        while mid in self._pending:
            mid = next(self._mids)
        packet = publish(mid, *message, version=self._version)
        self._pending[mid] = packet
        self._last.append((mid, message))
        return packet


@click.command()
@click.argument("port", type=int)
@click.argument("client_id")
@click.argument("tape", type=click.Path(path_type=Path))
@click.option("--window", default=500, help="Messages without an acknowledgement.")
@click.option("--rate", default=0.0, help="Messages a second; 0: as many as possible.")
@click.option("--memory", default=0, help="Messages that are sent anew after a break.")
@click.option("--version", default=4, help="4 for MQTT 3.1.1, or 5.")
def main(
    port: int, client_id: str, tape: Path, window: int, rate: float, memory: int, version: int
) -> None:
    """Send TAPE to the broker on PORT."""
    player = Player(read_tape(tape), window=window, rate=rate, memory=memory, version=version)
    signal.signal(signal.SIGTERM, lambda *_: setattr(player, "stopped", True))
    player.play(port, client_id)
    sys.stdout.write(json.dumps(player.counts) + "\n")


if __name__ == "__main__":
    main()
