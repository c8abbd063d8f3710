"""From what the user passes to `MLP` as a loss to a `Loss`, and the outputs that it needs."""

from typing import get_args

from fastmlp.network.own_rules import OWNER, check_function, own_rule
from fastmlp.network.summary import name_of
from fastmlp.rules import links, loss_settings, losses, row_losses
from fastmlp.rules.optimizers.protocol import finite_numbers
from fastmlp.validation import scalars
from fastmlp.validation.suggestions import count


def loss(given: object) -> losses.Loss:
    """Return the loss of this name, or check a loss of the user's own."""
    if isinstance(given, str):
        scalars.known(OWNER, "loss", given, losses.LOSSES, losses.SYNONYMS)
        return losses.LOSSES[given]
    if isinstance(given, loss_settings.SETTINGS):
        return given.loss
    if isinstance(given, losses.Loss):
        return _own_loss(given) if loss_settings.spelled(given) is None else given
    if given in loss_settings.SETTINGS:
        raise TypeError(f"{OWNER}: loss must not be a class, did you mean {given.__name__}()?")
    form = "loss(prediction, target) -> (value, slope)"
    return losses.Loss(own_rule("loss", form, given, 2, 2))


def _own_loss(given: losses.Loss) -> losses.Loss:
    if given.link is not None:
        scalars.known(OWNER, "link", given.link, links.LINKS)
    scalars.known("Loss", "targets", given.targets, get_args(losses.Targets))
    scalars.known("Loss", "over_outputs", given.over_outputs, ("mean", "sum"))
    constants = finite_numbers("Loss", "constants", given.constants)
    each = scalars.positive_integer("Loss", "per_target", given.per_target)
    if scalars.boolean("Loss", "by_row", given.by_row):
        check_function("loss", "rule(outputs, targets, slopes, values)", given.rule)
    elif each > 1:
        raise ValueError(f"Loss: per_target={each} needs by_row=True: a rule that takes rows")
    else:
        form = "rule(output, target) -> (value, slope)"
        own_rule("loss", form, given.rule, 2, 2, constants)
    return given._replace(constants=constants)


def check_outputs(given: object, function: losses.Loss, sizes: tuple[int, ...]) -> None:
    """Check the number of outputs that a loss needs."""
    name = loss_settings.spelled(function)
    # A net in a file has its `Loss` in place of a name: it loads.
    if function.link == "softmax" and not isinstance(given, losses.Loss) and sizes[-1] == 1:
        binary = "binary_focal" if function.rule is row_losses.focal else "binary_cross_entropy"
        raise ValueError(
            f"{OWNER}: loss={name!r} needs one output for each class, but layer_sizes="
            f"{sizes} has 1 output, whose softmax is always 1; for two classes use "
            f"loss={binary!r}"
        )
    n, each = sizes[-1], function.per_target
    in_levels = function.rule is row_losses.quantiles
    if n % each or (in_levels and n != each):
        what = "in all, one for each level" if in_levels else "for each column of y"
        raise ValueError(
            f"{OWNER}: loss={name or name_of(function.rule)!r} needs {count(each, 'output')} "
            f"{what}, but layer_sizes={sizes} has {count(n, 'output')}"
        )


def smoothed(given: object, label_smoothing: object) -> object:
    """Return the loss that is given, with the labels smoothed if `label_smoothing` is above 0."""
    amount = scalars.fraction(OWNER, "label_smoothing", label_smoothing)
    if amount == 0:
        return given
    if isinstance(given, losses.Loss):
        given = loss_settings.spelled(given)
    if not isinstance(given, str) or given not in loss_settings.SMOOTHED:
        known = " or ".join(map(repr, loss_settings.SMOOTHED))
        raise ValueError(f"{OWNER}: label_smoothing needs loss={known}, got loss={given!r}")
    return loss_settings.Smoothed(given, amount)
