"""The LSTM worked by hand: three inputs, one memory, weights that a person can choose.

``x2 = 1`` adds ``x1`` to the memory, ``x2 = -1`` resets it, ``x3 = 1`` lets it out. The squashing
of the cell's input and output is the identity, so that the numbers stay whole.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from train.cells import LSTM
from train.config import ModelConfig
from train.detector import Detector, Target

FEATURES = ("x1", "x2", "x3")
X = np.array(
    [
        [1, 3, 2, 4, 2, 1, 3, 6, 1],
        [0, 1, 0, 1, 0, 0, -1, 1, 0],
        [0, 0, 0, 0, 0, 1, 0, 0, 1],
    ],
    np.float32,
).T  # [time, feature]
Y = (0, 0, 0, 0, 0, 7, 0, 0, 6)
MEMORY_BEFORE = (0, 0, 3, 3, 7, 7, 7, 0, 6)

# Half of it is as far as a gate is ever from its middle: float32 makes sigmoid(128) one and
# sigmoid(-128) zero, not merely nearly. As powers of two they lose nothing in a product.
FIRM = 256.0


class Step(NamedTuple):
    """One step of the worked example.

    Attributes:
        before: The memory before it.
        write: The input gate, 0 to 1.
        keep: The forget gate.
        read: The output gate.
        y: What came out.
    """

    before: float
    write: float
    keep: float
    read: float
    y: float


def detector() -> Detector:
    """The LSTM as a detector whose score is its output, untouched."""
    made = Detector(
        FEATURES, ModelConfig(cell="lstm", hidden=1, squash="identity"), Target("y")
    ).eval()
    (cell,) = made.cells
    weights = {
        # One row a block: i opens at x2 = 1, f shuts at x2 = -1, g is x1, o opens at x3 = 1.
        "W": [[0, FIRM, 0], [0, FIRM, 0], [1, 0, 0], [0, 0, FIRM]],
        "U": [[0], [0], [0], [0]],
        "b": [-FIRM / 2, FIRM / 2, 0, -FIRM / 2],
    }
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.copy_(torch.tensor(weights[name]))
        made.head.linear.weight.fill_(1)
        made.head.linear.bias.zero_()
    return made


@torch.no_grad()
def work(made: Detector, x: NDArray[np.float32]) -> list[Step]:
    """Runs the example and looks at the gates.

    Args:
        made: From `detector`.
        x: ``[time, feature]``.

    Returns:
        One entry a step.
    """
    (cell,) = made.cells
    if not isinstance(cell, LSTM):
        raise TypeError(f"wanted an LSTM, got {type(cell).__name__}")
    state = made.initial_state(1)
    steps = []
    for x_t in torch.from_numpy(x).view(len(x), 1, 1, -1):  # [time = 1, stream = 1, feature]
        i, f, _, o = (x_t.flatten() @ cell.W.T + cell.b).sigmoid().tolist()  # U is zero
        before = state["c"].item()
        y, _, state = made(x_t, state)
        steps.append(Step(before, i, f, o, y.item()))
    return steps
