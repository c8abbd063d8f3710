"""The arguments of `MLP` as rules: names are looked up,
functions are checked by `check_rule`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from types import FunctionType
from typing import Any, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from fastmlp._process import memory, warn
from fastmlp.network import layer_settings, residual
from fastmlp.network.spec import OWNER, Layout, Network, gain_views, name_of
from fastmlp.network.state import NetState
from fastmlp.rules import (
    activations,
    initializers,
    losses,
    optimizers,
    schedules,
    updates,
)
from fastmlp.rules.losses import Loss, in_dtype
from fastmlp.rules.optimizer_protocol import Optimizer, finite_numbers
from fastmlp.validation import Array, scalars
from fastmlp.validation.calls import explained
from fastmlp.validation.messages import count, same_word, suggestion

# Words of other libraries.
DEVICES = {"cuda": "gpu nvidia"}


class NamedNetwork(NamedTuple):
    """A network, the name of its loss, or a loss with settings,
    and of its output layer's activation or link.
    """

    network: Network
    loss: Any
    output: str


def network(
    sizes: object,
    activation: object,
    output: object,
    loss_setting: object,
    l2: object,
    l1: object,
    penalties: object,
    kind: Any,
    norm: object = None,
    epsilon: object = residual.EPSILON,
    skip: object = None,
) -> NamedNetwork:
    given = residual.written_sizes(sizes)
    rules = hidden_activations(activation, len(given) - 2)
    norms = residual.norms_of(norm, len(given) - 2)
    least = scalars.positive(OWNER, "norm_epsilon", epsilon)
    of_inputs = residual.skip_of(skip, len(given) - 2)
    layout, hidden, written = residual.structure_of(
        given, rules, norms, least, of_inputs
    )
    checked = layout.sizes
    function = loss(loss_setting)
    loss_name = name_of(function.rule)
    if isinstance(loss_setting, str):
        loss_name = loss_setting
    elif spelled := losses.spelled(function):
        loss_name = spelled
    check_outputs(loss_setting, function, checked)
    rule, link = output_activation(output, loss_name, function)
    terms = penalty_terms(l2, l1, penalties)
    made = Network(
        layout, (*hidden, rule), function, link, terms, dtype(kind), written=written
    )
    return NamedNetwork(made, loss_name, name_of(function.link or rule))


def initial_state(
    network: Network, optimizer: Optimizer, generator: np.random.Generator, rule: object
) -> NetState:
    """A state of step 0: weights and biases of the initializer,
    or of the one that suits the activations.
    """
    layout = network.layout
    room_for_parameters(layout, network.dtype)
    parameters = np.zeros(layout.n_parameters, network.dtype)
    state = NetState(layout, parameters, optimizer, generator)
    initialize = initializer(rule, network.activations)
    for each, weights, biases in zip(
        initialize, state.weights, state.biases, strict=True
    ):
        initial_numbers(each, generator, weights, biases)
    for gains in gain_views(layout, parameters):
        gains[:] = 1
    if network.signs:
        layer_settings.set_first_weights(network, parameters)
    return state


def layer_sizes(sizes: object) -> tuple[int, ...]:
    """Two or more integers of 1 or more, inputs first, without residual blocks."""
    return tuple(
        scalars.positive_integer(OWNER, f"layer_sizes[{i}]", n)
        for i, n in enumerate(residual.written_sizes(sizes))
    )


def activation(rule: object) -> activations.ActivationRule:
    if isinstance(rule, str):
        name = activations.ALIASES.get(rule, rule)
        scalars.known(
            OWNER, "activation", name, activations.RULES, activations.SYNONYMS
        )
        return activations.RULES[name]
    return own_rule("activation", "activation(z) -> (value, slope)", rule, 1, 2)


def hidden_activations(
    setting: object, n_hidden: int
) -> tuple[activations.ActivationRule, ...]:
    """One rule per hidden layer."""
    if isinstance(setting, str) or callable(setting):
        return (activation(setting),) * n_hidden
    if not isinstance(setting, Sequence):
        raise TypeError(
            f"{OWNER}: activation must be a name, a function, or one of them per "
            f"hidden layer, got {setting!r}"
        )
    if len(setting) != n_hidden:
        raise ValueError(
            f"{OWNER}: activation names {count(len(setting), 'layer')}, but "
            f"layer_sizes has {n_hidden} hidden"
        )
    return tuple(activation(rule) for rule in setting)


def output_activation(
    setting: object, name: str, function: losses.Loss
) -> tuple[activations.ActivationRule, losses.Link]:
    """The output layer's rule and the link to predictions; raise if they do not fit."""
    if function.link is None:
        if (
            isinstance(setting, str)
            and setting in losses.LINKS
            and setting not in activations.RULES
        ):
            owner = next(
                loss for loss, row in losses.LOSSES.items() if row.link == setting
            )
            raise ValueError(
                f"{OWNER}: unknown activation {setting!r} of the loss {name!r}; it "
                f"comes with loss={owner!r}"
            )
        rule = activation("identity" if setting is None else setting)
        return rule, losses.LINKS["identity"]
    alias = (
        activations.ALIASES.get(setting, setting)
        if isinstance(setting, str)
        else setting
    )
    if alias is not None and alias != function.link:
        raise ValueError(
            f"{OWNER}: the loss {name!r} owns its output link {function.link!r}; "
            f"output_activation must be None or {function.link!r}, got {setting!r}"
        )
    return activation("identity"), losses.LINKS[function.link]


def optimizer(setting: object) -> Optimizer:
    if isinstance(setting, str):
        scalars.known(
            OWNER, "optimizer", setting, optimizers.OPTIMIZERS, optimizers.SYNONYMS
        )
        return optimizers.OPTIMIZERS[setting]()
    # The library's optimizers first:
    # the check of the protocol takes a seventh of making a net.
    known = optimizers.OPTIMIZERS.values()
    if type(setting) in known or isinstance(setting, optimizers.SecondOrder):
        return cast(Optimizer, setting)
    if isinstance(setting, optimizers.Custom):
        form = "rule(w, g, m, v, rate, *constants) -> (w, m, v)"
        own_rule("optimizer", form, setting.rule, 5 + len(setting.constants), 3)
    if isinstance(setting, Optimizer) and not isinstance(setting, type):
        return setting
    is_rate = type(setting) in schedules.SCHEDULES.values() or isinstance(
        setting, float
    )
    if callable(setting) and not isinstance(setting, type) and not is_rate:
        form = "optimizer(w, g, m, v, rate) -> (w, m, v)"
        return optimizers.Custom(own_rule("optimizer", form, setting, 5, 3))
    if is_rate:
        meant = f"Adam({setting!r})"
    else:
        meant = f"{getattr(setting, '__name__', '')}()"
    if is_rate or isinstance(setting, type):
        hint = f", did you mean {meant}?"
    else:
        hint = ";"
    raise TypeError(
        f"{OWNER}: optimizer must be a name, an optimizer such as Adam(), or an update "
        f"rule, got {setting!r}{hint} known names: "
        f"{', '.join(sorted(optimizers.OPTIMIZERS))}"
    )


def penalty_terms(
    l2: object, l1: object, more: object
) -> tuple[tuple[updates.PenaltyRule, float], ...]:
    """Pairs of a penalty's rule and a strength above 0."""
    if more is not None and not isinstance(more, Mapping):
        raise TypeError(
            f"{OWNER}: penalties must be a mapping of names or functions to strengths, "
            f"got {more!r}"
        )
    terms = []
    for key, strength in [("l2", l2), ("l1", l1), *(more or {}).items()]:
        if isinstance(key, str):
            name = key
        else:
            name = getattr(key, "__name__", "penalty")
        rule = _penalty(key)
        number = scalars.non_negative(OWNER, name, strength)
        if number > 0:
            terms.append((rule, number))
    return tuple(terms)


def _penalty(key: object) -> updates.PenaltyRule:
    if isinstance(key, str):
        scalars.known(
            OWNER, "penalty", key, updates.PENALTIES, updates.PENALTY_SYNONYMS
        )
        return updates.PENALTIES[key]
    return own_rule("penalty", "penalty(w) -> (value, slope)", key, 1, 2)


def room_for_parameters(layout: Layout, kind: np.dtype[Any]) -> None:
    """Check for the memory of the parameters, and of drawing one layer in float64."""
    largest = max(n_in * n_out for n_in, n_out in layout.shapes)
    n_bytes = layout.n_parameters * kind.itemsize + 9 * largest
    purpose = f"layer_sizes={layout.sizes}: making {layout.n_parameters:,} parameters"
    memory.require(n_bytes, OWNER, purpose)


def initializer(
    setting: object, rules: Sequence[activations.ActivationRule]
) -> list[Any]:
    """One initializer per layer: the setting, or the activation's default."""
    if isinstance(setting, str):
        scalars.known(
            OWNER,
            "initializer",
            setting,
            initializers.INITIALIZERS,
            initializers.SYNONYMS,
        )
    elif setting is not None and not callable(setting):
        raise TypeError(
            f"{OWNER}: initializer must be a name or a function, got {setting!r}"
        )
    return initializers.by_layer(setting, [rule.__name__ for rule in rules])


def initial_numbers(
    rule: Any, generator: np.random.Generator, weights: Array, biases: Array
) -> None:
    """Write an initializer's checked numbers for a layer to `weights`, shape (n_in,
    n_out), and to `biases`, shape (n_out,), which stay 0 if the initializer returns
    weights alone.
    """
    drawn = rule(generator, weights.shape)
    if isinstance(drawn, tuple) and len(drawn) == 2:
        _write_numbers(rule, "weights", drawn[0], weights)
        _write_numbers(rule, "biases", drawn[1], biases)
    else:
        _write_numbers(rule, "weights", drawn, weights)


def _write_numbers(rule: Any, what: str, drawn: Any, out: Array) -> None:
    numbers = np.asarray(drawn)
    if numbers.shape != out.shape or numbers.dtype.kind not in "fiub":
        raise _no_numbers(rule, what, out, f"{numbers.dtype} of shape {numbers.shape}")
    with np.errstate(over="ignore"):
        out[:] = numbers
    if not (good := np.isfinite(out)).all():
        raise _no_numbers(rule, what, out, str(out[~good][0]))


def _no_numbers(rule: Any, what: str, out: Array, got: str) -> ValueError:
    """The text is made on failure only: it took a tenth of making a small net."""
    return ValueError(
        f"{OWNER}: initializer {getattr(rule, '__name__', rule)!r} must return "
        f"weights, or (weights, biases); {what} must be finite {out.dtype} numbers of "
        f"shape {out.shape}, got {got}"
    )


def dtype(setting: Any) -> np.dtype[Any]:
    try:
        kind = np.dtype(setting)
    except TypeError:
        kind = np.dtype(object)
    if setting is None or kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(
            f"{OWNER}: dtype must be 'float32' or 'float64', got {setting!r}"
        )
    return kind


def generator(seed: Any) -> np.random.Generator:
    try:
        if isinstance(seed, bool | np.bool_):
            raise TypeError("it would do as 0 or 1")
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{OWNER}: seed must be None, an integer of 0 or more, a SeedSequence or a "
            f"Generator, got {seed!r}"
        ) from error


def device(setting: object) -> str:
    """Check a device's name, not that the device exists."""
    if isinstance(setting, str):
        number = setting.removeprefix("cuda:")
    else:
        number = ""
    numbered = setting != number and number.isascii() and number.isdigit()
    if setting not in ("cpu", "cuda") and not numbered:
        raise ValueError(
            f"{OWNER}: unknown device "
            f"{setting!r}{suggestion(setting, ('cpu', 'cuda'), DEVICES)} "
            "known: cpu, cuda, cuda:0, cuda:1, ..."
        )
    return str(setting)


def own_rules(setting: object, who: str) -> Mapping[str, Any]:
    if setting is None:
        return {}
    if not isinstance(setting, Mapping):
        raise TypeError(
            f"{who}: rules must be a mapping of names to rules, got {setting!r}"
        )
    return setting


def loss(setting: object) -> losses.Loss:
    if isinstance(setting, str):
        scalars.known(OWNER, "loss", setting, losses.LOSSES, losses.SYNONYMS)
        return losses.LOSSES[setting]
    if isinstance(setting, losses.LossSettings):
        return setting.loss
    if isinstance(setting, losses.Loss):
        if losses.spelled(setting) is None:
            return _own_loss(setting)
        return setting
    if isinstance(setting, type) and issubclass(setting, losses.LossSettings):
        raise TypeError(
            f"{OWNER}: loss must not be a class, did you mean {setting.__name__}()?"
        )
    form = "loss(prediction, target) -> (value, slope)"
    return losses.Loss(own_rule("loss", form, setting, 2, 2))


def _own_loss(setting: losses.Loss) -> losses.Loss:
    if setting.link is not None:
        scalars.known(OWNER, "link", setting.link, losses.LINKS)
    scalars.known("Loss", "targets", setting.targets, get_args(losses.Targets))
    scalars.known("Loss", "over_outputs", setting.over_outputs, ("mean", "sum"))
    constants = finite_numbers("Loss", "constants", setting.constants)
    per_target = scalars.positive_integer("Loss", "per_target", setting.per_target)
    if setting.curvature is not None:
        check_function(
            "curvature", "curvature(output, target) -> number", setting.curvature
        )
    if scalars.boolean("Loss", "by_row", setting.by_row):
        if setting.over_outputs == "sum":
            raise ValueError(
                "Loss: over_outputs='sum' has no effect with by_row=True: the rule "
                "itself writes one value for each row; leave over_outputs out"
            )
        check_function("loss", "rule(outputs, targets, slopes, values)", setting.rule)
    elif per_target > 1:
        raise ValueError(
            f"Loss: per_target={per_target} needs by_row=True: a rule that takes rows"
        )
    else:
        form = "rule(output, target) -> (value, slope)"
        own_rule("loss", form, setting.rule, 2, 2, constants)
    return setting._replace(constants=constants)


def check_outputs(
    setting: object, function: losses.Loss, sizes: tuple[int, ...], where: str = ""
) -> None:
    """Check that a net, or a head `where`, has outputs for a loss."""
    where = where or f"layer_sizes={sizes}"
    name = losses.spelled(function)
    # A net in a file has its `Loss` in place of a name: it loads.
    if (
        function.link == "softmax"
        and not isinstance(setting, losses.Loss)
        and sizes[-1] == 1
    ):
        binary = f"binary_{getattr(name, 'kind', name)}"
        raise ValueError(
            f"{OWNER}: loss={name!r} needs one output for each class, but "
            f"{where} has 1 output, whose softmax is always 1; for two classes use "
            f"loss={binary!r}"
        )
    n = sizes[-1]
    per_target = function.per_target
    in_levels = function.link == "sorted"
    if n % per_target or (in_levels and n != per_target):
        if in_levels:
            purpose = "in all, one for each level"
        else:
            purpose = "for each column of y"
        raise ValueError(
            f"{OWNER}: loss={name or name_of(function.rule)!r} needs "
            f"{count(per_target, 'output')} {purpose}, but {where} has "
            f"{count(n, 'output')}"
        )


def smoothed(setting: object, label_smoothing: object) -> object:
    amount = scalars.fraction(OWNER, "label_smoothing", label_smoothing)
    if amount == 0:
        return setting
    if isinstance(setting, losses.Loss):
        setting = losses.spelled(setting)
    if not isinstance(setting, str) or setting not in losses.SMOOTHED:
        known = " or ".join(map(repr, losses.SMOOTHED))
        raise ValueError(
            f"{OWNER}: label_smoothing needs loss={known}, got loss={setting!r}"
        )
    return losses.Smoothed(setting, amount)


NAMES: Mapping[str, Iterable[str]] = {
    "activation": activations.RULES,
    "loss": losses.LOSSES,
    "penalty": updates.PENALTIES,
}


# Points at which slopes are compared with differences; targets are valid for each kind.
POINTS = (-1.7, -0.6, 0.35, 0.8, 1.4)
TARGETS = (0.2, 0.7)
# Rules that compute in float32 have errors of 1e-4.
LARGEST_ERROR = 1e-2


def own_rule(
    kind: str,
    form: str,
    rule: Any,
    n_arguments: int,
    n_results: int,
    constants: losses.Constants = (),
) -> Any:
    """Check a user's rule by calling it uncompiled:
    its results, and its slope if it has one.
    """
    check_function(kind, form, rule)
    function = getattr(rule, "py_func", rule)
    constants = losses.in_dtype(constants, np.float64)
    try:
        result = function(*[np.float64(0.5)] * n_arguments, *constants)
    except Exception as error:
        raise TypeError(
            f"{OWNER}: {kind} must be a function {form}; calling it failed: {error}"
        ) from error
    n_given = len(result) if isinstance(result, tuple) else 0
    # An activation may return its second derivative too.
    is_known = n_given == n_results or (kind == "activation" and n_given == 3)
    if not is_known or not all(map(_scalar, result)):
        raise TypeError(
            f"{OWNER}: {kind} must be a function {form}, but it returned {result!r}"
        )
    if n_results == 2:
        _check_slope(kind, function, n_arguments, constants)
    return rule


def check_function(kind: str, form: str, rule: Any) -> None:
    if not isinstance(rule, FunctionType) and not hasattr(rule, "py_func"):
        # A function of NumPy, a class or a layer of another library may have a name of
        # ours.
        word = str(getattr(rule, "__name__", type(rule).__name__))
        meant = same_word(word, NAMES.get(kind, ()))
        hint = f", did you mean {meant!r}?" if meant else ""
        raise TypeError(
            f"{OWNER}: {kind} must be a name or a function {form}, got {rule!r}{hint}"
        )


def _scalar(value: object) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub"  # type: ignore[arg-type]


def _check_slope(kind: str, function: Any, n_arguments: int, constants: Any) -> None:
    """Warn if the slope is not the derivative of the value at most points:
    some may be kinks.
    """
    places = np.array(list(product(POINTS, *[TARGETS] * (n_arguments - 1))))
    try:
        with np.errstate(all="ignore"):
            evaluate = of_numbers(function, places[:, 1:], constants)
            slopes, derivatives, errors = compared(evaluate, places[:, :1])
    except Exception:
        return
    wrong = (errors > LARGEST_ERROR)[:, 0]
    if 2 * wrong.sum() <= np.isfinite(errors).sum():
        return
    first = int(np.argmax(wrong))
    sums = np.abs(slopes + derivatives)
    negated = sums <= LARGEST_ERROR * (
        1 + np.maximum(np.abs(slopes), np.abs(derivatives))
    )
    swapped = kind == "loss" and negated[np.isfinite(errors)].all()
    if swapped:
        hint = "; its arguments are (prediction, target), in this order"
    else:
        hint = ""
    warn(
        f"{OWNER}: the slope of the {kind} {function.__name__!r} is not the derivative "
        f"of its value: at ({', '.join(f'{x:g}' for x in places[first])}) it returns "
        f"{slopes[first, 0]:.4g}, and differences of values give "
        f"{derivatives[first, 0]:.4g}{hint}; training follows the slope",
        RuntimeWarning,
    )


# From outputs, shape (n_points, n_outputs), to values, shape (n_points,), and slopes.
Evaluate = Callable[[Array], tuple[Array, Array]]
WHO = "check_rule"
FORMS = "rule(z) -> (value, slope) or loss(prediction, target) -> (value, slope)"
# Off 0, 1 and other kinks of rules; targets are valid for each kind of loss.
CHECKED_POINTS = np.linspace(-2.93, 2.91, 17)
CHECKED_TARGETS = np.array([0.23, 0.71])
# The step of differences up to 1, and times |z| beyond, where 1e-3 would drown in
# rounding: with the double step the error is of order 4, 1e-12.
STEP = 1e-3


class RuleCheck(NamedTuple):
    """The largest error of a rule's slopes, and its place."""

    error: float
    point: tuple[float, ...]
    slope: float
    derivative: float


@explained
def check_rule(
    rule: Callable[..., Any] | Loss,
    points: ArrayLike | None = None,
    targets: ArrayLike | None = None,
) -> RuleCheck:
    """Compare the slopes of an activation,
    a penalty or a loss with derivatives of its values.

    The rule is called uncompiled, on float64. Derivatives are differences of values;
    a right rule has an error below 1e-6.

    Parameters
    ----------
    rule : callable or Loss
        A function ``rule(z) -> (value, slope)`` or ``loss(prediction, target)
        -> (value, slope)``, or a `Loss` of numbers or, with `by_row`, of rows.
    points : array_like, optional
        Numbers z, or predictions, each with each target; default: 17 from -2.93 to
        2.91. A loss by rows needs an array (n_rows, n_outputs). Points without a finite
        value and slope are left out.
    targets : array_like, optional
        Targets in the loss's range; default: 0.23 and 0.71.
        A loss by rows needs shape (n_rows,) or (n_rows, n_columns).

    Returns
    -------
    RuleCheck
        A tuple: `error`, the largest difference over 1 plus the larger of both sizes,
        and the `point` (with its target), `slope` and `derivative` there.

    Raises
    ------
    TypeError
        If `rule` is not such a function; an optimizer's has no slope.
    ValueError
        If nothing is finite at any point, or rows lack points or targets.

    Examples
    --------
    >>> from fastmlp import check_rule
    >>> from fastmlp.rules.elementary import exp
    >>> def bump(z):
    ...     value = exp(-z * z)
    ...     return value, type(z)(-2) * z * value
    >>> check_rule(bump).error < 1e-6
    True

    A slope of half the size:

    >>> def squared(prediction, target):
    ...     error = prediction - target
    ...     return error * error, error
    >>> wrong = check_rule(squared, points=[2.0], targets=[1.0])
    >>> print(f"at {wrong.point} {wrong.slope:.3f}, and the derivative is {wrong.derivative:.3f}")
    at (2.0, 1.0) 1.000, and the derivative is 2.000
    """
    loss = rule if isinstance(rule, Loss) else None
    function = getattr(
        loss.rule if loss else rule, "py_func", loss.rule if loss else rule
    )
    if loss:
        constants = in_dtype(loss.constants, np.float64)
    else:
        constants = ()
    if not inspect.isfunction(function):
        raise TypeError(
            f"{WHO}: rule must be a function {FORMS}, or a Loss, got {rule!r}"
        )
    if loss and loss.by_row:
        raw, target = _rows(points, targets)
        evaluate = _of_rows(function, target, constants)
    else:
        raw, target = _numbers(function, points, targets, len(constants))
        evaluate = of_numbers(function, target, constants)
    with np.errstate(all="ignore"):
        return _largest(evaluate, raw, target)


def _array(name: str, numbers: ArrayLike) -> Array:
    try:
        return np.asarray(numbers, np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{WHO}: {name} must be numbers, got {numbers!r}") from error


def _rows(points: ArrayLike | None, targets: ArrayLike | None) -> tuple[Array, Array]:
    if points is None or targets is None:
        raise ValueError(
            f"{WHO}: a loss by rows needs points, shape (n_rows, n_outputs), and "
            f"targets, one row "
            "or label for each"
        )
    raw = _array("points", points)
    target = _array("targets", targets)
    if raw.ndim != 2 or target.ndim not in (1, 2) or len(raw) != len(target):
        raise ValueError(
            f"{WHO}: points must have shape (n_rows, n_outputs), and targets as many "
            f"rows, got {raw.shape} and {target.shape}"
        )
    return raw, target.reshape(len(target), -1)


def _numbers(
    function: Any, points: ArrayLike | None, targets: ArrayLike | None, n_constants: int
) -> tuple[Array, Array]:
    """Each point with each target; an activation and a penalty have no targets."""
    n_arguments = len(inspect.signature(function).parameters) - n_constants
    if n_arguments not in (1, 2):
        raise TypeError(
            f"{WHO}: rule must be a function {FORMS}, but {function.__name__!r} has "
            f"{n_arguments + n_constants} arguments; an optimizer's rule has no slope"
        )
    if n_arguments == 1 and targets is not None:
        raise TypeError(
            f"{WHO}: {function.__name__!r} has one argument, and so no targets"
        )
    axes = [CHECKED_POINTS if points is None else np.ravel(_array("points", points))]
    if n_arguments == 2:
        axes.append(
            CHECKED_TARGETS if targets is None else np.ravel(_array("targets", targets))
        )
    table = np.array(list(product(*axes)), np.float64).reshape(-1, n_arguments)
    return table[:, :1], table[:, 1:]


def of_numbers(function: Any, target: Array, constants: Any) -> Evaluate:
    def pair_at(row: Array) -> tuple[float, float]:
        try:
            result = function(*row, *constants)
        except (ArithmeticError, ValueError):  # as math.log does outside its range
            return np.nan, np.nan
        if (
            not isinstance(result, tuple)
            or len(result) not in (2, 3)
            or any(map(np.ndim, result))
        ):
            raise TypeError(
                f"{WHO}: rule must be a function {FORMS}, but {function.__name__!r} "
                f"returned {result!r}"
            )
        return float(result[0]), float(result[1])

    def evaluate(raw: Array) -> tuple[Array, Array]:
        pairs = np.array([pair_at(row) for row in np.hstack([raw, target])]).reshape(
            -1, 2
        )
        return pairs[:, 0], pairs[:, 1:]

    return evaluate


def _of_rows(function: Any, target: Array, constants: Any) -> Evaluate:
    def evaluate(raw: Array) -> tuple[Array, Array]:
        # Columns are contiguous, as in training.
        slopes = np.zeros(raw.shape, order="F")
        values = np.zeros(len(raw))
        function(
            np.asfortranarray(raw),
            np.asfortranarray(target),
            slopes,
            values,
            *constants,
        )
        return values, slopes

    return evaluate


def compared(evaluate: Evaluate, raw: Array) -> tuple[Array, Array, Array]:
    """Slopes, differences of values, and errors, shape (n_points, n_outputs) each."""
    _, slopes = evaluate(raw)
    derivatives = np.empty(raw.shape)
    for j in range(raw.shape[1]):
        step = np.zeros(raw.shape)
        step[:, j] = STEP * np.maximum(1, np.abs(raw[:, j]))
        single, double = (
            (evaluate(raw + n * step)[0] - evaluate(raw - n * step)[0])
            / (2 * n * step[:, j])
            for n in (1, 2)
        )
        derivatives[:, j] = (4 * single - double) / 3
    sizes = 1 + np.maximum(np.abs(slopes), np.abs(derivatives))
    return slopes, derivatives, np.abs(slopes - derivatives) / sizes


def _largest(evaluate: Evaluate, raw: Array, target: Array) -> RuleCheck:
    slopes, derivatives, errors = compared(evaluate, raw)
    if not np.isfinite(errors).any():
        raise ValueError(
            f"{WHO}: rule has no finite value and slope at any point; give points="
        )
    i, j = divmod(
        int(np.argmax(np.where(np.isfinite(errors), errors, -1))), raw.shape[1]
    )
    place = tuple(map(float, (*raw[i], *target[i])))
    return RuleCheck(
        float(errors[i, j]), place, float(slopes[i, j]), float(derivatives[i, j])
    )
