"""Packs on small tables: bits, weights, time,
drawn recipes; Caruana's selection and its folds.
"""

import os
import signal
import threading
import warnings
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.metrics import get_scorer
from sklearn.tree import DecisionTreeClassifier

from fastmlp._process import warn
from fastmlp._process.task_pool import Pool, Task
from fastmlp.tabular import TabularMLPClassifier, extras, fit_arguments, pool
from fastmlp.tabular.encoding import Encoding
from fastmlp.tabular.fit_arguments import held_out
from fastmlp.tabular.outputs import SQUARED, Scorer, outputs_of
from fastmlp.tabular.pack import (
    Pack,
    Selection,
    _apart,
    _selected,
    bagged,
    equal,
    greedy,
    train_pack,
)
from fastmlp.tabular.pool import (
    CHUNK,
    FEWEST_ROWS,
    MOST_STRIP_NUMBERS,
    ROWS_OF_ONE_THREAD,
    Limits,
    TableRows,
    batch_size_of,
    drawn,
    folds_of,
    in_strips,
    inputs_of,
    joined,
    net_settings,
    new_net,
    without_idle_units,
)
from fastmlp.tabular.reports import QUICK, score_of
from fastmlp.tabular.schema import Values
from fastmlp.tabular.settings import (
    FIRST,
    LARGE,
    NET_KINDS,
    PRESETS,
    SCALED,
    PackSettings,
    draw,
    encodings_for,
)
from fastmlp.validation.expanded import Expanded

Array = NDArray[Any]
FEW = PackSettings(n_members=4, max_members=3, epochs=15, patience=5)
ENCODINGS = {"pieces": Encoding(n_bins=8)}
TASKS = {0: "regression", 2: "binary", 3: "multiclass"}


def table(n: int, seed: int = 0) -> tuple[Values, Array]:
    generator = np.random.default_rng(seed)
    numbers = generator.normal(size=(n, 3))
    codes = generator.integers(-1, 3, (n, 2)).astype(np.int32)
    y = (
        numbers[:, 0] * (codes[:, 0] == 1)
        + numbers[:, 1]
        + 0.3 * generator.normal(size=n)
    )
    numbers[generator.random(n) < 0.05, 2] = np.nan
    return Values(numbers, codes), y


def parts(n: int, n_classes: int = 0) -> tuple[TableRows, TableRows]:
    values, y = table(n)
    if n_classes:
        y = np.searchsorted(np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]), y)
    whole = TableRows(values, y)
    cut = n * 2 // 3
    return whole.take(np.arange(cut)), whole.take(np.arange(cut, n))


def trained(first: TableRows, second: TableRows | None, **changed: Any) -> Pack:
    arguments = {
        "task": "regression",
        "n_classes": 1,
        "settings": FEW,
        "seed": 0,
        **changed,
    }
    return train_pack(first, second, encodings=ENCODINGS, **arguments)


def rmse(y: Array, predictions: Array) -> float:
    return float(np.sqrt(np.mean((y - predictions) ** 2)))


def test_the_ensemble_is_the_weighted_mean_of_its_nets() -> None:
    first, second = parts(300)
    pack = trained(first, second)
    inputs = pack.encodings[0].transform(second.values)
    expected = sum(
        member.weight * pack.outputs.predictions(member.net.predict(inputs))
        for member in pack.members
    )
    predictions = pack.predict(second.values)
    np.testing.assert_allclose(predictions, expected, rtol=1e-4, atol=1e-6)
    assert pack.weights.sum() == pytest.approx(1)
    loss = -pack.validation_score
    assert loss == pytest.approx(rmse(second.y, predictions), rel=1e-6)
    assert loss <= min(-member.score for member in pack.members) + 1e-9
    assert rmse(second.y, predictions) < 0.7 * second.y.std()


def test_scores_are_of_rows_that_have_not_selected() -> None:
    """Of fifty candidates of noise a selection finds some that happen to be near its
    rows.
    """
    generator = np.random.default_rng(0)
    y, *candidates = generator.normal(size=(51, 60))
    scorer = Scorer("regression", y)
    settings = FEW._replace(n_members=50)
    options = (settings, generator, None, [0.0] * 50)
    selection = _selected(candidates, scorer, *options)
    folds = pool.drawn(y, 5, 0)
    apart = _apart(candidates, scorer, selection, folds, options)
    assert rmse(y, selection.mean(candidates)) < 0.9 < rmse(y, apart)


def test_a_pack_keeps_such_scores() -> None:
    pack = trained(parts(120)[0], None)
    assert -pack.validation_score < rmse(pack.residuals, np.zeros(1))


def recipes_of(pack: Pack) -> list[Any]:
    return [member.recipe for member in pack.members]


def test_bits_do_not_depend_on_threads() -> None:
    first, second = parts(200)
    one = trained(first, second, n_threads=1)
    two = trained(first, second, n_threads=2)
    expected = one.predict(second.values)
    np.testing.assert_array_equal(two.predict(second.values), expected)
    assert recipes_of(one) == recipes_of(two)
    other = trained(first, second, seed=1)
    assert (other.predict(second.values) != expected).any()


def test_nets_take_rows_in_short_where_that_is_faster() -> None:
    values, y = table(FEWEST_ROWS)
    encoding = Encoding().fit(values, y, "regression", 0)
    few = values.part(slice(FEWEST_ROWS - 1))
    assert isinstance(inputs_of(encoding, values), Expanded)
    assert isinstance(inputs_of(encoding, few), np.ndarray)
    plain = Encoding(embedding="none")
    numbers = values._replace(codes=values.codes[:, :0])
    plain.fit(numbers, y, "regression", 0)
    assert isinstance(inputs_of(plain, numbers), np.ndarray)


def test_rows_in_short_are_joined() -> None:
    values, y = table(FEWEST_ROWS)
    encoding = Encoding()
    short = encoding.fit_expanded(values, y, "regression", np.random.default_rng(0))
    whole = joined(short[:40], short[40:])
    assert isinstance(whole, Expanded)
    expected = encoding.transform(values)
    np.testing.assert_allclose(whole.toarray(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("activation", "left"), [("relu", (5, 6)), ("silu", (8, 8))])
def test_units_that_are_0_for_all_rows_are_left_out(activation: Any, left: Any) -> None:
    rows, _ = parts(90)
    encoding = Encoding(n_bins=8).fit(rows.values, rows.y, "regression", 0)
    settings = net_settings(outputs_of("regression", rows.y, None, 0), FEW)
    recipe = draw(3, 0, ["pieces"])[2]._replace(hidden=(8, 8), activation=activation)
    net = new_net(recipe, encoding, settings, 60)
    X = inputs_of(encoding, rows.values)
    for biases, n in zip(net.biases, (3, 2), strict=False):
        biases[:] = 1
        biases[:n] = -99
    small = without_idle_units(net, recipe, encoding, settings, X)
    assert small.layer_sizes == (encoding.n_inputs, *left, 1)
    np.testing.assert_array_equal(small.predict(X), net.predict(X))


def test_predictions_in_chunks_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = parts(200)
    pack = trained(first, second)
    whole = pack.predict(second.values)
    monkeypatch.setattr("fastmlp.tabular.pool.CHUNK", 7)
    result = pack.predict(second.values)
    np.testing.assert_allclose(result, whole, rtol=1e-5, atol=1e-6)


def test_predictions_stay_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = parts(200)
    pack = trained(first, second)
    monkeypatch.setattr("fastmlp.tabular.pool.CHUNK", 7)
    far = second.values._replace(numbers=second.values.numbers * 1e3)
    predictions = pack.predict(far)
    assert first.y.min() <= predictions.min()
    assert predictions.max() <= first.y.max()


@pytest.mark.parametrize("n_threads", [1, 2], indirect=True)
@pytest.mark.parametrize("embedding", ["none", "piecewise"])
@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_bits_of_predictions_are_of_two_forms_of_rows(
    n_classes: int, embedding: Any, n_threads: int
) -> None:
    task = TASKS[n_classes]
    settings = FEW._replace(n_members=6, max_members=6, epochs=3, ensemble="mean")
    encodings = {"own": Encoding(embedding=embedding, n_bins=8)}
    options: Any = {
        "task": task,
        "n_classes": n_classes,
        "settings": settings,
        "seed": 0,
    }
    pack = train_pack(*parts(200, n_classes), encodings=encodings, **options)
    values = table(3 * FEWEST_ROWS)[0]
    places = np.arange(ROWS_OF_ONE_THREAD + 1) % (3 * FEWEST_ROWS)
    few = range(1, FEWEST_ROWS, 100)
    whole = pack.predict(values)
    each = [pack.predict(values.part([i])) for i in range(FEWEST_ROWS)]
    of_one = np.concatenate(each)
    np.testing.assert_allclose(of_one, whole[:FEWEST_ROWS], rtol=0, atol=1e-5)
    for n in few:
        result = pack.predict(values.part(slice(n)))
        np.testing.assert_array_equal(result, of_one[:n])
    for n in (FEWEST_ROWS, FEWEST_ROWS + 77, 2 * FEWEST_ROWS):
        result = pack.predict(values.part(slice(n)))
        np.testing.assert_array_equal(result, whole[:n])
    np.testing.assert_array_equal(pack.predict(values.part(places)), whole[places])


@pytest.mark.parametrize("n", [6, 20])
@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_tiny_tables_in_folds(n: int, n_classes: int) -> None:
    first, _ = parts(n * 3 // 2, n_classes)
    task = TASKS[n_classes]
    settings = FEW._replace(cv=3)
    pack = trained(
        first, None, task=task, n_classes=max(n_classes, 1), settings=settings
    )
    assert len(pack.members) % 3 == 0
    assert np.isfinite(pack.predict(first.values)).all()
    assert pack.weights.sum() == pytest.approx(1)


def test_a_rare_class_has_a_probability_everywhere() -> None:
    first, second = parts(240, 2)
    y = first.y.copy()
    y[:1] = 2
    pack = trained(first._replace(y=y), second, task="multiclass", n_classes=4)
    p = pack.predict(second.values)
    assert p.shape == (80, 4)
    assert (p > 0).all()
    # One row of 160, and none.
    assert p[:, 2:].mean() < 0.1


def test_weights_of_rows_count_in_training() -> None:
    first, second = parts(300)
    kept = np.arange(200) < 100
    y = np.where(kept, first.y, first.y + 50)
    pack = trained(first._replace(y=y, weight=kept * 1.0), second)
    assert rmse(second.y, pack.predict(second.values)) < second.y.std()


def test_weights_of_rows_count_in_selection() -> None:
    first, second = parts(300)
    far = second._replace(y=second.y.copy(), weight=np.ones(100))
    far.y[:50] += 1000
    far.weight[:50] = 0  # type: ignore[index]
    assert -trained(first, far).validation_score < 2


def test_further_models_are_candidates() -> None:
    first, second = parts(300)
    pack = trained(first, second, extra=[second.y + 1e-3, np.zeros(100)])
    np.testing.assert_array_equal(pack.extra_weights, [1, 0])
    assert not pack.members
    assert not pack.predict(second.values).any()


def test_a_score_that_is_no_number_is_refused() -> None:
    first, second = parts(60)
    nan = FEW._replace(n_members=1, score=lambda y, predictions, weight: float("nan"))
    with pytest.raises(ValueError, match="no number"):
        trained(first, second, settings=nan)


def test_nets_go_on_for_a_part_of_the_epochs_until_their_best() -> None:
    limits = Limits(100, 4)
    stopped = list[int]()
    for epoch in range(20, 40):
        report: Any = SimpleNamespace(
            epoch=epoch,
            history=SimpleNamespace(best_epoch=20),
            stop=partial(stopped.append, epoch),
        )
        limits.look(report)
    # 4 and 0.3 of 20 epochs after the best.
    assert stopped == list(range(30, 40))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs in which Ctrl-C was pressed: one, the third or later."""
    sent: list[int] = []

    def look(limits: Limits, report: Any) -> None:
        if report.epoch >= 2 and not sent:
            sent.append(report.epoch)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Limits, "look", look)
    return sent


LONG = FEW._replace(n_members=2, epochs=10**6)


def test_ctrl_c_leaves_the_nets_that_there_are(sent: list[int]) -> None:
    first, second = parts(300)
    with pytest.warns(match="fit_many interrupted"):
        pack = trained(first, second, settings=LONG)
    assert 1 <= len(pack.members) <= 2
    assert np.isfinite(pack.predict(second.values)).all()
    assert len(sent) == 1


def test_ctrl_c_in_folds_leaves_nothing(sent: list[int]) -> None:
    first, _ = parts(300)
    with (
        pytest.warns(match="fit_many interrupted"),
        pytest.raises(KeyboardInterrupt),
    ):
        trained(first, None, settings=LONG)
    assert len(sent) == 1


def table_of(n_numeric: int, n_levels: int = 0) -> Values:
    """Numbers, and a category of these levels."""
    codes = np.arange(n_levels or 1, dtype=np.int32)[:, None]
    return Values(np.zeros((len(codes), n_numeric)), codes)


@pytest.mark.parametrize(
    ("n_numeric", "expected"),
    [(0, [16]), (1, [16, 48]), (10, [16, 48]), (11, [16]), (1000, [8]), (4096, [2])],
)
def test_few_columns_have_many_pieces(n_numeric: int, expected: list[int]) -> None:
    encodings = encodings_for(table_of(n_numeric), 30)
    bins = [each.n_bins for name, each in encodings.items() if name != SCALED]
    assert bins == expected


@pytest.mark.parametrize(("n_classes", "expected"), [(9, [8, 8]), (10, [8, None, 8])])
def test_for_many_classes_a_net_has_no_statistics(
    n_classes: int, expected: list[int | None]
) -> None:
    encodings = encodings_for(table_of(11, 100), n_classes).values()
    assert [each.target_levels for each in encodings] == expected


def test_every_other_net_has_integers_as_levels() -> None:
    values = table_of(11, 100)
    values.numbers[:, 4] = np.arange(100) % 20
    first, second, _ = encodings_for(values).items()
    assert first[1].max_integers is None
    assert second[1].max_integers == 64
    assert second[0] == "piecewise linear, integers as levels"
    wide = values._replace(numbers=np.tile(values.numbers, 12))
    assert len(encodings_for(wide)) == 2


def test_very_many_columns_have_no_pieces() -> None:
    (encoding,) = encodings_for(table_of(5000)).values()
    assert encoding.embedding == "none"


def test_the_fast_preset_has_every_encoding() -> None:
    names = tuple(encodings_for(table_of(5)))
    recipes = draw(PRESETS["fast"].n_members, 0, names)
    assert {recipe.encoding for recipe in recipes} == {*names}
    assert any(recipe.l1 for recipe in recipes)


def test_the_balanced_preset_has_the_first_kinds() -> None:
    assert PRESETS["balanced"].n_members == len(FIRST)


def test_a_linear_model_is_among_the_first_draws() -> None:
    depths = [len(recipe.hidden) for recipe in draw(6, 0, NAMES)]
    assert 0 in depths
    assert 1 in depths


NAMES = ("steps", "plain")


@pytest.mark.parametrize("n", [6, 9])
def test_plain_nets_alone_have_columns_without_pieces(n: int) -> None:
    encodings = encodings_for(table_of(11))
    assert encodings[SCALED].embedding == "none"
    recipes = draw(n, 0, (*NAMES, SCALED))
    plain = [recipe for recipe in recipes if recipe.encoding == SCALED]
    assert [recipe.number for recipe in plain] == [5]
    assert SCALED not in {recipe.encoding for recipe in draw(n, 0, NAMES)}


def test_a_table_of_few_numbers_has_no_plain_columns() -> None:
    assert SCALED not in encodings_for(table_of(9))
    assert SCALED in encodings_for(table_of(10))


def test_a_large_table_has_no_plain_columns() -> None:
    large = Values(np.zeros((LARGE, 11)), np.zeros((LARGE, 1), np.int32))
    assert SCALED not in encodings_for(large)


@pytest.mark.parametrize(
    ("n_rows", "n_classes", "expected"),
    [(1000, 10, 128), (999, 10, 64), (5000, 9, 64), (5000, 0, 64)],
)
def test_many_rows_of_many_classes_have_wide_layers(
    n_rows: int, n_classes: int, expected: int
) -> None:
    first, second, *_ = draw(9, 0, NAMES, n_rows, n_classes)
    assert first.hidden == (expected, expected)
    assert second.hidden == (64, 64)


def test_each_bag_selects_from_the_core_once_more() -> None:
    g = np.random.default_rng(0)
    y = g.normal(size=40)
    candidates = [y + g.normal(size=40) for _ in range(6)]
    core = [1, 4]

    def select(among: Any, **options: Any) -> Array:
        generator = np.random.default_rng(1)
        return bagged(among, partial(loss_of, y), 40, generator, **options).weights

    every = select(candidates)
    both = select(candidates, core=core)
    of_core = select([candidates[i] for i in core])
    expected = every / 2
    expected[core] += of_core / 2
    np.testing.assert_allclose(both, expected, atol=1e-12)
    assert not np.allclose(both, every)


def test_draws_are_those_of_their_seed() -> None:
    assert draw(20, 7, NAMES) == draw(20, 7, NAMES)
    for n in (1, 5, 13):
        assert draw(n, 3, NAMES) == draw(40, 3, NAMES)[:n]
    seeds = [recipe.seed for recipe in draw(20, 7, NAMES)]
    others = [recipe.seed for recipe in draw(20, 8, NAMES)]
    assert not np.equal(seeds, others).any()


def test_draws_begin_with_the_first_kinds() -> None:
    numbers = [recipe.number for recipe in draw(PRESETS["best"].n_members, 0, NAMES)]
    later = [10, 11, 12, 14, 17, 20, 21, 22, 24, 27, 30]
    assert numbers == [*FIRST, *later]


def test_draws_are_in_the_ranges_of_their_kind() -> None:
    for recipe in draw(40 * len(NET_KINDS), 0, NAMES):
        kind = NET_KINDS[recipe.number % len(NET_KINDS)]
        factor = 1 + recipe.number // len(NET_KINDS) % 2
        assert recipe.hidden == tuple(factor * n for n in kind.hidden)
        assert recipe.activation == kind.activation
        assert kind.rates[0] <= recipe.learning_rate <= kind.rates[1]
        assert kind.decays[0] <= recipe.weight_decay <= kind.decays[1]
        assert kind.dropouts[0] <= recipe.dropout <= kind.dropouts[1]
        assert kind.penalties[0] <= recipe.l1 <= kind.penalties[1]


def test_large_tables_have_fewer_nets() -> None:
    few = TabularMLPClassifier(preset="fast")
    assert [few._settings(n).n_members for n in (LARGE - 1, LARGE)] == [6, 2]
    asked = TabularMLPClassifier(n_members=7, preset="fast")
    assert asked._settings(LARGE).n_members == 7


def test_large_tables_have_larger_batches() -> None:
    sizes = [batch_size_of(n) for n in (LARGE - 1, LARGE, 200_000, 1_000_000)]
    assert sizes == [256, 256, 512, 1024]


def test_large_tables_have_two_draws_of_their_own() -> None:
    first, second = draw(2, 0, NAMES, LARGE)
    assert first.activation == "silu"
    assert first.dropout == 0
    assert second.l1 > 0
    assert draw(10, 0, NAMES, LARGE - 1) == draw(10, 0, NAMES)


def test_the_decay_of_weights_falls_with_the_number_of_rows() -> None:
    _, second = draw(2, 0, NAMES, LARGE)
    values, y = table(60)
    encoding = Encoding(n_bins=8).fit(values, y, "regression", np.random.default_rng(0))
    nets = net_settings(outputs_of("regression", y, None, 0, SQUARED), FEW)
    made: list[Any] = [
        new_net(second, encoding, nets, n) for n in (1_000_000, LARGE - 1)
    ]
    decays = [net.optimizer.weight_decay for net in made]
    assert decays[0] == pytest.approx(decays[1] * 100 / 977)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"hidden": (64, 64), "l1": 0.053}, "64x64 relu, piecewise linear, L1 0.053"),
        ({"hidden": (64,), "dropout": 0.19}, "64 relu, piecewise linear, dropout 0.19"),
        ({"hidden": ()}, "linear model, piecewise linear"),
    ],
)
def test_names_of_recipes_can_be_read_aloud(
    settings: dict[str, Any], name: str
) -> None:
    (recipe,) = draw(1, 0, ["piecewise linear"])
    plain = recipe._replace(activation="relu", dropout=0.0, l1=0.0)
    assert str(plain._replace(**settings)) == name


def candidates_of(
    seed: int, n: int = 7, n_rows: int = 60
) -> tuple[NDArray[Any], NDArray[Any]]:
    generator = np.random.default_rng(seed)
    y = generator.normal(size=n_rows)
    noise = generator.normal(size=(n, n_rows)) * generator.uniform(0.5, 1.5, (n, 1))
    return y, y + noise + generator.normal(size=(n, 1)) * 0.2


def caruana(y: NDArray[Any], candidates: NDArray[Any], n_rounds: int) -> list[int]:
    chosen: list[int] = []
    history: list[tuple[float, list[int]]] = []
    for _ in range(n_rounds):
        further = [[*chosen, i] for i in range(len(candidates))]
        losses = [loss_of(y, candidates[each].mean(axis=0)) for each in further]
        best = int(np.argmin(losses))
        chosen = further[best]
        history.append((losses[best], chosen))
    return min(history, key=lambda pair: pair[0])[1]


def test_of_rounds_that_are_equal_the_first_is_the_ensemble() -> None:
    """The second round adds the other candidate,
    as the first place that gives the least loss.
    """
    candidates = [np.full(3, 0.6), np.zeros(3)]
    selection = greedy(
        candidates, lambda mean, weight: float(abs(np.round(mean).mean())), n_rounds=2
    )
    assert selection.weights.tolist() == [0, 1]


def test_bags_spread_the_weights() -> None:
    y, candidates = candidates_of(6)
    one = greedy(candidates, partial(loss_of, y))
    many = bags(y, candidates)
    assert np.count_nonzero(many.weights) >= np.count_nonzero(one.weights)
    assert many.weights.sum() == pytest.approx(1)


def test_few_candidates_may_remain() -> None:
    y, candidates = candidates_of(6)
    many = bags(y, candidates)
    few = bags(y, candidates, max_members=2)
    kept = np.sort(np.argsort(-many.weights)[:2])
    np.testing.assert_array_equal(np.flatnonzero(few.weights), kept)
    expected = many.weights[kept] / many.weights[kept].sum()
    np.testing.assert_allclose(few.weights[kept], expected)
    assert few.loss == pytest.approx(loss_of(y, few.weights @ candidates))


def test_candidates_of_a_small_weight_are_left_out() -> None:
    y, candidates = candidates_of(2, n=9)
    every = bags(y, candidates).weights
    least = np.array([0.25] * 8 + [0.9])
    heavy = every * np.count_nonzero(every) >= least
    assert np.count_nonzero(every) > np.count_nonzero(heavy) > 1
    kept = bags(y, candidates, least=least)
    expected = np.where(heavy, every, 0) / every[heavy].sum()
    np.testing.assert_allclose(kept.weights, expected)
    assert kept.loss == pytest.approx(loss_of(y, kept.weights @ candidates))


@pytest.mark.parametrize("seed", range(8))
def test_it_is_caruanas_selection(seed: int) -> None:
    y, candidates = candidates_of(seed)
    result = greedy(candidates, partial(loss_of, y), n_rounds=25)
    chosen = caruana(y, candidates, 25)
    expected = np.bincount(chosen, minlength=len(candidates)) / len(chosen)
    np.testing.assert_allclose(result.weights, expected, rtol=0, atol=1e-15)
    assert result.loss == pytest.approx(
        loss_of(y, result.weights @ candidates), rel=1e-12
    )


def test_candidates_of_float32_are_added_in_float64() -> None:
    y, candidates = candidates_of(3)
    single = np.asarray(candidates, np.float32)
    loss = partial(loss_of, y)
    assert greedy(single, loss).loss == greedy(single.astype(float), loss).loss


def test_candidates_of_no_number_are_left_out() -> None:
    y, candidates = candidates_of(2, n=3)
    candidates[0] = np.nan
    result = greedy(candidates, partial(loss_of, y))
    assert result.weights[0] == 0
    assert np.isfinite(result.loss)
    none = greedy(candidates[:1], partial(loss_of, y))
    assert not none.weights.any()


def loss_of(
    y: NDArray[Any], mean: NDArray[Any], weight: NDArray[Any] | None = None
) -> float:
    return float(np.sqrt(np.average((y - mean) ** 2, weights=weight)))


def bags(
    y: NDArray[Any], candidates: NDArray[Any], seed: int = 0, **settings: Any
) -> Selection:
    loss = partial(loss_of, y)
    return bagged(candidates, loss, len(y), np.random.default_rng(seed), **settings)


def test_bags_have_the_best_alone() -> None:
    y, candidates = candidates_of(4)
    candidates[3] = y + 1e-6
    result = bags(y, candidates)
    np.testing.assert_array_equal(result.weights, np.eye(len(candidates))[3])
    assert result.loss == pytest.approx(1e-6)


def test_bags_are_those_of_their_seed() -> None:
    y, candidates = candidates_of(6)
    expected = bags(y, candidates).weights
    np.testing.assert_array_equal(bags(y, candidates).weights, expected)
    assert (bags(y, candidates, 1).weights != expected).any()


def test_bags_leave_out_rows_of_weight_0() -> None:
    y, candidates = candidates_of(6)
    weight = np.repeat([1.0, 0.0], 30)
    far = y.copy()
    far[30:] += 100
    result = bags(far, candidates, weight=weight)
    expected = bags(y, candidates, weight=weight).weights
    np.testing.assert_array_equal(result.weights, expected)
    assert result.loss < 2


@pytest.mark.parametrize("most", [1, 3, None])
def test_equal_weights_of_those_that_do_best_by_themselves(most: int | None) -> None:
    y, candidates = candidates_of(7, n=6)
    candidates[2] = np.nan
    weight = np.random.default_rng(1).uniform(size=len(y))
    loss = partial(loss_of, y)
    result = equal(candidates, loss, weight=weight, max_members=most)
    losses = [loss(one, weight) for one in candidates]
    losses[2] = np.inf
    best = np.argsort(losses)[: most or 5]
    expected = np.zeros(6)
    expected[best] = 1 / len(best)
    np.testing.assert_array_equal(result.weights, expected)
    assert result.loss == pytest.approx(loss(candidates[best].mean(axis=0), weight))
    assert not equal(candidates[2:3], loss).weights.any()


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_classes_are_dealt_out_evenly(n_folds: int) -> None:
    generator = np.random.default_rng(0)
    y = generator.choice(4, 203, p=[0.7, 0.2, 0.08, 0.02])
    folds = folds_of(y, n_folds, generator)
    for label in range(4):
        counts = np.bincount(folds[y == label], minlength=n_folds)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(folds, minlength=n_folds)) <= 1


def test_folds_of_numbers_are_alike() -> None:
    y = np.random.default_rng(1).normal(size=500)
    folds = folds_of(y, 5, np.random.default_rng(0))
    means = [y[folds == k].mean() for k in range(5)]
    assert np.ptp(means) < 0.1


def test_folds_of_equal_rows_are_drawn() -> None:
    y = np.zeros(100, np.int64)
    first = folds_of(y, 5, np.random.default_rng(0))
    second = folds_of(y, 5, np.random.default_rng(1))
    assert (first != second).any()


@pytest.fixture
def n_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    n = int(request.param)
    monkeypatch.setattr(pool, "n_threads_of", lambda given: n)
    return n


several = pytest.mark.parametrize("n_threads", [1, 2, 64], indirect=True)


@several
@pytest.mark.parametrize(
    "n_rows",
    [
        0,
        1,
        ROWS_OF_ONE_THREAD,
        ROWS_OF_ONE_THREAD + 1,
        CHUNK + 1,
        3 * CHUNK + 5,
        20 * CHUNK,
    ],
)
def test_every_row_is_in_one_strip(n_rows: int, n_threads: int) -> None:
    result = in_strips(n_rows, lambda rows: np.arange(n_rows)[rows])
    np.testing.assert_array_equal(np.concatenate(result), np.arange(n_rows))
    sizes = [len(each) for each in result]
    assert max(sizes) <= CHUNK
    assert max(sizes) - min(sizes) <= 1
    if n_rows > ROWS_OF_ONE_THREAD:
        # The bits of a row do not depend on the strip: all are predicted in short.
        assert min(sizes) >= ROWS_OF_ONE_THREAD // 2 > FEWEST_ROWS
        assert len(result) >= min(n_threads, n_rows // (ROWS_OF_ONE_THREAD // 2))
    if n_rows == 20 * CHUNK:
        assert len(result) in (20, 64)


@pytest.mark.parametrize("n_threads", [1], indirect=True)
def test_strips_of_wide_tables_are_shorter(n_threads: int) -> None:
    for n_columns, most in (
        (1, CHUNK),
        (MOST_STRIP_NUMBERS // 10_000, 10_000),
        (MOST_STRIP_NUMBERS, ROWS_OF_ONE_THREAD),
    ):
        sizes = in_strips(3 * CHUNK, lambda rows: rows.stop - rows.start, n_columns)
        assert 0.9 * most < max(sizes) <= most + 100


@pytest.mark.parametrize("n_threads", [2], indirect=True)
def test_threads_share_the_strips(n_threads: int) -> None:
    both = threading.Barrier(2, timeout=20)

    def meet(rows: slice) -> int:
        both.wait()
        return threading.get_ident()

    assert len({*in_strips(2 * CHUNK, meet)}) == 2


@pytest.mark.parametrize("n_threads", [2], indirect=True)
def test_warnings_of_strips_come_through(n_threads: int) -> None:
    def tell(rows: slice) -> Any:
        warn(f"from {rows.start}", UserWarning)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        in_strips(2 * CHUNK, tell)
    assert [str(each.message) for each in caught] == ["from 0", f"from {CHUNK}"]


@pytest.mark.parametrize("n_threads", [2], indirect=True)
def test_errors_of_strips_come_through(n_threads: int) -> None:
    def fail(rows: slice) -> Any:
        raise LookupError(f"at {rows.start}")

    with pytest.raises(LookupError, match="at "):
        in_strips(2 * CHUNK, fail)


def test_a_task_of_a_pool_uses_its_share_of_the_threads() -> None:
    seen: list[int] = []

    def task() -> None:
        in_strips(4 * CHUNK, lambda rows: seen.append(threading.get_ident()))

    Pool(1).run([Task(1, task)], "")
    assert len(seen) == 4
    assert len({*seen}) == 1


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.9])
def test_rows_held_out_have_all_classes_alike(
    fraction: float, rng: np.random.Generator
) -> None:
    y = rng.choice(4, 1000, p=[0.6, 0.3, 0.09, 0.01])
    y[0] = 4
    mask = held_out(y, fraction, rng, classes=True)
    assert abs(mask.mean() - fraction) < 0.002
    shares = np.bincount(y[mask], minlength=5) - fraction * np.bincount(y)
    assert (abs(shares) < 2).all()
    assert not mask[0]


def test_rows_held_out_have_all_parts_of_a_range(rng: np.random.Generator) -> None:
    y = rng.lognormal(size=500)
    mask = held_out(y, 0.2, rng, classes=False)
    # Of five rows that follow each other one is held out.
    ordered = mask[np.argsort(y, kind="stable")]
    assert {int(some.sum()) for some in ordered.reshape(-1, 5)} == {1}
    assert (mask != held_out(y, 0.2, rng, classes=False)).any()


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_few_rows_are_on_both_sides(
    n: int, fraction: float, rng: np.random.Generator
) -> None:
    mask = held_out(np.arange(n) % 2, fraction, rng, classes=True)
    assert 0 < mask.sum() < n


LABELS: list[tuple[Any, list[Any]]] = [
    (["b", "a", "b"], ["a", "b"]),
    (pd.Series([True, False, True]), [False, True]),
    (pd.Series(["x", "y", "x"], dtype="category"), ["x", "y"]),
    (np.array([3, 1, 3], np.int8), [1, 3]),
    (np.array([0.0, 1.0, 0.0]), [0, 1]),
]


@pytest.mark.parametrize(("y", "classes"), LABELS)
def test_places_of_labels_are_those_of_their_classes(
    y: Any, classes: list[Any]
) -> None:
    result, places = fit_arguments.classes_in(y, 3, "fit")
    assert result.tolist() == classes
    assert (result[places] == np.asarray(y)).all()
    assert (fit_arguments.places_of(y, result, 3, "fit") == places).all()


def test_weights_of_rows_are_shares_of_their_mean() -> None:
    result = fit_arguments.weights([0, 2, 6], 3, "fit")
    assert result is not None
    assert result.tolist() == [0, 0.5, 1.5]
    assert fit_arguments.weights(None, 3, "fit") is None


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", QUICK[True])
def test_quick_scores_of_numbers(
    name: str, weighted: bool, rng: np.random.Generator
) -> None:
    y, predictions = rng.normal(size=(2, 50))
    weight = rng.random(50) if weighted else None
    result = score_of(name, "regression", None, "fit")
    assert result is not None
    plain: Any = get_scorer(name)
    if weight is None:
        more = {}
    else:
        more = {"sample_weight": weight}
    expected = plain._sign * plain._score_func(y, predictions, **more)
    assert result(y, predictions, weight) == pytest.approx(expected)


@pytest.mark.parametrize(
    "name", ["accuracy", "roc_auc_ovr", "f1_macro", "neg_brier_score"]
)
def test_scores_of_classes_are_those_of_scikit_learn(
    name: str, rng: np.random.Generator
) -> None:
    classes = np.array(["a", "b", "c"])
    y = rng.integers(0, 3, 60)
    p = rng.dirichlet(np.ones(3), 60)
    result = score_of(name, "multiclass", classes, "fit")
    assert result is not None

    class Known(DummyClassifier):
        def predict_proba(self, X: Any) -> Any:
            return p

        def predict(self, X: Any) -> Any:
            return classes[p.argmax(axis=1)]

    known = Known().fit(np.zeros((60, 1)), classes[y])
    expected = get_scorer(name)(known, np.zeros((60, 1)), classes[y])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result(y, p, None) == pytest.approx(expected)


def test_a_function_is_a_score() -> None:
    def most(estimator: Any, X: Any, y: Any) -> float:
        return float((estimator.predict(X) == y).sum())

    result = score_of(most, "binary", np.array(["no", "yes"]), "fit")
    assert result is not None
    p = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert result(np.array([0, 1]), p, np.ones(2)) == 1.0


def test_the_score_of_the_loss_is_no_further_one() -> None:
    assert score_of("neg_log_loss", "binary", np.array([0, 1]), "fit") is None


THREE = Values(np.array([[1.0], [np.nan], [3.0]]), np.array([[0], [-1], [2]], np.int32))
ROWS_OF_THREE = TableRows(THREE, np.array([0, 2, 2]), np.array([1.0, 2.0, 1.0]))
# With other seeds the trees of scikit-learn 1.7 do not split these rows.
TREE = [("tree", DecisionTreeClassifier(random_state=2))]


def test_further_members_see_a_matrix() -> None:
    expected = [[1, 0], [np.nan, np.nan], [3, 2]]
    np.testing.assert_array_equal(extras.matrix(THREE), expected)


def test_further_members_may_lack_classes() -> None:
    rows = ROWS_OF_THREE
    (result,) = extras.fitted(TREE, rows, rows, n_classes=3)
    np.testing.assert_array_equal(result.predictions, np.eye(3)[rows.y])


def test_further_members_may_lack_classes_in_folds() -> None:
    rows = ROWS_OF_THREE
    of_rows = drawn(rows.y, 3, 0)
    (folds,) = extras.fitted(TREE, rows, None, n_classes=3, folds=of_rows)
    assert folds.predictions.shape == (3, 3)
    np.testing.assert_allclose(folds.predictions.sum(axis=1), 1)
