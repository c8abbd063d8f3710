"""Many nets, estimators and searches: all contestants end in the same place."""

import numpy as np
import pytest

from benchmarks import bench_estimators as estimators
from benchmarks import bench_many as many

WAYS = [
    ("jax", "32-nets", "vmap"),
    ("jax", "32-nets", "a net on each core"),
    ("jax", "1000-nets", "vmap"),
    ("jax", "1000-nets", "a net on each core"),
    ("torch", "32-nets", None),
    ("sklearn", "32-nets", None),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "sweep", "way"), WAYS)
def test_many_nets_of_all_end_in_the_same_place(
    name: str, sweep: str, way: str | None
) -> None:
    pytest.importorskip(name)
    theirs = many.make(name, sweep, True, **({"way": way} if way else {}))
    ours = many.make("fastmlp", sweep, True)
    for nets in (ours, theirs):
        nets.train(1, shuffle=False)
    if name == "sklearn":  # it draws its own start
        assert theirs.losses == pytest.approx(ours.losses, rel=0.2)
        return
    errors = np.abs(ours.parameters() - theirs.parameters())
    assert errors.shape == ours.parameters().shape
    # In float32 Adam makes whole steps, of either sign,
    # of a gradient that is rounding noise.
    assert np.quantile(errors, 0.99) < 3e-4
    if sweep == "32-nets":  # fastmlp's losses have the penalty in them
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)


def test_both_estimators_take_the_same_epochs() -> None:
    settings = {**estimators.CONFIGURATIONS["early-stopping"], "max_iter": 15}
    ours, theirs = (
        estimators.fitted(name, "diabetes", "float64", settings)
        for name in estimators.LIBRARIES
    )
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-9)


def test_both_searches_find_the_same() -> None:
    ours, theirs = (
        estimators.searched(name, quick=True) for name in ("fastmlp", "sklearn")
    )
    assert ours.best_params_ == theirs.best_params_
    for i in range(estimators.FOLDS):
        scores = [model.cv_results_[f"split{i}_test_score"] for model in (ours, theirs)]
        assert np.allclose(*scores)
