"""Topic patterns and the names made from them."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, PayloadError
from edge_runtime.topics import (
    MAX_BYTES,
    Template,
    TopicPattern,
    covers,
    overlaps,
    subscriptions,
)

PATTERN = TopicPattern("factory/{line}/{machine}/telemetry")


def test_a_pattern_gives_a_filter_and_names() -> None:
    assert PATTERN.filter == "factory/+/+/telemetry"
    assert PATTERN.names == ("line", "machine")
    assert TopicPattern("{a}").filter == "+"
    assert TopicPattern("plain/topic").match("plain/topic") == {}


@pytest.mark.parametrize(
    ("topic", "line", "machine"),
    [
        ("factory/1/pump 3/telemetry", "1", "pump 3"),
        ("factory///telemetry", "", ""),
        ("factory/Ω\n'\"/{line}/telemetry", "Ω\n'\"", "{line}"),
        ("factory/$x/.*/telemetry", "$x", ".*"),
    ],
)
def test_a_topic_gives_its_levels(topic: str, line: str, machine: str) -> None:
    assert PATTERN.match(topic) == {"line": line, "machine": machine}


@pytest.mark.parametrize(
    "topic",
    [
        "factory/1/2",
        "factory/1/2/3/telemetry",
        "factory/1/2/telemetry/",
        "/factory/1/2/telemetry",
        "Factory/1/2/telemetry",
        "factory/1/2/telemetry\n",
        "factory/+/2/telemetry",
        "factory/#/2/telemetry",
        "factory/\0/2/telemetry",
        "",
    ],
)
def test_other_topics_do_not_match(topic: str) -> None:
    assert PATTERN.match(topic) is None


def test_a_placeholder_does_not_match_the_brokers_own_topics() -> None:
    assert TopicPattern("{a}/uptime").match("$SYS/uptime") is None


def test_literal_text_is_not_a_regular_expression() -> None:
    assert TopicPattern("a.c/{x}").match("abc/1") is None
    assert TopicPattern("a.c/{x}").match("a.c/1") == {"x": "1"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "wanted a name, got an empty text"),
        ("factory/+/telemetry", "name the level instead of +, as in {machine}"),
        ("factory/#", "# is not supported: one placeholder stands for one level"),
        ("factory/{rest...}", "{rest...}: one placeholder stands for one level"),
        ("factory/line-{line}/x", 'wanted a placeholder to fill its level, got "line-{line}"'),
        ("{a}{b}/x", 'wanted a placeholder to fill its level, got "{a}{b}"'),
        ("{a}/{b}/{a}", "wanted each placeholder once, got {a} 2 times"),
        ("factory/{line/x", "wanted braces in pairs"),
        ("factory/{{line}}", "wanted braces in pairs"),
        ("factory/{}", 'wanted a name of letters, digits and _ between braces, got ""'),
        ("factory/{a.b}", 'got "a.b"'),
        ("factory/{+}", 'got "+"'),
        ("factory/{1}", 'got "1"'),
        ("$SYS/{a}", "topics that begin with $ belong to the broker"),
        ("$share/g/{a}", "topics that begin with $ belong to the broker"),
        ("a/\0/b", 'no topic may contain "\\u0000"'),
        ("a/\t/b", "wanted no control characters"),
        ("ü" * 32_768, "wanted at most 65535 bytes of UTF-8, got 65536"),
    ],
)
def test_a_bad_pattern_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        TopicPattern(text)
    assert len(caught.value.problems) == 1
    assert len(str(caught.value)) < 300


def test_all_that_is_wrong_with_a_pattern_comes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TopicPattern("a/+/x{b}/#")
    for reason in ("instead of +", "# is not supported", 'got "x{b}"'):
        assert reason in str(caught.value)


def test_a_template_renders_names() -> None:
    values = {"line": "L 1", "machine": '"Ω"', "unused": "x"}
    assert Template("{line}/{machine}").render(values) == 'L 1/"Ω"'
    assert Template("press {machine}-{line}-{line}").render(values) == 'press "Ω"-L 1-L 1'
    assert Template("all").render({}) == "all"
    assert Template("{a}/{b}/{a}").names == ("a", "b", "a")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "wanted a name, got an empty text"),
        ("andon/+/{a}", 'no topic may contain "+"'),
        ("andon/#", 'no topic may contain "#"'),
        ("andon/\0", 'no topic may contain "\\u0000"'),
        ("$andon/{a}", "belong to the broker"),
        ("{a}{b}", "wanted something between {a} and {b}"),
        ("{a.__class__}", 'got "a.__class__"'),
        ("{a!r}", 'got "a!r"'),
        ("{a:>9}", 'got "a:>9"'),
        ("a}", "wanted braces in pairs"),
    ],
)
def test_a_bad_template_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        Template(text)


def test_an_unknown_placeholder_suggests_the_right_one() -> None:
    template = Template("{lin}/{machine}/{lin}")
    assert list(template.unknown(PATTERN.names)) == [
        "unknown placeholder {lin}, did you mean line?"
    ]
    assert list(template.unknown(())) == [
        "unknown placeholder {lin}, the topic has no placeholders",
        "unknown placeholder {machine}, the topic has no placeholders",
    ]
    with pytest.raises(ConfigError, match=r"\{lin\}/.*: unknown placeholder \{lin\}, did you mean"):
        template.render({"line": "1", "machine": "2"})


@pytest.mark.parametrize("value", ["+", "#", "a+b", "x#", "\0", "", "$SYS", "x" * (MAX_BYTES + 1)])
def test_a_value_that_makes_no_topic_is_refused(value: str) -> None:
    with pytest.raises(PayloadError) as caught:
        Template("{a}").render({"a": value})
    assert caught.value.cause == "bad_topic"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("received", "other", "expected"),
    [
        ("factory/{l}/{m}/telemetry", "factory/{a}/{b}/telemetry", True),
        ("factory/{l}/{m}/telemetry", "factory/{a}/{b}/anomaly", False),
        ("factory/{l}/{m}/telemetry", "factory/{a}/telemetry", False),
        ("factory/{l}/{m}/telemetry", "{a}/{b}/{c}/{d}", True),
        ("{a}/{b}/{c}", "andon/{b}/x", True),
        ("{a}/x", "y/{b}", True),
        ("{a}/x", "y/z", False),
        ("a/b", "a/b", True),
    ],
)
def test_patterns_overlap(received: str, other: str, expected: bool) -> None:
    assert overlaps(TopicPattern(received), TopicPattern(other)) is expected
    assert overlaps(TopicPattern(other), TopicPattern(received)) is expected
    assert overlaps(TopicPattern(received), Template(other)) is expected


@pytest.mark.parametrize(
    ("received", "template", "expected"),
    [
        ("andon/line-7/x", "andon/line-{l}/x", True),
        ("andon/7/x", "andon/line-{l}/x", False),
        ("andon/a-b/x", "andon/{l}-{m}/x", True),
        ("andon/a.b/x", "andon/{l}-{m}/x", False),
        ("andon/{any}/x", "andon/{l}-{m}/x", True),
    ],
)
def test_a_template_may_share_a_level_with_text(
    received: str, template: str, expected: bool
) -> None:
    assert overlaps(TopicPattern(received), Template(template)) is expected


UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LEVELS = st.lists(st.sampled_from(["a", "b", "{x}", "{y}"]), min_size=1, max_size=3, unique=True)
TOPICS = st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=3).map("/".join)


@UNTIMED
@given(LEVELS, LEVELS, TOPICS)
def test_two_patterns_that_match_one_topic_overlap(a: list[str], b: list[str], topic: str) -> None:
    one, two = TopicPattern("/".join(a)), TopicPattern("/".join(b))
    if one.match(topic) is not None and two.match(topic) is not None:
        assert overlaps(one, two)


@UNTIMED
@given(LEVELS, LEVELS, TOPICS)
def test_what_covers_a_pattern_matches_what_it_matches(
    a: list[str], b: list[str], topic: str
) -> None:
    one, two = TopicPattern("/".join(a)), TopicPattern("/".join(b))
    if covers(one, two) and two.match(topic) is not None:
        assert one.match(topic) is not None


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        (["a/{x}", "a/{y}"], ["a/+"]),
        (["a/b", "a/{x}", "{x}/{y}"], ["+/+"]),
        (["a/{x}", "{x}/b"], ["a/+", "+/b"]),
        (["a/{x}", "b/{x}", "a/{x}/{y}"], ["a/+", "b/+", "a/+/+"]),
    ],
)
def test_no_subscription_lies_within_another(topics: list[str], expected: list[str]) -> None:
    assert subscriptions([TopicPattern(topic) for topic in topics]) == expected


@UNTIMED
@given(LEVELS, LEVELS, TOPICS)
def test_what_a_template_renders_is_matched_only_if_they_overlap(
    a: list[str], b: list[str], topic: str
) -> None:
    pattern, template = TopicPattern("{x}/{y}"), Template("/".join(b))
    receiver = TopicPattern("/".join(a))
    values = pattern.match(topic)
    if values is None:
        return
    try:
        rendered = template.render(values)
    except PayloadError:
        return
    if receiver.match(rendered) is not None:
        assert overlaps(receiver, template)


@UNTIMED
@given(st.text(alphabet="ab/{}+#$\0.é", max_size=12))
def test_any_text_is_a_pattern_or_a_config_error(text: str) -> None:
    try:
        pattern = TopicPattern(text)
    except ConfigError:
        return
    assert "#" not in pattern.filter
    assert pattern.filter.count("+") == len(pattern.names)


@UNTIMED
@given(
    st.text(alphabet="ab/{}+#$\0.é", max_size=12),
    st.dictionaries(st.sampled_from("ab"), st.text("a+#$/\0\u00e9", max_size=4), min_size=2),
)
def test_any_rendered_name_is_a_topic(text: str, values: dict[str, str]) -> None:
    try:
        name = Template(text).render(values)
    except (ConfigError, PayloadError):
        return
    assert name
    assert not set(name) & set("+#\0")
    assert not name.startswith("$")
