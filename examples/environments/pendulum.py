"""A rod that a weak motor swings up."""

import numpy as np


class Pendulum:
    """A rod of 1 kg and 1 m under 10 m/s2, turned by 2 N m at most, every 0.05 s."""

    def __init__(self, rng):
        self.angle = rng.uniform(-np.pi, np.pi)
        self.spin = rng.uniform(-1, 1)

    def state(self):
        return np.array([np.cos(self.angle), np.sin(self.angle), self.spin])

    def step(self, action):
        """Turn by 2 * action; return the reward, at most 0."""
        angle = (self.angle + np.pi) % (2 * np.pi) - np.pi
        cost = angle**2 + 0.1 * self.spin**2 + 0.004 * action**2
        push = 15 * np.sin(self.angle) + 6 * action
        self.spin = np.clip(self.spin + 0.05 * push, -8, 8)
        self.angle += 0.05 * self.spin
        return -cost
