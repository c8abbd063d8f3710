"""Settings for Numba's simulator of CUDA."""

import pytest
from numba.cuda.simulator import kernel, kernelapi
from simulator import Block, Shared

from fastmlp.backends.cuda import training

kernel.BlockManager = Block
kernelapi.FakeCUDAShared = Shared


@pytest.fixture(params=["phases", "run"])
def each_launch(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train by a launch for each phase, of two blocks;
    by cooperative launches, of one.
    """
    monkeypatch.setattr(training, "COOPERATIVE", request.param == "run")
