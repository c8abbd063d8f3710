"""Settings for Numba's simulator of CUDA."""

import sys

from numba.cuda.simulator import kernelapi
from shared_memory import Shared

# One thread polls the others' barrier without a pause. It yields to them at this interval; the
# default is 5 ms.
sys.setswitchinterval(2e-5)
kernelapi.FakeCUDAShared = Shared
