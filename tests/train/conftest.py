"""What all tests of `train` need."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As `andon train` does: networks this small only wait for a second thread."""
    torch.set_num_threads(1)
