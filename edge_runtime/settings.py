"""What decides about the samples of one pipeline, besides its model."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edge_runtime.config import AlarmConfig, PipelineConfig
from edge_runtime.contract import Contract
from edge_runtime.errors import ConfigError
from edge_runtime.payload import MAX_TS_NS, NS_PER_MS
from edge_runtime.reorder import MAX_HELD

MS_PER_H = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the gateway's configuration says about one pipeline.

    Two pipelines with the same model and the same settings decide the same. They can be kept as
    JSON beside the samples that were processed with them (`as_dict`).

    Attributes:
        alarm: From score to lamp.
        max_streams: A further stream is rejected.
        hold_ns: After a longer silence as many samples are uncertain as were missed; None takes
            ``max_gap_ns``.
        max_gap_ns: A longer silence resets the stream; None takes the contract's.
        reorder_ns: A sample is held until the newest of its stream is so much ahead; 0 holds none.
        arrival: The devices have no clock: a sample's time is that of its arrival.
        max_ahead_ns: A sample further ahead of ``now`` is rejected.
        evict_after_ns: A stream that was silent for longer may be forgotten; None: never.
    """

    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    max_streams: int = 10_000
    hold_ns: int | None = None
    max_gap_ns: int | None = None
    reorder_ns: int = 0
    arrival: bool = False
    max_ahead_ns: int = 60_000 * NS_PER_MS
    evict_after_ns: int | None = None

    @classmethod
    def of(cls, config: PipelineConfig) -> "Settings":
        """From a ``[[pipeline]]`` table."""
        after = config.evict_after_h
        return cls(
            alarm=config.alarm,
            max_streams=config.max_streams,
            hold_ns=_maybe_ns(config.hold_ms),
            max_gap_ns=_maybe_ns(config.max_gap_ms),
            reorder_ns=_ns(config.reorder_ms or 0.0),
            arrival=config.ts == "arrival",
            max_ahead_ns=_ns(config.max_ahead_ms),
            evict_after_ns=None if after is None else _ns(after * MS_PER_H),
        )

    def as_dict(self) -> dict[str, Any]:
        """In numbers, texts and None: what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """The inverse of `as_dict`; what is missing has its default.

        Raises:
            ConfigError: For a key that is not known: it may decide something.
        """
        alarm = values.get("alarm", {})
        known = {f.name for f in fields(cls)}, {f.name for f in fields(AlarmConfig)}
        for given, names in zip((values, alarm), known, strict=True):
            if unknown := sorted(set(given) - names):
                wanted = f"wanted settings out of {', '.join(sorted(names))}"
                raise ConfigError([f"{wanted}; got {', '.join(unknown)}"])
        return cls(**{**values, "alarm": AlarmConfig(**alarm)})

    def max_gap_of(self, contract: Contract) -> int:
        """The longest silence that does not reset a stream, in nanoseconds."""
        return _ns(contract.max_gap_ms) if self.max_gap_ns is None else self.max_gap_ns

    def hold_of(self, contract: Contract) -> int:
        """The longest silence after which nothing is in doubt, in nanoseconds."""
        gap = self.max_gap_of(contract)
        return gap if self.hold_ns is None else min(self.hold_ns, gap)

    def delay_of(self, contract: Contract) -> float:
        """How much later than its sample a score comes at least, in milliseconds."""
        return contract.delay_ms + self.reorder_ns / NS_PER_MS


def misfits(config: PipelineConfig, contract: Contract) -> Iterator[tuple[str, str]]:
    """What a ``[[pipeline]]`` table wants that its model does not allow.

    Args:
        config: The table, right in itself.
        contract: The model's.

    Yields:
        The key, and what was wanted and what came.
    """
    settings = Settings.of(config)
    gap, period = settings.max_gap_of(contract), contract.sample_period_ms
    if problem := too_late(contract, config.max_delay_ms, config.reorder_ms):
        yield "model", problem
    if settings.evict_after_ns is not None and settings.evict_after_ns < gap:
        text = f"must not be shorter than the model's max_gap_ms, got {config.evict_after_h:g} h"
        yield "evict_after_h", f"{text} and {gap / NS_PER_MS:g} ms"
    if config.hold_ms is not None and not period <= config.hold_ms <= gap / NS_PER_MS:
        wanted = f"wanted {period:g} (the model's sample period) to {gap / NS_PER_MS:g} (max_gap)"
        yield "hold_ms", f"{wanted}, got {config.hold_ms:g}"
    if config.reorder_ms is not None and config.reorder_ms > MAX_HELD * period:
        wanted = f"wanted {MAX_HELD * period:g} at most, which are {MAX_HELD} samples"
        yield "reorder_ms", f"{wanted}, got {config.reorder_ms:g}"


def too_late(
    contract: Contract, max_delay_ms: float | None, reorder_ms: float | None
) -> str | None:
    """Whether scores come later than the gateway's configuration allows.

    Args:
        contract: The model's, which may look ahead.
        max_delay_ms: What is allowed; None is any delay.
        reorder_ms: For how long a sample is held; None does not hold it.

    Returns:
        The delay and where it comes from, or None if it is allowed.
    """
    delay = contract.delay_ms + (reorder_ms or 0.0)
    if max_delay_ms is None or delay <= max_delay_ms:
        return None
    ahead, period = contract.look_ahead, contract.sample_period_ms
    reasons = [f"the model looks {ahead} samples of {period:g} ms ahead"] if ahead else []
    reasons += [f"reorder_ms is {reorder_ms:g}"] if reorder_ms else []
    wanted = f"wanted scores after {max_delay_ms:g} ms at most (max_delay_ms)"
    return f"{wanted}, {' and '.join(reasons)}: {delay:g} ms"


def _maybe_ns(ms: float | None) -> int | None:
    return None if ms is None else _ns(ms)


def _ns(ms: float) -> int:
    """Milliseconds of a setting in nanoseconds; one beyond all time stays within an int64."""
    return round(min(ms * NS_PER_MS, MAX_TS_NS // 2))
