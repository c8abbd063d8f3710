"""Nets side by side: to the bit those that are stepped alone,
whatever happens between.
"""

import copy
import itertools
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from conditions import always_led
from fitting import in_threads, state_of

from fastmlp import EMA, MLP, SGD, Adam, Cosine, NetGroup, ScheduleFreeAdamW, net_group
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.optimizer_protocol import is_averaged
from fastmlp.training import steps

OPTIMIZERS: list[Any] = [
    Adam(0.01),
    SGD(0.01, momentum=0.9),
    Adam(Cosine(0.05, n_steps=7)),
    Adam(0.01, clipnorm=0.05),
    Adam(0.01, average=EMA(0.8)),
    ScheduleFreeAdamW(0.01),
    Adam(lambda steps, _: 0.01 / (1 + steps)),
]
SIZES = [1, 2, 5, 8, 33]


def drawn_nets(rng: np.random.Generator) -> list[MLP]:
    nets = []
    same = rng.random() < 0.6
    for seed in range(rng.integers(1, 6)):
        hidden = [(), (7, 4), (40, 33), (20,)][rng.integers(4)]
        settings = dict[str, Any]()
        if rng.random() < 0.3:
            settings["l2"] = 0.1
        if hidden and rng.random() < 0.3:
            settings["dropout"] = 0.3
        if hidden and rng.random() < 0.3:
            settings["layer_rates"] = [0.0] + [1.0] * len(hidden)
        if same:
            n_known = 2
            settings["dtype"] = "float32"
        else:
            n_known = len(OPTIMIZERS)
            settings["dtype"] = ["float32", "float64"][rng.integers(2)]
        settings["optimizer"] = OPTIMIZERS[rng.integers(n_known)]
        settings["activation"] = ["relu", "tanh"][rng.integers(2)]
        nets.append(MLP((3, *hidden, 2), seed=seed, **settings))
    return nets


def drawn_rows(
    rng: np.random.Generator, n_nets: int
) -> tuple[dict[str, Any], list[Any]]:
    """Arguments, and those of each net alone."""
    n = rng.choice(SIZES)
    leading = [(n_nets,) if rng.random() < 0.3 else () for _ in range(3)]
    dtype = ["float32", "float32", "float64", "int64"][rng.integers(4)]
    X, y = (
        rng.normal(size=(*axes, n, k)) for axes, k in zip(leading, (3, 2), strict=False)
    )
    arguments: dict[str, Any] = {"X": X.astype(dtype), "y": y.astype("float32")}
    arguments["sample_weight"] = None
    if rng.random() < 0.3:
        weight = rng.uniform(0.1, 2, (*leading[2], n))
        arguments["sample_weight"] = weight.astype("float32")
    each: list[list[Any]] = [[], [], []]
    for parts, axes, it in zip(each, leading, arguments.values(), strict=True):
        parts += [it] * n_nets if it is None or not axes else list(it)
    alone = [list(parts) for parts in zip(*each, strict=True)]
    if rng.random() < 0.3:
        if rng.random() < 0.5:
            sizes = [4] * n_nets
        else:
            sizes = rng.integers(1, 6, n_nets).tolist()
        rows: list[Any] = [rng.integers(n, size=size) for size in sizes]
        if rng.random() < 0.3:
            rows = [np.bincount(index, minlength=n) > 0 for index in rows]
        alone = [
            [it if it is None else it[k] for it in part]
            for part, k in zip(alone, rows, strict=True)
        ]
        if len({len(k) for k in rows}) == 1:
            arguments["rows"] = np.stack(rows)
        else:
            arguments["rows"] = rows
    return arguments, alone


def plain_group(n_nets: int = 3, **settings: Any) -> tuple[NetGroup, Any, Any]:
    nets = [MLP((2, 5, 1), seed=seed, **settings) for seed in range(n_nets)]
    X = np.ones((4, 2), np.float32)
    y = np.ones((4, 1), np.float32)
    return NetGroup(nets), X, y


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:NetGroup.*the loss is", "ignore:MLP.*the loss is")
@pytest.mark.parametrize("seed", range(3 if INTERPRETED else 10))
def test_a_group_has_the_bits_of_its_nets_alone(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    if seed % 2:  # calls of one net or two, on a team
        monkeypatch.setattr(net_group, "MOST_PRODUCTS_OF_CALL", 40_000)
        always_led(monkeypatch)
    nets = drawn_nets(rng)
    twins = [copy.copy(net) for net in nets]
    groups = [NetGroup(nets), NetGroup(nets[::-1])]
    for step in range(12):
        i = int(rng.integers(len(nets)))
        change = rng.random()
        for net in (nets[i], twins[i]):
            if change < 0.1:
                net.parameters[:] *= 0.9
            elif change < 0.2:
                ones = np.ones((2, 3), net.dtype)
                net.train_on_batch(ones, ones[:, :2].copy())
            elif change < 0.3 and not is_averaged(net.optimizer):
                net.optimizer = Adam(0.02)
            elif change < 0.4 and len(net.layer_sizes) > 2:
                net.trainable = [step % 2 == 0] + [True] * (len(net.layer_sizes) - 2)
        arguments, alone = drawn_rows(rng, len(nets))
        if rng.random() < 0.8 or "rows" in arguments:
            group = groups[0]
        else:
            group = groups[1]
        if rng.random() < 0.2 and "rows" not in arguments:
            n_rows = len(alone[0][0])
            gradient = rng.normal(size=(len(nets), n_rows, 2)).astype(np.float32)
            groups[0].train_on_gradient(arguments["X"], gradient)
            for twin, parts, slopes in zip(twins, alone, gradient, strict=True):
                twin.train_on_gradient(parts[0], slopes)
        elif group is groups[0]:
            losses = group.train_on_batch(**arguments)
            expected = [
                twin.train_on_batch(*it) for twin, it in zip(twins, alone, strict=True)
            ]
            np.testing.assert_array_equal(losses, expected)
        else:
            X, y = (np.stack([part[k] for part in alone[::-1]]) for k in range(2))
            losses = group.train_on_batch(X, y)
            for twin, xs, ys in zip(twins[::-1], X, y, strict=True):
                twin.train_on_batch(xs, ys)
        assert [state_of(net) for net in nets] == [state_of(twin) for twin in twins]
        for name in ("predict", "predict_raw"):
            found = getattr(groups[0], name)(arguments["X"])
            for k, twin in enumerate(twins):
                if arguments["X"].ndim == 3:
                    own = arguments["X"][k]
                else:
                    own = arguments["X"]
                np.testing.assert_array_equal(found[k], getattr(twin, name)(own))


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "float32"])
def test_labels_have_the_steps_of_nets_alone(dtype: str) -> None:
    rng = np.random.default_rng(0)
    nets = [MLP((3, 6, 3), loss="cross_entropy", seed=seed) for seed in range(3)]
    twins = [copy.copy(net) for net in nets]
    group = NetGroup(nets)
    for axes in [(), (3,), (), (3,)] * 2:
        X = rng.normal(size=(5, 3)).astype(np.float32)
        labels = rng.integers(3, size=(*axes, 5))
        y: Any
        if dtype == "float32":
            y = np.eye(3, dtype="f4")[labels]
        else:
            y = labels.astype(dtype)
        losses = group.train_on_batch(X, y)
        for i, twin in enumerate(twins):
            assert losses[i] == twin.train_on_batch(X, y[i] if axes else y)


def test_calls_of_the_shapes_of_the_last_one_look_at_their_arrays() -> None:
    group, X, y = plain_group()
    nets = copy.deepcopy(group.nets)
    rows = np.array([[0, 1], [3, 3], [2, 0]])
    weights = np.arange(1, 9, dtype="f4").reshape(4, 2)
    X = X * weights
    y = y * weights[:, :1]
    calls: list[Any] = [
        (X, y, weights[:, 0].copy()),
        (X, y, weights[:, 0]),
        (np.asfortranarray(X), y, weights.ravel()[::-2].astype("f8")),
        (X.tolist(), y, weights[:, 1]),
        (X, y, None, rows),
        (X[:3], y[:3].tolist(), None, rows % 3),
        (X[:3], y[:3], None, rows.astype("u1") % 3),
        (X[:3], y[:3], weights[:3, 1], rows.astype("i4") % 3),
        (X[:3], y[:3], weights[:3, 1], np.eye(3, dtype=bool)[[0, 2, 1]]),
        (X[:3], y[:3], weights[:3, 1], rows[:, ::-1] % 3),
    ]
    for arguments in calls:
        losses = group.train_on_batch(*arguments)
        for i, net in enumerate(nets):
            part = [np.asarray(it) for it in arguments[:3] if it is not None]
            if len(arguments) > 3:
                part = [it[arguments[3][i]] for it in part]
            assert losses[i] == net.train_on_batch(*part)
    for wrong in (rows, rows - 1):
        with pytest.raises(ValueError, match=r"rows must be from 0 to 2, got (3|-1)"):
            group.train_on_batch(X[:3], y[:3], None, wrong)


def test_losses_of_a_step_stay_when_another_follows() -> None:
    group, X, y = plain_group()
    group.train_on_batch(X, y)
    losses = group.train_on_batch(X, y)
    kept = losses.copy()
    group.train_on_batch(X, y)
    np.testing.assert_array_equal(losses, kept)


def test_predictions_are_written_to_out() -> None:
    group, X, _ = plain_group()
    out = np.empty((3, 4, 1), np.float32)
    assert group.predict(X, out=out) is out
    for n in (1, 4, 4000):
        rows = np.ones((n, 2), np.float32)
        np.testing.assert_array_equal(
            group.predict(rows), [it.predict(rows) for it in group.nets]
        )
    with pytest.raises(
        ValueError, match=r"NetGroup.predict: out must be a writeable C-contiguous"
    ):
        group.predict(X, out=out[:2])
    with pytest.raises(ValueError, match="X must be finite"):
        group.predict(np.full((4, 2), np.nan, np.float32))


@pytest.mark.parametrize("n_before", [0, 2])
def test_invalid_rows_leave_all_nets_as_they_are(n_before: int) -> None:
    group, X, y = plain_group()
    for _ in range(n_before):
        group.train_on_batch(X, y)
    before = [state_of(net) for net in group.nets]
    rows = np.stack([X, X, X])
    rows[2, 3, 1] = np.nan
    wrong: list[tuple[Any, str]] = [
        ((rows, y), r"NetGroup.train_on_batch: nets\[2\]: X .*nan|nets\[2\].*finite"),
        ((rows[:2], y), "X of shape .2, 4, 2. has a leading axis, which must be 3"),
        ((X, np.ones((2, 4, 1))), "y of shape .* must be 3, one for each net"),
        ((X[:, :1], y), r"nets\[0\]"),
        ((X, y, None, [[0], [1]]), "rows must be indices or masks for each of 3 nets"),
        ((X, y, None, [[0], [1], [4]]), r"nets\[2\]: rows must be from 0 to 3, got 4"),
        ((X, y[:3], None, [[0]] * 3), "y must have 4 rows, as X"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            group.train_on_batch(*arguments)
        assert [state_of(net) for net in group.nets] == before


@pytest.mark.parametrize("n_before", [0, 2])
def test_a_net_that_diverges_is_named_and_the_others_go_on(n_before: int) -> None:
    group, X, y = plain_group(optimizer=SGD(0.1))
    twins = [copy.copy(net) for net in group.nets]
    for _ in range(n_before):
        group.train_on_batch(X, y)
    group.nets[1].parameters[:] = 1e30
    with pytest.warns(
        RuntimeWarning, match=r"NetGroup.train_on_batch: nets\[1\]: the loss is inf"
    ):
        losses = group.train_on_batch(X, y)
    assert np.isfinite(losses).tolist() == [True, False, True]
    assert [net.n_steps - n_before for net in group.nets] == [1, 0, 1]
    assert (group.nets[1].parameters == np.float32(1e30)).all()
    for _ in range(n_before + 1):
        twins[2].train_on_batch(X, y)
    assert state_of(group.nets[2]) == state_of(twins[2])


def test_a_net_that_another_fit_trains_is_refused() -> None:
    group, X, y = plain_group()
    group.train_on_batch(X, y)
    raised: list[str] = []

    def callback(report: Any) -> None:
        with pytest.raises(
            RuntimeError, match=r"nets\[2\]: a fit of this net is running"
        ) as error:
            group.train_on_batch(X, y)
        raised.append(str(error.value))

    group.nets[2].fit(X, y, epochs=1, callbacks=callback)
    assert len(raised) == 1
    group.train_on_batch(X, y)


def counted_loops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that has the name of each step which was not taken by one call."""
    names = list[str]()
    step = steps.Steps._step

    def counted(self: Any, kind: Any, data: Any, who: str) -> float:
        names.append(who)
        return step(self, kind, data, who)

    monkeypatch.setattr(steps.Steps, "_step", counted)
    return names


def test_a_step_after_the_first_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    names = counted_loops(monkeypatch)
    group, X, y = plain_group()
    for i in range(4):
        group.train_on_batch(X, y)
        group.nets[0].train_on_batch(X, y)
        group.nets[1].optimizer = Adam(0.002 * (i + 1))
        group.nets[2].parameters[:] *= 0.9
    assert len(names) == 3


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_nets_too_large_for_a_shared_call_take_a_call_each(
    loss: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = counted_loops(monkeypatch)
    monkeypatch.setattr(net_group, "MOST_PRODUCTS_OF_CALL", 0)
    nets = [MLP((3, 5, 2), loss=loss, seed=seed) for seed in range(2)]
    twins = [copy.copy(net) for net in nets]
    group = NetGroup(nets)
    X = np.eye(4, 3, dtype=np.float32)
    if loss == "mse":
        y = X[:, :2]
    else:
        y = np.array([0, 1, 1, 0])
    for _ in range(4):
        group.train_on_batch(X, y)
        group.train_on_gradient(X, X[:, :2])
    assert len(names) == 2 * len(nets)
    for net, twin in zip(nets, twins, strict=True):
        for _ in range(4):
            twin.train_on_batch(X, y)
            twin.train_on_gradient(X, X[:, :2])
        assert state_of(net) == state_of(twin)


def test_targets_that_the_loss_of_one_net_refuses_change_no_net() -> None:
    X = np.ones((4, 2), np.float32)
    y = np.full((4, 1), 0.5, np.float32)
    nets = [MLP((2, 3, 1), loss=loss) for loss in ("mse", "binary_cross_entropy")]
    group = NetGroup(nets)
    for _ in range(3):
        group.train_on_batch(X, y)
    before = [state_of(net) for net in nets]
    with pytest.raises(ValueError, match=r"nets\[1\]: y must be in \[0, 1\]"):
        group.train_on_batch(X, y * 4)
    assert [state_of(net) for net in nets] == before


def test_groups_in_threads_take_all_their_steps() -> None:
    first, X, y = plain_group()
    groups = [first, NetGroup(first.nets[1:]), NetGroup(first.nets[:2])]
    n = 5 if INTERPRETED else 200

    def train(i: int) -> None:
        for _ in range(n):
            groups[i].train_on_batch(X, y)

    for group in groups:
        group.train_on_batch(X, y)
    in_threads(train, len(groups))
    assert [net.n_steps for net in first.nets] == [
        2 * (n + 1),
        3 * (n + 1),
        2 * (n + 1),
    ]


class InterruptAt:
    """A profiler that raises Ctrl-C at the nth event."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupt_anywhere_leaves_each_net_with_a_step_or_without() -> None:
    twins, X, y = plain_group(2)
    states = [[state_of(net) for net in twins.nets]]
    for _ in range(5):
        twins.train_on_batch(X, y)
        states.append([state_of(net) for net in twins.nets])
    for n in itertools.count(1):
        group = plain_group(2)[0]
        interrupt = InterruptAt(n)
        group.train_on_batch(X, y)
        group.train_on_batch(X, y)
        with suppress(KeyboardInterrupt):
            sys.setprofile(interrupt)
            try:
                group.train_on_batch(X, y)
            finally:
                sys.setprofile(None)
        for i, net in enumerate(group.nets):
            assert state_of(net) == states[net.n_steps][i]
            lock = net._state.lock.parameters
            with ThreadPoolExecutor(1) as other:
                assert other.submit(lock.acquire, timeout=5).result()
            net._state.lock._renew()
        group = NetGroup(group.nets)
        group.train_on_batch(X, y)
        assert [state_of(net) for net in group.nets] == [
            states[net.n_steps][i] for i, net in enumerate(group.nets)
        ]
        if interrupt.left > 0:
            break
    assert n > 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    always_led(monkeypatch)
    group, X, y = plain_group()
    for _ in range(4):
        group.train_on_batch(X, y)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, group.train_on_batch(X, y).tobytes())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    there = np.frombuffer(os.read(reader, 24))
    np.testing.assert_array_equal(group.train_on_batch(X, y), there)


def test_copies_and_pickles_have_nets_of_their_own() -> None:
    group, X, y = plain_group()
    group.train_on_batch(X, y)
    others = [copy.deepcopy(group), pickle.loads(pickle.dumps(group))]
    losses = group.train_on_batch(X, y)
    for other in others:
        np.testing.assert_array_equal(other.train_on_batch(X, y), losses)
    assert len(group) == 3


# Nets of several widths and dtypes.
UNLIKE = [MLP((3, 5, 2), seed=0), MLP((3, 8, 2), dtype="float64", seed=1)]


@pytest.mark.parametrize("of_X", [False, True])
@pytest.mark.parametrize("of_gradient", [False, True])
def test_vjp_has_the_bits_of_each_net(of_X: bool, of_gradient: bool) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2, 4, 3) if of_X else (4, 3)).astype(np.float32)
    slopes = rng.normal(size=(2, 4, 2) if of_gradient else (4, 2)).astype(np.float32)
    group = NetGroup(UNLIKE)
    gradients, by_X = group.vjp(X, slopes)
    assert by_X.shape == (2, 4, 3)
    for i, net in enumerate(UNLIKE):
        x = X[i] if of_X else X
        slope = slopes[i] if of_gradient else slopes
        expected = net.vjp(x, slope)
        assert gradients[i].tobytes() == expected[0].tobytes()
        np.testing.assert_array_equal(by_X[i], expected[1])
    alone = group.vjp(X, slopes, inputs=False)
    assert [it.tobytes() for it in alone] == [it.tobytes() for it in gradients]
    np.testing.assert_array_equal(group.vjp(X, slopes, parameters=False), by_X)


def test_a_group_is_a_sequence_of_its_nets() -> None:
    nets = [MLP((2, 1), seed=i) for i in range(4)]
    group = NetGroup(nets, n_threads=1)
    assert list(group) == nets
    assert len(group) == 4
    assert group[np.int64(-1)] is nets[3]
    part = group[1:3]
    assert type(part) is NetGroup
    assert part.nets == (nets[1], nets[2])
    assert part._n_threads == 1
