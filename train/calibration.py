"""Where the alarm level comes from: normal operation that the weights never saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from edge_runtime.errors import TrainingError
from train import loop
from train.charts import TAPS, Chart
from train.data import CALIBRATION_SHARE, History, Notice, Segment, Use
from train.detector import Detector
from train.detectors import AnyDetector
from train.false_alarms import Level, advice, choose_level
from train.fitting import StandIns, as_unseen, fit_members
from train.hybrid import WARM_UP, Hybrid
from train.lamp import Lamp
from train.scoring import fit_whitening
from train.trees import Trees
from train.whole import as_tensor, over_whole
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
LEAST_CALIBRATION_ROWS = 30
EVALUATION_WINDOW, EVALUATION_LANES = 256, 64


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibrate` found.

    Attributes:
        level: The alarm level and what it rests on.
        shrinkage: Part of a correlation that was replaced by none, 0 to 1; the largest of several.
        warm_up_steps: Samples after a cold start whose score does not count.
        levels: Of the calibration samples, ``[sample]``.
    """

    level: Level
    shrinkage: float
    warm_up_steps: int
    levels: NDArray[np.float64]


def calibrate(
    detector: AnyDetector,
    history: History,
    per_day: float,
    on_notice: Notice,
    stand_ins: StandIns = MappingProxyType({}),
) -> Calibration:
    """Fits the scoring and chooses the alarm level, in place.

    Each segment is run from its first sample on, as a gateway would; the calibration rows count.

    Args:
        detector: Trained.
        history: What it was trained on.
        per_day: False alarms asked for, in episodes per day and machine.
        on_notice: Told what the figures do not support.
        stand_ins: For each stream a network that has not seen it; only of a hybrid.

    Returns:
        The figures.
    """
    warm_up_steps, shrinkage = _fit_scoring(detector, history, on_notice, stand_ins)
    ahead = detector.look_ahead
    warm = max(WARM_ROWS, warm_up_steps)
    require_calibration_rows(history, warm, ahead)
    if isinstance(detector, Hybrid):
        found = as_unseen(detector, history.segments, lambda one: one.level, stand_ins)
    else:
        xs = [as_tensor(segment.values) for segment in history.segments]
        found = over_whole(detector.level, detector.initial_state, xs)  # each [row]
    levels = [level[ahead:].double().numpy() for level in found]
    counts = []
    for segment, level in zip(history.segments, levels, strict=True):
        due = np.arange(len(level))
        counts.append((due >= segment.validation_rows) & (due >= warm))
    lamp = Lamp(detector.leaves)
    chosen = choose_level(levels, counts, per_day, history.period_ms, lamp)
    detector.set_limit(chosen.distance)
    sentence = advice(chosen, per_day, CALIBRATION_SHARE)
    if sentence:
        on_notice(sentence)
    counted = [level[count] for level, count in zip(levels, counts, strict=True)]
    return Calibration(chosen, shrinkage, warm_up_steps, np.concatenate(counted))


def _fit_scoring(
    detector: AnyDetector, history: History, on_notice: Notice, stand_ins: StandIns
) -> tuple[int, float]:
    """What is usual, in place; gives the warm-up and the shrinkage."""
    if isinstance(detector, Detector):
        seen = evaluation(history.segments, "validation", WARM_ROWS, detector.look_ahead)
        whitening = fit_whitening(loop.errors(detector, seen))
        for name, floored in zip(history.features, whitening.floored, strict=True):
            if floored:
                on_notice(
                    f"{name} was foretold within a hundredth of its deviation; counted as such"
                )
        detector.scoring.set(whitening, 1.0)
        return measure_warm_up(detector, history.segments, on_notice), whitening.shrinkage
    if isinstance(detector, Hybrid):
        require_calibration_rows(history, WARM_UP)
        return WARM_UP, fit_members(detector, history, WARM_UP, stand_ins)
    if isinstance(detector, Trees):
        return detector.trees.window, 0.0
    return TAPS if detector.smooths else 1, _fit_chart(detector, history)


def _fit_chart(chart: Chart, history: History) -> float:
    """Whitens what is charted, by the rows that a network's weights and stopping would rest on."""
    if not chart.whitens:
        return 0.0
    xs = [as_tensor(segment.values) for segment in history.segments]
    charted = over_whole(chart.charted, chart.initial_state, xs)
    rows = [
        part[TAPS : segment.validation_rows].double().numpy()
        for part, segment in zip(charted, history.segments, strict=True)
    ]
    whitening = fit_whitening(np.concatenate(rows))
    chart.scoring.set(whitening, 1.0)
    return whitening.shrinkage


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
