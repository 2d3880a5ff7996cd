"""The contract of a model, from what PyTorch knows of it and what its checkpoint says."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from edge_runtime.contract import (
    CONTRACT_SCHEMA,
    STREAM,
    Calibration,
    Contract,
    Feature,
    Golden,
    State,
)
from edge_runtime.errors import ExportError
from export.model import Model, Samples
from export.verify import plausible_samples

NEXT = "_next"
# Samples that count; with a look-ahead so many more.
GOLDEN_STEPS, GOLDEN_STREAMS = 24, 3


def describe(model: Model, meta: dict[str, Any], samples: Samples | None = None) -> Contract:
    """Writes the contract of a model.

    Args:
        model: Trained and calibrated.
        meta: From its checkpoint.
        samples: What the golden vectors are made of; None: `plausible_samples`.

    Returns:
        The contract, with golden vectors computed by PyTorch.

    Raises:
        ExportError: If the meta data are not complete or contradict themselves.
    """
    try:
        return _contract(model, meta, samples or partial(plausible_samples, model))
    except KeyError as error:
        raise ExportError(f"the checkpoint says nothing about {error}") from error
    except ValueError as error:
        raise ExportError(f"the model makes no contract: {error}") from error


def _contract(model: Model, meta: dict[str, Any], samples: Samples) -> Contract:
    state = model.initial_state(1)
    golden = _golden(model, samples)
    sensors = meta.get("features", {})
    return Contract(
        schema=CONTRACT_SCHEMA,
        features=tuple(_feature(name, sensors.get(name, {})) for name in model.features),
        states=tuple(
            State(
                input=name,
                output=name + NEXT,
                shape=_with_stream(state[name].shape, axis),
                dtype=str(state[name].dtype).removeprefix("torch."),
                initial=float(state[name].flatten()[0]),
                kept=name in getattr(model, "kept_names", ()),
            )
            for name, axis in model.stream_axes.items()
        ),
        sample_period_ms=meta["sample_period_ms"],
        max_gap_ms=meta["max_gap_ms"],
        warm_up_steps=meta["warm_up_steps"],
        look_ahead=model.look_ahead,
        contribution=None if golden.contribution is None else "contribution",
        one_stream=meta.get("one_stream", False),
        calibration=_calibration(meta["calibration"]),
        training=meta["training"],
        golden=golden,
    )


def _feature(name: str, described: dict[str, Any]) -> Feature:
    low, high = described.get("range") or (None, None)
    return Feature(name=name, unit=described.get("unit", ""), low=low, high=high)


def _with_stream(shape: Sequence[int], axis: int) -> tuple[int | str, ...]:
    return (*shape[:axis], STREAM, *shape[axis + 1 :])


def _calibration(found: dict[str, Any] | None) -> Calibration | None:
    if found is None:
        return None  # what reads a target off is not calibrated to an alarm level
    return Calibration(
        data_digest=found["data_digest"],
        rows=found["rows"],
        false_alarms_per_day=found["false_alarms_per_day"],
        supported_false_alarms_per_day=found["supported_false_alarms_per_day"],
    )


def _golden(model: Model, samples: Samples) -> Golden:
    x = samples(GOLDEN_STEPS + model.look_ahead, GOLDEN_STREAMS, 20)
    with torch.no_grad():
        score, contribution, _ = model(torch.from_numpy(x), model.initial_state(GOLDEN_STREAMS))
    if not torch.isfinite(score).all():
        raise ExportError("the detector's scores are not finite: is a scale or the limit zero?")
    shares = None if contribution is None else contribution.tolist()
    return Golden(x=x.tolist(), score=score.tolist(), contribution=shares)
