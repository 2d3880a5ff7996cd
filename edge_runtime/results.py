"""What goes into a pipeline and what it decides: plain data between the rooms of the gateway."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.payload import Flag, ScoreLine

Float32 = NDArray[np.float32]

OK, WARMING_UP, UNCERTAIN = 0, 1, 2
STATUS = ("ok", "warming_up", "uncertain")
NO_SEQ = -1  # before every count that a device can give


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive samples of one stream.

    Attributes:
        stream: Its name.
        ts: ``[sample]``, nanoseconds since 1970 UTC; of a device without a clock, until it is
            admitted, nanoseconds before now, so 0 or less.
        values: ``[sample, feature]``, engineering units, all finite.
        seq: ``[sample]``, the device's own count, `NO_SEQ` where it gave none; None if it gave none
            at all.
        dup: The broker may have delivered the message before (the DUP flag of MQTT).
    """

    stream: str
    ts: NDArray[np.int64]
    values: Float32
    seq: NDArray[np.int64] | None = None
    dup: bool = False


@dataclass(frozen=True, slots=True)
class Abreast:
    """One sample of each of several streams, side by side.

    Attributes:
        streams: Their names, each once.
        ts: ``[stream]``, nanoseconds since 1970 UTC.
        values: ``[stream, feature]``, engineering units, all finite.
        seq: ``[stream]``, the device's own count, `NO_SEQ` where it gave none.
    """

    streams: list[str]
    ts: NDArray[np.int64]
    values: Float32
    seq: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.streams)

    def where(self, which: NDArray[np.bool_]) -> "Abreast":
        """Some of the streams."""
        names = [self.streams[index] for index in np.flatnonzero(which).tolist()]
        return Abreast(names, self.ts[which], self.values[which], self.seq[which])

    def blocks(self) -> list[Block]:
        """Each sample as a block."""
        rows = range(len(self.streams))
        return [
            Block(
                self.streams[row],
                self.ts[row : row + 1],
                self.values[row : row + 1],
                counted(self.seq[row : row + 1]),
            )
            for row in rows
        ]


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of the accepted samples of one stream; every array is ``[sample]``.

    Attributes:
        stream: Its name.
        ts: Nanoseconds.
        score: 1.0 is the alarm level.
        status: Index into `STATUS`.
        alarm: Whether the lamp is lit.
        seq: The device's own count, `NO_SEQ` where it gave none; None if it gave none at all.
        contribution: ``[sample, feature]``, each sensor's share, where it was asked for.
    """

    stream: str
    ts: NDArray[np.int64]
    score: Float32
    status: NDArray[np.uint8]
    alarm: NDArray[np.bool_]
    seq: NDArray[np.int64] | None = None
    contribution: Float32 | None = None

    def where(self, which: NDArray[np.bool_]) -> "Scored":
        """Some of the samples."""
        return Scored(
            self.stream,
            self.ts[which],
            self.score[which],
            self.status[which],
            self.alarm[which],
            None if self.seq is None else self.seq[which],
            None if self.contribution is None else self.contribution[which],
        )

    def lines(self) -> Iterable[ScoreLine]:
        """The samples one by one."""
        columns = zip(
            self.ts.tolist(), self.score, self.status.tolist(), self.alarm.tolist(), strict=True
        )
        for index, (ts, score, status, alarm) in enumerate(columns):
            yield ScoreLine(self.stream, ts, score, STATUS[status], alarm, self.seq_at(index))

    def seq_at(self, index: int) -> int | None:
        """The device's own count of a sample, if it gave one."""
        seq = NO_SEQ if self.seq is None else int(self.seq[index])
        return None if seq == NO_SEQ else seq


@dataclass(frozen=True, slots=True)
class ScoredAbreast:
    """What became of one sample of each of several streams; every array is ``[stream]``.

    Attributes:
        streams: Their names.
        ts: Nanoseconds.
        score: 1.0 is the alarm level.
        status: Index into `STATUS`.
        alarm: Whether the lamp is lit.
        seq: The device's own count, `NO_SEQ` where it gave none.
    """

    streams: list[str]
    ts: NDArray[np.int64]
    score: Float32
    status: NDArray[np.uint8]
    alarm: NDArray[np.bool_]
    seq: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.streams)

    def lines(self) -> Iterable[ScoreLine]:
        """Stream by stream."""
        return map(self.line, range(len(self.streams)))

    def line(self, index: int) -> ScoreLine:
        """That of one stream."""
        seq = int(self.seq[index])
        return ScoreLine(
            self.streams[index],
            int(self.ts[index]),
            self.score[index],
            STATUS[self.status[index]],
            bool(self.alarm[index]),
            None if seq == NO_SEQ else seq,
        )


def counted(seq: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Counts ``[sample]`` as a `Block` has them: None if there is none at all."""
    return seq if bool((seq != NO_SEQ).any()) else None


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


class Evicted(NamedTuple):
    """A stream was forgotten because it was silent for long; its next sample starts afresh.

    Attributes:
        stream: Its name.
        last_ts: Nanoseconds of its newest sample. One that is not after it would have been refused
            and is now taken for the first of a new stream.
        unscored: Samples whose score will never come, because the model looks ahead or the reorder
            window still held them.
    """

    stream: str
    last_ts: int
    unscored: int


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that one call of `Pipeline.process` decided.

    Attributes:
        scored: Streams in order of first arrival.
        flags: In the same order.
        rejected: What was refused.
        resets: Which streams started afresh.
        admitted: The samples that were not refused before the model saw them, in the order in which
            they came, a reorder window not yet applied. Processed again from the same state, with
            no clock, they give the same result and the same state. The blocks of a device without a
            clock are whole messages, and must stay so: each is one entry of the memory by which
            duplicates are known.
        abreast: What became of the samples that were scored side by side.
        admitted_abreast: Those samples. They were admitted before all blocks.
    """

    scored: list[Scored]
    flags: list[Flag]
    rejected: list[Rejected]
    resets: list[Reset]
    admitted: list[Block] = field(default_factory=list)
    abreast: list[ScoredAbreast] = field(default_factory=list)
    admitted_abreast: list[Abreast] = field(default_factory=list)

    @property
    def parts(self) -> "list[ScoredAbreast | Scored]":
        """All that was scored, side by side or stream by stream."""
        return [*self.abreast, *self.scored]
