"""Layouts, views, summaries; settings by layer;
nets that rise or fall with some inputs.
"""

import copy
import pickle
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastmlp
from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adagrad,
    Adam,
    AdamW,
    FileError,
    Loss,
    Nadam,
    Quantile,
    RMSprop,
    fit_many,
)
from fastmlp.model import core_of
from fastmlp.network import layer_settings
from fastmlp.network.spec import (
    Layout,
    Views,
    bias_views,
    make_layout,
    paired_layers,
    weight_views,
)
from fastmlp.network.state import NetState
from fastmlp.rules.dropout import Dropout
from fastmlp.rules.optimizer_protocol import average_of
from fastmlp.serialization import files
from fastmlp.training.history import Report

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


def test_a_view_that_is_set_is_written_to_or_says_both_shapes() -> None:
    layout = make_layout((2, 4, 1))
    flat = np.zeros(17)
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


@pytest.mark.parametrize(
    "carry", [copy.deepcopy, lambda views: pickle.loads(pickle.dumps(views))]
)
def test_views_are_carried_as_a_plain_list(carry: Any) -> None:
    flat = np.arange(17)
    other = carry(Views(weight_views(make_layout((2, 4, 1)), flat)))
    assert type(other) is list
    assert np.array_equal(other[1], flat[8:12, None])


TOLD: Any = ("float32", "bfloat16", "float32")


def test_offsets_are_of_weights_first() -> None:
    # W1 (2, 4), W2 (4, 1), then biases of 4 and 1.
    assert make_layout((2, 4, 1)) == Layout((2, 4, 1), (0, 8), (12, 16), 12, 17)


def test_a_summary_is_a_text_that_copies_keep() -> None:
    summary = MLP((2, 4, 1), seed=0).summary()
    assert isinstance(summary, str)
    assert repr(summary) == str(summary)
    assert len(repr(summary).splitlines()) == 4
    assert repr(pickle.loads(pickle.dumps(summary))) == summary
    assert repr(copy.copy(summary)) == summary


def test_wide_layers_are_paired() -> None:
    assert paired_layers(make_layout((32, 32, 31, 1000, 10))) == (
        True,
        False,
        False,
        False,
    )
    assert paired_layers(make_layout((1000, 512, 32, 32)), sparse=True) == (
        False,
        True,
        True,
    )


def test_layers_that_are_told_are_paired() -> None:
    layout = make_layout((3, 90, 20, 90))
    assert paired_layers(layout, ["bfloat16", "bfloat16", "float32"]) == (
        True,
        True,
        False,
    )
    assert paired_layers(layout, ["bfloat16"] * 3, sparse=True) == (False, True, True)


def test_the_summary_shows_the_dtypes_that_layers_are_told() -> None:
    net = MLP((70, 80, 90, 2), compute_dtype=list(TOLD))
    assert net.compute_dtype == TOLD
    lines = net.summary().splitlines()
    assert tuple(line.split()[-1] for line in lines[1:4]) == TOLD


def test_float32_for_all_layers_is_no_compute_dtype() -> None:
    net = MLP((70, 80, 2), compute_dtype=["float32", "float32"], dtype="float64")
    assert net.compute_dtype is None


def test_the_summary_shows_the_layers_that_compute_in_bfloat16() -> None:
    net = MLP((70, 80, 90, 2), compute_dtype="bfloat16")
    lines = net.summary().splitlines()
    assert lines[0].endswith("products in")
    assert [line.split()[-1] for line in lines[1:4]] == [
        "bfloat16",
        "bfloat16",
        "float32",
    ]
    assert "compute_dtype='bfloat16'" in repr(net)
    assert net.compute_dtype == "bfloat16"


def cells(html: str) -> list[list[str]]:
    """Return the texts of a table; the HTML must be well-formed."""
    rows = ElementTree.fromstring(html).iter("tr")
    return [["".join(cell.itertext()) for cell in row] for row in rows]


def test_a_net_in_a_notebook_is_a_table_of_its_layers() -> None:
    net = MLP(
        (64, 1000, 10),
        loss="cross_entropy",
        optimizer=SGD(0.5),
        l2=1e-4,
        dtype="float64",
    )
    html = net._repr_html_()
    assert cells(html) == [
        ["layer", "inputs", "outputs", "activation", "parameters"],
        ["hidden", "64", "1,000", "relu", "65,000"],
        ["output", "1,000", "10", "softmax", "10,010"],
    ]
    texts = " ".join(ElementTree.fromstring(html).itertext())
    assert "75,010 parameters, float64, on cpu" in texts
    assert (
        "loss cross_entropy; l2 0.0001; SGD(learning_rate=0.5); 0 steps done" in texts
    )


def test_html_escapes_names() -> None:
    def own(prediction: Any, target: Any) -> Any:
        return prediction - target, 1.0

    own.__name__ = "<script>"
    html = MLP((2, 1), loss=Loss(own))._repr_html_()
    assert "<script>" not in html
    assert "loss &lt;script&gt;" in html


def test_html_has_no_colours() -> None:
    html = MLP((2, 4, 1), seed=0)._repr_html_()
    assert "background" not in html
    assert not re.search(r"#[0-9a-f]{3}|rgb|(?<!-)color:", html)


SIZES = (4, 8, 6, 2)
RATES: Any = [0.5, {"weights": 1.0, "biases": 0.1}, 1.0]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4))
Y = RNG.normal(size=(50, 2))


def net_of(**arguments: Any) -> MLP:
    settings = {
        "layer_rates": RATES,
        "optimizer": AdamW(0.01, decay_biases=False),
        "seed": 0,
    }
    net = MLP(SIZES, **{**settings, **arguments})
    net.trainable = [False, True, True]
    return net


def test_rates_are_read_as_they_were_given() -> None:
    assert MLP(SIZES).layer_rates == [1, 1, 1]
    assert (
        MLP(SIZES, layer_rates={"biases": 0.1}).layer_rates
        == [{"weights": 1, "biases": 0.1}] * 3
    )
    net = MLP(SIZES, layer_rates=RATES)
    assert net.layer_rates == RATES
    again = MLP(SIZES, layer_rates=net.layer_rates)
    assert again.layer_rates == RATES


def test_rates_that_are_set_are_read_again() -> None:
    net = MLP(SIZES, layer_rates=RATES)
    net.layer_rates = np.array([0.1, 1, 2])  # type: ignore[assignment]
    assert net.layer_rates == [0.1, 1, 2]
    net.layer_rates = None
    assert net.layer_rates == [1, 1, 1]


def test_rates_that_are_set_are_checked_like_those_of_the_constructor() -> None:
    net = MLP(SIZES, layer_rates=RATES)
    with pytest.raises(
        ValueError, match=r"layer_rates\[1\] must be a finite number of 0 or more"
    ):
        net.layer_rates = [1, -1, 1]
    assert net.layer_rates == RATES


def test_trainable_is_a_list_whose_items_may_be_set() -> None:
    net = MLP(SIZES)
    assert net.trainable == [True, True, True]
    net.trainable = [False, True, True]
    net.trainable[1] = np.False_  # type: ignore[call-overload]
    assert net.trainable == [False, False, True]
    net.trainable[:-1] = [True, False]
    assert net.trainable == [True, False, True]
    net.trainable = np.array([True, True, False])  # type: ignore[assignment]
    assert net.trainable == [True, True, False]
    net.trainable = True
    assert net.trainable == [True, True, True]
    assert type(pickle.loads(pickle.dumps(net.trainable))) is list


def test_the_summary_shows_rates() -> None:
    net = MLP(SIZES, seed=0, layer_rates=[0.5, {"biases": 0.1}, {"weights": 0}])
    assert "layer_rates=[0.5, {'weights': 1.0, 'biases': 0.1}" in repr(net)
    net.trainable[0] = False
    rates = [line.split("  ")[-1] for line in net.summary().splitlines()[:-1]]
    assert rates == [
        "learning rate",
        "frozen",
        "x 1, biases x 0.1",
        "frozen, biases x 1",
    ]
    last = net.summary().splitlines()[-1]
    assert last.startswith("108 parameters, 52 of them frozen, float32;")
    assert "frozen" in net._repr_html_()
    assert "learning rate" not in MLP(SIZES).summary()


def test_the_summary_shows_dropout() -> None:
    net = MLP(SIZES_DROPPED, dropout=0.2, input_noise=0.5)
    assert "dropout=0.2, input_noise=0.5, dtype" in repr(net)
    assert "; dropout 0.2; input_noise 0.5; Adam" in net.summary()
    assert "dropout=[0.2, 0.0], dtype" in repr(MLP(SIZES_DROPPED, dropout=[0.2, 0.0]))
    plain = MLP(SIZES_DROPPED)
    assert "dropout" not in repr(plain)
    assert "dropout" not in plain.summary()


def test_a_layer_that_is_frozen_for_a_time_is_in_no_hurry_after() -> None:
    """Steps are counted for all groups:
    the corrections of Adam's means are those of the net.
    """
    net = MLP(SIZES, optimizer=Adam(0.01), seed=0)
    net.trainable[0] = False
    net.fit(X, Y, epochs=2, batch_size=8)
    net.trainable = True
    before = net.weights[0].copy()
    net.fit(X, Y, epochs=1, batch_size=50)
    assert net.n_steps == 15
    assert 0 < abs(net.weights[0] - before).max() < 0.1


def test_a_copy_has_groups_of_its_own() -> None:
    net = net_of()
    again = copy.copy(net)
    assert again.layer_rates == RATES
    assert again.trainable == [False, True, True]
    again.trainable[0] = True
    assert net.trainable[0] is False


def test_the_gradient_of_a_frozen_net_is_whole() -> None:
    net = MLP(SIZES, seed=0, l2=0.1)
    frozen = MLP(SIZES, seed=0, l2=0.1, layer_rates=RATES)
    frozen.trainable = [False, False, True]
    value, gradient = net.loss_and_gradient(X, Y)
    same, slopes = frozen.loss_and_gradient(X, Y)
    assert value == same
    assert np.array_equal(gradient, slopes)


def test_a_callback_cannot_freeze() -> None:
    def freeze(report: Report) -> None:
        report.net.trainable = False

    with pytest.raises(RuntimeError, match=r"MLP\.trainable"):
        MLP(SIZES).fit(X, Y, epochs=1, callbacks=[freeze])


SIZES_DROPPED = (3, 5, 4, 1)


def test_nets_that_draw_nothing_have_no_key() -> None:
    assert MLP((3, 1), input_dropout=0.2, dropout=0.0)._network.dropout is not None
    for nothing in (
        {},
        {"dropout": 0},
        {"dropout": [0.0, 0]},
        {"input_noise": np.float32(0)},
    ):
        net = MLP(SIZES_DROPPED, seed=0, **nothing)
        assert net._network.dropout is None
        assert net._state.key is None


def test_dropout_changes_no_initial_weights() -> None:
    plain = MLP(SIZES_DROPPED, seed=1)
    other = MLP(SIZES_DROPPED, seed=1, dropout=0.1)
    assert plain.parameters.tobytes() == other.parameters.tobytes()
    generators = [net._state.generator for net in (plain, other)]
    first, second = (one.bit_generator.state for one in generators if one is not None)
    assert first == second


def test_the_key_is_the_seeds_own() -> None:
    def key(seed: Any) -> Any:
        return MLP(SIZES_DROPPED, dropout=0.1, seed=seed)._state.key

    assert key(1) == key(1) != key(2)
    sequence = np.random.SeedSequence(1)
    assert key(sequence) == key(sequence) == key(1)
    assert sequence.n_children_spawned == 0
    # Nets of one generator have keys of their own,
    # and a generator of the user's may have no seed.
    generator = np.random.default_rng(1)
    assert key(generator) == key(1) != key(generator)
    legacy = np.random.Generator(np.random.RandomState(1)._bit_generator)
    assert key(legacy) is not None
    assert key(None) != key(None)


def test_a_state_without_a_key_gets_one_and_keeps_it() -> None:
    layout = make_layout((1, 1))
    state = NetState(layout, np.zeros(2), Adam())
    assert state.kept_key() == state.kept_key() == pickle.loads(pickle.dumps(state)).key


def falling(steps: Any, total: int) -> Any:
    return 0.5 * (1 - steps / total)


def test_a_schedule_of_ones_own_is_kept_by_its_name(tmp_path: Path) -> None:
    MLP(SIZES_DROPPED, dropout=falling, seed=1).save(tmp_path / "net")
    loaded = MLP.load(tmp_path / "net", rules={"falling": falling})
    assert loaded._network.dropout == Dropout((falling, falling))
    with pytest.raises(FileError, match="the schedule 'falling' is a custom rule"):
        MLP.load(tmp_path / "net")
    with pytest.raises(ValueError, match="the rule '<lambda>' has no name"):
        MLP(SIZES_DROPPED, input_noise=lambda steps, total: 0.1 + 0 * steps).save(
            tmp_path / "net"
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("dropout", 2.0), ("dropout", [0.1]), ("input_noise", -1)),
        *(("input_dropout", {"name": "x"}), ("layer_rates", [1.0, -1.0, 1.0])),
    ],
)
def test_a_file_of_wrong_rates_or_keys_is_damaged(
    name: str, value: Any, tmp_path: Path
) -> None:
    MLP(SIZES_DROPPED, dropout=0.1, seed=1).save(
        tmp_path / "net", include_training_state=True
    )
    content = files.read(tmp_path / "net")
    changes: list[dict[str, Any]] = [{name: value}, {"key": [1, 2**32]}, {"key": 5}]
    for change in changes:
        wrong = content._replace(header={**content.header, **change})
        files.write(tmp_path / "wrong", wrong)
        with pytest.raises(FileError):
            MLP.load(tmp_path / "wrong")


EXACT = ("relu", "leaky_relu", "identity")
OPTIMIZERS = (
    SGD(0.05),
    SGD(0.05, momentum=0.9, nesterov=True),
    Adam(0.01),
    AdamW(0.01, weight_decay=0.1),
    Nadam(0.01),
    RMSprop(0.01),
    Adagrad(0.1),
    Adam(0.01, average=EMA(0.9)),
    SGD(0.05, average=SWA(start=0.5)),
    Adam(0.01, clipvalue=0.01),
    Adam(0.01, global_clipnorm=0.1),
)
LOSSES: tuple[Any, ...] = (
    "mse",
    "binary_cross_entropy",
    "poisson",
    Quantile([0.2, 0.8]),
    "gaussian_nll",
)


def outputs_of(loss: Any) -> int:
    if isinstance(loss, Quantile) or loss == "gaussian_nll":
        return 2
    return 1


def is_ordered(net: MLP, X: Any, signs: Any, n_points: int = 400) -> bool:
    grid = np.sort(np.random.default_rng(1).uniform(-4, 4, n_points)).astype(net.dtype)
    for j, sign in enumerate(signs):
        rows = np.repeat(X[:5], n_points, axis=0)
        rows[:, j] = np.tile(grid, 5)
        values = net.predict(rows)
        if core_of(net).engine.network.loss.link == "mean_std":
            values = values[:, ::2]
        steps = sign * np.diff(values.reshape(5, n_points, -1), axis=1)
        by_row = np.concatenate([net.predict(row[None]) for row in rows[:n_points:9]])
        alone = sign * np.diff(by_row[:, : values.shape[1]], axis=0)
        if sign and ((steps < 0).any() or (alone[:, 0] < 0).any()):
            return False
    return True


@pytest.mark.few(8)
@pytest.mark.parametrize("seed", range(24))
def test_drawn_nets_are_monotone_after_a_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def one_of(values: Any) -> Any:
        return values[rng.integers(len(values))]

    n = int(rng.integers(1, 6))
    signs = rng.integers(-1, 2, n).tolist()
    signs[0] = signs[0] or 1
    loss = one_of(LOSSES)
    hidden = rng.integers(1, 40, rng.integers(0, 4)).tolist()
    penalties = {"l2": one_of((0.0, 1e-3)), "l1": one_of((0.0, 1e-3))}
    net = MLP(
        (n, *hidden, outputs_of(loss)),
        activation=one_of(EXACT),
        loss=loss,
        optimizer=one_of(OPTIMIZERS),
        dtype=one_of(("float32", "float64")),
        monotonic_cst=signs,
        dropout=one_of((0.0, 0.2)) if hidden else 0.0,
        seed=seed,
        **penalties,
    )
    X = rng.uniform(-2, 2, (300, n)).astype(net.dtype)
    # The data ask for the contrary.
    y = -X @ np.array(signs) + rng.normal(size=300)
    if loss in ("binary_cross_entropy", "poisson"):
        y = (y > 0) * 1.0
    else:
        y = y
    assert is_ordered(net, X, signs)
    net.fit(X, y, epochs=3, batch_size=int(one_of((1, 32, 300))))
    assert is_ordered(net, X, signs)
    if not isinstance(average_of(net.optimizer), SWA):
        for _ in range(3):
            net.train_on_batch(X[:8], y[:8])
    value, gradient = net.loss_and_gradient(X, y)
    net.apply_gradient(gradient)
    assert np.isfinite(value)
    assert is_ordered(net, X, signs)


@pytest.mark.parametrize("seed", range(6))
def test_weights_that_are_written_have_their_signs_before_a_step(seed: int) -> None:
    """Weights of wrong signs count as 0 in a step, in the first and in later ones.

    Three nets take written weights, and one takes the same with the wrong ones as 0.
    """
    rng = np.random.default_rng(seed)
    sizes = (3, *rng.integers(1, 9, rng.integers(3)).tolist(), 1)
    signs = [[1, -1, 1], [1, 0, -1], [0, -1, 0]][seed % 3]
    options: dict[str, Any] = {
        "monotonic_cst": signs,
        "dtype": ("float32", "float64")[seed % 2],
    }
    by_batch, from_right, by_gradient, by_fit = (
        MLP(sizes, seed=seed, **options) for _ in range(4)
    )
    codes = layer_settings.codes_of(core_of(by_batch).engine.network)
    X = rng.normal(size=(20, 3)).astype(by_batch.dtype)
    y, output = rng.normal(size=(2, 20, 1)).astype(by_batch.dtype)
    for step in range(4):
        # The second step goes on from the first.
        if step != 1:
            written = rng.normal(size=len(codes)).astype(by_batch.dtype)
            for net in (by_batch, by_gradient, by_fit):
                net.parameters[:] = written
            from_right.parameters[:] = layer_settings.bounded(written, codes)
        by_batch.train_on_batch(X, y)
        from_right.train_on_batch(X, y)
        by_fit.fit(X, y, epochs=1, batch_size=20, shuffle=False)
        # The gradient that is given does not depend on weights; the step does.
        by_gradient.train_on_gradient(X, output)
        assert np.array_equal(by_batch.parameters, from_right.parameters)
        assert np.array_equal(by_batch.parameters, by_fit.parameters)
        after = by_gradient.parameters
        assert np.array_equal(layer_settings.bounded(after, codes), after)


@pytest.mark.parametrize("seed", range(12))
def test_no_step_of_random_weights_goes_the_wrong_way_in_any_path(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtype: Any = ("float32", "float64")[seed % 2]
    widths = rng.integers(1, 60, rng.integers(1, 4)) * (1, 1, 10)[seed % 3]
    sizes = (4, *widths.tolist(), 1)
    net = MLP(
        sizes, activation="relu" if seed % 4 else "leaky_relu", dtype=dtype, seed=0
    )
    signs = [1, -1, 0, int(rng.integers(-1, 2))]
    codes = layer_settings.codes_of(
        core_of(net).engine.network._replace(signs=tuple(signs))
    )
    net.parameters[:] = layer_settings.bounded(rng.normal(size=len(codes)), codes)
    bound = MLP(sizes, monotonic_cst=signs)
    assert (layer_settings.codes_of(core_of(bound).engine.network) == codes).all()
    n = 3000
    base = rng.normal(size=4)
    for j in np.flatnonzero(signs):
        rows = np.repeat(base[None], n, axis=0)
        # Half of the steps are of one unit in the last place.
        near = rng.uniform(0.5, 1) + np.arange(n // 2) * np.finfo(dtype).eps
        rows[:, j] = np.sort(np.concatenate([near, rng.normal(size=n - n // 2)]))
        rows = rows.astype(dtype)
        paths = [
            net.predict(rows),
            np.concatenate([net.predict(part) for part in rows[:70, None]]),
        ]
        paths.append(
            np.concatenate([net.predict(rows[i : i + 7]) for i in range(0, 700, 7)])
        )
        if dtype == "float32" and min(sizes[1:-1]) >= 32:
            paths.append(net.predict(rows, compute_dtype="bfloat16"))
        for values in paths:
            assert (signs[j] * np.diff(values[:, 0]) >= 0).all()


def test_the_signs_are_kept_by_each_step_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(64, 3))
    y = rng.normal(size=64)
    signs = [1, 0, -1]
    net = MLP(
        (3, 9, 7, 1), monotonic_cst=signs, optimizer=SGD(0.3), dtype="float64", seed=0
    )
    free = MLP((3, 9, 7, 1), optimizer=SGD(0.3), dtype="float64", seed=0)
    free.parameters[:] = net.parameters
    codes = layer_settings.codes_of(core_of(net).engine.network)
    for _ in range(20):
        net.fit(X, y, epochs=1, batch_size=64)
        free.fit(X, y, epochs=1, batch_size=64)
        free.parameters[:] = layer_settings.bounded(free.parameters, codes)
        np.testing.assert_array_equal(net.parameters, free.parameters)
    assert (free.parameters == 0).any()


def test_units_have_directions() -> None:
    layers = layer_settings.directions((3, 4, 8, 2), [1, 0, -1])
    assert [layer.tolist() for layer in layers[1:3]] == [
        [0, 0, 1, -1],
        [0, 0, 1, -1, 1, -1, 1, -1],
    ]


def test_parameters_have_the_codes_of_their_units() -> None:
    net = MLP((3, 4, 8, 2), monotonic_cst=[1, 0, -1], loss="gaussian_nll", seed=0)
    codes = MLP((3, 4, 8, 2), seed=0)
    codes.parameters[:] = layer_settings.codes_of(core_of(net).engine.network)
    first, second, third = codes.weights
    assert first.tolist() == [[2, 2, 1, -1], [0, 0, 0, 0], [2, 2, -1, 1]]
    assert (second[2:, :2] == 2).all()
    assert (second[:2] == 0).all()
    assert (third[:, 1] == 0).all()
    assert third[:, 0].tolist() == [0, 0, 1, -1, 1, -1, 1, -1]
    assert not any(bias.any() for bias in codes.biases)


def test_no_unit_is_free_where_every_input_is_constrained() -> None:
    layers = layer_settings.directions((2, 5, 5, 1), (1, -1))
    assert all(layer.all() for layer in layers)


def test_zeros_are_no_constraint() -> None:
    X = np.random.default_rng(0).normal(size=(50, 2))
    free, zeros = (MLP((2, 5, 1), monotonic_cst=cst, seed=0) for cst in (None, [0, 0]))
    for net in (free, zeros):
        net.fit(X, X[:, 0], epochs=3)
    assert zeros.monotonic_cst is None
    np.testing.assert_array_equal(zeros.parameters, free.parameters)


MONOTONIC_X = np.random.default_rng(0).normal(size=(400, 3)).astype("float32")
MONOTONIC_Y = -MONOTONIC_X[:, 0] + MONOTONIC_X[:, 1] ** 2


def monotonic(**settings: Any) -> MLP:
    return MLP((3, 64, 32, 1), monotonic_cst=[1, 0, -1], seed=3, **settings)


def test_threads_keep_the_bits_of_monotonic_nets() -> None:
    first = monotonic(n_threads=1)
    second = monotonic(n_threads=2)
    first.fit(MONOTONIC_X, MONOTONIC_Y, epochs=4)
    second.fit(MONOTONIC_X, MONOTONIC_Y, epochs=4)
    np.testing.assert_array_equal(first.parameters, second.parameters)


def test_packs_keep_the_bits_of_monotonic_nets() -> None:
    first = monotonic(n_threads=1)
    packed = monotonic()
    first.fit(MONOTONIC_X, MONOTONIC_Y, epochs=4)
    nets = [packed, MLP((3, 64, 32, 1), seed=1)]
    fit_many(nets, MONOTONIC_X, MONOTONIC_Y, epochs=4)
    np.testing.assert_array_equal(first.parameters, packed.parameters)


@pytest.mark.parametrize("by_file", [False, True])
def test_a_carried_net_stays_monotonic(by_file: bool, tmp_path: Path) -> None:
    first = monotonic(n_threads=1)
    first.fit(MONOTONIC_X, MONOTONIC_Y, epochs=4)
    if by_file:
        fastmlp.save(first, tmp_path / "net.safetensors")
        other = fastmlp.load(tmp_path / "net.safetensors")
    else:
        other = copy.deepcopy(first)
    assert other.monotonic_cst == (1, 0, -1)
    other.fit(MONOTONIC_X, -MONOTONIC_Y, epochs=2)
    assert is_ordered(other, MONOTONIC_X, [1, 0, -1])


def test_a_monotonic_net_says_so() -> None:
    assert "monotonic_cst=(1, 0, -1)" in repr(monotonic())


def test_an_estimator_of_a_monotonic_net_is_monotonic() -> None:
    bridged = monotonic().as_estimator(random_state=0, epochs=2)
    bridged.fit(MONOTONIC_X, MONOTONIC_Y)
    assert is_ordered(bridged.net_, MONOTONIC_X, [1, 0, -1])
