"""Names of other libraries, and misspelt ones: each error says which of ours is meant."""

# Wrong types on purpose.
# mypy: disable-error-code="assignment"

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp.network import resolve
from fastmlp.rules import activations, initializers, losses, optimizers, penalties

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
