"""The daemon and its database: real processes, a real mosquitto, and what an operator sees."""

import configparser
import json
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from conftest import Broker
from edge_runtime.run_cli import NEEDS_SOMEBODY
from edge_runtime.session import load_model
from journals import Site, story
from plant import (
    START_MS,
    THE_END,
    Plant,
    Reading,
    andon,
    readings_of,
)
from sample_models import FEATURES, WARM_UP_STEPS, sample_model


@pytest.fixture
def plant(tmp_path: Path, broker: Broker) -> Plant:
    return Plant(tmp_path, broker)


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Another process writes and does not come to an end."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


def assert_as_replayed(plant: Plant, model: Path, readings: list[Reading]) -> None:
    """Scores and flags are those of the replay; what was heard twice is what was heard before."""
    scores, flags = plant.replay(model, readings)
    assert len(scores) == len(readings)
    assert plant.heard.scores == scores
    expected = {flag["id"]: flag for flag in flags}
    assert len(expected) > 20
    assert {flag["id"]: flag for flag in plant.heard.flags} == expected
    for name in {name for name, _, _ in readings}:
        first = list(dict.fromkeys(f["id"] for f in plant.heard.flags if f["stream"] == name))
        assert first == [f["id"] for f in flags if f["stream"] == name]


def test_a_killed_daemon_goes_on_where_it_was(plant: Plant) -> None:
    """SIGKILL under load, a start, SIGKILL again: as if nothing had happened."""
    model, readings = sample_model("lstm"), readings_of(streams=5, steps=120)
    plant.configure(model)
    third = len(readings) // 3
    with plant.listener() as listener:
        for part in (readings[:third], readings[third : 2 * third]):
            with plant.daemon() as daemon:
                plant.hear_status(listener, "online")
                plant.send(part)
                plant.hear(listener, scores=len(plant.heard.scores) + third // 2)
                daemon.send_signal(signal.SIGKILL)
        with plant.daemon():
            plant.hear_status(listener, "online")
            plant.send(readings[2 * third :])
            plant.publish([THE_END])
            plant.hear(listener, scores=len(readings), rejected=1)
    assert "5 streams go on" in plant.log
    assert_as_replayed(plant, model, readings)


def test_a_locked_database_holds_everything_back_and_is_said(plant: Plant) -> None:
    model, readings = sample_model("gru"), readings_of(streams=4, steps=60)
    plant.configure(model)
    half = len(readings) // 2
    with plant.listener() as listener, plant.daemon():
        plant.hear_status(listener, "online")
        plant.send(readings[:half])
        plant.hear(listener, scores=half)
        with holding(plant.folder / "gateway.db"):
            plant.send(readings[half:])
            details = plant.hear_status(listener, "degraded")
            assert "gateway.db: is locked by another process" in details["cause"]
        plant.hear_status(listener, "online")
        plant.publish([THE_END])
        plant.hear(listener, scores=len(readings), rejected=1)
    assert_as_replayed(plant, model, readings)
    assert plant.heard.repeated == 0


def test_a_database_that_is_locked_at_the_start_is_waited_for(plant: Plant) -> None:
    model, readings = sample_model("gru"), readings_of(streams=4, steps=40)
    plant.configure(model)
    half = len(readings) // 2
    with plant.listener() as listener:
        with plant.daemon():
            plant.hear_status(listener, "online")
            plant.send(readings[:half])
            plant.hear(listener, scores=half)
        plant.hear_status(listener, "stopped")
        with holding(plant.folder / "gateway.db"), plant.daemon():
            plant.hear_status(listener, "degraded")
            plant.send(readings[half:])
            assert len(plant.heard.scores) == half
        plant.hear_status(listener, "stopped")
        with plant.daemon():
            plant.publish([THE_END])
            plant.hear(listener, scores=len(readings), rejected=1)
    assert_as_replayed(plant, model, readings)


def test_a_second_daemon_on_the_same_database_is_refused(plant: Plant) -> None:
    path = plant.configure(sample_model())
    with plant.listener() as listener, plant.daemon():
        plant.hear_status(listener, "online")
        path.write_text(path.read_text().replace('client_id = "gw"', 'client_id = "other"'))
        done = andon(plant.folder, "run", "gateway.toml")
    assert done.returncode == 1
    assert "gateway.db: another daemon uses it" in done.stderr


def test_another_model_starts_cold_and_says_so(plant: Plant) -> None:
    readings = readings_of(streams=3, steps=20)
    plant.configure(sample_model("gru"))
    with plant.listener() as listener, plant.daemon():
        plant.hear_status(listener, "online")
        plant.send(readings)
        plant.hear(listener, scores=len(readings))
    plant.configure(sample_model("lstm"))
    with plant.listener() as listener, plant.daemon():
        details = plant.hear_status(listener, "online")
        plant.hear_events(listener, 1)
    (event,) = plant.heard.events
    (pipeline,) = details["pipelines"]
    assert pipeline["start"] == "cold"
    assert "it is kept beside" in pipeline["cause"]
    assert event["event"] == "cold_start"
    assert event["cause"] == pipeline["cause"]
    plant.configure(sample_model("gru"))
    with plant.listener() as listener, plant.daemon():
        (pipeline,) = plant.hear_status(listener, "online")["pipelines"]
    assert (pipeline["start"], pipeline["streams"]) == ("warm", 3)


def test_a_damaged_database_is_set_aside_and_said(plant: Plant) -> None:
    plant.configure(sample_model("gru"))
    readings = readings_of(streams=3, steps=20)
    with plant.listener() as listener, plant.daemon():
        plant.hear_status(listener, "online")
        plant.send(readings)
        plant.hear(listener, scores=len(readings))
    path = plant.folder / "gateway.db"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with plant.listener() as listener, plant.daemon():
        details = plant.hear_status(listener, "online")
    (aside,) = details["set_aside"]
    (name,) = [found.name for found in plant.folder.glob("gateway.db.damaged-*")]
    assert aside.startswith(name)
    assert details["pipelines"][0]["start"] == "cold"
    assert (plant.folder / name).read_bytes() == content[: len(content) // 2]


def test_topics_within_topics_bring_each_message_once(plant: Plant) -> None:
    """A device without a clock, heard by two pipelines: the broker must not send a copy each."""
    model, readings = sample_model("gru"), readings_of(streams=2, steps=20)
    path = plant.configure(model, pipeline='ts = "arrival"')
    second = path.read_text().partition("[[pipeline]]")[2].partition("[pipeline.alarm]")[0]
    second = second.replace("plant/{machine}/", "plant/m1/").replace('"{machine}"', '"only m1"')
    second = second.replace("andon/{machine}/", "andon/only/")
    path.write_text(f"{path.read_text()}[[pipeline]]{second}")
    with plant.listener() as listener:
        with plant.daemon():
            plant.hear_status(listener, "online")
            plant.send(readings)
            plant.publish([THE_END])
            plant.hear(listener, rejected=1)
        plant.hear_status(listener, "stopped")
    assert "gw stopped: 41 messages, 60 samples scored" in plant.log


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_another_topic_ends_the_subscription_to_the_last(plant: Plant, protocol: str) -> None:
    """The session has it for ever otherwise, and every message that both match comes twice."""
    readings = readings_of(streams=2, steps=10)
    path = plant.configure(sample_model("gru"), broker=f'protocol = "{protocol}"')
    with plant.listener() as listener:
        for part in (readings[:10], readings[10:]):
            with plant.daemon():
                plant.hear_status(listener, "online")
                plant.send(part)
                plant.publish([THE_END])
                plant.hear(listener, rejected=len(plant.heard.rejected) + 1)
            plant.hear_status(listener, "stopped")
            text = path.read_text().replace("plant/{machine}/telemetry", "plant/{machine}/{kind}")
            path.write_text(text.replace('stream = "{machine}"', 'stream = "{machine} {kind}"'))
    assert plant.log.count("gw stopped: 11 messages, 10 samples scored") == 2


def test_a_database_that_is_removed_is_missed_before_anything_is_acknowledged(plant: Plant) -> None:
    """What is written into a file without a name is gone with the process."""
    model, readings = sample_model("gru"), readings_of(streams=2, steps=15)
    plant.configure(model)
    with plant.listener() as listener:
        with plant.daemon() as daemon:
            plant.hear_status(listener, "online")
            plant.send(readings[:10])
            plant.hear(listener, scores=10)
            (plant.folder / "gateway.db").rename(plant.folder / "elsewhere.db")
            plant.send(readings[10:20])
            plant.hear(listener, scores=20)
            daemon.send_signal(signal.SIGKILL)
        with plant.daemon():
            plant.hear_status(listener, "online")
            plant.send(readings[20:])
            plant.hear(listener, scores=30)
    assert "was removed or replaced while in use" in plant.log
    assert "2 streams go on" in plant.log
    assert plant.heard.scores == plant.replay(model, readings)[0]


def test_resets_are_published_with_their_reason_and_counted(plant: Plant) -> None:
    readings = [
        (name, ts + 60_000 * (ts >= 1_767_225_610_000), values)
        for name, ts, values in readings_of(streams=3, steps=20)
    ]
    plant.configure(sample_model("gru"))
    with plant.listener() as listener, plant.daemon():
        plant.hear_status(listener, "online")
        plant.send(readings)
        plant.publish([THE_END])
        plant.hear(listener, scores=len(readings), rejected=1)
        plant.hear_events(listener, 3)
    events = plant.heard.events
    assert {event["stream"] for event in events} == {"m0", "m1", "m2"}
    assert {(e["event"], e["cause"], e["ts"]) for e in events} == {
        ("reset", "gap", 1_767_225_670_000)
    }
    assert sorted(event["count"] for event in events) == [1, 2, 3]
    assert len({event["id"] for event in events}) == 3
    assert "'m1' starts afresh at 2026-01-01 00:01:10.000Z: gap" in plant.log


def test_the_analyst_asks_while_the_daemon_runs(plant: Plant) -> None:
    """`andon replay --journal` gives the live scores, `andon explain` what led to a flag."""
    model, readings = sample_model("lstm"), readings_of(streams=4, steps=60)
    plant.configure(model)
    with plant.listener() as listener, plant.daemon():
        plant.hear_status(listener, "online")
        plant.send(readings)
        plant.publish([THE_END])
        plant.hear(listener, scores=len(readings), rejected=1)
        options = ("--scores", "journal.jsonl", "--flags", "journal-flags.jsonl", "--plot", "j.png")
        replayed = andon(plant.folder, "replay", "--journal", "gateway.db", *options)
        flag = plant.heard.flags[10]
        told = andon(plant.folder, "explain", "gateway.db", flag["id"], "--plot", "why.png")
        as_json = andon(plant.folder, "explain", "gateway.db", flag["id"][:12], "--json")
    assert f"; id {flag['id'][:16]}" in plant.log
    assert replayed.returncode == 0, replayed.stderr
    lines = (plant.folder / "journal.jsonl").read_text().splitlines()
    scores = {(line["stream"], line["ts"]): line for line in map(json.loads, lines)}
    assert scores == plant.heard.scores
    flags = (plant.folder / "journal-flags.jsonl").read_text().splitlines()
    by_id = lambda flag: flag["id"]  # noqa: E731
    assert sorted(map(json.loads, flags), key=by_id) == sorted(plant.heard.flags, key=by_id)
    assert told.returncode == 0, told.stderr
    assert f"{flag['event']}  {flag['stream']}  2026-01-01 " in told.stdout
    assert f"score {flag['score']}" in told.stdout
    assert (plant.folder / "why.png").read_bytes()[:4] == b"\x89PNG"
    report = json.loads(as_json.stdout)
    assert report["flag"] == flag
    (row,) = [row for row in report["samples"] if row["ts"] == flag["ts"]]
    sent = {(name, ts): values for name, ts, values in readings}
    assert list(row["values"].values()) == pytest.approx(sent[flag["stream"], flag["ts"]], rel=1e-6)
    assert row["score"] == flag["score"]
    assert max(row["shares"], key=row["shares"].get) == flag["top"][0]["feature"]
    wanted = ("--stream", "m2", "--from", "2026-01-01T00:00:20Z", "--to", "2026-01-01T00:00:29Z")
    some = andon(plant.folder, "replay", "--journal", "gateway.db", *wanted, "--scores", "s.jsonl")
    assert some.returncode == 0, some.stderr
    lines = (plant.folder / "s.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        scores["m2", 1_767_225_620_000 + 1000 * second] for second in range(10)
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("explain", "gateway.db", "ffff"), "holds no flag 'ffff'; the newest are"),
        (("explain", "nothing.db", "ffff"), "nothing.db: No such file or directory"),
        (("replay", "--journal", "gateway.db", "--stream", "m9"), "does not hold the stream"),
        (("replay", "--journal", "gateway.db", "--pipeline", "x"), "does not hold such a pipeline"),
        (("replay", "--journal", "gateway.db", "m.onnx", "a.csv"), "no FILES are read: a.csv"),
        (
            ("replay", "--journal", "gateway.db", "--enter", "2"),
            "the settings are those of the time",
        ),
        (("replay", "--stream", "m1"), "go with --journal"),
        (("replay",), "wanted MODEL and FILES, or --journal"),
        (
            ("replay", "--journal", "gateway.toml"),
            "is no database of a gateway, or its beginning is damaged",
        ),
        (("explain", ".", "ffff"), "wanted a gateway's database, got a folder"),
        (("replay", "--journal", "gateway.db", "--from", "Tuesday"), "wanted milliseconds or ISO"),
        (("replay", "--journal", "gateway.db", "--from", "2", "--to", "1"), "must not be later"),
        (("explain", "gateway.db", "--from", "2", "--to", "1"), "--from must not be later than"),
        (("explain", "gateway.db", "f", "--from", "2"), "choose from the list, without FLAG_ID"),
        (("explain", "gateway.db", "f", "--plot", "gateway.db"), "would be overwritten"),
    ],
)
def test_questions_that_have_no_answer(
    asked: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    done = andon(asked, *arguments)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, module_broker: Broker) -> Path:
    plant = Plant(tmp_path_factory.mktemp("asked"), module_broker)
    plant.configure(sample_model("gru"))
    readings = readings_of(streams=3, steps=20)
    with plant.listener() as listener, plant.daemon():
        plant.hear_status(listener, "online")
        plant.send(readings)
        plant.hear(listener, scores=len(readings))
    return plant.folder


def test_what_happened_on_tuesday(asked: Path) -> None:
    """Every flag of a time, with what it takes to ask for the reasons."""
    whole = json.loads(andon(asked, "explain", "gateway.db", "--json").stdout)["flags"]
    assert len(whole) > 10
    m1 = [flag for flag in whole if flag["stream"] == "m1" and flag["ts"] > START_MS + 10_000]
    choice = ("--stream", "m1", "--from", "2026-01-01T00:00:11")
    listed = andon(asked, "explain", "gateway.db", *choice)
    lines = listed.stdout.splitlines()
    assert len(lines) == len(m1) > 1
    for line, flag in zip(lines, m1, strict=True):
        assert flag["event"] in line
        assert flag["top"][0]["feature"] in line
        (name,) = re.findall(r"[0-9a-f]{16}", line)
        assert flag["id"].startswith(name)
    assert andon(asked, "explain", "gateway.db", name, "--no-plot").returncode == 0
    never = andon(asked, "explain", "gateway.db", "--from", "2027-01-01")
    assert (never.returncode, never.stdout) == (0, "")
    assert "no such flags; it holds 3 streams" in never.stderr


def test_a_time_that_is_not_covered_is_said(asked: Path) -> None:
    question = ("replay", "--journal", "gateway.db", "--from", "2027-01-01", "--plot", "never.png")
    done = andon(asked, *question)
    assert done.returncode == 0
    covered = "the journal holds 2026-01-01 00:00:00Z to 2026-01-01 00:00:19Z"
    assert f"nothing of that time; {covered} of it, so no picture" in done.stderr
    assert not (asked / "never.png").exists()


def test_the_rule_is_that_of_the_time(plant: Plant) -> None:
    """A threshold that was changed later neither explains nor counts what was before."""
    readings = readings_of(streams=1, steps=40)
    path = plant.configure(sample_model("gru"))
    for part in (readings[:20], readings[20:]):
        with plant.listener() as listener, plant.daemon():
            plant.hear_status(listener, "online")
            plant.send(part)
            plant.hear(listener, scores=len(plant.heard.scores) + 20)
        path.write_text(path.read_text().replace("enter = 1.0", "enter = 1000.0"))
    flag = next(flag for flag in plant.heard.flags if flag["event"] == "raised")
    told = andon(plant.folder, "explain", "gateway.db", flag["id"], "--no-plot")
    assert "rule     above 1, until below 0.9, 1 samples in a row" in told.stdout
    done = andon(plant.folder, "replay", "--journal", "gateway.db", "--json")
    scores = [line["score"] for line in plant.heard.scores.values() if line["status"] == "ok"]
    early = scores[: 20 - WARM_UP_STEPS]
    (stream,) = json.loads(done.stdout)["streams"]
    assert stream["above_threshold"] == sum(score > 1.0 for score in early)
    assert "until 2026-01-01 00:00:20Z the rule was another: above 1, until" in done.stderr
    before = ("--to", "2026-01-01T00:00:19Z")
    done = andon(plant.folder, "replay", "--journal", "gateway.db", *before)
    assert "(above 1, until below 0.9, 1 samples in a row)" in done.stderr


@pytest.mark.parametrize("with_log", [False, True])
def test_a_copy_may_be_where_nothing_can_be_written(
    asked: Path, tmp_path: Path, *, with_log: bool
) -> None:
    """As another user, with and without the log of a daemon that has not come to its end."""
    source, copy = sqlite3.connect(asked / "gateway.db"), tmp_path / "gateway.db"
    target = sqlite3.connect(copy)
    source.backup(target)
    source.close()
    if with_log:
        (tmp_path / "apart").mkdir()
        target.execute("INSERT INTO meta VALUES ('new', 1)")
        target.commit()
        for end in ("", "-wal"):
            shutil.copyfile(f"{copy}{end}", tmp_path / "apart" / f"gateway.db{end}")
        copy = tmp_path / "apart" / "gateway.db"
        assert (tmp_path / "apart" / "gateway.db-wal").stat().st_size
    target.close()
    before = sorted(path.name for path in copy.parent.iterdir())
    done = andon(
        asked,
        *("replay", "--journal", str(copy), "--scores", "of-the-copy.jsonl"),
        without_rights_to=copy.parent,
    )
    assert done.returncode == 0, done.stderr
    assert len((asked / "of-the-copy.jsonl").read_text().splitlines()) == 60
    assert sorted(path.name for path in copy.parent.iterdir()) == before


def test_a_picture_that_cannot_be_written_is_said(asked: Path, tmp_path: Path) -> None:
    flag = sqlite3.connect(asked / "gateway.db").execute("SELECT id FROM flag").fetchone()[0]
    for command in (("explain", "gateway.db", flag), ("replay", "--journal", "gateway.db")):
        place = tmp_path / "why.png"
        done = andon(asked, *command, "--plot", str(place), without_rights_to=tmp_path)
        assert done.returncode == 1
        assert done.stderr.endswith(f"Error: {place}: cannot be written: Permission denied\n")


def test_what_a_start_refuses_is_not_good_and_not_tried_again(asked: Path, tmp_path: Path) -> None:
    """The exit code tells a supervisor that another start would be refused as well."""
    text = (asked / "gateway.toml").read_text()
    path = tmp_path / "gateway.db"
    (tmp_path / "gateway.toml").write_text(text.replace("emit =", "max_streams = 2\nemit ="))
    source = sqlite3.connect(asked / "gateway.db")
    with closing(source), closing(sqlite3.connect(path)) as target:
        source.backup(target)
    for complaint in ("3 streams of|wanted 3 at least", "by a newer Andon", "another program"):
        checked, ran = (andon(tmp_path, command, "gateway.toml") for command in ("check", "run"))
        assert (checked.returncode, ran.returncode) == (1, 78)
        for done in (checked, ran):
            assert re.search(complaint, done.stderr)
            assert str(path.name) in done.stderr or done is ran
            assert "good" not in done.stdout
        with closing(sqlite3.connect(path)) as changed:
            changed.execute("PRAGMA user_version = 3")
            if "newer" in complaint:
                changed.execute("PRAGMA application_id = 1")
    path.write_bytes(b"text")  # which is set aside
    assert andon(tmp_path, "check", "gateway.toml").returncode == 0


def test_the_unit_does_not_start_again_what_was_refused() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(Path(__file__).parents[2] / "configs" / "edge" / "andon.service")
    service = unit["Service"]
    assert service["ExecStart"] == "/opt/andon/bin/andon run /etc/andon/gateway.toml"
    assert service["RestartPreventExitStatus"] == str(NEEDS_SOMEBODY)
    # A command before it is not asked for its exit code: it would be tried again for ever.
    assert "ExecStartPre" not in service


def test_check_says_what_the_database_holds(asked: Path) -> None:
    done = andon(asked, "check", "gateway.toml")
    assert "gateway.db: 3 streams of 1 pipelines" in done.stdout
    assert "synchronous full, 1024 MB and 24 h at most" in done.stdout


def test_what_waits_for_a_database_survives_the_end_of_broker_and_gateway(
    tmp_path: Path, shipped_broker: Broker
) -> None:
    """Mosquitto saves what is on its way when the degraded gateway says its status again."""
    plant = Plant(tmp_path, shipped_broker)
    model, readings = sample_model("gru"), readings_of(streams=4, steps=60)
    plant.configure(model)
    half = len(readings) // 2
    with plant.listener() as listener, plant.daemon() as daemon:
        plant.hear_status(listener, "online")
        plant.send(readings[:half])
        plant.hear(listener, scores=half)
        with holding(tmp_path / "gateway.db"):
            plant.send(readings[half:])
            for _ in range(3):  # the first may have come before the last message
                plant.hear_status(listener, "degraded")
            shipped_broker.kill()
            daemon.send_signal(signal.SIGKILL)
    shipped_broker.start()
    with plant.listener() as listener, plant.daemon():
        plant.hear_status(listener, "online")
        plant.publish([THE_END])
        plant.hear(listener, scores=len(readings), rejected=1)
    assert_as_replayed(plant, model, readings)


@pytest.mark.parametrize("source", ["journal", "file"])
def test_results_that_do_not_fit_on_the_disk_are_one_sentence(tmp_path: Path, source: str) -> None:
    model = sample_model("gru")
    if source == "journal":
        site = Site(tmp_path / "gateway.db", [load_model(model)]).open()
        for some in story(1, steps=200):
            site.take({0: some})
        site.journal.close()
        given = ["--journal", "gateway.db"]
    else:
        rows = [f"{1_767_225_600_000 + 1000 * i},1,2,3\n" for i in range(1000)]
        (tmp_path / "long.csv").write_text(f"ts,{','.join(FEATURES)}\n{''.join(rows)}")
        given = [str(model), "long.csv"]
    command = shlex.join([sys.executable, "-m", "edge_runtime", "replay", *given])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 40; exec {command} --scores full.jsonl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("Error: the results cannot be written: File too large\n")
    assert not (tmp_path / "full.jsonl").exists()
