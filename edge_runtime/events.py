"""What a gateway says of itself, below ``andon/<client_id>/``: events, and the status in full.

An event goes through the outbox like a flag: at least once, under an id that is the same each time.

    {"id", "event": "reset", "stream", "ts", "cause", "unscored", "model", "count"}
    {"id", "event": "evicted", "stream", "ts", "unscored", "model", "count"}
    {"id", "event": "cold_start", "topic", "cause", "model"}
"""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from edge_runtime.payload import NS_PER_MS, name_json, ts_text
from edge_runtime.results import Evicted, Reset
from edge_runtime.store import Publication, Start

SCHEMA_VERSION = 1


class Events:
    """Writes the events of one gateway.

    Args:
        topic: Where they are published.

    Attributes:
        counts: Events so far, by kind and cause.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.counts: Counter[str] = Counter()

    def reset(self, digest: str, reset: Reset) -> Publication:
        """A stream of the model with this digest starts again from the initial state."""
        return self._of_stream(
            digest, ("reset", reset.cause), (reset.stream, reset.ts), reset.unscored
        )

    def evicted(self, digest: str, evicted: Evicted) -> Publication:
        """A stream of the model with this digest is forgotten."""
        return self._of_stream(
            digest, ("evicted", ""), (evicted.stream, evicted.last_ts), evicted.unscored
        )

    def cold_start(self, digest: str, topic: str, start: Start) -> Publication:
        """A pipeline starts without any state though there was some."""
        return self._publication(
            {
                "id": _id(digest, topic, "cold_start", start.cold),
                "event": "cold_start",
                "topic": topic,
                "cause": start.cold,
                "model": digest[:16],
            }
        )

    def _of_stream(
        self, digest: str, kind: tuple[str, str], sample: tuple[str, int], unscored: int
    ) -> Publication:
        (event, cause), (stream, ts) = kind, sample
        key = f"{event}: {cause}" if cause else event
        self.counts[key] += 1
        return self._publication(
            {
                "id": _id(digest, stream, str(ts), key),
                "event": event,
                "stream": msgspec.Raw(name_json(stream)),
                "ts": msgspec.Raw(ts_text(ts).encode()),
                **({"cause": cause} if cause else {}),
                "unscored": unscored,
                "model": digest[:16],
                "count": self.counts[key],
            }
        )

    def _publication(self, event: dict[str, object]) -> Publication:
        return Publication(self._topic, msgspec.json.encode(event))


def details(
    status: str,
    cause: str,
    pipelines: Sequence[tuple[str, str]],
    starts: Sequence[Start],
    aside: Sequence[str],
) -> bytes:
    """The status in full, as one JSON object that the broker keeps.

    Args:
        status: The word on the status topic.
        cause: Why it is not ``online``, or empty.
        pipelines: Topic and model digest of each.
        starts: How each has started; none while the database has not been opened.
        aside: Databases that were set aside since the start, and why.
    """
    how = [*starts, *[None] * (len(pipelines) - len(starts))]
    return msgspec.json.encode(
        {
            "schema": SCHEMA_VERSION,
            "status": status,
            "cause": cause,
            "since": time.time_ns() // NS_PER_MS,
            "pipelines": [
                {
                    "topic": topic,
                    "model": digest[:16],
                    **(
                        {}
                        if start is None
                        else {
                            "start": "cold" if start.cold else "warm",
                            "cause": start.cold,
                            "streams": start.streams,
                            "samples_run_again": start.samples,
                        }
                    ),
                }
                for (topic, digest), start in zip(pipelines, how, strict=True)
            ],
            "set_aside": list(aside),
        }
    )


def _id(*parts: str) -> str:
    key = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(key).hexdigest()[:32]
