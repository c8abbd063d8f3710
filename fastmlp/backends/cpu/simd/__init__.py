"""Vector code: the microkernel, products of matrices, packing and transposes."""
