"""Counts what was refused, says it once, and reports it without flooding anybody.

A machine that sends rubbish does so a thousand times a second. Each cause of each stream is logged
and reported when it first appears; from then on a report with the total follows at most once per
interval.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from heapq import heappop, heappush

import msgspec

from edge_runtime.payload import NS_PER_MS, name_json

log = logging.getLogger("andon")

REPORT_EVERY_NS = 10_000 * NS_PER_MS
MAX_ENTRIES = 1_000
OTHERS = "(others)"


@dataclass(slots=True)
class _Entry:
    topic: str
    detail: str
    total: int = 0
    reported: int = 0
    due_ns: int = 0


class Refusals:
    """The refusals of one gateway.

    Names come from topics, so their number is bounded: beyond `MAX_ENTRIES` pairs of stream and
    cause, further streams are counted together.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._waiting: list[tuple[int, tuple[str, str]]] = []  # a heap, soonest due first

    def add(
        self, stream: str, cause: str, detail: str, *, topic: str = "", samples: int = 1
    ) -> None:
        """Counts a refusal and logs it if it is the first of its kind.

        Args:
            stream: Whose sample or message it was.
            cause: Stable name.
            detail: What was wanted and what came.
            topic: Where it arrived, if that is known.
            samples: How many samples or messages were refused.
        """
        key = (stream, cause)
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= MAX_ENTRIES:
                key, topic, detail = (OTHERS, cause), "", "streams beyond those reported by name"
            entry = self._entries.setdefault(key, _Entry(topic, detail))
            if not entry.total:
                log.warning("rejected %s from %s: %s", cause, ascii(key[0]), detail)
        if entry.total == entry.reported:
            heappush(self._waiting, (entry.due_ns, key))
        entry.total += samples

    def due(self, now_ns: int) -> list[bytes]:
        """The reports that should leave now.

        Args:
            now_ns: A monotonic clock, in nanoseconds; never negative.

        Returns:
            JSON objects with stream, topic, cause, count since the last report, total, and the
            detail of the first of its kind.
        """
        reports = []
        while self._waiting and self._waiting[0][0] <= now_ns:
            _, (stream, cause) = heappop(self._waiting)
            entry = self._entries[stream, cause]
            reports.append(
                msgspec.json.encode(
                    {
                        "stream": msgspec.Raw(name_json(stream)),
                        "topic": entry.topic,
                        "cause": cause,
                        "count": entry.total - entry.reported,
                        "total": entry.total,
                        "detail": entry.detail,
                    }
                )
            )
            entry.reported, entry.due_ns = entry.total, now_ns + REPORT_EVERY_NS
        return reports

    def totals(self) -> Counter[str]:
        """How many samples or messages were refused, by cause."""
        totals: Counter[str] = Counter()
        for (_, cause), entry in self._entries.items():
            totals[cause] += entry.total
        return totals
