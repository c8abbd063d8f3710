"""What leaves a net: folded scalings, functions of compiled code, C, ONNX, derivatives."""
