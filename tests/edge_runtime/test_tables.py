"""TOML tables into dataclasses: what is read, what is refused, and in which words."""

import os
import re
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.tables import (
    InputFile,
    OutputFile,
    Problem,
    Table,
    above,
    at_least,
    between,
    did_you_mean,
    load,
    read,
    show,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Band(Table):
    low: float = 0.0
    high: Annotated[float, above(0)] = 1.0

    def _low_at_most_high(self) -> Iterator[Problem]:
        if self.low > self.high:
            yield Problem(("low",), f"must not exceed high, got {self.low} > {self.high}")

    relations = (_low_at_most_high,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor(Table):
    name: str
    band: Band = field(default_factory=Band)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(Table):
    hall: str
    folder: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(Table):
    place: Place
    seed: int = 0
    share: Annotated[float, between(0, 1)] = 0.5
    spare: bool = False
    mode: Literal["fast", "exact"] = "fast"
    limit: Annotated[int, at_least(1)] | None = None
    labels: tuple[str, ...] = ()
    steps: tuple[Annotated[int, at_least(1)], ...] = ()
    sensor: tuple[Sensor, ...] = ()

    def _names_differ(self) -> Iterator[Problem]:
        names = [sensor.name for sensor in self.sensor]
        for at, name in enumerate(names):
            if name in names[:at]:
                yield Problem((("sensor", at), "name"), f"stands twice, got {show(name)}")

    relations = (_names_differ,)


def problems_of(text: str, folder: Path = Path("plant")) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(Machine, tomllib.loads(text), folder / "m.toml")
    prefix = f"{folder / 'm.toml'}: "
    assert all(problem.startswith(prefix) for problem in caught.value.problems)
    return [problem.removeprefix(prefix) for problem in caught.value.problems]


GOOD = 'place = { hall = "A" }\n'


def test_every_kind_of_value_is_read() -> None:
    text = """
        seed = 7
        share = 1
        spare = true
        mode = "exact"
        limit = 3
        labels = ["a", "b"]
        steps = [1, 2]
        [place]
        hall = "A"
        folder = "data"
        [[sensor]]
        name = "Current"
        [[sensor]]
        name = "Pressure"
        band = { low = -1, high = 2.5 }
    """
    machine = read(Machine, tomllib.loads(text), Path("plant/m.toml"))
    assert machine == Machine(
        place=Place(hall="A", folder=Path("plant/data")),
        seed=7,
        share=1.0,
        spare=True,
        mode="exact",
        limit=3,
        labels=("a", "b"),
        steps=(1, 2),
        sensor=(Sensor(name="Current"), Sensor(name="Pressure", band=Band(low=-1.0, high=2.5))),
    )
    assert type(machine.share) is float


def test_an_absolute_path_stays_and_defaults_hold() -> None:
    machine = read(Machine, {"place": {"hall": "A", "folder": "/data"}}, Path("plant/m.toml"))
    assert machine == Machine(place=Place(hall="A", folder=Path("/data")))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("sed = 1", "sed: unknown key, did you mean seed?"),
        ("seed = true", "seed: wanted a whole number, got true"),
        ("seed = 1.0", "seed: wanted a whole number, got 1.0"),
        ('seed = "7"', 'seed: wanted a whole number, got "7"'),
        ("seed = 2024-01-01", "seed: wanted a whole number, got 2024-01-01"),
        ('share = "half"', 'share: wanted a number, got "half"'),
        ("share = true", "share: wanted a number, got true"),
        ("share = nan", "share: wanted a finite number, got nan"),
        ("share = -inf", "share: wanted a finite number, got -inf"),
        (f"share = 1{'0' * 400}", "share: wanted a finite number, got inf"),
        ("share = 2", "share: wanted 0 to 1, got 2.0"),
        ("spare = 1", "spare: wanted true or false, got 1"),
        ('mode = "slow"', 'mode: wanted "fast" or "exact", got "slow"'),
        ("mode = 1", "mode: wanted text, got 1"),
        ("limit = 0", "limit: wanted 1 or more, got 0"),
        ("limit = [1]", "limit: wanted a whole number, got an array of 1"),
        ('labels = "a"', 'labels: wanted an array of text, got "a"'),
        ('labels = ["a", 2]', "labels 2: wanted text, got 2"),
        ("steps = [1, 0]", "steps 2: wanted 1 or more, got 0"),
        ("sensor = 1", "sensor: wanted an array of tables, got 1"),
        ('sensor = { name = "a" }', "sensor: wanted an array of tables, got a table"),
        ("sensor = [1]", "sensor 1: wanted a table, got 1"),
        ("[[sensor]]", "[[sensor]] 1 name: missing, wanted text"),
        ('[[sensor]]\nname = "a"\nband = 1', "[[sensor]] 1 band: wanted a table, got 1"),
        (
            '[[sensor]]\nname = "a"\n[[sensor]]\nname = "b"\nband.high = "high"',
            '[[sensor]] 2, [band] high: wanted a number, got "high"',
        ),
        (
            '[[sensor]]\nname = "a"\n[sensor.band]\nlow = 3\nhigh = 2',
            "[[sensor]] 1, [band] low: must not exceed high, got 3.0 > 2.0",
        ),
        (
            '[[sensor]]\nname = "a"\n[[sensor]]\nname = "a"',
            '[[sensor]] 2 name: stands twice, got "a"',
        ),
    ],
)
def test_a_problem_says_where_and_what(line: str, problem: str) -> None:
    assert problems_of(GOOD + line) == [problem]


def test_a_missing_table_says_which_keys_it_needs() -> None:
    assert problems_of("") == ["[place] hall: missing, wanted text"]
    assert problems_of("place = 3") == ["place: wanted a table, got 3"]


def test_a_name_like_no_other_lists_what_there_is() -> None:
    assert problems_of(GOOD.replace("}", ", zzz = 1 }")) == [
        "[place] zzz: unknown key, wanted one of hall, folder"
    ]
    assert did_you_mean("urll", ["url", "user"]) == "did you mean url?"


def test_all_problems_come_at_once_even_those_beside_a_bad_value() -> None:
    text = """
        seed = "x"
        share = 7
        colour = 1
        [[sensor]]
        name = "a"
        band = { low = 3, high = 2, hihg = 1 }
        [[sensor]]
        name = "a"
        band = { high = -1, low = "low" }
    """
    assert problems_of(text) == [
        "colour: unknown key, wanted one of place, seed, share, spare, mode, limit, labels, steps,"
        " sensor",
        "[place] hall: missing, wanted text",
        'seed: wanted a whole number, got "x"',
        "[[sensor]] 1, [band] hihg: unknown key, did you mean high?",
        "[[sensor]] 1, [band] low: must not exceed high, got 3.0 > 2.0",
        '[[sensor]] 2, [band] low: wanted a number, got "low"',
        "[[sensor]] 2, [band] high: wanted more than 0, got -1.0",
        "share: wanted 0 to 1, got 7.0",
        '[[sensor]] 2 name: stands twice, got "a"',
    ]


def test_an_invalid_value_cannot_be_built_in_python_either() -> None:
    with pytest.raises(ConfigError, match=r"^Band low: must not exceed high, got 3 > 2$"):
        Band(low=3, high=2)
    with pytest.raises(ConfigError, match=r"^Band low: wanted a finite number, got nan$"):
        Band(low=float("nan"))
    with pytest.raises(ConfigError, match=r"^Machine mode: wanted .fast. or .exact., got .slow.$"):
        Machine(place=Place(hall="A"), mode="slow")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^Machine steps 1: wanted 1 or more, got 0$"):
        Machine(place=Place(hall="A"), steps=(0,))


def test_values_are_shown_short() -> None:
    assert show("x" * 500) == '"' + "x" * 76 + "..."
    assert show(1 << 20_000) == "a number of 20001 bits"
    assert show({}) == "an empty table"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"seed = 1\nshare 2\n", r"wanted TOML: .*line 2"),
        (b"seed = 1\nseed = 2\n", r"wanted TOML: .*line 2"),
        (b"# ok\nmode = '\xfcber'\n", r"line 2: wanted UTF-8, got byte 0xfc"),
        ('seed = "a"'.encode("utf-16"), r"line 1: wanted UTF-8, got byte 0xff"),
        (b"seed = 1" + b"0" * 5000, r"wanted TOML: .*digits"),
        (b"steps = " + b"[" * 5000, r"wanted TOML: "),
        (f"seed = 0.5\nshare = 0x{'f' * 9000}".encode(), r"share: wanted a finite number, got inf"),
    ],
    ids=["syntax", "twice", "latin-1", "utf-16", "digits", "nesting", "hexadecimal"],
)
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"m\.toml: {problem}"):
        load(Machine, path)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(b'\xef\xbb\xbfseed = 3\r\n[place]\r\nhall = "A"\r\n')
    assert load(Machine, path).seed == 3


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(Machine, tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        load(Machine, tmp_path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files(Table):
    model: InputFile | None = None
    state: OutputFile | None = None


def test_files_are_looked_at_by_load_alone(tmp_path: Path) -> None:
    assert Files(model=Path("/nowhere/m"), state=Path("/nowhere/s")).model == Path("/nowhere/m")
    (tmp_path / "m.onnx").touch()
    good = read(Files, {"model": "m.onnx", "state": "s.db"}, tmp_path / "f.toml")
    assert good == Files(model=tmp_path / "m.onnx", state=tmp_path / "s.db")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"model": "none"}, "model: wanted a file to read, got .*none: No such file"),
        ({"model": ""}, "model: wanted a file to read, got .*: Is a directory"),
        ({"model": "n" * 300}, "model: wanted a file to read, got .*: File name too long"),
        ({"model": "\0"}, "model: wanted a path, got one with a NUL"),
        ({"state": "none/s.db"}, "state: wanted a file in a folder that exists, got .*none/s.db"),
        ({"state": "m.onnx/s.db"}, "state: wanted a file to write, got .*: Not a directory"),
        ({"state": "."}, "state: wanted a file, got the folder "),
        ({"state": "n" * 300}, "state: wanted a file to write, got .*: File name too long"),
        ({"state": "\0"}, "state: wanted a path, got one with a NUL"),
    ],
)
def test_a_file_that_will_not_do_is_refused(
    tmp_path: Path, raw: dict[str, Any], problem: str
) -> None:
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ConfigError, match=problem):
        read(Files, raw, tmp_path / "f.toml")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that may not be written, whoever runs the tests: root gives up its rights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "locked").touch(mode=0)
        folder.chmod(0o555)
        effective = os.geteuid()
        if effective == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(effective)
            folder.chmod(0o755)


def test_a_folder_without_the_right_to_write_is_refused(as_nobody: Path) -> None:
    with pytest.raises(ConfigError, match=rf"no right to write {re.escape(str(as_nobody))}$"):
        read(Files, {"state": "s.db"}, as_nobody / "f.toml")


def test_a_locked_file_is_refused(as_nobody: Path) -> None:
    with pytest.raises(ConfigError, match=r"model: wanted a file to read, .*: Permission denied"):
        read(Files, {"model": "locked"}, as_nobody / "f.toml")


SCALARS: st.SearchStrategy[Any] = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text("ab/\0\n~\u00e9", max_size=5)
    | st.dates()
    | st.times()
)
KEYS = st.sampled_from(
    [
        "place",
        "hall",
        "folder",
        "seed",
        "sede",
        "share",
        "spare",
        "mode",
        "limit",
        "labels",
        "steps",
        "sensor",
        "name",
        "band",
        "low",
        "high",
    ]
)
TOML: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=8,
    ),
    max_size=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TOML)
def test_nothing_but_a_config_error_is_raised(raw: dict[str, Any]) -> None:
    try:
        machine = read(Machine, raw, Path("m.toml"))
    except ConfigError as error:
        problems = error.problems
    else:
        problems = ()
        assert machine.place.hall == raw["place"]["hall"]
    assert all(problem.startswith("m.toml: ") for problem in problems)
