"""How long a link waits before it tries again."""

from dataclasses import dataclass, field

import pytest

from conftest import MakeBroker
from edge_runtime.config import BrokerConfig
from edge_runtime.link import Backoff
from links import RunLink, subscribed

pytestmark = pytest.mark.usefixtures("short_ticks")


def test_the_back_off_doubles_up_to_its_limit() -> None:
    longest = Backoff(uniform=lambda: 1.0)
    assert [longest.delay_s(n) for n in (0, 1, 2, 3, 4, 10_000)] == [2, 4, 8, 16, 30, 30]
    shortest = Backoff(uniform=lambda: 0.0)
    assert {shortest.delay_s(n) for n in range(20)} == {1.0}
    assert len({Backoff().delay_s(5) for _ in range(20)}) > 1


@dataclass(frozen=True, slots=True)
class Recorded(Backoff):
    """Waits hardly, and keeps what it was asked."""

    asked: list[int] = field(default_factory=list)

    def delay_s(self, failures: int) -> float:
        self.asked.append(failures)
        return 0.01


@pytest.mark.parametrize(("lasting_s", "failures"), [(0.0, [0, 1]), (3600.0, [2, 3])])
def test_the_back_off_starts_again_after_a_connection_that_lasted(
    make_broker: MakeBroker, run: RunLink, lasting_s: float, failures: list[int]
) -> None:
    broker = make_broker()
    config = BrokerConfig(url=broker.url, client_id="gateway")
    backoff = Recorded(lasting_s=lasting_s)
    running = run(config, backoff=backoff)
    running.run(until=lambda: len(backoff.asked) >= 2)
    assert backoff.asked[:2] == [0, 1]
    broker.start()
    subscribed(running, config)
    failed = len(backoff.asked)
    broker.kill()
    running.run(until=lambda: len(backoff.asked) >= failed + 2)
    after = backoff.asked[failed : failed + 2]
    assert [number - (failed - 2 if lasting_s else 0) for number in after] == failures
