"""Settings for Numba's simulator of CUDA."""

import sys

from numba.cuda.simulator import kernelapi
from shared_memory import Shared

# One of its threads looks, without a pause, whether the others wait for each other, and gives way
# to them only as often as this says: the default is 5 ms.
sys.setswitchinterval(2e-5)
kernelapi.FakeCUDAShared = Shared
