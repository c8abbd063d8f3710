"""The spec of a net: its vector of parameters, its text, and the keyword of mixed precision."""

import copy
import pickle
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlp import MLP, SGD, Loss
from fastmlp.network.spec import Layout, Views, bias_views, make_layout, paired_layers, weight_views

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
    message = r"^MLP.weights\[0\] has the shape \(3, 2\), got numbers of shape \(2, 2\): could not"
    with pytest.raises(ValueError, match=message):
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


def test_wide_layers_take_part() -> None:
    assert paired_layers(make_layout((32, 32, 31, 1000, 10))) == (True, False, False, False)
    assert paired_layers(make_layout((1000, 512, 32, 32)), sparse=True) == (False, True, True)


TOLD: Any = ("float32", "bfloat16", "float32")


def test_told_layers_take_part_however_narrow() -> None:
    layout = make_layout((3, 90, 20, 90))
    assert paired_layers(layout, ["bfloat16", "bfloat16", "float32"]) == (True, True, False)
    assert paired_layers(layout, ["bfloat16"] * 3, sparse=True) == (False, True, True)
    net = MLP((70, 80, 90, 2), compute_dtype=list(TOLD))
    assert net.compute_dtype == TOLD
    lines = net.summary().splitlines()
    assert tuple(line.split()[-1] for line in lines[1:4]) == TOLD


def test_nothing_is_rounded_if_no_layer_is_told() -> None:
    net = MLP((70, 80, 2), compute_dtype=["float32", "float32"], dtype="float64")
    assert net.compute_dtype is None


@pytest.mark.parametrize("name", ["predict", "predict_raw", "predict_batches"])
def test_predictions_take_it_too(name: str) -> None:
    x = np.ones((3, 2), np.float32)
    predict: Any = getattr(MLP((2, 1), seed=0), name)
    with pytest.raises(ValueError, match=f"MLP.{name}: unknown .* did you mean 'bfloat16'"):
        predict(x, compute_dtype="bf16")
    double: Any = getattr(MLP((2, 1), dtype="float64"), name)
    with pytest.raises(ValueError, match=f"MLP.{name}: compute_dtype='bfloat16' needs dtype="):
        double(x, compute_dtype="bfloat16")
    plain, mixed = (np.concatenate([*predict(x, compute_dtype=c)]) for c in (None, "bfloat16"))
    np.testing.assert_array_equal(mixed, plain)


def test_the_summary_says_which_layers_take_part() -> None:
    net = MLP((70, 80, 90, 2), compute_dtype="bfloat16")
    lines = net.summary().splitlines()
    assert lines[0].endswith("products in")
    assert [line.split()[-1] for line in lines[1:4]] == ["bfloat16", "bfloat16", "float32"]
    assert "compute_dtype='bfloat16'" in repr(net)
    assert net.compute_dtype == "bfloat16"


def cells(html: str) -> list[list[str]]:
    """Return the texts of a table; the HTML must be well-formed."""
    rows = ElementTree.fromstring(html).iter("tr")
    return [["".join(cell.itertext()) for cell in row] for row in rows]


def test_a_net_in_a_notebook_is_a_table_of_its_layers() -> None:
    net = MLP((64, 1000, 10), loss="cross_entropy", optimizer=SGD(0.5), l2=1e-4, dtype="float64")
    html = net._repr_html_()
    assert cells(html) == [
        ["layer", "inputs", "outputs", "activation", "parameters"],
        ["hidden", "64", "1,000", "relu", "65,000"],
        ["output", "1,000", "10", "softmax", "10,010"],
    ]
    texts = " ".join(ElementTree.fromstring(html).itertext())
    assert "75,010 parameters, float64, on cpu" in texts
    assert "loss cross_entropy; l2 0.0001; SGD(learning_rate=0.5); 0 steps done" in texts


def test_names_of_own_rules_are_escaped() -> None:
    def own(prediction: Any, target: Any) -> Any:
        return prediction - target, 1.0

    own.__name__ = "<script>"
    html = MLP((2, 1), loss=Loss(own))._repr_html_()
    assert "<script>" not in html
    assert "loss &lt;script&gt;" in html


def test_the_html_has_no_colours_of_its_own() -> None:
    html = MLP((2, 4, 1), seed=0)._repr_html_()
    assert "background" not in html
    assert not re.search(r"#[0-9a-f]{3}|rgb|(?<!-)color:", html)


def test_a_summary_is_shown_in_lines_without_print() -> None:
    summary = MLP((2, 4, 1), seed=0).summary()
    assert isinstance(summary, str)
    assert repr(summary) == str(summary)
    assert len(repr(summary).splitlines()) == 4
    assert repr(pickle.loads(pickle.dumps(summary))) == repr(copy.copy(summary)) == summary
