"""Topic patterns: which topics a pipeline receives, and the names made from their levels.

``factory/{line}/{machine}/telemetry`` subscribes to ``factory/+/+/telemetry``, and the levels under
the placeholders name the stream and the topic that its flags go to.

A topic comes from the network: between its slashes stands anything that MQTT allows, spaces and
quotes included. What MQTT does not allow in a topic's name (OASIS MQTT 5.0, sections 4.7.1 and
4.7.3) is neither matched nor rendered.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edge_runtime.errors import ConfigError, PayloadError
from edge_runtime.tables import did_you_mean, show

MAX_BYTES = 65_535
"""The longest topic that MQTT can carry, as UTF-8."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORBIDDEN = re.compile(r"[+#\0]")


@dataclass(frozen=True, slots=True)
class TopicPattern:
    """The topics that a pipeline receives.

    A placeholder stands for one whole level, which may be empty.

    Args:
        text: Such as ``factory/{line}/{machine}/telemetry``.

    Attributes:
        names: The placeholders, in order: ``("line", "machine")``.
        filter: What to subscribe to: ``factory/+/+/telemetry``.

    Raises:
        ConfigError: With everything that keeps ``text`` from being a pattern.
    """

    text: str
    names: tuple[str, ...] = field(init=False)
    filter: str = field(init=False)
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require(self.text, [*_topic_problems(self.text), *_pattern_problems(self.text)])
        levels = self.text.split("/")
        parts = [r"([^/+#\0]*)" if _is_placeholder(level) else re.escape(level) for level in levels]
        object.__setattr__(self, "names", tuple(_BRACES.findall(self.text)))
        object.__setattr__(self, "filter", _BRACES.sub("+", self.text))
        object.__setattr__(self, "_regex", re.compile("/".join(parts)))

    def match(self, topic: str) -> dict[str, str] | None:
        """The placeholders' values in a received topic; None when it is not one of these topics.

        Topics that begin with ``$`` belong to the broker and match no placeholder.
        """
        found = self._regex.fullmatch(topic)
        if found is None or topic.startswith("$"):
            return None
        return dict(zip(self.names, found.groups(), strict=True))


@dataclass(frozen=True, slots=True)
class Template:
    """The name of a stream, or a topic to publish on, from the placeholders of a pattern.

    One rule for both: whatever it renders is also a valid name of a topic.

    Args:
        text: Such as ``{line}/{machine}``; a placeholder may share its level with other text.

    Attributes:
        names: The placeholders, in order; one may stand more than once.

    Raises:
        ConfigError: With everything that keeps ``text`` from being a template.
    """

    text: str
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        _require(self.text, [*_topic_problems(self.text), *_template_problems(self.text)])
        object.__setattr__(self, "names", tuple(_BRACES.findall(self.text)))

    def unknown(self, known: Iterable[str]) -> Iterator[str]:
        """A complaint for each placeholder that is not among the known ones."""
        names = tuple(known)
        for name in dict.fromkeys(self.names):
            if name not in names:
                advice = did_you_mean(name, names) if names else "the topic has no placeholders"
                yield f"unknown placeholder {{{name}}}, {advice}"

    def numbered(self, known: Sequence[str]) -> str:
        """The text with each known placeholder as its position, for comparing across patterns."""

        def position(found: re.Match[str]) -> str:
            return f"{{{known.index(found[1])}}}" if found[1] in known else found[0]

        return _BRACES.sub(position, self.text)

    def render(self, values: Mapping[str, str]) -> str:
        """The name for one topic's placeholders, as `TopicPattern.match` gives them.

        Raises:
            ConfigError: If ``values`` lacks a placeholder.
            PayloadError: If the values make up a name that MQTT does not allow (``bad_topic``).
        """
        try:
            # Nothing but plain names stands between the braces, so no value is ever evaluated.
            name = self.text.format_map(values)
        except KeyError as error:
            raise ConfigError([f"{self.text}: {p}" for p in self.unknown(values)]) from error
        if problem := name_problem(name):
            raise PayloadError("bad_topic", f"{show(self.text)} gives {show(name)}: {problem}")
        return name


def name_problem(name: str) -> str | None:
    """Why MQTT does not allow, or the broker keeps for itself, a topic of this name; else None."""
    if not name:
        return "wanted a name, got an empty text"
    if found := _FORBIDDEN.search(name):
        return f"no topic may contain {show(found[0])}"
    if name.startswith("$"):
        return "topics that begin with $ belong to the broker"
    if (size := len(name.encode())) > MAX_BYTES:
        return f"wanted at most {MAX_BYTES} bytes of UTF-8, got {size}"
    return None


def overlaps(received: TopicPattern, other: TopicPattern | Template) -> bool:
    """Whether one topic can be both received by the pattern and come from the other.

    What two placeholders of the same name have in common is not considered, so the answer may be
    true for two that never meet; it is never false for two that do.
    """
    ours, theirs = received.text.split("/"), other.text.split("/")
    return len(ours) == len(theirs) and all(map(_levels_meet, ours, theirs))


def covers(wide: TopicPattern, narrow: TopicPattern) -> bool:
    """Whether a subscription to the one brings every topic of the other."""
    ours, theirs = wide.filter.split("/"), narrow.filter.split("/")
    return len(ours) == len(theirs) and all(
        level in ("+", other) for level, other in zip(ours, theirs, strict=True)
    )


def subscriptions(patterns: Sequence[TopicPattern]) -> list[str]:
    """What to subscribe to: no filter within another.

    A broker may deliver a message once for each subscription that it matches (OASIS MQTT 5.0,
    section 3.3.4), without a sign that the second is a copy.
    """
    filters = {pattern.filter: pattern for pattern in patterns}
    return [
        name
        for name, narrow in filters.items()
        if not any(covers(wide, narrow) for wide in filters.values() if wide.filter != name)
    ]


def _levels_meet(level: str, other: str) -> bool:
    if _is_placeholder(level):
        return True
    literals = _BRACES.split(other)[::2]
    return re.fullmatch(".*".join(map(re.escape, literals)), level) is not None


def _is_placeholder(level: str) -> bool:
    return _BRACES.fullmatch(level) is not None


def _require(text: str, problems: list[str]) -> None:
    if problems:
        raise ConfigError([f"{show(text)}: {'; '.join(problems)}"])


def _topic_problems(text: str) -> Iterator[str]:
    """What patterns and templates have in common."""
    # Within braces, + and # get the advice that belongs to placeholders.
    if problem := name_problem(_BRACES.sub("{}", text).replace("+", "_").replace("#", "_")):
        yield problem
    if any(unicodedata.category(character) == "Cc" for character in text.replace("\0", "")):
        yield "wanted no control characters: brokers drop the connection over them"
    if set("{}") & set(_BRACES.sub("", text)):
        yield "wanted braces in pairs, as in {machine}"
    for name in _BRACES.findall(text):
        if name.endswith("..."):
            yield f"{{{name}}}: {_ANY_DEPTH}"
        elif not _NAME.fullmatch(name):
            yield f"wanted a name of letters, digits and _ between braces, got {show(name)}"


_ANY_DEPTH = "one placeholder stands for one level; write a pipeline for each depth of topics"


def _pattern_problems(text: str) -> Iterator[str]:
    bare = _BRACES.sub("", text)
    if "+" in bare:
        yield "name the level instead of +, as in {machine}"
    if "#" in bare:
        yield f"# is not supported: {_ANY_DEPTH}"
    for level in text.split("/"):
        if _BRACES.search(level) and not _is_placeholder(level):
            yield f"wanted a placeholder to fill its level, got {show(level)}"
    names = _BRACES.findall(text)
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"wanted each placeholder once, got {{{name}}} {names.count(name)} times"


def _template_problems(text: str) -> Iterator[str]:
    if found := _FORBIDDEN.search(_BRACES.sub("", text).replace("\0", "")):
        yield f"no topic may contain {show(found[0])}"
    for first, second in re.findall(r"\{([^{}]*)\}(?=\{([^{}]*)\})", text):
        yield (
            f"wanted something between {{{first}}} and {{{second}}}: without it, 1 and 12 would "
            "make the same name as 11 and 2"
        )
