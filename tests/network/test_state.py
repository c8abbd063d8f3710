"""NetState: what a copy and a pickle take along, and the optimizer's state in a backend's form."""

import copy
import pickle
import threading
from typing import Any

import numpy as np
import pytest

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
        self.numbers = np.zeros_like(SLOTS) if flat is None else flat[:, ::-1].copy()

    def flat(self) -> Any:
        return self.numbers[:, ::-1].copy()

    def begin(self, parameters: Any, lag: float) -> bool:
        edited = self.flat()[-1].tobytes() != parameters.tobytes()
        if edited:
            self.numbers[2:] = parameters[::-1]
        return edited


def make_state() -> NetState:
    parameters = np.arange(float(LAYOUT.n_parameters))
    return NetState(LAYOUT, parameters, Adam(), np.random.default_rng(0))


def test_slots_are_packed_once_and_trained_in_place() -> None:
    state, made = make_state(), []

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


def test_another_form_is_packed_from_the_flat_numbers() -> None:
    state = make_state()
    state.set_slots(SLOTS)
    first = state.packed("one form", Packed)
    second = state.packed("another", Packed)
    assert second is not first
    assert np.array_equal(second.flat(), SLOTS)
    state.unpack()
    assert np.array_equal(state.slots(), SLOTS)  # type: ignore[arg-type]
    assert state.packed("another", Packed) is not second


def test_a_form_that_cannot_be_made_leaves_the_one_before() -> None:
    state = make_state()
    state.set_slots(SLOTS)
    first = state.packed("one form", Packed)

    def fail(flat: Any) -> Packed:
        raise MemoryError

    with pytest.raises(MemoryError):
        state.packed("another", fail)
    assert state.packed("one form", Packed) is first


def test_an_optimizer_with_an_average_has_more_slots_and_one_without_fewer() -> None:
    state = make_state()
    state.set_slots(SLOTS)
    state.n_steps = 5
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
    assert (state.averaged_from, state.slots()) == (0, None)


def test_slots_take_the_dtype_of_the_parameters() -> None:
    state = NetState(LAYOUT, np.zeros(LAYOUT.n_parameters, np.float32), Adam())
    state.set_slots(SLOTS)
    slots = state.slots()
    assert slots is not None
    assert slots.dtype == np.float32


@each_copy
@pytest.mark.parametrize("packed", [False, True])
def test_a_copy_takes_all_along_and_shares_nothing(make_copy: Any, packed: bool) -> None:
    state = make_state()
    state.set_slots(SLOTS)
    state.n_steps = 5
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
    state, results = make_state(), []
    state.set_slots(SLOTS)
    state.n_steps = 5
    with state.lock.training("a test"):
        thread = threading.Thread(target=lambda: results.append(make_copy(state)))
        thread.start()
        thread.join()
        with state.lock.calling_back():
            results.append(make_copy(state))
    assert [each.n_steps for each in results] == [0, 5]
    assert [each.slots() is None for each in results] == [True, False]


def test_read_only_parameters_of_a_pickle_are_copied() -> None:
    state = make_state()
    content = state.__getstate__()
    content["parameters"].flags.writeable = False
    other = NetState.__new__(NetState)
    other.__setstate__(content)
    other.parameters[:] = 1


def test_restart_keeps_the_parameters() -> None:
    state = make_state()
    state.set_slots(SLOTS)
    state.n_steps = 5
    before = state.parameters.copy()
    state.restart()
    assert (state.n_steps, state.slots()) == (0, None)
    assert np.array_equal(state.parameters, before)


def test_every_numpy_reads_a_pickle() -> None:
    """NumPy 1.26 does not read the generators of NumPy 2."""
    written = pickle.dumps(make_state())
    assert b"numpy.random" not in written
    generator = pickle.loads(written).generator
    assert generator.random() == np.random.default_rng(0).random()


def test_pickles_of_version_0_1_hold_the_generator_itself() -> None:
    state, generator = make_state(), np.random.default_rng(5)
    state.__setstate__(state.__getstate__() | {"generator": generator})
    assert state.generator is generator


def test_deep_copies_made_at_once_share_what_the_originals_share() -> None:
    first, second = make_state(), make_state()
    second.generator = first.generator
    copies = copy.deepcopy([first, second])
    assert copies[0].generator is copies[1].generator
    assert copies[0].generator is not first.generator
