"""What belongs to the process, not to a net: locks, buffers, workers, signals, warnings."""
