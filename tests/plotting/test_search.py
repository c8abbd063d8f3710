"""Searches: what is drawn, in which order and colours, and what is best."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged

from fastmlp import MLPClassifier, MLPRegressor, MLPSearchCV
from fastmlp.plotting import plot_search

SCORES = {
    "mean_test_score": np.array([0.8, 0.9, 0.7]),
    "std_test_score": np.array([0.1, 0.2, 0.0]),
    "params": [
        {"alpha": 0.01, "sizes": (4,)},
        {"alpha": 1.0, "sizes": (8, 8)},
        {"alpha": 1, "sizes": (4,)},
    ],
}
SEARCH = SimpleNamespace(cv_results_=SCORES)


def search_of(params: list[dict[str, Any]], scores: Any, **more: Any) -> Any:
    results = {"params": params, "mean_test_score": scores, "std_test_score": np.zeros(len(scores))}
    return SimpleNamespace(cv_results_=results, **more)


def points(ax: Any) -> list[tuple[float, float]]:
    line = ax.containers[0].lines[0]
    return list(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True))


def best(ax: Any) -> list[Any]:
    (line,) = (line for line in ax.get_lines() if line.get_label() == "best")
    return line.get_xydata().tolist()


def labels(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def ticks(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_xticklabels()]


def told(ax: Any) -> str:
    return str(ax.get_title(loc="left"))


def test_the_title_names_the_best_candidate() -> None:
    ax: Any = plot_search(SEARCH)
    assert told(ax) == "best: score 0.9 with alpha=1, sizes=(8, 8)"
    assert [score for _, score in points(ax)] == [0.9, 0.8, 0.7]
    assert [score for _, score in best(ax)] == [0.9]
    bars = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[0.7, 1.1], [0.7, 0.9], [0.7, 0.7]])


GRID: list[dict[str, Any]] = [
    {"a": a, "b": b, "c": c} for a in (1, 2) for b in ("x", "y", "z") for c in (0.1, 0.2)
]


def test_the_parameter_that_matters_most_is_drawn_and_the_next_one_coloured() -> None:
    scores = np.array([0.01 * each["a"] + "xyz".index(each["b"]) for each in GRID])
    ax: Any = plot_search(search_of(GRID, scores))
    assert ax.get_xlabel() == "b"
    assert ticks(ax) == ["x", "y", "z"]
    assert {"a=1", "a=2"} < set(labels(ax))
    ax = plot_search(search_of(GRID, scores + 10 * np.array([each["c"] for each in GRID])))
    assert {"c=0.1", "c=0.2"} < set(labels(ax))


def test_numbers_without_influence_are_not_taken_for_their_many_values() -> None:
    random = np.random.default_rng(0)
    params = [{"noise": random.random(), "kind": "ab"[i % 2]} for i in range(20)]
    scores = [0.9 * (each["kind"] == "a") + 0.1 * random.random() for each in params]
    ax = plot_search(search_of(params, np.array(scores)))
    assert ax.get_xlabel() == "kind"
    assert ax.figure.axes[1].get_ylabel() == "noise", "a colour bar"


def test_failed_candidates_have_no_influence() -> None:
    scores = np.array([np.nan if each["c"] == 0.1 else float(each["a"]) for each in GRID])
    ax = plot_search(search_of(GRID, scores))
    assert ax.get_xlabel() == "a"
    assert told(ax).startswith("best: score 2 with a=2")
    plot_search(search_of(GRID, np.full(len(GRID), np.nan))).figure.canvas.draw()


def test_numbers_are_drawn_at_their_place_and_other_values_one_by_one() -> None:
    ax = plot_search(SEARCH, parameter="alpha")
    assert points(ax) == [(1, 0.9), (0.01, 0.8), (1, 0.7)]
    assert (ax.get_xscale(), ticks(ax)) == ("log", ["0.01", "1"])
    ax = plot_search(SEARCH, parameter="sizes")
    assert points(ax) == [(1, 0.9), (0, 0.8), (0, 0.7)]
    assert ticks(ax) == ["(4,)", "(8, 8)"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ([(32,), (8,), (16, 16), (8, 4)], ["(8,)", "(8, 4)", "(16, 16)", "(32,)"]),
        ([(32, 2), 8, [16]], ["8", "[16]", "(32, 2)"]),
        ([True, False], ["False", "True"]),
        (["balanced", None], ["balanced", "None"]),
        ([1e-7, 3e-7], []),
        ([32, 8, 128], ["8", "32", "128"]),
        ([np.tanh, max], ["tanh", "max"]),
    ],
    ids=str,
)
def test_values_have_their_order(given: list[Any], shown: list[str]) -> None:
    ax = plot_search(search_of([{"p": value} for value in given], np.arange(len(given))))
    assert told(ax) == f"best: score {len(given) - 1} with p={shown_of(given[-1])}"
    if shown:
        assert ticks(ax) == shown


def shown_of(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(getattr(value, "__name__", value))


def test_what_the_search_took_for_the_best_is_marked() -> None:
    search = SimpleNamespace(cv_results_=SCORES, best_index_=2)
    ax = plot_search(search, parameter="alpha")
    assert best(ax) == [[1, 0.7]]
    assert told(ax) == "best: score 0.7 with alpha=1, sizes=(4,)"


def test_candidates_that_have_the_parameter_are_drawn() -> None:
    drawn = [{"alpha": 1.0}, {"units": np.int64(64)}, {"units": np.int64(8)}]
    search = SimpleNamespace(cv_results_={**SCORES, "params": drawn})
    ax = plot_search(search, parameter="units")
    assert points(ax) == [(64, 0.9), (8, 0.7)]
    assert best(ax) == [[64, 0.9]]
    with pytest.raises(ValueError, match="there are alpha, units"):
        plot_search(search, parameter="beta")


def test_a_colour_may_be_chosen() -> None:
    scores = np.arange(len(GRID), dtype=float)
    search = search_of(GRID, scores)
    assert {"c=0.1", "c=0.2"} < set(labels(plot_search(search, color="c")))
    assert plot_search(search, color="a").get_xlabel() == "b"
    with pytest.raises(ValueError, match="no parameter 'd' was searched; there are a, b, c"):
        plot_search(search, color="d")


def test_a_pipelines_steps_are_left_out_where_names_stay_different() -> None:
    params = [{"net__alpha": a, "net__size": 1, "pca__size": 2} for a in (0.1, 0.2)]
    ax = plot_search(search_of(params, np.array([0.0, 1.0])))
    assert ax.get_xlabel() == "net__alpha"
    assert told(ax) == "best: score 1 with alpha=0.2, net__size=1, pca__size=2"


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="search must be fitted"):
        plot_search(SimpleNamespace())
    with pytest.raises(
        ValueError, match="no parameter 'beta' was searched; there are alpha, sizes"
    ):
        plot_search(SEARCH, parameter="beta")
    with pytest.raises(ValueError, match="several metrics: set its refit to the name of one"):
        plot_search(SimpleNamespace(cv_results_={"params": [{}], "mean_test_f1": [1.0]}))
    with pytest.raises(ValueError, match="search has no parameters"):
        plot_search(search_of([{}], np.zeros(1)))


def test_of_several_metrics_the_one_of_refit_is_drawn() -> None:
    results: dict[str, Any] = {
        f"{kind}_test_{name}": [0.5, 0.25] for kind in ("mean", "std") for name in ("f1",)
    }
    results |= {"params": [{"alpha": 1}, {"alpha": 2}]}
    ax: Any = plot_search(SimpleNamespace(cv_results_=results, refit="f1"))
    assert ax.get_ylabel() == "f1"
    assert told(ax) == "best: f1 0.5 with alpha=1"


def test_the_axis_names_the_metric() -> None:
    params, scores = [{"alpha": 1.0}, {"alpha": 2.0}], np.zeros(2)

    def name(estimator: Any, scoring: Any) -> str:
        search = search_of(params, scores, estimator=estimator, scoring=scoring)
        return str(plot_search(search).get_ylabel())

    assert name(MLPClassifier(), None) == "accuracy"
    assert name(MLPRegressor(), None) == "R²"
    assert name(MLPRegressor(), "neg_mean_squared_error") == "neg_mean_squared_error"
    assert name(MLPRegressor(), np.mean) == "mean"


ROWS = np.random.default_rng(0).normal(size=(60, 2))
SETTINGS: dict[str, Any] = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}
SEARCHES: list[dict[str, Any]] = [
    {"param_grid": {"alpha": [0.1, 1.0], "hidden_layer_sizes": [(3,), (4, 2)]}},
    {"param_distributions": {"alpha": [0.1, 1.0, 10.0]}, "n_iter": 2, "random_state": 0},
    {"param_grid": {"alpha": [0.1, 1.0, 10.0]}, "halving": True, "factor": 2, "random_state": 0},
    {"param_grid": {"alpha": [0.1, 1.0]}, "refit": False},
]


@needs_compiler
@unconverged
@pytest.mark.parametrize("options", SEARCHES, ids=str)
@pytest.mark.parametrize("parameter", [None, "alpha"])
def test_a_search_that_was_fitted_is_drawn(options: dict[str, Any], parameter: Any) -> None:
    estimator = MLPRegressor(**SETTINGS, batch_size=10)
    search = MLPSearchCV(estimator, cv=2, **options).fit(ROWS, ROWS[:, 0])
    results = search.cv_results_
    ax = plot_search(search, parameter=parameter)
    ax.figure.canvas.draw()
    assert ax.get_ylabel() == "R²"
    assert "mean and standard deviation of 2 folds" in labels(ax)
    scores = [score for _, score in points(ax)]
    assert scores == sorted(results["mean_test_score"], reverse=True)
    assert [score for _, score in best(ax)] == [results["mean_test_score"][search.best_index_]]
    if parameter:
        values = [candidate["alpha"] for candidate in results["params"]]
        assert sorted(place for place, _ in points(ax)) == sorted(values)
