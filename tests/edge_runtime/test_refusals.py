"""What was refused is counted, said once, and reported without flooding anybody."""

import json
import logging
from typing import Any

import pytest

from edge_runtime.refusals import MAX_ENTRIES, OTHERS, REPORT_EVERY_NS, Refusals

NOW = 123_000_000_000


def due(refusals: Refusals, now_ns: int) -> list[dict[str, Any]]:
    return [json.loads(report) for report in refusals.due(now_ns)]


def test_nothing_refused_nothing_reported() -> None:
    refusals = Refusals()
    assert due(refusals, NOW) == []
    assert refusals.totals() == {}


def test_the_first_report_leaves_at_once() -> None:
    refusals = Refusals()
    refusals.add("pump", "not_json", "wanted JSON", topic="factory/pump")
    assert due(refusals, NOW) == [
        {
            "stream": "pump",
            "topic": "factory/pump",
            "cause": "not_json",
            "count": 1,
            "total": 1,
            "detail": "wanted JSON",
        }
    ]
    assert due(refusals, NOW) == []


@pytest.mark.parametrize("boot", [0, NOW])
def test_totals_follow_once_an_interval(boot: int) -> None:
    refusals = Refusals()
    reports = []
    for step in range(100):  # nine refusals a second for a bit more than 30 s
        for _ in range(3):
            refusals.add("pump", "late", "too late", samples=2)
        now_ns = boot + step * REPORT_EVERY_NS // 30
        reports += [(step, r["count"], r["total"]) for r in due(refusals, now_ns)]
    assert reports == [(0, 6, 6), (30, 180, 186), (60, 180, 366), (90, 180, 546)]
    assert refusals.totals() == {"late": 600}


def test_a_quiet_key_is_reported_when_it_comes_back() -> None:
    refusals = Refusals()
    refusals.add("pump", "late", "")
    assert len(due(refusals, NOW)) == 1
    assert due(refusals, NOW + 5 * REPORT_EVERY_NS) == []
    refusals.add("pump", "late", "")
    (report,) = due(refusals, NOW + 5 * REPORT_EVERY_NS)
    assert (report["count"], report["total"]) == (1, 2)


def test_what_waits_is_reported_even_if_nothing_more_comes() -> None:
    refusals = Refusals()
    refusals.add("pump", "late", "")
    due(refusals, NOW)
    refusals.add("pump", "late", "")
    assert due(refusals, NOW + REPORT_EVERY_NS - 1) == []
    (report,) = due(refusals, NOW + REPORT_EVERY_NS)
    assert (report["count"], report["total"]) == (1, 2)
    assert due(refusals, NOW + 9 * REPORT_EVERY_NS) == []


def test_causes_and_streams_do_not_wait_for_each_other() -> None:
    refusals = Refusals()
    refusals.add("pump", "late", "")
    assert len(due(refusals, NOW)) == 1
    refusals.add("pump", "late", "")
    refusals.add("pump", "future", "")
    refusals.add("fan", "late", "")
    found = {(r["stream"], r["cause"]) for r in due(refusals, NOW + 1)}
    assert found == {("pump", "future"), ("fan", "late")}
    assert refusals.totals() == {"late": 3, "future": 1}


def test_each_cause_of_each_stream_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "andon")
    refusals = Refusals()
    for _ in range(3):
        refusals.add("line 1\npump", "late", "ts 1 against 2")
        refusals.add("fan", "late", "other")
        due(refusals, NOW)
    assert [record.getMessage() for record in caplog.records] == [
        r"rejected late from 'line 1\npump': ts 1 against 2",
        "rejected late from 'fan': other",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_the_detail_stays_that_of_the_first() -> None:
    refusals = Refusals()
    refusals.add("pump", "late", "first", topic="a")
    refusals.add("pump", "late", "second", topic="b")
    (report,) = due(refusals, NOW)
    assert (report["detail"], report["topic"]) == ("first", "a")


def test_new_names_without_end_neither_flood_nor_fill_the_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusals = Refusals()
    reports: list[dict[str, Any]] = []
    many = 5 * MAX_ENTRIES
    for number in range(many):
        refusals.add(f"name-{number}", ("not_json", "late")[number % 2], "", topic="t")
        if number % 100 == 0:
            reports += due(refusals, NOW + number)
    reports += due(refusals, NOW + REPORT_EVERY_NS + many)
    assert len(caplog.records) == MAX_ENTRIES + 2
    assert len(reports) <= MAX_ENTRIES + 4
    assert refusals.totals() == {"not_json": many // 2, "late": many // 2}
    assert sum(report["count"] for report in reports) == many
    others = [report for report in reports if report["stream"] == OTHERS]
    assert sum(report["count"] for report in others) == many - MAX_ENTRIES
    assert {report["topic"] for report in others} == {""}


def test_a_known_name_keeps_its_own_count_when_the_table_is_full() -> None:
    refusals = Refusals()
    for number in range(MAX_ENTRIES + 10):
        refusals.add(f"name-{number}", "late", "")
    due(refusals, NOW)
    refusals.add("name-3", "late", "")
    (report,) = due(refusals, NOW + REPORT_EVERY_NS)
    assert (report["stream"], report["total"]) == ("name-3", 2)


def test_a_name_that_is_not_utf8_is_reported() -> None:
    refusals = Refusals()
    refusals.add("caf\udce9", "late", "")
    assert due(refusals, NOW)[0]["stream"] == "caf\udce9"
