"""A pole on a cart, by the equations of Barto, Sutton and Anderson (1983)."""

import math

import numpy as np


class CartPole:
    """The environment of gymnasium's `make`,
    with its methods, for where it is not installed.

    A cart of 1 kg, a pole of 0.1 kg and 1 m;
    every 0.02 s a push of 10 N to the left or right.
    """

    def __init__(self, name="CartPole-v1", *, max_episode_steps=200):
        self.most_steps = max_episode_steps

    def reset(self, seed=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.state = self.rng.uniform(-0.05, 0.05, 4)
        self.n_steps = 0
        return self.state.astype(np.float32), {}

    def step(self, action):
        place, speed, angle, spin = self.state
        sin = math.sin(angle)
        cos = math.cos(angle)
        push = 10 if action else -10
        force = (push + 0.05 * spin**2 * sin) / 1.1
        spin_up = (9.8 * sin - cos * force) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        speed_up = force - 0.05 * spin_up * cos / 1.1
        self.state = self.state + 0.02 * np.array([speed, speed_up, spin, spin_up])
        self.n_steps += 1
        place, _, angle, _ = self.state
        state = self.state.astype(np.float32)
        terminated = bool(abs(place) > 2.4 or abs(angle) > math.radians(12))
        truncated = self.n_steps >= self.most_steps
        return state, 1.0, terminated, truncated, {}
