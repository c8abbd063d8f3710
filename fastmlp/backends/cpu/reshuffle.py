"""Orders of the rows as scikit-learn draws them, from a `RandomState`."""

import ctypes

import numpy as np
from numpy.random import BitGenerator
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels.shuffle import shuffle_again
from fastmlp.backends.cpu.plan.records import address
from fastmlp.compiler import block_of

# A prototype of our own: argument types set on the function of ctypes.pythonapi would hold for the
# whole process.
_POINTER = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_pointer_of = _POINTER(("PyCapsule_GetPointer", ctypes.pythonapi))


def generator_address(bits: BitGenerator) -> int:
    """Return the address of a generator's `bitgen_t`, valid for as long as the generator lives."""
    place: int = _pointer_of(bits.capsule, b"BitGenerator")
    return place


def reshuffled(
    random: np.random.RandomState, order: NDArray[np.int64], n_orders: int
) -> NDArray[np.int64]:
    """Return n_orders orders, each the one before it as ``random.shuffle`` would leave it.

    Examples
    --------
    >>> orders = reshuffled(np.random.RandomState(0), np.arange(5), 2)
    >>> order, random = np.arange(5), np.random.RandomState(0)
    >>> [random.shuffle(order) or bool((order == each).all()) for each in orders]
    [True, True]
    """
    source, orders = np.ascontiguousarray(order), np.empty((n_orders, len(order)), np.int64)
    bits, shuffle = random._bit_generator, block_of(shuffle_again, np.int64)
    with bits.lock:
        shuffle(generator_address(bits), address(source), address(orders), len(order), n_orders)
    return orders
