"""Scaling of inputs: by a stream's moments or quantiles, and folded into a net's first layer."""
