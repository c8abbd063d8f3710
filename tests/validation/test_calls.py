"""Calls that do not fit a signature: who, the keyword, ours for it, and the known ones."""

import inspect
import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

import fastmlp
from fastmlp import (
    MLP,
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    Custom,
    Exponential,
    Loss,
    MLPClassifier,
    MLPEnsembleClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    MLPSearchCV,
    OneCycle,
    RMSprop,
    StepDecay,
    Warmup,
    fit_many,
)
from fastmlp.validation import keywords
from fastmlp.validation.calls import explained

X, Y = np.ones((6, 3)), np.ones(6)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "MLP": lambda **given: MLP((3, 4, 1), **given),
    "MLP.fit": lambda **given: MLP((3, 4, 1)).fit(X, Y, **given),
    "MLP.load": lambda **given: MLP.load("net", **given),
    "MLP.save": lambda **given: MLP((3, 4, 1)).save("net", **given),
    "MLP.to": lambda **given: MLP((3, 4, 1)).to(**given),
    "fastmlp.save": lambda **given: fastmlp.save(MLP((3, 4, 1)), "net", **given),
    "fastmlp.load": lambda **given: fastmlp.load("net", **given),
    "fit_many": lambda **given: fit_many([], X, Y, **given),
    "Loss": lambda **given: Loss(np.sin, **given),
    "Custom": lambda **given: Custom(np.sin, **given),
    "MLPClassifier.fit": lambda **given: MLPClassifier().fit(X, Y, **given),
    "MLPRegressor.fit": lambda **given: MLPRegressor().fit(X, Y, **given),
    "MLPEnsembleRegressor.fit": lambda **given: MLPEnsembleRegressor().fit(X, Y, **given),
    "MLPSearchCV": lambda **given: MLPSearchCV(MLPClassifier(), {}, **given),
    **{
        kind.__name__: kind
        for kind in (
            *(Adam, AdamW, SGD, RMSprop, Cosine, Exponential, OneCycle, StepDecay, Warmup),
            *(MLPClassifier, MLPRegressor, MLPEnsembleClassifier, MLPEnsembleRegressor),
        )
    },
}
MEANT = {
    "MLP": {
        "p": "dropout",
        "rate": "dropout",
        "stddev": "input_noise",
        "hidden_layer_sizes": "layer_sizes",
        "units": "layer_sizes",
        "alpha": "l2",
        "weight_decay": "l2",
        "random_state": "seed",
        "solver": "optimizer",
        "n_jobs": "n_threads",
        "kernel_initializer": "initializer",
        "criterion": "loss",
        "activaton": "activation",
    },
    "MLP.fit": {
        "n_epochs": "epochs",
        "max_iter": "epochs",
        "verbose": "progress",
        "callback": "callbacks",
        "eval_set": "validation_data",
        "X_val": "validation_data",
        "batchsize": "batch_size",
        "sample_weights": "sample_weight",
        "epoch": "epochs",
    },
    "MLP.load": {"custom_objects": "rules"},
    "MLP.save": {"include_optimizer": "include_training_state", "filename": "path"},
    "MLP.to": {"gpu": "device"},
    "fastmlp.save": {"include_optimizer": "include_training_state"},
    "fastmlp.load": {"custom_objects": "rules"},
    "fit_many": {"n_jobs": "n_threads", "max_iter": "epochs", "verbose": "progress"},
    "Loss": {"target": "targets"},
    "Custom": {"lr": "learning_rate"},
    "Adam": {
        "lr": "learning_rate",
        "eps": "epsilon",
        "beta1": "beta_1",
        "clip_value": "clipvalue",
        "max_norm": "global_clipnorm",
        "clip_by_global_norm": "global_clipnorm",
    },
    "AdamW": {"lr": "learning_rate", "alpha": "weight_decay"},
    "SGD": {"lr": "learning_rate", "nesterovs_momentum": "nesterov"},
    "RMSprop": {"alpha": "rho"},
    "Cosine": {
        "T_max": "n_steps",
        "eta_min": "final_rate",
        "initial_learning_rate": "learning_rate",
    },
    "Exponential": {"gamma": "factor", "decay_rate": "factor", "decay_steps": "every"},
    "StepDecay": {"step_size": "every"},
    "Warmup": {"warmup_steps": "n_steps"},
    "OneCycle": {"pct_start": "warm", "max_lr": "learning_rate"},
    "MLPClassifier": {
        "layer_sizes": "hidden_layer_sizes",
        "epochs": "max_iter",
        "lr": "learning_rate_init",
        "seed": "random_state",
        "l2": "alpha",
        "optimizer": "solver",
    },
    "MLPRegressor": {
        "dropout_rate": "dropout",
        "epochs": "max_iter",
        "criterion": "loss",
        "n_threads": "n_jobs",
    },
    "MLPEnsembleClassifier": {"n_estimators": "n_members"},
    "MLPEnsembleRegressor": {"n_estimators": "n_members"},
    "MLPSearchCV": {"seed": "random_state", "grid": "param_grid"},
    "MLPClassifier.fit": {
        "sample_weights": "sample_weight",
        "val_data": "X_val",
        "verbose": "progress",
        "callback": "callbacks",
    },
}
ADVICE = {
    ("MLP", "lr"): r"the optimizer has it: optimizer=Adam\(learning_rate=0.001\)",
    ("MLP", "learning_rate"): "the optimizer has it",
    ("MLP", "momentum"): r"optimizer=SGD\(0.01, momentum=0.9\)",
    ("MLP", "max_iter"): r"it is an argument of fit: net.fit\(X, y, epochs=100\)",
    ("MLP", "batch_size"): r"net.fit\(X, y, batch_size=32\)",
    ("MLP", "verbose"): r"net.fit\(X, y, progress=True\)",
    ("MLP.fit", "dropout"): r"MLP\(layer_sizes, dropout=...\)",
    ("MLP", "metrics"): r"it is an argument of fit: net.fit\(X, y, metrics='mae'\)",
    ("MLP", "early_stopping"): r"net.fit\(X, y, early_stopping=10\)",
    ("MLP", "val_split"): r"net.fit\(X, y, validation_split=0.1\)",
    ("MLP.fit", "tol"): r"early_stopping=EarlyStopping\(min_delta=1e-4\)",
    ("MLP.fit", "lr_scheduler"): "ReduceLROnPlateau is one of the callbacks of fit",
    ("MLP.fit", "patience"): "it is an argument of fit: early_stopping=10",
    ("MLP", "class_weights"): r"net.fit\(X, y, class_weight='balanced'\)",
    ("MLP.fit", "label_smoothing"): r"MLP\(layer_sizes, label_smoothing=...\)",
    ("MLP.fit", "layer_rates"): r"MLP\(layer_sizes, layer_rates=...\)",
    ("MLP", "trainable"): r"an attribute of the net: net.trainable = \[False, True\]",
    ("MLP.fit", "freeze"): r"an attribute of the net: net.trainable = \[False, True\]",
    ("Adam", "param_groups"): r"MLP\(layer_sizes, layer_rates=...\)",
    ("Adam", "decay_biases"): r"AdamW has it: AdamW\(decay_biases=False\)",
    ("MLP", "quantile_alpha"): r"the loss has it: loss=Quantile\(0.9\)",
    ("fit_many", "class_weight"): r"use sample_weight=np.array\(\[1.0, 5.0\]\)\[y\]",
    ("MLP.fit", "lr"): "the optimizer has it",
    ("MLP.fit", "random_state"): r"it is an argument of the net: MLP\(layer_sizes, seed=...\)",
    ("Adam", "weight_decay"): r"use AdamW\(weight_decay=...\)",
    ("Adam", "betas"): "beta_1 and beta_2",
    ("MLP", "clipvalue"): r"optimizer=Adam\(clipvalue=1.0\)",
    ("MLP.fit", "max_grad_norm"): r"optimizer=Adam\(global_clipnorm=1.0\)",
    ("MLPClassifier", "max_norm"): r"solver=Adam\(global_clipnorm=1.0\)",
    ("Adam", "params"): "fit trains all parameters",
    ("SGD", "decay"): r"use a schedule: learning_rate=Exponential\(0.01\)",
    ("Warmup", "learning_rate"): r"Warmup\(0.01\)",
    ("Cosine", "n_epochs"): r"it counts steps, n_epochs \* .*: use n_steps",
    ("OneCycle", "epochs"): "it counts steps, .*: use n_steps",
    ("Warmup", "epochs"): "it counts steps, .*: use n_steps",
    ("StepDecay", "epochs"): "it counts steps, .*: use every",
    ("MLPClassifier", "callbacks"): r"fit of MLPClassifier and MLPRegressor has them: fit\(X, y, ",
    ("MLPClassifier.fit", "dropout_rate"): "it is a parameter of the estimator: dropout=...",
    ("MLPRegressor", "class_weight"): "use sample_weight of fit",
    ("MLPSearchCV", "epochs"): "it is a parameter of the estimator: max_iter=...",
    ("MLPClassifier.fit", "epochs"): "it is a parameter of the estimator: max_iter=...",
    ("MLPClassifier.fit", "validation_data"): "use X_val and y_val",
    ("MLPEnsembleRegressor.fit", "callbacks"): "fit of MLPClassifier and MLPRegressor has them",
}


@pytest.mark.parametrize(
    ("who", "keyword", "meant"), [(w, k, m) for w, words in MEANT.items() for k, m in words.items()]
)
def test_a_keyword_elsewhere_names_ours(who: str, keyword: str, meant: str) -> None:
    wrong = f"^{who}: got an unexpected keyword argument {keyword!r}"
    with pytest.raises(TypeError, match=f"{wrong}, did you mean {meant!r}. known: .*{meant}"):
        FUNCTIONS[who](**{keyword: 1})


@pytest.mark.parametrize(("who", "keyword"), ADVICE)
def test_a_keyword_without_one_of_ours_says_what_to_do(who: str, keyword: str) -> None:
    wrong = f"^{who}: got an unexpected keyword argument {keyword!r}"
    with pytest.raises(TypeError, match=f"{wrong}: .*{ADVICE[who, keyword]}.*; known: "):
        FUNCTIONS[who](**{keyword: 1})


@pytest.mark.parametrize("who", FUNCTIONS)
def test_other_keywords_list_the_known_ones_alone(who: str) -> None:
    wrong = f"^{who}: got an unexpected keyword argument 'frobnicate'; known: [a-zA-Z]"
    with pytest.raises(TypeError, match=wrong):
        FUNCTIONS[who](frobnicate=1)


POSITIONAL: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    (
        MLP,
        (3, 8, 1),
        {},
        r"MLP: layer_sizes must be one sequence, got 3 numbers: MLP\(\(3, 8, 1\)\)",
    ),
    (
        MLPRegressor,
        (64, 32, 16, 8),
        {},
        r"MLPRegressor: hidden_layer_sizes must be one sequence, got 4 numbers: "
        r"MLPRegressor\(hidden_layer_sizes=\(64, 32, 16, 8\)\)",
    ),
    (
        Constant,
        (1, 2),
        {},
        r"Constant: takes 1 positional argument \(learning_rate\), but 2 were given",
    ),
    (MLP, ((3, 8), "relu"), {}, r"MLP: takes 1 positional argument \(layer_sizes\), but 2 were .*"),
    (MLP, (), {}, r"MLP: missing 1 required argument: 'layer_sizes'; call MLP\(layer_sizes\)"),
    (MLP, ((3, 1),), {"layer_sizes": 3}, "MLP: layer_sizes is given twice, by its place and by .*"),
    (
        MLP((3, 1)).fit,
        (X,),
        {},
        r"MLP.fit: missing 1 required argument: 'y'; call MLP.fit\(X, y\), .*",
    ),
    (MLP((3, 1)).fit, (), {}, "MLP.fit: missing 1 required argument: 'X'; call .*"),
    (
        MLP((3, 1)).fit,
        (X, Y, 100),
        {},
        r"MLP.fit: takes 2 positional arguments \(X, y\), but 3 were given; name the others: "
        r"epochs=\.\.\., batch_size=.*",
    ),
    (
        MLPClassifier,
        ((64,), "relu", "adam"),
        {},
        r"MLPClassifier: takes 2 positional arguments .*; name the others: solver=.*",
    ),
    (
        MLPSearchCV(MLPClassifier(), {}).fit,
        (),
        {"groups": 1},
        "MLPSearchCV.fit: missing 1 .*: 'X'.*",
    ),
    (Cosine, (), {}, "Cosine: missing 1 required argument: 'learning_rate'.*"),
]


@pytest.mark.parametrize(("function", "args", "given", "words"), POSITIONAL)
def test_arguments_by_place(
    function: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=f"^{words}$"):
        function(*args, **given)


def test_an_error_of_the_function_itself_is_left_alone() -> None:
    inner = TypeError("of the function")

    @explained
    def failing(x: int, *, n: int = 1) -> None:
        raise inner

    with pytest.raises(TypeError) as caught:
        failing(3)
    assert caught.value is inner

    @explained
    def calling() -> None:
        failing(m=1)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="failing: got an unexpected keyword"):
        calling()


@pytest.mark.parametrize("kind", [MLP, Adam, Cosine, Loss, MLPClassifier, MLPSearchCV])
def test_signatures_stay_as_they_are(kind: Any) -> None:
    parameters = inspect.signature(kind).parameters
    assert len(parameters) >= 3
    assert not {"args", "kwargs", "arguments"} & parameters.keys()
    assert kind.__init__.__qualname__.split(".")[0] in (kind.__name__, "object")


@pytest.mark.parametrize(
    "thing",
    [Adam(0.1, beta_1=0.5), Cosine(0.1), Loss(np.sin, "exp"), MLPClassifier((3,))],
    ids=repr,
)
def test_what_is_made_can_be_copied_and_pickled(thing: Any) -> None:
    for other in (deepcopy(thing), pickle.loads(pickle.dumps(thing))):
        assert repr(other) == repr(thing)
        assert type(other) is type(thing)


def test_advice_is_of_words_in_the_groups() -> None:
    words = {word for group in keywords.GROUPS for word in group.split()}
    tables = [*keywords.ADVICE.values(), keywords.ESTIMATOR, keywords.ESTIMATOR_FIT]
    assert {word for table in tables for word in table} - words <= {"checkpoint"}
