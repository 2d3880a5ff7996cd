"""How long it is worth waiting for more messages before those that are here are worked on.

What a group costs is shared by its messages: a transaction, a call of the model, two calls of the
system. Where messages come faster than the gateway could take them one by one, it naps while they
gather in the socket. Where they are rare it does not, and where a broker has sent all that it may
before an acknowledgement, the first nap brings nothing and is the last.
"""

_FAST_S = 0.0025  # between two messages; slower ones are not waited for
_SHORTEST_S, _LONGEST_S = 0.001, 0.005
_OF_GAP = 2.0  # so that a nap without a message says something
_AT_FIRST_S = 1.0


class Pace:
    """Knows how fast messages come, from the batches so far."""

    def __init__(self) -> None:
        self._gap_s = _AT_FIRST_S
        self._closed_at = 0.0

    @property
    def nap_s(self) -> float:
        """How long to wait until more will be there; 0 where that does not pay."""
        if self._gap_s > _FAST_S:
            return 0.0
        return min(max(_OF_GAP * self._gap_s, _SHORTEST_S), _LONGEST_S)

    def closed(self, messages: int, now_s: float) -> None:
        """Takes note of a batch.

        Args:
            messages: At least one.
            now_s: Seconds of the monotonic clock.
        """
        gap_s = min((now_s - self._closed_at) / messages, _AT_FIRST_S)
        self._gap_s = (self._gap_s + gap_s) / 2
        self._closed_at = now_s
