"""Targets with gaps: what the tables are made of, and a small run."""

import numpy as np
import pytest

from benchmarks import gaps


def test_a_row_of_survival_knows_its_intervals_up_to_its_end() -> None:
    y = gaps.intervals(
        np.array([0.5, 2.5, 2.5, 99.0]), np.array([1, 1, 0, 1]), np.arange(1.0, 21.0)
    )
    known = [row[~np.isnan(row)].tolist() for row in y]
    assert known == [[1], [0, 0, 1], [0, 0], [0] * gaps.N_INTERVALS]


def test_steps_of_ordered_classes() -> None:
    steps = gaps.steps_of(np.array([0, 2, 4]))
    known = [row[~np.isnan(row)].tolist() for row in steps]
    assert known == [[0], [1, 1, 0], [1, 1, 1, 1]]
    chances = gaps.chances_of(np.full((1, 4), 0.5))
    np.testing.assert_allclose(chances, [[0.5, 0.25, 0.125, 0.0625, 0.0625]])


def test_concordance_of_a_risk_that_orders_all_pairs() -> None:
    times = np.array([1.0, 2.0, 3.0])
    events = np.array([1, 0, 1])
    assert gaps.concordance(times, events, -times) == 1
    assert gaps.concordance(times, events, times) == 0
    assert gaps.concordance(times, events, np.zeros(3)) == 0.5


@pytest.mark.filterwarnings("ignore")
def test_all_tables_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    gaps.main(["--seeds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("Measured on") for line in lines) == len(gaps.TABLES)
