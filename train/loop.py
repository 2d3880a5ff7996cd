"""Truncated back-propagation through time: one loop, top to bottom, that can be interrupted."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_runtime.errors import TrainingError
from train.config import TrainingConfig
from train.detector import Detector
from train.saved import read_saved, write_saved
from train.windows import Windows

PROGRESS_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the history.

    Attributes:
        number: Counted from 1.
        train_loss: Mean squared error of the normalised forecast, while the weights moved.
        validation_loss: The same on the validation stretch, after the pass.
        gradient_norm: Largest norm before clipping.
    """

    number: int
    train_loss: float
    validation_loss: float
    gradient_norm: float


@dataclass(slots=True)
class Progress:
    """All that training needs to go on after an interruption, bit for bit.

    There is no random number in it: the only ones drawn are the initial weights.

    Attributes:
        detector: With the weights as they are now.
        optimiser: With its moments.
        history: The passes so far.
        best: Weights after the best pass so far.
    """

    detector: Detector
    optimiser: torch.optim.Adam
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_epoch(self) -> Epoch:
        """The pass with the lowest validation loss, the first of equals."""
        return min(self.history, key=lambda epoch: epoch.validation_loss)

    def take_best(self) -> Detector:
        """The detector with its best weights, ready to be calibrated."""
        self.detector.load_state_dict(self.best)
        return self.detector.eval()


def start(detector: Detector, learning_rate: float) -> Progress:
    """Progress before the first pass."""
    return Progress(detector, torch.optim.Adam(detector.parameters(), lr=learning_rate))


def fit(
    progress: Progress, train: Windows, validation: Windows, config: TrainingConfig
) -> Iterator[Epoch]:
    """Trains until nothing gets better, and hands out each pass when ``progress`` is whole.

    Truncated back-propagation through time (Williams & Peng 1990): the state runs on from window to
    window of a lane, the gradient stops at the window's edge. Clipping by norm: Pascanu, Mikolov &
    Bengio 2013. Adam: Kingma & Ba 2015.

    Args:
        progress: Where to begin; changed in place.
        train: What the weights see.
        validation: What decides when to stop.
        config: How.

    Yields:
        Each pass, after which ``progress`` may be saved.

    Raises:
        TrainingError: When the loss is no longer a number.
    """
    detector, optimiser = progress.detector, progress.optimiser
    while len(progress.history) < config.epochs and not _out_of_patience(progress, config.patience):
        number = len(progress.history) + 1
        detector.train()
        state = detector.initial_state(train.lanes)  # each [lane, ...]
        losses, norms = [], []
        for x, counts, fresh in train:  # [time, lane, feature], [time, lane], [lane]
            state = reset(detach(state), fresh)
            error, state = detector.errors(x, state)  # [time, lane, feature]
            loss = detector.head.loss(error, counts)  # scalar
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # PyTorch has no annotation here
            norm = torch.nn.utils.clip_grad_norm_(detector.parameters(), config.clip_norm)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                raise TrainingError(_diverged(number, loss.item(), config))
            optimiser.step()
            losses.append(loss.item() * counts.sum().item())
            norms.append(norm.item())
        validation_loss = float(np.mean(squared_errors(detector, validation)))
        epoch = Epoch(number, sum(losses) / float(train.counts.sum()), validation_loss, max(norms))
        if not np.isfinite(validation_loss):
            raise TrainingError(_diverged(number, validation_loss, config))
        progress.history.append(epoch)
        if progress.best_epoch is epoch:
            progress.best = {name: v.clone() for name, v in detector.state_dict().items()}
        yield epoch


def detach(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same state without its past: no gradient flows back through it."""
    return {name: tensor.detach() for name, tensor in state.items()}


def reset(state: dict[str, Tensor], fresh: Tensor) -> dict[str, Tensor]:
    """Forgets what lanes that start a new piece carried from the one before.

    Args:
        state: Each ``[lane, ...]``; the initial state of every tensor is zero.
        fresh: 1 for a lane that starts anew, else 0, ``[lane]``.

    Returns:
        The state to begin the window with.
    """
    begins = fresh.bool().unsqueeze(1)  # [lane, 1]
    return {name: tensor.masked_fill(begins, 0.0) for name, tensor in state.items()}


@torch.no_grad()
def errors(detector: Detector, windows: Windows) -> NDArray[np.float64]:
    """The forecast errors of all samples that count.

    Args:
        detector: As it is.
        windows: The samples.

    Returns:
        Normalised sample minus forecast ``[sample, feature]``, in no particular order.
    """
    detector.eval()
    state = detector.initial_state(windows.lanes)  # each [lane, ...]
    found = []
    for x, counts, fresh in windows:
        error, state = detector.errors(x, reset(state, fresh))  # [time, lane, feature]
        found.append(error[counts.bool()].double().numpy())  # [sample, feature]
    return np.concatenate(found)


def squared_errors(detector: Detector, windows: Windows) -> NDArray[np.float64]:
    """The loss of each sample that counts, ``[sample]``."""
    squared: NDArray[np.float64] = np.mean(errors(detector, windows) ** 2, axis=1)
    return squared


def save_progress(path: Path, progress: Progress, settings: dict[str, Any]) -> None:
    """Writes what `load_progress` needs, whole or not at all.

    Args:
        path: The file.
        progress: As it is after a pass.
        settings: Plain data that must be the same when training goes on.
    """
    content = {
        "settings": settings,
        "weights": progress.detector.state_dict(),
        "optimiser": progress.optimiser.state_dict(),
        "history": [asdict(epoch) for epoch in progress.history],
        "best": progress.best,
    }
    write_saved(path, "training progress", PROGRESS_SCHEMA, content)


def load_progress(path: Path, progress: Progress, settings: dict[str, Any]) -> None:
    """Puts ``progress`` where it was when it was saved.

    Args:
        path: The file.
        progress: Before the first pass, with a detector of the same shape; changed in place.
        settings: As given to `save_progress`.

    Raises:
        TrainingError: For a file that cannot be read, or one of another experiment.
    """
    content = read_saved(path, "training progress", PROGRESS_SCHEMA)
    before = content["settings"]
    changed = [
        f"{key} was {before.get(key)}, is {settings.get(key)}"
        for key in sorted(before.keys() | settings.keys())
        if before.get(key) != settings.get(key)
    ]
    if changed:
        raise TrainingError(
            f"{path}: cannot go on with another experiment: {'; '.join(changed)}. "
            "Use the same data and options, or --force to begin anew"
        )
    progress.detector.load_state_dict(content["weights"])
    progress.optimiser.load_state_dict(content["optimiser"])
    progress.history = [Epoch(**epoch) for epoch in content["history"]]
    progress.best = content["best"]


def _out_of_patience(progress: Progress, patience: int) -> bool:
    if not progress.history:
        return False
    return len(progress.history) - progress.best_epoch.number >= patience


def _diverged(number: int, loss: float, config: TrainingConfig) -> str:
    return (
        f"epoch {number}: the loss is {loss}; training has diverged. Lower learning_rate (it is "
        f"{config.learning_rate:g}) or clip_norm (it is {config.clip_norm:g}), then start anew "
        "with --force"
    )
