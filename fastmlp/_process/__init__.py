"""Services of the process: locks, buffer pools, task pool, signals, warnings, memory, random."""
