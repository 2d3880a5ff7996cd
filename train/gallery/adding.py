"""Who remembers how long: the adding problem.

Hochreiter & Schmidhuber 1997, section 5.4, in the form of Le, Jaitly & Hinton 2015, section 4.1.
Of a sequence of random numbers two are marked. After the last one the network says the sum of the
two. Whoever remembers nothing says 1, the mean, and errs by 1/6, the variance of such a sum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.config import ModelConfig, TrainingConfig
from train.detector import Detector, Target
from train.heads import Estimate
from train.loop import clip

LENGTHS = (50, 100, 200)
BY_CHANCE = 1 / 6
SOLVED = 0.01  # an error below which a cell knows both numbers, not only one

# The same for every cell.
HIDDEN = 32
BATCH = 32
CLIP_NORM = 1.0
GRID = (0.01, 0.003, 0.001)
# Of GRID the one with the lowest error at length 50 after 1,500 steps with seed 0. Where nothing
# was learnt (dense, elman, jordan, clockwork, scrn) the choice is one of noise.
LEARNING_RATES = {
    "dense": 0.01,
    "elman": 0.001,
    "jordan": 0.001,
    "irnn": 0.003,
    "lstm": 0.01,
    "lstm_peephole": 0.01,
    "gru": 0.01,
    "clockwork": 0.001,
    "scrn": 0.01,
}

MEASUREMENTS = 50  # of the error, while a cell is trained
TEST_SEQUENCES = 500
TEST_SEED = 2**31 - 1


class Sequences(NamedTuple):
    """Some questions, and their answers.

    Attributes:
        x: Numbers between 0 and 1 and their marks, ``[time, stream, 2]`` float32.
        total: The sum of the two that are marked, ``[stream]`` float32.
    """

    x: Tensor
    total: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One cell that is to learn one length.

    Attributes:
        cell: A key of `train.cells.CELLS`.
        length: Of a sequence, at least 2.
        steps: Steps of the optimiser.
        learning_rate: Of Adam.
        seed: Of the initial weights and of the sequences.
    """

    cell: str
    length: int
    steps: int
    learning_rate: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How a cell learnt.

    Attributes:
        cell: Its name.
        length: Of the sequences.
        learning_rate: Of Adam.
        steps: When the error was measured.
        errors: Mean squared error on sequences that it was not trained on. Shorter than planned
            where training diverged.
    """

    cell: str
    length: int
    learning_rate: float
    steps: tuple[int, ...]
    errors: tuple[float, ...]


def tasks(steps: int, seed: int) -> list[Task]:
    """Every cell at every length, the longest first."""
    return [
        Task(cell=cell, length=length, steps=steps, learning_rate=rate, seed=seed)
        for length in sorted(LENGTHS, reverse=True)
        for cell, rate in LEARNING_RATES.items()
    ]


def sequences(rng: np.random.Generator, length: int, streams: int) -> Sequences:
    """Draws questions; one mark is in the first half, one in the second.

    Args:
        rng: Where the numbers come from.
        length: Of a sequence, at least 2.
        streams: How many.

    Returns:
        The sequences and their sums.
    """
    x = np.zeros((length, streams, 2), np.float32)
    x[:, :, 0] = rng.random((length, streams))
    every = np.arange(streams)
    for low, high in ((0, length // 2), (length // 2, length)):
        x[rng.integers(low, high, streams), every, 1] = 1
    total = (x[:, :, 0] * x[:, :, 1]).sum(axis=0)
    return Sequences(torch.from_numpy(x), torch.from_numpy(total))


def fresh_detector(cell: str, seed: int) -> Detector:
    """A network that has learnt nothing but that sums are 1 on average."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ModelConfig(cell=cell, hidden=HIDDEN)
        detector = Detector(("number", "mark"), model, Target("sum"))
    if isinstance(detector.head, Estimate):
        detector.head.mean.fill_(1.0)
    return detector


def learn(task: Task, on_steps: Callable[[int], Any]) -> Curve:
    """Trains a cell; only the answer after the last number counts.

    Args:
        task: What to learn.
        on_steps: Told of steps done, with how many.

    Returns:
        The error before the first step, and at `MEASUREMENTS` moments after it.
    """
    detector = fresh_detector(task.cell, task.seed)
    optimiser = torch.optim.Adam(detector.parameters(), lr=task.learning_rate)
    held = TrainingConfig(clip_norm=CLIP_NORM)
    rng = np.random.default_rng([task.seed, task.length])
    test = test_sequences(task.length)
    every = max(task.steps // MEASUREMENTS, 1)
    steps, found = [0], [error(detector, test)]
    for step in range(1, task.steps + 1):
        optimiser.zero_grad()
        loss = squared_errors(detector, sequences(rng, task.length, BATCH)).mean()  # scalar
        loss.backward()  # type: ignore[no-untyped-call] # PyTorch has no annotation here
        norm = clip(detector.parameters(), held)
        if not np.isfinite([loss.item(), norm]).all():
            on_steps(task.steps - step + 1)
            break
        optimiser.step()
        on_steps(1)
        if step % every == 0:
            steps.append(step)
            found.append(error(detector, test))
    return Curve(
        cell=task.cell,
        length=task.length,
        learning_rate=task.learning_rate,
        steps=tuple(steps),
        errors=tuple(found),
    )


def learnt(curve: Curve) -> bool:
    """Whether the last error is clearly below what needs no memory: less than half of it."""
    return curve.errors[-1] < BY_CHANCE / 2


def solved_at(curve: Curve) -> int | None:
    """The first measured step with an error below `SOLVED`; None: never."""
    return next((s for s, e in zip(curve.steps, curve.errors, strict=True) if e < SOLVED), None)


def test_sequences(length: int) -> Sequences:
    """The questions that every cell is measured on."""
    return sequences(np.random.default_rng([TEST_SEED, length]), length, TEST_SEQUENCES)


def chance(length: int) -> float:
    """The error of always saying 1, on the very questions that the cells are measured on."""
    return float((test_sequences(length).total - 1).square().mean())


def squared_errors(detector: Detector, asked: Sequences) -> Tensor:
    """Of the answers after the last number, ``[stream]``."""
    streams = asked.x.shape[1]
    target = asked.total.expand(asked.x.shape[:2])  # [time, stream]
    cost, _ = detector.costs(asked.x, target, detector.initial_state(streams))
    return cost[-1]


@torch.no_grad()
def error(detector: Detector, asked: Sequences) -> float:
    """The mean squared error."""
    return float(squared_errors(detector, asked).mean())
