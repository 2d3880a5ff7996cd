"""Half-space trees: how rarely was anything seen where a sample lies?

A baseline without weights (Tan, Ting & Liu 2011, "Fast anomaly detection for streaming data"). What
is learnt is counted, so it is state and not parameter, and each stream learns for itself.
"""

import math
from typing import final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from numpy.typing import NDArray
from torch import Tensor

from train.cell import Carried, Cell

State = tuple[Tensor, ...]

REACH = 4.0
"""Deviations on either side of the mean that the trees tell apart."""
SMALL = 0.1
"""Of a window: what is under a node with less mass does not count; the paper's size limit."""
BYTE = 255
"""The largest mass that one byte holds."""
EXACT = 2**24
"""Below, float32 holds every whole number."""


@final
class HalfSpaceTrees(Cell):
    """Scores a sample by the last full window, and then counts it into the current one.

    The mass of a node is how many samples of a window came through it: ``r`` that of the last full
    window, ``l`` that of the current one. With ``T`` trees, the roots have the numbers ``T`` to
    ``2 T - 1``; under node ``m`` are ``2 m``, where the sample's feature lies below the node's
    threshold, and ``2 m + 1``. The first ``T`` numbers belong to no node.

    ``score = 1 - sum(r[m] 2^depth(m)) / largest``, over each tree's path down to the first node
    with ``r[m] < 0.1 window``, that one included; 0 as long as no window is full.
    ``l'[m] = l[m] + 1`` over the whole paths. Where that fills the window, ``r' = l'``, ``l' = 0``.

    Masses are integers of one byte, of four where a window has more than 255 samples; their sums
    are whole numbers that float32 holds, so that no order of adding shows. Nothing is trained: a
    gradient ends here.

    With the same trees, the scores are those of ``river.anomaly.HalfSpaceTrees`` (River 0.26) where
    each sample is first scored and then learnt.

    Args:
        feature: Which one each inner node looks at, ``[tree, node]``, level by level from the root:
            under node ``k`` are ``2 k + 1`` and ``2 k + 2``.
        threshold: Where it splits what `squashed` gives, ``[tree, node]``. What float32 does not
            hold is rounded up, so that every float32 stays on the side on which it was.
        inputs: Length of an input vector.
        window: Samples.

    Raises:
        ValueError: If these are no trees, or float32 could not hold the sum of their masses.
    """

    looks_at: Tensor
    threshold: Tensor
    worth: Tensor

    def __init__(
        self, feature: NDArray[np.int64], threshold: NDArray[np.float64], inputs: int, window: int
    ) -> None:
        _check_trees(feature, threshold, inputs)
        super().__init__(inputs, 1)
        self.trees, inner = feature.shape
        self.height = inner.bit_length()
        self.window = window
        self.largest = self.trees * window * (2 * inner + 1)
        if window < 1 or self.largest >= EXACT:
            most = (EXACT - 1) // (self.trees * (2 * inner + 1))
            raise ValueError(
                f"{self.trees} trees of height {self.height} want a window of 1 to {most} samples, "
                f"got {window}"
            )
        masses = Carried(
            (self.trees << (self.height + 1),), torch.uint8 if window <= BYTE else torch.int32
        )
        self.carried = {"r": masses, "l": masses, "seen": Carried((), torch.int64)}
        # One column for each number of an inner node. A product with ones and zeros is exact, and
        # picks a feature for each node several times as fast as onnxruntime's Gather.
        numbers = self._numbers(inner)  # [tree, node]
        at = torch.zeros(self.trees << self.height)  # [number]
        at[numbers] = _rounded_up(threshold)
        looks_at = torch.zeros(inputs, len(at))  # [inputs, number]
        looks_at[torch.from_numpy(feature), numbers] = 1.0
        worth = 2.0 ** torch.arange(1, self.height + 1).repeat_interleave(self.trees)
        self.register_buffer("threshold", at)
        self.register_buffer("looks_at", looks_at)
        self.register_buffer("worth", worth.unsqueeze(0), persistent=False)  # [1, height * tree]

    def _numbers(self, inner: int) -> Tensor:
        """The number of each inner node, int64 ``[tree, node]``."""
        place = torch.arange(1, inner + 1)  # 1 is the root; its leading 1 makes room for the tree
        level = torch.tensor([2 ** (k.bit_length() - 1) for k in range(1, inner + 1)])
        tree = torch.arange(self.trees).unsqueeze(1)
        numbers: Tensor = level * (self.trees + tree - 1) + place
        return numbers

    def initial_state(self, streams: int) -> State:
        """See `Cell.initial_state`."""
        return tuple(
            self.threshold.new_zeros(streams, *shape, dtype=dtype)
            for shape, dtype in self.carried.values()
        )

    def path(self, x: Tensor) -> Tensor:
        """The nodes that samples come through.

        Args:
            x: Inputs ``[stream, inputs]``.

        Returns:
            Numbers ``[stream, (height + 1) * tree]``, int64: the roots of all trees, then the next
            node in each of them, down to the leaves.
        """
        right = squashed(x) @ self.looks_at >= self.threshold  # [stream, number]
        node = torch.arange(self.trees, 2 * self.trees).expand(x.shape[0], self.trees)
        path = [node]
        for _ in range(self.height):
            node = 2 * node + right.gather(1, node)
            path.append(node)
        return torch.cat(path, dim=1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Cell.step`."""
        r, l, seen = state  # noqa: E741 - the paper's; [stream, number] twice, [stream]
        path = self.path(x)  # [stream, (height + 1) * tree]

        mass = r.gather(1, path).to(x.dtype)
        above, below = mass[:, : -self.trees], mass[:, self.trees :]
        # No node has more mass than the one above it: under a small one, all are small.
        counted = torch.where(above >= math.ceil(SMALL * self.window), below, 0.0)
        total = self.trees * self.window + F.linear(counted, self.worth)  # [stream, 1]
        score = torch.where(mass[:, :1] > 0, (self.largest - total) / self.largest, 0.0)

        l = l.scatter_add(1, path, torch.ones_like(path, dtype=l.dtype))  # noqa: E741
        seen = (seen + 1) % self.window
        full = (seen == 0).unsqueeze(1)
        return score, (torch.where(full, l, r), torch.where(full, 0, l), seen)


def squashed(x: Tensor) -> Tensor:
    """Normalised values as the trees want them: in [0, 1], the mean at a half.

    ``clamp((x + 4) / 8, 0, 1)``: four deviations on either side are told apart, and what lies
    further out is in one place with others like it. It rounds once and so the same everywhere.

    Args:
        x: Mean 0, deviation 1; any shape.
    """
    return ((x + REACH) * (0.5 / REACH)).clamp(0.0, 1.0)


def grown(
    inputs: int, seed: int, trees: int = 10, height: int = 8, window: int = 250
) -> HalfSpaceTrees:
    """Grows trees at random, before anything is measured, as the paper does.

    Each tree has a work range for each feature: around a random ``s`` in [0, 1], twice as far on
    either side as to the further end of [0, 1]. Each inner node looks at a random feature, and
    splits in the middle of what is left of its range there.

    Args:
        inputs: Length of an input vector.
        seed: The same seed gives the same trees.
        trees: How many.
        height: Splits between a root and a leaf. What a stream carries doubles with each.
        window: Samples.

    Returns:
        The trees, which have seen nothing.

    Raises:
        ValueError: If there can be no such trees.
    """
    for what, got in (("inputs", inputs), ("trees", trees), ("a height", height)):
        if got < 1:
            raise ValueError(f"wanted {what} of at least 1, got {got}")
    rng = np.random.default_rng(seed)
    s = rng.random((trees, 1, inputs))
    reach = 2 * np.maximum(s, 1 - s)
    low, high = s - reach, s + reach  # [tree, node of this level, inputs]
    features, thresholds = [], []
    for level in range(height):
        feature = rng.integers(inputs, size=(trees, 2**level, 1))
        middle = (low + high) / 2
        features.append(feature[..., 0])
        thresholds.append(np.take_along_axis(middle, feature, 2)[..., 0])
        split = feature == np.arange(inputs)
        below, above = np.where(split, middle, high), np.where(split, middle, low)
        low = np.stack([low, above], 2).reshape(trees, -1, inputs)
        high = np.stack([below, high], 2).reshape(trees, -1, inputs)
    return HalfSpaceTrees(
        np.concatenate(features, 1), np.concatenate(thresholds, 1), inputs, window
    )


def _rounded_up(threshold: NDArray[np.float64]) -> Tensor:
    nearest = threshold.astype(np.float32)
    above = np.nextafter(nearest, np.float32(np.inf))
    return torch.from_numpy(np.where(nearest < threshold, above, nearest))


def _check_trees(feature: NDArray[np.int64], threshold: NDArray[np.float64], inputs: int) -> None:
    shape = feature.shape
    inner = shape[-1] if len(shape) == 2 else 0  # noqa: PLR2004 - [tree, node]
    if not shape[:1] > (0,) or inner < 1 or inner & (inner + 1):
        raise ValueError(
            f"feature: wanted [tree, node] with 2^height - 1 nodes a tree, got {list(shape)}"
        )
    if threshold.shape != shape:
        raise ValueError(f"threshold: wanted {list(shape)}, got {list(threshold.shape)}")
    low, high = feature.min(), feature.max()
    if low < 0 or high >= inputs:
        raise ValueError(f"feature: wanted 0 to {inputs - 1}, got {low} to {high}")
    if not np.isfinite(threshold).all():
        raise ValueError("threshold: wanted finite numbers, got NaN or infinity")
