"""Advice for calls that do not fit a signature,
and for attributes that a class lacks.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from inspect import getattr_static
from typing import Any, NoReturn, TypeVar, dataclass_transform

from fastmlp.validation.messages import NO_SYNONYMS, count, suggestion_for

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
# Functions whose names stand alone elsewhere.
SHOWN_AS = {"load": "fastmlp.load", "save": "fastmlp.save"}
# Internal classes: methods are shown with the class of their object.
BASES = ("TabularMLP", "BatchPredictions", "CompiledMLP", "NetEstimator")


def explained(target: F) -> F:
    """Make a function, or a class's constructor,
    explain calls that do not fit its signature.

    The TypeError names the public function, the keyword, the likely one,
    and the known ones. The signature is kept; a call that fits costs 0.1 us more.

    Examples
    --------
    >>> @explained
    ... def fit(X, *, epochs=100):
    ...     pass
    >>> fit([], steps=3)
    Traceback (most recent call last):
    TypeError: fit: got an unexpected keyword argument 'steps'; known: X, epochs
    """
    if not isinstance(target, type):
        return _explaining(target)
    name = "__init__" if "__init__" in vars(target) else "__new__"
    setattr(target, name, _explaining(getattr(target, name)))
    return target


def _values(settings: Any) -> tuple[Any, ...]:
    return tuple(getattr(settings, name) for name in settings.__dataclass_fields__)


def _repr(self: Any) -> str:
    names = self.__dataclass_fields__
    values = (f"{name}={getattr(self, name)!r}" for name in names if names[name].repr)
    return f"{type(self).__qualname__}({', '.join(values)})"


def _eq(self: Any, other: object) -> Any:
    if type(other) is type(self):
        return _values(self) == _values(other)
    return NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def settings(target: type[T]) -> type[T]:
    """Make a frozen dataclass whose constructor explains calls that do not fit.

    Comparison and `repr` are not compiled for each class: 1.2 -> 0.6 ms of an import.
    """
    # A base class may compare its fields only.
    for name, shared in (("__repr__", _repr), ("__eq__", _eq), ("__hash__", _hash)):
        if name != "__repr__" or target.__repr__ is object.__repr__:
            setattr(target, name, vars(target).get(name, shared))
    made = explained(dataclass(frozen=True, repr=False, eq=False)(target))
    # A class variable of optimizers, which a net holds.
    held = getattr(made, "held_as", "settings")
    known = [each.name for each in fields(made)]  # type: ignore[arg-type]
    guard(made, known, f"make others: {held} = dataclasses.replace({held}, {{}})")
    return made


def assignable(*names: str, also: str = "") -> Callable[[type[T]], type[T]]:
    """Make a class refuse attributes that nothing would read, when they are assigned.

    Parameters
    ----------
    *names : str
        Attributes that may be assigned.
    also : str
        What else may change.

    Examples
    --------
    >>> @assignable("rate", also="weights")
    ... class A: ...
    >>> a = A()
    >>> a.rate = 0.5
    >>> a.size = 8
    Traceback (most recent call last):
    AttributeError: A: attribute 'size' would have no effect; rate and weights may change later
    """
    acting = " and ".join(filter(None, (", ".join(names), also)))

    def decorated(target: type[T]) -> type[T]:
        guard(target, names, f"{acting} may change later", free=True)
        return target

    return decorated


def guard(
    target: Any, known: Sequence[str], remedy: str, *, free: bool = False
) -> None:
    """Give a class a `__setattr__` that refuses all names, or all but the known ones.

    Private names pass, and functions in a method's place, which act; also what a
    subclass adds to the class. Type checkers do not see it: they would take any name.

    Parameters
    ----------
    remedy : str
        End of the message, in which the change takes the place of {}.
    free : bool
        True if the known names may be assigned.
    """
    if free:
        words = f"attributes of {target.__name__}"
    else:
        words = target.__name__

    def assign(self: Any, name: str, value: object) -> None:
        if name[0] == "_" or (free and name in known):
            object.__setattr__(self, name, value)
            return
        held = name in known or hasattr(target, name)
        replaced = callable(value) and callable(getattr_static(target, name, None))
        added = type(self) is not target and not held
        if replaced or added:
            object.__setattr__(self, name, value)
            return
        wrong = "is fixed" if held else "would have no effect"
        end = f"; {remedy.format(f'{name}=...')}"
        if name not in known:
            listed = "" if free else f" known: {', '.join(known)};"
            end = f"{_meant(target, words, name, known)}{listed} {remedy.format('...')}"
        who = type(self).__name__
        raise AttributeError(f"{who}: attribute {name!r} {wrong}{end}")

    target.__setattr__ = assign


def _meant(target: type, words: str, name: str, known: Iterable[str]) -> str:
    lacking = getattr_static(target, name, None)
    if isinstance(lacking, LackingAttribute):
        return f": {lacking.advice};"
    return suggestion_for(name, known, words)


def misfit(function: Any, n: int) -> str:
    """The end of a message if a function does not take `n` positional arguments, else
    "".

    Examples
    --------
    >>> misfit(lambda epoch, logs: None, 1), misfit(print, 1)
    (', which takes (epoch, logs)', '')
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*[None] * n)
    except TypeError:
        return f", which takes {signature}"
    return ""


def _explaining(function: Any) -> Any:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            # The traceback of an error in the function has its frame.
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise
            raise TypeError(
                _explanation(function, args, kwargs) or str(error)
            ) from None

    return call


def _explanation(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str | None:
    """The message for a call that does not fit the signature, else None."""
    owner, _, name = function.__qualname__.rpartition(".")
    method = bool(owner) and not owner.endswith("<locals>")
    if name in ("__init__", "__new__"):
        who = owner
    else:
        who = function.__qualname__.split("<locals>.")[-1]
    if owner in BASES and args:
        owner = type(args[0]).__name__
        who = owner if name == "__init__" else f"{owner}.{name}"
    who = SHOWN_AS.get(who, who)
    parameters = list(inspect.signature(function).parameters.values())[method:]
    known = {p.name: p for p in parameters}
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    values = args[method:]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for keyword in kwargs:
        if keyword not in known and not takes_any:
            meant = suggestion_for(keyword, known, who)
            wrong = f"{who}: got an unexpected keyword argument {keyword!r}"
            return f"{wrong}{meant} known: {', '.join(known) or 'no argument'}"
    if len(values) > len(positional):
        return f"{who}: {_too_many(who, values, positional, known)}"
    for keyword in positional[: len(values)]:
        if keyword in kwargs:
            return f"{who}: {keyword} is given twice, by its place and by its name"
    needed = [
        name for name in positional if known[name].default is inspect.Parameter.empty
    ]
    missing = [name for name in needed[len(values) :] if name not in kwargs]
    if missing:
        lacks = f"{count(len(missing), 'required argument')}: {', '.join(map(repr, missing))}"
        return f"{who}: missing {lacks}; call {who}({', '.join(needed)})"
    return None


def _too_many(
    who: str, values: tuple[Any, ...], positional: list[str], known: Mapping[str, Any]
) -> str:
    sizes = next((name for name in positional if name.endswith("layer_sizes")), None)
    if sizes and all(isinstance(value, int) for value in values):
        if sizes == positional[0]:
            call = repr(values)
        else:
            call = f"{sizes}={values!r}"
        return f"{sizes} must be one sequence, got {len(values)} numbers: {who}({call})"
    taken = f"{count(len(positional), 'positional argument')} ({', '.join(positional)})"
    others = ", ".join(f"{name}=..." for name in known if name not in positional)
    advice = f"; name the others: {others}" if others else ""
    return f"takes {taken}, but {len(values)} were given{advice}"


# From advice to attributes of other libraries.
OF_NETS = {
    "predict returns probabilities, of the losses cross_entropy and binary_cross_entropy": (
        "predict_proba"
    ),
    "it is np.log(net.predict(X))": "predict_log_proba",
    "predict returns probabilities: net.predict(X).argmax(axis=1)": "predict_classes",
    "predict_raw returns the outputs before the link": "decision_function logits",
    "compare y with net.predict(X), as by sklearn.metrics; MLPClassifier and "
    "MLPRegressor have score": "score",
    "net.loss_and_gradient(X, y)[0] is the loss, penalties included": "evaluate",
    "there is nothing to compile: MLP(layer_sizes, loss=..., optimizer=...)": "compile",
    "one step is net.train_on_batch(X, y)": "partial_fit train_step",
    "there is one mode; fit trains: net.fit(X, y)": "train fit_generator",
    # A method __call__ would make `callable(net)` true; type checkers do not see it.
    "use predict: net.predict(X)": "__call__ forward predict_on_batch",
    "layers are given at once: MLP((n_inputs, 32, n_outputs))": "add add_module append pop",
    "fastmlp.jacobian(net, X) has the derivatives of predictions by inputs": "jacobian",
    "fastmlp.shap_values(net, X, background) attributes predictions to inputs": "shap_values",
    "use vjp, by parameters and inputs, or loss_and_gradient": "gradient gradients grad backprop",
    "there is one mode: training steps drop units out, predictions do not": "eval training",
    "use to: net.to('cuda'), net.to('cpu')": "cuda cpu",
    "it is the dtype of the net: MLP(layer_sizes, dtype='float64')": "double half bfloat16 float",
    "len(net.parameters) is their number": "count_params num_parameters n_parameters",
    "parameters is one vector; weights and biases are its parts": (
        "named_parameters trainable_weights trainable_variables variables"
    ),
    "a fit's callbacks see each epoch; predict_raw returns the last outputs": (
        "register_forward_hook get_layer"
    ),
    "net.train_on_batch(X, y) is a whole step; train_on_gradient takes a loss of your own": (
        "backward zero_grad step"
    ),
    "use copy.copy(net)": "copy clone",
    "MLPClassifier and MLPRegressor are scikit-learn's estimators": (
        "get_params set_params fit_predict classes_ n_features_in_"
    ),
    "weights has an array for each layer: net.weights[0]": (
        "coefs_ coef_ get_weights kernel kernels"
    ),
    "write into items: net.weights[0] = W, net.biases[0] = b": "set_weights",
    "use biases": "intercepts_ intercept_",
    "weights, biases and layer_sizes have an item for each layer: net.weights[0]": (
        "layers hidden_layer_sizes units"
    ),
    "use parameters, or save and load": "state_dict load_state_dict",
    "use save and MLP.load": "save_weights load_weights save_model load_model",
    "fit returns it: history = net.fit(X, y); history.loss": "history loss_curve_ loss_ losses",
    "use n_steps": "n_iter_ iterations t_",
    "it is the optimizer's: net.optimizer = Adam(0.01)": "learning_rate lr",
    "set trainable: net.trainable = [False, True], one for each layer": (
        "freeze unfreeze requires_grad requires_grad_ frozen"
    ),
    "set layer_rates, factors of the learning rate": "param_groups",
    "it is set when the net is made; summary and repr(net) show it": (
        "activation loss l2 l1"
    ),
}
OF_ESTIMATORS = {
    "use fastmlp.save(model, path)": "save save_model dump",
    "use fastmlp.load(path)": "load load_model",
    "use score(X, y), or sklearn.metrics": "evaluate",
    "sklearn.inspection.permutation_importance(model, X, y) takes any estimator": (
        "feature_importances_ feature_importance"
    ),
    "models of tables are packs of nets: members_": "booster_ get_booster",
    "an estimator is fitted as it is: model.fit(X, y)": "compile train",
    "MLP has it; MLPClassifier and MLPRegressor have coefs_ and intercepts_": (
        "parameters weights"
    ),
}
OF_HISTORIES = {
    "fit returns a History, not the net: net.fit(X, y), then net.predict(X)": (
        "predict predict_proba predict_raw fit score save weights biases parameters"
    ),
    "the lists are attributes: history.loss, history.validation_loss": "history params",
    "use validation_loss": "val_loss",
    "use learning_rate": "lr",
    "it is range(len(history.loss))": "epoch epochs",
}


class LackingAttribute:
    """An attribute that a class lacks: `hasattr` is False, and the error has advice.

    `__getattr__` would slow every access: a prediction of one row,
    0.79 -> 0.86 us on Python 3.11.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        if instance is None:
            whose = f"type object {owner.__name__!r}"
        else:
            whose = f"{owner.__name__!r} object"
        raise AttributeError(f"{whose} has no attribute {self._name!r}; {self.advice}")


class AdvisingType(type):
    """A metaclass of classes with a `LackingAttribute` for each word of `advice`;
    `dir` hides them.

    Parameters
    ----------
    advice : mapping
        From advice to the attributes of other libraries, separated by spaces.

    Examples
    --------
    >>> class Net(metaclass=AdvisingType, advice={"use fit": "train learn"}):
    ...     pass
    >>> hasattr(Net(), "train"), "train" in dir(Net)
    (False, False)
    >>> Net().learn
    Traceback (most recent call last):
    AttributeError: 'Net' object has no attribute 'learn'; use fit
    """

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        space: dict[str, Any],
        advice: Mapping[str, str] = NO_SYNONYMS,
    ) -> "AdvisingType":
        lacking = {
            word: LackingAttribute(sentence)
            for sentence, words in advice.items()
            for word in words.split()
        }
        shown = {"__dir__": lambda self: _without_advice(self, object.__dir__(self))}
        return super().__new__(cls, name, bases, {**lacking, **shown, **space})

    def __init__(cls, *arguments: Any, advice: Mapping[str, str] = NO_SYNONYMS) -> None:
        super().__init__(*arguments)

    def __dir__(cls) -> Iterable[str]:
        return _without_advice(cls, super().__dir__())


def _without_advice(owner: object, names: Iterable[str]) -> list[str]:
    return [
        name
        for name in names
        if not isinstance(getattr_static(owner, name, None), LackingAttribute)
    ]
