"""Presets, encodings and drawn recipes of packs."""

from typing import Any

import numpy as np
import pytest

from fastmlp.tabular.pack.settings import KINDS, PRESETS, draw, encodings_for


@pytest.mark.parametrize(
    ("n_numeric", "expected"),
    [(0, [16]), (1, [16, 48]), (10, [16, 48]), (11, [16]), (1000, [8]), (4096, [2])],
)
def test_few_columns_have_many_pieces(n_numeric: int, expected: list[int]) -> None:
    assert [encoding.n_bins for encoding in encodings_for(n_numeric).values()] == expected


def test_thousands_of_columns_have_none() -> None:
    (encoding,) = encodings_for(5000).values()
    assert encoding.embedding == "none"


def test_presets_train_more_and_more() -> None:
    each = [PRESETS[name] for name in ("fast", "balanced", "best")]
    assert each == sorted(each, key=lambda settings: settings.n_members)
    assert all(settings.max_members <= settings.n_members for settings in each)


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


def test_rates_are_even_in_their_logarithm() -> None:
    kind = KINDS[0]
    drawn = [recipe.learning_rate for recipe in draw(300 * len(KINDS), 1, NAMES)[:: len(KINDS)]]
    places = np.log(np.array(drawn) / kind.rates[0]) / np.log(kind.rates[1] / kind.rates[0])
    assert abs(places.mean() - 0.5) < 0.07
    assert 0 <= places.min() < 0.05 < 0.95 < places.max() <= 1


def test_seeds_differ() -> None:
    assert len({recipe.seed for recipe in draw(500, 0, NAMES)}) == 500


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
