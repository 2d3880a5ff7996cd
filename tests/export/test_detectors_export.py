"""Every kind of detector as one ONNX file: verified as a gateway would load it."""

import numpy as np
import pytest

from edge_runtime.session import Session, load_model, session_from_bytes
from export.describe import describe
from export.to_onnx import trace, with_contract
from export.verify import check_operators, verify
from sample_models import plausible_detector, sample_meta, sample_model
from train.adaptation import NEVER, Prior
from train.detector import Detector
from train.hybrid import Hybrid
from train.trees import Trees


@pytest.mark.parametrize(
    ("kind", "features"),
    [("multiscale", 7), ("t2", 7), ("mewma", 3), ("ewma", 7)],
)
def test_a_detector_keeps_every_promise_as_a_file(kind: str, features: int) -> None:
    """In any cut and any batch the same bits, and PyTorch's scores; see `export.verify`."""
    detector = plausible_detector(kind, [f"f{k}" for k in range(features)])
    proto = trace(detector)
    check_operators(proto, detector)
    contract = describe(detector, sample_meta(warm_up_steps=100))
    session = session_from_bytes(with_contract(proto, contract))
    evidence = verify(session, detector, lambda _: None)
    assert evidence.score_error < 1e-5
    assert [state.input for state in contract.states] == list(detector.state_names)
    kept = {state.input for state in contract.states if state.kept}
    about_the_machine = {"seen", "sums", "errors_sums"}
    assert kept == about_the_machine & {*detector.state_names}


@pytest.mark.parametrize("kind", ["multiscale", "t2", "mewma", "ewma"])
def test_a_sample_with_nothing_unusual_at_all_has_equal_shares(kind: str) -> None:
    """Exactly at the mean each share is 0 / 0 but for a tiny summand, which has to survive."""
    detector = plausible_detector(kind, ["a", "b"])
    if not isinstance(detector, Detector | Trees):
        detector.scoring.mean.zero_()  # else nothing is exactly there
    proto = with_contract(trace(detector), describe(detector, sample_meta(warm_up_steps=100)))
    session = session_from_bytes(proto)
    x = np.tile(detector.mean.numpy(), (3, 2, 1))
    outputs, _ = session.run(x, session.contract.initial_state(2))
    assert np.isfinite(outputs.score).all()
    assert outputs.contribution is not None
    np.testing.assert_allclose(outputs.contribution.sum(axis=2), 1.0, rtol=1e-6)


@pytest.fixture(scope="module")
def hybrid() -> Session:
    """Exported as any model is, and so verified."""
    return load_model(sample_model(detector="hybrid"))


def test_what_a_hybrid_knows_of_a_machine_is_kept_over_gaps(hybrid: Session) -> None:
    kept = {state.input for state in hybrid.contract.states if state.kept}
    assert kept == {"seen", "sums", "errors_sums"}


def test_a_detector_of_one_machine_carries_nothing_that_never_moves() -> None:
    """With one stream in its history nothing is known of others, and nothing is adapted."""
    detector = plausible_detector("multiscale", ["a", "b"])
    assert isinstance(detector, Hybrid)
    detector.adaptation.set(Prior(*(np.full(2, value) for value in (NEVER, NEVER, 2.0))))
    contract = describe(detector, sample_meta(warm_up_steps=100))
    assert [state.input for state in contract.states] == ["last_sums", "last_levels"]
    proto = trace(detector)
    assert not any(node.op_type == "CumSum" for node in proto.graph.node)
    verify(session_from_bytes(with_contract(proto, contract)), detector, lambda _: None)


def test_a_value_that_is_no_number_stays_in_its_own_stream(hybrid: Session) -> None:
    """A gateway refuses it before; but rows have nothing to do with each other."""
    x = np.random.default_rng(0).normal(2, 1, (9, 2, 3)).astype(np.float32)
    calm, _ = hybrid.run(x, hybrid.contract.initial_state(2))
    x[2, 0, 0] = np.nan
    spoilt, _ = hybrid.run(x, hybrid.contract.initial_state(2))
    np.testing.assert_array_equal(spoilt.score[:, 1], calm.score[:, 1])


def test_a_sensor_that_fails_to_its_largest_value_leaves_scores_finite(hybrid: Session) -> None:
    x = np.zeros((200, 2, 3), np.float32)
    x[50:60, 0, 1] = np.finfo(np.float32).max
    outputs, state = hybrid.run(x, hybrid.contract.initial_state(2))
    assert np.isfinite(outputs.score).all()
    assert outputs.contribution is not None
    assert np.isfinite(outputs.contribution).all()
    assert outputs.score[55, 0] > outputs.score[55, 1]
    assert all(np.isfinite(value).all() for value in state.values())
