"""How a sum and a mean are written, so that they do not round by the size of the batch.

The rounding of onnxruntime's ``ReduceSum`` depends on a stream's place in the batch, unless the
features are four at most or a multiple of four. That of its ``MatMul`` does not
(docs/decisions.md). The exporter calls these for every ``sum`` and ``mean`` that it meets.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnxscript import ir, opset18

from edge_runtime.errors import ExportError

Table = dict[Callable[..., Any], Callable[..., Any]]

_op: Any = opset18  # its annotations are those of scripts, not of traces


def exact_sum(x: ir.Value, dim: Sequence[int], keepdim: bool = False) -> ir.Value:
    """A sum over the last axis as a product with ones.

    Raises:
        ExportError: For a sum over other axes, which no detector of ours needs.
    """
    if not _is_last(x, dim):
        raise ExportError(f"only a sum over the last axis is known to be exact, got axes {dim}")
    return _weighted(x, 1.0, keepdim)


def any_sum(
    x: ir.Value, dim: Sequence[int] | None = None, keepdim: bool = False, dtype: int | None = None
) -> ir.Value:
    """As `exact_sum`, and ``ReduceSum`` where that cannot be: it is put to the test later."""
    if dtype is None and _is_last(x, dim) and x.dtype == ir.DataType.FLOAT:
        return _weighted(x, 1.0, keepdim)
    if dtype is None and x.dtype is not None and not x.dtype.is_floating_point():
        dtype = int(ir.DataType.INT64)  # what PyTorch counts in
    return _reduced(_op.ReduceSum, x, dim, keepdim, dtype)


def any_mean(
    x: ir.Value, dim: Sequence[int] | None = None, keepdim: bool = False, dtype: int | None = None
) -> ir.Value:
    """As `any_sum`, divided by the length."""
    if dtype is None and _is_last(x, dim) and x.dtype == ir.DataType.FLOAT:
        return _weighted(x, 1.0 / _length(x), keepdim)
    return _reduced(_op.ReduceMean, x, dim, keepdim, dtype)


EXACT: Table = {torch.ops.aten.sum.dim_IntList: exact_sum}
"""For detectors of ours."""

ANY: Table = {torch.ops.aten.sum.dim_IntList: any_sum, torch.ops.aten.mean.dim: any_mean}
"""For modules that may do anything."""


def _is_last(x: ir.Value, dim: Sequence[int] | None) -> bool:
    shape = list(x.shape or ())
    return (
        bool(shape)
        and isinstance(shape[-1], int)
        and dim is not None
        and [axis % len(shape) for axis in dim] == [len(shape) - 1]
    )


def _length(x: ir.Value) -> int:
    return cast(int, list(x.shape or ())[-1])


def _weighted(x: ir.Value, weight: float, keepdim: bool) -> ir.Value:
    ones = onnx.numpy_helper.from_array(np.full((_length(x), 1), weight, np.float32))
    total: ir.Value = _op.MatMul(x, _op.Constant(value=ones))
    return total if keepdim else _op.Squeeze(total, _op.Constant(value_ints=[-1]))


def _reduced(
    reduce: Any,  # noqa: ANN401 - an operator has no type
    x: ir.Value,
    dim: Sequence[int] | None,
    keepdim: bool,
    dtype: int | None,
) -> ir.Value:
    value = x if dtype is None else _op.Cast(x, to=int(dtype))
    axes = [_op.Constant(value_ints=list(dim))] if dim else []
    total: ir.Value = reduce(value, *axes, keepdims=int(keepdim))
    return total
