"""Generators: the state goes to JSON and back, and no state from outside is trusted."""

import json
import pickle
from typing import Any

import numpy as np
import pytest

from fastmlp._process import random_state


def used(kind: str) -> np.random.Generator:
    generator = np.random.Generator(getattr(np.random, kind)(3))
    generator.integers(10, size=3, dtype=np.uint32)
    generator.random(5)
    return generator


@pytest.mark.parametrize("kind", random_state.KINDS)
def test_a_generator_goes_on_after_json(kind: str) -> None:
    generator = used(kind)
    back = random_state.from_state(json.loads(json.dumps(random_state.state_of(generator))))
    for _ in range(700):
        assert back.integers(1 << 30, dtype=np.uint32) == generator.integers(
            1 << 30, dtype=np.uint32
        )
    assert back.normal() == generator.normal()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """Every number in a state, by the way to it; of a long list the first."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        yield (*path, 0)
    elif isinstance(value, int):
        yield path


def replaced(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(state))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


@pytest.mark.parametrize("kind", random_state.KINDS)
@pytest.mark.parametrize("wrong", [-1, 1 << 128, 1.5, True, None, "1", [], {}], ids=repr)
def test_a_number_that_cannot_be_is_refused(kind: str, wrong: Any) -> None:
    state = random_state.state_of(used(kind))
    for path in leaves(state):
        with pytest.raises((TypeError, ValueError)):
            random_state.from_state(replaced(state, path, wrong))


@pytest.mark.parametrize(
    ("kind", "path", "most"),
    [
        ("MT19937", ("state", "pos"), 624),
        ("Philox", ("buffer_pos",), 4),
        ("PCG64", ("has_uint32",), 1),
    ],
)
def test_a_position_beyond_its_buffer_is_refused(
    kind: str, path: tuple[str, ...], most: int
) -> None:
    state = random_state.state_of(used(kind))
    assert random_state.from_state(replaced(state, path, most)).integers(9) >= 0
    with pytest.raises(ValueError, match=f"from 0 to {most}"):
        random_state.from_state(replaced(state, path, most + 1))


@pytest.mark.parametrize("state", [{}, [], None, 3, {"bit_generator": "Own"}, {"state": 1}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises((TypeError, ValueError, LookupError)):
        random_state.from_state(state)


@pytest.mark.parametrize("kind", random_state.KINDS)
def test_lists_and_names_must_be_those_of_the_kind(kind: str) -> None:
    state = random_state.state_of(used(kind))
    for path in leaves(state):
        if path[-1] == 0:
            with pytest.raises(ValueError, match="integers"):
                random_state.from_state(replaced(state, path[:-1], [1, 2, 3, 4, 5]))
    with pytest.raises(ValueError, match="must have"):
        random_state.from_state({**state, "more": 1})


def test_a_generator_of_ones_own_cannot_be_written() -> None:
    class Own(np.random.PCG64):
        @property  # type: ignore[misc]
        def state(self) -> Any:
            return {"bit_generator": "Own"}

    with pytest.raises(ValueError, match="kind 'Own' cannot be written; known: PCG64"):
        random_state.state_of(np.random.Generator(Own(0)))


@pytest.mark.parametrize("kind", random_state.KINDS)
@pytest.mark.parametrize("n_normals", [0, 1, 2])
def test_an_older_generator_goes_on_after_json(kind: str, n_normals: int) -> None:
    """It makes normal numbers by twos, and keeps the second."""
    random = np.random.RandomState(used(kind).bit_generator)
    random.normal(size=n_normals)
    state = json.loads(json.dumps(random_state.of_random_state(random)))
    back = random_state.random_state_from(state)
    assert back.normal(size=3).tobytes() == random.normal(size=3).tobytes()
    assert back.bytes(9) == random.bytes(9)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("has_gauss", 2), ("has_gauss", "1"), ("gauss", float("inf")), ("gauss", 1), ("gauss", None)],
)
def test_a_normal_number_that_cannot_be_is_refused(name: str, wrong: Any) -> None:
    state = random_state.of_random_state(np.random.RandomState(0))
    with pytest.raises(ValueError, match="gauss must be a finite number, and has_gauss 0 or 1"):
        random_state.random_state_from({**state, name: wrong})


class Own(np.random.PCG64):
    """A bit generator of the user's own."""


@pytest.mark.parametrize("make", [np.random.Generator, np.random.RandomState])
@pytest.mark.parametrize(
    "kind",
    [
        np.random.PCG64,
        np.random.MT19937,
        pytest.param(
            Own,
            marks=pytest.mark.skipif(
                np.lib.NumpyVersion(np.__version__) < "2.0.0",
                reason="NumPy 1.26 does not unpickle a bit generator of the user's own",
            ),
        ),
    ],
)
def test_a_generator_goes_on_after_a_pickle(make: Any, kind: Any) -> None:
    random = make(kind(3))
    content = random_state.pickled(random)
    assert (content is random) == (kind is Own)
    back = random_state.unpickled(pickle.loads(pickle.dumps(content)))
    assert type(back) is make
    assert back.normal(size=3).tobytes() == random.normal(size=3).tobytes()
