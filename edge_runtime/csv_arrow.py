"""Plain CSV, through pyarrow where it is installed: many times faster, and the same in every bit.

Only for files about which there is nothing to decide row by row: no quotes, no blanks behind a
delimiter, no decimal commas, as many lines as rows, and every cell of a column of numbers a number
or missing. Of all others nothing is said here: `edge_runtime.csv_file` reads them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.columns import MISSING

MOST_BYTES = 1 << 30  # it is all in memory for a while

_NULLS = sorted({spelt(word) for word in MISSING for spelt in (str.lower, str.upper, str.title)})
_NULLS += ["NaN"]
# In text that Python and pyarrow may take apart in different ways, or one of them not at all.
_ODD = tuple(bytes([code]) for code in b'"(\0\v\f\x1c\x1d\x1e\x85')


class Wanted(NamedTuple):
    """A column: its name, and whether its cells are wanted as text."""

    name: str
    as_text: bool


def read_plain(
    path: Path, delimiter: str, header_line: int, columns: Sequence[Wanted]
) -> list[NDArray[np.float64] | list[str]] | None:
    """Reads a plain file whole.

    Args:
        path: The file, in UTF-8.
        delimiter: Between its cells.
        header_line: Number of the line with the names, from 1; rows follow from the next one on.
        columns: All of its columns.

    Returns:
        Of each column its numbers ``[row]``, NaN where the cell is missing or not finite, or its
        texts; None where the file is not so plain, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import csv
    except ImportError:
        return None
    if path.stat().st_size > MOST_BYTES:
        return None
    body = _behind(path.read_bytes(), header_line)
    if not _is_plain(body, delimiter.encode()):
        return None
    kinds = {c.name: pa.string() if c.as_text else pa.float64() for c in columns}
    try:
        table = csv.read_csv(
            pa.py_buffer(body),
            csv.ReadOptions(use_threads=False, column_names=[c.name for c in columns]),
            csv.ParseOptions(delimiter=delimiter, quote_char=False),
            csv.ConvertOptions(
                column_types=kinds, null_values=_NULLS, strings_can_be_null=False, check_utf8=True
            ),
        )
    except pa.ArrowException:
        return None
    if table.num_rows != body.count(b"\n") + (not body.endswith(b"\n")):
        return None
    return [
        table[column.name].to_pylist() if column.as_text else _numbers(table[column.name])
        for column in columns
    ]


def _behind(content: bytes, lines: int) -> bytes:
    """What follows after so many lines; nothing where they do not end as usual."""
    at = 0
    for _ in range(lines):
        at = content.find(b"\n", at) + 1
        if at == 0:
            return b""
    head = content[:at]  # where a bare CR ends a line, too
    return b"" if head.count(b"\r") != head.count(b"\r\n") else content[at:]


def _is_plain(body: bytes, delimiter: bytes) -> bool:
    if not body or len(delimiter) != 1 or delimiter == b" " or any(odd in body for odd in _ODD):
        return False
    if delimiter != b"," and b"," in body:
        return False
    # One byte is found many times faster than two.
    if b" " in body and (delimiter + b" " in body or b"\n " in body or body.startswith(b" ")):
        return False
    return b"\r" not in body or body.count(b"\r") == body.count(b"\r\n")


def _numbers(column: "object") -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.to_numpy()  # type: ignore[attr-defined]
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.nan)
