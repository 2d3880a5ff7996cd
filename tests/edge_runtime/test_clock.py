"""A clock that is set while the daemon runs."""

from edge_runtime.clock import Clock

HOUR = 3_600_000_000_000


class Wall:
    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def test_a_jump_of_the_machines_clock_changes_nothing() -> None:
    wall, passed = Wall(1000 * HOUR), Wall(5)
    clock = Clock(wall, passed)
    for jump in (HOUR, -3 * HOUR, 7 * HOUR, -7 * HOUR):
        wall.now += jump
        passed.now += 10
        assert clock.steady_ns() == 1000 * HOUR + passed.now - 5
        assert clock.latest_ns() >= clock.steady_ns()


def test_a_clock_that_is_set_back_makes_nothing_come_from_the_future() -> None:
    wall, passed = Wall(1000 * HOUR), Wall(0)
    clock = Clock(wall, passed)
    wall.now -= 2 * HOUR
    assert clock.latest_ns() == 1000 * HOUR


def test_a_gateway_that_learns_the_date_takes_samples_of_today() -> None:
    wall, passed = Wall(0), Wall(0)  # 1970, without a battery
    clock = Clock(wall, passed)
    wall.now = 1000 * HOUR
    assert clock.latest_ns() == 1000 * HOUR
    assert clock.steady_ns() == 0


def test_the_real_clock_goes_on() -> None:
    clock = Clock()
    first = clock.steady_ns()
    assert first <= clock.steady_ns() <= clock.latest_ns()
