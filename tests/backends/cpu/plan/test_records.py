"""Records that kernels read: fields with names of their own, addresses that count numbers."""

import numpy as np
import pytest

from fastmlp.backends.cpu.plan.records import Batch, BlockAddresses, Job, Layer, Net, Tile, address
from fastmlp.compiler import Record


@pytest.mark.parametrize("kind", [Net, Batch, BlockAddresses, Layer, Tile, Job])
def test_no_field_has_the_name_of_a_method_of_records(kind: type[Record]) -> None:
    # Uncompiled, `record.transpose` would be the method, not the field.
    assert not set(kind.dtype.names or ()) & set(dir(np.record))


def test_an_offset_counts_numbers_not_bytes() -> None:
    numbers = np.zeros(4, np.float32)
    assert address(numbers, 3) == numbers[3:].ctypes.data
