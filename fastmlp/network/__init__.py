"""The net without numbers: its spec, the layout of its parameters, names made into rules."""
