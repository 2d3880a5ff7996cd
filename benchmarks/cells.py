"""What each cell costs: replay of the same rows, beside an LSTM of the same width, in one run.

Cell and LSTM take turns, and what is compared is CPU time, so that other work on the machine does
not count. A ratio is the median of those of all rounds. The rows lie in memory: reading files costs
the same for every cell.

    python benchmarks/cells.py [--width 64] [--rounds 9] [-o FIGURES.json] [--document CELLS.md]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from edge_runtime.files import write_text
from edge_runtime.pipeline import Pipeline, Settings
from edge_runtime.replay import Readings, replay
from edge_runtime.session import Session, session_from_bytes
from export.to_onnx import export_checkpoint
from train.cells import CELLS
from train.config import ModelConfig
from train.detector import Detector
from train.detectors import Checkpoint

SCHEMA = 1
BEGIN, END = "<!-- cost: begin -->", "<!-- cost: end -->"
FEATURES = tuple(f"sensor_{number}" for number in range(8))
# Streams, and rows of each of them in one round.
SIZES = ((1, 4096), (64, 512))
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"cell": name} for name in CELLS},
    "gru, reset before": {"cell": "gru", "reset": "before"},
    "lstm, look-ahead 8": {"cell": "lstm", "look_ahead": 8},
}


def main() -> None:
    """Measures, prints a table in Markdown, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="hidden units (default: 64)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each pair (default: 9)")
    parser.add_argument("-o", "--output", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--document", type=Path, help="where the table goes, between its marks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sessions = {name: exported(options.width, model) for name, model in VARIANTS.items()}
    rows = []
    for name, (session, parameters) in sessions.items():
        print(f"measuring {name}", file=sys.stderr)
        row: dict[str, Any] = {"cell": name, "parameters": parameters}
        for streams, length in SIZES:
            pairs = [
                (cpu_us(session, streams, length), cpu_us(sessions["lstm"][0], streams, length))
                for _ in range(options.rounds + 1)
            ][1:]  # the first one warms up
            ratios = sorted(cell / lstm for cell, lstm in pairs)
            row[str(streams)] = {
                "us_per_row": round(statistics.median(cell for cell, _ in pairs), 3),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_low": round(ratios[0], 3),
                "ratio_high": round(ratios[-1], 3),
            }
        rows.append(row)
    print(table(rows))
    if options.document:
        write_text(options.document, with_table(options.document.read_text(), table(rows)))
    if options.output:
        figures = {
            "schema": SCHEMA,
            "width": options.width,
            "features": len(FEATURES),
            "rounds": options.rounds,
            "onnxruntime": ort.__version__,
            "cells": rows,
        }
        write_text(options.output, json.dumps(figures, indent=2) + "\n")


def exported(width: int, model: dict[str, Any]) -> tuple[Session, int]:
    """A detector with its initial weights, exported and loaded; and its number of parameters."""
    torch.manual_seed(0)
    detector = Detector(FEATURES, ModelConfig(hidden=width, **model)).eval()
    meta: dict[str, Any] = {
        "sample_period_ms": 1000.0,
        "max_gap_ms": 5000.0,
        "warm_up_steps": 1,
        "calibration": None,
        "training": {},
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_checkpoint(Checkpoint(detector, meta), path, lambda _: None)
        session = session_from_bytes(path.read_bytes())
    layers = sum(parameter.numel() for cell in detector.cells for parameter in cell.parameters())
    return session, layers


def cpu_us(session: Session, streams: int, length: int) -> float:
    """CPU microseconds a row of one replay."""
    rng = np.random.default_rng(0)
    ts = np.arange(length, dtype=np.int64) * 1_000_000_000
    readings = [
        Readings(f"m{number}", ts, rng.standard_normal((length, len(FEATURES))), None)
        for number in range(streams)
    ]
    pipeline = Pipeline(session, Settings())
    before = time.process_time()
    for _ in replay(pipeline, readings, lambda _: None):
        pass
    return (time.process_time() - before) * 1e6 / (streams * length)


def table(rows: list[dict[str, Any]]) -> str:
    """The figures in Markdown."""
    lines = [
        "| cell | parameters | 1 stream, us a row | to LSTM | 64 streams, us a row | to LSTM |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        sizes = [f"{row[key]['us_per_row']:.2f} | {row[key]['ratio']:.2f}" for key in ("1", "64")]
        lines.append(f"| {row['cell']} | {row['parameters']:,} | {' | '.join(sizes)} |")
    return "\n".join(lines)


def with_table(text: str, figures: str) -> str:
    """A document with new figures between ``<!-- cost: begin -->`` and ``<!-- cost: end -->``."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"wanted {BEGIN} and {END} in the document")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


if __name__ == "__main__":
    main()
