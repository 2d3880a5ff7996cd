"""The gateway's configuration: the examples load, and every mistake is named where it stands."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.config import (
    AlarmConfig,
    BrokerConfig,
    GatewayConfig,
    PipelineConfig,
    StateConfig,
    load_gateway,
)
from edge_runtime.errors import ConfigError
from edge_runtime.tables import read

EXAMPLES = Path(__file__).parents[2] / "configs" / "edge"

MINIMAL = """
[broker]
url = "mqtt://127.0.0.1"
client_id = "gw"
[state]
path = "gateway.db"
[[pipeline]]
model = "pump.onnx"
topic = "factory/{line}/{machine}/telemetry"
stream = "{line}/{machine}"
publish = "andon/{line}/{machine}/anomaly"
"""

SECOND = """
[[pipeline]]
model = "pump.onnx"
topic = "presses/{press}"
stream = "{press}"
publish = "andon/presses/{press}"
"""


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A folder with every file that the examples name."""
    names = "pump.onnx press.onnx plant-ca.pem gateway-7.pem gateway-7.key broker.password"
    for name in names.split():
        (tmp_path / name).touch()
    return tmp_path


def load_text(folder: Path, text: str) -> GatewayConfig:
    path = folder / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    return load_gateway(path)


def problems_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(folder, text)
    prefix = f"{folder / 'gateway.toml'}: "
    assert all(problem.startswith(prefix) for problem in caught.value.problems)
    return [problem.removeprefix(prefix) for problem in caught.value.problems]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_load(plant: Path, example: Path) -> None:
    config = load_text(plant, example.read_text(encoding="utf-8"))
    assert config.pipeline[0].model == plant / "pump.onnx"
    assert config.state.path == plant / "gateway.db"


def test_the_minimal_example_gives_the_defaults(plant: Path) -> None:
    config = load_text(plant, (EXAMPLES / "gateway.toml").read_text(encoding="utf-8"))
    assert config == GatewayConfig(
        broker=BrokerConfig(url="mqtt://127.0.0.1:1883", client_id="gateway-7"),
        state=StateConfig(path=plant / "gateway.db"),
        pipeline=(
            PipelineConfig(
                model=plant / "pump.onnx",
                topic="factory/{line}/{machine}/telemetry",
                stream="{line}/{machine}",
                publish="andon/{line}/{machine}/anomaly",
            ),
        ),
    )


def test_the_full_example_names_every_key_and_states_the_defaults_truly() -> None:
    text = (EXAMPLES / "gateway-tls.toml").read_text(encoding="utf-8")
    raw = tomllib.loads(text)
    tables: list[tuple[type[Any], dict[str, Any]]] = [
        (GatewayConfig, raw),
        (BrokerConfig, raw["broker"]),
        (StateConfig, raw["state"]),
        (PipelineConfig, raw["pipeline"][0]),
        (AlarmConfig, raw["pipeline"][0]["alarm"]),
    ]
    defaults: dict[str, object] = {}
    for table, given_keys in tables:
        fields = dataclasses.fields(table)
        assert {field.name for field in fields} == set(given_keys)
        defaults |= {field.name: field.default for field in fields}
    marked = [line for line in text.splitlines() if "# default" in line]
    assert len(marked) >= 10
    for line in marked:
        ((key, value),) = tomllib.loads(line).items()
        assert value == defaults[key]


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("mqtt://127.0.0.1", "127.0.0.1", 1883, False),
        ("mqtt://broker.plant:1234/", "broker.plant", 1234, False),
        ("mqtts://broker.plant", "broker.plant", 8883, True),
        ("mqtts://[fe80::1]:65535", "fe80::1", 65535, True),
    ],
)
def test_a_url_gives_host_port_and_tls(url: str, host: str, port: int, tls: bool) -> None:
    broker = BrokerConfig(url=url, client_id="gw")
    assert (broker.host, broker.port, broker.tls) == (host, port, tls)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1",
        "localhost:1883",
        "tcp://localhost:1883",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://host:0",
        "mqtt://host:65536",
        "mqtt://host:port",
        "mqtt://[::1",
        "mqtt://ho st",
        "mqtt://host\n",
        "mqtt://host/topic",
        "mqtt://host?x=1",
    ],
)
def test_a_bad_url_is_refused(url: str) -> None:
    wanted = r"^BrokerConfig url: wanted mqtt://host:port or mqtts://host:port, got "
    with pytest.raises(ConfigError, match=wanted):
        BrokerConfig(url=url, client_id="gw")


@pytest.mark.parametrize(
    "url",
    ["mqtt://me:s3cret@host", "http://me:s3cret@host", "mqtt://me:s3cret@[host", "me:s3cret@"],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(plant: Path, url: str) -> None:
    problems = problems_of(plant, MINIMAL.replace("mqtt://127.0.0.1", url))
    assert len(problems) == 1
    assert "password belongs in password_file or ANDON_MQTT_PASSWORD" in problems[0]
    assert "s3cret" not in problems[0]


@pytest.mark.parametrize("client_id", ["", "a/b", "a+", "#", "a\nb", "x" * 65_535])
def test_a_client_id_that_is_no_level_of_a_topic_is_refused(client_id: str) -> None:
    with pytest.raises(ConfigError, match=r"^BrokerConfig client_id: wanted "):
        BrokerConfig(url="mqtt://host", client_id=client_id)


@pytest.mark.parametrize(
    ("table", "line", "problem"),
    [
        ("[broker]", "urll = 1", "[broker] urll: unknown key, did you mean url?"),
        (
            "[broker]",
            'password = "x"',
            "[broker] password: unknown key, did you mean password_file?",
        ),
        ("[broker]", 'protocol = "4"', '[broker] protocol: wanted "5" or "3.1.1", got "4"'),
        ("[broker]", "protocol = 5", "[broker] protocol: wanted text, got 5"),
        ("[broker]", "keepalive_s = 0", "[broker] keepalive_s: wanted 1 to 65535, got 0"),
        ("[broker]", "keepalive_s = 65536", "[broker] keepalive_s: wanted 1 to 65535, got 65536"),
        ("[broker]", "receive_maximum = 0", "[broker] receive_maximum: wanted 1 to 65535, got 0"),
        (
            "[broker]",
            "session_expiry_s = 0",
            "[broker] session_expiry_s: wanted 1 to 4294967295, got 0",
        ),
        (
            "[broker]",
            "max_payload_bytes = 0",
            "[broker] max_payload_bytes: wanted 1 to 268435455, got 0",
        ),
        (
            "[broker]",
            'ca = "plant-ca.pem"',
            '[broker] ca: needs a url that begins with mqtts://, got "mqtt://127.0.0.1"',
        ),
        (
            "[[pipeline]]",
            'emit = "all"',
            '[[pipeline]] 1 emit: wanted "changes" or "scores", got "all"',
        ),
        ("[[pipeline]]", "max_streams = 0", "[[pipeline]] 1 max_streams: wanted 1 or more, got 0"),
        (
            "[[pipeline]]",
            "max_gap_ms = 0",
            "[[pipeline]] 1 max_gap_ms: wanted more than 0, got 0.0",
        ),
        (
            "[[pipeline]]",
            "max_ahead_ms = -1",
            "[[pipeline]] 1 max_ahead_ms: wanted 0 or more, got -1.0",
        ),
        (
            "[[pipeline]]",
            "max_delay_ms = -1",
            "[[pipeline]] 1 max_delay_ms: wanted 0 or more, got -1.0",
        ),
        (
            "[[pipeline]]",
            'alarm.enter = "high"',
            '[[pipeline]] 1, [alarm] enter: wanted a number, got "high"',
        ),
        (
            "[[pipeline]]",
            "alarm.enter = 0",
            "[[pipeline]] 1, [alarm] enter: wanted more than 0, got 0.0",
        ),
        (
            "[[pipeline]]",
            "alarm = { enter = 2, leave = 3 }",
            "[[pipeline]] 1, [alarm] leave: must not exceed enter, got 3.0 > 2.0",
        ),
        (
            "[[pipeline]]",
            "alarm.hold_steps = 0",
            "[[pipeline]] 1, [alarm] hold_steps: wanted 1 or more, got 0",
        ),
    ],
)
def test_a_mistake_is_named_where_it_stands(
    plant: Path, table: str, line: str, problem: str
) -> None:
    assert problems_of(plant, MINIMAL.replace(table, f"{table}\n{line}")) == [problem]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('cert = "gateway-7.pem"', "[broker] cert: cert and key come together, got no key"),
        ('key = "gateway-7.key"', "[broker] key: cert and key come together, got no cert"),
        (
            'ca = "none.pem"',
            "[broker] ca: wanted a file to read, got {}/none.pem: No such file or directory",
        ),
    ],
)
def test_certificates_are_complete_and_there(plant: Path, line: str, problem: str) -> None:
    text = MINIMAL.replace("mqtt://127.0.0.1", "mqtts://h").replace("[state]", f"{line}\n[state]")
    assert problems_of(plant, text) == [problem.format(plant)]


def test_a_missing_model_or_state_folder_is_named(plant: Path) -> None:
    text = MINIMAL.replace("pump.onnx", "none.onnx").replace("gateway.db", "none/gateway.db")
    assert problems_of(plant, text) == [
        f"[state] path: wanted a file in a folder that exists, got {plant}/none/gateway.db",
        f"[[pipeline]] 1 model: wanted a file to read, got {plant}/none.onnx: "
        "No such file or directory",
    ]


def test_an_empty_file_names_everything_it_lacks(plant: Path) -> None:
    assert problems_of(plant, "") == [
        "[broker] url: missing, wanted text",
        "[broker] client_id: missing, wanted text",
        "[state] path: missing, wanted a path",
        "pipeline: missing, wanted an array of tables",
    ]
    none = MINIMAL[: MINIMAL.index("[[pipeline]]")]
    assert problems_of(plant, f"pipeline = []\n{none}") == [
        "pipeline: wanted at least one [[pipeline]], got none"
    ]


def test_placeholders_must_be_those_of_the_topic(plant: Path) -> None:
    text = MINIMAL.replace('"{line}/', '"{lin}/').replace("andon/{line}/{machine}", "a/{pump}")
    assert problems_of(plant, text) == [
        "[[pipeline]] 1 stream: unknown placeholder {lin}, did you mean line?",
        "[[pipeline]] 1 publish: unknown placeholder {pump}, wanted one of line, machine",
    ]


def test_machines_of_two_lines_must_not_share_a_state(plant: Path) -> None:
    text = MINIMAL.replace('stream = "{line}/', 'stream = "')
    assert problems_of(plant, text) == [
        '[[pipeline]] 1 stream: "{machine}" has no {line}, which topic has: machines would share '
        "one state"
    ]


def test_a_bad_topic_is_refused_with_the_reason(plant: Path) -> None:
    assert problems_of(plant, MINIMAL.replace("{line}/{machine}/tele", "+/{machine}/tele")) == [
        '[[pipeline]] 1 topic: "factory/+/{machine}/telemetry": '
        "name the level instead of +, as in {machine}"
    ]


def test_a_flag_that_would_come_back_is_refused(plant: Path) -> None:
    back = MINIMAL.replace("andon/{line}/{machine}/anomaly", "presses/{line}-{machine}")
    assert problems_of(plant, back + SECOND) == [
        '[[pipeline]] 1 publish: "presses/{line}-{machine}" would come back into [[pipeline]] 2, '
        'whose topic is "presses/{press}": an endless loop'
    ]
    itself = MINIMAL.replace("andon/{line}/{machine}/anomaly", "factory/{line}/x/telemetry")
    assert "would come back into [[pipeline]] 1" in problems_of(plant, itself)[0]


@pytest.mark.parametrize("report", ["status", "rejected", "events"])
def test_a_report_that_would_come_back_is_refused(plant: Path, report: str) -> None:
    text = MINIMAL + SECOND.replace("presses/{press}", f"andon/{{press}}/{report}", 1)
    text = text.replace("andon/presses/{press}", "flags/{press}")
    assert problems_of(plant, text) == [
        f'[[pipeline]] 2 topic: "andon/{{press}}/{report}" would receive the gateway\'s own '
        f'"andon/gw/{report}"'
    ]


def test_two_pipelines_whose_flags_look_alike_are_refused(plant: Path) -> None:
    other = SECOND.replace("press}", "x}")
    assert problems_of(plant, MINIMAL + SECOND + other) == [
        "[[pipeline]] 3 publish: topic and publish are those of [[pipeline]] 2: "
        "their flags could not be told apart"
    ]
    assert load_text(plant, MINIMAL + SECOND + other.replace("andon/", "andon/b/"))


def test_what_has_no_time_of_its_own_must_come_once(plant: Path) -> None:
    halls = MINIMAL.replace("{line}/{machine}/telemetry", "hall-1/{machine}/telemetry")
    halls = halls.replace("{line}/{machine}", "hall-1/{machine}") + 'ts = "arrival"\n'
    pumps = SECOND.replace("presses/{press}", "factory/{press}/pump/telemetry", 1)
    with pytest.raises(ConfigError) as caught:
        load_text(plant, halls + pumps)
    assert caught.value.problems == (
        f'{plant / "gateway.toml"}: [[pipeline]] 1 topic: "factory/hall-1/{{machine}}/telemetry" '
        'and that of [[pipeline]] 2, "factory/{press}/pump/telemetry", have some topics in '
        'common: a broker may deliver those twice, which ts = "arrival" cannot tell',
    )
    load_text(plant, halls.replace('"arrival"', '"sample"') + pumps)
    load_text(plant, halls.replace("hall-1", "{hall}").replace('m = "', 'm = "{hall} ') + pumps)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("hold_ms = 0", "hold_ms: wanted more than 0, got 0.0"),
        (
            "hold_ms = 2001\nmax_gap_ms = 2000",
            "hold_ms: must not exceed max_gap_ms, got 2001 > 2000",
        ),
        ('late = "keep"', 'late: wanted "drop" or "reorder", got "keep"'),
        ('late = "reorder"', 'reorder_ms: wanted, because late is "reorder"; got none'),
        ("reorder_ms = 5", 'reorder_ms: needs late = "reorder", got "drop"'),
        ('late = "reorder"\nreorder_ms = 0', "reorder_ms: wanted more than 0, got 0.0"),
        (
            'late = "reorder"\nreorder_ms = 5\nts = "arrival"',
            'late: wanted "drop": what has the time of its arrival is in order',
        ),
        ('ts = "mine"', 'ts: wanted "sample" or "arrival", got "mine"'),
        ("evict_after_h = 0", "evict_after_h: wanted more than 0, got 0.0"),
        (
            "evict_after_h = 0.5\nmax_gap_ms = 1800001",
            "evict_after_h: must not be shorter than max_gap_ms, got 0.5 h and 1.8e+06 ms",
        ),
    ],
)
def test_rules_of_time_must_go_together(plant: Path, lines: str, problem: str) -> None:
    assert problems_of(plant, f"{MINIMAL}{lines}\n") == [f"[[pipeline]] 1 {problem}"]


def test_rules_of_time_at_their_limits(plant: Path) -> None:
    lines = "hold_ms = 2000\nmax_gap_ms = 2000\nevict_after_h = 0.001\n"
    assert load_text(plant, MINIMAL + lines).pipeline[0].hold_ms == 2000
    assert load_text(plant, MINIMAL + 'ts = "arrival"\n').pipeline[0].ts == "arrival"


def test_everything_wrong_comes_at_once(plant: Path) -> None:
    text = """
        [broker]
        url = "http://broker"
        client_idd = "gw"
        key = "gateway-7.key"
        [state]
        path = 1
        [[pipeline]]
        model = "pump.onnx"
        topic = "a/{b}"
        stream = "{b}"
        publish = "a/{b}"
        [pipeline.alarm]
        enter = "high"
        leave = nan
    """
    assert problems_of(plant, text) == [
        "[broker] client_idd: unknown key, did you mean client_id?",
        "[broker] client_id: missing, wanted text",
        '[broker] url: wanted mqtt://host:port or mqtts://host:port, got "http://broker"',
        "[broker] key: cert and key come together, got no cert",
        "[state] path: wanted a path, got 1",
        '[[pipeline]] 1, [alarm] enter: wanted a number, got "high"',
        "[[pipeline]] 1, [alarm] leave: wanted a finite number, got nan",
        '[[pipeline]] 1 publish: "a/{b}" would come back into [[pipeline]] 1, '
        'whose topic is "a/{b}": an endless loop',
    ]


def test_an_invalid_configuration_cannot_be_built_in_python() -> None:
    with pytest.raises(ConfigError, match=r"^AlarmConfig leave: must not exceed enter, got 3 > 2$"):
        AlarmConfig(enter=2, leave=3)
    with pytest.raises(ConfigError, match=r"^GatewayConfig pipeline: wanted at least one"):
        GatewayConfig(
            broker=BrokerConfig(url="mqtt://h", client_id="gw"),
            state=StateConfig(path=Path("s.db")),
            pipeline=(),
        )


TABLES: list[type[Any]] = [GatewayConfig, BrokerConfig, StateConfig, PipelineConfig, AlarmConfig]
KEYS = st.sampled_from(sorted({f.name for table in TABLES for f in dataclasses.fields(table)}))
TEXTS = st.sampled_from(
    [
        "",
        "5",
        "scores",
        "a/{b}",
        "{b}",
        "{",
        "a/+",
        "mqtt://h",
        "mqtts://h:1",
        "mqtt://[",
        "\0",
        "é",
    ]
) | st.text("a{}/+#:@.[]$\0", max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXTS | st.integers() | st.floats() | st.booleans() | st.dates(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def table_of(kind: type[Any], **nested: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Tables with the right keys, some of them left out, and values of any type."""
    keys = {field.name: VALUES for field in dataclasses.fields(kind)}
    return st.fixed_dictionaries({}, optional=keys | nested)


ALARM = table_of(AlarmConfig) | VALUES
PIPELINES = st.lists(table_of(PipelineConfig, alarm=ALARM) | VALUES, max_size=3)
GATEWAYS = table_of(
    GatewayConfig,
    broker=table_of(BrokerConfig) | VALUES,
    state=table_of(StateConfig) | VALUES,
    pipeline=PIPELINES | VALUES,
) | st.dictionaries(KEYS, VALUES)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(GATEWAYS)
def test_nothing_but_a_config_error_is_raised(raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:  # at the least, the folder does not exist
        read(GatewayConfig, raw, Path("nowhere/gateway.toml"))
    assert caught.value.problems


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=3), TEXTS, TEXTS)
def test_texts_alone_give_a_configuration_or_a_config_error(
    topics: list[tuple[str, str, str]], url: str, client_id: str
) -> None:
    try:
        config = GatewayConfig(
            broker=BrokerConfig(url=url, client_id=client_id),
            state=StateConfig(path=Path("s.db")),
            pipeline=tuple(
                PipelineConfig(model=Path("m"), topic=topic, stream=stream, publish=publish)
                for topic, stream, publish in topics
            ),
        )
    except ConfigError:
        return
    assert config.broker.host
    assert 1 <= config.broker.port <= 65_535
