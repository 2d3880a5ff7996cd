"""Cutting the input: what is causal passes, what peeks at later samples is caught."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

import pipelines
from edge_runtime.config import AlarmConfig
from edge_runtime.recorded import RecordedStream
from edge_runtime.replay import Readings
from edge_runtime.session import Float32, Outputs, Session, State
from evaluate.causal import Run, check_causal
from evaluate.evaluation import NotCausalError, evaluate_detectors
from evaluate.judge import run_model
from evaluate.settings import Settings
from pipelines import START

ALARM = AlarmConfig(enter=1.0, leave=0.9, hold_steps=2)


class Peeking:
    """A model that adds the sample ``steps`` ahead to its score, wherever the call has one."""

    def __init__(self, inner: Session, steps: int = 1, size: float = 1e-3) -> None:
        self.contract = inner.contract
        self.digest = inner.digest
        self._inner, self._steps, self._size = inner, steps, size

    def run(self, x: Float32, state: Mapping[str, NDArray[Any]]) -> tuple[Outputs, State]:
        outputs, after = self._inner.run(x, state)
        score = outputs.score.copy()
        score[: -self._steps] += np.float32(self._size) * x[self._steps :, :, 0]
        return Outputs(score, outputs.contribution), after


def peeking(name: str = "lstm", **how: Any) -> Session:
    return cast(Session, Peeking(pipelines.model(name), **how))


def some_readings(name: str, rows: int, features: int, seed: int) -> Readings:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.5, 3.0, (rows, features))
    values[rng.random(values.shape) < 0.01] = np.nan
    ts = START + np.cumsum(rng.choice([1, 1, 1, 1, 0, 7], rows)) * 1_000_000_000
    return Readings(name, ts, values, np.zeros(rows, np.bool_))


def streams_for(session: Session) -> list[Readings]:
    features = len(session.contract.features)
    return [some_readings(n, r, features, r) for n, r in (("a", 200), ("b", 57), ("c", 1))]


def run_of(session: Session) -> Run:
    return partial(run_model, session, alarm=ALARM)


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize("name", ["lstm", "gru", "ratio", "one ahead", "five ahead", "one-step"])
def test_models_that_keep_their_contract_pass(name: str) -> None:
    session = pipelines.model(name)
    found = check_causal(run_of(session), streams_for(session), rng())
    assert found.leak is None
    assert found.cuts >= 8
    assert found.compared > 100


def test_a_model_that_peeks_is_caught_and_the_first_row_is_named() -> None:
    session = peeking()
    ts = START + np.arange(200) * 1_000_000_000
    values = np.random.default_rng(0).normal(2, 3, (200, 3))
    found = check_causal(run_of(session), [Readings("a", ts, values, None)], rng())
    assert found.leak is not None
    # Of the four cuts the first counts, and only the sample before it could have peeked.
    assert 0 < found.leak.cut <= 50
    assert (found.leak.stream, found.leak.row) == ("a", found.leak.cut - 1)
    assert found.leak.whole != found.leak.alone
    assert str(found.leak).startswith(f"a: the score of row {found.leak.row} is ")


def test_one_bit_is_enough() -> None:
    session = peeking(size=1e-7)
    assert check_causal(run_of(session), streams_for(session), rng()).leak is not None


def test_one_sample_further_than_the_contract_says_is_caught() -> None:
    session = peeking("five ahead", steps=1)
    assert check_causal(run_of(session), streams_for(session), rng()).leak is not None


def test_a_lamp_or_a_status_that_changes_afterwards_is_caught() -> None:
    session = pipelines.model("lstm")
    readings = streams_for(session)
    (at,) = np.flatnonzero(run_of(session)(readings)[0].ok)[3:4]

    def rewriting(streams: Any, which: str) -> Any:
        series = run_of(session)(streams)
        if len(streams[0].ts) == len(readings[0].ts):  # with all of the input
            column = getattr(series[0], which)
            column[at] = not column[at]
        return series

    for which in ("lit", "status"):
        leak = check_causal(partial(rewriting, which=which), readings, rng()).leak
        assert leak is not None
        assert (leak.stream, leak.row) == ("a", at)


def recorded(session: Session, rows: int = 120) -> list[RecordedStream]:
    readings = some_readings("a", rows, len(session.contract.features), 3)
    label = np.zeros((rows, 1))
    label[80:100] = 1
    values = np.hstack([readings.values, label])
    columns = (*session.contract.feature_names, "anomaly")
    return [RecordedStream("a", Path("a.csv"), readings.ts, columns, values)]


def test_an_evaluation_refuses_it_and_says_whom() -> None:
    good, bad = pipelines.model("lstm"), peeking()
    settings = Settings(label="anomaly", window=5)
    with pytest.raises(NotCausalError, match=r"sly \(\w{16}\): a: the score of row \d+ is"):
        evaluate_detectors({"fair": [good], "sly": [good, bad]}, recorded(good), settings)
    unchecked = Settings(label="anomaly", window=5, causality=False)
    report = evaluate_detectors({"sly": [bad]}, recorded(good), unchecked)
    assert report.rows[0].causality is None
