"""fastmlp beside its peers on the same work: `pytest benchmarks --benchmark-only`."""
