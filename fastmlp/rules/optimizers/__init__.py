"""Optimizers: how one step changes a parameter, given the gradient g of the objective.

An optimizer is a frozen dataclass of its settings. Its `rule` is one small function of
`fastmlp.rules.updates`; `coefficients` computes what depends on the step and not on the parameter,
so that the rule is a handful of multiplications.

To add one: write its rule and its dataclass, and give it a row in `OPTIMIZERS`.
"""

from fastmlp.rules.optimizers.adam import Adam, AdamW, Nadam
from fastmlp.rules.optimizers.adaptive import Adagrad, RMSprop
from fastmlp.rules.optimizers.custom import Custom
from fastmlp.rules.optimizers.protocol import Optimizer, Rates, Schedule
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
]

OPTIMIZERS: dict[str, type] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": Nadam,
}
