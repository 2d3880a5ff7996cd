"""What durability costs on the disk, and how long a start takes.

    python -m benchmarks.durability

**Bytes written** for each message, as the operating system counts them for the process
(``/proc/self/io``, ``write_bytes``): the journal with its snapshots, beside a store that writes
every touched stream's state in each transaction, which is what one would do without a deterministic
function. Both are processes of their own, with the same SQLite settings, streams and groups, and
the journal runs for as long as its snapshots need to come round.

**Recovery**: 10,000 streams and a journal of five seconds at full rate. "Full rate" is a setting,
twice what the daemon takes in on this machine over MQTT (see ``benchmarks/throughput.py``).
"""

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

import edge_runtime.journal
from benchmarks.throughput import FEATURES, export_model
from edge_runtime.config import StateConfig
from edge_runtime.database import create_database, open_database
from edge_runtime.files import write_text
from edge_runtime.journal import Journal
from edge_runtime.pipeline import Pipeline
from edge_runtime.results import Block
from edge_runtime.session import load_model
from edge_runtime.settings import Settings
from edge_runtime.store import Group
from edge_runtime.tracks import Track

SECOND = 1_000_000_000
START = 1_767_225_600 * SECOND
FULL_RATE = 30_000  # messages a second
RECOVERY_STREAMS = 10_000
MOST_RECOVERY_S = 3.0
RUN_S = 2 * edge_runtime.journal.SNAPSHOT_EVERY_S


@click.command()
@click.option("--messages", default=150_000, show_default=True, help="For each size of group.")
@click.option("--streams", default=1_000, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Of the recovery.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(messages: int, streams: int, rounds: int, output: Path | None) -> None:
    """Print bytes written per message, and the time that a start takes."""
    with TemporaryDirectory(dir=".") as temporary:  # a disk: /tmp may be memory
        folder = Path(temporary)
        export_model(folder / "lstm64.onnx")
        report: dict[str, object] = {"schema": 1, "streams": streams, "messages": messages}
        print(f"bytes written a message, {streams} streams, LSTM-64, 8 sensors, synchronous = full")
        print(f"{'messages a group':>18}{'journal':>10}{'states':>10}{'ratio':>8}")
        written = {}
        for size in (20, 200, 1000):
            ours = _apart(_write_journal, folder, messages, streams, size)
            theirs = _apart(_write_states, folder, messages // 5, streams, size)
            written[size] = {"journal": ours, "states": theirs}
            print(f"{size:18}{ours:10.0f}{theirs:10.0f}{ours / theirs:8.3f}")
        report["bytes"] = written
        _prepare(folder)
        seconds = [_apart(_recover, folder) for _ in range(rounds)]
        report["recovery_s"] = seconds
        samples = round(FULL_RATE * edge_runtime.journal.SNAPSHOT_EVERY_S)
        print(
            f"recovery of {RECOVERY_STREAMS} streams and {samples} samples of the journal: "
            f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}); "
            f"at most {MOST_RECOVERY_S:g} s"
        )
    if output is not None:
        write_text(output, json.dumps(report, indent=2) + "\n")


def _apart(function: Callable[..., float], *arguments: object) -> float:
    """Runs a function in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


def _pipeline(folder: Path, streams: int) -> Pipeline:
    session = load_model(folder / "lstm64.onnx")
    return Pipeline(session, Settings(max_streams=streams))


def _journal(path: Path, pipeline: Pipeline) -> Journal:
    tracks = [Track(pipeline, "plant/{machine}/telemetry", "{machine}")]
    journal = Journal(StateConfig(path=path), tracks)
    journal.open()
    return journal


def _groups(messages: int, streams: int, size: int) -> Iterator[list[Block]]:
    """Single samples, of each machine once a second, in no order."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((64, 1, len(FEATURES))).astype(np.float32)
    blocks: list[Block] = []
    for second in range(-(-messages // streams)):
        ts = np.array([START + second * SECOND])
        blocks += [Block(f"m{m}", ts, values[m % 64]) for m in rng.permutation(streams)]
        while len(blocks) >= size:
            yield blocks[:size]
            del blocks[:size]


def _write_journal(folder: Path, messages: int, streams: int, size: int) -> float:
    """Bytes a message; the snapshots come as they would, but by the clock of this run."""
    pipeline = _pipeline(folder, streams)
    journal = _journal(folder / f"journal-{size}.db", pipeline)
    before, began = _written(), time.monotonic()
    for group in _groups(messages, streams, size):
        result = pipeline.process(group, None)
        journal.commit(Group(admitted={0: result.admitted}))
        journal.tidy(time.time_ns())
    # What has been written into the log only reaches the file at the end.
    journal.close()
    if not journal.snapshots or time.monotonic() - began < RUN_S / 2:
        print(f"note: only {time.monotonic() - began:.1f} s, {journal.snapshots} snapshots")
    return (_written() - before) / messages


def _write_states(folder: Path, messages: int, streams: int, size: int) -> float:
    """Bytes a message of a store that writes each touched state."""
    pipeline = _pipeline(folder, streams)
    path = folder / f"states-{size}.db"
    create_database(path)
    database = open_database(path, synchronous="full", max_bytes=1 << 40)
    before = _written()
    for group in _groups(messages, streams, size):
        pipeline.process(group, None)
        slots = sorted({pipeline.streams.admit(block.stream) for block in group})
        records = pipeline.streams.dump(slots)
        with database.transaction() as sql:
            rows = ((slot, slot, record) for slot, record in zip(slots, records, strict=True))
            sql.executemany("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?)", rows)
    database.close()
    return (_written() - before) / messages


def _written() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


def _prepare(folder: Path) -> None:
    """A database as a kill leaves it, just before the next snapshot."""
    pipeline = _pipeline(folder, RECOVERY_STREAMS)
    journal = _journal(folder / "killed.db", pipeline)
    samples = round(FULL_RATE * edge_runtime.journal.SNAPSHOT_EVERY_S)
    for number, group in enumerate(_groups(samples + RECOVERY_STREAMS, RECOVERY_STREAMS, 1000)):
        result = pipeline.process(group, None)
        journal.commit(Group(admitted={0: result.admitted}))
        if number == RECOVERY_STREAMS // 1000 - 1:
            journal.close()  # a snapshot of all
            journal = _journal(folder / "killed.db", pipeline)
    journal._close_database()  # noqa: SLF001 - and no last snapshot


def _recover(folder: Path) -> float:
    """Seconds from opening the database to every stream being where it was."""
    for left in folder.glob("again.db*"):
        left.unlink()
    (folder / "again.db").write_bytes((folder / "killed.db").read_bytes())
    pipeline = _pipeline(folder, RECOVERY_STREAMS)
    began = time.perf_counter()
    journal = _journal(folder / "again.db", pipeline)
    elapsed = time.perf_counter() - began
    (start,) = journal.starts
    wanted = (RECOVERY_STREAMS, round(FULL_RATE * edge_runtime.journal.SNAPSHOT_EVERY_S))
    if (start.streams, start.samples) != wanted:
        raise SystemExit(f"wanted {wanted} streams and samples to come back, got {start}")
    return elapsed


if __name__ == "__main__":
    main()
