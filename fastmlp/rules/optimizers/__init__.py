"""Optimizers: settings, an update rule, and the rule's coefficients of each step.

An optimizer is a frozen dataclass of its settings. Its `rule` is a function of
`fastmlp.rules.updates`. Its `coefficients` computes, in float64 and once a step, the numbers that
depend on the step but not on the parameter, so that the rule is a handful of multiplications.

To add one: write its rule and its dataclass, and give it a row in `OPTIMIZERS` and
its name in `OptimizerName`.
"""

from typing import Literal

from fastmlp.rules.optimizers.first_order import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Custom,
    Nadam,
    RMSprop,
    ScheduleFreeAdamW,
)
from fastmlp.rules.optimizers.protocol import (
    NormLimit,
    Optimizer,
    Rates,
    Schedule,
    average_of,
    average_start,
    coefficients_of,
    gradient_rule_of,
    has_coefficients_alone,
    is_averaged,
    lag_of,
    n_coefficients_of,
    norm_limit_of,
    traits_of,
)
from fastmlp.rules.optimizers.second_order import (
    LBFGS,
    SECOND_ORDER,
    LevenbergMarquardt,
    SecondOrder,
    jacobian_bytes,
    matrix_bytes,
    require_first_order,
)

__all__ = [
    "LBFGS",
    "OPTIMIZERS",
    "SECOND_ORDER",
    "SGD",
    "SYNONYMS",
    "Adagrad",
    "Adam",
    "AdamW",
    "Custom",
    "LevenbergMarquardt",
    "Nadam",
    "NormLimit",
    "Optimizer",
    "OptimizerName",
    "RMSprop",
    "Rates",
    "Schedule",
    "ScheduleFreeAdamW",
    "SecondOrder",
    "average_of",
    "average_start",
    "coefficients_of",
    "gradient_rule_of",
    "has_coefficients_alone",
    "is_averaged",
    "jacobian_bytes",
    "lag_of",
    "matrix_bytes",
    "n_coefficients_of",
    "norm_limit_of",
    "require_first_order",
    "traits_of",
]

OptimizerName = Literal["sgd", "rmsprop", "adagrad", "adam", "adamw", "nadam", "schedulefreeadamw"]
OPTIMIZERS: dict[str, type] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": Nadam,
    "schedulefreeadamw": ScheduleFreeAdamW,
}
# From a name, or a sentence of advice, to the words of other libraries.
SYNONYMS = {
    "sgd": "gd gradient_descent stochastic_gradient_descent",
    "schedulefreeadamw": "schedule_free schedule_free_adamw adamw_schedulefree adamwschedulefree",
    "write SGD(0.01, momentum=0.9)": "momentum",
    "write SGD(0.01, momentum=0.9, nesterov=True)": "nesterov",
    "write LBFGS(), or in MLPClassifier and MLPRegressor solver='lbfgs'": "lbfgs l_bfgs_b bfgs",
    "write LevenbergMarquardt()": "lm levenberg_marquardt levenbergmarquardt trainlm gauss_newton",
}
