"""The mathematics of a step: forward pass, backpropagation and the update, as kernels."""
