"""What counts as growth: a leak, and not a buffer that has found its size."""

import os

import pytest

from torture.memory import Memory

MB = [131.0, 149.7, 151.4, 151.5, 156.5, 156.5, 156.5, 156.5, 156.5, 156.5]


def measured(mb: list[float]) -> float:
    memory = Memory(os.getpid())
    for number, value in enumerate(mb, start=1):
        memory.note(number * 100_000)
        memory._mb[-1] = value
    return memory.mb_per_million()


def test_a_buffer_that_has_found_its_size_is_no_growth() -> None:
    assert measured(MB) == 0.0


@pytest.mark.parametrize("leak", [1.5, 8.0])
def test_a_leak_is_growth_with_and_without_such_a_buffer(leak: float) -> None:
    grown = [number * leak / 10 for number in range(10)]
    assert measured(grown) == pytest.approx(leak)
    both = [mb + more for mb, more in zip(MB, grown, strict=True)]
    assert measured(both) >= leak


def test_steps_that_go_on_are_growth() -> None:
    assert measured([150.0 + number // 2 for number in range(10)]) > 1.0
