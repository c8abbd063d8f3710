"""The words of every error, and that none of them costs a compilation."""

# Wrong types on purpose.
# mypy: disable-error-code="arg-type, list-item, misc"

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import config
from numba.core import event
from scipy.sparse import csr_matrix

from fastmlp import MLP, SGD, Adam, Cosine, Custom, Loss, Warmup
from fastmlp.rules.activations import RULES
from fastmlp.rules.initializers import RULES as INITIALIZERS
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS

X, Y = np.ones((6, 3)), np.ones(6)


def net(**settings: Any) -> MLP:
    return MLP((3, 4, 1), **settings)


def classifier() -> MLP:
    return MLP((3, 4, 3), loss="cross_entropy")


def own_loss(prediction: Any, target: Any) -> Any:
    return prediction - target, prediction


class KerasCallback:
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None: ...

    def on_train_begin(self, logs: Any = None) -> None: ...


def spoilt(value: float) -> Any:
    x = X.copy()
    x[4, 2] = value
    return x


CASES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: MLP(5),
        TypeError,
        "MLP: layer_sizes must be a sequence of integers, inputs first, got 5",
    ),
    (
        lambda: MLP((3,)),
        ValueError,
        r"layer_sizes needs at least the inputs and the outputs, got \(3,\)",
    ),
    (
        lambda: MLP((3, 0, 1)),
        ValueError,
        r"layer_sizes\[1\] must be an integer of 1 or more, got 0",
    ),
    (
        lambda: MLP((3, 2.5, 1)),
        TypeError,
        r"layer_sizes\[1\] must be an integer of 1 or more, got 2.5",
    ),
    (lambda: MLP((3, True, 1)), TypeError, r"layer_sizes\[1\] must be an integer .* got True"),
    (
        lambda: net(activation="slu"),
        ValueError,
        "unknown activation 'slu', did you mean '[a-z]+lu'. known: elu, gelu",
    ),
    (
        lambda: net(activation=["relu"] * 2),
        ValueError,
        "activation names 2 layers, but .* has 1 hidden",
    ),
    (lambda: net(activation=3), TypeError, "activation must be a name, a function, or one of them"),
    (
        lambda: net(activation=lambda z: z),
        TypeError,
        r"activation\(z\) -> \(value, slope\), but it ret",
    ),
    (
        lambda: net(activation=lambda: 0),
        TypeError,
        "activation must be a function .* calling it failed",
    ),
    (
        lambda: net(output_activation="softmax"),
        ValueError,
        "unknown activation 'softmax' of the loss 'mse'; it comes with loss='cross_entropy'",
    ),
    (lambda: net(loss="l3"), ValueError, "unknown loss 'l3'; known: binary_cross_entropy"),
    (lambda: net(loss=max), TypeError, "loss must be a name or a function loss"),
    (
        lambda: net(loss="binary_cross_entropy", output_activation="relu"),
        ValueError,
        "loss 'binary_cross_entropy' owns its output link 'sigmoid'; output_activation must be None",
    ),
    (
        lambda: net(optimizer="adm"),
        ValueError,
        "unknown optimizer 'adm', did you mean 'adam'. known: adagrad, adam, adamw",
    ),
    (lambda: net(optimizer=Adam), TypeError, "optimizer must be a name, an optimizer such as Adam"),
    (lambda: net(optimizer=3), TypeError, "optimizer must be a name.*got 3; known names: adagrad"),
    (lambda: SGD(-1), ValueError, "SGD: learning_rate must be a finite number above 0.* got -1"),
    (lambda: Adam(beta_1=1.0), ValueError, r"Adam: beta_1 must be a number in \[0, 1\), got 1.0"),
    (lambda: net(l2=-1), ValueError, "MLP: l2 must be a finite number of 0 or more, got -1"),
    (lambda: net(l1="a"), TypeError, "MLP: l1 must be a finite number of 0 or more, got 'a'"),
    (lambda: net(penalties={"l3": 1}), ValueError, "unknown penalty 'l3'; known: l1, l2"),
    (lambda: net(penalties=[1]), TypeError, "penalties must be a mapping"),
    (
        lambda: net(initializer="xavier"),
        ValueError,
        "unknown initializer 'xavier', did you mean 'glorot_uniform'. known: glorot",
    ),
    (lambda: net(initializer=3), TypeError, "initializer must be a name or a function, got 3"),
    (
        lambda: net(initializer=lambda generator, shape: np.ones(2)),
        ValueError,
        r"must return finite float32 numbers of shape \(3, 4\), got float64 of shape \(2,\)",
    ),
    (
        lambda: net(dtype="float16"),
        ValueError,
        "dtype must be 'float32' or 'float64', got 'float16'",
    ),
    (lambda: net(dtype="floaty"), ValueError, "dtype must be 'float32' or 'float64', got 'floaty'"),
    (lambda: net(seed="a"), TypeError, "MLP: seed must be None, an integer of 0 or more"),
    (lambda: net(seed=-1), ValueError, "MLP: seed must be None, an integer of 0 or more.* got -1"),
    (lambda: net(n_threads=0), ValueError, "n_threads must be an integer of 1 or more, got 0"),
    (lambda: setattr(net(), "n_threads", 0), ValueError, "n_threads must be an integer of 1"),
    (lambda: setattr(net(), "n_threads", 1.0), TypeError, "n_threads must be an integer of 1"),
    (
        lambda: net(device="gpu"),
        ValueError,
        "unknown device 'gpu', did you mean 'cuda'. known: cpu, cuda",
    ),
    (
        lambda: net().fit(X, Y, epochs=0),
        ValueError,
        "MLP.fit: epochs must be an integer of 1 or more",
    ),
    (
        lambda: net().fit(X, Y, batch_size=0),
        ValueError,
        "batch_size must be an integer of 1 or more",
    ),
    (
        lambda: net().fit(X, Y, batch_size=2.0),
        TypeError,
        "batch_size must be an integer .* got 2.0",
    ),
    (lambda: net().fit(X, Y, shuffle=1), TypeError, "shuffle must be True or False, got 1"),
    (
        lambda: net().fit(X, Y, callbacks=3),
        TypeError,
        "callbacks must be functions of one argument",
    ),
    (lambda: net().fit(X, Y, validation_data=X), TypeError, r"validation_data must be \(X, y\) or"),
    (
        lambda: net().fit(X[0], Y),
        ValueError,
        r"X must have shape .* got \(3,\); for one row use X.reshape\(1, -1\)",
    ),
    (
        lambda: net().fit(X[:, :2], Y),
        ValueError,
        "MLP.fit: X has 2 features, but the net has 3 inputs",
    ),
    (
        lambda: net().predict(X[:, :2]),
        ValueError,
        "MLP.predict: X has 2 features, but the net has 3",
    ),
    (lambda: net().fit(X[:0], Y[:0]), ValueError, "MLP.fit: X has no rows"),
    (lambda: net().predict(X[:0]), ValueError, "MLP.predict: X has no rows"),
    (
        lambda: net().fit(spoilt(np.nan), Y),
        ValueError,
        "X must be finite as float32, got nan in row 4, column 2",
    ),
    (
        lambda: net().predict(spoilt(-np.inf)),
        ValueError,
        "X must be finite as float32, got -inf in row 4, column 2",
    ),
    (
        lambda: net().fit(spoilt(1e300), Y),
        ValueError,
        "X must be finite as float32, got 1e.300 in row 4, column 2, beyond the largest number, 3.4e.38; scale X, or use dtype='float64'",
    ),
    (
        lambda: net().fit(X, [1, 1, np.nan, 1, 1, 1]),
        ValueError,
        "y must be finite as float32, got nan in row 2",
    ),
    (lambda: net().fit(X, Y[:5]), ValueError, "X has 6 rows, but y has 5"),
    (
        lambda: net().fit(X, np.ones((6, 2))),
        ValueError,
        "y has 2 columns, but the net has 1 output$",
    ),
    (lambda: net().fit(X, np.ones((6, 1, 1))), ValueError, "y must have shape"),
    (lambda: net().fit(X + 1j, Y), TypeError, "X must hold real numbers, got dtype complex128"),
    (
        lambda: net().fit(X.astype(object), Y),
        TypeError,
        "X must hold real numbers, got dtype object",
    ),
    (
        lambda: net().fit(X.astype(object), Y),
        TypeError,
        r"X must hold real numbers, got dtype object; try np.asarray\(X, float\)",
    ),
    (
        lambda: net().fit(None, Y),
        TypeError,
        "MLP.fit: X must be an array of real numbers, got NoneType",
    ),
    (
        lambda: net().fit(iter(X), Y),
        TypeError,
        "MLP.fit: X must be an array of real numbers, got iterator",
    ),
    (
        lambda: net().fit(np.ma.array(X, mask=X > 0), Y),
        ValueError,
        "MLP.fit: X has masked entries",
    ),
    (
        lambda: net().predict(np.ma.array(X, np.float32, mask=X > 0)),
        ValueError,
        "MLP.predict: X has masked entries",
    ),
    (
        lambda: net().fit(X, np.ma.array(Y, mask=Y > 0)),
        ValueError,
        "MLP.fit: y has masked entries",
    ),
    (
        lambda: net().fit([["a", "b", "c"]], [1]),
        TypeError,
        "X must hold real numbers, got dtype <U1",
    ),
    (lambda: net().fit([[1, 2, 3], [1, 2]], [1, 2]), ValueError, "X must be an array of numbers"),
    (lambda: net().fit(csr_matrix(X), Y), TypeError, r"X is a sparse matrix; use X.toarray\(\)"),
    (
        lambda: net().fit(X, Y, sample_weight=Y[:2]),
        ValueError,
        r"sample_weight must have shape \(6,\)",
    ),
    (
        lambda: net().fit(X, Y, sample_weight=-Y),
        ValueError,
        "sample_weight must be 0 or more, and not",
    ),
    (lambda: net().fit(X, Y, sample_weight=0 * Y), ValueError, "0 or more, and not all 0"),
    (
        lambda: classifier().fit(X, [0, 1, 2, 3, 0, 1]),
        ValueError,
        "labels must be from 0 to 2.* got 3",
    ),
    (
        lambda: classifier().fit(X, [0, 1, 2, -1, 0, 1]),
        ValueError,
        "labels must be from 0 to 2.* got -1",
    ),
    (lambda: classifier().fit(X, Y), TypeError, "class labels must be integers from 0 to 2"),
    (
        lambda: classifier().fit(X, np.ones((6, 3))),
        ValueError,
        "one-hot or probabilities that sum to 1",
    ),
    (lambda: net(loss="binary_cross_entropy").fit(X, 2 * Y), ValueError, r"y must be in \[0, 1\]"),
    (
        lambda: net(loss="poisson").fit(X, -Y),
        ValueError,
        "y must be 0 or more for this loss, got -1",
    ),
    (
        lambda: net().predict(X, out=np.ones((6, 1))),
        ValueError,
        "out must be .* float32 .* got float64",
    ),
    (
        lambda: net().predict(X, out=np.broadcast_to(np.float32(0), (6, 1))),
        ValueError,
        r"array of shape \(6, 1\), got float32 \(6, 1\), not C-contiguous, read-only",
    ),
    (
        lambda: net().apply_gradient([1.0]),
        ValueError,
        r"gradient must have shape \(21,\), got \(1,\)",
    ),
    (
        lambda: net().apply_gradient([np.nan] * 21),
        ValueError,
        "gradient must be finite as float32, got nan in row 0",
    ),
    (lambda: net().predict(X, out=[1]), ValueError, "out must be a writeable .* got list"),
    (lambda: MLP({4, 3, 1}), TypeError, "layer_sizes must be a sequence of integers"),
    (lambda: MLP({3: 4, 1: 1}), TypeError, "layer_sizes must be a sequence of integers"),
    (lambda: MLP(b"abc"), TypeError, "layer_sizes must be a sequence of integers, .* got b'abc'"),
    (lambda: net(loss=Loss("mse")), TypeError, "loss must be a name or a function rule.* 'mse'"),
    (
        lambda: net(loss=Loss(lambda p: (p, p))),
        TypeError,
        r"loss must be a function rule\(output, target\) -> \(value, slope\); calling it failed",
    ),
    (
        lambda: net(loss=Loss(max, by_row=True)),
        TypeError,
        r"loss must be .* function rule\(outputs, targets, slopes, values\), got <built-in",
    ),
    (
        lambda: net(loss=Loss(own_loss, targets="clases")),
        ValueError,
        "Loss: unknown targets 'clases', did you mean 'classes'. known: classes, count, positive, real, unit",
    ),
    (
        lambda: net(loss=Loss(own_loss, over_outputs="max")),
        ValueError,
        "Loss: unknown over_outputs 'max'; known: mean, sum",
    ),
    (lambda: net(loss=Loss(own_loss, by_row=1)), TypeError, "Loss: by_row must be True or False"),
    (
        lambda: net(activation=lambda z: ("a", z)),
        TypeError,
        r"activation\(z\) -> \(value, slope\), but it returned \('a', ",
    ),
    (
        lambda: net(activation=lambda z: (np.array([z, z]), z)),
        TypeError,
        r"activation\(z\) -> \(value, slope\), but it returned \(array",
    ),
    (
        lambda: net(optimizer=Custom(lambda w: w)),
        TypeError,
        r"optimizer must be a function rule\(w, g, m, v, rate, \*constants\).* calling it failed",
    ),
    (
        lambda: net(optimizer=Custom(lambda w, g, m, v, rate: (w, m, v), constants=(1.0,))),
        TypeError,
        "optimizer must be a function .* calling it failed: .* takes 5 .* but 6 were given",
    ),
    (lambda: net(penalties={"l3": 0}), ValueError, "unknown penalty 'l3'; known: l1, l2"),
    (lambda: net(penalties={5: 0}), TypeError, "penalty must be a name or a function .* got 5"),
    (
        lambda: net(initializer=lambda generator, shape: np.full(shape, 1e300)),
        ValueError,
        r"must return finite float32 numbers of shape \(3, 4\), got inf",
    ),
    (
        lambda: net(initializer=lambda generator, shape: np.full(shape, 1j)),
        ValueError,
        r"must return finite float32 numbers of shape \(3, 4\), got complex128 of shape",
    ),
    (lambda: net(seed=True), TypeError, "seed must be None, an integer of 0 or more.* got True"),
    (
        lambda: net().fit(X, Y, callbacks=[print, lambda epoch, logs: None]),
        TypeError,
        r"MLP.fit: callbacks must be functions of one argument, .* which takes \(epoch, logs\)$",
    ),
    (
        lambda: net().fit(X, Y, callbacks=[KerasCallback()]),
        TypeError,
        r"in the place of on_epoch_end, on_train_begin write a function: def log\(report\)",
    ),
    (lambda: net().fit(X, Y, callbacks=KerasCallback), TypeError, r"which takes \(\)$"),
    (
        lambda: Adam(lambda step: 0.1),
        TypeError,
        r"Adam: learning_rate must be a number, or a function of two .* which takes \(step\)$",
    ),
    (lambda: Warmup(lambda: 0.1), TypeError, r"Warmup: schedule must be .* which takes \(\)$"),
    (lambda: Warmup(Cosine), TypeError, r"Warmup: schedule must be a .* its class: Cosine\(...\)"),
    (
        lambda: net(optimizer=Adam(lambda steps, total: ["a"])).apply_gradient(np.ones(21)),
        ValueError,
        r"learning-rate schedule .* must return 1 finite rates of 0 or more, got \['a'\]",
    ),
    (
        lambda: net().fit(X, Y, sample_weight=1e-40 * Y),
        ValueError,
        "sample_weight must be 0 or more, and not all 0 as float32",
    ),
    (
        lambda: net().fit(X, Y, validation_data=(X[:, :2], Y)),
        ValueError,
        "MLP.fit: validation_data: X has 2 features",
    ),
    (
        lambda: net().fit(X, Y, validation_data=(X, Y, -Y)),
        ValueError,
        "MLP.fit: validation_data: sample_weight must be 0 or more",
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), CASES)
def test_the_words_of_an_error(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    with event.install_recorder("numba:compile") as recorder, pytest.raises(kind, match=words):
        call()
    assert recorder.buffer == []


@pytest.mark.parametrize(
    ("keyword", "table"),
    [
        ("activation", RULES),
        ("loss", LOSSES),
        ("optimizer", OPTIMIZERS),
        ("initializer", INITIALIZERS),
    ],
)
def test_an_unknown_name_lists_every_known_one(keyword: str, table: Any) -> None:
    with pytest.raises(ValueError, match=f"unknown {keyword}") as caught:
        net(**{keyword: "nonsense"})
    assert str(caught.value).endswith(f"known: {', '.join(sorted(table))}")


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled")
def test_a_rule_that_does_not_compile_is_named() -> None:
    def lookup(z: Any) -> Any:
        return z, type(z)(len(z.hex()) > 0)

    with pytest.raises(TypeError, match=r"the rule '.*lookup' does not compile"):
        net(activation=lookup).predict(X)


def test_a_failed_fit_leaves_the_net_as_it_was() -> None:
    model = net(seed=0)
    before = model.parameters.copy()
    with pytest.raises(ValueError, match="finite"):
        model.fit(spoilt(np.nan), Y)
    assert (model.parameters == before).all()
    assert model.n_steps == 0
