"""NetState and generators: copies,
pickles and JSON take all along, and trust no state.
"""

import copy
import json
import pickle
import threading
from typing import Any

import numpy as np
import pytest

from fastmlp._process import random_state
from fastmlp.network.spec import make_layout
from fastmlp.network.state import N_SLOTS, NetState
from fastmlp.rules.optimizer_protocol import EMA
from fastmlp.rules.optimizers import Adam

LAYOUT = make_layout((2, 3, 1))
SLOTS = np.arange(float(N_SLOTS * LAYOUT.n_parameters)).reshape(N_SLOTS, -1)
each_copy = pytest.mark.parametrize(
    "make_copy",
    [copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))],
    ids=["copy", "deepcopy", "pickle"],
)


class Packed:
    """Slots as a backend might hold them: the other way round."""

    def __init__(self, flat: Any) -> None:
        if flat is None:
            self.numbers = np.zeros_like(SLOTS)
        else:
            self.numbers = flat[:, ::-1].copy()

    def flat(self) -> Any:
        return self.numbers[:, ::-1].copy()

    def begin(self, parameters: Any, lag: float) -> bool:
        edited = self.flat()[-1].tobytes() != parameters.tobytes()
        if edited:
            self.numbers[2:] = parameters[::-1]
        return edited


def make_state(n_steps: int = 0) -> NetState:
    parameters = np.arange(float(LAYOUT.n_parameters))
    state = NetState(LAYOUT, parameters, Adam(), np.random.default_rng(0))
    if n_steps:
        state.set_slots(SLOTS)
        state.n_steps = n_steps
    return state


def test_slots_are_packed_once_and_trained_in_place() -> None:
    state = make_state()
    made = []

    def pack(flat: Any) -> Packed:
        made.append(flat)
        return Packed(flat)

    assert state.slots() is None
    packed = state.packed("one form", pack)
    packed.numbers += 1
    assert state.packed("one form", pack) is packed
    assert made == [None]
    slots = state.slots()
    assert slots is not None
    assert (slots == 1).all()


def test_another_form_is_packed_from_flat_numbers_or_the_first_stays() -> None:
    state = make_state()
    state.set_slots(SLOTS)
    first = state.packed("one form", Packed)
    second = state.packed("another", Packed)
    assert second is not first
    assert np.array_equal(second.flat(), SLOTS)
    state.unpack()
    assert np.array_equal(state.slots(), SLOTS)  # type: ignore[arg-type]
    assert state.packed("another", Packed) is not second
    state = make_state()
    state.set_slots(SLOTS)
    first = state.packed("one form", Packed)

    def fail(flat: Any) -> Packed:
        raise MemoryError

    with pytest.raises(MemoryError):
        state.packed("another", fail)
    assert state.packed("one form", Packed) is first


def test_an_average_begins_where_its_slots_are_packed_or_written() -> None:
    state = make_state(5)
    state.optimizer = Adam(average=EMA())
    packed: Any = state.packed("one form", lambda flat: Packed(flat))
    assert packed.flat().tolist() == [*SLOTS.tolist(), *2 * [state.parameters.tolist()]]
    assert state.averaged_from == 5
    state.n_steps = 7
    state.packed("one form", Packed)
    assert state.averaged_from == 5
    state.parameters[0] = -3
    assert state.trained() is state.parameters
    state.packed("one form", Packed)
    assert state.averaged_from == 7
    assert copy.deepcopy(state).averaged_from == 7
    state.optimizer = Adam()
    assert np.array_equal(state.slots(), SLOTS)  # type: ignore[arg-type]
    state.restart()
    assert state.averaged_from == 0
    assert state.slots() is None


def test_slots_take_the_dtype_of_the_parameters() -> None:
    state = NetState(LAYOUT, np.zeros(LAYOUT.n_parameters, np.float32), Adam())
    state.set_slots(SLOTS)
    slots = state.slots()
    assert slots is not None
    assert slots.dtype == np.float32


def test_a_restart_takes_slots_away() -> None:
    state = make_state(5)
    before = state.parameters.copy()
    state.restart()
    assert state.n_steps == 0
    assert state.slots() is None
    assert np.array_equal(state.parameters, before)


@each_copy
@pytest.mark.parametrize("packed", [False, True])
def test_a_copy_takes_all_along_and_shares_nothing(
    make_copy: Any, packed: bool
) -> None:
    state = make_state(5)
    if packed:
        state.packed("one form", Packed)
    other = make_copy(state)
    assert (other.n_steps, other.layout, other.optimizer) == (5, LAYOUT, Adam())
    assert np.array_equal(other.slots(), SLOTS)
    assert other.generator.integers(1 << 60) == state.generator.integers(1 << 60)  # type: ignore[union-attr]
    assert other.lock is not state.lock
    other.parameters[:] = -1
    assert (state.parameters != -1).all()
    assert (other.weights[0] == -1).all()


@each_copy
def test_a_copy_made_beside_a_training_begins_at_step_0(make_copy: Any) -> None:
    state = make_state(5)
    results = list[NetState]()
    with state.lock.training("a test"):
        thread = threading.Thread(target=lambda: results.append(make_copy(state)))
        thread.start()
        thread.join()
        with state.lock.calling_back():
            results.append(make_copy(state))
    assert [each.n_steps for each in results] == [0, 5]
    assert [each.slots() is None for each in results] == [True, False]


def test_a_pickle_has_no_generator_of_numpys() -> None:
    """NumPy 1.26 does not read the generators of NumPy 2."""
    written = pickle.dumps(make_state())
    assert b"numpy.random" not in written
    generator = pickle.loads(written).generator
    assert generator.random() == np.random.default_rng(0).random()


def test_a_state_of_a_pickle_may_hold_the_generator_itself() -> None:
    state = make_state()
    generator = np.random.default_rng(5)
    state.__setstate__(state.__getstate__() | {"generator": generator})
    assert state.generator is generator


def test_read_only_parameters_of_a_pickle_are_copied() -> None:
    state = make_state()
    content = state.__getstate__()
    content["parameters"].flags.writeable = False
    other = NetState.__new__(NetState)
    other.__setstate__(content)
    other.parameters[:] = 1


def test_deep_copies_made_at_once_share_what_the_originals_share() -> None:
    first, second = make_state(), make_state()
    second.generator = first.generator
    copies = copy.deepcopy([first, second])
    assert copies[0].generator is copies[1].generator
    assert copies[0].generator is not first.generator


def used(kind: str) -> np.random.Generator:
    generator = np.random.Generator(getattr(np.random, kind)(3))
    generator.integers(10, size=3, dtype=np.uint32)
    generator.random(5)
    return generator


@pytest.mark.parametrize("kind", random_state.BIT_GENERATORS)
def test_a_generator_goes_on_after_json(kind: str) -> None:
    generator = used(kind)
    back = random_state.from_state(
        json.loads(json.dumps(random_state.state_of(generator)))
    )
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


@pytest.mark.parametrize("kind", random_state.BIT_GENERATORS)
@pytest.mark.parametrize(
    "wrong", [-1, 1 << 128, 1.5, True, None, "1", [], {}], ids=repr
)
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
def test_a_position_beyond_is_refused(
    kind: str, path: tuple[str, ...], most: int
) -> None:
    state = random_state.state_of(used(kind))
    assert random_state.from_state(replaced(state, path, most)).integers(9) >= 0
    with pytest.raises(ValueError, match=f"from 0 to {most}"):
        random_state.from_state(replaced(state, path, most + 1))


@pytest.mark.parametrize(
    "state", [{}, [], None, 3, {"bit_generator": "Own"}, {"state": 1}]
)
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises((TypeError, ValueError, LookupError)):
        random_state.from_state(state)


@pytest.mark.parametrize("kind", random_state.BIT_GENERATORS)
def test_lists_of_a_generator_must_have_its_integers(kind: str) -> None:
    state = random_state.state_of(used(kind))
    for path in leaves(state):
        if path[-1] == 0:
            with pytest.raises(ValueError, match="integers"):
                random_state.from_state(replaced(state, path[:-1], [1, 2, 3, 4, 5]))


@pytest.mark.parametrize("kind", random_state.BIT_GENERATORS)
def test_names_of_a_generator_must_be_those_of_its_kind(kind: str) -> None:
    state = random_state.state_of(used(kind))
    with pytest.raises(ValueError, match="must have"):
        random_state.from_state({**state, "more": 1})


def test_a_generator_of_ones_own_cannot_be_written() -> None:
    class Own(np.random.PCG64):
        @property  # type: ignore[misc]
        def state(self) -> Any:
            return {"bit_generator": "Own"}

    with pytest.raises(ValueError, match="kind 'Own' cannot be written; known: PCG64"):
        random_state.state_of(np.random.Generator(Own(0)))


@pytest.mark.parametrize("kind", random_state.BIT_GENERATORS)
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
    [
        ("has_gauss", 2),
        ("has_gauss", "1"),
        ("gauss", float("inf")),
        ("gauss", 1),
        ("gauss", None),
    ],
)
def test_a_normal_number_that_cannot_be_is_refused(name: str, wrong: Any) -> None:
    state = random_state.of_random_state(np.random.RandomState(0))
    with pytest.raises(
        ValueError, match="gauss must be a finite number, and has_gauss 0 or 1"
    ):
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
