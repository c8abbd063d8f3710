"""Many nets in one call: the fits as tasks, on the cores or on a GPU."""
