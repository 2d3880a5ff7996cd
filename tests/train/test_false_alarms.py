"""The alarm level: counted by the lamp's rule, true on fresh data, honest where data are short."""

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.alarm import QUIET, advance
from edge_runtime.config import AlarmConfig
from train import false_alarms
from train.false_alarms import LOWEST_LIMIT, Level, advice, choose_level, count_episodes
from train.lamp import Lamp
from train.tail import fit_tail

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PERIOD_MS = 10_000.0
A_DAY = 8640  # samples
LAMP = Lamp(lambda level: 0.7 * level)


def all_count(sequences: list[Floats]) -> list[Bools]:
    return [np.ones(len(sequence), np.bool_) for sequence in sequences]


def level_for(asked: float, sequences: list[Floats], counts: list[Bools] | None = None) -> Level:
    """The level for so many episodes in all the sequences."""
    counts = counts or all_count(sequences)
    days = sum(int(c.sum()) for c in counts) / A_DAY
    return choose_level(sequences, counts, asked / days, PERIOD_MS, LAMP)


# --- The lamp's rule -----------------------------------------------------------------------------

# Few different values, so that many are equal, and equal to the level.
sequences_of_quarters = st.lists(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([True, True, True, False]))), max_size=3
).filter(lambda drawn: any(counts for sequence in drawn for _, counts in sequence))


def arrays(drawn: list[list[tuple[int, bool]]]) -> tuple[list[Floats], list[Bools]]:
    distances = [np.array([quarters / 4 for quarters, _ in sequence]) for sequence in drawn]
    return distances, [np.array([c for _, c in sequence], np.bool_) for sequence in drawn]


@given(
    drawn=sequences_of_quarters,
    level=st.integers(1, 12).map(lambda quarters: quarters / 4),
    leave=st.sampled_from([0.0, 0.5, 0.75, 1.0]),
    hold=st.integers(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_episodes_are_those_of_the_alarm(
    drawn: list[list[tuple[int, bool]]], level: float, leave: float, hold: int
) -> None:
    distances, counts = arrays(drawn)
    alarm = AlarmConfig(enter=level, leave=leave * level, hold_steps=hold)
    raised = 0
    for scores, ok in zip(distances, counts, strict=True):
        _, transitions, _ = advance(QUIET, scores.astype(np.float32), ok, alarm)
        raised += sum(event == "raised" for _, event in transitions)
    lamp = Lamp(lambda at: leave * at, hold)
    assert count_episodes(distances, counts, level, lamp) == raised


@given(
    drawn=sequences_of_quarters,
    rates=st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=5),
    hold=st.integers(1, 3),
)
@settings(max_examples=30, deadline=None)
def test_a_higher_rate_never_gives_a_higher_level(
    drawn: list[list[tuple[int, bool]]], rates: list[float], hold: int
) -> None:
    lamp = Lamp(LAMP.leave, hold)
    levels = [choose_level(*arrays(drawn), rate, PERIOD_MS, lamp) for rate in sorted(rates)]
    distances = [level.distance for level in levels]
    assert distances == sorted(distances, reverse=True)
    assert all(math.isfinite(d) and d >= LOWEST_LIMIT for d in distances)
    assert all(level.interval[0] <= level.per_day <= level.interval[1] for level in levels)


def test_a_lower_level_may_raise_fewer_but_is_not_trusted() -> None:
    """At 4 the lamp stays on through dips that put it out at 4.5."""
    hills = [*[6.0, 3.0] * 12, 0.0, 5.0, 0.0, 4.5, 0.0, 4.0, 0.0, *[2.0, 0.0] * 45, *[0.0] * 200]
    sequences = [np.repeat(hills, 4)]

    def episodes(level: float) -> int:
        return count_episodes(sequences, all_count(sequences), level, LAMP)

    assert [episodes(level) for level in (6, 5, 4.5, 4, 1)] == [0, 12, 13, 3, 49]
    few, some, more = (level_for(asked, sequences) for asked in (8, 12.5, 15))
    assert few.method == some.method == "fitted"
    assert few.distance >= some.distance >= 4.5 > more.distance


def test_where_no_level_raises_the_number_asked_for_it_is_one_that_raises_fewer() -> None:
    """At 6 none, just below it twelve at once, and nothing to fit a tail to."""
    level = level_for(8, [np.repeat([6.0, 0.0] * 12, 4)])
    assert (level.distance, level.episodes, level.per_day) == (6.0, 0, 0.0)
    assert level.interval[0] == 0


# --- Processes -----------------------------------------------------------------------------------


def plain(lengths: Floats) -> Floats:
    return lengths


def bounded(lengths: Floats) -> Floats:
    return 4 * np.tanh(lengths / 3)


@cache
def machines(tails: str, memory: float = 0.8) -> Floats:
    """Lengths of vectors of three AR(1) processes, ``[machine, time]``, 100 of 5,000 samples."""
    rng = np.random.default_rng(11)
    shape = (5000, 100, 3)
    noise = rng.standard_normal(shape) if tails == "normal" else rng.standard_t(4, shape) / 2**0.5
    vectors = np.empty(shape)
    last = rng.standard_normal(shape[1:])
    for now, pushed in enumerate(noise * math.sqrt(1 - memory**2)):
        last = vectors[now] = memory * last + pushed
    return np.ascontiguousarray(np.linalg.norm(vectors, axis=2).T)


PROCESSES: list[tuple[str, float, Callable[[Floats], Floats]]] = [
    ("normal", 0.0, plain),
    ("normal", 0.8, plain),
    ("t", 0.8, plain),
    ("normal", 0.8, bounded),
]
NAMES = ["white", "normal", "heavy", "bounded"]


@pytest.mark.parametrize(("tails", "memory", "squash"), PROCESSES, ids=NAMES)
def test_a_supported_rate_is_kept_on_fresh_data(
    tails: str, memory: float, squash: Callable[[Floats], Floats]
) -> None:
    distances = list(squash(machines(tails, memory)))
    seen, fresh = distances[:6], distances[6:]
    for asked, method in [(14, "fitted"), (60, "counted")]:
        level = level_for(asked, seen)
        assert level.method == method
        assert level.supported_per_day <= asked / level.days
        raised = count_episodes(fresh, all_count(fresh), level.distance, LAMP)
        assert 0.5 < raised / (asked * len(fresh) / len(seen)) < 2


@pytest.mark.parametrize("tails", ["normal", "t"])
def test_the_interval_holds_about_as_often_as_it_says(tails: str) -> None:
    every = list(machines(tails))
    asked, held = 10, 0
    for first in range(0, 100, 4):
        level = level_for(asked, every[first : first + 4])
        raised = count_episodes(every, all_count(every), level.distance, LAMP)
        true = raised / (len(every) * 5000 / A_DAY)
        held += level.interval[0] <= true <= level.interval[1]
    assert held >= 0.8 * 25


# --- What it rests on ----------------------------------------------------------------------------


def test_the_episodes_are_counted_at_the_level() -> None:
    sequences = list(machines("normal")[:4])
    for asked in (0.3, 20, 100):
        level = level_for(asked, sequences)
        raised = count_episodes(sequences, all_count(sequences), level.distance, LAMP)
        assert level.episodes == raised
    assert 90 <= level.episodes <= 100
    assert level.per_day == pytest.approx(level.episodes / level.days)
    assert level.days == pytest.approx(4 * 5000 / A_DAY)


@pytest.mark.parametrize("asked", [0.2, 3, 20, 100])
def test_the_order_of_the_machines_changes_nothing(asked: float) -> None:
    sequences = [machine[: 4000 + 7 * k] for k, machine in enumerate(machines("normal")[:7])]
    there = level_for(asked, sequences)
    assert level_for(asked, sequences[::-1]) == there
    assert level_for(asked, sequences[3:] + sequences[:3]) == there


@pytest.mark.parametrize("asked", [0.2, 3, 20, 100])
def test_what_does_not_count_changes_nothing(asked: float) -> None:
    sequences = list(machines("normal")[:3])
    rng = np.random.default_rng(3)
    distances, counts = [], []
    for sequence in sequences:
        places = np.sort(rng.integers(0, len(sequence), 500))
        distances.append(np.insert(sequence, places, math.nan))
        counts.append(~np.isnan(distances[-1]))
    assert level_for(asked, distances, counts) == level_for(asked, sequences)


def test_a_cut_where_the_lamp_is_dark_raises_nothing_more() -> None:
    (sequence,) = machines("normal")[:1]
    level = level_for(20, [sequence]).distance
    for at in np.flatnonzero(sequence < 0.7 * level)[2::200]:
        if (sequence[at - 2 : at + 1] < 0.7 * level).all():  # three in a row
            parts = [sequence[: at + 1], sequence[at + 1 :]]
            whole = count_episodes([sequence], all_count([sequence]), level, LAMP)
            assert count_episodes(parts, all_count(parts), level, LAMP) == whole


@pytest.mark.parametrize("asked", [0.2, 3, 20, 100])
def test_the_level_has_the_unit_of_the_distances(asked: float) -> None:
    sequences = list(machines("normal")[:4])
    level = level_for(asked, sequences)
    doubled = level_for(asked, [2 * sequence for sequence in sequences])
    assert doubled.distance == pytest.approx(2 * level.distance)
    assert doubled.per_day == pytest.approx(level.per_day)


def test_extrapolation_ends_at_a_third_of_an_episode() -> None:
    sequences = list(machines("normal")[:4])
    at_the_end, beyond = level_for(1 / 3, sequences), level_for(0.001, sequences)
    assert beyond == at_the_end
    assert beyond.method == "extrapolated"
    assert beyond.per_day == pytest.approx(1 / 3 / beyond.days)
    assert level_for(0.5, sequences).distance < beyond.distance


def test_episodes_of_one_machine_alone_are_worth_less() -> None:
    quiet, loud = (list(machines("normal")[k : k + 4]) for k in (0, 4))
    even = level_for(20, quiet + loud)
    uneven = level_for(20, [machine / 2 for machine in quiet] + loud)
    assert even.supported_per_day <= 20 / even.days < uneven.supported_per_day
    one_loud = level_for(3, [machine / 2 for machine in quiet + loud[1:]] + loud[:1])
    assert one_loud.method == "fitted"
    assert one_loud.supported_per_day > 40 / one_loud.days  # more than the tail has
    width, wider = (level.interval[1] - level.interval[0] for level in (even, uneven))
    assert wider > 1.3 * width


def test_dispersion_by_hand() -> None:
    """Sixteen episodes on one machine, four on another: (36 + 36) / 10, doubted."""
    at = np.append(np.arange(16) * 10 + 5, 160 + np.arange(4) * 40 + 20)
    found = false_alarms._dispersion(at, np.array([160, 160]), a_day=40.0)
    assert found == pytest.approx((2 + 7.2) / 3)


def test_bursts_of_episodes_are_worth_less() -> None:
    sequence = machines("normal")[:4].ravel()
    in_bursts = sequence * np.where(np.arange(len(sequence)) // 1250 % 8 == 0, 2, 1)
    assert level_for(20, [in_bursts]).interval[1] > 1.3 * level_for(20, [sequence]).interval[1]


# --- Too little data -----------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [0.01, 0.3, 1, 3])
def test_a_rate_that_the_data_cannot_support_is_said_to_be_unsupported(asked: float) -> None:
    level = level_for(asked, list(machines("normal")[:4]))
    assert level.supported_per_day > asked / level.days
    sentence = advice(level, asked / level.days)
    assert sentence
    low, high = (rate * level.days for rate in level.interval)
    assert low < asked / 2 or high > 2 * asked


def test_what_advice_accepts_is_supported() -> None:
    sequences = list(machines("normal")[:4])
    level = level_for(1, sequences)
    accepted = float((advice(level, 1 / level.days) or "").rsplit(" ", 1)[1])
    assert accepted >= level.supported_per_day
    assert advice(level_for(accepted * level.days, sequences), accepted) is None


def test_the_sentence() -> None:
    level = Level(4.2, 0, 0.5, 2.0, (0.05, 7.0), 12.66, "extrapolated")
    assert advice(level, 2, share=0.15) == (
        "asked for 2 false alarms per day and machine; 12 machine-hours of calibration data "
        "support 13, and the alarm level was extrapolated beyond their highest episodes: expect 2 "
        "per day, between 0.05 and 7 with 90% probability. Record about 427 more machine-hours of "
        "normal operation, or accept --false-alarms-per-day 13"
    )
    assert advice(level, 12.66) is None


@pytest.mark.parametrize("length", [1, 2, 3, 30])
@pytest.mark.parametrize("per_day", [1e-6, 1, 1e9])
def test_tiny_and_constant_data_have_a_level(length: int, per_day: float) -> None:
    for value in (0.0, 1.5):
        sequences = [np.full(length, value)]
        level = choose_level(sequences, all_count(sequences), per_day, PERIOD_MS, LAMP)
        assert level.distance == max(value, LOWEST_LIMIT)
        assert level.episodes == 0
        assert all(map(math.isfinite, [*level.interval, level.per_day, level.supported_per_day]))


def test_with_too_few_episodes_it_lies_by_the_largest_distance() -> None:
    sequences = [machines("normal")[0, :30]]
    one, half = level_for(1, sequences), level_for(0.5, sequences)
    assert one.method == half.method == "largest"
    assert one.distance == sequences[0].max()
    high = np.quantile(sequences[0], 0.9)
    excess = sequences[0][sequences[0] > high].mean() - high
    assert half.distance == pytest.approx(one.distance + excess * math.log(2))
    assert level_for(0.001, sequences) == level_for(1 / 3, sequences)
    assert "by the largest distance" in (advice(half, 0.5 / half.days) or "")


REFUSED = [
    ([[1.0, 2.0]], [[False, False]], 1.0, LAMP, "no sample"),
    ([], [], 1.0, LAMP, "no sample"),
    ([[1.0, math.nan]], [[True, True]], 1.0, LAMP, "finite"),
    ([[1.0, -math.inf]], [[True, True]], 1.0, LAMP, "finite"),
    ([[1.0, 2.0]], [[True]], 1.0, LAMP, "as many"),
    ([[1.0, 2.0]], [[True, True]], 0.0, LAMP, "positive"),
    ([[1.0, 2.0]], [[True, True]], math.nan, LAMP, "positive"),
    ([[1.0, 2.0]], [[True, True]], 1.0, Lamp(lambda level: 2 * level, 1), "exceed"),
    ([[1.0, 2.0]], [[True, True]], 1.0, Lamp(LAMP.leave, 0), "hold"),
]


@pytest.mark.parametrize(("distances", "counts", "per_day", "lamp", "complaint"), REFUSED)
def test_what_is_refused(
    distances: list[list[float]],
    counts: list[list[bool]],
    per_day: float,
    lamp: Lamp,
    complaint: str,
) -> None:
    sequences = [np.array(sequence) for sequence in distances]
    marks = [np.array(sequence, np.bool_) for sequence in counts]
    with pytest.raises(ValueError, match=complaint):
        choose_level(sequences, marks, per_day, PERIOD_MS, lamp)


# --- The parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "shape", "tabled"),
    [(0.05, 10, 5.425), (0.95, 10, 15.705), (0.05, 2, 0.3554), (0.95, 0.5, 1.921)],
)
def test_gamma_quantiles_are_near_the_table(
    probability: float, shape: float, tabled: float
) -> None:
    found = false_alarms._gamma_quantile(probability, shape)
    assert found == pytest.approx(tabled, rel=0.03, abs=0.01)


def test_the_fewest_episodes_that_support_a_rate() -> None:
    def supported(episodes: float) -> bool:
        low, high = (false_alarms._gamma_quantile(p, episodes + 0.5) for p in false_alarms._ENDS)
        return false_alarms._supports((low, high), episodes)

    assert supported(false_alarms.LEAST_COUNTED)
    assert not supported(0.99 * false_alarms.LEAST_COUNTED)


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.25])
def test_a_tail_is_found_again(shape: float) -> None:
    u = (np.arange(500) + 0.5) / 500
    excess = -np.log(u) if shape == 0 else (u**-shape - 1) / shape
    tail = fit_tail(5 + 3 * excess, base=5.0)
    assert tail.shape == pytest.approx(shape, abs=0.03)
    assert tail.scale == pytest.approx(3, rel=0.03)
    for share in (1.0, 0.1, 0.001):
        assert np.median(tail.shares(tail.level(share))) == pytest.approx(share, rel=0.1)


def test_fewer_heights_leave_more_shapes_possible() -> None:
    heights = 1 + np.random.default_rng(0).exponential(size=40)
    spreads = [
        float(fit_tail(heights, base=1.0, weight=weight).shapes.std()) for weight in (1, 0.25, 0.01)
    ]
    assert all(before < after for before, after in itertools.pairwise(spreads))
    assert spreads[-1] == pytest.approx(0.2, abs=0.03)  # the prior's
