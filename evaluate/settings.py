"""What decides how detectors are judged."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from edge_runtime.config import AlarmConfig
from edge_runtime.tables import Problem, Table, at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Table):
    """How streams are shown to detectors, and what is counted.

    Attributes:
        label: Column that is not 0 where something was wrong.
        window: Buffer of the VUS-PR, in samples.
        recovery: An alarm so many samples after the end of an event counts as one of its recovery;
            None takes ``window``.
        lead: So many rows at the start of each recording warm up and are not judged: those that
            training may have seen.
        crop: Up to so many rows are left out at the start of each stream.
        splice: Up to so many normal rows are inserted before the first event of each stream.
        repeats: How many times both are drawn; every figure is the mean over the draws.
        seed: Of all that is drawn.
        alarm: From score to lamp, the same for all models.
        causality: Whether to cut the input and see that no score before the cut changes.

    Raises:
        ConfigError: For values that cannot be meant.
    """

    label: str
    window: Annotated[int, at_least(0)] = 60
    recovery: Annotated[int, at_least(0)] | None = None
    lead: Annotated[int, at_least(0)] = 0
    crop: Annotated[int, at_least(0)] = 0
    splice: Annotated[int, at_least(0)] = 0
    repeats: Annotated[int, at_least(1)] = 1
    seed: Annotated[int, at_least(0)] = 0
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    causality: bool = True

    @property
    def recovery_rows(self) -> int:
        """Rows after an event in which an alarm belongs to its recovery."""
        return self.window if self.recovery is None else self.recovery

    def _repeats_differ(self) -> Iterator[Problem]:
        if self.repeats > 1 and not (self.crop or self.splice):
            yield Problem(
                ("repeats",), f"wanted 1 without crop and splice, as all draws would be the same; "
                f"got {self.repeats}",
            )  # fmt: skip

    relations = (_repeats_differ,)
