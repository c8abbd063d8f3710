"""Packs as plain data and arrays: what is kept, and content that is none."""

import copy
import json
from typing import Any

import numpy as np
import pytest

from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.pack import Pack, Part, Settings, train_pack
from fastmlp.tabular.pack.archive import from_state, state_of
from fastmlp.tabular.schema import Values

FEW = Settings(n_members=3, max_members=3, epochs=5, patience=5, cv=2)


def fitted(task: Any, n_classes: int) -> tuple[Pack, Values]:
    generator = np.random.default_rng(0)
    codes = generator.integers(-1, 3, (60, 1)).astype(np.int32)
    values = Values(generator.normal(size=(60, 3)), codes)
    y: Any = values.numbers[:, 0] + codes[:, 0]
    if task != "regression":
        y = np.digitize(y, np.quantile(y, np.arange(1, n_classes) / n_classes))
    arguments: Any = {"task": task, "n_classes": n_classes, "settings": FEW, "seed": 3}
    return train_pack(Part(values, y), None, encodings={"pieces": Encoding()}, **arguments), values


@pytest.mark.parametrize(("task", "n"), [("regression", 1), ("binary", 2), ("multiclass", 3)])
def test_all_of_it_is_kept(task: str, n: int) -> None:
    pack, values = fitted(task, n)
    header, arrays = state_of(pack)
    same = from_state(json.loads(json.dumps(header)), arrays)
    np.testing.assert_array_equal(same.predict(values), pack.predict(values))
    assert same.outputs == pack.outputs
    assert [one._replace(net=None) for one in same.members] == [  # type: ignore[arg-type]
        one._replace(net=None)  # type: ignore[arg-type]
        for one in pack.members
    ]
    assert same.validation_score == pack.validation_score
    np.testing.assert_array_equal(same.residuals, pack.residuals)
    assert state_of(same)[0] == header


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("outputs", "task"), "ranking"),
        (("outputs", "scale"), 0.0),
        (("outputs", "n_outputs"), 2),
        (("members", 0, "encoding"), 7),
        (("members", 0, "weight"), 1.5),
        (("members", 0, "net", "layer_sizes"), [3, 1]),
        (("encodings", 0, "scaling"), "logarithm"),
        (("validation_score",), None),
    ],
)
def test_content_that_is_none_is_refused(place: Any, wrong: Any) -> None:
    header, arrays = state_of(fitted("regression", 1)[0])
    told: Any = copy.deepcopy(header)
    inside = told
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = wrong
    with pytest.raises((TypeError, ValueError, LookupError)):
        from_state(told, arrays)


def test_residuals_must_ascend() -> None:
    header, arrays = state_of(fitted("regression", 1)[0])
    with pytest.raises(ValueError, match="ascend"):
        from_state(header, {**arrays, "residuals": arrays["residuals"][::-1].copy()})
