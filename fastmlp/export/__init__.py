"""Nets outside of Python: folded scalings,
compiled functions, C, ONNX; their derivatives.
"""
