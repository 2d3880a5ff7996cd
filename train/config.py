"""One experiment: frozen dataclasses from TOML, with the command line's options on top."""

import dataclasses
import glob
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from edge_runtime.errors import ConfigError
from edge_runtime.tables import (
    Check,
    Problem,
    Table,
    above,
    at_least,
    below,
    between,
    show,
)
from train.cells import CELLS

DETECTORS = ("hybrid", "multiscale", "forecast", "t2", "mewma", "ewma", "halfspace")
"""What `andon train` can make of a history without a target; docs/quality.md compares them."""
WITH_NETWORK = frozenset({"hybrid", "forecast"})

OPTIONS = tuple(dict.fromkeys(option for kind in CELLS.values() for option in kind.options))
MOST_LOOK_AHEAD = 256  # each score costs as many steps of the backward stack


def _cell_problem(name: str) -> str | None:
    known = ", ".join(CELLS)
    return None if name in CELLS else f"wanted a cell, one of {known}; got {show(name)}"


def _detector_problem(name: str) -> str | None:
    known = ", ".join(DETECTORS)
    return None if name in DETECTORS else f"wanted a detector, one of {known}; got {show(name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Table):
    """The ``[model]`` table.

    Attributes:
        detector: One of `DETECTORS`; None: ``hybrid``, and ``forecast`` where something looks
            ahead or a target is read off.
        cell: A key of `train.cells.CELLS`; None: ``gru``.
        layers: Number of recurrent layers of that cell, or the cells by name, lowest layer first.
        hidden: Length of a hidden vector.
        look_ahead: Samples that a second, backward stack reads before a score leaves; 0: causal.
        squash: Of ``lstm``: ``"tanh"`` or ``"identity"``, of the cell's input and output.
        reset: Of ``gru``: ``"after"`` the product, as in PyTorch, or ``"before"``, as in the paper.
        periods: Of ``clockwork``: of each module, in samples, ascending.
        context: Of ``scrn``: length of the slow context; None: a quarter of ``hidden``.
        alpha: Of ``scrn``: what is kept of the context from one sample to the next.
    """

    detector: Annotated[str, Check(_detector_problem)] | None = None
    cell: Annotated[str, Check(_cell_problem)] | None = None
    layers: Annotated[int, at_least(1)] | tuple[str, ...] = 1
    hidden: Annotated[int, at_least(1)] = 64
    look_ahead: Annotated[int, between(0, MOST_LOOK_AHEAD)] = 0
    squash: Literal["tanh", "identity"] | None = None
    reset: Literal["after", "before"] | None = None
    periods: tuple[int, ...] | None = None
    context: Annotated[int, at_least(1)] | None = None
    alpha: Annotated[float, at_least(0), below(1)] | None = None

    @property
    def kind(self) -> str:
        """The detector, where nothing is read off."""
        return self.detector or ("forecast" if self.look_ahead else "hybrid")

    @property
    def cells(self) -> tuple[str, ...]:
        """The cell of each layer, lowest first."""
        if isinstance(self.layers, tuple):
            return self.layers
        return (self.cell or "gru",) * self.layers

    @property
    def options(self) -> dict[str, Any]:
        """What is said about the cells beside their width."""
        given = {name: getattr(self, name) for name in OPTIONS}
        return {name: value for name, value in given.items() if value is not None}

    def _layers_are_cells(self) -> Iterator[Problem]:
        if not isinstance(self.layers, tuple):
            return
        if not self.layers:
            yield Problem(("layers",), "wanted at least one cell, got none")
        for at, name in enumerate(self.layers):
            complaint = _cell_problem(name)
            if complaint is not None:
                yield Problem((("layers", at),), complaint)
        if self.cell is not None:
            yield Problem(("cell",), "layers names the cells already: leave one of the two out")

    def _options_are_of_its_cells(self) -> Iterator[Problem]:
        for option in self.options:
            takers = [name for name, kind in CELLS.items() if option in kind.options]
            if not set(takers) & set(self.cells):
                text = f"belongs to {' and '.join(takers)}, the layers are {', '.join(self.cells)}"
                yield Problem((option,), text)

    def _cells_are_possible(self) -> Iterator[Problem]:
        for name in dict.fromkeys(name for name in self.cells if name in CELLS):
            kind = CELLS[name]
            own = {key: value for key, value in self.options.items() if key in kind.options}
            reason = kind.impossible(self.hidden, **own)
            if reason is not None:
                at = "hidden" if "got hidden =" in reason else next(iter(own))
                yield Problem((at,), f"{name}: {reason}")

    relations = (_layers_are_cells, _options_are_of_its_cells, _cells_are_possible)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(Table):
    """The ``[training]`` table.

    Attributes:
        window: Steps through which the gradient flows back; the state is carried beyond.
        lanes: Stretches of the history that are trained on side by side; None: by its length.
        epochs: Passes over the history at most.
        patience: Passes without a better validation loss after which training stops.
        learning_rate: Of Adam.
        cost: ``"squared_error"``, or ``"cross_entropy"`` for a target that has a few values.
        clip_value: Each element of the gradient is held at plus or minus this; None: not at all.
        clip_norm: A gradient with a larger norm is scaled down to it, after that; 0: not at all.
        seed: Of the initial weights, and of the noise that a hybrid is trained with.
    """

    window: Annotated[int, at_least(2)] = 32
    lanes: Annotated[int, at_least(1)] | None = None
    epochs: Annotated[int, at_least(1)] = 60
    patience: Annotated[int, at_least(1)] = 8
    learning_rate: Annotated[float, above(0), between(0, 1)] = 3e-3
    cost: Literal["squared_error", "cross_entropy"] = "squared_error"
    clip_value: Annotated[float, above(0)] | None = None
    clip_norm: Annotated[float, at_least(0)] = 1.0
    seed: Annotated[int, at_least(0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesConfig(Table):
    """One ``[[data.files]]`` table.

    Attributes:
        path: A file or a pattern such as ``valve1/*.csv``, relative to the TOML file's folder.
        first_rows: Take only this many rows from the start of each stream; None: all.
    """

    path: str
    first_rows: Annotated[int, at_least(1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(Table):
    """The ``[data]`` table.

    Attributes:
        files: Where the history of normal operation lies.
        time_column: None: found by itself.
        stream_column: Names the stream of each row; None: each file is a stream.
        ignore: Columns that are no sensors; one that does not exist is no error.
        features: The sensors to use; empty: every numeric column that all streams have.
        target: Column to be read off the sensors; None: the sensors' own next values are foretold.
        period_ms: Time between two samples; None: the median of the history.
        max_gap_ms: A longer silence cuts a stream; None: five sample periods.
    """

    files: tuple[FilesConfig, ...] = ()
    time_column: str | None = None
    stream_column: str | None = None
    ignore: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    target: str | None = None
    period_ms: Annotated[float, above(0)] | None = None
    max_gap_ms: Annotated[float, above(0)] | None = None

    def _gap_over_period(self) -> Iterator[Problem]:
        if self.max_gap_ms is not None and self.max_gap_ms < (self.period_ms or 0.0):
            text = f"must not be below period_ms, got {self.max_gap_ms} < {self.period_ms}"
            yield Problem(("max_gap_ms",), text)

    def _target_is_no_sensor(self) -> Iterator[Problem]:
        if self.target is not None and self.target in (*self.features, *self.ignore):
            yield Problem(("target",), f"{show(self.target)} is also a feature or ignored")

    relations = (_gap_over_period, _target_is_no_sensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig(Table):
    """The ``[calibration]`` table.

    Attributes:
        false_alarms_per_day: How often the lamp of a healthy machine may go on; 1/7: once a week.
    """

    false_alarms_per_day: Annotated[float, above(0)] = 1 / 7


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig(Table):
    """One ``[[feature]]`` table: what is known about a sensor beside its history.

    Attributes:
        name: Its column.
        unit: For people.
        low: Lowest plausible value; a sample below it is uncertain to the gateway.
        high: Highest plausible value.
    """

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def _low_below_high(self) -> Iterator[Problem]:
        if self.low is not None and self.high is not None and self.low >= self.high:
            yield Problem(("low",), f"must be below high, got {self.low} >= {self.high}")

    relations = (_low_below_high,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Table):
    """One experiment; every table may be left out."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    feature: tuple[FeatureConfig, ...] = ()

    def _classes_need_a_target(self) -> Iterator[Problem]:
        if self.training.cost == "cross_entropy" and self.data.target is None:
            text = "tells a target's values apart: name its column (target in [data], --target)"
            yield Problem(("training", "cost"), f'"cross_entropy" {text}')

    relations = (_classes_need_a_target,)


Section = TypeVar("Section", ModelConfig, TrainingConfig, DataConfig, CalibrationConfig)


class Files(NamedTuple):
    """Files, or folders of them, that are read in the same way."""

    paths: tuple[Path, ...]
    first_rows: int | None = None


def override(config: TrainConfig, options: Mapping[str, Any]) -> TrainConfig:
    """Puts options in the place of what the file says.

    Args:
        config: From the file, or the defaults.
        options: By key; no key stands in two tables. None and empty ones were not given.

    Returns:
        The configuration that holds.

    Raises:
        ConfigError: For a value that its table refuses.
    """
    given = {key: value for key, value in options.items() if value not in (None, ())}
    given = {**_displaced(config.model, given), **given}
    changed = {
        name: _changed(getattr(config, name), given)
        for name in ("model", "training", "data", "calibration")
    }
    with _without_name(config):
        return dataclasses.replace(config, **changed)


def find_files(data: DataConfig, root: Path) -> list[Files]:
    """Resolves the patterns of ``[[data.files]]``.

    Args:
        data: With at least one entry.
        root: The folder that the patterns are relative to.

    Returns:
        The files of each entry, in order of their names.

    Raises:
        ConfigError: With every entry that no file matches.
    """
    found = [Files(_matches(root, entry.path), entry.first_rows) for entry in data.files]
    problems = [
        f"[[data.files]] {number} path: no file matches {entry.path!r} in {root}"
        for number, (entry, files) in enumerate(zip(data.files, found, strict=True), start=1)
        if not files.paths
    ]
    if problems:
        raise ConfigError(problems)
    return found


def _changed(table: Section, given: Mapping[str, Any]) -> Section:
    """The table with those of the given values whose keys are its own."""
    keys = [field.name for field in dataclasses.fields(table) if field.name in given]
    with _without_name(table):
        return dataclasses.replace(table, **{key: given[key] for key in keys})


def _displaced(model: ModelConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says about cells that the options put others in the place of."""
    changes: dict[str, Any]
    if isinstance(given.get("layers"), tuple) and "cell" not in given:
        kinds, changes = given["layers"], {"cell": None}
    elif "cell" in given:
        kinds = (given["cell"],)
        changes = {"layers": 1} if isinstance(model.layers, tuple) else {}
    else:
        return {}
    takes = {option for kind in kinds if kind in CELLS for option in CELLS[kind].options}
    return {**changes, **dict.fromkeys(option for option in OPTIONS if option not in takes)}


@contextmanager
def _without_name(table: Table) -> Iterator[None]:
    """Has problems read as options: what stands in a file was checked when the file was read."""
    try:
        yield
    except ConfigError as error:
        texts = [problem.removeprefix(f"{type(table).__name__} ") for problem in error.problems]
        options = [
            re.sub(r"^(\[\w+\] )?(\w+)", lambda key: f"--{key[2].replace('_', '-')}", text)
            for text in texts
        ]
        raise ConfigError(options) from error


def _matches(root: Path, pattern: str) -> tuple[Path, ...]:
    # Path.glob refuses absolute patterns, which --data-root does not change either.
    return tuple(sorted(map(Path, glob.glob(str(root / pattern), recursive=True))))  # noqa: PTH207
