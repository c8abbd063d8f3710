"""The command `fastmlp`: demo, info, warmup."""
