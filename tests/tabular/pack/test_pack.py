"""Packs on small tables: bits, weights, folds, time, intervals, presets and drawn recipes."""

import os
import signal
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastmlp.tabular import TabularMLPClassifier
from fastmlp.tabular.encoding import Encoding
from fastmlp.tabular.outputs import SQUARED, outputs_of
from fastmlp.tabular.pack import Pack, train_pack
from fastmlp.tabular.pool import (
    FEWEST_ROWS,
    Limits,
    TableRows,
    batch_size_of,
    inputs_of,
    joined,
    net_settings,
    new_net,
    without_idle_units,
)
from fastmlp.tabular.schema import Values
from fastmlp.tabular.settings import KINDS, LARGE, PRESETS, PackSettings, draw, encodings_for
from fastmlp.validation.arrays import Expanded

Array = NDArray[Any]
FEW = PackSettings(n_members=4, max_members=3, epochs=15, patience=5)
ENCODINGS = {"pieces": Encoding(n_bins=8)}


def table(n: int, seed: int = 0) -> tuple[Values, Array]:
    generator = np.random.default_rng(seed)
    numbers = generator.normal(size=(n, 3))
    codes = generator.integers(-1, 3, (n, 2)).astype(np.int32)
    y = numbers[:, 0] * (codes[:, 0] == 1) + numbers[:, 1] + 0.3 * generator.normal(size=n)
    numbers[generator.random(n) < 0.05, 2] = np.nan
    return Values(numbers, codes), y


def parts(n: int, n_classes: int = 0) -> tuple[TableRows, TableRows]:
    values, y = table(n)
    if n_classes:
        y = np.searchsorted(np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]), y)
    whole, cut = TableRows(values, y), n * 2 // 3
    return whole.take(np.arange(cut)), whole.take(np.arange(cut, n))


def trained(first: TableRows, second: TableRows | None, **changed: Any) -> Pack:
    arguments = {"task": "regression", "n_classes": 1, "settings": FEW, "seed": 0, **changed}
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
    assert -pack.validation_score == pytest.approx(rmse(second.y, predictions), rel=1e-6)
    assert -pack.validation_score <= min(-member.score for member in pack.members) + 1e-9
    assert rmse(second.y, predictions) < 0.7 * second.y.std()


def test_bits_do_not_depend_on_threads() -> None:
    first, second = parts(200)
    one, two = (trained(first, second, n_threads=n) for n in (1, 2))
    assert (one.predict(second.values) == two.predict(second.values)).all()
    assert [member.recipe for member in one.members] == [member.recipe for member in two.members]
    other = trained(first, second, seed=1)
    assert (other.predict(second.values) != one.predict(second.values)).any()


def test_nets_take_rows_in_short_where_that_is_faster() -> None:
    values, y = table(FEWEST_ROWS)
    encoding, plain = Encoding(), Encoding(embedding="none")
    short = encoding.fit_expanded(values, y, "regression", np.random.default_rng(0))
    assert isinstance(inputs_of(encoding, values), Expanded)
    assert isinstance(inputs_of(encoding, values.part(slice(FEWEST_ROWS - 1))), np.ndarray)
    whole = joined(short[:40], short[40:])
    assert isinstance(whole, Expanded)
    np.testing.assert_allclose(whole.toarray(), encoding.transform(values), rtol=0, atol=2e-6)
    numbers = values._replace(codes=values.codes[:, :0])
    plain.fit(numbers, y, "regression", np.random.default_rng(0))
    assert isinstance(inputs_of(plain, numbers), np.ndarray)


@pytest.mark.parametrize(("weight", "bias", "left"), [(1e-4, -9, 5), (1e-4, 9, 8), (0.1, -9, 8)])
def test_units_that_no_prediction_depends_on_are_left_out(
    weight: float, bias: float, left: int
) -> None:
    rows, _ = parts(90)
    encoding = Encoding(n_bins=8).fit(rows.values, rows.y, "regression", 0)
    settings = net_settings(outputs_of("regression", rows.y, None, 0), FEW)
    recipe = draw(2, 0, ["pieces"])[1]._replace(hidden=(8, 8))
    net, X = new_net(recipe, encoding, settings, 60), inputs_of(encoding, rows.values)
    net.weights[1][:3] = weight
    net.biases[0][:3] = bias
    small = without_idle_units(net, recipe, encoding, settings, X)
    assert small.layer_sizes == (encoding.n_inputs, left, 8, 1)
    np.testing.assert_array_equal(small.predict(X), net.predict(X))
    assert without_idle_units(net, recipe._replace(l1=0.0), encoding, settings, X) is net


def test_many_rows_are_predicted_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = parts(200)
    pack = trained(first, second)
    whole = pack.predict(second.values)
    monkeypatch.setattr("fastmlp.tabular.pool.CHUNK", 7)
    np.testing.assert_allclose(pack.predict(second.values), whole, rtol=1e-5, atol=1e-6)


def test_bits_of_predictions_are_of_two_forms_of_rows() -> None:
    pack, (values, _) = trained(*parts(200)), table(3 * FEWEST_ROWS)
    few, whole = range(1, FEWEST_ROWS, 100), pack.predict(values)
    of_one = np.concatenate([pack.predict(values.part([i])) for i in range(FEWEST_ROWS)])
    np.testing.assert_allclose(of_one, whole[:FEWEST_ROWS], rtol=0, atol=1e-5)
    for n in few:
        np.testing.assert_array_equal(pack.predict(values.part(slice(n))), of_one[:n])
    for n in (FEWEST_ROWS, FEWEST_ROWS + 77, 2 * FEWEST_ROWS):
        np.testing.assert_array_equal(pack.predict(values.part(slice(n))), whole[:n])


@pytest.mark.parametrize("n", [6, 20])
@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_tiny_tables_in_folds(n: int, n_classes: int) -> None:
    first, _ = parts(n * 3 // 2, n_classes)
    task = {0: "regression", 2: "binary", 3: "multiclass"}[n_classes]
    settings = FEW._replace(cv=3)
    pack = trained(first, None, task=task, n_classes=max(n_classes, 1), settings=settings)
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


def test_weights_of_rows_count_in_training_and_in_selection() -> None:
    first, second = parts(300)
    shifted = first._replace(y=np.where(np.arange(200) < 100, first.y, first.y + 50))
    weight = np.where(np.arange(200) < 100, 1.0, 0.0)
    pack = trained(shifted._replace(weight=weight), second)
    assert rmse(second.y, pack.predict(second.values)) < second.y.std()
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


def test_predictions_of_numbers_stay_in_the_range_of_training() -> None:
    first, second = parts(200)
    pack = trained(first, second)
    far = second.values._replace(numbers=second.values.numbers * 1e3)
    predictions = pack.predict(far)
    assert first.y.min() <= predictions.min()
    assert predictions.max() <= first.y.max()


def test_a_score_that_is_no_number_is_refused() -> None:
    first, second = parts(60)
    nan = FEW._replace(n_members=1, score=lambda y, predictions, weight: float("nan"))
    with pytest.raises(ValueError, match="no number"):
        trained(first, second, settings=nan)


def test_nets_go_on_for_a_part_of_the_epochs_until_their_best() -> None:
    limits, stopped = Limits(100, 4), list[int]()
    for epoch in range(20, 40):
        report: Any = SimpleNamespace(
            epoch=epoch, history=SimpleNamespace(best_epoch=20), stop=partial(stopped.append, epoch)
        )
        limits.look(report)
    # 4 and 0.3 of 20 epochs after the best.
    assert stopped == list(range(30, 40))


@pytest.mark.parametrize("in_folds", [False, True])
def test_ctrl_c_leaves_the_nets_that_there_are_but_in_folds(
    in_folds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = parts(300)
    sent: list[int] = []

    def look(limits: Limits, report: Any) -> None:
        if report.epoch >= 2 and not sent:
            sent.append(report.epoch)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Limits, "look", look)
    long = FEW._replace(n_members=2, epochs=10**6)
    if in_folds:
        with pytest.warns(match="fit_many interrupted"), pytest.raises(KeyboardInterrupt):
            trained(first, None, settings=long)
    else:
        with pytest.warns(match="fit_many interrupted"):
            pack = trained(first, second, settings=long)
        assert 1 <= len(pack.members) <= 2
        assert np.isfinite(pack.predict(second.values)).all()
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("n_numeric", "expected"),
    [(0, [16]), (1, [16, 48]), (10, [16, 48]), (11, [16]), (1000, [8]), (4096, [2])],
)
def test_few_columns_have_many_pieces(n_numeric: int, expected: list[int]) -> None:
    assert [encoding.n_bins for encoding in encodings_for(n_numeric).values()] == expected


def test_thousands_of_columns_have_none() -> None:
    (encoding,) = encodings_for(5000).values()
    assert encoding.embedding == "none"


def test_the_smallest_preset_has_every_encoding_and_the_l1_penalty() -> None:
    names = tuple(encodings_for(5))
    recipes = draw(PRESETS["fast"].n_members, 0, names)
    assert {recipe.encoding for recipe in recipes} == {*names}
    assert any(recipe.l1 for recipe in recipes)
    assert PRESETS["balanced"].n_members == len(KINDS)


NAMES = ("steps", "plain")


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    assert draw(20, 7, NAMES) == draw(20, 7, NAMES)
    first, second = draw(20, 7, NAMES), draw(20, 8, NAMES)
    assert not any(a.seed == b.seed for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("n", [1, 5, 13])
def test_a_net_does_not_depend_on_how_many_are_drawn(n: int) -> None:
    assert draw(n, 3, NAMES) == draw(40, 3, NAMES)[:n]


def test_all_draws_are_within_their_kind() -> None:
    for recipe in draw(40 * len(KINDS), 0, NAMES):
        kind = KINDS[recipe.number % len(KINDS)]
        factor = 1 + recipe.number // len(KINDS) % 2
        assert recipe.hidden == tuple(factor * n for n in kind.hidden)
        assert recipe.activation == kind.activation
        assert kind.rates[0] <= recipe.learning_rate <= kind.rates[1]
        assert kind.decays[0] <= recipe.weight_decay <= kind.decays[1]
        assert kind.dropouts[0] <= recipe.dropout <= kind.dropouts[1]
        assert kind.penalties[0] <= recipe.l1 <= kind.penalties[1]


def test_large_tables_have_fewer_nets_and_larger_batches() -> None:
    few = TabularMLPClassifier(n_members=7, preset="fast")
    alone = TabularMLPClassifier(preset="fast")
    assert [alone._settings(n).n_members for n in (LARGE - 1, LARGE)] == [6, 2]
    assert few._settings(LARGE).n_members == 7
    assert [batch_size_of(n) for n in (LARGE - 1, LARGE, 200_000, 1_000_000)] == [
        256,
        256,
        512,
        1024,
    ]
    first, second = draw(2, 0, NAMES, LARGE)
    assert (first.activation, first.dropout, second.l1 > 0) == ("silu", 0, True)
    assert draw(10, 0, NAMES, LARGE - 1) == draw(10, 0, NAMES)
    values, y = table(60)
    encoding = Encoding(n_bins=8).fit(values, y, "regression", np.random.default_rng(0))
    nets = net_settings(outputs_of("regression", y, None, 0, SQUARED), FEW)
    made: list[Any] = [new_net(second, encoding, nets, n) for n in (1_000_000, LARGE - 1)]
    decays = [net.optimizer.weight_decay for net in made]
    assert decays[0] == pytest.approx(decays[1] * 100 / 977)


def test_a_linear_net_and_one_of_one_layer_are_among_the_first() -> None:
    depths = [len(recipe.hidden) for recipe in draw(6, 0, NAMES)]
    assert 0 in depths
    assert 1 in depths


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"hidden": (64, 64), "l1": 0.053}, "64x64 relu, piecewise linear, L1 0.053"),
        ({"hidden": (64,), "dropout": 0.19}, "64 relu, piecewise linear, dropout 0.19"),
        ({"hidden": ()}, "linear model, piecewise linear"),
    ],
)
def test_names_of_recipes_can_be_read_aloud(settings: dict[str, Any], name: str) -> None:
    (recipe,) = draw(1, 0, ["piecewise linear"])
    plain = recipe._replace(activation="relu", dropout=0.0, l1=0.0)
    assert str(plain._replace(**settings)) == name
