"""The gateway's configuration: frozen dataclasses, read from TOML, all errors at once.

Nothing here opens a model; ``andon check`` does that once this much is right.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit

from edge_runtime.errors import ConfigError
from edge_runtime.tables import (
    Check,
    InputFile,
    OutputFile,
    Problem,
    Table,
    above,
    at_least,
    between,
    load,
    show,
)
from edge_runtime.topics import Template, TopicPattern, covers, name_problem, overlaps

Protocol: TypeAlias = Literal["5", "3.1.1"]
"""A version of MQTT."""

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_MAX_PORT = 65_535
_MAX_MQTT_PACKET = 268_435_455
_FOREVER = 0xFFFF_FFFF
_MS_PER_H = 3_600_000


def _url_problem(url: str) -> str | None:
    # A url with an @ is never shown: what stands before it may be a password.
    if "@" in url:
        return "a password belongs in password_file or ANDON_MQTT_PASSWORD, a user name in user"
    wanted = f"wanted mqtt://host:port or mqtts://host:port, got {show(url)}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"{wanted}: {error}"
    if parts.scheme not in _PORTS or not parts.hostname or re.search(r"[\s\x00-\x1f\x7f]", url):
        return wanted
    if parts.path.strip("/") or parts.query or parts.fragment:
        return f"{wanted}: nothing may follow the port"
    return None if port is None or port > 0 else f"{wanted}: wanted a port of 1 to {_MAX_PORT}"


def _client_id_problem(client_id: str) -> str | None:
    if not client_id:
        return "wanted a fixed name: the broker keeps the session under it; got an empty text"
    # It is a level of andon/<client_id>/status; brokers also refuse / + # for their access lists.
    if found := re.search(r"[/+#\x00-\x1f\x7f-\x9f]", client_id):
        return f"wanted a name without / + # and control characters, got {show(found[0])} in it"
    return name_problem(f"andon/{client_id}/status/details")


def _accepted_by(kind: Callable[[str], object]) -> Check:
    """The text is one that ``kind`` can be made from."""

    def complaint(text: str) -> str | None:
        try:
            kind(text)
        except ConfigError as error:
            return "; ".join(error.problems)
        return None

    return Check(complaint)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig(Table):
    """The ``[broker]`` table: where the broker is and how the gateway makes itself known.

    Attributes:
        url: ``mqtt://host:port`` or ``mqtts://host:port``; the ports default to 1883 and 8883.
        client_id: Fixed name of this gateway; the broker keeps the session under it.
        protocol: ``"5"`` or ``"3.1.1"``.
        user: User name, or empty; also from the environment variable ``ANDON_MQTT_USER``.
        password_file: File whose first line is the password; or ``ANDON_MQTT_PASSWORD``.
        ca: Certificate authority of the broker (PEM); the system's own without it.
        cert: Client certificate (PEM) for mutual TLS.
        key: Its private key (PEM).
        keepalive_s: Keep-alive in seconds.
        session_expiry_s: For how many seconds the broker keeps the session while the gateway is
            away (MQTT 5); 4294967295 is for ever.
        receive_maximum: Messages in flight towards the gateway (MQTT 5).
        max_payload_bytes: Larger payloads, in bytes, are rejected unread.
    """

    url: Annotated[str, Check(_url_problem)]
    client_id: Annotated[str, Check(_client_id_problem)]
    protocol: Protocol = "5"
    user: str = ""
    password_file: InputFile | None = None
    ca: InputFile | None = None
    cert: InputFile | None = None
    key: InputFile | None = None
    keepalive_s: Annotated[int, between(1, 65_535)] = 30
    session_expiry_s: Annotated[int, between(1, _FOREVER)] = 7 * 86400
    receive_maximum: Annotated[int, between(1, 65_535)] = 1000
    max_payload_bytes: Annotated[int, between(1, _MAX_MQTT_PACKET)] = 1 << 20

    @property
    def host(self) -> str:
        """The broker's name or address; an IPv6 address without its brackets."""
        return self._parts.hostname or ""

    @property
    def port(self) -> int:
        """The broker's port."""
        return self._parts.port or _PORTS[self._parts.scheme]

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._parts.scheme == "mqtts"

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    def _certificates_need_tls(self) -> Iterator[Problem]:
        if self.tls:
            return
        given = {"ca": self.ca, "cert": self.cert, "key": self.key}
        for key in (key for key, path in given.items() if path is not None):
            yield Problem((key,), f"needs a url that begins with mqtts://, got {show(self.url)}")

    def _certificate_and_key(self) -> Iterator[Problem]:
        if self.cert is not None and self.key is None:
            yield Problem(("cert",), "cert and key come together, got no key")
        if self.key is not None and self.cert is None:
            yield Problem(("key",), "cert and key come together, got no cert")

    relations = (_certificates_need_tls, _certificate_and_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig(Table):
    """The ``[state]`` table.

    Attributes:
        path: The gateway's database; its folder exists and can be written.
        synchronous: ``"full"``: what was acknowledged survives a power cut; ``"normal"``: it
            survives the end of the process, however sudden, and a power cut takes the last
            commits back.
        max_mb: The database grows to so many megabytes at most; what was not published yet always
            has precedence over the flight recorder, which takes three quarters.
        keep_h: For how many hours the flight recorder goes back, if there is room; 0 for as little
            as a start needs.
        group_ms: How many milliseconds to wait for more messages before one is made safe. The disk
            is written less often, and everything comes so much later. 0: only while messages come
            fast, 10 ms at most.
    """

    path: OutputFile
    synchronous: Literal["full", "normal"] = "full"
    max_mb: Annotated[int, at_least(16)] = 1024
    keep_h: Annotated[float, at_least(0)] = 24.0
    group_ms: Annotated[float, between(0, 10_000)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmConfig(Table):
    """The ``[pipeline.alarm]`` table: from score to lamp (see `edge_runtime.alarm`).

    Scores have no unit: 1.0 is the alarm level chosen when the model was calibrated.

    Attributes:
        enter: The lamp goes on when the score exceeds this ...
        leave: ... and off when it falls below this; must not exceed ``enter``.
        hold_steps: ... for this many ``ok`` samples in a row, either way.
    """

    enter: Annotated[float, above(0)] = 1.0
    leave: float = 0.7
    hold_steps: Annotated[int, at_least(1)] = 3

    def _leave_at_most_enter(self) -> Iterator[Problem]:
        if self.leave > self.enter:
            yield Problem(("leave",), f"must not exceed enter, got {self.leave} > {self.enter}")

    relations = (_leave_at_most_enter,)


def _placeholders_known(key: str) -> Callable[["PipelineConfig"], Iterator[Problem]]:
    def relation(pipeline: "PipelineConfig") -> Iterator[Problem]:
        known = TopicPattern(pipeline.topic).names
        for complaint in Template(getattr(pipeline, key)).unknown(known):
            yield Problem((key,), complaint)

    return relation


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig(Table):
    """One ``[[pipeline]]`` table: a model and the topics that it listens to.

    Attributes:
        model: The ``.onnx`` file.
        topic: Pattern of the topics to subscribe to, ``factory/{line}/{machine}/telemetry``.
        stream: Name of a stream, from the same placeholders, all of them: two machines with one
            name would share a state.
        publish: Topic of its flags, from the same placeholders.
        emit: ``"changes"`` or ``"scores"`` (one message for every sample as well).
        max_streams: How many streams there may be; a further one is rejected.
        hold_ms: After a silence of more milliseconds as many samples are ``uncertain`` as were
            missed; by default ``max_gap_ms``, so that none is.
        max_gap_ms: A silence of more milliseconds resets the stream; by default what the model was
            trained with.
        late: What becomes of a sample that is older than one before it: ``"drop"``, or
            ``"reorder"`` if it comes within ``reorder_ms``.
        reorder_ms: With ``"reorder"``: a sample is held until the newest of its stream is so many
            milliseconds ahead.
        ts: Time of a sample: ``"sample"`` (the device says it) or ``"arrival"`` (a device without a
            clock; see `edge_runtime.admission`).
        max_delay_ms: A model whose scores come more milliseconds late, because it looks ahead, is
            refused; 0 admits causal models only, None any.
        max_ahead_ms: A ``ts`` more milliseconds ahead of the gateway's clock is rejected.
        evict_after_h: A stream that was silent for more hours is forgotten, unless its lamp is lit;
            at least ``max_gap_ms``. By default none is.
        alarm: From score to lamp.
    """

    model: InputFile
    topic: Annotated[str, _accepted_by(TopicPattern)]
    stream: Annotated[str, _accepted_by(Template)]
    publish: Annotated[str, _accepted_by(Template)]
    emit: Literal["changes", "scores"] = "changes"
    max_streams: Annotated[int, at_least(1)] = 10_000
    hold_ms: Annotated[float, above(0)] | None = None
    max_gap_ms: Annotated[float, above(0)] | None = None
    late: Literal["drop", "reorder"] = "drop"
    reorder_ms: Annotated[float, above(0)] | None = None
    ts: Literal["sample", "arrival"] = "sample"
    max_delay_ms: Annotated[float, at_least(0)] | None = None
    max_ahead_ms: Annotated[float, at_least(0)] = 60_000.0
    evict_after_h: Annotated[float, above(0)] | None = None
    alarm: AlarmConfig = field(default_factory=AlarmConfig)

    def _machines_are_told_apart(self) -> Iterator[Problem]:
        stream, known = Template(self.stream), TopicPattern(self.topic).names
        if any(stream.unknown(known)):
            return  # said already
        for name in (name for name in known if name not in stream.names):
            text = f"{show(self.stream)} has no {{{name}}}, which topic has"
            yield Problem(("stream",), f"{text}: machines would share one state")

    def _evicted_after_a_reset(self) -> Iterator[Problem]:
        after, gap = self.evict_after_h, self.max_gap_ms
        if after is not None and gap is not None and after * _MS_PER_H < gap:
            text = f"must not be shorter than max_gap_ms, got {after:g} h and {gap:g} ms"
            yield Problem(("evict_after_h",), text)

    def _held_no_longer_than_a_gap(self) -> Iterator[Problem]:
        hold, gap = self.hold_ms, self.max_gap_ms
        if hold is not None and gap is not None and hold > gap:
            yield Problem(("hold_ms",), f"must not exceed max_gap_ms, got {hold:g} > {gap:g}")

    def _a_window_to_reorder_in(self) -> Iterator[Problem]:
        if self.late == "reorder" and self.reorder_ms is None:
            yield Problem(("reorder_ms",), 'wanted, because late is "reorder"; got none')
        if self.late == "drop" and self.reorder_ms is not None:
            yield Problem(("reorder_ms",), 'needs late = "reorder", got "drop"')
        if self.late == "reorder" and self.ts == "arrival":
            yield Problem(("late",), 'wanted "drop": what has the time of its arrival is in order')

    relations = (
        _placeholders_known("stream"),
        _placeholders_known("publish"),
        _machines_are_told_apart,
        _evicted_after_a_reset,
        _held_no_longer_than_a_gap,
        _a_window_to_reorder_in,
    )


def _none_missing(pipelines: tuple[PipelineConfig, ...]) -> str | None:
    return None if pipelines else "wanted at least one [[pipeline]], got none"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig(Table):
    """One gateway: a broker, a state file, and at least one pipeline."""

    broker: BrokerConfig
    state: StateConfig
    pipeline: Annotated[tuple[PipelineConfig, ...], Check(_none_missing)]

    def _no_flag_comes_back(self) -> Iterator[Problem]:
        for at, sender in enumerate(self.pipeline):
            flags = Template(sender.publish)
            for number, receiver in enumerate(self.pipeline, start=1):
                if overlaps(TopicPattern(receiver.topic), flags):
                    into = f"[[pipeline]] {number}, whose topic is {show(receiver.topic)}"
                    text = f"{show(sender.publish)} would come back into {into}: an endless loop"
                    yield Problem((("pipeline", at), "publish"), text)

    def _no_report_comes_back(self) -> Iterator[Problem]:
        reports = ("status", "status/details", "rejected", "events")
        own = [f"andon/{self.broker.client_id}/{report}" for report in reports]
        for at, pipeline in enumerate(self.pipeline):
            pattern = TopicPattern(pipeline.topic)
            for topic in own:
                if pattern.match(topic) is not None:
                    text = f"{show(pipeline.topic)} would receive the gateway's own {show(topic)}"
                    yield Problem((("pipeline", at), "topic"), text)

    def _flags_can_be_told_apart(self) -> Iterator[Problem]:
        seen: dict[tuple[str, str], int] = {}
        for at, pipeline in enumerate(self.pipeline):
            pattern = TopicPattern(pipeline.topic)
            # Numbered, because what is {a} in one pipeline may be {b} in the other.
            flags = Template(pipeline.publish).numbered(pattern.names)
            first = seen.setdefault((pattern.filter, flags), at)
            if first != at:
                text = f"topic and publish are those of [[pipeline]] {first + 1}: their flags could"
                yield Problem((("pipeline", at), "publish"), f"{text} not be told apart")

    def _arrivals_come_once(self) -> Iterator[Problem]:
        """A copy of what has no time of its own cannot be told from the next sample."""
        patterns = [TopicPattern(pipeline.topic) for pipeline in self.pipeline]
        for at, pipeline in enumerate(self.pipeline):
            for number, other in enumerate(patterns, start=1):
                ours = patterns[at]
                apart = not overlaps(ours, other) or covers(ours, other) or covers(other, ours)
                if pipeline.ts == "arrival" and not apart:
                    text = f"{show(pipeline.topic)} and that of [[pipeline]] {number},"
                    text = f"{text} {show(other.text)}, have some topics in common: a broker may"
                    text = f'{text} deliver those twice, which ts = "arrival" cannot tell'
                    yield Problem((("pipeline", at), "topic"), text)

    relations = (
        _no_flag_comes_back,
        _no_report_comes_back,
        _flags_can_be_told_apart,
        _arrivals_come_once,
    )


def load_gateway(path: Path) -> GatewayConfig:
    """Reads a gateway's TOML file; relative paths in it start at its own folder.

    Raises:
        ConfigError: With every problem of the file, each with table and key.
    """
    return load(GatewayConfig, path)
