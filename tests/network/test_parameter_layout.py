"""The flat vector of parameters: its views alias it, cover it, and do not overlap."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlp.network.spec import Layout, Views, bias_views, make_layout, weight_views

layouts = st.lists(st.integers(1, 40), min_size=2, max_size=6).map(
    lambda sizes: make_layout(tuple(sizes))
)
for_every_layout = settings(derandomize=True, deadline=None)


def views_of(layout: Layout, flat: np.ndarray) -> list[np.ndarray]:
    return [*weight_views(layout, flat), *bias_views(layout, flat)]


@for_every_layout
@given(layouts)
def test_views_cover_the_vector_once_weights_first_in_order(layout: Layout) -> None:
    flat = np.arange(layout.n_parameters)
    parts = [view.ravel() for view in views_of(layout, flat)]
    assert np.array_equal(np.concatenate(parts), flat)


@for_every_layout
@given(layouts)
def test_what_is_written_to_a_view_is_in_the_vector(layout: Layout) -> None:
    flat = np.zeros(layout.n_parameters, np.float32)
    for view in views_of(layout, flat):
        view += 1
    assert (flat == 1).all()


@for_every_layout
@given(layouts)
def test_views_are_c_contiguous_with_a_row_for_each_input(layout: Layout) -> None:
    flat = np.zeros(layout.n_parameters)
    pairs = list(zip(layout.sizes[:-1], layout.sizes[1:], strict=True))
    assert [view.shape for view in weight_views(layout, flat)] == pairs
    assert [view.shape for view in bias_views(layout, flat)] == [(n_out,) for _, n_out in pairs]
    assert all(view.flags.c_contiguous for view in views_of(layout, flat))


@for_every_layout
@given(layouts)
def test_counts_are_those_of_the_views(layout: Layout) -> None:
    flat = np.zeros(layout.n_parameters)
    assert sum(view.size for view in weight_views(layout, flat)) == layout.n_weights
    assert sum(view.size for view in views_of(layout, flat)) == layout.n_parameters
    assert len(layout.weights) == len(layout.biases) == layout.n_layers


def test_a_view_that_is_set_is_written_to() -> None:
    layout, flat = make_layout((2, 4, 1)), np.zeros(17)
    weights = Views(weight_views(layout, flat))
    weights[0] = np.ones((2, 4))
    weights[1] += 2
    weights[-1] *= 2
    assert flat.tolist() == [1.0] * 8 + [4.0] * 4 + [0.0] * 5
    weights[:] = [np.full((2, 4), 5), 6]
    assert flat.tolist() == [5.0] * 8 + [6.0] * 4 + [0.0] * 5
    with pytest.raises(ValueError, match=r"broadcast.*\(4,2\)"):
        weights[0] = np.ones((4, 2))
    with pytest.raises(ValueError, match="zip"):
        weights[:] = [0]


def test_a_view_that_is_set_to_other_shapes_says_both() -> None:
    flat = np.zeros(6, np.float32)
    weights = Views([flat.reshape(3, 2)], "MLP.weights")
    told = r"^MLP.weights\[0\] has the shape \(3, 2\), got numbers of shape \(2, 2\): could not"
    with pytest.raises(ValueError, match=told):
        weights[0] = np.ones((2, 2))
    with pytest.raises(
        ValueError, match=r"^MLP.weights\[0\] has the shape \(3, 2\).*: could not conv"
    ):
        weights[0] = "a"
    assert not flat.any()


@pytest.mark.parametrize("carry", [copy.deepcopy, lambda views: pickle.loads(pickle.dumps(views))])
def test_views_are_carried_as_a_plain_list(carry: Any) -> None:
    flat = np.arange(17)
    other = carry(Views(weight_views(make_layout((2, 4, 1)), flat)))
    assert type(other) is list
    assert np.array_equal(other[1], flat[8:12, None])


def test_offsets_of_a_worked_example() -> None:
    # W1 (2, 4), W2 (4, 1), then biases of 4 and 1.
    assert make_layout((2, 4, 1)) == Layout((2, 4, 1), (0, 8), (12, 16), 12, 17)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_views_keep_the_precision_of_the_vector(dtype: type) -> None:
    layout = make_layout((3, 2))
    assert {view.dtype.type for view in views_of(layout, np.zeros(8, dtype))} == {dtype}
