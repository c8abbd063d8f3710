"""How parameters lie in panels: nothing overlaps, and what threads share is apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlp.backends.cpu.plan.packing import (
    CLOSE,
    Packed,
    Spacing,
    holds_transposed,
    middle_of,
    numbers_packed,
    packed_layers,
    round_up,
)
from fastmlp.network.spec import Layout, make_layout

layouts = st.lists(st.integers(1, 300), min_size=2, max_size=5).map(
    lambda sizes: make_layout(tuple(sizes))
)
widths = st.sampled_from([2, 4, 8, 16])
spacings = st.builds(Spacing, st.sampled_from([0, 16, 32]), st.integers(0, 2))
for_every_layout = settings(derandomize=True, deadline=None, max_examples=100)


def places(layer: Packed) -> np.ndarray:
    """The row of each row of each panel, biases last, shape (panels, rows + 1) if held as W."""
    panels = range(layer.panels)
    rows = np.array([[layer.place(p, row) for row in range(layer.rows)] for p in panels])
    biases = [[p * layer.panel + layer.biases] for p in panels]
    return rows if layer.is_transposed else np.append(rows, biases, axis=1)


@given(st.integers(0, 10**6), st.integers(1, 100))
def test_rounding_up_is_the_next_multiple(n: int, unit: int) -> None:
    assert round_up(n, unit) % unit == 0
    assert n <= round_up(n, unit) < n + unit


@for_every_layout
@given(layouts, widths, spacings)
def test_no_two_rows_lie_in_one_place(layout: Layout, lanes: int, spacing: Spacing) -> None:
    for layer in packed_layers(layout, lanes, 5, train=True, spacing=spacing):
        where = [*places(layer).ravel(), *([layer.biases] if layer.is_transposed else [])]
        assert len(set(where)) == len(where)
        assert 0 <= min(where) <= max(where) < layer.size


@for_every_layout
@given(layouts, widths)
def test_without_room_there_is_padding_of_panels_alone(layout: Layout, lanes: int) -> None:
    for i, layer in enumerate(packed_layers(layout, lanes, 5, train=True)):
        n_in, n_out = layout.sizes[i : i + 2]
        assert (layer.gap, layer.middle) == (0, 0)
        if layer.is_transposed:
            assert layer.size == round_up(n_in, lanes) // lanes * n_out + 1
        else:
            assert layer.size == round_up(n_out, lanes) // lanes * (n_in + 1)
        if layer.copy_size:
            assert layer.copy_size * lanes == round_up(n_in, lanes) * round_up(n_out, lanes)


@for_every_layout
@given(layouts, widths, st.integers(1, 40), st.integers(0, 2))
def test_panels_and_halves_have_so_many_rows_between_them(
    layout: Layout, lanes: int, apart: int, split_layer: int
) -> None:
    layers = packed_layers(layout, lanes, 5, train=True, spacing=Spacing(apart, split_layer))
    for i, layer in enumerate(layers):
        assert layer.size - 1 - places(layer).max() >= apart
        if layer.is_transposed:
            continue
        rows = places(layer)
        assert (rows[1:, 0] - rows[:-1, -1] > apart).all()
        if i + 1 == split_layer:
            assert layer.middle == middle_of(layer.rows, lanes)
            assert (np.diff(rows[:, :-1]) == 1).sum() == layer.panels * (layer.rows - 1) - (
                layer.panels if 0 < layer.middle < layer.rows else 0
            )
        if layer.copy_size:
            assert layer.copy_panel == layer.panels * lanes + apart


@for_every_layout
@given(layouts, widths, spacings)
def test_all_layers_have_room_for_a_square_after_them(
    layout: Layout, lanes: int, spacing: Spacing
) -> None:
    layers = packed_layers(layout, lanes, 5, train=True, spacing=spacing)
    assert numbers_packed(layers, lanes) == (sum(it.size for it in layers) + lanes) * lanes


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_a_layer_of_few_outputs_and_more_inputs_is_held_transposed(lanes: int) -> None:
    transposed = {
        n for n in range(1, 40) for n_in in (n + 1, 100) if holds_transposed(n_in, n, lanes)
    }
    assert transposed == set(range(1, {2: 2, 4: 4, 8: 5, 16: 10}[lanes] + 1))
    assert not any(
        holds_transposed(n_in, n, lanes) for n in range(1, 40) for n_in in range(1, n + 1)
    )


@pytest.mark.parametrize(
    ("sizes", "copied"),
    [
        ((3, 2), []),
        ((3, 20), []),
        ((3, 20, 12), [1]),
        ((9, 3, 3), [0, 1]),
        ((9, 3, 2), [0]),
        ((40, 3, 1), [0]),
        ((40, 30, 1), []),
    ],
)
def test_layers_that_are_read_in_both_forms_have_a_copy(
    sizes: tuple[int, ...], copied: list[int]
) -> None:
    """All but a first one that is not transposed, and a last one that is."""
    layers = packed_layers(make_layout(sizes), 16, 5, train=True)
    assert [i for i, layer in enumerate(layers) if layer.copy_size] == copied


def test_one_row_needs_copies_of_turned_layers_alone() -> None:
    layers = packed_layers(make_layout((9, 3, 20, 12, 2)), 16, 1, train=True)
    assert [layer.copy_size > 0 for layer in layers] == [True, False, False, False]


def test_a_forward_pass_turns_nothing_and_copies_nothing() -> None:
    layers = packed_layers(make_layout((9, 3, 20, 2)), 16, 5, train=False, spacing=CLOSE)
    assert not any(layer.is_transposed or layer.copy_size for layer in layers)


@pytest.mark.parametrize("train", [False, True])
def test_a_first_layer_of_sparse_rows_lies_as_it_is_or_nowhere(train: bool) -> None:
    first, _ = packed_layers(make_layout((9, 3, 2)), 16, 5, train=train, sparse=True)
    assert not first.is_transposed
    assert first.rows == (9 if train else 0)
