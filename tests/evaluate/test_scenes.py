"""What is cropped and spliced, and that a position cannot answer any more."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError, RecordedFileError
from edge_runtime.recorded import RecordedStream
from evaluate.scenes import Scene, draw_scenes, short_of, whole_scenes
from evaluate.settings import Settings

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def a_stream(name: str, label: str, gaps: tuple[int, ...] = ()) -> RecordedStream:
    """Its one sensor is the number of the row; a gap of a minute before each row of ``gaps``."""
    marks = np.array([c == "x" for c in label], np.float64)
    steps = np.full(len(label), SECOND)
    steps[list(gaps)] = 60 * SECOND
    values = np.stack([np.arange(len(label), dtype=np.float64), marks], axis=1)
    ts = START + np.cumsum(steps)
    return RecordedStream(name, Path("day.csv"), ts, ("row", "anomaly"), values)


def settings(**changes: Any) -> Settings:
    return Settings(label="anomaly", **changes)


def a_scene(stream: RecordedStream, draw: int = 0, **changes: Any) -> Scene:
    (scene,) = draw_scenes([stream], settings(**changes), draw)
    return scene


def test_without_crop_and_splice_a_scene_is_the_recording() -> None:
    stream = a_stream("a", "....xx..", gaps=(3,))
    scene = a_scene(stream, lead=2)
    assert scene.recorded.ts.tobytes() == stream.ts.tobytes()
    assert scene.recorded.values.tobytes() == stream.values.tobytes()
    assert scene.label.tolist() == [False] * 4 + [True] * 2 + [False] * 2
    assert scene.judged.tolist() == [False] * 2 + [True] * 6
    assert (scene.period_ns, scene.rows, scene.name) == (SECOND, 8, "a")


CASES = st.fixed_dictionaries(
    {
        "onset": st.integers(0, 60),
        "labelled": st.integers(0, 20),
        "rest": st.integers(0, 20),
        "lead": st.integers(0, 70),
        "crop": st.integers(0, 80),
        "splice": st.integers(0, 80),
        "seed": st.integers(0, 1000),
        "draw": st.integers(0, 3),
    }
)


@given(CASES)
def test_whatever_is_drawn(case: dict[str, int]) -> None:
    onset, lead = case["onset"], case["lead"]
    stream = a_stream("a", "." * onset + "x" * case["labelled"] + "." * (case["rest"] + 1))
    rows = len(stream.ts)
    first = onset if case["labelled"] else rows
    drawn = {key: case[key] for key in ("lead", "crop", "splice", "seed")}
    scene = a_scene(stream, case["draw"], **drawn)
    origin = scene.origin

    # Each row is a copy of the row of the recording that it says it is.
    assert scene.recorded.values.tobytes() == stream.values[origin].tobytes()
    assert scene.label.tolist() == (stream.values[origin, 1] != 0).tolist()
    assert scene.judged.tolist() == (origin >= lead).tolist()

    # It is the recording from some row on, with one healthy stretch inserted where it may be.
    crops = [
        crop
        for crop, at, stretch in ways(origin, rows)
        if crop <= min(case["crop"], first)
        and len(stretch) <= case["splice"]
        and (stretch < first).all()
        and (not len(stretch) or max(lead, crop) <= crop + at <= first)
    ]
    assert crops, origin

    # The clock runs on evenly.
    assert np.diff(scene.recorded.ts).tolist() == [SECOND] * (scene.rows - 1)


def ways(origin: NDArray[np.int64], rows: int) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """How a scene can be a recording of so many rows: cropped rows, place and stretch inserted."""
    for at in range(len(origin) + 1):
        for length in range(len(origin) - at + (at > 0)):
            kept = np.delete(origin, np.arange(at, at + length))
            stretch = origin[at : at + length]
            if kept.tolist() == list(range(int(kept[0]), rows)) and (np.diff(stretch) == 1).all():
                yield int(kept[0]), at, stretch


def test_everything_from_nothing_to_the_most_is_drawn() -> None:
    stream = a_stream("a", "." * 10 + "x" * 5)
    crops, lengths, places, firsts = set(), set(), set(), set()
    for draw in range(300):
        scene = a_scene(stream, draw, lead=4, crop=3, splice=3)
        found = list(ways(scene.origin, 15))
        if len({(crop, at) for crop, at, stretch in found if len(stretch)}) == 1:  # only one way
            (crop, at, stretch) = next(way for way in found if len(way[2]))
            crops.add(crop)
            lengths.add(len(stretch))
            places.add(crop + at)
            firsts.add(int(stretch[0]))
    assert crops == {0, 1, 2, 3}
    assert lengths == {1, 2, 3}
    assert places == set(range(4, 11))
    assert firsts == set(range(10))


def test_the_row_of_the_onset_is_another_in_each_draw() -> None:
    stream = a_stream("a", "." * 100 + "x" * 20)
    onsets = {int(np.argmax(a_scene(stream, draw, crop=50, splice=50).label)) for draw in range(40)}
    assert len(onsets) > 25


def test_silences_stay_where_they_are() -> None:
    stream = a_stream("a", "." * 20 + "xx", gaps=(5, 12))
    for draw in range(20):
        scene = a_scene(stream, draw, lead=15, splice=4)
        steps = (np.diff(scene.recorded.ts) // SECOND).tolist()
        assert [at for at, step in enumerate(steps) if step != 1] == [4, 11]
        assert steps[4] == steps[11] == 60


def test_copies_of_the_lead_are_not_judged() -> None:
    stream = a_stream("a", "." * 30 + "x" * 5)
    scenes = [a_scene(stream, draw, lead=29, splice=20) for draw in range(20)]
    assert any(scene.rows > 40 for scene in scenes)
    for scene in scenes:
        assert scene.judged.tolist() == (scene.origin >= 29).tolist()


def test_the_same_seed_gives_the_same_whoever_stands_beside() -> None:
    a, b = (a_stream(name, "." * 50 + "x" * 10) for name in "ab")
    how = settings(crop=30, splice=30, seed=4)
    both = draw_scenes([a, b], how, 1)
    alone = draw_scenes([b], how, 1)
    assert both[1].origin.tobytes() == alone[0].origin.tobytes()
    assert both[0].origin.tobytes() != both[1].origin.tobytes()
    assert draw_scenes([a], how, 2)[0].origin.tobytes() != both[0].origin.tobytes()
    other = draw_scenes([a], replace(how, seed=5), 1)[0]
    assert other.origin.tobytes() != both[0].origin.tobytes()


def test_an_event_is_never_cropped_into_and_that_is_said() -> None:
    early, roomy = a_stream("early", "..xx...."), a_stream("roomy", "." * 90 + "xx")
    how = settings(crop=5, splice=40, lead=3)
    for draw in range(20):
        scene = draw_scenes([early], how, draw)[0]
        assert scene.label.sum() == 2
        assert (np.diff(scene.origin) == 1).all()  # nothing can be spliced in after the lead
    assert short_of([early, roomy], how) == [
        "crop: fewer than 5 rows before the first label, so no more is left out: early",
        "lead: the first label, or the end, lies within its 3 rows; that event is not judged and "
        "nothing is spliced in: early",
    ]
    assert short_of([early], settings(splice=40)) == [
        "splice: fewer than 40 rows before the first label, so no more is inserted: early"
    ]
    assert short_of([roomy], how) == []


def test_empty_and_single_rows() -> None:
    for label in ("", ".", "x"):
        scene = a_scene(a_stream("a", label), crop=3, splice=3)
        assert scene.rows >= len(label)
        assert scene.period_ns == 0


def test_whole_scenes_are_whole() -> None:
    stream = a_stream("a", "." * 50 + "x")
    (scene,) = whole_scenes([stream], settings(crop=30, splice=30, repeats=3))
    assert scene.origin.tolist() == list(range(51))


def test_a_missing_label_column_is_named() -> None:
    with pytest.raises(RecordedFileError, match="'anomaly'"):
        draw_scenes([a_stream("a", "..")], Settings(label="anomali"), 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": -1}, "crop: wanted 0 or more, got -1"),
        ({"repeats": 0}, "repeats: wanted 1 or more, got 0"),
        ({"repeats": 2}, "repeats: wanted 1 without crop and splice"),
    ],
)
def test_settings_that_cannot_be_meant(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings(**changes)
