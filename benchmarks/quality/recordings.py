"""Recorded streams: labels beside them, files of them, and a detector's way over them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import AlarmConfig
from edge_runtime.files import replacing
from edge_runtime.recorded import RecordedStream
from edge_runtime.session import load_model
from edge_runtime.simulated import NS_PER_S
from evaluate.judge import readings_for, run_model
from evaluate.metrics import tally
from evaluate.scenes import whole_scenes
from evaluate.settings import Settings

LABEL = "anomaly"
EPOCH_NS = 1_767_225_600 * NS_PER_S
"""2026-01-01T00:00:00Z: where recordings without a clock begin."""


def labelled(stream: RecordedStream, label: NDArray[np.bool_]) -> RecordedStream:
    """The stream with a label column behind its sensors.

    Args:
        stream: Without labels.
        label: ``[row]``.
    """
    values = np.column_stack([stream.values, label])
    return replace(stream, columns=(*stream.columns, LABEL), values=values)


def in_memory(
    name: str, values: NDArray[np.float64], columns: Sequence[str], period_s: float
) -> RecordedStream:
    """A stream of no file, evenly sampled.

    Args:
        name: Its name.
        values: ``[row, column]``.
        columns: Names.
        period_s: Between two rows.
    """
    ts = EPOCH_NS + np.rint(np.arange(len(values)) * period_s * NS_PER_S).astype(np.int64)
    return RecordedStream(name, Path(name), ts, tuple(columns), values)


def write_stream(folder: Path, stream: RecordedStream) -> Path:
    """Writes a stream as a Parquet file of its name, for ``andon train``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(stream.columns, stream.values.T, strict=True))
    path = folder / f"{stream.name}.parquet"
    with replacing(path) as temporary:
        times = pa.array(stream.ts, pa.timestamp("ns", tz="UTC"))
        pq.write_table(pa.table({"time": times, **columns}), temporary)
    return path


@dataclass(frozen=True, slots=True)
class Lamp:
    """How often the lamp went on in normal operation.

    Attributes:
        episodes: Of each stream.
        days: Of each stream, of samples that count.
    """

    episodes: tuple[int, ...]
    days: tuple[float, ...]

    @property
    def per_day(self) -> float:
        """Episodes a day and machine; 0 where nothing counts."""
        return sum(self.episodes) / sum(self.days) if sum(self.days) else 0.0


def count_lamp(model: Path, streams: Sequence[RecordedStream], lead: int = 0) -> Lamp:
    """Counts how often the lamp goes on while nothing is wrong, as a gateway's would by default.

    Args:
        model: The detector.
        streams: Normal operation, with a label column that is 0.
        lead: Rows at the start of each that warm up.

    Returns:
        The counts.
    """
    settings = Settings(label=LABEL, lead=lead)
    scenes = whole_scenes(streams, settings)
    session = load_model(model)
    readings = readings_for(scenes, session.contract, LABEL)
    series = run_model(session, readings, AlarmConfig())
    rng = np.random.default_rng(0)
    counts = [tally(*pair, settings, rng) for pair in zip(scenes, series, strict=True)]
    hours = [float(count.hours.sum()) for count in counts]
    return Lamp(
        tuple(int(count.alarms.sum()) for count in counts), tuple(each / 24 for each in hours)
    )
