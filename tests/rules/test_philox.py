"""Philox4x32-10: the known answers of Random123, of the package and of the oracle."""

import naive
import numpy as np
import pytest

from fastmlp.rules.dropout import LOW, philox_of

FULL = 0xFFFFFFFF
# Counter, key, output: kat_vectors of Random123.
ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([FULL] * 4, [FULL] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), ANSWERS)
def test_the_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    philox = philox_of(lambda function: function)
    words = philox(*map(np.uint64, (*counter, *key)))
    assert [int(word & LOW) for word in words] == expected
    arrays = [np.array([word]) for word in counter]
    assert np.ravel(naive.philox(arrays, (key[0], key[1]))).tolist() == expected
