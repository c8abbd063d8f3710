"""How many threads a piece of work is given: the cost model and the autotuner."""
