"""From topic to stream, from payload to samples: one ``[[pipeline]]`` table at work."""

from typing import NamedTuple

from edge_runtime.config import GatewayConfig, PipelineConfig
from edge_runtime.errors import ConfigError, ModelError
from edge_runtime.payload import Decoder
from edge_runtime.pipeline import Pipeline
from edge_runtime.session import Session, load_model
from edge_runtime.settings import Settings, misfits
from edge_runtime.topics import Template, TopicPattern
from edge_runtime.typed import TypedDecoder


class Destination(NamedTuple):
    """Where the messages of one topic belong."""

    route: "Route"
    stream: str
    publish: str


class Route:
    """One ``[[pipeline]]`` table at work: from topic to stream, from payload to samples.

    Args:
        config: The table.
        session: Its model.
        max_payload_bytes: A larger payload is rejected unread.
    """

    def __init__(self, config: PipelineConfig, session: Session, max_payload_bytes: int) -> None:
        self.config = config
        self.pattern = TopicPattern(config.topic)
        self.emits_scores = config.emit == "scores"
        settings, contract = Settings.of(config), session.contract
        period_ms = contract.sample_period_ms if settings.arrival else None
        self.decoder = Decoder(contract.feature_names, max_payload_bytes, period_ms)
        # What comes without a time is for the other one.
        names = contract.feature_names
        self.typed = None if settings.arrival else TypedDecoder(names, max_payload_bytes)
        self.pipeline = Pipeline(session, settings)
        self._stream = Template(config.stream)
        self._publish = Template(config.publish)

    def destination(self, topic: str) -> Destination | None:
        """Stream and publish topic for a topic; None if it is not this route's.

        Raises:
            PayloadError: If the names in the topic make no stream or no topic to publish on.
        """
        values = self.pattern.match(topic)
        if values is None:
            return None
        return Destination(self, self._stream.render(values), self._publish.render(values))


def load_routes(config: GatewayConfig) -> list[Route]:
    """Loads the model of every pipeline.

    Args:
        config: The gateway.

    Returns:
        One route for each pipeline, in order.

    Raises:
        ConfigError: Naming every model that is refused, and why.
    """
    problems: list[str] = []
    sessions: dict[str, Session] = {}
    for number, pipeline in enumerate(config.pipeline, start=1):
        key = str(pipeline.model)
        try:
            if key not in sessions:
                sessions[key] = load_model(pipeline.model)
        except ModelError as error:
            problems.append(f"[[pipeline]] {number} model: {error}")
        else:
            found = misfits(pipeline, sessions[key].contract)
            problems += [f"[[pipeline]] {number} {name}: {problem}" for name, problem in found]
    if problems:
        raise ConfigError(problems)
    limit = config.broker.max_payload_bytes
    return [Route(p, sessions[str(p.model)], limit) for p in config.pipeline]
