"""The tests of `simulated` run where Numba simulates CUDA: see test_simulator.py."""

from numba import config

collect_ignore = [] if config.ENABLE_CUDASIM else ["simulated"]
