"""What a hybrid takes from a history beside the network's weights, and whether it keeps a network.

Each step rests on rows that the step before it did not see: the normaliser and the prior on those
that the weights see, the whitening on those and on the ones that decided when to stop, what is
usual and the alarm level on the calibration rows.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.adaptation import fit_prior
from train.data import History, Segment
from train.delays import boxcars
from train.horizons import Horizons, negative_log_likelihood
from train.hybrid import WINDOW, Hybrid
from train.multiscale import SPANS, root
from train.scoring import WhiteningFit, fit_whitening, shrunk_covariance, whitening_of
from train.whole import Run, as_tensor, over_whole
from train.windows import Piece

ERROR_WEIGHT = 20.0
"""Samples that the mean forecast error of all streams, which is none, weighs beside a stream's."""
SKILL = 0.15
"""Nats a sensor by which a network must beat the distribution of the data, or be left out."""
LEAST_DEVIATION = 1e-3
"""Of a member's fourth root; one that never moved would turn rounding noise into alarms."""


def fit_adaptation(hybrid: Hybrid, history: History) -> None:
    """How much streams differ, from the rows that the weights see, in place."""
    mean, scale = hybrid.mean.double().numpy(), hybrid.scale.double().numpy()
    rows: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for segment in history.segments:
        fit = segment.values[slice(*segment.rows("fit"))]
        if len(fit):
            rows[segment.stream].append((fit - mean) / scale)
    hybrid.adaptation.set(fit_prior([np.concatenate(parts) for parts in rows.values()], WINDOW))
    if hybrid.network is not None and len(rows) > 1:
        hybrid.error_adaptation.set_location(ERROR_WEIGHT)


def bounded_segments(hybrid: Hybrid, segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The history as the network is shown it."""
    xs = [as_tensor(segment.values) for segment in segments]
    found = over_whole(hybrid.samples, hybrid.initial_state, xs)
    return tuple(
        replace(segment, values=u.double().numpy())
        for segment, u in zip(segments, found, strict=True)
    )


def usual_likelihood(segments: Sequence[Segment], parts: Sequence[Piece]) -> float:
    """What a network has to beat: every sensor's own distribution, fitted where the weights look.

    Args:
        segments: Bounded.
        parts: What validation counts, of the same segments.

    Returns:
        The cost of `train.horizons.Horizons` for a Student-t distribution that never changes, in
        nats.
    """
    fit = torch.from_numpy(np.concatenate([s.values[slice(*s.rows("fit"))] for s in segments]))
    due = torch.from_numpy(np.concatenate([part.values[part.first :] for part in parts]))
    middle = fit.median(dim=0).values
    scales = torch.logspace(-2, 0.5, 60, dtype=fit.dtype)
    w = (scales - 1 / scales) / 2  # whose `positive` is the scale
    costs = torch.stack([negative_log_likelihood(fit, middle, each).mean(dim=0) for each in w])
    best = w[costs.argmin(dim=0)]  # [feature]
    return float(negative_log_likelihood(due, middle, best).mean())


StandIns = Mapping[str, Horizons]
"""For each stream a network that was trained on others; empty where there is one stream."""


def halves(segments: Sequence[Segment]) -> list[frozenset[str]]:
    """Streams in two groups, every second one; none where there is one stream."""
    streams = list(dict.fromkeys(segment.stream for segment in segments))
    groups = [frozenset(streams[k::2]) for k in range(2)]
    return groups if all(groups) else []


def as_unseen(
    hybrid: Hybrid,
    segments: Sequence[Segment],
    run: Callable[[Hybrid], Run],
    stand_ins: StandIns,
) -> list[Tensor]:
    """Runs over whole segments, each with a network that has not seen its stream.

    A network knows the streams that it was trained on. On one that it has not seen its errors are
    larger, and a limit that rests on those it knows would be too low (cross-fitting: Chernozhukov
    et al. 2018, section 3).

    Args:
        hybrid: With the network that has seen all of them.
        segments: The history.
        run: What to run, of a hybrid.
        stand_ins: Of each stream.

    Returns:
        What was made of each segment, in order.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for at, segment in enumerate(segments):
        groups[id(stand_ins.get(segment.stream))].append(at)
    found: dict[int, Tensor] = {}
    for members in groups.values():
        stand_in = stand_ins.get(segments[members[0]].stream)
        itself = hybrid
        if stand_in is not None and hybrid.network is not None:
            itself = deepcopy(hybrid)
            itself.network = stand_in
        xs = [as_tensor(segments[at].values) for at in members]
        found.update(zip(members, over_whole(run(itself), itself.initial_state, xs), strict=True))
    return [found[at] for at in range(len(segments))]


def fit_members(hybrid: Hybrid, history: History, warm: int, stand_ins: StandIns) -> float:
    """Whitens every member and says what is usual of it, in place.

    Args:
        hybrid: With its prior and its network.
        history: What it was trained on.
        warm: Rows after a cold start that do not count.
        stand_ins: See `as_unseen`.

    Returns:
        The largest shrinkage of a correlation.
    """
    segments = history.segments
    signals = as_unseen(hybrid, segments, _signals, stand_ins)  # each [row, signal * feature]
    known = [_rows(s, SPANS[-1], s.validation_rows) for s in segments]
    unseen = [_rows(s, max(warm, s.validation_rows), len(s.values)) for s in segments]
    scoring, shrinkage = hybrid.scoring, 0.0
    sums = [_sums(signal) for signal in signals]  # each [span, row, signal * feature]
    for at, span in enumerate(SPANS):
        for k in range(scoring.signals):
            columns = slice(k * scoring.features, (k + 1) * scoring.features)
            streams: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
            for segment, total, rows in zip(segments, sums, known, strict=True):
                average = total[at, rows, columns].double().numpy() / span
                streams[segment.stream].append(average)
            fit = whiten_streams([np.concatenate(parts) for parts in streams.values()])
            scoring.mean[at, columns] = torch.from_numpy(fit.mean)
            scoring.matrix[at * scoring.signals + k] = torch.from_numpy(fit.matrix)
            shrinkage = max(shrinkage, fit.shrinkage)
    scoring.deviation.fill_(1.0)  # the unit of components, until it is known
    rooted = []
    for total, rows in zip(sums, unseen, strict=True):
        squared = [z * z for z in scoring.components(total[:, rows].unbind())]
        rooted.append(root(scoring.distances(squared).double()))
    usual = torch.cat(rooted)  # [row, member]
    scoring.centre.copy_(usual.mean(dim=0).reshape(-1, 1, 1))
    scoring.deviation.copy_(usual.std(dim=0).clamp(min=LEAST_DEVIATION).reshape(-1, 1, 1))
    return shrinkage


def whiten_streams(streams: Sequence[NDArray[np.float64]]) -> WhiteningFit:
    """Whitens what a stream that nobody has seen would show: within streams, and between them.

    A few streams say little about how streams differ, so the covariance of their means is shrunk
    towards none (OAS, with as many samples as there are streams less one) and is that of a new
    stream's mean, ``1 + 1 / streams`` times as large.

    Args:
        streams: Normal rows of each ``[row, feature]``; those without any are left out.

    Returns:
        What `train.scoring.Whitening` needs.
    """
    streams = [rows for rows in streams if len(rows)]
    every = np.concatenate(streams)
    if len(streams) < 2:  # noqa: PLR2004 - one beside another
        return fit_whitening(every)
    means = np.stack([rows.mean(axis=0) for rows in streams])  # [stream, feature]
    around = np.concatenate([rows - mean for rows, mean in zip(streams, means, strict=True)])
    within, _ = shrunk_covariance(around)
    between, shrinkage = shrunk_covariance(means - means.mean(axis=0), taken=1)
    covariance = within + (1 + 1 / len(streams)) * between
    return whitening_of(every.mean(axis=0), covariance, shrinkage)


def _signals(hybrid: Hybrid) -> Run:
    return hybrid.signals


def _sums(signal: Tensor) -> Tensor:
    """``[row, n] -> [span, row, n]``, from a cold start."""
    carried = signal.new_zeros(SPANS[-1] - 1, signal.shape[1])
    return torch.stack(boxcars(carried, signal, SPANS)[0])


def _rows(segment: Segment, first: int, stop: int) -> slice:
    stop = min(stop, len(segment.values))
    return slice(min(first, stop), stop)
