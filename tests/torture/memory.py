"""How the memory of a process grows with what it has done."""

from itertools import combinations
from pathlib import Path

import numpy as np

from torture.figures import Row

_WARM = 0.2  # the first part of a run, in which buffers find their size


class Memory:
    """Resident memory of a process, noted now and then.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._done: list[int] = []
        self._mb: list[float] = []

    def note(self, done: int) -> None:
        """Notes how much it has now, after so many messages."""
        fields = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
        self._done.append(done)
        self._mb.append(int(fields["VmRSS"].split()[0]) / 1024)

    def mb_per_million(self) -> float:
        """Median slope between any two notes of all but the first part (Theil and Sen).

        A buffer that once grows for the fullest moment of the run is one step, which a straight
        line would take for a slope; what grows all the time is seen all the same.
        """
        warm = int(len(self._mb) * _WARM)
        notes = list(zip(self._done[warm:], self._mb[warm:], strict=True))
        slopes = [(mb - had) / (done - at) for (at, had), (done, mb) in combinations(notes, 2)]
        return float(np.median(slopes)) * 1e6

    def row(self) -> Row:
        """For the table."""
        return {
            "memory at first, MB": self._mb[0],
            "memory at last, MB": self._mb[-1],
            "memory, MB per million messages": self.mb_per_million(),
        }
