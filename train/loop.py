"""Truncated back-propagation through time: one loop, top to bottom, that can be interrupted."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_runtime.errors import TrainingError
from train.cell import Cell
from train.cells import IRNN
from train.config import TrainingConfig
from train.detector import Detector
from train.layers import State
from train.saved import changed, read_saved, write_saved
from train.windows import Windows

PROGRESS_SCHEMA = 2

# A loss so many times the best so far is no setback but the end of what was learnt.
RUNAWAY = 1000.0
# Above this norm a clipped gradient still moves the weights as far as an unclipped one would.
SOFT_CLIP = 10.0


class Learner(Protocol):
    """What can be trained: `train.detector.Detector`, `train.horizons.Horizons`.

    Attributes:
        cells: All of its cells.
        stream_axes: Which axis of each carried tensor is the stream.
    """

    @property
    def cells(self) -> tuple[Cell, ...]: ...  # noqa: D102
    @property
    def stream_axes(self) -> dict[str, int]: ...  # noqa: D102
    def initial_state(self, streams: int) -> State:
        """The state of streams that have seen nothing."""

    def costs(self, x: Tensor, target: Tensor, state: State) -> tuple[Tensor, State]:
        """The cost of each prediction ``[time, stream]``, and the state after."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is learnt."""

    def state_dict(self) -> dict[str, Any]:
        """Parameters and buffers by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Takes them over."""

    def train(self) -> Any:  # noqa: ANN401
        """Into training mode."""

    def eval(self) -> Any:  # noqa: ANN401
        """Into evaluation mode."""


AnyLearner = TypeVar("AnyLearner", bound=Learner)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the history.

    Attributes:
        number: Counted from 1.
        train_loss: Mean cost of a sample, while the weights moved: the squared error of what was
            normalised, or the cross-entropy in nats.
        validation_loss: The same on the validation stretch, after the pass.
        gradient_norm: Largest norm before clipping.
    """

    number: int
    train_loss: float
    validation_loss: float
    gradient_norm: float


@dataclass(slots=True)
class Progress(Generic[AnyLearner]):
    """All that training needs to go on after an interruption, bit for bit.

    There is no random number in it: what is drawn in a pass follows from the seed and its number.

    Attributes:
        detector: With the weights as they are now.
        optimiser: With its moments.
        history: The passes so far.
        best: Weights after the best pass so far.
    """

    detector: AnyLearner
    optimiser: torch.optim.Adam
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_epoch(self) -> Epoch:
        """The pass with the lowest validation loss, the first of equals."""
        return min(self.history, key=lambda epoch: epoch.validation_loss)

    def take_best(self) -> AnyLearner:
        """The detector with its best weights, ready to be calibrated."""
        self.detector.load_state_dict(self.best)
        self.detector.eval()
        return self.detector


def start(detector: AnyLearner, learning_rate: float) -> Progress[AnyLearner]:
    """Progress before the first pass."""
    return Progress(detector, torch.optim.Adam(detector.parameters(), lr=learning_rate))


def fit(
    progress: Progress[Any], train: Windows, validation: Windows, config: TrainingConfig
) -> Iterator[Epoch]:
    """Trains until nothing gets better, and hands out each pass when ``progress`` is whole.

    Truncated back-propagation through time (Williams & Peng 1990): the state runs on from window to
    window of a lane, the gradient stops at the window's edge. Clipping: see `clip`. Adam: Kingma &
    Ba 2015.

    Args:
        progress: Where to begin; changed in place.
        train: What the weights see.
        validation: What decides when to stop.
        config: How.

    Yields:
        Each pass, after which ``progress`` may be saved.

    Raises:
        TrainingError: When training has diverged, with the advice that fits.
    """
    detector, optimiser = progress.detector, progress.optimiser
    while len(progress.history) < config.epochs and not _out_of_patience(progress, config.patience):
        number = len(progress.history) + 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_pass_seed(config.seed, number))
            detector.train()
            state = detector.initial_state(train.lanes)  # each [lane, ...]
            losses, norms = [], []
            # Samples ``[time, lane, feature]``, what counts and the target ``[time, lane]``.
            for x, counts, fresh, target in train:
                state = reset(detach(state), fresh, detector.stream_axes)
                cost, state = detector.costs(x, target, state)  # [time, lane]
                loss = mean_cost(cost, counts)  # scalar
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call] # PyTorch has no annotation here
                norms.append(clip(detector.parameters(), config))
                losses.append(loss.item() * counts.sum().item())
                if not np.isfinite([losses[-1], norms[-1]]).all():
                    raise TrainingError(
                        diverged(progress, config, loss.item(), float(np.max(norms)))
                    )
                optimiser.step()
        largest = float(np.max(norms))
        validation_loss = float(np.mean(costs(detector, validation)))
        epoch = Epoch(number, sum(losses) / float(train.counts.sum()), validation_loss, largest)
        if not np.isfinite(validation_loss) or ran_away(epoch, progress.history):
            raise TrainingError(diverged(progress, config, validation_loss, largest))
        progress.history.append(epoch)
        if progress.best_epoch is epoch:
            progress.best = {name: v.clone() for name, v in detector.state_dict().items()}
        yield epoch


def detach(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same state without its past: no gradient flows back through it."""
    return {name: tensor.detach() for name, tensor in state.items()}


def reset(state: dict[str, Tensor], fresh: Tensor, axes: Mapping[str, int]) -> dict[str, Tensor]:
    """Forgets what lanes that start a new piece carried from the one before.

    Args:
        state: Of any shape; the initial state of every tensor is zero.
        fresh: 1 for a lane that starts anew, else 0, ``[lane]``.
        axes: Which axis of each tensor is the lane.

    Returns:
        The state to begin the window with.
    """
    forgotten = {}
    for name, tensor in state.items():
        begins = fresh.bool().view([-1 if d == axes[name] else 1 for d in range(tensor.ndim)])
        forgotten[name] = tensor.masked_fill(begins, 0)
    return forgotten


def mean_cost(cost: Tensor, counts: Tensor) -> Tensor:
    """The mean over the samples that count.

    Args:
        cost: Of each prediction ``[time, lane]``.
        counts: 1 where a sample counts, else 0, ``[time, lane]``.

    Returns:
        A scalar; zero where nothing counts.
    """
    return (cost * counts).sum() / counts.sum().clamp(min=1)


def clip(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> float:
    """Clips the gradient in place: each element first, then the whole.

    By value: an element beyond the threshold is held at it (Mikolov 2012). By norm: the gradient
    keeps its direction and is scaled down to the threshold (Pascanu, Mikolov & Bengio 2013).

    Args:
        parameters: With their gradients.
        config: The two thresholds.

    Returns:
        The norm as it was before.
    """
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if config.clip_value is not None:
        torch.nn.utils.clip_grad_value_(parameters, config.clip_value)
    if config.clip_norm:
        torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    return float(norm)


@torch.no_grad()
def errors(detector: Detector, windows: Windows) -> NDArray[np.float64]:
    """The forecast errors of all samples that count.

    Args:
        detector: As it is, without a target.
        windows: The samples.

    Returns:
        Normalised sample minus forecast ``[sample, feature]``, in no particular order.
    """
    return _over(detector, windows, lambda x, _, state: detector.errors(x, state))


@torch.no_grad()
def costs(detector: Learner, windows: Windows) -> NDArray[np.float64]:
    """The cost of each sample that counts, ``[sample]``, in no particular order."""
    return _over(detector, windows, detector.costs)


def _over(
    detector: Learner,
    windows: Windows,
    per_sample: Callable[[Tensor, Tensor, State], tuple[Tensor, State]],
) -> NDArray[np.float64]:
    detector.eval()
    axes, state = detector.stream_axes, detector.initial_state(windows.lanes)
    found = []
    for x, counts, fresh, target in windows:
        value, state = per_sample(x, target, reset(state, fresh, axes))  # [time, lane, ...]
        found.append(value[counts.bool()].double().numpy())  # [sample, ...]
    return np.concatenate(found)


def save_progress(path: Path, progress: Progress[Any], settings: dict[str, Any]) -> None:
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


def load_progress(path: Path, progress: Progress[Any], settings: dict[str, Any]) -> None:
    """Puts ``progress`` where it was when it was saved.

    Args:
        path: The file.
        progress: Before the first pass, with a detector of the same shape; changed in place.
        settings: As given to `save_progress`.

    Raises:
        TrainingError: For a file that cannot be read, or one of another experiment.
    """
    content = read_saved(path, "training progress", PROGRESS_SCHEMA)
    others = changed(content["settings"], settings)
    if others:
        raise TrainingError(
            f"{path}: cannot go on with another experiment: {others}. "
            "Use the same data and options, or --force to begin anew"
        )
    progress.detector.load_state_dict(content["weights"])
    progress.optimiser.load_state_dict(content["optimiser"])
    progress.history = [Epoch(**epoch) for epoch in content["history"]]
    progress.best = content["best"]


def _pass_seed(seed: int, number: int) -> int:
    """Of what a network's input is disturbed with in a pass."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _out_of_patience(progress: Progress[Any], patience: int) -> bool:
    if not progress.history:
        return False
    return len(progress.history) - progress.best_epoch.number >= patience


def ran_away(epoch: Epoch, before: Sequence[Epoch]) -> bool:
    """Whether a pass undid all that was learnt: both losses far above the best there were.

    Before the first pass the best is what the mean value costs, which is about 1.
    """
    best_train = min((e.train_loss for e in before), default=1.0)
    best_validation = min((e.validation_loss for e in before), default=1.0)
    if min(best_train, best_validation) <= 0:
        return False  # a negative log-likelihood: it has no zero, and grows but slowly
    return (
        epoch.train_loss > RUNAWAY * best_train
        and epoch.validation_loss > RUNAWAY * best_validation
    )


def diverged(progress: Progress[Any], config: TrainingConfig, loss: float, norm: float) -> str:
    """Says that training has diverged, and what fits the case.

    Args:
        progress: Up to the pass before.
        config: How it was trained.
        loss: The last one.
        norm: The largest norm of the gradient in the pass, before clipping.

    Returns:
        A sentence of what happened and one of advice.
    """
    usual = [epoch.gradient_norm for epoch in progress.history]
    before = f", {min(usual):.3g} to {max(usual):.3g} in the passes before" if usual else ""
    happened = (
        f"epoch {len(progress.history) + 1}: training has diverged: the loss is {loss:g}, the "
        f"gradient's norm reached {norm:.3g}{before}"
    )
    rate = f"learning_rate (it is {config.learning_rate:g})"
    if not config.clip_norm and config.clip_value is None:
        advice = "nothing clips the gradient: set clip_norm = 1"
    elif any(isinstance(cell, IRNN) for cell in progress.detector.cells):
        advice = f"nothing bounds the units of irnn: lower {rate} a hundredfold, or choose gru"
    elif config.clip_norm > SOFT_CLIP or (not config.clip_norm and not norm <= SOFT_CLIP):
        held = f"clip_norm = {config.clip_norm:g}" if config.clip_norm else "clip_value alone"
        advice = f"{held} lets steps through that are too long: set clip_norm = 1"
    else:
        advice = f"the gradient is clipped, so each step is too long by itself: lower {rate}"
    return f"{happened}. Advice: {advice}; then start anew with --force"
