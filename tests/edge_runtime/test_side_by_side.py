"""Blocks of many streams side by side, beside the same blocks stream by stream: the same bits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_runtime.pipeline import Pipeline
from edge_runtime.results import Block
from pipelines import CAN_FAIL, GAP, SECOND, START, Seen, a_pipeline, model, seen

STREAMS, ROWS, CALLS = 6, 7, 30
MODELS = ["lstm", "gru", "hybrid", "ratio", "foreign", "batch-first", "frozen", "one-step, 1s"]


def blocks_of(name: str, rng: np.random.Generator) -> list[list[Block]]:
    """Call by call a block of each stream, all equally long; most are as they should be."""
    features = len(model(name).contract.features)
    calls, last = [], np.full(STREAMS, START)
    for _ in range(CALLS):
        blocks = []
        for stream in rng.permutation(STREAMS).tolist():
            steps = np.full(ROWS, SECOND)
            values = rng.standard_normal((ROWS, features)).astype(np.float32)
            values *= rng.choice([0.3, 1, 30])
            at = int(rng.integers(ROWS))
            trouble = rng.choice(["", "", "", "gap", "hold", "late", "again", "huge", "zero"])
            if trouble in ("gap", "hold"):
                steps[at] = GAP + SECOND if trouble == "gap" else 3 * SECOND
            elif trouble in ("late", "again"):
                steps[at] = -SECOND * (trouble == "late")
            elif trouble == "huge":
                values[at] = 1e30 * (name != "hybrid")
            elif trouble == "zero":
                values[at] = 0.0
            ts = last[stream] + np.cumsum(steps)
            last[stream] = max(last[stream], int(ts.max()))
            seq = ts // SECOND - START // SECOND if stream % 2 else None
            blocks.append(Block(f"m{stream}", ts, values, seq))
        calls.append(blocks)
    return calls


def decided(pipeline: Pipeline, calls: list[list[Block]], *, live: bool) -> list[Seen]:
    now_ns = int(max(block.ts.max() for blocks in calls for block in blocks)) if live else None
    results = [pipeline.process(blocks, now_ns) for blocks in calls]
    return [seen(pipeline, results, f"m{stream}") for stream in range(STREAMS)]


def narrow(*pipelines: Pipeline) -> None:
    """As if the contract gave the sensors ranges that some samples leave."""
    for pipeline in pipelines:
        count = len(pipeline.session.contract.features)
        pipeline._low, pipeline._high = np.full(count, -9, "f4"), np.full(count, 9, "f4")
        pipeline._bounded = True


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "settings", [{}, {"hold_ns": SECOND, "max_gap_ns": GAP}], ids=["reset", "doubted"]
)
@pytest.mark.parametrize("seed", range(2))
def test_the_same_as_stream_by_stream(
    monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, Any], seed: int
) -> None:
    calls = blocks_of(name, np.random.default_rng(seed))
    apart = a_pipeline(name, **settings)
    apart._lane = None
    ours = a_pipeline(name, **settings)
    taken: list[int] = []
    lane = ours._lane
    assert lane is not None
    some = lane._some_blocks

    def counting(*args: Any) -> set[str]:
        taken.append(len(done := some(*args)))
        return done

    monkeypatch.setattr(lane, "_some_blocks", counting)
    if seed % 2:
        narrow(apart, ours)
    wanted = decided(apart, calls, live=bool(seed % 2))
    assert decided(ours, calls, live=bool(seed % 2)) == wanted
    assert sum(taken) > (0 if name in CAN_FAIL else STREAMS * CALLS / 4)
    if name in CAN_FAIL:
        assert sum(one.rejected["not_finite_score"] for one in wanted) > 5
    if name == "lstm":
        assert sum(len(one.flags) for one in wanted) > 10
        assert sum(len(one.resets) for one in wanted) > 10


def test_order_is_that_of_arrival_though_some_go_another_way() -> None:
    pipeline = a_pipeline()
    values = np.zeros((2, 2, len(model("lstm").contract.features)), np.float32)
    ts = START + np.arange(2) * SECOND
    first = [Block(name, ts, values[0]) for name in "abcd"]
    pipeline.process(first, None)
    second = [replace(block, ts=block.ts + 2 * SECOND) for block in first]
    second[1] = replace(second[1], ts=second[1].ts[::-1])  # a late one
    result = pipeline.process(second, None)
    assert [scored.stream for scored in result.scored] == [*"abcd"]
    assert [block.stream for block in result.admitted] == [*"abcd"]
