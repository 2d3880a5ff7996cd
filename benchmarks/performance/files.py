"""Replay of recorded files, beside reading them with a library and running the model alone."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from benchmarks.performance.measure import Case, Figures, Measure, Plan, alternate, cpu_us
from benchmarks.performance.measure import require_same as same
from benchmarks.performance.models import START_NS, Alone, lstm, normal
from benchmarks.throughput import FEATURES
from edge_runtime.columns import Layout
from edge_runtime.payload import NS_PER_MS
from edge_runtime.pipeline import MAX_CALL_ROWS, Pipeline
from edge_runtime.recorded import read_streams
from edge_runtime.replay import LARGEST_CHUNK, readings_of, replay
from edge_runtime.results import Result
from edge_runtime.session import Float32, Session
from edge_runtime.settings import Settings

PARQUET_BAR, CSV_BAR = 1.6, 1.5
STREAMS = (1, 64)
MACHINE = "machine"
SECOND_MS = 1000


def chunk_of(streams: int) -> int:
    """Steps of one call of a replay."""
    return min(LARGEST_CHUNK, MAX_CALL_ROWS // streams)


def table_of(values: NDArray[np.float64]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Rows ``[time, stream, feature]`` as a historian writes them: by time, machines in turn."""
    steps, streams, count = values.shape
    ms = START_NS // NS_PER_MS + SECOND_MS * np.arange(steps).repeat(streams)
    columns = {"time": pa.array(ms, pa.timestamp("ms", "UTC"))}
    if streams > 1:
        names = np.array([f"m{number}" for number in range(streams)])
        columns[MACHINE] = pa.array(np.tile(names, steps))
    rows = values.reshape(-1, count)
    return pa.table(columns | {name: rows[:, at] for at, name in enumerate(FEATURES)})


def parquet(plan: Plan) -> Iterator[Figures]:
    """Row 4: one stream, and many in one file."""
    session = lstm().session
    for streams in STREAMS:
        chunks = plan.size(32 if streams == 1 else 4, 4 if streams == 1 else 1)
        values = normal((chunks * chunk_of(streams), streams, len(FEATURES)))
        path = plan.folder / f"{streams}.parquet"
        pa.parquet.write_table(table_of(values), path)
        x = np.split(values.astype(np.float32), chunks)
        alone = Alone.of(session)
        same("scores", _scores(_replayed(session, path, streams), streams), _run(alone, x))
        rows = values[:, :, 0].size
        sides = {
            "ours": partial(cpu_us, partial(_replayed, session, path, streams), rows),
            "beside": partial(cpu_us, partial(_run, alone, x), rows),
        }
        figures = alternate(sides, plan.rounds)
        yield Figures(figures["ours"], figures["beside"])


def csv(plan: Plan) -> Iterator[Figures]:
    """Row 5: one stream."""
    session = lstm().session
    chunks = plan.size(16, 4)
    values = normal((chunks * chunk_of(1), 1, len(FEATURES)))
    path = plan.folder / "1.csv"
    options = pa.csv.WriteOptions(quoting_style="none")
    pa.csv.write_csv(_printed(table_of(values)), path, options)
    alone = Alone.of(session)
    same("scores", _scores(_replayed(session, path, 1), 1), _read_and_run(alone, path))
    sides = {
        "ours": partial(cpu_us, partial(_replayed, session, path, 1), len(values)),
        "beside": partial(cpu_us, partial(_read_and_run, alone, path), len(values)),
    }
    figures = alternate(sides, plan.rounds)
    yield Figures(figures["ours"], figures["beside"])


def _printed(table: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """With the time as ISO 8601 has it."""
    text = pa.compute.strftime(table["time"], "%Y-%m-%dT%H:%M:%SZ")
    return table.set_column(0, "time", text)


def _replayed(session: Session, path: Path, streams: int) -> list[Result]:
    """What `andon replay` does between its options and its report."""
    layout = Layout(stream_column=MACHINE if streams > 1 else None)
    recorded = read_streams([path], layout, on_notice=_silent)
    readings = readings_of(recorded, session.contract, None, _silent)
    pipeline = Pipeline(session, Settings(max_streams=len(readings)))
    return list(replay(pipeline, readings, _silent))


def _run(alone: Alone, x: list[Float32]) -> Float32:
    state, scores = alone.initial_state(x[0].shape[1]), []
    for chunk in x:
        score, state = alone.run(chunk, state)
        scores.append(score)
    return np.concatenate(scores)


def _read_and_run(alone: Alone, path: Path) -> Float32:
    """What one would write without us: pyarrow, its columns side by side, the model."""
    table = pa.csv.read_csv(path, pa.csv.ReadOptions(use_threads=False))
    values = np.empty((table.num_rows, 1, len(FEATURES)), np.float32)
    for at, name in enumerate(FEATURES):
        values[:, 0, at] = table[name].to_numpy()
    return _run(alone, np.split(values, len(values) // chunk_of(1)))


def _scores(results: list[Result], streams: int) -> Float32:
    """``[time, stream]``."""
    by_name: dict[str, list[Float32]] = {}
    for result in results:
        for scored in result.scored:
            by_name.setdefault(scored.stream, []).append(scored.score)
    if len(by_name) != streams:
        raise ValueError(f"wanted scores of {streams} streams, got {len(by_name)}")
    return np.stack([np.concatenate(parts) for parts in by_name.values()], axis=1)


def _silent(_: object) -> None:
    pass


MEASURES = (
    Measure(
        4,
        "replay of a Parquet file, reading included: CPU a row",
        "the model alone, at the same batch",
        [Case(f"{n} stream{'s' * (n > 1)}", PARQUET_BAR) for n in STREAMS],
        parquet,
    ),
    Measure(
        5,
        "replay of a CSV file, reading included: CPU a row",
        "pyarrow reading it and the model alone",
        [Case("1 stream", CSV_BAR)],
        csv,
    ),
)
