"""Parquet, through pyarrow, which is only loaded when there is such a file."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.columns import (
    Column,
    Layout,
    Numbers,
    Table,
    Texts,
    check_header,
    is_unnamed,
    keeps_text,
    text_numbers,
)
from edge_runtime.errors import RecordedFileError
from edge_runtime.times import NS_PER_MS, NS_PER_S, Times

ARROW_TEXTS = ("string", "large_string", "string_view")
ARROW_NUMBERS = ("int", "uint", "halffloat", "float", "double", "decimal", "bool", "null")
ARROW_TIMES = ("timestamp", "date")


def read_parquet(path: Path, layout: Layout) -> Table:
    """Reads a Parquet file.

    Args:
        path: The file.
        layout: What it does not say itself.

    Returns:
        Its columns.

    Raises:
        RecordedFileError: For a file that is damaged or empty, or without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise RecordedFileError(
            f"{path}: reading Parquet needs pyarrow: pip install 'andon[parquet]'"
        ) from error
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        check_header(path, table.column_names)
        columns = [
            _arrow_column(name or f"Unnamed: {place}", column, layout)
            for place, (name, column) in enumerate(
                zip(table.column_names, table.columns, strict=True)
            )
        ]
    except (pa.ArrowException, OSError) as error:
        raise RecordedFileError(f"{path}: not a readable Parquet file: {error}") from error
    if not table.num_rows:
        raise RecordedFileError(f"{path}: wanted rows, got a table without any")
    return Table(path, tuple(columns), np.arange(1, table.num_rows + 1), "row")


def _arrow_column(name: str, column: Any, layout: Layout) -> Column:  # noqa: ANN401 - an extra's type
    if str(column.type).startswith("dictionary"):
        column = column.cast(column.type.value_type)
    kind = str(column.type)
    numbers: Callable[[], Numbers] = partial(Numbers, None, kind)
    times: Times | None = None
    texts: Sequence[str] | None = None
    is_number = kind.startswith(ARROW_NUMBERS)
    if kind in ARROW_TEXTS or is_number:
        first = str(*column.drop_null().slice(0, 1).to_pylist())
        if kind in ARROW_TEXTS or keeps_text(name, first, layout):
            texts = _arrow_texts(column)
    elif kind.startswith(ARROW_TIMES):
        times = _arrow_times(column)
    if is_number:
        numbers = partial(_arrow_numbers, column)
    elif texts is not None:
        numbers = partial(text_numbers, texts, comma=False)
    return Column(name, numbers, texts, times, is_unnamed(name))


def _arrow_texts(column: Any) -> Texts:  # noqa: ANN401 - an extra's type
    # Encoded first: the texts together may be longer than one array of them can be.
    coded = column.cast("string").fill_null("").dictionary_encode().combine_chunks()
    return Texts(coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.intp))


def _arrow_numbers(column: Any) -> Numbers:  # noqa: ANN401 - an extra's type
    values = column.to_numpy().astype(np.float64, copy=False)
    finite = np.isfinite(values)
    if finite.all():
        return Numbers(values)
    values = np.where(finite, values, np.nan)
    return Numbers(None, "empty") if np.isnan(values).all() else Numbers(values)


def _arrow_times(column: Any) -> Times:  # noqa: ANN401 - an extra's type
    """Times of whatever unit; what int64 nanoseconds cannot hold is not valid."""
    unit = getattr(column.type, "unit", None)
    if unit is None:  # a date
        column, unit = column.cast("timestamp[s]"), "s"
    factor = {"s": NS_PER_S, "ms": NS_PER_MS, "us": 1000, "ns": 1}[unit]
    whole = column.cast("int64").fill_null(0).to_numpy()
    limit = np.iinfo(np.int64).max // factor
    valid = column.is_valid().to_numpy() & (whole >= -limit) & (whole <= limit)
    return Times(np.where(valid, whole, 0) * factor, valid, relative=False)
