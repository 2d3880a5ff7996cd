"""Half-space trees beside River's, by hand, in pieces, and how they are grown."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from river.anomaly import HalfSpaceTrees as River
from torch import Tensor

from train.half_space import HalfSpaceTrees, grown, squashed
from train.layers import over_time

Float32 = NDArray[np.float32]
INPUTS = 3


def samples(steps: int, streams: int = 1, seed: int = 0) -> Tensor:
    """Slow waves, noise, and now and then something far out ``[time, stream, inputs]``."""
    rng = np.random.default_rng(seed)
    shape = (steps, streams, INPUTS)
    wave = np.sin(np.arange(steps)[:, None, None] * rng.uniform(0.02, 0.1, shape[1:]))
    far = rng.normal(0, 6, shape) * (rng.random(shape[:2]) < 0.03)[..., None]
    return torch.from_numpy((wave + rng.normal(0, 0.7, shape) + far).astype(np.float32))


# --- River ---------------------------------------------------------------------------------------


def grown_by_river(seed: int, **shape: int) -> Any:
    """River's trees, which it grows from the seed as soon as it is shown a sample."""
    river = River(seed=seed, **shape)
    river.learn_one(dict.fromkeys(range(INPUTS), 0.5))
    return river


def by_level(tree: Any) -> list[Any]:
    """A tree's nodes, level by level from the root."""
    nodes = [tree]
    for node in nodes:  # grows on the way
        nodes += getattr(node, "children", ())
    return nodes


def transplanted(river: Any) -> HalfSpaceTrees:
    inner = [[node for node in by_level(tree) if hasattr(node, "feature")] for tree in river.trees]
    return HalfSpaceTrees(
        np.array([[node.feature for node in nodes] for nodes in inner]),
        np.array([[node.threshold for node in nodes] for nodes in inner]),
        INPUTS,
        river.window_size,
    )


def masses_of(river: Any, which: str) -> list[list[int]]:
    """``[tree, node]``, level by level."""
    return [[getattr(node, which) for node in by_level(tree)] for tree in river.trees]


def by_tree(trees: HalfSpaceTrees, masses: Tensor) -> list[list[int]]:
    """One stream's masses ``[number]`` as ``[tree, node]``, level by level."""
    found: list[list[int]] = [[] for _ in range(trees.trees)]
    for level in range(trees.height + 1):
        width = 2**level
        row = masses[trees.trees * width : 2 * trees.trees * width].reshape(trees.trees, width)
        for tree, nodes in enumerate(row.tolist()):
            found[tree] += nodes
    return found


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({}, id="as River comes"),
        pytest.param({"n_trees": 3, "height": 4, "window_size": 17}, id="many windows"),
        pytest.param({"n_trees": 4, "height": 6, "window_size": 300}, id="masses beyond a byte"),
        pytest.param({"n_trees": 1, "height": 1, "window_size": 1}, id="the smallest"),
    ],
)
def test_scores_and_masses_are_rivers(shape: dict[str, int]) -> None:
    """Over a thousand samples, which are several windows and a part of one."""
    trees = transplanted(grown_by_river(5, **shape))
    river = River(seed=5, **shape)
    x = samples(1100, seed=1)
    wanted = []
    for row in squashed(x[:, 0]).tolist():
        sample = dict(enumerate(row))
        wanted.append(river.score_one(sample))
        river.learn_one(sample)
    y, (r, l, seen) = over_time(trees, x, trees.initial_state(1))  # noqa: E741
    # River divides in double precision; that rounded to float32 is what float32 division gives.
    np.testing.assert_array_equal(y[:, 0, 0].numpy(), np.array(wanted, np.float32))
    assert by_tree(trees, r[0]) == masses_of(river, "r_mass")
    assert by_tree(trees, l[0]) == masses_of(river, "l_mass")
    assert seen.tolist() == [river.counter]
    assert len(set(wanted)) > 1


def test_a_threshold_that_float32_does_not_hold_parts_the_samples_all_the_same() -> None:
    """Just below, on, and just above where a sample lies; 'below the threshold' goes left."""
    x = torch.tensor([[0.3]])
    at = float(squashed(x))
    thresholds = np.array([[np.nextafter(at, 0)], [at], [np.nextafter(at, 1)]])
    trees = HalfSpaceTrees(np.zeros((3, 1), np.int64), thresholds, 1, 10)
    assert trees.path(x).tolist() == [[3, 4, 5, 2 * 3 + 1, 2 * 4 + 1, 2 * 5]]


# --- By hand -------------------------------------------------------------------------------------


def test_a_window_counts_when_it_is_full_and_until_the_next_one_is() -> None:
    """One tree that parts at the mean, windows of two samples; the largest sum is 2 (1 + 2)."""
    trees = HalfSpaceTrees(np.array([[0]]), np.array([[0.5]]), 1, 2)
    low, high = [-1.0], [1.0]
    x = torch.tensor([low, low, low, high, low, high, high]).unsqueeze(1)
    state = trees.initial_state(1)
    found: list[tuple[Any, ...]] = []
    for x_t in x:
        y, state = trees.step(x_t, state)
        r, l, seen = (value[0].tolist() for value in state)  # noqa: E741
        found.append((round(y.item() * 6), r[1:], l[1:], seen))
    assert found == [
        # 6 times the score; masses of the root, below and above the mean
        (0, [0, 0, 0], [1, 1, 0], 1),
        (0, [2, 2, 0], [0, 0, 0], 0),
        (0, [2, 2, 0], [1, 1, 0], 1),  # 2 + 2 * 2 of 6: all samples were here
        (4, [2, 1, 1], [0, 0, 0], 0),  # 2 + 2 * 0: none was
        (2, [2, 1, 1], [1, 1, 0], 1),
        (2, [2, 1, 1], [0, 0, 0], 0),
        (2, [2, 1, 1], [1, 0, 1], 1),
    ]


def test_what_is_under_a_small_node_does_not_count() -> None:
    """A tenth of the window is not small, one sample less is."""
    trees = HalfSpaceTrees(np.array([[0, 0, 0]]), np.array([[0.5, 0.25, 0.75]]), 1, 40)
    for below in (4, 3):
        rows = torch.cat([torch.full((below, 1, 1), -1.0), torch.full((40 - below, 1, 1), 1.0)])
        _, state = over_time(trees, rows, trees.initial_state(1))
        score, _ = trees.step(torch.tensor([[-1.0]]), state)
        counted = 40 + 2 * below + (4 * below if below == 4 else 0)
        assert score.item() == pytest.approx(1 - counted / (40 * 7))


def test_the_score_is_zero_in_the_first_window_and_large_where_nothing_was_seen() -> None:
    trees, x = grown(INPUTS, seed=0), samples(500)
    y, state = over_time(trees, x, trees.initial_state(1))
    assert not y[: trees.window].any()
    assert (y[trees.window :] > 0).all()
    far, _ = trees.step(torch.tensor([[3.9, -3.9, 3.9]]), state)
    assert y[trees.window :].quantile(0.97) < far.item() <= 1


@pytest.mark.parametrize(("window", "dtype"), [(255, torch.uint8), (256, torch.int32)])
def test_a_mass_holds_a_whole_window(window: int, dtype: torch.dtype) -> None:
    trees = grown(INPUTS, seed=0, trees=2, height=3, window=window)
    _, (r, l, _) = over_time(trees, torch.zeros(window, 1, INPUTS), trees.initial_state(1))  # noqa: E741
    assert r.dtype == l.dtype == dtype
    assert r[0, 2:4].tolist() == [window, window]
    assert r.sum() == 4 * 2 * window
    assert not l.any()


def test_values_are_mapped_as_said_however_large() -> None:
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([-largest, -4.0, -2.0, 0.0, 1.0, 4.0, largest])
    assert squashed(x).tolist() == [0.0, 0.0, 0.25, 0.5, 0.625, 1.0, 1.0]


# --- Pieces and streams --------------------------------------------------------------------------


def bits(y: Tensor, state: tuple[Tensor, ...]) -> list[bytes]:
    return [value.contiguous().numpy().tobytes() for value in (y, *state)]


def test_pieces_give_what_the_whole_gives() -> None:
    """Wherever the cut is: inside a window, before the sample that fills it, behind it."""
    trees, x = grown(INPUTS, seed=2, window=20), samples(90, 2)
    whole = over_time(trees, x, trees.initial_state(2))
    for cut in (1, 18, 19, 20, 21, 40, 41, 89):
        first, between = over_time(trees, x[:cut], trees.initial_state(2))
        rest, after = over_time(trees, x[cut:], between)
        assert bits(torch.cat([first, rest]), after) == bits(*whole), cut


def test_streams_give_the_same_alone_and_together_each_with_its_own_window() -> None:
    trees, x = grown(INPUTS, seed=2, window=20), samples(70, 3)
    ahead = over_time(trees, samples(13, 1, seed=9), trees.initial_state(1))[1]
    fresh = trees.initial_state(2)
    state = tuple(torch.cat(pair) for pair in zip(ahead, fresh, strict=True))
    together, after = over_time(trees, x, state)
    for stream in range(3):
        own = slice(stream, stream + 1)
        alone = over_time(trees, x[:, own], tuple(value[own] for value in state))
        assert bits(together[:, own], tuple(value[own] for value in after)) == bits(*alone)
    assert after[2].tolist() == [(13 + 70) % 20, 10, 10]


# --- Growing -------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_trees_again_and_another_one_others() -> None:
    one, same, other = (grown(INPUTS, seed=seed).state_dict() for seed in (1, 1, 2))
    assert list(one) == ["threshold", "looks_at"]
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_trees_come_back_from_their_tensors() -> None:
    one, other, x = grown(INPUTS, seed=1, window=9), grown(INPUTS, seed=2, window=9), samples(40)
    wanted = over_time(one, x, one.initial_state(1))
    assert bits(*over_time(other, x, other.initial_state(1))) != bits(*wanted)
    other.load_state_dict(one.state_dict())
    assert bits(*over_time(other, x, other.initial_state(1))) == bits(*wanted)


def test_each_node_splits_in_the_middle_of_what_is_left_of_its_work_range() -> None:
    """A feature's first threshold on a path is ``s``; all that come after it follow from that."""
    trees = grown(2, seed=3, trees=4, height=6)
    feature = trees.looks_at.argmax(dim=0).tolist()
    threshold = trees.threshold.tolist()
    checked = 0

    def check(node: int, ranges: dict[int, tuple[float, float]]) -> None:
        nonlocal checked
        if node >= len(threshold):
            return  # a leaf
        which, at = feature[node], threshold[node]
        if which in ranges:
            low, high = ranges[which]
            assert at == pytest.approx((low + high) / 2, abs=1e-5)
            checked += 1
        else:
            assert 0 <= at <= 1
            reach = 2 * max(at, 1 - at)
            low, high = at - reach, at + reach
        check(2 * node, {**ranges, which: (low, at)})
        check(2 * node + 1, {**ranges, which: (at, high)})

    for root in range(4, 8):
        check(root, {})
    assert checked > 4 * 40
    assert len(set(threshold[4:8])) == 4
    assert set(feature[4:]) == {0, 1}


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "threshold", "reason"),
    [
        ([0, 0, 0], [0.5] * 3, r"feature: wanted \[tree, node\] .* 2\^height - 1 .* got \[3\]$"),
        ([[0, 0]], [[0.5, 0.5]], r"feature: wanted .* got \[1, 2\]$"),
        ([[]], [[]], r"feature: wanted .* got \[1, 0\]$"),
        ([[0]], [[0.5, 0.5]], r"threshold: wanted \[1, 1\], got \[1, 2\]$"),
        ([[2]], [[0.5]], "feature: wanted 0 to 1, got 2 to 2$"),
        ([[-1]], [[0.5]], "feature: wanted 0 to 1, got -1 to -1$"),
        ([[0]], [[float("nan")]], "threshold: wanted finite numbers, got NaN or infinity$"),
    ],
)
def test_what_is_no_tree_is_refused(feature: Any, threshold: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        HalfSpaceTrees(np.array(feature, np.int64), np.array(threshold, np.float64), 2, 250)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"inputs": 0}, "wanted inputs of at least 1, got 0$"),
        ({"trees": 0}, "wanted trees of at least 1, got 0$"),
        ({"height": 0}, "wanted a height of at least 1, got 0$"),
        ({"window": 0}, "10 trees of height 8 want a window of 1 to 3283 samples, got 0$"),
        ({"window": 3284}, "10 trees of height 8 want a window of 1 to 3283 samples, got 3284$"),
    ],
)
def test_trees_that_cannot_be_grown_are_refused(wrong: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        grown(**{"inputs": INPUTS, "seed": 0, **wrong})
