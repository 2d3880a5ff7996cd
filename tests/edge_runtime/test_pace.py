"""How long to wait for more messages."""

import pytest

from edge_runtime.pace import Pace


def paced(gap_s: float, messages: int = 1, batches: int = 40) -> Pace:
    """After batches of so many messages that come so far apart."""
    pace, now_s = Pace(), 1000.0
    for _ in range(batches):
        now_s += gap_s * messages
        pace.closed(messages, now_s)
    return pace


def test_nobody_waits_at_first_or_where_messages_are_rare() -> None:
    assert Pace().nap_s == 0.0
    assert paced(0.01).nap_s == 0.0
    assert paced(0.01, messages=50).nap_s == 0.0
    assert paced(0.00001, batches=1).nap_s == 0.0


@pytest.mark.parametrize(("gap_s", "nap_s"), [(0.0001, 0.001), (0.001, 0.002), (0.0024, 0.0048)])
def test_where_messages_come_fast_the_nap_is_worth_some(gap_s: float, nap_s: float) -> None:
    assert paced(gap_s).nap_s == pytest.approx(nap_s, rel=1e-3)
    assert paced(gap_s, messages=30).nap_s == pytest.approx(nap_s, rel=1e-3)


def test_one_silence_ends_it() -> None:
    pace, now_s = Pace(), 0.0
    for _ in range(20):
        now_s += 0.001
        pace.closed(10, now_s)
    assert pace.nap_s > 0
    pace.closed(1, now_s + 0.1)
    assert pace.nap_s == 0.0
