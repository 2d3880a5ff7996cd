"""Counts and figures on hand-made series, with numbers worked out by hand."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.recorded import RecordedStream
from edge_runtime.results import OK, UNCERTAIN, WARMING_UP
from evaluate.judge import UNSCORED, Series
from evaluate.metrics import (
    Figures,
    Tally,
    figures,
    mean_figures,
    phases,
    stretches,
    tally,
    total,
    vus_pr,
)
from evaluate.scenes import Scene, whole_scenes
from evaluate.settings import Settings

SECOND = 1_000_000_000
STATUS_OF = {"o": OK, "w": WARMING_UP, "u": UNCERTAIN, "-": UNSCORED}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def a_scene(label: str, lead: int = 0, period_s: int = 60) -> Scene:
    marks = np.array([[c == "x"] for c in label], np.float64).reshape(-1, 1)
    ts = np.arange(len(label)) * period_s * SECOND
    stream = RecordedStream("a", Path("a.csv"), ts, ("anomaly",), marks)
    (scene,) = whole_scenes([stream], Settings(label="anomaly", lead=lead))
    return scene


def a_series(high: str, lamp: str, status: str = "") -> Series:
    """``#`` is a score of 2, anything else one of 0.5; ``#`` is a lamp that is lit."""
    kinds = [STATUS_OF[c] for c in status.ljust(len(high), "o")]
    return Series(
        np.array([2.0 if c == "#" else 0.5 for c in high]),
        np.array(kinds, np.uint8),
        np.array([c == "#" for c in lamp], np.bool_),
        1.0,
    )


def judged(label: str, series: Series, lead: int = 0, late_ns: int = 0, **how: Any) -> Figures:
    settings = Settings(label="anomaly", **{"window": 0, **how})
    return figures(tally(a_scene(label, lead), series, settings, rng(), late_ns))


def test_samples_on_either_side_of_the_level() -> None:
    found = judged("....xxxx..", a_series("#...##.#.#", ".........."))
    # Labelled 4, of which 3 are above; normal 6, of which 2 are above.
    assert found.f1 == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert found.far == pytest.approx(2 / 6)
    assert found.mar == pytest.approx(1 / 4)
    assert found.judged == 10


def test_the_level_itself_is_not_above_it() -> None:
    series = Series(np.array([1.0, 1.0, 1.5]), np.zeros(3, np.uint8), np.zeros(3, np.bool_), 1.0)
    assert judged("..x", series).far == 0.0


def test_only_ok_samples_count_and_the_others_are_counted_apart() -> None:
    #                                      all above; wwuu- and the lead do not count
    series = a_series("##########", "..........", "wwuu-ooooo")
    found = judged("xxxxxxxx..", series, lead=1)
    assert (found.judged, found.lead) == (5, 1)
    assert (found.warming_up, found.uncertain, found.no_score) == (1, 2, 1)
    assert found.f1 == pytest.approx(6 / 8)
    assert (found.far, found.mar) == (1.0, 0.0)


def test_an_event_is_found_when_the_lamp_goes_on_within_it() -> None:
    #              0         1         2         3
    #              0123456789012345678901234567890123
    label = "....xxxxx.....xxx....xxx...x..xx.."
    lamp = "......####.##......#####...."
    lamp += ".#...."
    found = judged(label, a_series("." * 34, lamp), recovery=3)
    # 4-8: on at 6, two samples after its onset. 14-16: dark. 21-23: lit since 19. 27: dark, and on
    # at 29, after it. 30-31: on before, out in it.
    assert (found.events, found.found, found.lit_before) == (5, 1, 2)
    assert found.event_recall == pytest.approx(1 / 5)
    assert found.median_delay_s == 120
    assert found.false_alarms == 3


def test_a_lamp_that_was_lit_goes_out_and_on_again_within_an_event() -> None:
    found = judged("..xxxx", a_series("." * 6, ".##.#."))
    assert (found.found, found.lit_before, found.median_delay_s) == (1, 0, 120)


def test_false_alarms_before_after_and_elsewhere() -> None:
    #        0         1         2
    #        01234567890123456789012345
    label = ".....xxx............xx...."
    lamp = "#.#...#.#..#.#...#.....#.."
    found = judged(label, a_series("." * 26, lamp), recovery=3)
    # Before: rows 0-4, on at 0 and 2. After: 8-10 and 22-24, on at 8 and 23. Elsewhere: 11-19 and
    # 25, on at 11, 13 and 17. A row is a minute.
    assert found.before_per_hour == pytest.approx(2 / 5 * 60)
    assert found.after_per_hour == pytest.approx(2 / 6 * 60)
    assert found.elsewhere_per_hour == pytest.approx(3 / 10 * 60)
    assert found.false_alarms == 7
    assert found.normal_hours == pytest.approx(21 / 60)
    assert found.false_alarms_per_hour == pytest.approx(7 / 21 * 60)
    assert found.false_alarms_per_day == pytest.approx(7 / 21 * 60 * 24)


def test_recovery_is_the_window_unless_it_is_said() -> None:
    label, lamp = "xx......", ".....#.."
    assert judged(label, a_series("." * 8, lamp), window=4).after_per_hour == 60 / 4
    assert judged(label, a_series("." * 8, lamp), window=3).after_per_hour == 0


def test_alarms_of_the_lead_and_in_doubt_count_neither_way() -> None:
    series = a_series("." * 10, "#.#.......", "oooooooooo")
    assert judged("......xxx.", series, lead=3).false_alarms == 0
    assert judged("......xxx.", series, lead=2).false_alarms == 1


def test_an_event_that_begins_in_the_lead_or_has_no_sample_that_counts_is_not_judged() -> None:
    lamp = a_series("." * 12, "..#......#..", "ooooowwwoooo")
    found = judged(".xxx.xx..xx.", lamp, lead=2)
    assert (found.events, found.found) == (1, 1)


def test_a_lamp_goes_on_across_samples_without_a_score() -> None:
    # The lamp stays lit over a row that was refused: it does not go on again after it.
    found = judged("......", a_series("." * 6, ".#.#..", "oo-ooo"))
    assert found.false_alarms == 1


def test_the_delay_holds_the_look_ahead_and_is_a_median() -> None:
    label, lamp = "..xxx..xxxxx..xxxxx.", "..#.......#...#....."
    found = judged(label, a_series("." * 20, lamp), late_ns=5 * SECOND)
    assert found.median_delay_s == 0 * 60 + 5
    lamp = "...#......#...#....."
    assert judged(label, a_series("." * 20, lamp)).median_delay_s == 60


def test_nothing_to_divide_by() -> None:
    found = judged("....", a_series("....", "...."))
    assert (found.vus_pr, found.event_recall, found.median_delay_s) == (None, None, None)
    assert (found.f1, found.mar, found.far, found.after_per_hour) == (None, None, 0.0, None)
    found = judged("xx", a_series("..", ".."))
    assert (found.far, found.false_alarms_per_hour, found.mar) == (None, None, 1.0)
    assert judged("", a_series("", "")).judged == 0


def test_streams_without_a_label_or_without_another_have_no_vus() -> None:
    settings = Settings(label="anomaly", window=0)
    counts = [
        tally(a_scene(label, lead), a_series("##..", "....", status), settings, rng())
        for label, lead, status in (
            ("..xx", 0, ""), ("....", 0, ""), ("xxxx", 0, ""), ("..xx", 2, ""), ("..xx", 0, "oow"),
        )
    ]  # fmt: skip
    assert [len(one.vus) for one in counts] == [1, 0, 0, 0, 1]
    assert [one.unlabelled for one in counts] == [0, 1, 0, 0, 0]
    assert [one.labelled for one in counts] == [0, 0, 1, 1, 0]


def test_counts_add_up_and_vus_is_a_mean_of_streams() -> None:
    settings = Settings(label="anomaly", window=0, recovery=1)
    one = tally(a_scene("..xx."), a_series("#.##.", "#.#.."), settings, rng())
    two = tally(a_scene("x...."), a_series("....#", "....#", "ooo-o"), settings, rng())
    both = total([one, two])
    assert (both.true_flags, both.false_flags, both.misses, both.rests) == (2, 2, 1, 4)
    assert both.alarms.tolist() == [1, 0, 1]
    assert (both.hours * 60).tolist() == pytest.approx([2, 2, 2])
    assert [event.delay_ns for event in both.events] == [0, None]
    assert both.statuses == {"warming_up": 0, "uncertain": 0, "no_score": 1}
    assert figures(both).vus_pr == pytest.approx((one.vus[0] + two.vus[0]) / 2)
    assert asdict(figures(total([]))) == asdict(figures(Tally()))


# --- the volume, buffers of 0: the plain area under range-based precision and recall


def volume(label: str, score: list[float], window: int = 0) -> float:
    marks = np.array([c == "x" for c in label])
    return vus_pr(marks, np.array(score), window, rng())


def test_the_volume_by_hand() -> None:
    assert volume("..xx", [0.1, 0.2, 0.3, 0.4]) == pytest.approx(1.0)
    # From the top: hit (recall 1/2, precision 1), miss (1/2, 1/2), miss (1/2, 1/3), hit (1, 1/2).
    # So there are two trapezoids with a width, 1/2 each, between 1 and 1 and between 1/3 and 1/2.
    assert volume(".xx.", [0.2, 0.4, 0.1, 0.3]) == pytest.approx(1 / 2 + 5 / 24)
    # Recall is that of samples times the share of events with one: a hit in the first of two
    # events (1/2 * 1/2, 1), a miss (1/4, 1/2), a hit in the second (1, 2/3), a miss (1, 1/2).
    # One trapezoid is 1/4 wide, between 1 and 1, the other 3/4, between 1/2 and 2/3.
    assert volume(".x.x", [0.1, 0.2, 0.3, 0.4]) == pytest.approx(1 / 4 + 7 / 16)


def test_a_constant_is_worth_what_chance_is() -> None:
    label = "." * 700 + "x" * 100 + "." * 200
    by_chance = volume(label, list(np.random.default_rng(5).random(1000)))
    assert volume(label, [1.0] * 1000) == pytest.approx(by_chance, abs=0.05)
    assert by_chance == pytest.approx(0.1, abs=0.05)
    few = [0.0] * 1000
    few[750] = 1.0  # right, and silent about all others
    assert volume(label, few) < 0.2


def test_a_buffer_forgives_what_is_close() -> None:
    label = "." * 40 + "x" * 10 + "." * 50
    close = [1.0 if 35 <= i < 45 else i / 1000 for i in range(100)]
    assert volume(label, close, 20) > volume(label, close, 0) + 0.1


def test_the_volume_is_that_of_the_scores_and_not_of_their_scale() -> None:
    label = "." * 30 + "x" * 10 + "." * 20
    score = np.random.default_rng(2).random(60)
    same = [volume(label, list(s), 10) for s in (score, 1000 * score, np.exp(score) - 5)]
    assert same[0] == same[1] == same[2]
    from aeon.benchmarking.metrics.anomaly_detection import range_pr_vus_score

    marks = np.array([int(c == "x") for c in label])
    assert same[0] == range_pr_vus_score(marks, score, 10)


# --- parts


def test_phases_by_hand() -> None:
    label = np.array([c == "x" for c in "..x...x.."])
    assert phases(label, 2).tolist() == [0, 0, 1, 1, 1, 2, 1, 1, 1]
    assert phases(label, 0)[3:6].tolist() == [2, 2, 2]
    assert phases(np.zeros(3, np.bool_), 2).tolist() == [0, 0, 0]
    assert phases(np.zeros(0, np.bool_), 2).tolist() == []


def test_stretches_by_hand() -> None:
    assert stretches(np.array([True, False, True, True])) == [(0, 1), (2, 4)]
    assert stretches(np.zeros(0, np.bool_)) == []


def test_the_mean_leaves_out_what_is_not_there() -> None:
    none: dict[str, Any] = dict.fromkeys((f.name for f in fields(Figures)), None)
    several = [Figures(**{**none, "f1": value}) for value in (0.2, None, 0.4)]
    assert mean_figures(several).f1 == pytest.approx(0.3)
    assert mean_figures(several).far is None
