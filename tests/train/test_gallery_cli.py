"""`andon gallery` as its users see it: what it writes, keeps and refuses; its page in a browser."""

import html
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

import pytest
from click.testing import CliRunner, Result

from edge_runtime.cli import main
from edge_runtime.errors import TrainingError
from train.gallery import adder, adding
from train.gallery.adding import Curve, Task
from train.gallery.examples import AddingProblem, Options
from train.gallery.workers import learn_all

PATIENCE_S = 30.0
TINY = ("--steps", "2", "--jobs", "2")
PICTURES = ("by-hand.png", "adder.png", "powers.png", "cliff.png", "adding.png")


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples that are trained within a second, and badly."""
    monkeypatch.setattr(adder, "ADDITIONS", 256)
    monkeypatch.setattr(adding, "LENGTHS", (3, 5))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole gallery in it; not to be changed."""
    folder = tmp_path_factory.mktemp("gallery") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adder, "ADDITIONS", 256)
        patch.setattr(adding, "LENGTHS", (3, 5))
        result = run(folder, *TINY)
    assert result.exit_code == 0, result.output
    return folder


def run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["gallery", "-o", str(folder), *options])


def options(folder: Path, **changes: Any) -> Options:
    given = {"steps": 2, "jobs": 1, "seed": 0, "force": False, **changes}
    return Options(folder=folder, **given)


# What is written.


def test_pictures_page_and_results_are_there_and_nothing_else(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {
        *PICTURES, "index.html", "adder.json", "adding.json",
    }  # fmt: skip
    assert all((made / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)


def test_the_results_are_those_of_every_cell_and_length_in_any_process(made: Path) -> None:
    document = json.loads((made / "adding.json").read_text())
    assert (document["schema"], document["settings"]["steps"]) == (1, 2)
    found = {(curve["cell"], curve["length"]): curve for curve in document["results"]}
    assert set(found) == {(cell, n) for cell in adding.LEARNING_RATES for n in (3, 5)}
    task = Task(cell="gru", length=5, steps=2, learning_rate=0.01, seed=0)
    here = adding.learn(task, lambda _: None)
    assert found["gru", 5]["errors"] == [*here.errors]
    assert found["gru", 5]["steps"] == [0, 1, 2]


class _Tags(HTMLParser):
    """What stands in a page, and whether every tag that opens also closes."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def test_the_page_is_whole_and_names_its_pictures(made: Path) -> None:
    tags = _Tags()
    tags.feed((made / "index.html").read_text())
    assert tags.open == []
    assert [image["src"] for image in tags.of("img")] == [*PICTURES]
    assert all(len(image["alt"] or "") > 40 for image in tags.of("img"))
    assert tags.of("script") == []
    assert len(tags.of("h2")) == 4


def test_the_page_tells_what_was_measured(made: Path) -> None:
    page = (made / "index.html").read_text()
    results = json.loads((made / "adding.json").read_text())["results"]
    (gru,) = (c for c in results if (c["cell"], c["length"]) == ("gru", 5))
    assert "<tr><th>gru</th><td>0.01</td>" in page
    assert f"<td>{gru['errors'][-1]:.2g}</td></tr>" in page
    without = json.loads((made / "adder.json").read_text())["results"][1]
    assert f"it got {100 * without['digits'][-1]:.4g} % of the digits" in page.replace("\n", " ")
    assert "2 steps of Adam" in page


# In a browser. A window cannot be as narrow as a phone, a frame can.

FRAME = """<!DOCTYPE html><body>
<script>addEventListener("message", event => { document.body.dataset.report = event.data; });
</script>
<iframe src="index.html" width="380" height="800" style="border: 0"></iframe>"""
REPORT = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
  images: [...document.images].map(image => [image.complete, image.naturalWidth]),
  wide: document.documentElement.scrollWidth, seen: document.documentElement.clientWidth,
  window: innerWidth}), "*"));</script>"""


def reported(program: str, folder: Path) -> dict[str, Any]:
    """What the copied page says of itself in a frame of 380 pixels."""
    page = folder / "index.html"
    page.write_text(page.read_text().replace("</body>", f"{REPORT}</body>"))
    (folder / "frame.html").write_text(FRAME)
    done = subprocess.run(
        [
            program, "--headless", "--no-sandbox", "--disable-gpu",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--no-first-run", f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=10000", "--dump-dom", (folder / "frame.html").as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    report = re.search(r'data-report="([^"]*)"', done.stdout)
    assert report is not None, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(html.unescape(report.group(1)))
    return found


def test_the_page_in_a_browser_as_narrow_as_a_phone(
    made: Path, chromium: str, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    report = reported(chromium, folder)
    assert len(report["images"]) == len(PICTURES)
    assert all(complete and width > 0 for complete, width in report["images"])
    assert report["window"] == 380
    assert report["wide"] == report["seen"]  # nothing scrolls sideways


# What is kept.


@pytest.mark.usefixtures("_small")
def test_a_second_run_only_draws(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    (folder / "adding.png").unlink()
    result = run(folder, *TINY)
    assert result.exit_code == 0, result.output
    assert "training" not in result.output
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before
    assert (folder / "adding.png").exists()


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "wanted results of schema 1, got 2"),
        ({"settings": {"steps": 7}}, "steps was 7, is 2"),
        ({"results": [{"cell": "gru"}]}, "missing required field"),
        ({"settings": 5}, "wanted results of andon gallery"),
    ],
)
def test_results_of_something_else_are_refused(
    change: dict[str, Any], reason: str, made: Path, tmp_path: Path
) -> None:
    document = {**json.loads((made / "adding.json").read_text()), **change}
    (tmp_path / "adding.json").write_text(json.dumps(document))
    result = run(tmp_path, "--only", "adding", *TINY)
    assert result.exit_code == 1
    assert str(tmp_path / "adding.json") in result.output
    assert reason in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["adding.json"]


@pytest.mark.usefixtures("_small")
def test_force_trains_anew(made: Path, tmp_path: Path) -> None:
    (tmp_path / "adding.json").write_text("rubbish")
    assert run(tmp_path, "--only", "adding", *TINY).exit_code == 1
    result = run(tmp_path, "--only", "adding", "--force", "--steps", "2", "--jobs", "1")
    assert result.exit_code == 0, result.output
    trained = json.loads((tmp_path / "adding.json").read_text())["results"]
    assert sorted(trained, key=str) == sorted(
        json.loads((made / "adding.json").read_text())["results"], key=str
    )


def test_only_leaves_the_others_out(tmp_path: Path) -> None:
    result = run(tmp_path, "--only", "cliff")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "powers.png", "cliff.png"}
    assert "An LSTM worked by hand" not in (tmp_path / "index.html").read_text()


@pytest.mark.usefixtures("_small")
def test_what_was_trained_before_an_interruption_is_kept(tmp_path: Path) -> None:
    whole = AddingProblem(options(tmp_path)).work
    done = 0

    def interrupt(work: int) -> None:
        nonlocal done
        done += work
        if done == 2 * 5 * 3 + 5:  # the first step of the fourth cell
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AddingProblem(options(tmp_path)).train(interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["adding.json"]
    again = AddingProblem(options(tmp_path))
    assert len(again.curves) == 3
    assert again.work == whole - 2 * 5 * 3
    again.train(lambda _: None)
    fresh = AddingProblem(options(tmp_path / "fresh"))
    fresh.train(lambda _: None)
    assert again.curves == fresh.curves


def await_workers_that_start(process: subprocess.Popen[bytes], _terminal: BinaryIO) -> None:
    """Until one of them loads PyTorch, which takes a while."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        for child in children.read_text().split():
            folder = Path("/proc") / child  # before it is another program it looks like its parent
            if "spawn_main" in (folder / "cmdline").read_text() and (
                "libtorch" in (folder / "maps").read_text()
            ):
                return


def await_workers_at_work(_process: subprocess.Popen[bytes], terminal: BinaryIO) -> None:
    """Until the bar says how long it will take."""
    said = b""
    while not re.search(rb"\d\d:\d\d:\d\d", said):
        said += terminal.read(1)


@pytest.mark.parametrize("moment", [await_workers_that_start, await_workers_at_work])
def test_ctrl_c_ends_the_workers_too(
    moment: Callable[[subprocess.Popen[bytes], BinaryIO], None], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "edge_runtime", "gallery", "-o", str(tmp_path), "--jobs", "2"]
    ours, theirs = os.openpty()  # else there is no bar
    with (
        os.fdopen(ours, "rb", buffering=0) as terminal,
        subprocess.Popen(
            [*command, "--only", "adding", "--steps", "100000"],
            stderr=theirs,
            start_new_session=True,
        ) as process,
    ):
        os.close(theirs)
        # What cannot be ended by SIGINT must not outlive the test.
        killer = Timer(3 * PATIENCE_S, os.killpg, [process.pid, signal.SIGKILL])
        killer.start()
        moment(process, terminal)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
        said = "".join(lines_of(terminal))  # ends when the last worker has closed it
        killer.cancel()
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def lines_of(terminal: BinaryIO) -> Iterator[str]:
    """What is written to a terminal until nobody has it open."""
    while True:
        try:
            yield terminal.read(4096).decode()
        except OSError:  # Linux says so at the end
            return


def test_a_worker_that_is_killed_is_an_error() -> None:
    def kill(_: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    tasks = [Task(cell="gru", length=50, steps=10_000, learning_rate=0.01, seed=0)] * 2
    with pytest.raises(TrainingError, match="a process that trained was killed"):
        list(learn_all(tasks, 2, kill))


def test_a_training_that_diverges_ends_its_curve() -> None:
    told: list[int] = []
    task = Task(cell="irnn", length=20, steps=50, learning_rate=1e30, seed=0)
    curve: Curve = adding.learn(task, told.append)
    assert len(curve.errors) < 51
    assert sum(told) == 50  # nothing is left to be waited for
    assert not adding.learnt(curve)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(
        main, ["gallery", "-o", str(tmp_path / "file" / "x"), "--only", "cliff"]
    )
    assert result.exit_code == 1
    assert "cannot be written: Not a directory" in result.stderr
