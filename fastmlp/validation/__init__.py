"""Checks of the caller's arguments, before anything is compiled.

An error names the caller, the expected value, the actual one, and the known names. The
parameter `who` of many functions is the caller's name, such as "MLP.fit", with which
errors begin.
"""

from typing import Any

from numpy.typing import NDArray

# An array of numbers, or of the caller's values.
Array = NDArray[Any]
