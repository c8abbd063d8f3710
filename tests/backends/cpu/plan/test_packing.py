"""How parameters lie in panels: nothing overlaps, and what threads share is apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlp.backends.cpu.plan.packing import (
    CLOSE,
    Packed,
    Spacing,
    is_turned,
    middle_of,
    numbers_packed,
    packed_layers,
    round_up,
)
from fastmlp.network.parameter_layout import Layout, make_layout

layouts = st.lists(st.integers(1, 300), min_size=2, max_size=5).map(
    lambda sizes: make_layout(tuple(sizes))
)
widths = st.sampled_from([2, 4, 8, 16])
spacings = st.builds(Spacing, st.sampled_from([0, 16, 32]), st.integers(0, 2))
for_every_layout = settings(derandomize=True, deadline=None, max_examples=100)


def places(held: Packed) -> np.ndarray:
    """The row of each row of each panel, biases last, shape (panels, rows + 1) if not turned."""
    panels = range(held.panels)
    rows = np.array([[held.place(p, row) for row in range(held.rows)] for p in panels])
    biases = [[p * held.panel + held.biases] for p in panels]
    return rows if held.turned else np.append(rows, biases, axis=1)


@given(st.integers(0, 10**6), st.integers(1, 100))
def test_rounding_up_is_the_next_multiple(n: int, unit: int) -> None:
    assert round_up(n, unit) % unit == 0
    assert n <= round_up(n, unit) < n + unit


@for_every_layout
@given(layouts, widths, spacings)
def test_no_two_rows_lie_in_one_place(layout: Layout, lanes: int, spacing: Spacing) -> None:
    for held in packed_layers(layout, lanes, 5, train=True, spacing=spacing):
        where = [*places(held).ravel(), *([held.biases] if held.turned else [])]
        assert len(set(where)) == len(where)
        assert 0 <= min(where) <= max(where) < held.size


@for_every_layout
@given(layouts, widths)
def test_without_room_there_is_padding_of_panels_alone(layout: Layout, lanes: int) -> None:
    for i, held in enumerate(packed_layers(layout, lanes, 5, train=True)):
        n_in, n_out = layout.sizes[i : i + 2]
        assert (held.gap, held.middle) == (0, 0)
        if held.turned:
            assert held.size == round_up(n_in, lanes) // lanes * n_out + 1
        else:
            assert held.size == round_up(n_out, lanes) // lanes * (n_in + 1)
        if held.copy_size:
            assert held.copy_size * lanes == round_up(n_in, lanes) * round_up(n_out, lanes)


@for_every_layout
@given(layouts, widths, st.integers(1, 40), st.integers(0, 2))
def test_panels_and_halves_have_so_many_rows_between_them(
    layout: Layout, lanes: int, apart: int, halved: int
) -> None:
    layers = packed_layers(layout, lanes, 5, train=True, spacing=Spacing(apart, halved))
    for i, held in enumerate(layers):
        assert held.size - 1 - places(held).max() >= apart
        if held.turned:
            continue
        rows = places(held)
        assert (rows[1:, 0] - rows[:-1, -1] > apart).all()
        if i + 1 == halved:
            assert held.middle == middle_of(held.rows, lanes)
            assert (np.diff(rows[:, :-1]) == 1).sum() == held.panels * (held.rows - 1) - (
                held.panels if 0 < held.middle < held.rows else 0
            )
        if held.copy_size:
            assert held.copy_panel == held.panels * lanes + apart


@for_every_layout
@given(layouts, widths, spacings)
def test_all_layers_have_room_for_a_square_after_them(
    layout: Layout, lanes: int, spacing: Spacing
) -> None:
    layers = packed_layers(layout, lanes, 5, train=True, spacing=spacing)
    assert numbers_packed(layers, lanes) == (sum(it.size for it in layers) + lanes) * lanes


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_a_layer_of_few_outputs_and_more_inputs_is_turned(lanes: int) -> None:
    turned = {n for n in range(1, 40) for n_in in (n + 1, 100) if is_turned(n_in, n, lanes)}
    assert turned == set(range(1, {2: 2, 4: 4, 8: 5, 16: 10}[lanes] + 1))
    assert not any(is_turned(n_in, n, lanes) for n in range(1, 40) for n_in in range(1, n + 1))


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
    """All but a first one that is not turned, and a last one that is."""
    layers = packed_layers(make_layout(sizes), 16, 5, train=True)
    assert [i for i, held in enumerate(layers) if held.copy_size] == copied


def test_one_row_needs_copies_of_turned_layers_alone() -> None:
    layers = packed_layers(make_layout((9, 3, 20, 12, 2)), 16, 1, train=True)
    assert [held.copy_size > 0 for held in layers] == [True, False, False, False]


def test_a_forward_pass_turns_nothing_and_copies_nothing() -> None:
    layers = packed_layers(make_layout((9, 3, 20, 2)), 16, 5, train=False, spacing=CLOSE)
    assert not any(held.turned or held.copy_size for held in layers)


@pytest.mark.parametrize("train", [False, True])
def test_a_first_layer_of_sparse_rows_lies_as_it_is_or_nowhere(train: bool) -> None:
    first, _ = packed_layers(make_layout((9, 3, 2)), 16, 5, train=train, sparse=True)
    assert not first.turned
    assert first.rows == (9 if train else 0)
