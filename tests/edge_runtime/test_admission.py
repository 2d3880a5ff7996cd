"""Which samples the model sees and in which order: watermark, reorder window, gaps, no clock."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.config import AlarmConfig
from edge_runtime.flags import flag_id
from edge_runtime.pipeline import Pipeline
from edge_runtime.results import NO_SEQ, STATUS, Block, Evicted, Reset, Result
from edge_runtime.streams import REMEMBERED
from pipelines import SECOND, START, a_pipeline, block, causes, model, send
from sample_models import MAX_GAP_MS, WARM_UP_STEPS

MS = 1_000_000
Sample = tuple[float, int]


def counted(stream: str, samples: Sequence[Sample], seed: int = 0) -> Block:
    """Samples at these seconds with these counts; the values follow from both."""
    values = [[2 + t % 7, 3 - seq % 5, 1 + seed] for t, seq in samples]
    seq = np.array([seq for _, seq in samples], np.int64)
    return replace(block(stream, [t for t, _ in samples], values), seq=seq)


def came(*results: Result) -> list[tuple[float, int | None]]:
    """Second and count of what was scored, in order."""
    return [
        ((line.ts - START) / SECOND, line.seq)
        for result in results
        for scored in result.scored
        for line in scored.lines()
    ]


def scores(results: Sequence[Result], stream: str = "p") -> bytes:
    parts = [s.score for result in results for s in result.scored if s.stream == stream]
    return np.concatenate(parts).tobytes()


def statuses(*results: Result) -> list[str]:
    return [STATUS[n] for result in results for s in result.scored for n in s.status]


# --- watermark


@pytest.mark.parametrize(
    ("last", "then", "cause"),
    [
        ((5, NO_SEQ), (5, NO_SEQ), "duplicate"),
        ((5, NO_SEQ), (5, 0), None),
        ((5, 7), (5, NO_SEQ), "late"),
        ((5, 7), (5, 7), "duplicate"),
        ((5, 7), (5, 8), None),
        ((5, 7), (5, 6), "late"),
        ((5, 7), (4, 8), "late"),
        ((5, 7), (4, 7), "late"),
        ((5, 7), (6, 0), None),
        ((5, 7), (6, NO_SEQ), None),
        ((5, NO_SEQ), (4, NO_SEQ), "late"),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_a_sample_must_be_after_the_watermark(
    last: Sample, then: Sample, cause: str | None, together: bool
) -> None:
    pipeline = a_pipeline()
    if together:
        results = [send(pipeline, counted("p", [last, then]))]
    else:
        results = [send(pipeline, counted("p", [sample])) for sample in (last, then)]
    wanted = [] if cause is None else [("p", cause, 1)]
    assert [c for result in results for c in causes(result)] == wanted
    kept = [last] if cause else [last, then]
    assert came(*results) == [(t, None if seq == NO_SEQ else seq) for t, seq in kept]
    mark = int(pipeline.streams.last_ts[0]), int(pipeline.streams.last_seq[0])
    assert mark == (START + int(kept[-1][0]) * SECOND, kept[-1][1])


def test_a_refusal_names_both_samples() -> None:
    pipeline = a_pipeline()
    result = send(pipeline, counted("p", [(0, 3), (0, 3), (0, NO_SEQ)]))
    at = START // MS
    assert [refused.detail for refused in result.rejected] == [
        f"ts {at} seq 3 against the last sample at {at} seq 3",
        f"ts {at} against the last sample at {at} seq 3",
    ]


def test_a_watermark_is_the_newest_of_all_not_the_last_that_came() -> None:
    result = send(a_pipeline(), counted("p", [(5, 1), (3, 9), (4, 9), (5, 2), (5, 2)]))
    assert causes(result) == [("p", "late", 2), ("p", "duplicate", 1)]
    assert came(result) == [(5, 1), (5, 2)]


def test_a_count_stands_on_scores_and_flags_and_tells_flags_apart() -> None:
    alarm = AlarmConfig(enter=1e-6, leave=1e-7, hold_steps=1)
    plain, same = (block("p", range(6), np.ones((6, 3))) for _ in range(2))
    with_count = replace(same, seq=np.array([NO_SEQ, 1, 2, 3, 44, 5]))
    first, second = (send(a_pipeline(alarm=alarm), b) for b in (plain, with_count))
    (flag,), (other,) = first.flags, second.flags
    assert (flag.seq, other.seq) == (None, 44)
    digest = model("lstm").digest
    assert flag.id == flag_id(digest, "p", START + 4 * SECOND, "raised")
    assert other.id == flag_id(digest, "p", START + 4 * SECOND, "raised", 44)
    assert flag.id != other.id
    assert replace_id(other) == replace_id(flag)
    assert [line.seq for line in first.scored[0].lines()] == [None] * 6
    assert [line.seq for line in second.scored[0].lines()] == [None, 1, 2, 3, 44, 5]


def replace_id(flag: Any) -> tuple[Any, ...]:
    return flag.stream, flag.ts, flag.event, flag.score, flag.status, flag.top, flag.model


def test_the_id_of_a_flag_without_a_count_is_what_it_always_was() -> None:
    assert flag_id("0" * 64, "p", 1, "raised") == "401cf7f1413eb6ec6139faeced524143"


@pytest.mark.parametrize("name", ["one ahead", "five ahead"])
def test_a_count_waits_with_its_sample(name: str) -> None:
    ahead = model(name).contract.look_ahead
    pipeline = a_pipeline(name)
    samples: list[Sample] = [(n, n * 10 if n % 3 else NO_SEQ) for n in range(12)]
    blocks = [counted("p", [sample]) for sample in samples]
    results = [send(pipeline, replace(b, values=b.values[:, :2])) for b in blocks]
    wanted = [(n, n * 10 if n % 3 else None) for n in range(12 - ahead)]
    assert came(*results) == wanted


# --- reorder window


def reordering(seconds: float = 3, **changes: Any) -> Pipeline:
    return a_pipeline(reorder_ns=round(seconds * SECOND), **changes)


def one_each(pipeline: Pipeline, samples: Sequence[Sample]) -> list[Result]:
    return [send(pipeline, counted("p", [sample])) for sample in samples]


def plain(*seconds: float) -> list[Sample]:
    return [(t, NO_SEQ) for t in seconds]


def plain_came(*seconds: float) -> list[tuple[float, int | None]]:
    return [(t, None) for t in seconds]


def test_a_sample_is_released_when_the_newest_is_far_enough_ahead() -> None:
    pipeline = reordering(3)
    steps = [came(result) for result in one_each(pipeline, plain(0, 1, 2, 3, 4.5, 4.0, 9))]
    gone = [[t for t, _ in step] for step in steps]
    assert gone == [[], [], [], [0], [1], [], [2, 3, 4, 4.5]]
    assert pipeline.held() == 1
    assert pipeline.waiting() == {"p": 1}
    assert pipeline.streams.last_ts[0] == START + round(4.5 * SECOND)


def test_what_was_admitted_keeps_the_order_of_arrival() -> None:
    pipeline = reordering(3)
    result = send(pipeline, counted("p", plain(1, 0, 0, 9, 2, 1)))
    (admitted,) = result.admitted
    assert ((admitted.ts - START) // SECOND).tolist() == [1, 0, 9, 2]
    assert causes(result) == [("p", "duplicate", 1), ("p", "late", 1)]
    assert came(result) == [(0, None), (1, None), (2, None)]


def test_the_window_tells_late_from_duplicate() -> None:
    pipeline = reordering(3)
    results = one_each(pipeline, [(0, 1), (2, 5), (2, 5), (2, 4), (5, 1), (0, 1), (0, 2), (2, 5)])
    refused = [[cause for _, cause, _ in causes(result)] for result in results]
    assert refused == [[], [], ["duplicate"], [], [], ["late"], ["late"], ["duplicate"]]
    assert came(*results) == [(0, 1), (2, 4), (2, 5)]


def test_a_late_sample_that_nothing_has_overtaken_is_still_welcome() -> None:
    """It is more than the window behind, but no newer one has gone to the model."""
    pipeline = reordering(3)
    results = one_each(pipeline, plain(0, 10, 5, 4, 6))
    assert came(*results) == [(0, None), (5, None), (6, None)]
    assert [causes(result) for result in results] == [[], [], [], [("p", "late", 1)], []]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), rng=st.randoms(use_true_random=False))
def test_a_shuffle_within_the_window_changes_no_score(seed: int, rng: random.Random) -> None:
    """The oracle is a pipeline without a window that is given the samples in order."""
    numbers = np.random.default_rng(seed)
    count = int(numbers.integers(2, 40))
    ts = START + np.cumsum(numbers.choice([0, 1, 2], count) * SECOND // 2)
    values = numbers.normal(2, 3, (count, 3)).astype(np.float32)
    whole = Block("p", ts, values, np.arange(count))
    (wanted,) = [a_pipeline().process([whole], None)]
    order = np.argsort(ts + numbers.uniform(0, 4 * SECOND, count), kind="stable")
    mixed = Block(
        "p", ts[order], values[order], whole.seq[order] if whole.seq is not None else None
    )
    end = Block("p", ts[-1:] + 4 * SECOND, values[:1], np.array([count]))
    pipeline, results = reordering(4), []
    at = 0
    while at < count:
        to = min(count, at + rng.choice([1, 2, 9]))
        part = slice(at, to)
        assert mixed.seq is not None
        results += [send(pipeline, Block("p", mixed.ts[part], mixed.values[part], mixed.seq[part]))]
        at = to
    results.append(send(pipeline, end))
    assert [c for result in results for c in causes(result)] == []
    assert scores(results) == scores([wanted])
    assert came(*results) == came(wanted)


def test_the_window_holds_so_many_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.reorder.MAX_HELD", 4)
    one, all_at_once = reordering(1000), reordering(1000)
    samples = plain(*range(10), 2.5, 7.5)
    results = one_each(one, samples)
    (whole,) = [send(all_at_once, counted("p", samples))]
    assert one.held() == all_at_once.held() == 4
    assert came(*results) == came(whole) == [(t, None) for t in (*range(7),)]
    assert [c for result in results for c in causes(result)] == [("p", "late", 1)]


def test_a_gap_is_seen_where_the_samples_are_released() -> None:
    pipeline = reordering(3)
    results = one_each(pipeline, plain(0, 1, 20, 2, 30))
    assert [reset for result in results for reset in result.resets] == [
        Reset("p", START + 20 * SECOND, "gap")
    ]
    assert came(*results) == plain_came(0, 1, 2, 20)


def test_a_stream_that_only_waits_has_a_slot_and_a_record() -> None:
    pipeline, other = reordering(3), reordering(3)
    assert send(pipeline, counted("p", [(0, 4), (1, NO_SEQ)])).scored == []
    assert pipeline.streams.touched[0]
    other.streams.load(["p"], pipeline.streams.dump([0]))
    assert other.held() == 2
    for p in (pipeline, other):
        assert came(send(p, counted("p", plain(9)))) == [(0, 4), (1, None)]
    assert pipeline.streams.dump([0]) == other.streams.dump([0])


def test_a_gateway_that_reorders_no_longer_lets_go_of_what_it_held() -> None:
    pipeline, drops = reordering(3), a_pipeline()
    send(pipeline, counted("p", plain(0, 2, 1)))
    drops.streams.load(["p"], pipeline.streams.dump([0]))
    assert came(send(drops, counted("p", plain(3)))) == [(t, None) for t in range(4)]
    assert drops.held() == 0
    assert came(send(drops, counted("p", plain(4)))) == [(4, None)]


def test_a_record_takes_the_place_of_all_that_was_remembered() -> None:
    calm = a_pipeline()
    send(calm, counted("p", plain(0)))
    record = calm.streams.dump([0])
    for pipeline in (reordering(3), arriving()):
        if pipeline.settings.arrival:
            send(pipeline, message([1, 2, 3]), now=1)
        else:
            send(pipeline, counted("p", plain(5, 6)))
        assert pipeline.streams.dump([0]) != record
        pipeline.streams.load(["p"], record)
        assert pipeline.streams.dump([0]) == record
        assert pipeline.held() == 0


def test_eviction_counts_what_was_held() -> None:
    pipeline = reordering(3)
    send(pipeline, counted("p", plain(0, 4, 3)), now=4)
    send(pipeline, counted("busy", plain(1000)), now=1000)
    assert pipeline.idle(START + 900 * SECOND) == ["p"]
    assert pipeline.evict(["p"]) == [Evicted("p", START + 4 * SECOND, 2)]
    assert pipeline.held() == 1
    assert came(send(pipeline, counted("p", plain(0, 9)))) == [(0, None)]


def test_the_future_does_not_enter_the_window() -> None:
    pipeline = reordering(3, max_ahead_ns=SECOND)
    result = send(pipeline, counted("p", plain(0, 90, 1)), now=0)
    assert causes(result) == [("p", "future", 1)]
    assert pipeline.held() == 2


# --- silences


def doubting(hold_s: float, name: str = "lstm", **changes: Any) -> Pipeline:
    return a_pipeline(name, hold_ns=round(hold_s * SECOND), **changes)


W, U, K = "warming_up", "uncertain", "ok"


@pytest.mark.parametrize(
    ("silence", "doubtful"),
    [(1.5, 0), (2, 0), (2.001, 2), (3, 2), (3.4, 3), (4, 3), (5, WARM_UP_STEPS)],
)
def test_as_many_samples_are_in_doubt_as_were_missed(silence: float, doubtful: int) -> None:
    pipeline = doubting(2)
    send(pipeline, block("p", range(10)))
    result = send(pipeline, block("p", 9 + silence + np.arange(8)))
    assert statuses(result) == [U] * doubtful + [K] * (8 - doubtful)
    assert result.resets == []


def test_the_doubt_never_lasts_longer_than_a_warm_up() -> None:
    pipeline = a_pipeline(hold_ns=2 * SECOND, max_gap_ns=1000 * SECOND)
    send(pipeline, block("p", range(10)))
    assert statuses(send(pipeline, block("p", range(500, 508)))) == [U] * WARM_UP_STEPS + [K] * 4


def test_a_longer_silence_resets_as_ever() -> None:
    pipeline = doubting(2)
    send(pipeline, block("p", range(10)))
    result = send(pipeline, block("p", 9 + MAX_GAP_MS / 1000 + 0.001 + np.arange(6)))
    assert [reset.cause for reset in result.resets] == ["gap"]
    assert statuses(result) == [W] * WARM_UP_STEPS + [K] * 2


def test_nothing_is_in_doubt_unless_asked() -> None:
    pipeline = a_pipeline()
    result = send(pipeline, block("p", [*range(6), 5 + MAX_GAP_MS / 1000]))
    assert statuses(result) == [W] * WARM_UP_STEPS + [K] * 3


def test_a_second_gap_does_not_shorten_the_doubt() -> None:
    pipeline = doubting(1)
    send(pipeline, block("p", range(10)))
    result = send(pipeline, block("p", [13, 15, 16, 17, 18]))  # 3 missed, then 1
    assert statuses(result) == [U, U, U, K, K]


def test_a_reset_ends_the_doubt() -> None:
    pipeline = doubting(2)
    send(pipeline, block("p", [*range(10), 13]))
    assert pipeline.streams.uncertain[0] == 2
    result = send(pipeline, block("p", range(100, 106)))
    assert statuses(result) == [W] * WARM_UP_STEPS + [K] * 2


def test_a_stream_that_was_reset_is_as_new() -> None:
    pipeline, fresh = doubting(2), doubting(2)
    send(pipeline, block("p", [*range(10), 13], np.full((11, 3), 2.0)))
    for p in (pipeline, fresh):
        send(p, block("p", [100], [[2, 2, 2]]))
    assert pipeline.streams.dump([0]) == fresh.streams.dump([0])


def test_an_uncertain_sample_raises_no_alarm() -> None:
    pipeline = doubting(2, alarm=AlarmConfig(enter=1e-6, leave=1e-7, hold_steps=1))
    send(pipeline, block("p", range(WARM_UP_STEPS)))
    (flag,) = send(pipeline, block("p", [6, 7, 8, 9])).flags
    assert flag.ts == START + 8 * SECOND


def test_a_score_that_looks_across_a_gap_is_in_doubt() -> None:
    """With a look-ahead of 5 those of the 5 samples before the gap are, too."""
    pipeline = doubting(2, "five ahead")
    result = send(pipeline, block("p", [*range(20), *range(22, 40)], np.ones((38, 2))))
    assert statuses(result) == [W] * 2 + [K] * 13 + [U] * (5 + 2) + [K] * 11


# --- devices without a clock


def arriving(**changes: Any) -> Pipeline:
    return a_pipeline(arrival=True, **changes)


def message(values: Any, *, dup: bool = False, offsets: Any = None, seq: Any = None) -> Block:
    rows = np.asarray(values, np.float32).reshape(-1, 3)
    back = np.zeros(len(rows), np.int64) if offsets is None else np.asarray(offsets, np.int64)
    return Block("p", back, rows, None if seq is None else np.asarray(seq, np.int64), dup)


def times(result: Result) -> list[int]:
    return [int(ts) - START for b in result.admitted for ts in b.ts]


def test_a_sample_has_the_time_of_its_arrival() -> None:
    pipeline = arriving()
    result = send(pipeline, message([1, 2, 3]), now=5)
    assert times(result) == [5 * SECOND]
    assert came(result) == [(5, None)]
    later = send(pipeline, message(np.ones((3, 3)), offsets=[-2 * MS, -MS, 0]), now=6)
    assert times(later) == [6 * SECOND - 2 * MS, 6 * SECOND - MS, 6 * SECOND]


def test_times_of_arrival_rise_whatever_the_clock_does() -> None:
    pipeline = arriving()
    first = send(pipeline, message([1, 2, 3]), message([2, 2, 3]), now=5)
    assert times(first) == [5 * SECOND, 5 * SECOND + 1]
    back = send(pipeline, message(np.ones((3, 3)), offsets=[-SECOND, -MS, 0]), now=-3600)
    assert times(back) == [5 * SECOND + n for n in (2, 3, 4)]
    overlap = send(pipeline, message(np.ones((3, 3)), offsets=[-2 * SECOND, -SECOND, 0]), now=6)
    assert times(overlap) == [5 * SECOND + 5, 5 * SECOND + 6, 6 * SECOND]
    assert [c for r in (first, back, overlap) for c in causes(r)] == []


def test_a_clock_that_was_ahead_refuses_nothing() -> None:
    pipeline = arriving(max_ahead_ns=SECOND)
    send(pipeline, message([1, 2, 3]), now=1e8)
    result = send(pipeline, message([1, 2, 4]), now=5)
    assert causes(result) == []
    assert times(result) == [10**8 * SECOND + 1]


def test_a_time_before_1970_is_none() -> None:
    pipeline = arriving()
    result = pipeline.process([message(np.ones((3, 3)), offsets=[-SECOND, -MS, 0])], 5)
    assert result.admitted[0].ts.tolist() == [0, 1, 5]


def test_what_the_broker_sends_again_is_known_by_its_content() -> None:
    pipeline = arriving()
    first, second = message([[1, 2, 3], [4, 5, 6]]), message([7, 8, 9])
    send(pipeline, first, second, now=1)
    before = pipeline.streams.dump([0])
    again = [replace(m, dup=True) for m in (first, second)]
    result = send(pipeline, *again, now=2)
    assert causes(result) == [("p", "duplicate", 2), ("p", "duplicate", 1)]
    assert result.rejected[0].detail == (
        "sent again by the broker; one of the last 32 messages had this content"
    )
    assert result.admitted == []
    assert pipeline.streams.dump([0]) == before


def test_equal_messages_without_dup_are_two_samples() -> None:
    pipeline = arriving()
    same = message([1, 2, 3])
    result = send(pipeline, same, same, same, now=1)
    assert (causes(result), len(came(result))) == ([], 3)


def test_a_message_that_never_arrived_is_taken_though_the_broker_sends_it_again() -> None:
    pipeline = arriving()
    send(pipeline, message([1, 2, 3]), now=1)
    result = send(pipeline, message([1, 2, 4], dup=True), now=2)
    assert (causes(result), len(came(result))) == ([], 1)
    assert [b.dup for b in result.admitted] == [False]
    other = send(pipeline, replace(message([1, 2, 3], dup=True), stream="q"), now=2)
    assert causes(other) == []  # another stream's memory


def test_a_stream_that_was_evicted_is_no_longer_compared_with() -> None:
    pipeline = arriving(max_streams=1)
    send(pipeline, message([1, 2, 3]), now=1)
    pipeline.evict(["p"])
    send(pipeline, replace(message([1, 2, 4]), stream="q"), now=2)  # in the same slot
    result = send(pipeline, replace(message([1, 2, 3], dup=True), stream="q"), now=2)
    assert (causes(result), len(came(result))) == ([], 1)


def test_a_count_tells_equal_contents_apart() -> None:
    pipeline = arriving()
    send(pipeline, message([1, 2, 3], seq=[1]), now=1)
    result = send(
        pipeline,
        message([1, 2, 3], seq=[2], dup=True),
        message([1, 2, 3], seq=[1], dup=True),
        now=2,
    )
    assert causes(result) == [("p", "duplicate", 1)]
    assert came(result) == [(2, 2)]


def test_the_memory_is_short() -> None:
    pipeline = arriving()
    messages = [message([n, 2, 3]) for n in range(REMEMBERED + 1)]
    send(pipeline, *messages, now=1)
    result = send(pipeline, *(replace(m, dup=True) for m in messages[::-1]), now=2)
    assert causes(result) == [("p", "duplicate", 1)] * REMEMBERED
    assert len(came(result)) == 1  # the oldest: at least once


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(["lstm", "float16", "five ahead"]))
def test_arrivals_are_recovered_from_record_and_journal(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    live, again = (a_pipeline(name, arrival=True) for _ in range(2))
    features = len(model(name).contract.features)
    results, journal, now = [], [], START
    contents = rng.integers(0, 5, (6, 2, features)).astype(np.float32)
    if name == "float16":
        contents[0, 0] = 1e9
    calls = int(rng.integers(2, 30))
    cut = int(rng.integers(calls))
    for number in range(calls):
        if number == cut:
            names = [n for n in live.streams.names if n is not None]
            again.streams.load(names, live.streams.dump(range(len(names))))
        now += int(rng.choice([SECOND, -SECOND, 7 * SECOND]))
        blocks = []
        for _ in range(rng.integers(1, 6)):
            rows = contents[rng.integers(6)][: rng.integers(1, 3)]
            back = -np.arange(len(rows))[::-1] * SECOND
            stream = f"p{rng.integers(3)}"
            blocks.append(Block(stream, back, rows, dup=bool(rng.random() < 0.3)))
        results.append(live.process(blocks, now))
        if number >= cut:
            journal.append(results[-1].admitted)
    second = [again.process(blocks, None) for blocks in journal]
    for stream in ("p0", "p1", "p2"):
        if live.streams.find(stream) is not None:
            assert scores_of(second, stream) == scores_of(results[cut:], stream)
    assert [r.flags for r in second] == [r.flags for r in results[cut:]]
    count = len(live.streams)
    assert again.streams.dump(range(count)) == live.streams.dump(range(count))


def scores_of(results: Sequence[Result], stream: str) -> bytes:
    parts = [s.score.tobytes() for r in results for s in r.scored if s.stream == stream]
    return b"".join(parts)


def test_a_device_that_got_a_clock_keeps_its_state() -> None:
    pipeline, other = arriving(), a_pipeline()
    send(pipeline, message(np.ones((6, 3))), now=1)
    other.streams.load(["p"], pipeline.streams.dump([0]))
    assert causes(send(other, block("p", [2]))) == []
    assert other.streams.steps[0] == 7
