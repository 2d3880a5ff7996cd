"""Where the alarm level comes from: normal operation that the weights never saw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edge_runtime.errors import TrainingError
from train import loop
from train.data import CALIBRATION_SHARE, History, Notice, Segment, Use
from train.detector import Detector
from train.scoring import WhiteningFit, fit_whitening
from train.windows import Windows, lay_out, pieces

# Rows that run before the first one that counts, until the memory of a cell has been measured.
WARM_ROWS = 64
# A cold start is over when the score is this near to that of a state which has always been warm ...
WARM_TOLERANCE = 0.05
# ... in this share of the starts tried ...
WARM_SHARE = 0.95
# ... of which there are this many, each over this many rows at most.
WARM_STARTS, WARM_HORIZON = 64, 256
# A clock inside wants full turns of it: no more rows than this, which bounds the memory, and enough
# beyond the look-ahead to compare.
LONGEST_HORIZON, LEAST_COMPARED = 2048, 32
# A limit so low is rounding noise: the sensors stood still. In deviations of the normal error.
LOWEST_LIMIT = 0.1
LEAST_CALIBRATION_ROWS = 30
EVALUATION_WINDOW, EVALUATION_LANES = 256, 64
SECONDS_PER_DAY = 86_400


class Limit(NamedTuple):
    """The alarm level and what it rests on.

    Attributes:
        distance: What scores 1.0.
        above: Calibration samples that score more.
        quantile: The asked-for quantile of the distances.
        supported_per_day: The lowest rate of false alarms that so many samples can show.
    """

    distance: float
    above: int
    quantile: float
    supported_per_day: float


def choose_limit(distances: NDArray[np.float64], per_day: float, period_ms: float) -> Limit:
    """The distance that normal operation exceeds at the rate asked for, or the largest seen.

    At ``per_day`` false alarms a day a sample may exceed it with probability ``p = per_day *
    period / day``. Of n samples ``floor(n p)`` may; that is none, and the largest distance the
    limit, when n is too small for the rate.

    Args:
        distances: Of normal samples, ``[sample]``, at least one.
        per_day: Rate asked for, in samples per day and stream.
        period_ms: Time between two samples of a stream.

    Returns:
        The limit.
    """
    samples = len(distances)
    probability = min(1.0, per_day * period_ms / 1000 / SECONDS_PER_DAY)
    # The guard against rounding: 864 of 86,400 samples are 864, not 863.
    allowed = min(math.floor(samples * probability + 1e-9), samples - 1)
    distance = max(float(np.sort(distances)[samples - 1 - allowed]), LOWEST_LIMIT)
    return Limit(
        distance=distance,
        above=int(np.sum(distances > distance)),
        quantile=1 - probability,
        supported_per_day=SECONDS_PER_DAY * 1000 / (samples * period_ms),
    )


def advice(limit: Limit, samples: int, per_day: float, history: History) -> str | None:
    """One sentence for when the data cannot support the rate asked for, else None."""
    if limit.supported_per_day <= per_day * (1 + 1e-9):
        return None
    needed = SECONDS_PER_DAY * 1000 / (per_day * history.period_ms)  # samples to calibrate on
    more = history.hours(math.ceil((needed - samples) / CALIBRATION_SHARE))
    supported = math.ceil(limit.supported_per_day)
    return (
        f"asked for a false-alarm rate of {per_day:g} a day; {history.hours(samples):.1f} h of "
        f"calibration data support {supported:,} a day, and the alarm level is the largest "
        f"distance in them. Record about {more:,.0f} more hours of normal operation, or accept "
        f"--false-alarms-per-day {supported}"
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibrate` found.

    Attributes:
        limit: The alarm level.
        whitening: Mean and matrix of the errors.
        warm_up_steps: Samples after a cold start whose score does not count.
        distances: Of the calibration samples, ``[sample]``.
    """

    limit: Limit
    whitening: WhiteningFit
    warm_up_steps: int
    distances: NDArray[np.float64]


def calibrate(
    detector: Detector, history: History, per_day: float, on_notice: Notice
) -> Calibration:
    """Fits the scoring, in place: covariance on validation errors, limit on calibration errors.

    Args:
        detector: Trained.
        history: What it was trained on.
        per_day: False alarms asked for, in samples per day and stream.
        on_notice: Told what the figures do not support.

    Returns:
        The figures.
    """
    ahead = detector.look_ahead
    seen = evaluation(history.segments, "validation", WARM_ROWS, ahead)
    errors = loop.errors(detector, seen)
    whitening = fit_whitening(errors)
    for name, floored in zip(history.features, whitening.floored, strict=True):
        if floored:
            on_notice(f"{name} was foretold within a hundredth of its deviation; counted as such")
    detector.scoring.set(whitening, 1.0)
    warm_up_steps = measure_warm_up(detector, history.segments, on_notice)
    warm = max(WARM_ROWS, warm_up_steps)
    require_calibration_rows(history, warm, ahead)
    unseen = evaluation(history.segments, "calibration", warm, ahead)
    distances = _distances(detector, unseen)
    limit = choose_limit(distances, per_day, history.period_ms)
    detector.scoring.set(whitening, limit.distance)
    sentence = advice(limit, len(distances), per_day, history)
    if sentence:
        on_notice(sentence)
    return Calibration(limit, whitening, warm_up_steps, distances)


def require_calibration_rows(history: History, warm: int, look_ahead: int = 0) -> None:
    """Refuses a history in which the warm-up leaves too little to calibrate on.

    Raises:
        TrainingError: With what there is and what is wanted.
    """
    parts = pieces(history.segments, "calibration", 1, warm, look_ahead)
    rows = sum(len(part.values) - part.first - look_ahead for part in parts)
    if rows < LEAST_CALIBRATION_ROWS:
        raise TrainingError(
            f"too little data to calibrate: wanted at least {LEAST_CALIBRATION_ROWS} samples, got "
            f"{rows}. This network warms up for {warm} samples, which do not count after a gap: "
            "record without gaps for longer, or choose a network that remembers less"
        )


@torch.no_grad()
def measure_warm_up(detector: Detector, segments: Sequence[Segment], on_notice: Notice) -> int:
    """After how many samples a cold start no longer shows in the score.

    Many stretches are scored twice, once from a state that has run for as long before and once
    from a cold one, and their distances compared with what is normal for the warm ones.

    Args:
        detector: With its whitening and a limit of 1.
        segments: The history.
        on_notice: Told when the cell remembers for longer than was tried.

    Returns:
        Samples whose score does not count, at least one.
    """
    ahead = detector.look_ahead
    cycle = lcm(*(cell.cycle for cell in detector.cells))
    most = max(len(segment.values) for segment in segments) // 2
    # A cold start never falls in step with a clock inside, but after a full turn of it.
    horizon = min(-(-(WARM_HORIZON + ahead) // cycle) * cycle, most // cycle * cycle)
    if horizon > LONGEST_HORIZON or horizon - ahead < min(LEAST_COMPARED, most - ahead):
        horizon = min(WARM_HORIZON + ahead, most)
        on_notice(
            f"the clock of this network turns over only after {cycle} samples, too many to "
            "be tried here: the warm-up is a guess"
        )
    # In segment k a stretch can begin at each of so many rows.
    room = [max(0, len(segment.values) - 2 * horizon + 1) for segment in segments]
    ends = np.cumsum(room)
    picked = np.unique(np.linspace(0, ends[-1] - 1, WARM_STARTS).round().astype(int))
    stretches = []
    for at in picked:
        k = int(np.searchsorted(ends, at, side="right"))
        row = at - (ends[k] - room[k])
        stretches.append(segments[k].values[row : row + 2 * horizon])
    x = torch.from_numpy(np.stack(stretches, axis=1)).float()  # [2 * horizon, start, feature]
    warm, _, _ = detector(x, detector.initial_state(len(picked)))  # [2 * horizon, start]
    cold, _, _ = detector(x[horizon:], detector.initial_state(len(picked)))  # [horizon, start]
    # With a look-ahead the first scores of a cold start are about no sample.
    warm, cold = warm[horizon + ahead :], cold[ahead:]  # [horizon - ahead, start]
    usual = warm if detector.target is None else (warm - warm.median()).abs()
    apart = (cold - warm).abs() > WARM_TOLERANCE * torch.quantile(usual.flatten(), 0.99)
    (differs,) = np.nonzero((apart.float().mean(dim=1) > 1 - WARM_SHARE).numpy())
    steps = int(differs[-1]) + 1 if len(differs) else 1
    if steps == len(warm):
        on_notice(
            f"a cold start still shows after {steps} samples, the longest stretch that could be "
            "tried; warm-up ends there all the same"
        )
    return steps


def evaluation(segments: Sequence[Segment], use: Use, warm: int, look_ahead: int = 0) -> Windows:
    """The windows that count for validation or calibration, warmed up."""
    parts = pieces(segments, use, EVALUATION_LANES, warm, look_ahead)
    return lay_out(parts, EVALUATION_WINDOW, EVALUATION_LANES, look_ahead)


@torch.no_grad()
def _distances(detector: Detector, windows: Windows) -> NDArray[np.float64]:
    """Scores at a limit of 1, in the float32 that the exported model computes in."""
    errors = torch.from_numpy(loop.errors(detector, windows)).float()  # [sample, feature]
    score, _ = detector.scoring(errors.unsqueeze(1))  # [sample, 1]
    distances: NDArray[np.float64] = score.squeeze(1).double().numpy()
    return distances
