"""Recorded streams as the detectors are shown them: cropped and spliced at random.

A recording in which the fault always begins at the same row gives its answer away to whoever counts
rows. So rows are left out at its start, and healthy ones are inserted before its first event.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_runtime.recorded import RecordedStream
from evaluate.settings import Settings


@dataclass(frozen=True, slots=True)
class Scene:
    """One recorded stream as it is shown in one draw; every array is ``[row]``.

    Attributes:
        recorded: What the detectors are shown.
        label: True where something was wrong.
        judged: False for rows of the lead, and for copies of them.
        period_ns: Median time between two rows, in nanoseconds; 0 with fewer than two rows.
        origin: Number of the row in the recording.
    """

    recorded: RecordedStream
    label: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    period_ns: int
    origin: NDArray[np.int64]

    @property
    def name(self) -> str:
        """The stream's."""
        return self.recorded.name

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.label)


def draw_scenes(recorded: Sequence[RecordedStream], settings: Settings, draw: int) -> list[Scene]:
    """Shows every stream in one draw.

    What is drawn for a stream follows from the seed, the draw and its name, so it does not depend
    on the other streams or on the detectors.

    Args:
        recorded: What was read, with the label column.
        settings: Label, lead, crop, splice and seed.
        draw: Number of the draw, from 0.

    Returns:
        One scene for each stream, in order.

    Raises:
        RecordedFileError: If a stream has no such label column.
    """
    return [
        _scene(stream, settings, np.random.default_rng([settings.seed, draw, *_key(stream)]))
        for stream in recorded
    ]


def whole_scenes(recorded: Sequence[RecordedStream], settings: Settings) -> list[Scene]:
    """Shows every stream as it was recorded.

    Raises:
        RecordedFileError: If a stream has no such label column.
    """
    return draw_scenes(recorded, replace(settings, crop=0, splice=0, repeats=1), 0)


def _key(stream: RecordedStream) -> bytes:
    return stream.name.encode()


def _scene(stream: RecordedStream, settings: Settings, rng: np.random.Generator) -> Scene:
    label = np.nan_to_num(stream.column(settings.label)) != 0
    rows = len(label)
    onset = int(np.argmax(label)) if label.any() else rows
    # Drawn whether it fits or not, so that each number depends on the seed alone.
    shares = rng.random(4)
    crop = _up_to(min(settings.crop, onset, max(rows - 1, 0)), shares[0])
    earliest = max(settings.lead, crop)
    period = _period_ns(stream.ts)
    fits = earliest <= onset and period
    length = _up_to(min(settings.splice, onset), shares[1]) if fits else 0
    first = _up_to(onset - length, shares[2])
    place = earliest + _up_to(max(onset - earliest, 0), shares[3])
    inserted = np.arange(first, first + length)
    before, after = np.arange(crop, min(place, rows)), np.arange(max(place, crop), rows)
    origin = np.concatenate([before, inserted, after]).astype(np.int64)
    ts = stream.ts[origin]
    if length:
        at = len(before)
        begin = stream.ts[place] if place < rows else stream.ts[-1] + period
        ts[at : at + length] = begin + period * np.arange(length)
        ts[at + length :] += period * length
    shown = replace(stream, ts=ts, values=stream.values[origin])
    return Scene(shown, label[origin], origin >= settings.lead, period, origin)


def _up_to(most: int, share: float) -> int:
    """A number of 0 to ``most``, both included, for a share of 0 up to 1."""
    return int(share * (most + 1))


def _period_ns(ts: NDArray[np.int64]) -> int:
    steps = np.diff(ts)
    steps = steps[steps > 0]
    return int(np.median(steps)) if len(steps) else 0


def short_of(recorded: Sequence[RecordedStream], settings: Settings) -> list[str]:
    """What of the crops and splices asked for the streams have no room for, as sentences.

    Args:
        recorded: What was read, with the label column.
        settings: Label, lead, crop and splice.

    Returns:
        One sentence for each of: crops that end at the first label, splices that are shorter than
        asked for, and streams whose first label lies in the lead.

    Raises:
        RecordedFileError: If a stream has no such label column.
    """
    cropped, spliced, early = [], [], []
    for stream in recorded:
        label = np.nan_to_num(stream.column(settings.label)) != 0
        onset = int(np.argmax(label)) if label.any() else len(label)
        if settings.crop > onset:
            cropped.append(stream.name)
        if onset < settings.lead:
            early.append(stream.name)
        elif settings.splice > onset:
            spliced.append(stream.name)
    sentences = []
    if cropped:
        sentences.append(
            f"crop: fewer than {settings.crop} rows before the first label, so no more is left "
            f"out: {', '.join(cropped)}"
        )
    if spliced:
        sentences.append(
            f"splice: fewer than {settings.splice} rows before the first label, so no more is "
            f"inserted: {', '.join(spliced)}"
        )
    if early:
        sentences.append(
            f"lead: the first label, or the end, lies within its {settings.lead} rows; that event "
            f"is not judged and nothing is spliced in: {', '.join(early)}"
        )
    return sentences
