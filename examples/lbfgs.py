"""Any optimizer that takes a loss and its gradient can train a net:
here SciPy's L-BFGS-B.
"""

import sys

import numpy as np
from scipy.optimize import minimize

from fastmlp import MLP

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (400, 2))
y = np.sin(np.pi * X[:, 0]) * np.cos(np.pi * X[:, 1])

net = MLP((2, 24, 1), activation="tanh", dtype="float64", seed=0)


def objective(parameters):
    net.parameters[:] = parameters
    return net.loss_and_gradient(X, y)


before, _ = net.loss_and_gradient(X, y)
quick = "--quick" in sys.argv
max_steps = 50 if quick else 1000
result = minimize(
    objective,
    net.parameters.copy(),
    jac=True,
    method="L-BFGS-B",
    options={"maxiter": max_steps, "maxfun": 2 * max_steps},
)
net.parameters[:] = result.x

n_parameters = net.parameters.size
print(f"{result.nit} iterations, {result.nfev} gradients of {n_parameters} parameters")
print(f"mean squared error {before:.4f} -> {result.fun:.2e}")
