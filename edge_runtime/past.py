"""What a replay of the journal gives, gathered for people: series, and a flag's reasons."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import Contract
from edge_runtime.errors import StoreError
from edge_runtime.recorder import RecordedFlag, Recorder, Wanted
from edge_runtime.recovery import Run
from edge_runtime.reorder import Key
from edge_runtime.replay import Readings
from edge_runtime.results import NO_SEQ, STATUS, Result, Scored
from edge_runtime.session import Float32, Session
from edge_runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Span:
    """A time, both ends included, in nanoseconds since 1970 UTC.

    Attributes:
        since: None for the beginning.
        until: None for the end.
    """

    since: int | None = None
    until: int | None = None

    def within(self, ts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the times lie inside."""
        inside = np.ones(len(ts), np.bool_)
        if self.since is not None:
            inside &= ts >= self.since
        if self.until is not None:
            inside &= ts <= self.until
        return inside

    def is_over(self, run: Run) -> bool:
        """Whether all of a run is later; what comes behind it is so too, but for a late sample."""
        return self.until is not None and all((b.ts > self.until).all() for b in run.blocks)

    def of(self, result: Result) -> Result:
        """What a result says of this time."""
        scored = [self._of_scored(one) for one in result.scored]
        return Result(
            [one for one in scored if len(one.ts)],
            [flag for flag in result.flags if self.within(np.array([flag.ts]))[0]],
            [],
            [reset for reset in result.resets if self.within(np.array([reset.ts]))[0]],
        )

    def _of_scored(self, scored: Scored) -> Scored:
        inside = self.within(scored.ts)
        return scored if inside.all() else scored.where(inside)


class _Part(NamedTuple):
    """Times and counts ``[sample]``, values ``[sample, feature]``."""

    ts: NDArray[np.int64]
    seq: NDArray[np.int64]
    values: Float32


@dataclass(slots=True)
class Samples:
    """Collects the samples of a replay, stream by stream."""

    span: Span
    _parts: dict[str, list[_Part]] = field(default_factory=dict)

    def add(self, run: Run) -> None:
        """Takes one more group."""
        for block in run.blocks:
            inside = self.span.within(block.ts)
            if inside.any():
                seq = _counts(block.ts, block.seq)
                part = _Part(block.ts[inside], seq[inside], block.values[inside])
                self._parts.setdefault(block.stream, []).append(part)

    def readings(self) -> list[Readings]:
        """As a recorded file would have given them; in order of time and count."""
        found = []
        for stream, parts in self._parts.items():
            ts, seq, values = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.lexsort((seq, ts))
            values = values[order].astype(np.float64)
            found.append(Readings(stream, ts[order], values, None, seq[order]))
        return found


@dataclass(frozen=True, slots=True)
class Reasons:
    """What led to a flag.

    Attributes:
        flag: The flag as it was published.
        contract: Of its model.
        settings: That held when it was decided.
        readings: The samples around it.
        scored: What became of them, with each sensor's share in each score if the model gives it.
        at: Index of the sample that decided, in ``scored``.
    """

    flag: RecordedFlag
    contract: Contract
    settings: Settings
    readings: Readings
    scored: Scored
    at: int


def reasons_for(
    recorder: Recorder, flag: RecordedFlag, span_of: Callable[[int, Contract], Span]
) -> Reasons:
    """Runs the journal again around a flag.

    Args:
        recorder: Where it is from.
        flag: The flag.
        span_of: From the flag's time and the contract to what is to be shown.

    Raises:
        StoreError: If the journal does not reach back to it, or gives another score.
    """
    session = recorder.session(flag.pipeline)
    span = span_of(flag.ts, session.contract)
    wanted = Wanted(frozenset([flag.stream]), span.since, explain=True)
    samples, results = Samples(span), []
    settings: Settings | None = None
    for run in recorder.replay(flag.pipeline, wanted, session):
        samples.add(run)
        results.append(span.of(run.result))
        if any(one.id == flag.id for one in run.result.flags):
            settings = run.settings
        elif settings is not None and span.is_over(run):
            break
    scored = list(_scored(results))
    found = [f for result in results for f in result.flags if f.id == flag.id]
    if not found or settings is None:
        raise StoreError(
            f"{recorder.path}: the journal does not reach back to flag {flag.id} "
            "(see keep_h and max_mb)"
        )
    _require_same(recorder, session, flag, float(found[0].score))
    whole = _joined(scored)
    at = _keys(whole.ts, whole.seq).index((flag.ts, flag.message.get("seq", NO_SEQ)))
    return Reasons(flag, session.contract, settings, samples.readings()[0], whole, at)


def shortened(name: str, most: int) -> str:
    """A name with both its ends, of so many letters at most."""
    if len(name) <= most:
        return name
    end = most // 2
    return f"{name[: most - end - 1]}\N{HORIZONTAL ELLIPSIS}{name[-end:]}"


def most_telling(reasons: Reasons) -> list[str]:
    """Every sensor, those with the largest share in the score of the flag first."""
    top = [str(share["feature"]) for share in reasons.flag.message["top"]]
    names, shares = list(reasons.contract.feature_names), reasons.scored.contribution
    if shares is not None:
        names = [names[index] for index in np.argsort(-shares[reasons.at], kind="stable")]
    return [*top, *(name for name in names if name not in top)]


def _joined(parts: list[Scored]) -> Scored:
    shares = [part.contribution for part in parts if part.contribution is not None]
    return Scored(
        parts[0].stream,
        np.concatenate([part.ts for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.status for part in parts]),
        np.concatenate([part.alarm for part in parts]),
        np.concatenate([_counts(part.ts, part.seq) for part in parts]),
        contribution=np.concatenate(shares) if shares else None,
    )


def _keys(ts: NDArray[np.int64], seq: NDArray[np.int64] | None) -> list[Key]:
    """What tells samples of one stream apart: time and count."""
    return list(zip(ts.tolist(), _counts(ts, seq).tolist(), strict=True))


def _counts(ts: NDArray[np.int64], seq: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return np.full(len(ts), NO_SEQ) if seq is None else seq


def _scored(results: list[Result]) -> Iterator[Scored]:
    for result in results:
        yield from result.scored


def _require_same(recorder: Recorder, session: Session, flag: RecordedFlag, score: float) -> None:
    published = np.float32(str(flag.message["score"]))
    if np.float32(score) != published:
        raise StoreError(
            f"{recorder.path}: flag {flag.id} was published with the score {published}, the "
            f"journal gives {score:g} with model {session.digest[:16]} on this processor"
        )


class Row(NamedTuple):
    """One sample, for people and programs.

    Attributes:
        ts: Nanoseconds since 1970 UTC.
        score: Its score.
        status: Its status.
        alarm: Whether the lamp is lit.
        values: By sensor.
        shares: By sensor, in the score; empty if the model gives none.
        decided: It is the sample of the flag.
    """

    ts: int
    score: np.float32
    status: str
    alarm: bool
    values: dict[str, np.float32]
    shares: dict[str, np.float32]
    decided: bool


def rows_of(reasons: Reasons, before: int, after: int) -> Iterator[Row]:
    """The samples around the one that decided, one by one.

    Args:
        reasons: What led to a flag.
        before: How many before it at most.
        after: How many after it at most.
    """
    scored, readings, names = reasons.scored, reasons.readings, reasons.contract.feature_names
    row_at = {key: row for row, key in enumerate(_keys(readings.ts, readings.seq))}
    keys = _keys(scored.ts, scored.seq)
    shares = scored.contribution
    for index in range(max(0, reasons.at - before), min(len(scored.ts), reasons.at + after + 1)):
        row = row_at.get(keys[index])
        values = () if row is None else readings.values[row].astype(np.float32)
        yield Row(
            int(scored.ts[index]),
            scored.score[index],
            STATUS[scored.status[index]],
            bool(scored.alarm[index]),
            dict(zip(names, values, strict=False)),
            {} if shares is None else dict(zip(names, shares[index], strict=True)),
            index == reasons.at,
        )
