"""How a step is divided: by rows, by panels, by split-K."""

import numpy as np
import pytest
from nets import Net

from fastmlp.backends.cpu.plan.packing import CLOSE
from fastmlp.backends.cpu.plan.partition import Step, panels_pay, partition_of, split_layer_of
from fastmlp.network.spec import make_layout


def step_of(sizes: tuple[int, ...], rows: int) -> Step:
    return Step(make_layout(sizes), rows, np.dtype(np.float32), 16)


@pytest.mark.parametrize(
    ("sizes", "rows", "n_threads", "expected"),
    [
        ((784, 512, 512, 10), 128, 2, True),
        ((1024, 2048, 2048, 1000), 32, 2, True),
        ((784, 512, 512, 10), 128, 1, False),  # nobody to share with
        ((16, 64, 64, 2), 64, 2, False),  # few weights, many joins
        ((32, 16, 16, 10), 100_000, 2, False),  # one panel a layer
        ((4, 32, 16, 4), 10_000, 4, False),
    ],
)
def test_layers_are_shared_by_panels_where_weights_are_what_counts(
    sizes: tuple[int, ...], rows: int, n_threads: int, expected: bool
) -> None:
    assert panels_pay(step_of(sizes, rows), n_threads) is expected


@pytest.mark.parametrize(
    ("sizes", "rows", "expected"),
    [
        ((784, 100, 100, 10), 200, 1),  # many inputs, fewer sums
        ((784, 32, 10), 128, 1),
        ((32, 256, 256, 10), 256, 2),  # the second's weights are what counts
        ((64, 512, 64, 10), 128, 2),
        ((20, 100, 400, 10), 128, 0),  # sums would be more than inputs and weights
        ((784, 4), 1000, 0),  # held transposed
        ((16, 900), 1000, 0),  # one panel of inputs
        ((16, 64, 64, 2), 16, 2),
        ((16, 64, 64, 2), 8, 0),  # little to share
        ((784, 100, 100, 10), 7, 0),  # less than a strip
    ],
)
def test_the_layer_done_by_halves_is_the_one_that_saves_most(
    sizes: tuple[int, ...], rows: int, expected: int
) -> None:
    assert split_layer_of(step_of(sizes, rows)) == expected


def test_no_layer_is_done_by_halves_in_mixed_precision() -> None:
    sizes = (784, 512, 512, 10)
    network = Net(sizes, dtype="float32").network
    mixed = network._replace(compute_dtype="bfloat16")
    for each, split_layer in ((network, 2), (mixed, 0)):
        found = partition_of(each, 128, 2, train=True, sparse=False)
        assert found.split_layer == split_layer


def test_where_the_rest_is_wide_too_it_is_shared_by_panels() -> None:
    step = step_of((28, 300, 300, 300, 300, 300, 1), 100)
    assert split_layer_of(step) == 2
    assert panels_pay(step, 2, 2)


@pytest.mark.parametrize(("sizes", "rows"), [((8, 32, 32, 1), 32), ((16, 64, 64, 2), 8)])
def test_a_team_is_not_thought_of_on_steps_that_get_no_room_for_one(
    sizes: tuple[int, ...], rows: int
) -> None:
    found = partition_of(Net(sizes, dtype="float32").network, rows, 2, train=True, sparse=False)
    assert (found.n_threads, found.cost, found.spacing) == (1, None, CLOSE)
    twice = partition_of(Net(sizes, dtype="float32").network, 2 * rows, 2, train=True, sparse=False)
    assert twice.n_threads == 2
    assert twice.cost is not None
    assert twice.spacing != CLOSE
