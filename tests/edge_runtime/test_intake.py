"""A batch sorted into what lies side by side and what lies in blocks: nothing lost, order kept."""

import random

import numpy as np
import pytest

from edge_runtime.intake import Intake
from edge_runtime.results import NO_SEQ, Abreast, Block
from edge_runtime.typed import One


def one(number: int, seq: int = NO_SEQ) -> One:
    return number, seq, (float(number), -1.0)


def block(stream: str, *numbers: int) -> Block:
    values = np.array([[number, -1] for number in numbers], np.float32)
    return Block(stream, np.array(numbers), values)


def orders(blocks: list[Block], waves: list[Abreast]) -> dict[str, list[int]]:
    """The samples of each stream in the order in which they will be processed."""
    parts = [*(block for wave in waves for block in wave.blocks()), *blocks]
    found: dict[str, list[int]] = {}
    for part in parts:
        assert part.values[:, 0].tolist() == part.ts.tolist()
        found.setdefault(part.stream, []).extend(part.ts.tolist())
    return found


def test_one_sample_of_each_lies_side_by_side() -> None:
    intake = Intake()
    for number, stream in enumerate("abc"):
        intake.add_one(stream, one(number))
    blocks, (abreast,) = intake.take()
    assert blocks == []
    assert abreast.streams == ["a", "b", "c"]
    assert abreast.ts.dtype == abreast.seq.dtype == np.int64
    assert abreast.values.dtype == np.float32
    assert abreast.values.shape == (3, 2)
    assert abreast.seq.tolist() == [NO_SEQ] * 3


def test_several_of_one_stream_become_one_block_behind_the_first() -> None:
    intake = Intake()
    for number in range(5):
        intake.add_one("a", one(number, seq=NO_SEQ if number == 2 else number))
    (only,), (first,) = intake.take()
    assert first.ts.tolist() == first.seq.tolist() == [0]
    assert only.ts.tolist() == [1, 2, 3, 4]
    assert only.seq is not None
    assert only.seq.tolist() == [1, NO_SEQ, 3, 4]


def test_many_streams_with_several_samples_lie_in_waves() -> None:
    intake = Intake()
    for number in range(20):
        intake.add_one("abcdef"[number % 6], one(number))
    intake.add_one("a", one(20))
    blocks, waves = intake.take()
    assert [wave.ts.tolist() for wave in waves] == [[*range(6)], [*range(6, 12)], [*range(12, 18)]]
    assert [(block.stream, block.ts.tolist()) for block in blocks] == [("a", [18, 20]), ("b", [19])]


def test_without_counts_a_block_has_none() -> None:
    intake = Intake()
    intake.add_block(block("a", 1))
    intake.add_one("a", one(2))
    intake.add_one("a", one(3))
    assert intake.take()[0][1].seq is None


def test_nothing() -> None:
    assert Intake().take() == ([], [])


@pytest.mark.parametrize("seed", range(20))
def test_every_stream_keeps_its_order(seed: int) -> None:
    chance = random.Random(seed)
    intake, number = Intake(), 0
    wanted: dict[str, list[int]] = {}
    for _ in range(chance.randrange(1, 40)):
        stream = chance.choice("abcdef")
        if chance.random() < 0.7:
            intake.add_one(stream, one(number))
            wanted.setdefault(stream, []).append(number)
            number += 1
        else:
            numbers = range(number, number + chance.randrange(1, 4))
            intake.add_block(block(stream, *numbers))
            wanted.setdefault(stream, []).extend(numbers)
            number += len(numbers)
    assert orders(*intake.take()) == wanted
