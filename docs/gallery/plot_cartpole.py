"""
Can it learn to act?
====================

A pole on a cart, to be kept upright by pushes to the left and to the right. There are
no labels: a policy is rewarded for each step on which the pole stands. The slopes of
that objective go to the net by `MLP.train_on_gradient`.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLP, Adam

LIMIT = 200


def moved(state, action):
    """The state 0.02 s after a push, of many carts at once."""
    _, speed, angle, spin = state.T
    sin = np.sin(angle)
    cos = np.cos(angle)
    force = (np.where(action, 10, -10) + 0.05 * spin**2 * sin) / 1.1
    spin_up = (9.8 * sin - cos * force) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    speed_up = force - 0.05 * spin_up * cos / 1.1
    changes = np.column_stack([speed, speed_up, spin, spin_up])
    return (state + 0.02 * changes).astype(np.float32)


def episodes(policy, n, rng):
    """States, actions and probabilities by step of n carts,
    and on which the pole stood.
    """
    state = rng.uniform(-0.05, 0.05, (n, 4)).astype(np.float32)
    stands = np.ones(n, bool)
    steps = []
    for _ in range(LIMIT):
        p = policy.predict(state)
        action = rng.random(n) < p[:, 1]
        steps.append((state, action, p, stands))
        state = moved(state, action)
        stands = stands & (abs(state[:, 0]) < 2.4) & (abs(state[:, 2]) < np.radians(12))
    return [np.array(part) for part in zip(*steps, strict=True)]


# %% REINFORCE (Williams, 1992): an action after which the pole stood longer than on the
# other carts at that moment becomes more probable. The slope of `-log(p[action])` by
# the raw outputs of a softmax is `p - onehot(action)`.


def learn(seed, n_rounds=50, n=32):
    rng = np.random.default_rng(seed)
    policy = MLP(
        (4, 32, 2),
        activation="tanh",
        loss="cross_entropy",
        optimizer=Adam(0.02),
        seed=seed,
    )
    lengths = np.empty(n_rounds)
    for i in range(n_rounds):
        states, actions, p, stands = episodes(policy, n, rng)
        lengths[i] = stands.sum(axis=0).mean()
        left = stands[::-1].cumsum(axis=0)[::-1].astype(float)
        gain = left - left.sum(axis=1, keepdims=True) / stands.sum(
            axis=1, keepdims=True
        ).clip(1)
        gain = gain[stands] / (gain[stands].std() + 1e-8)
        slopes = p[stands] - np.eye(2)[actions[stands].astype(int)]
        policy.train_on_gradient(states[stands], gain[:, None] * slopes / stands.sum())
    return policy, lengths


policies, lengths = zip(*(learn(seed) for seed in range(4)), strict=True)

# %% Above: how long the pole stands, at most 200 steps, by four seeds. Below: its angle
# on eight carts under a policy that has learnt nothing, and under one that has. Beyond
# 12 degrees it counts as fallen.

untrained = MLP((4, 32, 2), activation="tanh", loss="cross_entropy", seed=0)
figure, (above, below) = plt.subplots(2, 1, figsize=(6, 6.5))
for seed, curve in enumerate(lengths):
    above.plot(curve, linewidth=1.5, label=f"seed {seed}")
above.set(
    title="Steps until the pole falls", xlabel="rounds of 32 carts", ylabel="mean steps"
)
above.legend()
for policy, colour, name in (
    (untrained, "C1", "untrained"),
    (policies[0], "C0", "trained"),
):
    states, _, _, stands = episodes(policy, 8, np.random.default_rng(1))
    angles = np.where(stands, np.degrees(states[:, :, 2]), np.nan)
    below.plot(angles, color=colour, linewidth=1)
    below.plot([], color=colour, label=name)
below.set(
    title="Angle of the pole on eight carts",
    xlabel="step",
    ylabel="degrees",
    ylim=(-13, 13),
)
below.legend()

# %%

for seed, curve in enumerate(lengths):
    print(
        f"seed {seed}: {curve[0]:.0f} steps at first, {curve[-5:].mean():.0f} in the "
        f"last rounds"
    )
