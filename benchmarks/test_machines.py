"""One net over two processes: the contestants do the same."""

import numpy as np
import pytest

from benchmarks import bench_machines as machines
from benchmarks.bench_machines import BY_NAME, OURS, SHARED, TORCH

SMALL = next(iter(BY_NAME))


def test_shares_are_all_rows() -> None:
    load = BY_NAME[SMALL].quick()
    shares = [machines.share(load, rank, 2) for rank in range(2)]
    for part, whole in zip(zip(*shares, strict=True), load.data(), strict=True):
        assert np.array_equal(np.concatenate(part), whole)


def test_contestants_train_the_same_net() -> None:
    """An epoch in the order of the rows leaves all with the same parameters."""
    workload = "784-128-10@1024"
    samples = {}
    for name in machines.CONTESTANTS:
        if reason := machines.missing(name):
            pytest.skip(f"{name}: {reason}")
    for name in machines.CONTESTANTS:
        reply = machines.run(name, workload, quick=True)
        assert reply.get("error") is None
        samples[name] = np.array(reply["sample"])
        assert all(seconds > 0 for seconds in reply["step_seconds"])
    assert np.array_equal(samples[OURS], samples[SHARED])
    np.testing.assert_allclose(samples[OURS], samples[TORCH], rtol=1e-3, atol=1e-4)


def test_who_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "find_spec", lambda name: None)
    assert machines.missing(OURS) == "not installed: mpi4py"
    assert machines.missing(TORCH) == "not installed: torch"
    monkeypatch.setattr(machines, "find_spec", lambda name: name)
    monkeypatch.setattr(machines, "mpiexec", lambda: None)
    assert machines.missing(OURS) == "there is no mpiexec"
