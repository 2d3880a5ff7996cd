"""From score to lamp: threshold, hysteresis and debounce. Never in the model.

A score says how unusual a sample is. Whether that lights the lamp is the operator's choice, so it
is decided here, from the gateway's configuration:

    dark --- `hold_steps` ok samples in a row above `enter` ---> lit
    lit  --- `hold_steps` ok samples in a row below `leave` ---> dark

A sample that is not ``ok`` (warming up, uncertain) neither counts nor breaks a row: it says
nothing. So a reset does not put out a lamp that is lit.
"""

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
    raised, row = state.raised, state.row
    transitions: list[Transition] = []
    lit = np.empty(len(scores), np.bool_)
    for index, (score, counts) in enumerate(zip(scores.tolist(), ok.tolist(), strict=True)):
        if counts:
            against = score < config.leave if raised else score > config.enter
            row = row + 1 if against else 0
            if row == config.hold_steps:
                raised, row = not raised, 0
                transitions.append(Transition(index, "raised" if raised else "cleared"))
        lit[index] = raised
    return AlarmState(raised, row), transitions, lit


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
