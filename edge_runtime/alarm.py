"""From score to lamp: threshold, hysteresis and debounce. Never in the model.

A score says how unusual a sample is. Whether that lights the lamp is the operator's choice, so it
is decided here, from the gateway's configuration:

    dark --- `hold_steps` ok samples in a row above `enter` ---> lit
    lit  --- `hold_steps` ok samples in a row below `leave` ---> dark

A sample that is not ``ok`` (warming up, uncertain) neither counts nor breaks a row: it says
nothing. So a reset does not put out a lamp that is lit.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import AlarmConfig

Event = Literal["raised", "cleared"]


@dataclass(frozen=True, slots=True)
class AlarmState:
    """What the decision remembers of one stream.

    Attributes:
        raised: Whether the lamp is lit.
        row: ``ok`` samples in a row that speak for the other side.
    """

    raised: bool = False
    row: int = 0


QUIET = AlarmState()


class Transition(NamedTuple):
    """The lamp changes at the sample with index ``at``."""

    at: int
    event: Event


def advance(
    state: AlarmState, scores: NDArray[np.float32], ok: NDArray[np.bool_], config: AlarmConfig
) -> tuple[AlarmState, list[Transition], NDArray[np.bool_]]:
    """Decides for consecutive samples of one stream.

    Args:
        state: What is remembered from the samples before.
        scores: ``[sample]``.
        ok: ``[sample]``, whether the sample's status is ``ok``.
        config: Thresholds and hold.

    Returns:
        The state after the samples, the transitions among them, and whether the lamp is lit at
        each of them, ``[sample]``.
    """
    if state.row == 0 and not _any_against(state.raised, scores, ok, config):
        return state, [], np.full(len(scores), state.raised)
    places = np.flatnonzero(ok)  # the others say nothing
    if not len(places):
        return state, [], np.full(len(scores), state.raised)
    exact, hold = scores[places].astype(np.float64), config.hold_steps
    # What is remembered stands before, as samples of which it is known that they are against.
    before = min(state.row, hold - 1)
    runs = {
        True: _runs(np.full(before, state.raised), exact < config.leave),
        False: _runs(np.full(before, not state.raised), exact > config.enter),
    }
    enough = {lit: np.flatnonzero(run >= hold).tolist() for lit, run in runs.items()}
    raised, begin = state.raised, 0
    lit = np.full(len(scores), raised)
    transitions: list[Transition] = []
    # A row must have begun since the lamp last changed.
    while (place := bisect_left(enough[raised], begin + hold - 1)) < len(enough[raised]):
        begin, raised = enough[raised][place] + 1, not raised
        at = int(places[begin - 1 - before])
        transitions.append(Transition(at, "raised" if raised else "cleared"))
        lit[at:] = raised
    row = min(int(runs[raised][-1]), before + len(places) - begin)
    return AlarmState(raised, row), transitions, lit


def _runs(before: NDArray[np.bool_], against: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many samples in a row are against, up to each one, those before them included."""
    against = np.concatenate([before, against])
    numbers = np.arange(1, len(against) + 1)
    runs: NDArray[np.int64] = numbers - np.maximum.accumulate(np.where(against, 0, numbers))
    return runs


def _any_against(
    raised: bool,
    scores: NDArray[np.float32],
    ok: NDArray[np.bool_],
    config: AlarmConfig,
) -> bool:
    """Whether a sample speaks against the present state; almost always not, so look at all."""
    exact = scores.astype(np.float64)  # a float32 against a float64 threshold would round it
    against = exact < config.leave if raised else exact > config.enter
    return bool((against & ok).any())
