"""Models inside compiled code: the bits of `predict`,
from one thread and from several.
"""

import copy
import ctypes
import gc
import importlib
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from exported import predict, predict_shared, value
from fitting import unconverged
from numba import njit, prange
from numba.core.errors import TypingError
from scipy.integrate import IntegrationWarning, quad
from scipy.ndimage import generic_filter
from small_models import CASES, LITTLE, MODELS, TARGETS, X

from fastmlp import MLP, SGD, Adam, Cosine, MLPClassifier, Quantile, jacobian, jit
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.activations import RULES

pytestmark = unconverged
compiled_alone = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: no code"
)
# A loss of each link, and its least number of outputs.
WITH_LINK: list[tuple[Any, int]] = [
    ("mse", 1),
    ("binary_cross_entropy", 1),
    ("poisson", 1),
    ("cross_entropy", 2),
    (Quantile([0.1, 0.5, 0.9]), 3),
    ("gaussian_nll", 2),
]


def drawn_net(seed: int, **more: Any) -> MLP:
    rng = np.random.default_rng(seed)
    sizes = [
        int(n)
        for n in rng.choice([1, 2, 7, 15, 16, 17, 64, 65, 700], rng.integers(2, 5))
    ]
    loss, least = WITH_LINK[seed % len(WITH_LINK)]
    if least == 3:
        sizes[-1] = least
    else:
        sizes[-1] = max(sizes[-1] // least * least, least)
    dtype: Any = str(rng.choice(["float32", "float64"]))
    activation: Any = [*RULES][seed % len(RULES)]
    return MLP(
        sizes,
        activation=activation,
        loss=loss,
        dtype=dtype,
        seed=seed,
        n_threads=1,
        **more,
    )


def rows_of(net: MLP, n: int = 3) -> Any:
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, net.layer_sizes[0])).astype(net.dtype)


@pytest.mark.few(12)
@pytest.mark.parametrize("function", [predict, jit.predict])
@pytest.mark.parametrize("seed", range(4 if INTERPRETED else 36))
def test_bits_are_those_of_the_net(seed: int, function: Callable[..., None]) -> None:
    net = drawn_net(seed)
    x = rows_of(net)
    expected, raw = net.predict(x), net.predict_raw(x)
    out = np.empty_like(expected)
    function(jit.compiled(net), x, out)
    assert np.array_equal(out, expected)
    function(jit.compiled(net), x[1], out[0])
    assert np.array_equal(out[0], expected[1])
    function(jit.compiled(net, raw=True), x, out)
    assert np.array_equal(out, raw)


@pytest.mark.parametrize(("name", "target"), CASES)
def test_bits_are_those_of_the_model(name: str, target: str) -> None:
    model = MODELS[name](target).fit(X, TARGETS[target])
    if hasattr(model, "classes_"):
        expected = model.predict_proba(X)
    else:
        expected = model.predict(X)
    out = np.empty((len(X), expected.size // len(X)))
    predict(jit.compiled(model), X, out)
    assert np.array_equal(out, expected.reshape(out.shape))


NET = MLP((3, 8, 2), seed=0)
HANDLE = jit.compiled(NET)
ROW = np.array([0.5, -1.0, 2.0])
EXPECTED = NET.predict(ROW[None])[0]


@pytest.mark.slow
@pytest.mark.parametrize("function", [predict, jit.predict])
def test_rows_of_any_kind_are_converted(function: Callable[..., None]) -> None:
    rows = np.arange(6).reshape(2, 3)[::-1]
    out = np.empty((2, 2))
    strided = np.empty(4)[::2]
    function(HANDLE, rows, out)
    assert np.array_equal(out, NET.predict(rows.astype(np.float32)))
    booleans = np.array([True, False, False, True, True, False])[::2]
    for row in (booleans, (0.5, -1, np.float32(2))):
        function(HANDLE, row, strided)
        assert np.array_equal(strided, NET.predict(np.array([row], np.float32))[0])
    function(HANDLE, tuple(ROW), out[0])
    assert np.array_equal(out[0], EXPECTED)


@pytest.mark.slow
@pytest.mark.parametrize("function", [predict, jit.predict])
def test_predictions_in_the_place_of_the_row(function: Callable[..., None]) -> None:
    net = MLP((3, 4, 3), seed=0)
    handle = jit.compiled(net)
    x = np.random.default_rng(0).normal(size=(5, 3))
    expected = net.predict(x)
    row = x[0].copy()
    function(handle, row, row)
    assert np.array_equal(row, expected[0])
    function(handle, x, x[::-1])
    assert np.array_equal(x[::-1], expected)


@pytest.mark.parametrize("function", [predict, jit.predict])
@pytest.mark.parametrize(
    "make_copy",
    [
        copy.copy,
        copy.deepcopy,
        lambda h: pickle.loads(pickle.dumps(h)),
        lambda h: np.append(h, h),
    ],
)
def test_a_copy_is_refused(make_copy: Any, function: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="the handle is a copy, or of another process"):
        function(make_copy(HANDLE), ROW, np.empty(2))
    if function is jit.predict:
        with pytest.raises(ValueError, match="the handle is a copy"):
            jit.scipy_callable(make_copy(jit.compiled(MLP((3, 1)))))


@pytest.mark.parametrize("function", [predict, jit.predict])
@pytest.mark.parametrize(
    ("x", "out"),
    [
        ((2,), (2,)),
        ((3,), (3,)),
        ((4, 3), (3, 2)),
        ((4, 2), (4, 2)),
        ((4, 3), (4, 1)),
        ((0,), (2,)),
    ],
)
def test_lengths_are_checked(
    x: tuple[int, ...], out: tuple[int, ...], function: Callable[..., None]
) -> None:
    with pytest.raises(ValueError, match="jit: x or out has another length"):
        function(HANDLE, np.zeros(x), np.zeros(out))


@compiled_alone
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (np.zeros(1), ROW, np.zeros(2)),
            "the handle must be an array that jit.compiled has made",
        ),
        (
            (HANDLE, np.zeros((1, 1, 3)), np.zeros(2)),
            "x must be an array of one or two dimensions",
        ),
        ((HANDLE, ROW, np.zeros((1, 2))), "out must be an array of floats"),
        ((HANDLE, ROW, np.zeros(2, int)), "out must be an array of floats"),
        ((HANDLE, ROW + 0j, np.zeros(2)), "of real numbers"),
    ],
)
def test_types_are_checked_when_compiling(arguments: Any, words: str) -> None:
    with pytest.raises(TypingError, match=words):
        predict(*arguments)


@pytest.mark.slow
def test_a_value() -> None:
    net = MLP((3, 8, 1), seed=0)
    handle = jit.compiled(net)
    expected = float(net.predict(ROW[None])[0, 0])
    for function in (value, jit.value):
        assert function(handle, ROW) == function(handle, (0.5, -1, 2)) == expected
        with pytest.raises(
            ValueError, match=r"jit.value: the model has several outputs"
        ):
            function(HANDLE, ROW)
        with pytest.raises(ValueError, match="another length"):
            function(handle, ROW[:2])


@pytest.mark.parametrize("function", [predict, jit.predict])
def test_parameters_are_live_or_frozen(function: Callable[..., None]) -> None:
    net = MLP((3, 8, 2), seed=0)
    out = np.empty(2)
    live = jit.compiled(net)
    frozen = jit.compiled(net, freeze=True)
    before = net.predict(ROW[None])[0]
    net.fit(np.eye(3), np.eye(3)[:, :2], epochs=2)
    function(live, ROW, out)
    assert np.array_equal(out, net.predict(ROW[None])[0])
    function(frozen, ROW, out)
    assert np.array_equal(out, before)


@pytest.mark.slow
def test_a_handle_outlives_its_net() -> None:
    net = MLP((3, 8, 2), seed=0)
    out = np.empty(2)
    handle = jit.compiled(net)
    view = jit.compiled(net)[:]
    del net
    gc.collect()
    for array in (handle, view):
        predict(array, ROW, out)
        assert np.array_equal(out, EXPECTED)


def test_a_row_with_nan_has_outputs_of_nan() -> None:
    out = np.empty(2)
    predict(HANDLE, (np.nan, 0.0, 0.0), out)
    assert np.isnan(out).all()


def test_raw_outputs_of_a_classifier_are_those_of_its_net() -> None:
    model = MLPClassifier(**LITTLE).fit(X, TARGETS["two"])
    out = np.empty((len(X), 1))
    predict(jit.compiled(model, raw=True), X, out)
    assert np.array_equal(out, model.net_.predict_raw(X))


@compiled_alone
def test_denormals_are_flushed_in_the_call_alone() -> None:
    net = MLP((1, 1), seed=0, dtype="float64")
    out = np.empty(1)
    net.parameters[:] = 5e-324, 0.0

    @njit
    def later(handle: Any, x: Any, out: Any, small: float) -> float:
        jit.predict(handle, x, out)
        return small / 2

    assert later(jit.compiled(net), np.array([1.0]), out, 1e-310) == 5e-311
    assert out[0] == net.predict([[1.0]])[0, 0] == 0.0


@pytest.mark.slow
@compiled_alone
def test_threads_share_a_handle() -> None:
    net = MLP((16, 64, 64, 2), activation="tanh", seed=0)
    handle = jit.compiled(net)
    x = rows_of(net, 400).astype(float)
    expected = net.predict(x)
    out = np.empty((400, 2))
    predict_shared(handle, x, out)
    assert np.array_equal(out, expected)

    def some(_: int) -> bool:
        mine = np.empty((400, 2))
        for x_row, out_row in zip(x, mine, strict=True):
            predict(handle, x_row, out_row)
        return np.array_equal(mine, expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(some, range(8)))


SIMULATION = """
import numpy as np
from numba import njit, prange
from fastmlp import MLP, jit

@njit(cache=True)
def control(handle, x, X, slopes, gradient, inputs):
    jit.vjp(handle, X, slopes, gradient, inputs)
    return jit.value(handle, x)

def simulate(sizes, activation):
    \"\"\"The counts of functions found in the cache, and not found.\"\"\"
    net = MLP(sizes, activation=activation, seed=1)
    x = np.ones(net.layer_sizes[0])
    gradient, inputs, slopes = np.empty(net.parameters.size), np.empty((1, len(x))), np.ones((1, 1))
    with jit.learner(net, batch_size=1) as handle:
        value = control(handle, x, x[None], slopes, gradient, inputs)
    assert value == net.predict(x[None])[0, 0]
    assert np.array_equal(gradient, net.vjp(x[None], slopes, inputs=False))
    return [sum(getattr(control.stats, f"cache_{word}").values()) for word in ("hits", "misses")]
"""


@pytest.mark.slow
@compiled_alone
def test_cached_code_takes_another_net_in_another_process(
    tmp_path: Any, python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "simulation.py").write_text(SIMULATION)
    monkeypatch.syspath_prepend(tmp_path)
    simulate = importlib.import_module("simulation").simulate
    assert simulate((4, 32, 32, 1), "tanh") == [0, 1]
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from simulation import simulate; "
    )
    printed = python(f"{script}print(simulate((7, 64, 16, 1), 'gelu'))", tmp_path)
    assert printed == "[1, 0]\n"


@compiled_alone
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_c_function_predicts(dtype: Any) -> None:
    x = ROW.astype(dtype)
    out = np.empty(2, dtype)
    function = jit.function(dtype)
    assert ctypes.cast(function.ctypes, ctypes.c_void_p).value == function.address
    function.ctypes(HANDLE.ctypes.data, x.ctypes.data, out.ctypes.data)
    assert np.array_equal(out, EXPECTED)


@compiled_alone
def test_scipy_integrates_a_net() -> None:
    net = MLP((1, 16, 1), activation="tanh", dtype="float64", seed=0)
    points, weights = np.polynomial.legendre.leggauss(100)
    expected = weights @ net.predict((points + 1)[:, None])[:, 0]
    np.testing.assert_allclose(
        quad(jit.scipy_callable(jit.compiled(net)), 0, 2)[0], expected
    )
    of_two = jit.scipy_callable(jit.compiled(MLP((2, 1))))
    with pytest.warns(IntegrationWarning):
        assert np.isnan(quad(of_two, 0, 2)[0])


@compiled_alone
def test_scipy_filters_an_image_by_a_net() -> None:
    net = MLP((9, 8, 1), seed=0)
    image = np.random.default_rng(0).normal(size=(12, 12))
    function = jit.scipy_callable(jit.compiled(net), "generic_filter")
    expected = generic_filter(image, lambda x: net.predict(x[None])[0, 0], size=3)
    assert np.array_equal(generic_filter(image, function, size=3), expected)
    with pytest.raises(RuntimeError):
        generic_filter(image, function, size=2)


@njit
def train(handle: Any, x: Any, y: Any) -> float:
    return jit.train_on_batch(handle, x, y)


@njit
def follow(handle: Any, x: Any, slopes: Any) -> None:
    jit.train_on_gradient(handle, x, slopes)


COMPILED = train, follow
IN_PYTHON = jit.train_on_batch, jit.train_on_gradient


def learn(steps: Any, handle: Any, X: Any, y: Any, slopes: Any) -> float:
    on_targets, by_slopes = steps
    for i in range(len(X)):
        loss = on_targets(handle, X[i], y[i])
        by_slopes(handle, X[i], slopes[i])
    return float(loss)


LEARNERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": ((3, 8, 2), {}),
    "labels": (
        (3, 8, 3),
        {"loss": "cross_entropy", "activation": "tanh", "dtype": "float64"},
    ),
    "schedule": ((3, 4, 1), {"optimizer": SGD(Cosine(0.1, n_steps=7), momentum=0.9)}),
    "dropout": ((3, 16, 1), {"dropout": 0.3}),
    "counts": (
        (3, 8, 1),
        {"loss": "poisson", "optimizer": Adam(0.01, global_clipnorm=0.1)},
    ),
    "deviations": ((3, 8, 2), {"loss": "gaussian_nll", "l2": 0.01}),
}


def batches_of(net: MLP, n: int = 5, batch: int = 6) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(2)
    n_out = net.layer_sizes[-1]
    X = rng.normal(size=(n, batch, 3))
    y: Any = rng.uniform(0.1, 2, size=(n, batch, n_out))
    if net._network.loss.targets == "classes":
        y = rng.integers(n_out, size=(n, batch))
    elif n_out // net._network.loss.per_target == 1:
        y = y[:, :, 0]
    return X, y, 0.01 * rng.normal(size=(n, batch, n_out))


@pytest.mark.slow
@pytest.mark.few(4)
@pytest.mark.parametrize("steps", [COMPILED, IN_PYTHON])
@pytest.mark.parametrize("name", LEARNERS)
def test_steps_have_the_bits_of_the_net(name: str, steps: Any) -> None:
    sizes, settings = LEARNERS[name]
    net = MLP(sizes, seed=0, n_threads=1, **settings)
    X, y, slopes = batches_of(net)
    net.train_on_batch(X[0], y[0])
    other = copy.copy(net)
    row = X[0, 0]
    out = np.empty(sizes[-1])
    n_steps = 3 + 2 * len(X) if name == "dropout" else None
    with jit.learner(net, batch_size=6, n_steps=n_steps) as handle:
        loss = learn(steps, handle, X, y, slopes)
        predict(handle, row, out)
        with pytest.raises(RuntimeError, match="a fit of this net is running"):
            net.train_on_batch(X[0], y[0])
    for x, target, slope in zip(X, y, slopes, strict=True):
        expected = other.train_on_batch(x, target)
        other.train_on_gradient(x, slope)
    assert loss == expected
    assert np.array_equal(out, net.predict(row[None])[0])
    for _ in range(2):
        assert np.array_equal(net.parameters, other.parameters)
        assert net._state.n_steps == other._state.n_steps
        net.train_on_batch(X[0], y[0])
        other.train_on_batch(X[0], y[0])


def test_coefficients_end_where_they_no_longer_change() -> None:
    net = MLP((1, 1), optimizer=Adam(0.01, beta_1=0.5, beta_2=0.9), seed=0, n_threads=1)
    other = copy.copy(net)
    x = np.ones((2, 1))
    with jit.learner(net, batch_size=2) as handle:
        for i in range(400):
            jit.train_on_batch(handle, x, np.full(2, i % 3))
    for i in range(400):
        other.train_on_batch(x, np.full(2, i % 3))
    assert np.array_equal(net.parameters, other.parameters)
    with pytest.raises(ValueError, match=r"jit.learner: .* do not end: give n_steps"):
        open_learner(MLP((1, 1, 1), dropout=0.1))


def open_learner(net: Any, **settings: Any) -> None:
    with jit.learner(net, **{"batch_size": 2, **settings}):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("steps", [COMPILED, IN_PYTHON])
def test_batches_are_checked(steps: Any) -> None:
    net = MLP((3, 8, 3), loss="cross_entropy", seed=0)
    X, y, slopes = batches_of(net)
    before = net.parameters.copy()
    wrong = X.copy()
    wrong[0, 0, 0] = np.nan
    with jit.learner(net, batch_size=6) as handle:
        for rows, labels, words in (
            (X[:, :4], y, "another shape than those of a batch"),
            (X[:, :, :2].copy(), y, "another shape than those of a batch"),
            (X, y[:, :4], "another shape than those of a batch"),
            (X, y + 0.5, "y must be labels, an array of integers"),
            (X, y + 3, "a label or target is none that the loss takes"),
            (wrong, y, "a number of X or y is not finite"),
        ):
            with pytest.raises(ValueError, match=words):
                learn(steps, handle, rows, labels, slopes)
        with pytest.raises(ValueError, match="the handle is a copy"):
            learn(steps, handle.copy(), X, y, slopes)
    assert np.array_equal(net.parameters, before)
    for closed in (handle, jit.compiled(net)):
        with pytest.raises(ValueError, match="jit: the handle does not train"):
            learn(steps, closed, X, y, slopes)


def test_a_step_whose_loss_is_not_finite_is_not_taken() -> None:
    net = MLP((1, 1), seed=0)
    net.parameters[:] = 1e30
    with jit.learner(net, batch_size=2) as handle:
        assert jit.train_on_batch(handle, np.ones((2, 1)), np.zeros(2)) == np.inf
    assert (net.parameters == np.float32(1e30)).all()
    assert net._state.n_steps == 0


@njit(nogil=True)
def vjp(handle: Any, X: Any, slopes: Any, by_parameters: Any, by_inputs: Any) -> None:
    jit.vjp(handle, X, slopes, by_parameters, by_inputs)


@pytest.mark.slow
@pytest.mark.few(4)
@pytest.mark.parametrize("function", [vjp, jit.vjp])
@pytest.mark.parametrize("seed", range(3 if INTERPRETED else 12))
def test_vjp_has_the_bits_of_the_net(seed: int, function: Callable[..., None]) -> None:
    rng = np.random.default_rng(seed)
    net = drawn_net(seed, l2=0.3, input_dropout=0.2)
    n_rows = int(rng.choice([1, 6, 33, 520]))
    sizes = net.layer_sizes
    X = rng.normal(size=(n_rows, sizes[0]))
    slopes = rng.normal(size=(n_rows, sizes[-1]))
    gradient = np.empty(net.parameters.size)
    by_inputs = np.empty_like(X)
    expected, of_inputs = net.vjp(X, slopes)
    with jit.learner(net, batch_size=n_rows, n_steps=1) as handle:
        for place in (None, by_inputs):
            gradient[:] = np.nan
            function(handle, X, slopes, gradient, place)
            assert np.array_equal(gradient, expected)
        assert np.array_equal(by_inputs, of_inputs)
        # Of the parameters as they are after a step.
        jit.train_on_gradient(handle, X, slopes)
        function(handle, X, slopes, gradient, by_inputs)
    for result, of_net in zip((gradient, by_inputs), net.vjp(X, slopes), strict=True):
        assert np.array_equal(result, of_net)


@pytest.mark.slow
@pytest.mark.parametrize("function", [vjp, jit.vjp])
def test_shapes_of_a_vjp_are_checked(function: Callable[..., None]) -> None:
    net = MLP((3, 8, 2), seed=0)
    X = np.ones((6, 3))
    slopes = np.ones((6, 2))
    gradient = np.empty(net.parameters.size)
    by_inputs = np.empty((6, 3))
    with jit.learner(net, batch_size=6) as handle:
        for arguments in (
            (X[:5], slopes[:5], gradient, by_inputs[:5]),
            (X[:, :2].copy(), slopes, gradient, by_inputs[:, :2].copy()),
            (X, slopes[:, :1].copy(), gradient, by_inputs),
            (X, slopes, gradient[1:], by_inputs),
            (X, slopes, gradient, by_inputs[:5]),
        ):
            with pytest.raises(ValueError, match="another shape than those of a batch"):
                function(handle, *arguments)
        with pytest.raises(ValueError, match="the handle is a copy"):
            function(handle.copy(), X, slopes, gradient, by_inputs)
    for closed in (handle, jit.compiled(net)):
        with pytest.raises(ValueError, match="jit: the handle does not train"):
            function(closed, X, slopes, gradient, by_inputs)


@compiled_alone
def test_types_of_a_vjp_are_checked_when_compiling() -> None:
    X = np.ones((6, 3))
    gradient = np.zeros(42)
    for arrays in ((gradient.astype(int), None), (gradient, gradient), (X, None)):
        with pytest.raises(TypingError, match=r"jit.vjp: "):
            vjp(HANDLE, X, X, *arrays)


@njit(parallel=True)
def learn_each(handles: Any, X: Any, y: Any, out: Any) -> None:
    for i in prange(len(handles)):
        jit.train_on_batch(handles[i], X, y)
        jit.predict(handles[i], X[0], out[i])


@pytest.mark.slow
def test_nets_of_a_list_are_trained_side_by_side() -> None:
    optimizers: list[Any] = [
        Adam(0.01),
        Adam(0.01),
        SGD(0.1),
        Adam(Cosine(0.1, n_steps=3)),
    ]
    nets = [
        MLP((3, 4 + i, 2), seed=i, optimizer=rule) for i, rule in enumerate(optimizers)
    ]
    nets[0].train_on_batch(np.ones((6, 3)), np.ones((6, 2)))
    others = [copy.copy(net) for net in nets]
    out = np.empty((4, 2))
    X, y = np.random.default_rng(0).normal(size=(2, 6, 3))
    with jit.learner(nets, batch_size=6) as handles:
        for _ in range(4):
            learn_each(handles, X, y[:, :2], out)
    with pytest.raises(ValueError, match="the handle does not train"):
        jit.train_on_batch(handles[1], X, y[:, :2])
    live = jit.compiled(nets)
    for i, (net, other) in enumerate(zip(nets, others, strict=True)):
        for _ in range(4):
            other.train_on_batch(X, y[:, :2])
        assert np.array_equal(net.parameters, other.parameters)
        assert net.n_steps == other.n_steps
        assert np.array_equal(out[i], net.predict(X[:1])[0])
        predict(live[i], X[0], out[i])
        assert np.array_equal(out[i], net.predict(X[:1])[0])
    message = r"jit.learner: nets\[1\]: net must be an MLP, got NoneType"
    with pytest.raises(TypeError, match=message):
        open_learner([nets[0], None])
    nets[0].train_on_batch(X, y[:, :2])


@njit
def gradient(handle: Any, x: Any, out: Any, grad: Any) -> None:
    jit.gradient(handle, x, out, grad)


@pytest.mark.few(12)
@pytest.mark.parametrize("function", [gradient, jit.gradient])
@pytest.mark.parametrize("seed", range(4 if INTERPRETED else 24))
def test_gradients_are_the_nets(seed: int, function: Callable[..., None]) -> None:
    net = drawn_net(seed)
    raw = seed % 4 < 2
    x = rows_of(net)
    handle = jit.compiled(net, raw=raw)
    expected = jacobian(net, x, raw=raw)
    predicted = (net.predict_raw if raw else net.predict)(x)
    out = np.empty(expected.shape[1])
    grad = np.empty(expected.shape[1:])
    bound = 1e-12 if net.dtype == np.float64 else 2e-6
    for row, values, slopes in zip(x, predicted, expected, strict=True):
        function(handle, row, out, grad)
        assert np.array_equal(out, values)
        assert abs(grad - slopes).max() <= bound * (1 + abs(slopes).max())


@pytest.mark.slow
@pytest.mark.few(4)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "target"), CASES)
def test_gradients_are_the_models(name: str, target: str, dtype: Any) -> None:
    model = MODELS[name](target)
    if "dtype" in model.get_params():
        model = model.set_params(dtype=dtype)
    else:
        model = model
    model.fit(X, TARGETS[target])
    expected = jacobian(model, X)
    handle = jit.compiled(model)
    rows = np.asarray(X, expected.dtype)
    if hasattr(model, "classes_"):
        predicted = model.predict_proba(rows)
    else:
        predicted = model.predict(rows)
    bound = 1e-12 if expected.dtype == np.float64 else 2e-6
    out = np.empty(expected.shape[1])
    grad = np.empty(expected.shape[1:])
    for r in range(0, len(X), 7):
        for function in (gradient, jit.gradient):
            grad[:] = np.nan
            function(handle, rows[r], out, grad)
            assert np.array_equal(out, predicted[r].ravel())
            assert abs(grad - expected[r]).max() <= bound * (1 + abs(expected[r]).max())


@pytest.mark.slow
@pytest.mark.parametrize("function", [gradient, jit.gradient])
def test_gradients_are_checked(function: Callable[..., None]) -> None:
    grad = np.empty((2, 3))
    flat = np.empty(3)
    none = jit.compiled(NET)
    none["gradient"] = 0
    with pytest.raises(ValueError, match=r"jit.gradient: the model has no derivatives"):
        function(none, ROW, np.empty(2), grad)
    with pytest.raises(ValueError, match="the handle is a copy"):
        function(HANDLE.copy(), ROW, np.empty(2), grad)
    for x, out, place in (
        (ROW[:2], 2, grad),
        (ROW, 1, grad),
        (ROW, 2, np.empty((3, 2))),
    ):
        with pytest.raises(ValueError, match="another length"):
            function(HANDLE, x, np.empty(out), place)
    net = MLP((3, 1), seed=0)
    function(jit.compiled(net), ROW, np.empty(1), flat)
    assert flat.tolist() == net.weights[0][:, 0].tolist()


@njit
def steps_on(handle: Any, X: Any, y: Any, n: int) -> float:
    loss = 0.0
    for _ in range(n):
        loss = jit.train_on_batch(handle, X, y)
    return loss


@pytest.mark.parametrize(
    ("loss", "n_targets"),
    [("mse", 3), ("mse", 1), ("gamma", 2), ("gaussian_nll", 2), ("cross_entropy", 1)],
)
def test_steps_on_targets_with_gaps_are_those_of_the_net(
    loss: Any, n_targets: int
) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(16, 4))
    y = rng.uniform(0.1, 0.9, (16, n_targets))
    n_out = {"gaussian_nll": 4, "cross_entropy": 3}.get(loss, n_targets)
    if loss == "cross_entropy":
        y = rng.integers(0, 3, (16, 1)).astype(float)
    y[rng.random(y.shape) < 0.3] = np.nan
    compiled, called = (MLP((4, 8, n_out), loss=loss, seed=0) for _ in range(2))
    with jit.learner(compiled, batch_size=16, missing_targets="ignore") as handle:
        last = steps_on(handle, x, y, 5)
        assert steps_on(handle, x, np.full_like(y, np.nan), 1) == 0
    losses = [called.train_on_batch(x, y, missing_targets="ignore") for _ in range(5)]
    assert last == losses[-1]
    assert compiled.n_steps == 5
    assert np.array_equal(compiled.parameters, called.parameters)


@pytest.mark.parametrize("value", [2.0, -1.0, np.inf])
def test_known_targets_must_be_those_of_the_loss(value: float) -> None:
    net = MLP((4, 8, 2), loss="binary_cross_entropy", seed=0)
    y = np.full((16, 2), np.nan)
    y[3, 1] = value
    with (
        jit.learner(net, batch_size=16, missing_targets="ignore") as handle,
        pytest.raises(ValueError, match="none that the loss takes"),
    ):
        steps_on(handle, np.ones((16, 4)), y, 1)
