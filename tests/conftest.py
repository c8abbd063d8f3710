"""Fixtures that every test may use."""

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts at the same state in every test."""
    return np.random.default_rng(0)
