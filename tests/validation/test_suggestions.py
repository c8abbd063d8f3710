"""Names of other libraries, and misspelt ones: each error says which of ours is meant."""

# Wrong types on purpose.
# mypy: disable-error-code="assignment"

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, SGD, Adam, Cosine, Warmup
from fastmlp.network import resolve
from fastmlp.rules import activations, initializers, losses, optimizers, penalties

MEANT: dict[str, dict[str, str]] = {
    "activation": {
        "ReLU": "relu",
        "rleu": "relu",
        "Tanh": "tanh",
        "LeakyReLU": "leaky_relu",
        "leaky-relu": "leaky_relu",
        "swish": "silu",
        "linear": "identity",
        "Linear": "identity",
        "expit": "sigmoid",
    },
    "loss": {
        "MSE": "mse",
        "squared_error": "mse",
        "mean_squared_error": "mse",
        "MSELoss": "mse",
        "l1": "mae",
        "L1Loss": "mae",
        "huberr": "huber",
        "smooth_l1_loss": "huber",
        "bce": "binary_cross_entropy",
        "BCEWithLogitsLoss": "binary_cross_entropy",
        "binary_crossentropy": "binary_cross_entropy",
        "xent": "cross_entropy",
        "nll": "cross_entropy",
        "CrossEntropyLoss": "cross_entropy",
        "sparse_categorical_crossentropy": "cross_entropy",
        "categorical_crossentropy": "cross_entropy",
    },
    "optimizer": {"Adam": "adam", "adm": "adam", "RMSProp": "rmsprop", "gradient_descent": "sgd"},
    "initializer": {
        "xavier": "glorot_uniform",
        "kaiming_normal": "he_normal",
        "He_Uniform": "he_uniform",
    },
    "device": {"gpu": "cuda", "CPU": "cpu"},
}
SENTENCES = {
    (
        "activation",
        "softmax",
    ): "it comes with loss='cross_entropy', as the link of the output layer",
    ("loss", "hinge"): r"write it as a function loss\(prediction, target\) -> \(value, slope\)",
    ("optimizer", "momentum"): r"write SGD\(0.01, momentum=0.9\)",
    ("optimizer", "lbfgs"): "MLPClassifier and MLPRegressor have solver='lbfgs'",
    ("penalties", "elastic_net"): r"it is both together: l2=..., l1=...",
}
TABLES: dict[str, tuple[Any, Any]] = {
    "activation": (activations.RULES, activations.SYNONYMS),
    "loss": (losses.LOSSES, losses.SYNONYMS),
    "optimizer": (optimizers.OPTIMIZERS, optimizers.SYNONYMS),
    "penalty": (penalties.RULES, penalties.SYNONYMS),
    "initializer": (initializers.RULES, initializers.SYNONYMS),
    "device": (("cpu", "cuda"), resolve.DEVICES),
}


def net(**settings: Any) -> MLP:
    return MLP((3, 4, 2), **settings)


@pytest.mark.parametrize(
    ("keyword", "word", "meant"),
    [(k, w, m) for k, words in MEANT.items() for w, m in words.items()],
)
def test_a_word_elsewhere_names_ours(keyword: str, word: str, meant: str) -> None:
    told = f"^MLP: unknown {keyword} {word!r}, did you mean {meant!r}. known: "
    with pytest.raises(ValueError, match=told):
        net(**{keyword: word})


def test_a_word_of_two_meanings_names_both() -> None:
    with pytest.raises(ValueError, match="did you mean 'binary_cross_entropy' or 'cross_entropy'"):
        net(loss="log_loss")


@pytest.mark.parametrize(("keyword", "word"), SENTENCES)
def test_a_word_without_a_name_of_ours_says_what_to_do(keyword: str, word: str) -> None:
    given: Any = {word: 1.0} if keyword == "penalties" else word
    with pytest.raises(ValueError, match=f"{word!r}: {SENTENCES[keyword, word]}; known: "):
        net(**{keyword: given})


@pytest.mark.parametrize("keyword", TABLES)
def test_synonyms_are_no_names_and_stand_for_names_or_sentences(keyword: str) -> None:
    names, synonyms = TABLES[keyword]
    for answer, words in synonyms.items():
        assert answer in names or " " in answer
        assert not set(words.split()) & set(names)


@pytest.mark.parametrize("word", ["", "?", "frobnicate", 3, None, ("relu",)])
def test_other_words_list_the_known_ones_alone(word: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        net(initializer=word, activation=word)
    assert "did you mean" not in str(caught.value)


def test_a_schedule_or_a_rate_in_the_place_of_an_optimizer_names_the_optimizer() -> None:
    cosine = r"Cosine\(learning_rate=0.1, n_steps=None, final_rate=0.0\)"
    with pytest.raises(
        TypeError, match=rf"got {cosine}, did you mean Adam\({cosine}\). known names"
    ):
        net(optimizer=Cosine(0.1))
    with pytest.raises(TypeError, match=r"did you mean Adam\(Warmup\("):
        net().optimizer = Warmup(Cosine(0.1))
    with pytest.raises(TypeError, match=r"got 0.01, did you mean Adam\(0.01\)"):
        net(optimizer=0.01)
    with pytest.raises(TypeError, match=r"did you mean SGD\(\)"):
        net(optimizer=SGD)
    with pytest.raises(TypeError, match=r"or a schedule, such as Cosine\(0.001\), got 'cosine'"):
        Adam("cosine")  # type: ignore[arg-type]


def test_a_function_of_another_library_names_ours() -> None:
    with pytest.raises(TypeError, match="got <ufunc 'tanh'>, did you mean 'tanh'"):
        net(activation=np.tanh)

    class ReLU:
        def __call__(self, z: float) -> float:
            return max(z, 0.0)

    with pytest.raises(TypeError, match="did you mean 'relu'"):
        net(activation=ReLU())


def test_cross_entropy_of_one_output_is_refused_at_once() -> None:
    told = r"layer_sizes=\(3, 4, 1\) has 1 output.*for two classes use loss='binary_cross_entropy'"
    with pytest.raises(ValueError, match=told):
        MLP((3, 4, 1), loss="cross_entropy")
    # Files of such nets load: `MLP` is given the loss itself then.
    assert MLP((3, 4, 1), loss=losses.LOSSES["cross_entropy"]).layer_sizes == (3, 4, 1)
