"""Attributes of other libraries' models, and advice for each."""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

# From advice to the attributes of other libraries.
OF_NETS = {
    "predict returns probabilities, of the losses cross_entropy and binary_cross_entropy": (
        "predict_proba"
    ),
    "it is np.log(net.predict(X))": "predict_log_proba",
    "predict returns probabilities: net.predict(X).argmax(axis=1)": "predict_classes",
    "predict_raw returns the outputs before the link": "decision_function logits",
    "compare y with net.predict(X), as by sklearn.metrics; MLPClassifier and MLPRegressor have "
    "score": "score",
    "net.loss_and_gradient(X, y)[0] is the loss, penalties included": "evaluate",
    "there is nothing to compile: MLP(layer_sizes, loss=..., optimizer=...)": "compile",
    "one step is net.train_on_batch(X, y)": "partial_fit train_step",
    "use fit": "train fit_generator",
    # To define __call__ makes `callable(net)` true; no type checker sees it.
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
    "net.train_on_batch(X, y) is these and the loss; train_on_gradient takes a loss of your own": (
        "backward zero_grad step"
    ),
    "use copy.copy(net)": "copy clone",
    "MLPClassifier and MLPRegressor are scikit-learn's estimators": (
        "get_params set_params fit_predict classes_ n_features_in_"
    ),
    "use weights": "coefs_ coef_ get_weights set_weights kernel kernels",
    "use biases": "intercepts_ intercept_",
    "use layer_sizes": "layers hidden_layer_sizes units",
    "use parameters, or save and load": "state_dict load_state_dict",
    "use save and MLP.load": "save_weights load_weights save_model load_model",
    "fit returns it: history = net.fit(X, y); history.loss": "history loss_curve_ loss_ losses",
    "use n_steps": "n_iter_ iterations t_",
    "it is the optimizer's: net.optimizer = Adam(0.01)": "learning_rate lr",
    "set trainable: net.trainable = [False, True], one for each layer": (
        "freeze unfreeze requires_grad requires_grad_ frozen"
    ),
    "set layer_rates, factors of the learning rate": "param_groups",
    "summary shows it, and repr(net)": "activation loss l2 l1",
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

    `__getattr__` would slow every access: a prediction of one row, 0.79 -> 0.86 us on Python 3.11.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        whose = (
            f"type object {owner.__name__!r}" if instance is None else f"{owner.__name__!r} object"
        )
        raise AttributeError(f"{whose} has no attribute {self._name!r}; {self._advice}")


class AdvisingType(type):
    """A metaclass of classes with a `LackingAttribute` for each word of `advice`; `dir` hides them.

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
        cls, name: str, bases: tuple[type, ...], space: dict[str, Any], advice: Mapping[str, str]
    ) -> "AdvisingType":
        lacking = {
            word: LackingAttribute(sentence)
            for sentence, words in advice.items()
            for word in words.split()
        }
        shown = {"__dir__": lambda self: set(object.__dir__(self)) - lacking.keys()}
        return super().__new__(cls, name, bases, {**lacking, **shown, **space})

    def __init__(cls, *arguments: Any, advice: Mapping[str, str]) -> None:
        super().__init__(*arguments)

    def __dir__(cls) -> Iterable[str]:
        own, names = vars(cls), super().__dir__()
        return [name for name in names if not isinstance(own.get(name), LackingAttribute)]
