"""Fixtures of the torture: the works, and the figures, which are shown at the end."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from conftest import Broker
from torture.figures import FULL, Figures
from torture.works import MakeWorks, Works

_figures = Figures()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A whole campaign takes minutes, and a short one starts many processes on a slow machine."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(900 if FULL else 300))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table, and the file if one is asked for."""
    if _figures.rows:
        terminalreporter.section("measured")
        for line in _figures.table():
            terminalreporter.write_line(line)
        _figures.save()


@pytest.fixture
def figures() -> Figures:
    """Where a campaign says what it has measured."""
    return _figures


@pytest.fixture
def make_works(tmp_path: Path) -> Iterator[MakeWorks]:
    """Makes works on a broker: ``make_works(broker, port=...)``."""
    with ExitStack() as ends:

        def make(broker: Broker, port: int | None = None) -> Works:
            works = Works(tmp_path, broker, port=port)
            ends.callback(works.end)
            return works

        yield make
