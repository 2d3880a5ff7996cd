"""The gateway's configuration: frozen dataclasses, read from TOML, all errors at once."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
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
        session_expiry_s: How long the broker keeps the session while the gateway is away (MQTT 5).
        receive_maximum: Messages in flight towards the gateway (MQTT 5).
        max_payload_bytes: Larger payloads are rejected unread.
    """

    url: str
    client_id: str
    protocol: str = "5"
    user: str = ""
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    keepalive_s: int = 30
    session_expiry_s: int = 7 * 86400
    receive_maximum: int = 1000
    max_payload_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    """The ``[state]`` table.

    Attributes:
        path: The gateway's database.
    """

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmConfig:
    """The ``[pipeline.alarm]`` table: from score to lamp (see `edge_runtime.alarm`).

    Attributes:
        enter: The lamp goes on when the score exceeds this ...
        leave: ... and off when it falls below this; must not exceed ``enter``.
        hold_steps: ... for this many ``ok`` samples in a row, either way.
    """

    enter: float = 1.0
    leave: float = 0.7
    hold_steps: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """One ``[[pipeline]]`` table: a model and the topics that it listens to.

    Attributes:
        model: The ``.onnx`` file.
        topic: Pattern of the topics to subscribe to, ``factory/{line}/{machine}/telemetry``.
        stream: Name of a stream, from the same placeholders.
        publish: Topic of its flags, from the same placeholders.
        emit: ``"changes"`` or ``"scores"`` (one message for every sample as well).
        max_streams: A further stream is rejected.
        max_gap_ms: A longer silence resets the stream; by default what the model was trained with.
        max_ahead_ms: A ``ts`` further ahead of the gateway's clock is rejected.
        alarm: From score to lamp.
    """

    model: Path
    topic: str
    stream: str
    publish: str
    emit: str = "changes"
    max_streams: int = 10_000
    max_gap_ms: float | None = None
    max_ahead_ms: float = 60_000.0
    alarm: AlarmConfig = field(default_factory=AlarmConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """One gateway: a broker, a state file, and at least one pipeline."""

    broker: BrokerConfig
    state: StateConfig
    pipeline: tuple[PipelineConfig, ...]
