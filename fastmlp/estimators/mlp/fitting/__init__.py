"""Fits of an estimator: settings in the core's words, rows, the net, and two ways to train."""
