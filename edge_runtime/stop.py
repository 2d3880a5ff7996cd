"""The end that somebody else asks for, while a wait for the network is under way."""

import os
import select
import weakref
from collections.abc import Sequence


class StopEvent:
    """Set once, from a signal handler or another thread; ends a wait of `Link.batches` at once."""

    def __init__(self) -> None:
        self._set = False
        self._reader, self._writer = os.pipe()
        weakref.finalize(self, _close_all, (self._reader, self._writer))

    def set(self) -> None:
        """Asks for the end."""
        if not self._set:
            self._set = True
            os.write(self._writer, b"!")

    def is_set(self) -> bool:
        """Whether the end was asked for."""
        return self._set

    def wait(self, timeout_s: float) -> bool:
        """Waits for it, so long at most; whether it is set."""
        waiting = select.poll()
        waiting.register(self, select.POLLIN)
        waiting.poll(timeout_s * 1000)
        return self._set

    def fileno(self) -> int:
        """Readable from `set` on."""
        return self._reader


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
