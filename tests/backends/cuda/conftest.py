"""The tests of `simulated` run where Numba simulates CUDA: see test_device.py."""

from numba import config

collect_ignore = [] if config.ENABLE_CUDASIM else ["simulated"]
