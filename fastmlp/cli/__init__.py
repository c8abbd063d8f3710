"""The command `fastmlp` and its verbs: demo, info, warmup."""
