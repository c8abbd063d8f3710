"""Nets as content of files: safetensors, the state of a model, rules as JSON."""
