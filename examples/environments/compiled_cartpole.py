"""Parts of cartpole_compiled.py: the environment's step,
advantages, and PPO's slopes.
"""

import numpy as np
from numba import njit


@njit(cache=True)
def move(state, action):
    """Change the state in place:
    0.02 s with a push to the left or right; return if it falls.
    """
    _, speed, angle, spin = state
    sin = np.sin(angle)
    cos = np.cos(angle)
    push = 10 if action else -10
    force = (push + 0.05 * spin**2 * sin) / 1.1
    spin_up = (9.8 * sin - cos * force) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    speed_up = force - 0.05 * spin_up * cos / 1.1
    state += 0.02 * np.array([speed, speed_up, spin, spin_up])
    return abs(state[0]) > 2.4 or abs(state[2]) > np.radians(12)


@njit(cache=True)
def advantages_of(rewards, goes_on, values, discount):
    """Return what each action brought beside the critic's values."""
    advantages = np.empty(len(rewards))
    advantage = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        ahead = discount * goes_on[t] * values[t + 1, 0]
        error = rewards[t] + ahead - values[t, 0]
        kept = 0.95 * discount * goes_on[t]
        advantage = error + kept * advantage
        advantages[t] = advantage
    return advantages


@njit(cache=True)
def clip(slopes, actions, before, gains):
    """Change probabilities in place to the slopes of PPO's objective."""
    gains = (gains - gains.mean()) / (gains.std() + 1e-8)
    for j in range(len(slopes)):
        chosen = actions[j]
        gain = gains[j]
        ratio = slopes[j, chosen] / before[j, chosen]
        # Less 1 where chosen: the slopes of -log(probability).
        slopes[j, chosen] -= 1
        clipped = min(max(ratio, 0.8), 1.2)
        if ratio * gain <= clipped * gain:
            slopes[j] *= ratio * gain / len(slopes)
        else:
            slopes[j] = 0.0
