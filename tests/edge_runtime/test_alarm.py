"""From score to lamp, against a reference that is written the slow way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.alarm import QUIET, AlarmState, advance
from edge_runtime.config import AlarmConfig

# Few values, many of them exactly at a threshold.
SCORES = st.lists(st.sampled_from([0.0, 0.5, 0.7, 0.8, 1.0, 1.1, 5.0]), max_size=40)


@st.composite
def cases(draw: st.DrawFn) -> tuple[AlarmState, list[float], list[bool], AlarmConfig]:
    scores = draw(SCORES)
    ok = draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    hold = draw(st.integers(1, 4))
    config = AlarmConfig(enter=1.0, leave=draw(st.sampled_from([0.7, 1.0])), hold_steps=hold)
    # More than the hold: it was longer when the row began.
    return AlarmState(draw(st.booleans()), draw(st.integers(0, hold + 2))), scores, ok, config


def slowly(
    state: AlarmState, scores: list[float], ok: list[bool], config: AlarmConfig
) -> tuple[AlarmState, list[tuple[int, str]], list[bool]]:
    lamp, row = state.raised, state.row
    changes, lit = [], []
    for index, score in enumerate(np.asarray(scores, np.float32)):
        if ok[index]:
            if (not lamp and float(score) > config.enter) or (lamp and float(score) < config.leave):
                row += 1
            else:
                row = 0
            if row >= config.hold_steps:
                lamp, row = not lamp, 0
                changes.append((index, "raised" if lamp else "cleared"))
        lit.append(lamp)
    return AlarmState(lamp, row), changes, lit


def run(
    state: AlarmState, scores: list[float], ok: list[bool], config: AlarmConfig
) -> tuple[AlarmState, list[tuple[int, str]], list[bool]]:
    after, changes, lit = advance(
        state, np.asarray(scores, np.float32), np.asarray(ok, np.bool_), config
    )
    return after, [(change.at, change.event) for change in changes], lit.tolist()


@settings(deadline=None)
@given(cases())
def test_it_decides_as_the_reference(
    case: tuple[AlarmState, list[float], list[bool], AlarmConfig],
) -> None:
    assert run(*case) == slowly(*case)


@settings(deadline=None)
@given(cases(), st.data())
def test_any_split_decides_as_the_whole(
    case: tuple[AlarmState, list[float], list[bool], AlarmConfig], data: st.DataObject
) -> None:
    state, scores, ok, config = case
    whole = run(*case)
    cuts = data.draw(st.lists(st.integers(0, len(scores)), max_size=6).map(sorted))
    changes, lit = [], []
    for start, stop in zip([0, *cuts], [*cuts, len(scores)], strict=True):
        state, some, shown = run(state, scores[start:stop], ok[start:stop], config)
        changes += [(start + at, event) for at, event in some]
        lit += shown
    assert (state, changes, lit) == whole


def series(text: str) -> tuple[list[float], list[bool]]:
    """``H``igh, ``l``ow, ``-`` between the thresholds, ``?`` high but not ok."""
    value = {"H": 1.5, "l": 0.2, "-": 0.8, "?": 1.5}
    return [value[c] for c in text], [c != "?" for c in text]


@pytest.mark.parametrize(
    ("text", "lamp"),
    [
        ("HHHHll", "..####"),
        ("HHHlll", "..###."),
        ("HH-HHH", ".....#"),
        ("HHlHHl", "......"),
        ("HHH---lll", "..######."),
        ("HHHl-l-lll", "..#######."),
        ("HH??H", "....#"),
        ("?????", "....."),
        ("HHH?l?l?l", "..######."),
        ("HHHlllHHHlll", "..###...###."),
    ],
)
def test_hold_and_hysteresis(text: str, lamp: str) -> None:
    scores, ok = series(text)
    _, changes, lit = run(QUIET, scores, ok, AlarmConfig(enter=1.0, leave=0.7, hold_steps=3))
    assert "".join("#" if on else "." for on in lit) == lamp
    assert [event for _, event in changes] == ["raised", "cleared"] * (len(changes) // 2) + [
        "raised"
    ] * (len(changes) % 2)


@pytest.mark.parametrize("enter", [0.1, 0.3, 0.7, 1.1, 1.3])
def test_thresholds_are_compared_exactly(enter: float) -> None:
    """The float32 next to the threshold lies above or below it; rounding would make them equal."""
    score = float(np.float32(enter))
    assert score != enter
    at_once = AlarmConfig(enter=enter, leave=enter, hold_steps=1)
    assert run(QUIET, [score], [True], at_once)[0].raised == (score > enter)
    assert run(AlarmState(raised=True), [score], [True], at_once)[0].raised == (score >= enter)
    one_before = AlarmConfig(enter=enter, leave=enter, hold_steps=2)
    slow_path = run(AlarmState(raised=False, row=1), [score], [True], one_before)
    assert slow_path[0].raised == (score > enter)


def test_a_score_at_the_threshold_changes_nothing() -> None:
    config = AlarmConfig(enter=1.0, leave=1.0, hold_steps=1)
    assert run(QUIET, [1.0], [True], config)[0] == QUIET
    assert run(AlarmState(raised=True), [1.0], [True], config)[0] == AlarmState(raised=True)


def test_no_samples() -> None:
    for state in (QUIET, AlarmState(raised=True, row=1)):
        assert run(state, [], [], AlarmConfig()) == (state, [], [])
