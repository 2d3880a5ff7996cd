"""Several detectors over the same scenes: the way in for other modules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_runtime.errors import AndonError, ConfigError
from edge_runtime.payload import NS_PER_MS
from edge_runtime.recorded import RecordedStream
from edge_runtime.session import Session, load_model
from evaluate.causal import Causality, check_causal
from evaluate.judge import Scorer, Series, readings_for, run_model, run_scorer
from evaluate.metrics import Figures, Tally, figures, mean_figures, require_aeon, tally, total
from evaluate.scenes import Scene, draw_scenes, whole_scenes
from evaluate.settings import Settings
from evaluate.yardsticks import YARDSTICKS

Progress = Callable[[int], object]
"""Told how many of the streams to judge are done since the last call."""


class NotCausalError(AndonError):
    """A detector whose scores depend on what comes after them."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One seed of a detector, the mean over all draws.

    Attributes:
        source: The model file; empty for what is none.
        figures: Over all streams.
        streams: Of each stream, by name.
    """

    source: str
    figures: Figures
    streams: Mapping[str, Figures]


class Spread(NamedTuple):
    """One figure over the seeds of a detector."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One detector.

    Attributes:
        name: Its name.
        seeds: What was found of each.
        model: Whether it is a model, and no yardstick or scorer.
        causality: What the check found, over all seeds; None if nothing was checked.
    """

    name: str
    seeds: tuple[Judged, ...]
    model: bool
    causality: Causality | None = None

    def spread(self, figure: str, stream: str | None = None) -> Spread | None:
        """A figure's mean, least and largest value over the seeds; None if none has it.

        Args:
            figure: Name of a field of `Figures`.
            stream: Of this stream; None for all of them.
        """
        found = (seed.figures if stream is None else seed.streams[stream] for seed in self.seeds)
        values = [value for each in found if (value := getattr(each, figure)) is not None]
        if not values:
            return None
        return Spread(float(np.mean(values)), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        settings: How.
        rows: The detectors in order, then the scorers.
        streams: Names, in order.
        without_vus: Why a stream has no VUS-PR, by name: no judged sample is labelled, or all are.
    """

    settings: Settings
    rows: tuple[Row, ...]
    streams: tuple[str, ...]
    without_vus: Mapping[str, str]


def evaluate_detectors(
    detectors: Mapping[str, Sequence[Session | Path]],
    recorded: Sequence[RecordedStream],
    settings: Settings,
    *,
    scorers: Mapping[str, Scorer] = YARDSTICKS,
    progress: Progress = lambda _: None,
) -> Report:
    """Judges detectors over the same recorded streams.

    Args:
        detectors: By name: one model, or several that differ only in their seed.
        recorded: The streams, with every model's sensors and the label column.
        settings: How to show and judge them.
        scorers: What is no model and is judged beside them, on the samples that count for the first
            seed of the first detector.
        progress: Told how many of the `work` are done.

    Returns:
        The figures of each detector and scorer.

    Raises:
        AndonError: If there is nothing to judge, a model is refused, or aeon is missing.
        NotCausalError: If a model's score depends on later samples.
        RecordedFileError: If a sensor or the label is missing in a stream.
    """
    _require_something(detectors, recorded, scorers)
    require_aeon()
    loaded = {
        name: [load_model(m) if isinstance(m, Path) else m for m in models]
        for name, models in detectors.items()
    }
    sources = {
        name: [str(m) if isinstance(m, Path) else m.digest[:16] for m in models]
        for name, models in detectors.items()
    }
    checked = _check_all(loaded, sources, recorded, settings) if settings.causality else {}
    jury = _Jury(settings, progress)
    for draw in range(settings.repeats):
        scenes = draw_scenes(recorded, settings, draw)
        like: list[Series] | None = None
        for name, sessions in loaded.items():
            for seed, session in enumerate(sessions):
                readings = readings_for(scenes, session.contract, settings.label)
                series = run_model(session, readings, settings.alarm)
                late = round(session.contract.delay_ms * NS_PER_MS)
                jury.judge((name, seed), scenes, series, draw, late)
                like = like or series
        for name, scorer in scorers.items():
            rng = _rng(settings, draw, name)
            series = run_scorer(scorer, scenes, like or [], settings.alarm, rng)
            jury.judge((name, 0), scenes, series, draw)
    rows = [
        Row(name, jury.seeds(name, sources[name]), model=True, causality=checked.get(name))
        for name in detectors
    ]
    rows += [Row(name, jury.seeds(name, [""]), model=False) for name in scorers]
    names = tuple(stream.name for stream in recorded)
    return Report(settings, tuple(rows), names, jury.without_vus(next(iter(detectors)), names))


def work(
    detectors: Mapping[str, Sequence[object]],
    recorded: Sequence[RecordedStream],
    settings: Settings,
    scorers: Mapping[str, Scorer] = YARDSTICKS,
) -> int:
    """How many streams `evaluate_detectors` judges, each draw of each seed anew."""
    seeds = sum(len(models) for models in detectors.values()) + len(scorers)
    return seeds * len(recorded) * settings.repeats


def _require_something(
    detectors: Mapping[str, Sequence[object]],
    recorded: Sequence[RecordedStream],
    scorers: Mapping[str, Scorer],
) -> None:
    problems = [f"{name}: wanted a model, got none" for name, some in detectors.items() if not some]
    if not detectors:
        problems.append("wanted a detector, got none")
    if not any(len(stream.ts) for stream in recorded):
        problems.append(f"wanted recorded rows, got none in {len(recorded)} streams")
    problems += [
        f"the name {n!r} is that of a row beside the models" for n in {*detectors} & {*scorers}
    ]
    if problems:
        raise ConfigError(problems)


def _rng(settings: Settings, draw: int, name: str) -> np.random.Generator:
    """Of one detector or scorer in one draw; whoever is judged beside it changes nothing."""
    return np.random.default_rng([settings.seed, draw, *name.encode(), 1])


def _check_all(
    loaded: Mapping[str, Sequence[Session]],
    sources: Mapping[str, Sequence[str]],
    recorded: Sequence[RecordedStream],
    settings: Settings,
) -> dict[str, Causality]:
    scenes = whole_scenes(recorded, settings)
    checked = {}
    for name, sessions in loaded.items():
        cuts = compared = 0
        for session, source in zip(sessions, sources[name], strict=True):
            readings = readings_for(scenes, session.contract, settings.label)
            found = check_causal(
                partial(run_model, session, alarm=settings.alarm),
                readings,
                np.random.default_rng(settings.seed),
            )
            if found.leak is not None:
                raise NotCausalError(f"{name} ({source}): {found.leak}")
            cuts, compared = cuts + found.cuts, compared + found.compared
        checked[name] = Causality(cuts, compared, None)
    return checked


class _Jury:
    """Counts, by detector and seed; one tally for each draw and stream."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._draws: dict[tuple[str, int], list[dict[str, Tally]]] = {}

    def judge(
        self,
        whom: tuple[str, int],
        scenes: Sequence[Scene],
        series: Sequence[Series],
        draw: int,
        late_ns: int = 0,
    ) -> None:
        """Counts one draw."""
        rng = _rng(self._settings, draw, whom[0])
        counted = {}
        for scene, its in zip(scenes, series, strict=True):
            counted[scene.name] = tally(scene, its, self._settings, rng, late_ns)
            self._progress(1)
        self._draws.setdefault(whom, []).append(counted)

    def seeds(self, name: str, sources: Sequence[str]) -> tuple[Judged, ...]:
        """The figures of each seed."""
        return tuple(
            self._judged(source, self._draws[name, seed]) for seed, source in enumerate(sources)
        )

    def _judged(self, source: str, draws: Sequence[Mapping[str, Tally]]) -> Judged:
        return Judged(
            source,
            mean_figures(figures(total(draw.values())) for draw in draws),
            {name: mean_figures(figures(draw[name]) for draw in draws) for name in draws[0]},
        )

    def without_vus(self, name: str, streams: Sequence[str]) -> dict[str, str]:
        """Streams that have no VUS-PR in any draw of a detector's first seed, and why."""
        draws = self._draws[name, 0]
        return {
            stream: "all labelled" if draws[0][stream].labelled else "no label"
            for stream in streams
            if not any(draw[stream].vus for draw in draws)
        }
