"""NumPy's generators: the words that shuffling draws,
and the generators' state as JSON.
"""

from contextlib import suppress
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
# Positions in a buffer, with the largest valid one: beyond, NumPy reads foreign memory.
LAST = {"pos": 624, "buffer_pos": 4, "has_uint32": 1}


def shuffling_words(
    generator: np.random.Generator, n_orders: int, n: int
) -> NDArray[np.uint32]:
    """The random words of `n_orders` orders of n rows, shape (n_orders, n).

    A 64-bit number gives two words.
    The words do not depend on how many orders are drawn at a time.
    """
    pairs = generator.integers(1 << 64, size=(n_orders, -(-n // 2)), dtype=np.uint64)
    return pairs.view(np.uint32)[:, :n]


def key_of(sequence: Any) -> tuple[int, int]:
    """Two integers of 32 bits, of a child of a seed sequence."""
    first, second = sequence.spawn(1)[0].generate_state(2)
    return int(first), int(second)


def seeds_of(seed: Any, generator: np.random.Generator) -> Any:
    """The seed sequence of a generator that was made from a seed.

    A given `SeedSequence` is copied, so it has as many children as before.
    A generator without a sequence has one of fresh entropy.
    """
    if isinstance(seed, np.random.SeedSequence):
        return deepcopy(seed)
    sequence = getattr(generator.bit_generator, "seed_seq", None)
    if hasattr(sequence, "spawn"):
        return sequence
    return np.random.SeedSequence()


def state_of(generator: np.random.Generator) -> dict[str, Any]:
    """Return a generator's state as numbers, lists and names."""
    state = generator.bit_generator.state
    if state["bit_generator"] not in BIT_GENERATORS:
        raise ValueError(
            f"the state of a generator of kind {state['bit_generator']!r} cannot be "
            f"written; known: {', '.join(BIT_GENERATORS)}"
        )
    return _plain(state)


def from_state(state: Any) -> np.random.Generator:
    """A generator with this state, each number of which is checked."""
    kind = state["bit_generator"]
    if kind not in BIT_GENERATORS:
        raise ValueError(
            f"unknown generator {kind!r}; known: {', '.join(BIT_GENERATORS)}"
        )
    bits = getattr(np.random, kind)(0)
    bits.state = _like(bits.state, state, "state")
    return np.random.Generator(bits)


def of_random_state(random: np.random.RandomState) -> dict[str, Any]:
    """The state of a `RandomState`, as `state_of` returns a `Generator`'s."""
    state: Any = random.get_state(legacy=False)
    normal = {"has_gauss": int(state["has_gauss"]), "gauss": float(state["gauss"])}
    return state_of(np.random.Generator(random._bit_generator)) | normal


def random_state_from(state: Any) -> np.random.RandomState:
    """A `RandomState` with this state, each number of which is checked."""
    bits = dict(state)
    has, value = bits.pop("has_gauss"), bits.pop("gauss")
    if has not in (0, 1) or type(value) is not float or not np.isfinite(value):
        raise ValueError(
            "a generator's gauss must be a finite number, and has_gauss 0 or 1"
        )
    random = np.random.RandomState(from_state(bits).bit_generator)
    random.set_state(
        {**random.get_state(legacy=False), "has_gauss": int(has), "gauss": value}
    )
    return random


def pickled(random: np.random.Generator | np.random.RandomState) -> Any:
    """A generator's state for a pickle, or the generator itself if its kind is unknown.

    NumPy 1.26 does not load the generators that NumPy 2 pickles.
    Nets that share a generator have one each after a pickle.
    """
    with suppress(ValueError):
        if isinstance(random, np.random.Generator):
            return state_of(random)
        return of_random_state(random)
    return random


def unpickled(content: Any) -> Any:
    """Return the generator that `pickled`, or NumPy, put into a pickle."""
    if not isinstance(content, dict):
        return content
    if "gauss" in content:
        return random_state_from(content)
    return from_state(content)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, str) else int(value)


def _like(template: Any, value: Any, name: str) -> Any:
    """Check that the value has the template's keys, sizes and integer ranges."""
    if isinstance(template, dict):
        if not isinstance(value, dict) or value.keys() != template.keys():
            raise ValueError(f"a generator's {name} must have {sorted(template)}")
        return {key: _like(template[key], value[key], key) for key in template}
    if isinstance(template, np.ndarray):
        if not isinstance(value, list) or len(value) != template.size:
            raise ValueError(f"a generator's {name} must be {template.size} integers")
        most = int(np.iinfo(template.dtype).max)
        return np.array(
            [_integer(number, most, name) for number in value], template.dtype
        )
    if isinstance(template, str):
        return value
    return _integer(
        value, LAST.get(name, (1 << 32 if name == "uinteger" else 1 << 128) - 1), name
    )


def _integer(value: Any, most: int, name: str) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"a generator's {name} must be an integer from 0 to {most}")
    return value
