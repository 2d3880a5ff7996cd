"""Text to nanoseconds since 1970: calendar times, and numbers in whatever unit.

ISO 8601, or ``31.12.2024 10:00:00``; without an offset it is UTC. Or numbers, all in one unit,
chosen by the column's median magnitude m: m < 1e8 seconds since the start of the recording (which
becomes 1970), < 1e11 seconds since 1970, < 1e14 milliseconds, < 1e17 microseconds, else
nanoseconds. That reads every date from March 1973 on. Decimal text becomes nanoseconds without
passing through a float.

Nothing here gives untrusted text to numpy's ``datetime64``, which crashes the process on some.
"""

import math
import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
NS_PER_DAY = 86_400 * NS_PER_S
EPOCH_ORDINAL = datetime(1970, 1, 1).toordinal()
FIRST_YEAR, LAST_YEAR = 1678, 2261  # the whole years that int64 nanoseconds hold

CALENDAR = re.compile(
    r"(?:(\d{4})[-/](\d\d?)[-/](\d\d?)|(\d\d?)\.(\d\d?)\.(\d{4}))"
    r"(?:[T ](\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?\s?"
    r"(Z|UTC|[+-](?:0\d|1[0-8])(?::?[0-5]\d)?)?)?",
    re.ASCII | re.IGNORECASE,
)
_RELATIVE_BELOW = 1e8
# The median magnitude is below ..., so the unit is so many decimal digits above the nanosecond.
_UNITS = ((1e11, 9), (1e14, 6), (1e17, 3), (math.inf, 0))


class Times(NamedTuple):
    """A column read as times.

    Attributes:
        ns: ``[row]`` nanoseconds since 1970 UTC; 0 where ``valid`` is false.
        valid: ``[row]`` whether the cell is a time.
        relative: Whether the numbers count from the start of the recording, not from 1970.
    """

    ns: NDArray[np.int64]
    valid: NDArray[np.bool_]
    relative: bool


def parse_times(cells: Sequence[str]) -> Times:
    """Reads a column's cells as times, by the rules at the top of this module.

    Args:
        cells: ``[row]``.

    Returns:
        The times; a cell that is empty, is no time or lies beyond the years 1678 to 2261 is not
        ``valid``.
    """
    uniform = _uniform_calendar_times(cells)
    if uniform is not None:
        return uniform
    calendar = [_calendar_ns(cell) for cell in cells]
    if any(ns is not None for ns in calendar):
        return _times(calendar, relative=False)
    return _whole_numbers(cells) or _decimal_numbers(cells)


def _times(ns: Sequence[int | None], relative: bool) -> Times:
    valid = np.fromiter((n is not None for n in ns), np.bool_, len(ns))
    return Times(np.fromiter((n or 0 for n in ns), np.int64, len(ns)), valid, relative)


def _uniform_calendar_times(cells: Sequence[str]) -> Times | None:
    """The usual case, many times faster: all cells have the form of the first.

    By hand, since numpy's parser crashes the process at some cells that it cannot read.
    """
    match = CALENDAR.fullmatch(cells[0]) if cells else None
    figures = None if match is None else _figures(cells, match)
    if match is None or figures is None:
        return None

    def number(start: int, end: int) -> NDArray[np.int64]:
        total = np.zeros(len(cells), np.int64)
        for place in range(start, end):
            total = total * 10 + figures[:, place]
        return total

    year, month, day = (number(*match.span(i)) for i in ((1, 2, 3) if match[1] else (6, 5, 4)))
    hour, minute, second = (number(*match.span(i)) for i in (7, 8, 9))
    months = (year - 1970) * 12 + month - 1
    first_day, next_first = (_first_day(m) for m in (months, months + 1))
    valid = (year >= FIRST_YEAR) & (year <= LAST_YEAR) & (month >= 1) & (month <= 12)  # noqa: PLR2004
    valid &= (day >= 1) & (day <= next_first - first_day)
    valid &= (hour < 24) & (minute < 60) & (second < 60)  # noqa: PLR2004
    seconds = ((first_day + day - 1) * 24 + hour) * 3600 + minute * 60 + second
    start, end = match.span(10)
    shown = min(end - start, 9)
    fraction = number(start, start + shown) * 10 ** (9 - shown)
    ns = (seconds - _offset_s(match[11])) * NS_PER_S + fraction
    return Times(np.where(valid, ns, 0), valid, relative=False)


def _figures(cells: Sequence[str], match: re.Match[str]) -> NDArray[np.uint8] | None:
    """The cells' characters as figures ``[row, place]``, if they differ in nothing else.

    Args:
        cells: ``[row]``.
        match: What `CALENDAR` finds in the first cell.
    """
    joined = "".join(cells)
    if not joined.isascii() or set(map(len, cells)) != {len(cells[0])}:
        return None
    figures = np.frombuffer(joined.encode(), np.uint8).reshape(len(cells), -1) - np.uint8(ord("0"))
    may_differ = figures[0] <= 9  # noqa: PLR2004 - what comes before "0" wraps around
    if match[11]:
        may_differ[match.start(11) :] = False
    alike = (figures[:, ~may_differ] == figures[0, ~may_differ]).all()
    return figures if alike and (figures[:, may_differ] <= 9).all() else None  # noqa: PLR2004


def _first_day(months: NDArray[np.int64]) -> NDArray[np.int64]:
    """Days from 1970 to the first of a month, counted from January 1970."""
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


def _calendar_ns(cell: str) -> int | None:
    match = CALENDAR.fullmatch(cell.strip())
    if match is None:
        return None
    year, month, day = match.group(1, 2, 3) if match[1] else match.group(6, 5, 4)
    hour, minute, second, fraction, zone = match.group(7, 8, 9, 10, 11)
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0)
        )
    except ValueError:
        return None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        return None
    days = moment.toordinal() - EPOCH_ORDINAL
    seconds = (days * 24 + moment.hour) * 3600 + moment.minute * 60 + moment.second
    return (seconds - _offset_s(zone)) * NS_PER_S + int((fraction or "0")[:9].ljust(9, "0"))


def _offset_s(zone: str | None) -> int:
    """Seconds that a zone such as ``+01:30`` is ahead of UTC."""
    if zone is None or zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -seconds if zone[0] == "-" else seconds


def _whole_numbers(cells: Sequence[str]) -> Times | None:
    try:
        numbers = np.fromiter(map(int, cells), np.int64, len(cells))
    except (ValueError, OverflowError):
        return None
    digits, relative = _unit(np.abs(numbers.astype(np.float64)))
    limit = np.iinfo(np.int64).max // 10**digits
    if "_" in "".join(cells) or not ((numbers >= -limit) & (numbers <= limit)).all():
        return None
    return Times(numbers * 10**digits, np.ones(len(cells), np.bool_), relative)


def _decimal_numbers(cells: Sequence[str]) -> Times:
    numbers = [_decimal(cell) for cell in cells]
    sizes = np.array([abs(float(number)) for number in numbers if number is not None])
    digits, relative = _unit(sizes)
    scaled = [None if n is None else round(n.scaleb(digits)) for n in numbers]
    limit = np.iinfo(np.int64).max
    return _times([n if n is not None and abs(n) <= limit else None for n in scaled], relative)


def _decimal(cell: str) -> Decimal | None:
    try:
        number = Decimal(cell.replace(",", "."))
    except InvalidOperation:
        return None
    # 20 digits is beyond what any unit can hold, and 1e999999 would fill the memory as an integer.
    if not number.is_finite() or number.adjusted() >= 20 or "_" in cell:  # noqa: PLR2004
        return None
    return number


def _unit(sizes: NDArray[np.float64]) -> tuple[int, bool]:
    """Decimal digits down to nanoseconds, and whether the numbers count from the start."""
    size = float(np.median(sizes)) if sizes.size else 0.0
    digits = next(digits for below, digits in _UNITS if size < below)
    return digits, size < _RELATIVE_BELOW
