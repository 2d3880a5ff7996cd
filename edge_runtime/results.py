"""What goes into a pipeline and what it decides: plain data between the rooms of the gateway."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.payload import Flag, ScoreLine

Float32 = NDArray[np.float32]

OK, WARMING_UP, UNCERTAIN = 0, 1, 2
STATUS = ("ok", "warming_up", "uncertain")


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive samples of one stream.

    Attributes:
        stream: Its name.
        ts: ``[sample]``, nanoseconds since 1970 UTC.
        values: ``[sample, feature]``, engineering units, all finite.
    """

    stream: str
    ts: NDArray[np.int64]
    values: Float32


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of the accepted samples of one stream; every array is ``[sample]``.

    Attributes:
        stream: Its name.
        ts: Nanoseconds.
        score: 1.0 is the alarm level.
        status: Index into `STATUS`.
        alarm: Whether the lamp is lit.
    """

    stream: str
    ts: NDArray[np.int64]
    score: Float32
    status: NDArray[np.uint8]
    alarm: NDArray[np.bool_]

    def lines(self) -> Iterable[ScoreLine]:
        """The samples one by one."""
        columns = zip(
            self.ts.tolist(), self.score, self.status.tolist(), self.alarm.tolist(), strict=True
        )
        for ts, score, status, alarm in columns:
            yield ScoreLine(self.stream, ts, score, STATUS[status], alarm)


class Rejected(NamedTuple):
    """Samples that were refused; no state has seen them.

    Attributes:
        stream: Whose they were.
        cause: Stable name, counted and published.
        samples: How many samples.
        detail: What was wanted and what came, for the first of them.
    """

    stream: str
    cause: str
    samples: int
    detail: str


class Reset(NamedTuple):
    """A stream starts again from the initial state.

    Attributes:
        stream: Its name.
        ts: Nanoseconds of the sample that caused it: the first after a gap, or the newest that the
            refused score was made from.
        cause: ``gap`` or ``not_finite_score``.
        unscored: Samples until then whose score will never come, because the model looks ahead.
    """

    stream: str
    ts: int
    cause: str
    unscored: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that one call of `Pipeline.process` decided."""

    scored: list[Scored]
    flags: list[Flag]
    rejected: list[Rejected]
    resets: list[Reset]
