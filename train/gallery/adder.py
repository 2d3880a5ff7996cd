"""The adder that needs memory: two numbers digit by digit, least significant first; out, their sum.

The same two digits give two different answers, with and without a carry, so nothing that looks at
one sample at a time can be right. What has to be remembered is one bit, for ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from train import loop
from train.config import ModelConfig, TrainingConfig
from train.detector import Detector, Target
from train.windows import Piece, Windows, lay_out

FEATURES = ("a", "b")
DIGITS = tuple(float(digit) for digit in range(10))
# Spread wide: from one digit to the next is a step of 3, which a tanh can tell from the one beside.
MEAN, SCALE = 4.5, 0.3

LAYERS = (
    "dense",
    "elman",
)  # the lower one tells 19 sums of two digits apart, the upper one carries
MEMORYLESS = ("dense", "dense")
HIDDEN = 32
# Passes and the rate of each stretch of them: the second one settles.
RATES = ((8, 0.01), (3, 0.002))
LONGEST = 6  # digits of a number that is trained on
FARTHEST = 5 * LONGEST  # digits of the longest that is tested
ADDITIONS, LANES = 16384, 32
TESTED = 300  # additions of each length
TEST_SEED = 2**31 - 1
LENGTHS = (1, 2, 3, 4, 6, 9, 12, 18, 24, FARTHEST)
EXAMPLE = ((4, 7), (4, 7), (1, 1))  # 144 + 177, the last digits first


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """How well a network adds.

    Attributes:
        layers: Its cells, lowest first.
        lengths: Digits of the numbers that it was tested on.
        digits: Share of the sums' digits that were right, for each length.
        sums: Share of the sums in which every digit was right.
        example: Its answer to `EXAMPLE`, digit by digit.
    """

    layers: tuple[str, ...]
    lengths: tuple[int, ...]
    digits: tuple[float, ...]
    sums: tuple[float, ...]
    example: tuple[float, ...]


class Additions(NamedTuple):
    """Some additions, least significant digit first.

    Attributes:
        digits: Of the two numbers, and a zero that lets the last carry out,
            ``[addition, digit, 2]``.
        sums: Digits of their sums ``[addition, digit]``.
    """

    digits: NDArray[np.float64]
    sums: NDArray[np.float64]


def additions(rng: np.random.Generator, length: int, count: int) -> Additions:
    """Draws additions of two numbers with ``length`` digits each.

    Args:
        rng: Where the digits come from.
        length: Digits of a number.
        count: How many additions.

    Returns:
        The additions, one step longer than the numbers.
    """
    digits = rng.integers(0, 10, (count, length + 1, 2))
    digits[:, -1] = 0
    return Additions(digits.astype(np.float64), _added(digits).astype(np.float64))


def digits_of(pairs: Sequence[tuple[int, int]]) -> Additions:
    """One addition, given as the digits that enter together: ``(4, 7), (4, 7), (1, 1)``."""
    digits = np.array([pairs])
    return Additions(digits.astype(np.float64), _added(digits).astype(np.float64))


def _added(digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """As at school, ``[addition, digit, 2]`` to ``[addition, digit]``; the last carry is lost."""
    carry = np.zeros(len(digits), np.int64)
    sums = np.empty(digits.shape[:2], np.int64)
    for place in range(digits.shape[1]):
        total = digits[:, place].sum(axis=1) + carry
        sums[:, place], carry = total % 10, total // 10
    return sums


def fresh_detector(layers: tuple[str, ...], seed: int) -> Detector:
    """A network that tells the ten digits apart and knows nothing of sums."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ModelConfig(layers=layers, hidden=HIDDEN)
        detector = Detector(FEATURES, model, Target("sum", DIGITS))
    detector.normalise_by(np.full(2, MEAN), np.full(2, SCALE))
    return detector


def windows(rng: np.random.Generator, count: int) -> Windows:
    """About so many additions of every length up to `LONGEST`, each from a cold start."""
    each = -(-count // LONGEST)
    drawn = [additions(rng, length, each) for length in range(1, LONGEST + 1)]
    parts = [
        Piece(digits, 0, sums)
        for some in drawn
        for digits, sums in zip(some.digits, some.sums, strict=True)
    ]
    return lay_out(parts, LONGEST + 1, LANES)


def learn(layers: tuple[str, ...], seed: int, on_epoch: Callable[[loop.Epoch], Any]) -> Detector:
    """Trains an adder by the project's own loop.

    Args:
        layers: The cells, lowest first.
        seed: Of the weights and of the numbers.
        on_epoch: Told of each pass.

    Returns:
        The detector with its best weights.
    """
    rng = np.random.default_rng(seed)
    train, validation = windows(rng, ADDITIONS), windows(rng, ADDITIONS // 8)
    progress = loop.start(fresh_detector(layers, seed), RATES[0][1])
    last = 0
    for passes, rate in RATES:
        last += passes
        config = TrainingConfig(
            cost="cross_entropy", epochs=last, patience=last, learning_rate=rate
        )
        progress.optimiser.param_groups[0]["lr"] = rate
        for epoch in loop.fit(progress, train, validation, config):
            on_epoch(epoch)
    return progress.take_best()


@torch.no_grad()
def answers(detector: Detector, asked: Additions) -> NDArray[np.float64]:
    """What the network says, ``[addition, digit]``."""
    x = torch.from_numpy(asked.digits).float().transpose(0, 1)  # [time, stream, 2]
    said, _, _ = detector(x, detector.initial_state(x.shape[1]))
    found: NDArray[np.float64] = said.T.double().numpy()
    return found


def skill(detector: Detector) -> Skill:
    """Tests a network on numbers of every length of `LENGTHS`."""
    rng = np.random.default_rng(TEST_SEED)
    digits, sums = [], []
    for length in LENGTHS:
        asked = additions(rng, length, TESTED)
        right = answers(detector, asked) == asked.sums  # [addition, digit]
        digits.append(float(right.mean()))
        sums.append(float(right.all(axis=1).mean()))
    return Skill(
        layers=detector.model.cells,
        lengths=LENGTHS,
        digits=tuple(digits),
        sums=tuple(sums),
        example=tuple(answers(detector, digits_of(EXAMPLE))[0].tolist()),
    )
