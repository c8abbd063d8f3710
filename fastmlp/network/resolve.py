"""The arguments of `MLP` as rules: names are looked up, functions are checked."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast, get_args

import numpy as np

from fastmlp._process import memory
from fastmlp.network import layer_settings, residual
from fastmlp.network.own_rules import check_function, own_rule
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
from fastmlp.rules.optimizer_protocol import Optimizer, finite_numbers
from fastmlp.validation import Array, scalars
from fastmlp.validation.messages import count, suggestion

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
    *,
    activation: object,
    output: object,
    loss_setting: object,
    l2: object,
    l1: object,
    penalties: object,
    kind: Any,
    norm: object = None,
    epsilon: object = residual.NORM_EPSILON,
    skip: object = None,
) -> NamedNetwork:
    """The checked network, with the names of loss and output for `summary`."""
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
            OWNER,
            "activation",
            name,
            activations.RULES,
            activations.ACTIVATION_SYNONYMS,
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
            OWNER,
            "optimizer",
            setting,
            optimizers.OPTIMIZERS,
            optimizers.OPTIMIZER_SYNONYMS,
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
    elif hasattr(setting, "monitor"):
        hint = f": fit takes it, callbacks={type(setting).__name__}();"
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
            initializers.INITIALIZER_SYNONYMS,
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
        if "16" in str(setting):
            hint = "; compute_dtype='bfloat16' has products in bfloat16"
        else:
            hint = ""
        raise ValueError(
            f"{OWNER}: dtype must be 'float32' or 'float64', got {setting!r}{hint}"
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
            f"{setting!r}{suggestion(setting, ('cpu', 'cuda'), DEVICES)} known: cpu, "
            "cuda, cuda:0, cuda:1, ..."
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
        scalars.known(OWNER, "loss", setting, losses.LOSSES, losses.LOSS_SYNONYMS)
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
    """A user's `Loss`, with fields checked and the rule tried on numbers."""
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
