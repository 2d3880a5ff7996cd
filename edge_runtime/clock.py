"""The gateway's clock, which may be wrong and may be set while the daemon runs.

Nothing that has been decided depends on it but two things, and neither follows a jump:

- When a sample arrived, for devices without a clock of their own: the time at the start plus the
  time that has passed since (`Clock.steady_ns`). A clock that is set does not make a gap.
- Whether a sample comes from the future (`Clock.latest_ns`): measured against that or the clock
  itself, whichever is later. So a clock that is set back refuses nothing, and one that learns the
  date after the start, as on a gateway without a battery, soon refuses nothing either.
"""

import time
from collections.abc import Callable


def _passed_ns() -> int:
    # It goes on while the machine sleeps, where the system can tell.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock)


class Clock:
    """A clock that never goes backwards.

    Args:
        wall_ns: The machine's clock, nanoseconds since 1970 UTC.
        passed_ns: A clock that nobody sets, from any beginning.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        passed_ns: Callable[[], int] = _passed_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._passed_ns = passed_ns
        self._offset = wall_ns() - passed_ns()

    def steady_ns(self) -> int:
        """Time at the start plus what has passed, nanoseconds since 1970 UTC."""
        return self._offset + self._passed_ns()

    def latest_ns(self) -> int:
        """That, or what the machine says now, whichever is later."""
        return max(self.steady_ns(), self._wall_ns())
