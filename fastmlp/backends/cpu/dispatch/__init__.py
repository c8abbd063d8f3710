"""The number of threads of a call: the cost model and the autotuner."""
