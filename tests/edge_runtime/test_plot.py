"""Pictures of a replay: that they are made, whatever the streams are called and hold."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from matplotlib.figure import Figure

from edge_runtime import plot
from edge_runtime.config import AlarmConfig
from edge_runtime.contract import CONTRACT_SCHEMA, Contract, Feature, Golden
from edge_runtime.errors import AndonError
from edge_runtime.lineage import Lineage
from edge_runtime.past import Reasons
from edge_runtime.payload import Flag, Share
from edge_runtime.plot import plot_flag, plot_replay
from edge_runtime.recorder import Recorded, RecordedFlag
from edge_runtime.replay import Readings
from edge_runtime.results import OK, UNCERTAIN, WARMING_UP, Result, Scored
from edge_runtime.settings import Settings
from edge_runtime.summary import Summary

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
ALARM = AlarmConfig(enter=1.0, leave=0.7, hold_steps=1)
SHARES = (Share("pressure", 0.9), Share("current", 0.1))


def contract(sensors: int = 2) -> Contract:
    names = [*(f"sensor-{n}" for n in range(2, sensors)), "current", "pressure"]
    features = tuple(Feature(name=n, unit="A" if n == "current" else "") for n in names)
    return Contract(
        schema=CONTRACT_SCHEMA,
        features=features,
        states=(),
        sample_period_ms=1000.0,
        max_gap_ms=5000.0,
        warm_up_steps=0,
        golden=Golden(x=[], score=[]),
    )


class Story:
    """Streams with a score, some of them with an alarm, as a replay would leave them."""

    def __init__(self, sensors: int = 2) -> None:
        self.contract = contract(sensors)
        self.readings: list[Readings] = []
        self.summary = Summary(ALARM.enter, keep=True)

    def add(
        self,
        name: str,
        rows: int = 200,
        alarm: tuple[int, int] | None = None,
        *,
        labels: bool = True,
    ) -> "Story":
        rng = np.random.default_rng(len(name))
        ts = START + np.arange(rows) * SECOND
        ts[rows // 3 :] += 60 * SECOND
        lit = np.zeros(rows, np.bool_)
        flags = []
        if alarm is not None:
            lit[slice(*alarm)] = True
            flags = [self._flag(name, int(ts[alarm[0]]))]
        score = rng.uniform(0.1, 0.6, rows) + 2 * lit
        status = np.full(rows, OK, np.uint8)
        status[:5], status[5:7] = WARMING_UP, UNCERTAIN
        values = rng.normal(0, 1, (rows, len(self.contract.features)))
        values[: rows // 10, 0] = np.nan
        self.readings.append(Readings(name, ts, values, lit if labels else None))
        scored = Scored(name, ts, score.astype(np.float32), status, lit)
        self.summary.add(Result([scored], flags, [], []))
        return self

    def draw(self, path: Path) -> list[Path]:
        return plot_replay(path, self.readings, self.summary, self.contract, ALARM)

    def _flag(self, name: str, ts: int) -> Flag:
        return Flag(
            id="", stream=name, ts=ts, event="raised", score=np.float32(2), status="ok",
            top=SHARES, model="",
        )  # fmt: skip


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn, to look at what stands in them; they are not written."""
    drawn: list[Figure] = []

    def keep(figure: Figure, path: Path) -> Path:
        drawn.append(figure)
        return path

    monkeypatch.setattr(plot, "save_figure", keep)
    return drawn


def words(figure: Figure) -> str:
    """All text of a picture."""
    texts = [text.get_text() for text in figure.findobj(match=_is_text)]  # type: ignore[attr-defined]
    return "\n".join(texts)


def _is_text(artist: object) -> bool:
    return type(artist).__name__ == "Text"


def names(paths: list[Path]) -> list[str]:
    assert all(path.stat().st_size > 1000 for path in paths)
    return [path.name for path in paths]


def test_one_stream_gives_one_picture(tmp_path: Path) -> None:
    written = Story().add("line1/pump3", alarm=(120, 150)).draw(tmp_path / "out.png")
    assert names(written) == ["out.png"]
    assert written[0].read_bytes().startswith(b"\x89PNG")


def test_the_picture_says_when_why_and_what_its_colours_mean(
    tmp_path: Path, figures: list[Figure]
) -> None:
    Story().add("line1/pump3", alarm=(120, 150)).draw(tmp_path / "out.png")
    text = words(figures[0])
    assert "line1/pump3: 1 alarm, at 2023-11-14 22:16:20 UTC" in text
    assert "explains 90% of the first alarm" in text
    assert "explains 10%" not in text
    for meaning in (
        "current\n[A]", "pressure", "score", "alarm above 1", "ends below 0.7",
        "score that does not count", "warming up", "alarm is on", "labelled as faulty", "time, UTC",
    ):  # fmt: skip
        assert meaning in text


def test_a_quiet_stream_says_so(tmp_path: Path, figures: list[Figure]) -> None:
    Story().add("pump", labels=False).draw(tmp_path / "out.svg")
    text = words(figures[0])
    assert "pump: no alarm" in text
    assert "alarm is on" not in text
    assert "labelled" not in text


def test_several_streams_give_an_overview_and_a_picture_of_each_alarm(
    tmp_path: Path, figures: list[Figure]
) -> None:
    story = Story().add("fan").add("line/pump", alarm=(50, 60)).add("mill", alarm=(5, 6))
    written = story.draw(tmp_path / "out.png")
    assert [path.name for path in written] == ["out.png", "out-line-pump.png", "out-mill.png"]
    assert "Score by stream: alarms on 2 of 3" in words(figures[0])
    labels = [axis.get_ylabel() for axis in figures[0].axes]
    assert labels == ["line/pump", "mill", "fan"]


def test_names_that_would_share_a_file_do_not(tmp_path: Path) -> None:
    story = Story()
    for name in ("a/b", "a-b", "../../a-b"):
        story.add(name, rows=30, alarm=(10, 12))
    written = story.draw(tmp_path / "out.png")
    assert len(set(written)) == len(written) == 4
    assert {path.parent for path in written} == {tmp_path}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names(written))


def test_any_name_can_be_drawn(tmp_path: Path) -> None:
    story = Story().add("cost $x$ and $\\frac$", rows=30, alarm=(10, 12))
    for name in (
        "caf\udce9",
        "new\nline\0",
        "\N{SNOWMAN}\N{CJK UNIFIED IDEOGRAPH-6CF5}",
        "x" * 500,
        "",
    ):
        story.add(name, rows=30)
    assert len(story.draw(tmp_path / "out.png")) == 2


def test_a_long_name_keeps_its_ends(tmp_path: Path, figures: list[Figure]) -> None:
    Story().add("site/" * 20 + "pump-7").add("other").draw(tmp_path / "out.png")
    label = figures[0].axes[0].get_ylabel()
    assert label.startswith("site/site/")
    assert label.endswith("site/pump-7")
    assert len(label) == plot.MAX_NAME


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_stream_with_next_to_nothing(tmp_path: Path, rows: int) -> None:
    Story().add("short", rows=rows).add("empty", rows=0).draw(tmp_path / "two.png")
    Story().add("short", rows=rows, alarm=(0, 1) if rows else None).draw(tmp_path / "one.png")


def test_a_stream_whose_every_sample_was_refused(tmp_path: Path, figures: list[Figure]) -> None:
    story = Story().add("pump")
    story.summary = Summary(ALARM.enter, keep=True)
    story.draw(tmp_path / "out.png")
    assert "nothing was scored" in words(figures[0])


def test_a_huge_score_does_not_flatten_the_rest(tmp_path: Path, figures: list[Figure]) -> None:
    story = Story().add("pump", alarm=(100, 120))
    scored = story.summary._scored["pump"][0]
    scored.score[110] = 1e6
    story.draw(tmp_path / "out.png")
    assert figures[0].axes[-1].get_yscale() == "symlog"


def test_many_sensors_leave_those_that_explain(
    tmp_path: Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "MAX_SENSORS", 3)
    Story(sensors=10).add("pump", alarm=(50, 60)).draw(tmp_path / "out.png")
    labels = [axis.get_ylabel() for axis in figures[0].axes]
    assert len(labels) == 3 + 1
    assert {"current\n[A]", "pressure"} <= set(labels)
    assert "sensors not shown: 7" in words(figures[0])


def test_many_streams_are_cut_off_and_counted(
    tmp_path: Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "MAX_STREAMS", 2)
    story = Story()
    for number in range(3):
        story.add(f"pump-{number}", rows=30, alarm=(10, 12))
    assert len(story.draw(tmp_path / "out.png")) == 3
    assert "alarms on 3 of 3   (streams not shown: 1)" in words(figures[0])


def test_streams_of_other_days_have_their_own_axes(tmp_path: Path, figures: list[Figure]) -> None:
    story = Story().add("monday").add("tuesday")
    story.readings[1].ts[:] += 86_400 * SECOND
    story.draw(tmp_path / "far.png")
    Story().add("a").add("b").draw(tmp_path / "near.png")
    spans = [[axis.get_xlim() for axis in figure.axes] for figure in figures]
    assert spans[0][0] != spans[0][1]
    assert spans[1][0] == spans[1][1]


def test_a_long_series_is_thinned_and_keeps_its_peaks(
    tmp_path: Path, figures: list[Figure]
) -> None:
    rows = 200_000
    story = Story().add("pump", rows=rows, labels=False)
    peaks = {12_345: 77.0, 150_001: -55.0}
    for row, value in peaks.items():
        story.readings[0].values[row, 1] = value
    on = story.summary.series("pump").alarm
    on[::50] = True  # a lamp that flickers 4,000 times
    story.summary._scored["pump"][0].alarm[:] = on
    story.draw(tmp_path / "out.png")
    (line,) = figures[0].axes[1].lines
    drawn = np.asarray(line.get_ydata(), np.float64)
    assert len(drawn) < 2 * plot.MAX_POINTS
    assert set(peaks.values()) <= set(drawn.tolist())
    assert len(figures[0].axes[1].collections) < 6


def test_thinning_keeps_peaks_beside_missing_cells_and_the_gaps() -> None:
    days = np.arange(100_000, dtype=np.float64)
    values = np.full(100_000, 5.0)
    values[::7] = np.nan
    values[40_001] = 3.0
    values[60_000:70_000] = np.nan
    shown, thinned = plot._thinned(days, values)
    assert 3.0 in thinned
    assert (np.diff(shown) > 0).all()
    values = np.arange(100_000, dtype=np.float64)
    values[50_001] = np.nan
    assert np.isnan(plot._thinned(days, values)[1]).sum() == 1
    assert np.isnan(thinned[(shown > 60_100) & (shown < 69_900)]).all()


def test_a_silence_breaks_the_line(tmp_path: Path, figures: list[Figure]) -> None:
    Story().add("pump", rows=30).draw(tmp_path / "out.png")
    for axis in figures[0].axes:
        line = axis.lines[0]
        assert np.isnan(np.asarray(line.get_ydata(), np.float64)[10])


def test_a_format_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(AndonError, match=r"out\.xyz: Format 'xyz' is not supported.*png"):
        Story().add("pump", rows=30).draw(tmp_path / "out.xyz")
    assert list(tmp_path.iterdir()) == []


def test_without_a_suffix_it_is_png(tmp_path: Path) -> None:
    (path,) = Story().add("pump", rows=30).draw(tmp_path / "out")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [found.name for found in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("suffix", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
def test_other_formats(tmp_path: Path, suffix: str, start: bytes) -> None:
    (path,) = Story().add("pump", rows=30).draw(tmp_path / f"out.{suffix}")
    assert path.read_bytes().startswith(start)


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AndonError, match=re.escape("pip install 'andon[plot]'")):
        Story().add("pump", rows=30).draw(tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_loaded_only_when_something_is_drawn() -> None:
    code = "import sys, edge_runtime.plot; sys.exit('matplotlib' in sys.modules)"
    result: subprocess.CompletedProcess[Any] = subprocess.run(
        [sys.executable, "-c", code], check=False
    )
    assert result.returncode == 0


def reasons(features: int, name: str) -> Reasons:
    """A flag of which the last sensor has the largest share, then the one before it, and so on."""
    names = [f"{name}-{number}" for number in range(features)]
    shares = np.arange(1, features + 1) / np.arange(1, features + 1).sum()
    ts = START + np.arange(60) * SECOND
    rng = np.random.default_rng(1)
    scored = Scored(
        "line/pump",
        ts,
        rng.uniform(0, 2, 60).astype(np.float32),
        np.full(60, OK, np.uint8),
        ts > ts[40],
        contribution=np.tile(shares, (60, 1)).astype(np.float32),
    )
    top = [{"feature": names[-1], "share": shares[-1]}]
    recorded = Recorded(1, Lineage("", "", "", 0), {})
    return Reasons(
        RecordedFlag("1", recorded, "line/pump", int(ts[40]), {"event": "raised", "top": top}),
        msgspec.structs.replace(contract(), features=tuple(Feature(n, "") for n in names)),
        Settings(),
        Readings("line/pump", ts, rng.normal(0, 1, (60, features)), None),
        scored,
        40,
    )


@pytest.mark.parametrize("name", ["s", "a-very-long-name-of-a-sensor-in-the-north-of-the-plant"])
def test_long_names_leave_the_panels_their_room(
    tmp_path: Path, figures: list[Figure], name: str
) -> None:
    plot_flag(tmp_path / "flag.png", reasons(30, name))
    (figure,) = figures
    figure.draw_without_rendering()
    assert all(axis.get_position().width > 0.75 for axis in figure.axes)
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert legend.get_window_extent().width < figure.axes[-1].get_window_extent().width


def test_the_picture_of_a_flag_shows_the_sensors_behind_it(
    tmp_path: Path, figures: list[Figure]
) -> None:
    plot_flag(tmp_path / "flag.png", reasons(8, "s"))
    labels = [axis.get_ylabel() for axis in figures[0].axes]
    assert labels[:6] == ["s-7\n22% of the score", "s-6", "s-5", "s-4", "s-3", "s-2"]
    assert "2 others" in words(figures[0])
    plot_flag(tmp_path / "flag.png", reasons(7, "s"))
    assert "others" not in words(figures[1])
    assert "s-0" in words(figures[1])  # one more is as short as "1 others"
