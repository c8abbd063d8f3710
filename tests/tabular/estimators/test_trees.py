"""Boosted trees, and an ensemble of nets and trees."""

import copy
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.tree import DecisionTreeRegressor
from small_models import FEW, drawn, labels, on_edges
from threadpoolctl import threadpool_limits

import fastmlp
from fastmlp import FileError, TabularMLPClassifier, TabularMLPRegressor, jit
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.serialization import files
from fastmlp.tabular import Schema, boosted_trees, extras
from fastmlp.tabular.boosted_trees import BoostedTrees, arrays_of
from fastmlp.tabular.extras import matrix
from fastmlp.tabular.outputs import Scorer
from fastmlp.tabular.pool import ROWS_OF_ONE_THREAD, TableRows
from fastmlp.tabular.schema import Values

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
    pytest.mark.filterwarnings("ignore:.*columns left out"),
]

X, Y = drawn()
LABELS = labels()


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted_trees, "ROUNDS", 6)


@contextmanager
def models_kept() -> Iterator[list[Any]]:
    """Yield scikit-learn's models whose trees are taken,
    with the names of their threads.
    """
    models: list[Any] = []

    def kept(model: Any) -> Any:
        model.thread = threading.current_thread().name
        models.append(model)
        return arrays_of(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosted_trees, "arrays_of", kept)
        yield models


def grown(seed: int) -> tuple[Any, BoostedTrees, Any]:
    """scikit-learn's model, ours, and rows: those of training and new ones."""
    g = np.random.default_rng(seed)
    n = int(g.integers(2, 500))
    n_numbers = int(g.integers(0, 4))
    n_levels = int(g.integers(0, 4))
    n_numbers += not n_numbers + n_levels
    width = n_numbers + n_levels
    of_levels = np.arange(width) >= n_numbers
    most = int(g.choice([2, 9, 60, 255]))

    def drawn_rows(size: int, most: int) -> Any:
        codes = g.integers(0, most, (size, width))
        return np.where(of_levels, codes, g.normal(size=(size, width)))

    known = drawn_rows(n, most)
    new = drawn_rows(300, 300)
    for part in (known, new):
        part[g.random(part.shape) < g.choice([0.0, 0.1])] = np.nan
    # Numbers of training: between them thresholds are others than scikit-learn's.
    repeated = g.permuted(np.resize(known, (300, width)), axis=0)
    new = np.where(of_levels, new, repeated)
    effects = np.where(of_levels, known * 7 % 5, known)
    y = np.nan_to_num(effects).sum(1) + g.normal(size=n)
    n_classes = int(g.choice([0, 2, 3]))
    if n_classes:
        y = np.argsort(np.argsort(y)) * n_classes // n
    weight = None
    if g.random() < 0.5:
        weight = g.random(n)
    ours = BoostedTrees(classes=n_classes > 0, n_categories=n_levels, random_state=seed)
    with models_kept() as models:
        ours.fit(known, y, weight)
    return models[0], ours, np.concatenate([known, new])


@pytest.mark.parametrize("seed", range(8))
def test_predictions_have_the_bits_of_scikit_learn(seed: int) -> None:
    model, ours, rows = grown(seed)
    np.testing.assert_array_equal(ours.predict_raw(rows), model._raw_predict(rows))
    if ours.classes:
        whole = ours.predict_proba(rows)
        # exp is our own: it has the same bits on every machine.
        np.testing.assert_allclose(whole, model.predict_proba(rows), rtol=4e-15)
        np.testing.assert_array_equal(whole.argmax(axis=1), model.predict(rows))
    else:
        np.testing.assert_array_equal(ours.predict(rows), model.predict(rows))


@pytest.mark.parametrize("seed", range(8))
def test_predictions_have_the_same_bits_in_every_layout(seed: int) -> None:
    _, ours, rows = grown(seed)
    predict = ours.predict
    if ours.classes:
        predict = ours.predict_proba
    whole = predict(rows)
    wide = np.full((len(rows), 2 * rows.shape[1]), 7.0)
    wide[:, ::2] = rows
    for part in (np.asfortranarray(rows), wide[:, ::2], rows[:1], rows[:0]):
        np.testing.assert_array_equal(predict(part), whole[: len(part)])


@pytest.mark.slow
@pytest.mark.few(3)
@pytest.mark.parametrize("seed", range(6))
def test_rounded_rows_go_the_same_ways(seed: int) -> None:
    """Rows in float32, in CSV, in ONNX and compiled:
    their columns repeat training values.
    """
    model, X = on_edges(seed)
    predict = getattr(model, "predict_proba", model.predict)
    expected = predict(X)
    narrow = X.astype("float32")
    text = io.StringIO(X.round(12).to_csv(index=False))
    session = onnxruntime.InferenceSession(fastmlp.to_onnx(model).SerializeToString())
    of_onnx = session.run(None, {name: narrow[[name]].to_numpy() for name in X})[-1]
    compiled = np.empty((len(X), expected[0].size))
    jit.predict(jit.compiled(model), model.codes(narrow), compiled)
    for rounded in (predict(narrow), predict(pd.read_csv(text)), of_onnx, compiled):
        np.testing.assert_allclose(
            rounded.reshape(expected.shape), expected, rtol=0, atol=1e-5
        )


def test_thresholds_lie_between_training_values() -> None:
    """Also between two that are one number in float32, and beyond the largest one."""
    g = np.random.default_rng(0)
    near = 1e8 + g.integers(9, size=900)
    gaps = np.minimum(g.normal(size=900), 1.0)
    huge = g.normal(size=900) * 1e300
    gaps[g.random(900) < 0.3] = np.nan
    rows = np.stack([near, gaps, huge], axis=1)
    ours = BoostedTrees().fit(rows, np.isnan(gaps) * 9 + near % 2 + huge / 1e300)
    for j, column in enumerate(rows.T):
        ends = ours.numbers[ours.features == j]
        assert len(ends)
        assert not np.isin(ends, column).any()
        if j != 1:
            assert ((column.min() < ends) & (ends < column.max())).all()


@pytest.fixture
def rounds_60(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted_trees, "ROUNDS", 60)


def of_noise() -> TableRows:
    g = np.random.default_rng(0)
    values = Values(g.normal(size=(400, 2)), np.empty((400, 0), np.int32))
    return TableRows(values, g.normal(size=400))


FIRST = np.arange(200)
SECOND = np.arange(200, 400)


@pytest.mark.usefixtures("rounds_60")
def test_rows_to_validate_on_end_the_growth() -> None:
    part = of_noise()
    first = part.take(FIRST)
    assert extras.fit(BoostedTrees(), first).rounds == 60
    trees = [("trees", BoostedTrees())]
    (result,) = extras.fitted(trees, first, part.take(SECOND), n_classes=0)
    rounds = result.estimator.rounds
    assert rounds < 30
    assert extras.fit(result.estimator, part).rounds == rounds


@pytest.mark.usefixtures("rounds_60")
def test_folds_end_the_growth() -> None:
    trees = [("trees", BoostedTrees())]
    folds = [(FIRST, SECOND), (SECOND, FIRST)]
    (result,) = extras.fitted(trees, of_noise(), None, n_classes=0, folds=folds)
    assert 10 < result.estimator.rounds < 30


@pytest.mark.usefixtures("rounds_60")
def test_many_classes_have_fewer_rounds() -> None:
    numbers = of_noise().values.numbers
    trees = BoostedTrees(classes=True).fit(numbers, np.arange(400) % 20)
    assert trees.rounds == 40


def of_unequal_classes(n: int) -> tuple[TableRows, TableRows]:
    """Rows of 12 classes, the last a tenth as frequent as the first."""
    g = np.random.default_rng(0)
    numbers = g.normal(size=(n, 3))
    raw = np.tanh(numbers @ g.normal(size=(3, 12))) * 2 - np.linspace(0, 2.3, 12)
    y = (raw + g.gumbel(size=raw.shape)).argmax(axis=1)
    rows = TableRows(Values(numbers, np.empty((n, 0), np.int32)), y)
    return rows.take(np.arange(n // 2)), rows.take(np.arange(n // 2, n))


@pytest.mark.slow
def test_trees_that_diverge_grow_again_at_half_the_rate() -> None:
    first, second = of_unequal_classes(800)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosted_trees, "ROUNDS", 200)
        patch.setattr(boosted_trees, "EARLY", 0.0)
        diverged = extras.fit(BoostedTrees(classes=True), first, second)
        patch.setattr(boosted_trees, "EARLY", 0.25)
        model = extras.fit(BoostedTrees(classes=True), first, second)
        again = extras.fit(model, first)
    assert diverged.rate == boosted_trees.LARGEST_RATE
    assert diverged.rounds < model.rounds
    assert model.rate in (0.1, 0.05)

    def score_of(trees: BoostedTrees) -> float:
        answers = extras.answers(trees, second.values, 12)
        return Scorer("multiclass", second.y).score_of(answers)

    assert score_of(model) > score_of(diverged)
    # A clone takes over the rate and the rounds.
    assert again.rate == model.rate
    assert again.rounds == model.rounds


def test_trees_end_at_their_best_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted_trees, "ROUNDS", 60)
    first, second = of_unequal_classes(400)
    part = first._replace(y=first.values.numbers[:, 0] ** 2 + first.y)
    held_out = second._replace(y=second.values.numbers[:, 0] ** 2 + second.y)
    ours = extras.fit(BoostedTrees(), part, held_out)
    model = HistGradientBoostingRegressor(
        learning_rate=0.05, max_iter=60, early_stopping=True
    )
    validation = {"X_val": held_out.values.numbers, "y_val": held_out.y}
    model.fit(part.values.numbers, part.y, **validation)
    best = int(model.validation_score_.argmax())
    assert ours.rounds == best < model.n_iter_
    staged = [*model.staged_predict(part.values.numbers)]
    result = extras.answers(ours, part.values, 0)
    np.testing.assert_array_equal(result, staged[best - 1])


@pytest.mark.slow
def test_folds_share_the_rate_of_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted_trees, "ROUNDS", 200)
    rows, _ = of_unequal_classes(1200)
    half = np.arange(300)
    folds = [(half, half + 300), (half + 300, half)]
    trees = ("trees", BoostedTrees(classes=True))
    (both,) = extras.fitted([trees], rows, None, n_classes=12, folds=folds)
    rates = [boosted_trees.LARGEST_RATE]
    growth = list[float]()
    for first, second in folds:
        start = BoostedTrees(classes=True, rate=rates[-1])
        model = extras.fit(start, rows.take(first), rows.take(second))
        rates.append(model.rate)
        growth.append(model.rounds * model.rate)
    assert both.estimator.rate == rates[-1] < rates[0]
    assert both.estimator.rounds == round(np.mean(growth) / rates[-1])


def test_strips_of_many_rows_have_the_bits_of_scikit_learn() -> None:
    model, ours, rows = grown(1)
    many = np.tile(rows, (2 * ROWS_OF_ONE_THREAD // len(rows) + 1, 1))
    np.testing.assert_array_equal(ours.predict_raw(many), model._raw_predict(many))


def test_rows_of_another_width_are_refused() -> None:
    _, ours, rows = grown(1)
    with pytest.raises(ValueError, match="X must have"):
        ours.predict_raw(rows[:, 1:])


def test_trees_have_the_same_bits_for_any_threads() -> None:
    g = np.random.default_rng(0)
    rows = g.normal(size=(3000, 2))
    y = g.normal(size=3000)
    results: list[Any] = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads, user_api="openmp"):
            results.append(BoostedTrees().fit(rows, y).predict(rows))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("preset", "trees"), [("fast", False), ("balanced", True), ("best", True)]
)
def test_presets_have_trees_unless_others_are_asked_for(
    preset: Any, trees: bool
) -> None:
    assert TabularMLPRegressor(preset=preset)._settings().trees is trees
    other = TabularMLPClassifier(preset=preset, trees=not trees)
    assert other._settings().trees is not trees


@pytest.mark.parametrize("seed", range(4))
def test_levels_about_the_most(seed: int, tmp_path: Path) -> None:
    """scikit-learn refuses more than 255 levels;
    as numbers they are taken, unknown ones too.
    """
    g = np.random.default_rng(seed)
    n_levels = (254, 255, 256, 257)[seed]
    codes = np.concatenate([g.permutation(n_levels), g.integers(0, n_levels, 300)])
    age = g.normal(size=len(codes))
    frame = pd.DataFrame({"place": [f"place {k:03}" for k in codes], "age": age})
    y = g.normal(size=n_levels)[codes] + age
    settings: dict[str, Any] = {**FEW, "max_iter": 1}
    model = TabularMLPRegressor(**settings, trees=True, ensemble="mean")
    with models_kept() as models:
        model.fit(frame, y, X_val=frame, y_val=y)
    rows = matrix(model.schema_.read(frame))
    assert np.nanmax(rows[:, 1]) == n_levels - 1
    of_levels = models[0].is_categorical_ is not None
    assert of_levels == (n_levels <= boosted_trees.MOST_LEVELS)
    if not of_levels:
        peer = HistGradientBoostingRegressor(categorical_features=[1], max_iter=1)
        with pytest.raises(ValueError, match="cardinality <= 255"):
            peer.fit(rows, y)
    new = pd.DataFrame({"place": [*frame["place"][:9], "elsewhere", None], "age": 0.5})
    fastmlp.save(model, tmp_path / "m.safetensors")
    loaded = fastmlp.load(tmp_path / "m.safetensors")
    expected = model.predict(new)
    assert np.array_equal(loaded.predict(new), expected)
    out = np.empty((11, 1))
    jit.predict(jit.compiled(model), model.codes(new), out)
    assert np.array_equal(out[:, 0], expected)


def test_fits_beside_the_nets_have_the_same_bits() -> None:
    def thread_of_fit(n_jobs: int) -> tuple[str, Any]:
        model = TabularMLPRegressor(**FEW, cv=2, trees=True, n_jobs=n_jobs)
        with models_kept() as models:
            model.fit(X, Y)
        assert len(models) == 3
        assert len({each.thread for each in models}) == 1
        return models[0].thread, model

    main, one = thread_of_fit(1)
    other, two = thread_of_fit(2)
    assert main == threading.current_thread().name != other
    np.testing.assert_array_equal(one.predict(X), two.predict(X))
    np.testing.assert_array_equal(one.weights_, two.weights_)


def test_errors_of_fits_beside_the_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: Any) -> None:
        raise MemoryError("no room for trees")

    monkeypatch.setattr(boosted_trees, "arrays_of", fail)
    with pytest.raises(MemoryError, match="no room for trees"):
        TabularMLPRegressor(**FEW, trees=True, n_jobs=2).fit(X, Y)


@pytest.mark.slow
def test_rounds_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted_trees, "ROUNDS", 35)
    codes = matrix(Schema.learn(X).read(X))
    options: dict[str, Any] = {"n_categories": 2, "random_state": 0}
    whole = BoostedTrees(**options).fit(codes, Y)
    assert len(whole.roots) == 1 + 35
    unlimited = BoostedTrees(**options, seconds=1e9).fit(codes, Y)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(unlimited.arrays[name], array)
    cut = BoostedTrees(**options, seconds=1e-9).fit(codes, Y)
    assert len(cut.roots) == 1 + boosted_trees.FIRST_ROUNDS
    model = TabularMLPRegressor(**FEW, cv=2, trees=True, time_limit=60).fit(X, Y)
    ((_, ours),) = model.extra_members_
    assert ours.seconds == 5.0


SINGLE = np.where(np.arange(120) == 7, "unique", "common")
IN_FILES: dict[str, tuple[Any, dict[str, Any]]] = {
    "numbers": (Y, {}),
    "three classes": (LABELS, {}),
    "two classes": (LABELS == "low", {}),
    "a class of one row": (SINGLE, {}),
    "rows to validate on": (SINGLE, {"X_val": X[8:], "y_val": SINGLE[8:]}),
}


@pytest.mark.parametrize("case", IN_FILES)
def test_files_have_the_bits(case: str, tmp_path: Path) -> None:
    y, validation = IN_FILES[case]
    kind: Any = TabularMLPClassifier
    methods = ["predict", "predict_std", "predict_proba"]
    if y is Y:
        kind = TabularMLPRegressor
        methods = ["predict", "predict_std"]
    cv = None if validation else 2
    model = kind(**FEW, cv=cv, trees=True, ensemble="mean").fit(X, y, **validation)
    assert [name for name, _ in model.extra_members_] == ["boosted trees"]
    (row,) = model.leaderboard_.query("member == 'boosted trees'").to_dict("records")
    assert 0 < row["fit_seconds"] < 60
    assert model.weights_[-1] > 0
    path = tmp_path / "model.safetensors"
    fastmlp.save(model, path)
    loaded = fastmlp.load(path)
    for name in methods:
        np.testing.assert_array_equal(getattr(loaded, name)(X), getattr(model, name)(X))
    np.testing.assert_array_equal(loaded.weights_, model.weights_)
    assert loaded.trees is True
    again = tmp_path / "again.safetensors"
    fastmlp.save(loaded, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.fixture(scope="module")
def of_trees() -> TabularMLPRegressor:
    """An ensemble of trees: against nets of one epoch they are the best."""
    settings: dict[str, Any] = {**FEW, "max_iter": 1}
    model = TabularMLPRegressor(**settings, trees=True, ensemble="best")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosted_trees, "ROUNDS", 6)
        model.fit(X, Y, X_val=X, y_val=Y)
    assert not model.members_
    assert model.weights_.tolist() == [1.0]
    return model


def test_trees_alone_have_a_file(of_trees: TabularMLPRegressor, tmp_path: Path) -> None:
    fastmlp.save(of_trees, tmp_path / "model.safetensors")
    loaded = fastmlp.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.predict(X), of_trees.predict(X))
    assert "boosted trees" in loaded.summary()


def test_trees_alone_are_exported_to_c(of_trees: TabularMLPRegressor) -> None:
    assert "0 nets, and boosted trees" in fastmlp.to_c(of_trees)


def test_trees_alone_have_shapley_values(of_trees: TabularMLPRegressor) -> None:
    attribution = fastmlp.shap_values(of_trees, X[:5], X[:9])
    predicted = attribution.base + attribution.values.sum(axis=1)
    np.testing.assert_allclose(predicted, of_trees.predict(X[:5]), rtol=1e-12)


def test_trees_keep_the_order_that_is_asked_for() -> None:
    model = TabularMLPRegressor(**FEW, cv=2, trees=True, monotonic_cst={"age": -1})
    model.fit(X, Y)
    ((_, ours),) = model.extra_members_
    assert ours.monotonic_cst == [-1, 0, 0, 0]
    rows = np.zeros((60, 4))
    rows[:, 0] = np.linspace(10, 99, 60)
    assert (np.diff(ours.predict(rows)) <= 0).all()


def test_a_refit_of_members_sees_all_rows() -> None:
    tree = DecisionTreeRegressor(max_depth=9, random_state=0)
    model = TabularMLPRegressor(**FEW, extra_members=[tree], refit=True)
    model.fit(X[:60], Y[:60], X_val=X[60:], y_val=Y[60:])
    assert model.weights_[-1] > 0
    assert model.extra_members_[0][1].tree_.n_node_samples[0] == 120


def replaced(name: str, place: Any, value: Any) -> Callable[[Any], None]:
    def damage(content: Any) -> None:
        array = content.arrays[f"trees.0.1.{name}"].copy()
        array[place] = value
        content.arrays[f"trees.0.1.{name}"] = array

    return damage


DAMAGES: list[tuple[Callable[[Any], Any], str]] = [
    (replaced("children", (3, 2), 0), "children of a node must be behind it"),
    (replaced("children", (3, 0), 1 << 20), "children of a node must be behind it"),
    (replaced("features", 0, 4), "features that there are"),
    (replaced("roots", 0, -1), "roots beyond the nodes"),
    (replaced("places", 0, 99), "places beyond the sets"),
    (replaced("numbers", 0, np.nan), "must have finite numbers"),
    (replaced("numbers", -1, np.inf), "must have finite numbers"),
    (replaced("classes_", 0, 5), "classes that there are"),
    (lambda content: content.arrays.pop("trees.0.1.roots"), "roots"),
    (lambda content: content.header["trees"][0].__setitem__(0, 3), "trees"),
    (
        lambda content: content.arrays.update(
            {"trees.0.1.roots": np.zeros(2, np.int32)}
        ),
        "2 trees for 3 classes",
    ),
]


def test_content_that_is_no_trees(tmp_path: Path) -> None:
    path = tmp_path / "model"
    model = TabularMLPClassifier(**FEW, trees=True, ensemble="mean").fit(X, LABELS)
    fastmlp.save(model, path)
    content = files.read(path)
    for damage, words in DAMAGES:
        damaged = copy.deepcopy(content)
        damage(damaged)
        files.write(path, damaged)
        with pytest.raises(FileError, match=words):
            fastmlp.load(path)
