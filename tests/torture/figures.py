"""How much of each campaign runs, and what was measured.

A short version by default; all of it with ``ANDON_TORTURE=full``, as `make torture` does.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

FULL = os.environ.get("ANDON_TORTURE") == "full"

Row: TypeAlias = dict[str, int | float | str]


class Figures:
    """What the campaigns have measured.

    Attributes:
        rows: Names and numbers of each campaign.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def note(self, campaign: str, row: Row) -> None:
        """Keeps what one has measured."""
        self.rows[campaign] = row

    def table(self) -> Iterator[str]:
        """Lines for people."""
        for campaign, row in self.rows.items():
            yield campaign
            yield from (f"    {name:36} {_shown(value):>14}" for name, value in row.items())

    def save(self) -> None:
        """Writes the file that ``ANDON_TORTURE_RESULTS`` names."""
        name = os.environ.get("ANDON_TORTURE_RESULTS")
        if name:
            text = json.dumps({"schema": 1, "full": FULL, "campaigns": self.rows}, indent=2)
            Path(name).write_text(text + "\n", encoding="utf-8")


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
