"""Numba, loaded whole.

Of a Numba that is half loaded nothing can be made in the same process: of 40 times that Ctrl-C came
while it loads, 37 ended in an AttributeError at the next import.
"""

from fastmlp._process import signals

with signals.deferred():
    import numba  # noqa: F401
