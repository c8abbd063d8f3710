"""Starts side by side: the cells, a small race, and its tables."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks import starts
from benchmarks.starts import ACTIVATIONS, BEFORE, OPTIMIZERS, PROBLEMS, STARTS, Cell
from fastmlp import MLP


def test_each_problem_meets_each_activation_and_each_optimizer() -> None:
    made = starts.cells()
    assert len(made) == len(PROBLEMS) * len(ACTIVATIONS)
    pairs = {(cell.problem, cell.activation) for cell in made}
    assert pairs == {*product(PROBLEMS, ACTIVATIONS)}
    assert {cell.optimizer for cell in made} == {*OPTIMIZERS}
    assert made == starts.cells()


def test_a_race_is_resumed_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.jsonl"
    words = [str(file), "--seeds", "2", "--epochs", "1"]
    for n_cells in ("1", "2"):
        starts.main(["race", *words, "--cells", n_cells, "--starts", "default"])
    assert [record["n"] for record in starts.records_of(file)] == [0, 1]
    starts.main(["show", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"cells | {BEFORE} | default | worse | worst"
    assert lines[1].startswith("all | 1.00 |")


def test_a_loss_that_is_not_finite_counts_as_the_limit() -> None:
    record = {"losses": {BEFORE: [0.1, 0.2, np.inf], "default": [np.inf] * 3}}
    assert starts.ratio(record, "default") == starts.LIMIT
    assert starts.ratio(record, BEFORE) == 1


@pytest.mark.parametrize("activation", sorted({*ACTIVATIONS}))
def test_the_default_is_that_of_the_library(activation: str) -> None:
    raced, own = (MLP((30, 40, 50, 1), activation=activation, seed=0) for _ in "ab")  # type: ignore[arg-type]
    starts.set_start(raced, activation, STARTS["default"], seed=0)
    for ours, theirs in zip(
        [*raced.weights, *raced.biases], [*own.weights, *own.biases], strict=True
    ):
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.2)


def test_widths_obey_the_limit_of_the_optimizer() -> None:
    cell = Cell("digits", "relu", 8, 512, "Adam(1e-3)")
    assert len(cell.sizes) == 10
    assert MLP(cell.sizes).parameters.size <= OPTIMIZERS[cell.optimizer].most
