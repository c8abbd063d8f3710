"""Rules, losses, optimizers and schedules as names in JSON, and back.

Rules of the library are written as their names, with settings. A rule of the user's own is written
as ``{"own": name}``, and read back through a mapping from such names to functions. Code is never
written to a file, nor run from one.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fastmlp.rules import loss_settings
from fastmlp.rules.averages import AVERAGES
from fastmlp.rules.losses import LOSSES, Loss
from fastmlp.rules.optimizers import (
    OPTIMIZERS,
    SECOND_ORDER,
    Custom,
    Optimizer,
    SecondOrder,
)
from fastmlp.rules.optimizers.protocol import OptimizerSettings
from fastmlp.rules.schedules import SCHEDULES
from fastmlp.validation import scalars

Own = Mapping[str, Any]
OWNER = "rules"
# A schedule may hold a schedule.
MAX_DEPTH = 8
CUSTOM = "custom"


def of_rule(rule: Any, table: Mapping[str, Any]) -> Any:
    """Encode a rule: its name in the table, or ``{"own": name}``.

    Raises
    ------
    ValueError
        If a rule of the user's own has no name, such as a lambda.
    """
    for name, known in table.items():
        if known is rule:
            return name
    name = getattr(rule, "__name__", type(rule).__name__)
    if not name.isidentifier():
        raise ValueError(
            f"the rule {name!r} has no name to be found again by; define it with `def`, and "
            "pass it to `load` again, as rules={'name': function}"
        )
    return {"own": name}


def rule_from(spelled: Any, table: Mapping[str, Any], kind: str, own: Own) -> Any:
    """Decode a rule, or an object of the user's own."""
    if isinstance(spelled, str):
        scalars.known("file", kind, spelled, table)
        return table[spelled]
    (key, name), *_ = spelled.items()
    if key != "own" or len(spelled) != 1 or not isinstance(name, str):
        raise ValueError(f"{spelled!r} does not spell a {kind}")
    if name not in own:
        raise ValueError(
            f"the {kind} {name!r} is a custom rule, and no file holds code; give it: "
            f"rules={{{name!r}: ...}}"
        )
    return own[name]


def of_loss(loss: Loss) -> Any:
    """Encode a loss; the user passes a loss of their own to `load` again, as a whole `Loss`."""
    known = loss_settings.spelled(loss)
    if known is not None:
        return known if isinstance(known, str) else loss_settings.of_settings(known)
    if any(known.rule is loss.rule for known in LOSSES.values()):
        raise ValueError(
            f"a Loss of fastmlp's rule {loss.rule.__name__!r} with changed settings has no "
            "name; write a function that calls the rule, and give Loss that one"
        )
    return of_rule(loss.rule, {})


def loss_from(spelled: Any, own: Own) -> Any:
    """Decode a loss; the constructor of one with settings checks them."""
    if not isinstance(spelled, dict) or "name" not in spelled:
        return rule_from(spelled, LOSSES, "loss", own)
    made: Loss = _made(spelled, loss_settings.KINDS, "loss")
    return made


def _made(spelled: Any, kinds: Mapping[str, Any], kind: str) -> Any:
    """An object of one of these classes, from its name and its settings."""
    settings = dict(spelled)
    name = settings.pop("name")
    scalars.known("file", kind, name, kinds)
    return kinds[name](**settings)


def of_optimizer(optimizer: Optimizer) -> Any:
    """Encode an optimizer with its settings, and its schedule with the schedule's settings."""
    kinds: dict[str, type] = {**OPTIMIZERS, **SECOND_ORDER, CUSTOM: Custom}
    names = {kind: name for name, kind in kinds.items()}
    if not isinstance(optimizer, OptimizerSettings | SecondOrder) or type(optimizer) not in names:
        return of_rule(optimizer, {})
    settings = {name: of_setting(value) for name, value in optimizer.settings().items()}
    return {"name": names[type(optimizer)], **settings}


def optimizer_from(spelled: Any, own: Own) -> Optimizer:
    """Decode an optimizer; its constructor checks the settings."""
    if "own" in spelled:
        optimizer: Optimizer = rule_from(spelled, {}, "optimizer", own)
        return optimizer
    settings = dict(spelled)
    name = settings.pop("name")
    if name in SECOND_ORDER:
        second: Optimizer = SECOND_ORDER[name](**settings)
        return second
    scalars.known("file", "optimizer", name, [*OPTIMIZERS, CUSTOM])
    settings["learning_rate"] = rate_from(settings["learning_rate"], own)
    if "average" in settings:
        settings["average"] = average_from(settings["average"])
    if name != CUSTOM:
        made: Optimizer = OPTIMIZERS[name](**settings)
        return made
    rule = rule_from(settings.pop("rule"), {}, "optimizer's rule", own)
    return Custom(rule, constants=tuple(settings.pop("constants")), **settings)


def completed(spelled: Any) -> Any:
    """Return an encoded object with the settings that later versions have added, at defaults."""
    if not isinstance(spelled, dict):
        return spelled
    settings = {name: completed(value) for name, value in spelled.items()}
    kinds: Mapping[Any, Any] = {**OPTIMIZERS, **SECOND_ORDER, **SCHEDULES}
    known = fields(kinds[settings["name"]]) if settings.get("name") in kinds else ()
    # Settings that all optimizers share are written where they are in use.
    added = [f for f in known if f.name not in settings and not hasattr(OptimizerSettings, f.name)]
    return settings | {f.name: of_setting(f.default) for f in added}


def of_setting(value: Any) -> Any:
    """Encode a number, numbers, a schedule, or an average."""
    if isinstance(value, tuple):
        return [float(number) for number in value]
    kind = type(value)
    if kind in (*AVERAGES.values(), *SCHEDULES.values()):
        settings = {field.name: of_setting(getattr(value, field.name)) for field in fields(value)}
        return {"name": kind.__name__, **settings}
    return of_rule(value, {}) if callable(value) else value


def average_from(spelled: Any) -> Any:
    """Decode an average; its constructor checks the setting."""
    return _made(spelled, AVERAGES, "average")


def rate_from(spelled: Any, own: Own, depth: int = MAX_DEPTH) -> Any:
    """Decode a number, or a schedule; the caller checks a number."""
    if not isinstance(spelled, dict):
        return spelled
    if "own" in spelled:
        return rule_from(spelled, {}, "schedule", own)
    if depth == 0:
        raise ValueError(f"more than {MAX_DEPTH} schedules in one another")
    if "schedule" in spelled:
        spelled = {**spelled, "schedule": rate_from(spelled["schedule"], own, depth - 1)}
    return _made(spelled, SCHEDULES, "schedule")
