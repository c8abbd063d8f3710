"""Optimizers: settings, an update rule, and the rule's coefficients of each step.

An optimizer is a frozen dataclass of its settings. Its `rule` is a function of
`fastmlp.rules.updates`. Its `coefficients` computes, in float64 and once a step, the numbers that
depend on the step but not on the parameter, so that the rule is a handful of multiplications.

To add one: write its rule and its dataclass, and give it a row in `OPTIMIZERS`.
"""

from fastmlp.rules.optimizers.adam import Adam, AdamW, Nadam
from fastmlp.rules.optimizers.adaptive import Adagrad, RMSprop
from fastmlp.rules.optimizers.custom import Custom
from fastmlp.rules.optimizers.protocol import (
    Optimizer,
    Rates,
    Schedule,
    coefficients_of,
    gradient_rule_of,
)
from fastmlp.rules.optimizers.sgd import SGD

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Custom",
    "Nadam",
    "Optimizer",
    "RMSprop",
    "Rates",
    "Schedule",
    "coefficients_of",
    "gradient_rule_of",
]

OPTIMIZERS: dict[str, type] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": Nadam,
}
