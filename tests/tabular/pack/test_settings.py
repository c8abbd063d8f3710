"""Presets and encodings of packs."""

import pytest

from fastmlp.tabular.pack.prior import KINDS, draw
from fastmlp.tabular.pack.settings import PRESETS, encodings_for


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
