"""A slow multi-layer perceptron in plain NumPy:
the oracle that the compiled kernels must meet.

It shares no code with the package. Every formula is written from its source, in
float64, and takes complex parameters, so that a derivative is the imaginary part of a
value at w + ih.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, xlogy

Array = NDArray[Any]
Arrays = list[Array]

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805
ROOT_2 = np.sqrt(2)
ROOT_2_PI = np.sqrt(2 / np.pi)


def positive(z: Array) -> Array:
    return np.real(z) > 0


def low(z: Array) -> Array:
    return np.where(positive(z), 0, z)


def logistic(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def ramp(z: Array) -> Array:
    return np.log1p(np.exp(z))


def cubic(z: Array) -> Array:
    return ROOT_2_PI * (z + 0.044715 * z**3)


VALUES: dict[str, Any] = {
    "identity": lambda z: z,
    "sigmoid": logistic,
    "tanh": np.tanh,
    "relu": lambda z: np.where(positive(z), z, 0),
    "leaky_relu": lambda z: np.where(positive(z), z, z / 100),
    "elu": lambda z: np.where(positive(z), z, np.expm1(low(z))),
    "selu": lambda z: (
        SELU_SCALE * np.where(positive(z), z, SELU_ALPHA * np.expm1(low(z)))
    ),
    "gelu": lambda z: z * (1 + erf(z / ROOT_2)) / 2,
    "gelu_tanh": lambda z: z * (1 + np.tanh(cubic(z))) / 2,
    "silu": lambda z: z / (1 + np.exp(-z)),
    "mish": lambda z: z * np.tanh(ramp(z)),
    "softplus": ramp,
}


def slope(name: str, z: Array) -> Array:
    """The slope of an activation."""
    return np.asarray(VALUES[name](z + 1e-30j).imag / 1e-30)


def normal(z: Array) -> Any:
    """The normal distribution function and its density."""
    return (1 + erf(z / ROOT_2)) / 2, np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def cubic_slope(z: Array) -> Array:
    return ROOT_2_PI * (1 + 3 * 0.044715 * z**2)


# Slopes of smooth activations, which take complex numbers too.
SLOPES: dict[str, Any] = {
    "identity": np.ones_like,
    "sigmoid": lambda z: logistic(z) * (1 - logistic(z)),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "elu": lambda z: np.where(positive(z), 1, np.exp(low(z))),
    "gelu": lambda z: normal(z)[0] + z * normal(z)[1],
    "gelu_tanh": lambda z: (
        (1 + np.tanh(cubic(z))) / 2
        + z * (1 - np.tanh(cubic(z)) ** 2) * cubic_slope(z) / 2
    ),
    "silu": lambda z: logistic(z) * (1 + z * (1 - logistic(z))),
    "mish": lambda z: np.tanh(ramp(z)) + z * (1 - np.tanh(ramp(z)) ** 2) * logistic(z),
    "softplus": logistic,
}


def absolute(z: Array) -> Array:
    return np.sign(np.real(z)) * z


def log_softmax(raw: Array) -> Array:
    shifted = raw - np.max(np.real(raw), axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(raw: Array) -> Array:
    return np.exp(log_softmax(raw))


LINKS: dict[str, Any] = {
    "identity": lambda raw: raw,
    "sigmoid": logistic,
    "softmax": softmax,
    "exp": np.exp,
    "sorted": lambda raw: np.sort(raw, axis=1),
    "mean_std": lambda raw: np.where(
        np.arange(raw.shape[1]) % 2, np.sqrt(np.maximum(np.exp(raw), 1e-6)), raw
    ),
}
LINK_OF = {
    "binary_cross_entropy": "sigmoid",
    "cross_entropy": "softmax",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "binary_focal": "sigmoid",
    "focal": "softmax",
    "gaussian_nll": "mean_std",
    "tweedie 1.2": "exp",
    "binary_focal 0.5": "sigmoid",
    "focal 0.5": "softmax",
    "three quantiles": "sorted",
    "smoothed binary_cross_entropy": "sigmoid",
    "smoothed cross_entropy": "softmax",
}
# Of one class or one-hot rows, summed over the outputs; other losses are means.
OF_CLASSES = {"cross_entropy", "focal", "focal 0.5", "smoothed cross_entropy"}
PENALTIES: dict[str, Any] = {"l2": lambda w: w**2 / 2, "l1": absolute}
PENALTY_SLOPES: dict[str, Any] = {"l2": lambda w: w, "l1": np.sign}


def pinball(levels: Any) -> Any:
    """Koenker & Bassett (1978); one level, or one for each output."""
    q = np.asarray(levels)
    return lambda p, y: np.where(positive(p - y), 1 - q, -q) * (p - y)


def tweedie(k: float) -> Any:
    """The half deviance of scikit-learn's HalfTweedieLoss, with its constant term."""
    return lambda p, y: (
        -y * np.exp((1 - k) * p) / (1 - k)
        + np.exp((2 - k) * p) / (2 - k)
        + y ** (2 - k) / ((1 - k) * (2 - k))
    )


def focal(g: float) -> Any:
    """Lin et al. (2017) for several classes, as Keras' CategoricalFocalCrossentropy."""
    return lambda p, y: -y * (1 - softmax(p)) ** g * log_softmax(p)


def binary_focal(g: float) -> Any:
    """Lin et al. (2017), as Keras' BinaryFocalCrossentropy for labels 0 and 1."""
    return lambda p, y: (
        y * logistic(-p) ** g * ramp(-p) + (1 - y) * logistic(p) ** g * ramp(p)
    )


def gaussian(p: Array, y: Array) -> Array:
    """PyTorch's GaussianNLLLoss of the mean p[:,
    ::2] and the variance exp(p[:, 1::2]).
    """
    return (p[:, 1::2] + (p[:, ::2] - y) ** 2 / np.exp(p[:, 1::2])) / 2


# Of outputs p (raw ones for a loss with a link)
# and targets y, both (n_rows, n_outputs).
LOSS_VALUES: dict[str, Any] = {
    "mse": lambda p, y: (p - y) ** 2,
    "mae": lambda p, y: absolute(p - y),
    "huber": lambda p, y: np.where(
        abs(np.real(p - y)) <= 1, (p - y) ** 2 / 2, absolute(p - y) - 0.5
    ),
    "binary_cross_entropy": lambda p, y: y * ramp(-p) + (1 - y) * ramp(p),
    "cross_entropy": lambda p, y: -y * log_softmax(p),
    "poisson": lambda p, y: np.exp(p) - y + xlogy(y, y) - y * p,
    "log_cosh": lambda p, y: np.log(np.cosh(p - y)),
    "quantile": pinball(0.5),
    "gamma": lambda p, y: p + y * np.exp(-p) - np.log(y) - 1,
    "tweedie": tweedie(1.5),
    "binary_focal": binary_focal(2),
    "focal": focal(2),
    "gaussian_nll": gaussian,
    "quantile 0.9": pinball(0.9),
    "three quantiles": pinball([0.1, 0.5, 0.9]),
    "tweedie 1.2": tweedie(1.2),
    "binary_focal 0.5": binary_focal(0.5),
    "focal 0.5": focal(0.5),
    "smoothed binary_cross_entropy": lambda p, y: (
        (0.9 * y + 0.05) * ramp(-p) + (0.95 - 0.9 * y) * ramp(p)
    ),
    "smoothed cross_entropy": lambda p, y: (
        -(0.9 * y + 0.1 / y.shape[1]) * log_softmax(p)
    ),
}


def targets_of(loss: str, y: Array, n_outputs: int) -> Array:
    """Targets as (n_rows, n_outputs): class labels become one-hot rows."""
    columns = np.asarray(y).reshape(len(y), -1)
    if loss in OF_CLASSES and columns.shape[1] == 1:
        return np.eye(n_outputs)[columns[:, 0].astype(int)]
    return columns.astype(float)


def row_losses(loss: str, outputs: Array, y: Array) -> Array:
    """The loss of each row, shape (n_rows,)."""
    values = LOSS_VALUES[loss](outputs, targets_of(loss, y, outputs.shape[1]))
    if loss in OF_CLASSES:
        return values.sum(axis=1)
    return values.mean(axis=1)


def by_target(loss: str, outputs: Array, y: Array, w: Array) -> tuple[Any, float]:
    """The mean loss of targets of weights w, (n_rows, n_targets), and the rows' mass.

    A target of weight 0 may be NaN.
    """
    values = LOSS_VALUES[loss](outputs, np.where(w > 0, y, 0.5))
    return (w * values).sum() / w.sum(), float(w.sum() / w.shape[1])


def row_slopes(loss: str, outputs: Array, y: Array) -> Array:
    """The slope of each row's loss by that row's outputs, shape (n_rows, n_outputs)."""
    moved = (outputs + 1e-30j * axis for axis in np.eye(outputs.shape[1]))
    return np.stack([row_losses(loss, each, y).imag / 1e-30 for each in moved], axis=1)


def exact(layer: int, operand: Array) -> Array:
    """An operand of a layer's products as it is."""
    return operand


def normed(kind: str, epsilon: float, z: Array, gain: Array, shift: Array) -> Array:
    """Ba, Kiros & Hinton (2016); "rms":
    Zhang & Sennrich (2019), without mean and shift.
    """
    centred = z - z.mean(axis=1, keepdims=True) if kind == "layer" else z
    root = np.sqrt((centred**2).mean(axis=1, keepdims=True) + epsilon)
    return gain * centred / root + shift


def norms_of(norms: Any, biases: Arrays, n_layers: int) -> dict[Any, Any]:
    """For each layer, and True after its activation, the norm as a function."""
    gains = biases[n_layers : n_layers + len(norms)]
    shifts = iter(biases[n_layers + len(norms) :])
    made: dict[Any, Any] = {}
    for (kind, layer, after, epsilon), gain in zip(norms, gains, strict=True):
        if kind == "layer":
            shift = next(shifts)
        else:
            shift = np.zeros(gain.shape)
        made[layer, after] = partial(normed, kind, epsilon, gain=gain, shift=shift)
    return made


def forward(
    weights: Arrays,
    biases: Arrays,
    x: Array,
    activations: list[str],
    masks: Any = (),
    rounded: Any = exact,
    norms: Any = (),
    skips: Any = (),
) -> Any:
    """Pre-activations of every layer (the last:
    raw outputs), and what enters every layer.

    `norms` are (kind, layer, True after the activation, epsilon); gains and then shifts
    follow the biases. ``skips[i]`` is the layer whose values are added to layer i's
    sums, or -1. A layer of more inputs than the one before has outputs takes the net's
    inputs after these.
    """
    before: Arrays = []
    entering = [np.asarray(x, complex if np.iscomplexobj(x) else float)]
    functions = norms_of(norms, biases, len(weights))
    values_of = list[Array]()
    for i in range(len(weights)):
        if len(weights[i]) > entering[i].shape[1]:
            entering[i] = np.hstack([entering[i], entering[0]])
        z = rounded(i, entering[i]) @ rounded(i, weights[i]) + biases[i]
        drops_first = (i, False) in functions
        if len(masks) and drops_first:
            z = z * masks[i]
        if len(skips) and skips[i] >= 0:
            z = z + values_of[skips[i]]
        before.append(functions[i, False](z=z) if drops_first else z)
        if i < len(weights) - 1:
            values = VALUES[activations[i]](before[i])
            if len(masks) and not drops_first:
                values = values * masks[i]
            else:
                values = values
            values_of.append(values)
            after = functions.get((i, True))
            entering.append(values if after is None else after(z=values))
    return before, entering


def predict(weights: Arrays, biases: Arrays, x: Array, **model: Any) -> Array:
    """Values or probabilities, shape (n_rows, n_outputs); `model` as in `objective`."""
    rounded = model.get("rounded", exact)
    structure = {name: model.get(name, ()) for name in ("norms", "skips")}
    activations = model["activations"]
    raw = forward(weights, biases, x, activations, (), rounded, **structure)[0][-1]
    link = LINK_OF.get(model.get("loss", "mse"))
    if link:
        return LINKS[link](raw)
    return VALUES[model.get("output_activation", "identity")](raw)


def link_jacobian(link: str, raw: Array) -> Array:
    """Slopes of predictions by raw outputs, shape (n_rows, n_outputs, n_outputs)."""
    n = raw.shape[1]
    if link == "softmax":
        p = softmax(raw)
        slopes: Array = p[:, :, None] * (np.eye(n) - p[:, None])
        return slopes
    by_number = {
        "sigmoid": SLOPES["sigmoid"],
        "exp": np.exp,
        "mean_std": lambda raw: np.where(np.arange(n) % 2, np.exp(raw / 2) / 2, 1),
    }
    return np.asarray(by_number[link](raw)[:, :, None] * np.eye(n))


def tangent_jacobian(
    weights: Arrays, biases: Arrays, x: Array, *, raw: bool = False, **model: Any
) -> Array:
    """Slopes of predictions by inputs, shape (n_rows, n_outputs, n_features),
    by tangents of one input after the other; `model` as in `objective`.
    """
    activations = model["activations"]
    before = forward(weights, biases, x, activations)[0]
    result = np.empty((len(x), before[-1].shape[1], x.shape[1]), before[-1].dtype)
    for f in range(x.shape[1]):
        tangent = np.zeros((len(x), x.shape[1]))
        tangent[:, f] = 1
        for i, w in enumerate(weights):
            tangent = tangent @ w
            if i < len(weights) - 1:
                tangent = tangent * SLOPES[activations[i]](before[i])
        result[:, :, f] = tangent
    link = LINK_OF.get(model.get("loss", "mse"))
    output = model.get("output_activation", "identity")
    if raw:
        return result
    if link:
        return np.einsum("njk,nkf->njf", link_jacobian(link, before[-1]), result)
    return np.asarray(SLOPES[output](before[-1])[:, :, None] * result)


def derivative_loss(
    slopes: Array, derivatives: Array, sample_weight: Array | None, weights: Any = 1.0
) -> Any:
    """The mean of weighted squares over known derivatives; 0 without one."""
    known = ~np.isnan(derivatives)
    errors = np.where(known, slopes - np.where(known, derivatives, 0), 0)
    row = np.ones(len(slopes)) if sample_weight is None else sample_weight
    mass = (row[:, None, None] * known).sum()
    if mass:
        return (row[:, None, None] * weights * errors**2).sum() / mass
    return 0.0


def philox(counter: Arrays, key: tuple[int, int]) -> Arrays:
    """Philox4x32-10 of Salmon et al. (2011):
    four words of 32 bits from a counter and a key.
    """
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        (high0, low0), (high1, low1) = (
            divmod(word * np.uint64(factor), np.uint64(2**32))
            for word, factor in ((c0, 0xD2511F53), (c2, 0xCD9E8D57))
        )
        c0 = high1 ^ c1 ^ np.uint64(k0)
        c1 = low1
        c2 = high0 ^ c3 ^ np.uint64(k1)
        c3 = low0
        k0 = (k0 + 0x9E3779B9) % 2**32
        k1 = (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def drawn(key: Any, step: int, purpose: int, shape: tuple[int, int], n: int) -> Array:
    """The words of a step's draws,
    shape (n_rows, n_groups, 4), for groups of n units.
    """
    rows, groups = np.mgrid[: shape[0], : -(-shape[1] // n)]
    high, low = divmod(step, 2**32)
    full = np.full_like(rows, purpose + 2**16 * high), np.full_like(rows, low)
    return np.stack(philox([groups, rows, *full], key), axis=-1).astype(np.int64)


def mask(key: Any, step: int, layer: int, shape: tuple[int, int], rate: float) -> Array:
    """Inverted dropout: 0, or one over the share that is kept;
    layer -1 are the inputs.
    """
    words = drawn(key, step, 0 if layer < 0 else 16 * layer + 1, shape, 8)
    halves = np.concatenate([words % 2**16, words // 2**16], axis=2)[
        :, :, [0, 4, 1, 5, 2, 6, 3, 7]
    ]
    threshold = min(round(65536 * rate), 65535)
    kept = halves.reshape(shape[0], -1)[:, : shape[1]] >= threshold
    return np.asarray(kept / (1 - threshold / 65536))


def noise(key: Any, step: int, shape: tuple[int, int]) -> Array:
    """Box & Muller (1958), from the upper 24 bits of two words for two numbers."""
    words = drawn(key, step, 2, shape, 4) // 256
    u = (words[:, :, [0, 0, 2, 2]] + 0.5) / 2**24
    v = words[:, :, [1, 1, 3, 3]] / 2**24
    angle = 2 * np.pi * v - np.array([0, np.pi / 2] * 2)
    return (np.sqrt(-2 * np.log(u)) * np.cos(angle)).reshape(shape[0], -1)[
        :, : shape[1]
    ]


def draws(
    dropout: dict[str, Any], step: int, x: Array, sizes: list[int]
) -> tuple[Array, Arrays]:
    """Inputs and masks of a step; `dropout` has a key,
    and rates, each a number or one a step.
    """

    def now(rate: Any) -> float:
        rates = np.ravel(rate)
        return float(rates[step if rates.size > 1 else 0])

    key = dropout["key"]
    shape = (len(x), x.shape[1])
    inputs = x + now(dropout["noise"]) * noise(key, step, shape)
    inputs = inputs * mask(key, step, -1, shape, now(dropout["inputs"]))
    hidden = enumerate(zip(sizes, dropout["hidden"], strict=True))
    return inputs, [
        mask(key, step, i, (len(x), n), now(rate)) for i, (n, rate) in hidden
    ]


def _shares(sample_weight: Array | None, n_rows: int) -> tuple[Array, float]:
    if sample_weight is None:
        mass = np.ones(n_rows)
    else:
        mass = np.asarray(sample_weight, float)
    return mass / mass.sum(), float(mass.sum())


def objective(
    weights: Arrays,
    biases: Arrays,
    x: Array,
    y: Array,
    *,
    activations: list[str],
    output_activation: str = "identity",
    loss: str = "mse",
    l2: float = 0.0,
    l1: float = 0.0,
    sample_weight: Array | None = None,
    masks: Any = (),
    rounded: Any = exact,
    norms: Any = (),
    skips: Any = (),
    derivatives: Array | None = None,
    derivative_weight: Any = 1.0,
) -> Any:
    """Weighted mean loss of the rows, and penalties on the weights over the rows' mass;
    with `derivatives` the mean of their squares, too.
    """
    structure = (masks, rounded, norms, skips)
    raw = forward(weights, biases, x, activations, *structure)[0][-1]
    outputs = raw if loss in LINK_OF else VALUES[output_activation](raw)
    if sample_weight is not None and np.ndim(sample_weight) == 2:
        value, mass = by_target(loss, outputs, y, sample_weight)
    else:
        share, mass = _shares(sample_weight, len(x))
        value = share @ row_losses(loss, outputs, y)
    strengths = {"l2": l2, "l1": l1}
    penalty = sum(
        s * PENALTIES[k](w).sum() for k, s in strengths.items() for w in weights
    )
    more: Any = 0.0
    if derivatives is not None:
        model: dict[str, Any] = {"activations": activations, "loss": loss}
        slopes = tangent_jacobian(
            weights, biases, x, output_activation=output_activation, **model
        )
        more = derivative_loss(slopes, derivatives, sample_weight, derivative_weight)
    return value + penalty / mass + more


def head_losses(
    raw: Array, heads: list[tuple[str, int]], ys: Arrays, ws: list[Any]
) -> tuple[Arrays, float]:
    """The weighted losses of each head, summed over the rows, and the mass of the rows.

    Weights are None, (n_rows,), or (n_rows, n_targets). A target of weight 0 may be
    NaN. A row's mass is the mean of its heads' weights, a head's the mean of its
    targets'.
    """
    sums = []
    first = 0
    mass = np.zeros(len(raw))
    for (loss, n), y, w in zip(heads, ys, ws, strict=True):
        outputs = raw[:, first : first + n]
        weight: Array = np.ones(len(raw))
        if w is not None:
            weight = np.asarray(w, float)
        known = np.where(np.isnan(y), 1.0, y) if loss not in OF_CLASSES else y
        if weight.ndim == 2:
            each = LOSS_VALUES[loss](outputs, np.where(weight > 0, known, 1.0))
            sums.append((weight * each).sum() / weight.shape[1])
            mass += weight.mean(axis=1) / len(heads)
        else:
            whole = np.where(weight > 0, known, 0) if loss in OF_CLASSES else known
            sums.append((weight * row_losses(loss, outputs, whole)).sum())
            mass += weight / len(heads)
        first += n
    return sums, float(mass.sum())


def objective_of_heads(
    weights: Arrays,
    biases: Arrays,
    x: Array,
    ys: Arrays,
    *,
    activations: list[str],
    heads: list[tuple[str, int]],
    shares: list[float],
    ws: list[Any],
    l2: float = 0.0,
) -> Any:
    """The heads' mean losses, times their shares,
    and the penalty over the rows' mass.
    """
    raw = forward(weights, biases, x, activations)[0][-1]
    sums, mass = head_losses(raw, heads, ys, ws)
    total = sum(share * each for share, each in zip(shares, sums, strict=True))
    return (total + l2 * sum(PENALTIES["l2"](w).sum() for w in weights)) / mass


def gradient(weights: Arrays, biases: Arrays, x: Array, y: Array, **model: Any) -> Any:
    """The objective, and lists of its slopes by weights and by biases,
    by backpropagation; with norms or skips by complex steps.
    """
    takes_inputs = len(weights) > 1 and len(weights[-1]) > weights[-2].shape[1]
    if takes_inputs or len(model.get("norms", ())) or len(model.get("skips", ())):
        value = objective(weights, biases, x, y, **model)
        return float(value), *complex_step_gradient(weights, biases, x, y, **model)
    activations = model["activations"]
    loss = model.get("loss", "mse")
    masks = model.get("masks", ())
    rounded = model.get("rounded", exact)
    before, entering = forward(weights, biases, x, activations, masks, rounded)
    share, mass = _shares(model.get("sample_weight"), len(x))
    if loss in LINK_OF:
        delta = row_slopes(loss, before[-1], y)
    else:
        name = model.get("output_activation", "identity")
        delta = row_slopes(loss, VALUES[name](before[-1]), y) * slope(name, before[-1])
    delta = delta * share[:, None]
    by_weights: Arrays = []
    by_biases: Arrays = []
    for i in reversed(range(len(weights))):
        decay = sum(
            model.get(k, 0.0) * slope(weights[i]) for k, slope in PENALTY_SLOPES.items()
        )
        product = rounded(i, entering[i]).T @ rounded(i, delta)
        by_weights.insert(0, product + decay / mass)
        by_biases.insert(0, delta.sum(axis=0))
        if i > 0:
            delta = (
                rounded(i, delta)
                @ rounded(i, weights[i]).T
                * slope(activations[i - 1], before[i - 1])
            )
            delta = delta * masks[i - 1] if len(masks) else delta
    return float(objective(weights, biases, x, y, **model)), by_weights, by_biases


def flatten(weights: Arrays, biases: Arrays) -> Array:
    """All weights, then all biases, in one vector."""
    return np.concatenate([np.ravel(p) for p in [*weights, *biases]])


def unflatten(flat: Array, weights: Arrays, biases: Arrays) -> tuple[Any, Any]:
    """Weights and biases of the given shapes from one vector."""
    like = [*weights, *biases]
    parts = np.split(flat, np.cumsum([p.size for p in like])[:-1])
    shaped = [part.reshape(p.shape) for part, p in zip(parts, like, strict=True)]
    return shaped[: len(weights)], shaped[len(weights) :]


def complex_step_gradient(
    weights: Arrays, biases: Arrays, x: Array, y: Array, **model: Any
) -> Any:
    """The same slopes without backpropagation:
    Im J(w + ih) / h, one parameter at a time.
    """
    flat = flatten(weights, biases).astype(complex)
    slopes = np.empty(flat.size)
    for i in range(flat.size):
        moved = flat.copy()
        moved[i] += 1e-30j
        slopes[i] = (
            objective(*unflatten(moved, weights, biases), x, y, **model).imag / 1e-30
        )
    return unflatten(slopes, weights, biases)


def step(
    name: str, s: Any, t: int, w: Array, g: Array, state: Any
) -> tuple[Array, Any]:
    """Parameters and state after step t (from 1)
    with settings s; the first state is {}.
    """
    rate = s["learning_rate"]
    m = state.get("m", 0 * w)
    v = state.get("v", 0 * w)
    product = state.get("product", 1.0)
    match name:
        case "sgd":
            w = w - rate * g
        case "momentum":  # Sutskever et al. (2013), equations 1 and 2
            m = s["momentum"] * m - rate * g
            w = w + m
        case (
            "nesterov"
        ):  # equations 3 and 4; the gradient is taken at w = theta + momentum m
            theta = w - s["momentum"] * m
            m = s["momentum"] * m - rate * g
            w = theta + m + s["momentum"] * m
        case (
            "rmsprop"
        ):  # Tieleman & Hinton (2012), with a momentum of the divided gradient
            v = s["rho"] * v + (1 - s["rho"]) * g**2
            m = s["momentum"] * m + g / (np.sqrt(v) + s["epsilon"])
            w = w - rate * m
        case "adagrad":  # Duchi, Hazan & Singer (2011), diagonal form
            v = v + g**2
            w = w - rate * g / (np.sqrt(v) + s["epsilon"])
        case "adam" | "adamw" | "nadam":
            m = s["beta_1"] * m + (1 - s["beta_1"]) * g
            v = s["beta_2"] * v + (1 - s["beta_2"]) * g**2
            v_hat = v / (1 - s["beta_2"] ** t)
            if name == "nadam":  # Dozat (2016), algorithm 2
                mu = s["beta_1"] * (1 - 0.5 * 0.96 ** (t * s["momentum_decay"]))
                mu_next = s["beta_1"] * (
                    1 - 0.5 * 0.96 ** ((t + 1) * s["momentum_decay"])
                )
                product = product * mu
                m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (
                    1 - product
                )
            else:  # Kingma & Ba (2015), algorithm 1
                m_hat = m / (1 - s["beta_1"] ** t)
            decay = (
                s["weight_decay"] * w if name == "adamw" else 0
            )  # Loshchilov & Hutter (2019)
            w = w - rate * (m_hat / (np.sqrt(v_hat) + s["epsilon"]) + decay)
        case "schedule_free_adamw":  # Defazio et al. (2024), algorithm 1; w is y
            rate = rate * min(1.0, t / max(s["warmup_steps"], 1))
            v = s["beta_2"] * v + (1 - s["beta_2"]) * g**2
            change = g / (np.sqrt(v / (1 - s["beta_2"] ** t)) + s["epsilon"])
            z = state.get("z", w) - rate * (change + s["weight_decay"] * w)
            share = min(1.0, t / max(s["warmup_steps"], 1)) ** 2
            mass = state.get("mass", 0.0) + share
            x = (1 - share / mass) * state.get("x", w) + share / mass * z
            w = (1 - s["beta_1"]) * z + s["beta_1"] * x
            return w, {"v": v, "z": z, "x": x, "mass": mass}
        case _:
            raise KeyError(name)
    return w, {"m": m, "v": v, "product": product}


def clipped(slopes: list[Arrays], settings: dict[str, Any], is_trained: Array) -> Array:
    """The flat gradient, clipped as the settings ask:
    by value, or by norm as Keras does.
    """
    flat = flatten(*slopes)
    variables = [np.ravel(arrays) for of_kind in slopes for arrays in of_kind]
    if (limit := settings.get("clipvalue")) is not None:
        return np.clip(flat, -limit, limit)
    if (limit := settings.get("clipnorm")) is not None:
        return np.concatenate(
            [g * limit / max(np.linalg.norm(g), limit) for g in variables]
        )
    if (limit := settings.get("global_clipnorm")) is not None:
        return flat * limit * min(1 / np.linalg.norm(flat[is_trained]), 1 / limit)
    return flat


def average(path: list[Array], kind: dict[str, float]) -> Array:
    """Of the parameters after each step: weights that fall by `momentum` from each step
    to the one before it, or equal ones from the fraction `start` on.
    """
    steps = np.array(path)
    if "start" in kind:
        return np.mean(steps[int(kind["start"] * len(steps)) :], axis=0)
    falling = kind["momentum"] ** np.arange(len(steps))[::-1]
    return np.average(steps, axis=0, weights=falling)


def train(
    weights: Arrays,
    biases: Arrays,
    x: Array,
    y: Array,
    epochs: list[list[Any]],
    *,
    optimizer: str,
    settings: dict[str, Any],
    sample_weight: Array | None = None,
    factors: Any = None,
    dropout: dict[str, Any] | None = None,
    **model: Any,
) -> tuple[list[float], Arrays, Arrays]:
    """Take one step for each batch (row indices) of each epoch.

    `factors` of the rate are pairs, of the weights and of the biases of each layer;
    what has the factor 0 stays, and so does its state.

    Returns each epoch's mean objective before the steps, batches weighted by the mass
    of their rows, and the final weights and biases, averaged if the settings or the
    optimizer say so. ``settings["learning_rate"]`` may be one rate a step.
    """
    if sample_weight is None:
        mass = np.ones(len(x))
    else:
        mass = np.asarray(sample_weight, float)
    params = flatten(weights, biases).astype(float)
    t = 0
    history = []
    state: dict[str, Array] = {}
    of_weights, of_biases = zip(*(factors or [(1, 1)] * len(weights)), strict=True)
    like = [*weights, *biases]
    centred = [norm for norm in model.get("norms", ()) if norm[0] == "layer"]
    norms = (*model.get("norms", ()), *centred)
    of_norms = (of_biases[layer] for _, layer, *_ in norms)
    factor = np.repeat(
        [float(f) for f in (*of_weights, *of_biases, *of_norms)],
        [p.size for p in like],
    )
    is_bias = np.repeat(
        [0, 1], [sum(p.size for p in weights), sum(p.size for p in biases)]
    )
    path: list[Array] = []
    before = {"m": 0 * params, "v": 0 * params, "z": params, "x": params}
    for batches in epochs:
        objectives = []
        for rows in batches:
            shaped = unflatten(params, weights, biases)
            keywords = {**model, "sample_weight": mass[rows]}
            inputs = x[rows]
            if dropout is not None:
                inputs, keywords["masks"] = draws(
                    dropout, t, inputs, [w.shape[1] for w in weights[:-1]]
                )
            value, *slopes = gradient(*shaped, inputs, y[rows], **keywords)
            rate = np.ravel(settings["learning_rate"])
            now = {
                **settings,
                "learning_rate": rate[t if rate.size > 1 else 0] * factor,
            }
            if not settings.get("decay_biases", True):
                now["weight_decay"] = settings["weight_decay"] * (is_bias == 0)
            t += 1
            slope = clipped(slopes, settings, factor != 0)
            stepped, after = step(optimizer, now, t, params, slope, state)
            params = np.where(factor == 0, params, stepped)
            names = after.keys() & {"m", "v", "z", "x"}
            frozen = {
                k: np.where(factor == 0, state.get(k, before[k]), after[k])
                for k in names
            }
            state = {**after, **frozen}
            path.append(params)
            objectives.append(value)
        history.append(
            float(np.average(objectives, weights=[mass[r].sum() for r in batches]))
        )
    shown = state.get("x", params)
    if settings.get("average"):
        shown = average(path, settings["average"])
    return history, *unflatten(shown, weights, biases)


def jacobian(weights: Arrays, biases: Arrays, x: Array, **model: Any) -> Array:
    """Derivatives of `predict`,
    shape (n_rows, n_outputs, n_features), by complex steps of the inputs.
    """
    steps = 1e-30j * np.eye(x.shape[1])
    moved = (
        predict(weights, biases, x.astype(float) + step, **model) for step in steps
    )
    return np.stack([values.imag / 1e-30 for values in moved], axis=-1)


def integrated_gradients(
    derive: Any, x: Array, background: Array, n_steps: int
) -> Array:
    """Sundararajan, Taly & Yan (2017), averaged over the background, by the trapezoidal
    rule; `derive` returns derivatives, shape (n_rows, n_outputs, n_features).
    """
    shares = []
    for row in x:
        of_pairs = []
        for start in background:
            points = start + np.linspace(0, 1, n_steps + 1)[:, None] * (row - start)
            slopes = derive(points)
            means = (slopes[:-1] + slopes[1:]).mean(axis=0) / 2
            of_pairs.append(means * (row - start))
        shares.append(np.mean(of_pairs, axis=0))
    return np.array(shares)


# Second derivatives of a row's loss by its outputs, diagonals; huber's are its weights.
CURVATURES: dict[str, Any] = {
    "mse": lambda p, y: np.full_like(p, 2),
    "huber": lambda p, y: 1 / np.maximum(abs(p - y), 1),
    "log_cosh": lambda p, y: 1 / np.cosh(p - y) ** 2,
    "binary_cross_entropy": lambda p, y: logistic(p) * logistic(-p),
    "smoothed binary_cross_entropy": lambda p, y: logistic(p) * logistic(-p),
    "poisson": lambda p, y: np.exp(p),
    "gamma": lambda p, y: y * np.exp(-p),
    "tweedie": lambda p, y: 0.5 * y * np.exp(-0.5 * p) + 0.5 * np.exp(0.5 * p),
    "tweedie 1.2": lambda p, y: 0.2 * y * np.exp(-0.2 * p) + 0.8 * np.exp(0.8 * p),
}


def curvatures(loss: str, outputs: Array, y: Array) -> Array:
    """The curvature of each row's loss, shape (n_rows, n_outputs, n_outputs)."""
    n = outputs.shape[1]
    targets = targets_of(loss, y, outputs.shape[1])
    if loss.endswith("cross_entropy") and "binary" not in loss:
        p = softmax(outputs)
        whole = p[:, :, None] * np.eye(n) - p[:, :, None] * p[:, None, :]
        return np.asarray(targets.sum(axis=1)[:, None, None] * whole)
    return np.asarray(CURVATURES[loss](outputs, targets)[:, :, None] * np.eye(n) / n)


def gauss_newton(
    weights: Arrays, biases: Arrays, x: Array, y: Array, **model: Any
) -> Array:
    """The matrix of Gauss and Newton, shape (n_parameters, n_parameters),
    by complex steps of the outputs; l2 adds its second derivative.
    """
    flat = flatten(weights, biases)
    loss = model.get("loss", "mse")
    if loss in LINK_OF:
        activation = "identity"
    else:
        activation = model.get("output_activation", "identity")

    def outputs(parameters: Array) -> Array:
        shaped = unflatten(parameters, weights, biases)
        return np.asarray(
            VALUES[activation](forward(*shaped, x, model["activations"])[0][-1])
        )

    moved = (outputs(flat + 1e-30j * axis) for axis in np.eye(len(flat)))
    rows = np.stack([values.imag / 1e-30 for values in moved], axis=2)
    share, mass = _shares(model.get("sample_weight"), len(x))
    whole = share[:, None, None] * curvatures(loss, outputs(flat), y)
    decays = np.arange(len(flat)) < sum(w.size for w in weights)
    matrix = np.einsum("rop,roq,rqs->ps", rows, whole, rows, optimize=True)
    return np.asarray(matrix + np.diag(model.get("l2", 0.0) / mass * decays))


def levenberg_marquardt(
    weights: Arrays,
    biases: Arrays,
    x: Array,
    y: Array,
    epochs: int,
    *,
    damping: float = 1e-3,
    is_trained: Any = None,
    **model: Any,
) -> tuple[list[float], Array]:
    """Accepted steps of Marquardt (1963), scaled half as by More (1978), half as by
    Levenberg (1944), with the damping of Nielsen (1999): their objectives, and the last
    flat parameters.
    """
    flat = flatten(weights, biases).astype(float)
    mu = damping
    rise = 2.0
    if is_trained is None:
        kept = np.full(len(flat), True)
    else:
        kept = np.asarray(is_trained)
    shaped = (weights, biases)
    losses = []
    largest = np.zeros(kept.sum())
    value, *slopes = gradient(*shaped, x, y, **model)
    for _ in range(epochs):
        matrix = gauss_newton(*shaped, x, y, **model)[np.ix_(kept, kept)]
        largest = np.maximum(largest, np.diag(matrix))
        g = flatten(*slopes)[kept]
        for _ in range(60):
            scale = mu * np.sqrt(
                np.maximum(largest, 1e-12 * largest.max()) * largest.mean()
            )
            step = np.linalg.solve(matrix + np.diag(scale), -g)
            tried = flat.copy()
            tried[kept] += step
            shaped = unflatten(tried, weights, biases)
            after, *slopes = gradient(*shaped, x, y, **model)
            if after < value:
                break
            mu = mu * rise
            rise = 2 * rise
        gain = (value - after) / (step @ (scale * step - g) / 2)
        mu = mu * max(1 / 3, 1 - (2 * min(gain, 2) - 1) ** 3)
        rise = 2.0
        flat, value = tried, after
        losses.append(after)
    return losses, flat
