"""Keywords of other libraries, and the words here for them."""

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from fastmlp.validation.suggestions import Synonyms, suggestion

# Words of other libraries, for messages and for the page of parameters.
WORDS = Path(__file__).with_name("words.toml")
# The words with which a cell of the page begins.
CELL = re.compile(r"`[a-z]\w*`(, `[a-z]\w*`)*")
_OF_FIT = {
    name: f"it is an argument of fit: net.fit(X, y, {name}={value})"
    for name, value in {
        "epochs": "100",
        "batch_size": "32",
        "shuffle": "True",
        "sample_weight": "weights",
        "class_weight": "'balanced'",
        "validation_data": "(X_val, y_val)",
        "validation_split": "0.1",
        "metrics": "'mae'",
        "early_stopping": "10",
        "keep_best": "True",
        "time_limit": "60",
        "callbacks": "function",
        "progress": "True",
        "checkpoint": "path",
        "checkpoint_every": "10",
        "resume": "True",
        "communicator": "'world'",
        "average_every": "10",
    }.items()
}
_OF_FIT |= {
    name: f"it is an argument of fit: net.fit(source, {name}={value})"
    for name, value in {
        "target": "'y'",
        "buffer_rows": "100_000",
        "steps_per_epoch": "1000",
    }.items()
}
_OF_MLP = {
    name: f"it is an argument of the net: MLP(layer_sizes, {name}=...)"
    for name in (
        *("activation", "output_activation", "loss", "optimizer", "l2", "l1"),
        *("initializer", "label_smoothing", "layer_rates", "dtype", "seed", "n_threads", "device"),
        *("dropout", "input_dropout", "input_noise", "compute_dtype", "monotonic_cst"),
    )
}
_OF_OPTIMIZER = {
    "learning_rate": "the optimizer has it: optimizer=Adam(learning_rate=0.001)",
    "momentum": "the optimizer has it: optimizer=SGD(0.01, momentum=0.9)",
    "nesterov": "the optimizer has it: optimizer=SGD(0.01, momentum=0.9, nesterov=True)",
    "beta_1": "the optimizer has it: optimizer=Adam(beta_1=0.9)",
    "beta_2": "the optimizer has it: optimizer=Adam(beta_2=0.999)",
    "epsilon": "the optimizer has it: optimizer=Adam(epsilon=1e-8)",
    "rho": "the optimizer has it: optimizer=RMSprop(rho=0.9)",
    "clipvalue": "the optimizer has it: optimizer=Adam(clipvalue=1.0)",
    "clipnorm": "the optimizer has it: optimizer=Adam(clipnorm=1.0)",
    "global_clipnorm": "the optimizer has it: optimizer=Adam(global_clipnorm=1.0)",
    "average": "the optimizer has it: optimizer=Adam(average=EMA(0.99))",
}
_LACKING = {
    "batch_norm": "there is no normalisation of layers; standardise X",
    "bias": "every layer has biases",
    "n_iter_no_change": "it is an argument of fit: early_stopping=10",
    "min_delta": "use early_stopping=EarlyStopping(min_delta=1e-4) of fit",
    "schedule": "the optimizer has it: optimizer=Adam(Cosine(0.01)); ReduceLROnPlateau is one of "
    "the callbacks of fit",
    "quantile": "the loss has it: loss=Quantile(0.9)",
    "warm_start": "a further fit goes on where this one ended",
    "trainable": "it is an attribute of the net: net.trainable = [False, True]",
    "decay_biases": "AdamW has it: optimizer=AdamW(decay_biases=False)",
}
NET = {**_OF_FIT, **_OF_OPTIMIZER, **_LACKING}
FIT = {**_OF_MLP, **_OF_OPTIMIZER, **_LACKING}
MANY = {
    **FIT,
    "class_weight": "use sample_weight=np.array([1.0, 5.0])[y], with one number for each class",
}
OPTIMIZER = {
    "l2": "use AdamW(weight_decay=...), or l2 of the net: MLP(layer_sizes, l2=...)",
    "l1": _OF_MLP["l1"],
    "momentum": "SGD has it: SGD(0.01, momentum=0.9)",
    "nesterov": "SGD and Nadam have it: SGD(0.01, momentum=0.9, nesterov=True)",
    "factor": "use a schedule: learning_rate=Exponential(0.01)",
    "n_steps": "use a schedule: learning_rate=Cosine(0.01, n_steps=1000)",
    "betas": "Adam, AdamW and Nadam have beta_1 and beta_2",
    "final_rate": "use a schedule: learning_rate=Cosine(0.01, final_rate=0.001)",
    "constants": "fit trains all parameters of the net; there is no need to pass them",
    "trainable": _LACKING["trainable"],
    "layer_rates": _OF_MLP["layer_rates"],
    "decay_biases": "AdamW has it: AdamW(decay_biases=False)",
}
ESTIMATOR = {
    "batch_norm": _LACKING["batch_norm"],
    "bias": _LACKING["bias"],
    "l1": "the estimators have alpha, of the squares, alone; MLP has l1",
    "dtype": "X of float32 trains in float32, any other X in float64",
    "device": "the estimators run on the CPU; MLP has device",
    "callbacks": "fit of MLPClassifier and MLPRegressor has them: fit(X, y, callbacks=function)",
    "metrics": "use scoring, with early_stopping=True, or score after the fit",
    "validation_data": "they are arguments of fit: fit(X, y, X_val=X_val, y_val=y_val)",
    "sample_weight": "it is an argument of fit: fit(X, y, sample_weight=weights)",
    "class_weight": "use sample_weight of fit",
    "initializer": "scikit-learn's is built in: glorot_uniform; MLP has initializer",
    "loss": "the classifiers' is cross-entropy; MLP has others, and as_estimator",
    "output_activation": "it follows from the targets; MLP has output_activation",
    "clipvalue": "an optimizer as the solver has it: solver=Adam(clipvalue=1.0)",
    "clipnorm": "an optimizer as the solver has it: solver=Adam(clipnorm=1.0)",
    "global_clipnorm": "an optimizer as the solver has it: solver=Adam(global_clipnorm=1.0)",
}
_OF_ESTIMATOR = {
    name: f"it is a parameter of the estimator: {name}=..., where it is made"
    for name in (
        *("max_iter", "batch_size", "shuffle", "verbose", "early_stopping", "learning_rate_init"),
        *("solver", "alpha", "class_weight", "random_state", "n_jobs", "activation"),
        *("hidden_layer_sizes", "validation_fraction", "label_smoothing"),
        *("dropout", "input_dropout", "input_noise"),
    )
}
ESTIMATOR_FIT = {
    **{name: _OF_ESTIMATOR[name] for name in ("dropout", "input_dropout", "input_noise")},
    "label_smoothing": _OF_ESTIMATOR["label_smoothing"],
    "epochs": _OF_ESTIMATOR["max_iter"],
    "learning_rate": _OF_ESTIMATOR["learning_rate_init"],
    "optimizer": _OF_ESTIMATOR["solver"],
    "l2": _OF_ESTIMATOR["alpha"],
    "seed": _OF_ESTIMATOR["random_state"],
    "n_threads": _OF_ESTIMATOR["n_jobs"],
    "layer_sizes": _OF_ESTIMATOR["hidden_layer_sizes"],
    "validation_data": "use X_val and y_val: fit(X, y, X_val=X_val, y_val=y_val)",
    "callbacks": ESTIMATOR["callbacks"],
    "validation_fraction": _OF_ESTIMATOR["validation_fraction"],
    "metrics": "use scoring of the estimator, with early_stopping=True, or score after the fit",
    **{name: _OF_ESTIMATOR[name] for name in _OF_ESTIMATOR if name in _LACKING or name in _OF_FIT},
}
SEARCH = {**_OF_ESTIMATOR, **dict.fromkeys(("epochs", "n_epochs"), _OF_ESTIMATOR["max_iter"])}
SCHEDULE = {"epochs": "it counts steps, n_epochs * ceil(n_rows / batch_size): use n_steps"}
OF_DECAY = {"epochs": "it counts steps, n_epochs * ceil(n_rows / batch_size): use every"}
# By the name of a function or class, or by the title of its table of words.
ADVICE: dict[str, dict[str, str]] = {
    "MLP": NET,
    "MLPSearchCV": SEARCH,
    "EMA": {"factor": "the decay is its momentum: EMA(momentum=0.99)"},
    "Warmup": {
        **SCHEDULE,
        "learning_rate": "it is the first argument, a rate or a schedule: Warmup(0.01)",
    },
    "MLP.fit": FIT,
    "fit_many": MANY,
    **dict.fromkeys(("Cosine", "OneCycle"), SCHEDULE),
    **dict.fromkeys(("StepDecay", "Exponential"), OF_DECAY),
    "Optimizers": OPTIMIZER,
}


@cache
def content() -> Any:
    """The content of the file of words."""
    return tomllib.loads(WORDS.read_text(encoding="utf-8"))


@cache
def groups() -> list[list[str]]:
    """Words of one meaning, the first of them a keyword here."""
    listed = {key: [key, *text.split()] for key, text in content()["also"].items()}
    known = {word for group in listed.values() for word in group}
    # A cell that begins with a listed word adds nothing: the word has another keyword's meaning.
    in_rows: dict[str, list[str]] = {}
    for table in content()["table"]:
        for key, cells in table["words"].items():
            begins = " ".join(match[0] for match in map(CELL.match, cells) if match)
            words = [word for word in re.findall(r"\w+", begins) if word not in known]
            in_rows.setdefault(key.split(".")[-1], []).extend(words)
    heads = {**listed, **{key: [key] for key in in_rows if key not in listed}}
    merged = [[*head, *(w for k in head for w in in_rows.get(k, ()))] for head in heads.values()]
    return [group for group in merged if len({*group}) > 1]


def suggestion_for(keyword: str, known: Iterable[str], who: str) -> str:
    """The suggestion for an unknown keyword of a function; ";" if there is none.

    Examples
    --------
    >>> suggestion_for("lr", ["learning_rate", "momentum"], "SGD")
    ", did you mean 'learning_rate'?"
    >>> suggestion_for("lr", ["layer_sizes"], "MLP")
    ': the optimizer has it: optimizer=Adam(learning_rate=0.001);'
    """
    names = list(known)
    synonyms = _synonyms(names, _advice_of(who))
    # A word that has a meaning, but nothing of it here, is not like any other.
    alone = any(keyword in group for group in groups())
    if alone and not any(keyword in words.split() for words in synonyms.values()):
        return ";"
    return suggestion(keyword, names, synonyms)


def _advice_of(who: str) -> dict[str, str]:
    titles = [table["title"] for table in content()["table"] if who in table["of"]]
    for name in (who, *titles):
        if name in ADVICE:
            return ADVICE[name]
    if who.startswith("MLP") and not who.startswith("MLP."):
        return ESTIMATOR_FIT if who.endswith("fit") else ESTIMATOR
    return {}


def _synonyms(names: list[str], advice: dict[str, str]) -> Synonyms:
    """The words of each answer: a known keyword of their group, or advice."""
    answers: dict[str, str] = {}
    for table in ({name: name for name in names}, advice):
        for group in groups():
            answer = next((table[word] for word in group if word in table), None)
            for word in group if answer else ():
                answers.setdefault(word, str(answer))
    answers |= advice
    return {
        answer: " ".join(w for w in answers if answers[w] == answer) for answer in answers.values()
    }
