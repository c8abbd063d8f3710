"""Second-order training on the CPU: Gauss-Newton matrices and their factors."""
