"""A cart learns to balance a pole:
an actor and a critic (PPO), by gymnasium or without it.
"""

import sys

import numpy as np

from fastmlp import MLP, Adam

ROLLOUT = 2048
BATCH = 64
DISCOUNT = 0.99
TRACE = 0.95


class Rollout:
    """Records of `ROLLOUT` steps; states have one more, the state after the last."""

    def __init__(self):
        self.states = np.empty((ROLLOUT + 1, 4), np.float32)
        self.actions = np.empty(ROLLOUT, int)
        self.rewards = np.empty(ROLLOUT, np.float32)
        self.goes_on = np.empty(ROLLOUT, np.float32)

    def advantages(self, values):
        """Return what each action brought beside the critic's values."""
        ahead = DISCOUNT * self.goes_on * values[1:]
        errors = self.rewards + ahead - values[:-1]
        advantages = np.empty(ROLLOUT, np.float32)
        advantage = 0.0
        for t in reversed(range(ROLLOUT)):
            kept = TRACE * DISCOUNT * self.goes_on[t]
            advantage = errors[t] + kept * advantage
            advantages[t] = advantage
        return advantages


def improve(actor, critic, seen, rng):
    """Train both nets for ten epochs, the actor by PPO's clipped objective."""
    values = critic.predict(seen.states)[:, 0]
    before = actor.predict(seen.states)
    advantages = seen.advantages(values)
    returns = (advantages + values[:-1])[:, None]
    for _ in range(10):
        for rows in rng.permutation(ROLLOUT).reshape(-1, BATCH):
            x = seen.states[rows]
            actions = seen.actions[rows]
            chosen = np.arange(BATCH), actions
            gain = advantages[rows]
            gain = (gain - gain.mean()) / (gain.std(ddof=1) + 1e-8)
            slopes = actor.predict(x)
            ratio = slopes[chosen] / before[rows, actions]
            # Less 1 where chosen: the slopes of -log(probability).
            slopes[chosen] -= 1
            unclipped = ratio * gain <= np.clip(ratio, 0.8, 1.2) * gain
            weight = unclipped * ratio * gain / BATCH
            actor.train_on_gradient(x, slopes * weight[:, None])
            critic.train_on_batch(x, returns[rows])


def episodes(actor, critic, environment, n_steps, seed):
    """Yield the number of steps so far, and the return, at the end of each episode."""
    rng = np.random.default_rng(seed)
    seen = Rollout()
    state, _ = environment.reset(seed=seed)
    total = 0.0
    for step in range(n_steps):
        i = step % ROLLOUT
        seen.states[i] = state
        seen.actions[i] = rng.random() < actor.predict(state[None])[0, 1]
        state, reward, falls, cut, _ = environment.step(int(seen.actions[i]))
        total += reward
        seen.rewards[i] = reward
        seen.goes_on[i] = not (falls or cut)
        if cut and not falls:
            # By the limit of steps: the pole would have stood on.
            seen.rewards[i] += DISCOUNT * critic.predict(state[None])[0, 0]
        if falls or cut:
            yield step + 1, total
            total = 0.0
            state, _ = environment.reset()
        if i == ROLLOUT - 1:
            seen.states[ROLLOUT] = state
            improve(actor, critic, seen, rng)


if __name__ == "__main__":
    try:
        from gymnasium import make
    except ImportError:
        from environments.cartpole import CartPole as make
    environment = make("CartPole-v1", max_episode_steps=200)
    settings = {
        "activation": "tanh",
        "optimizer": Adam(3e-4),
        "seed": 0,
        "n_threads": 1,
    }
    actor = MLP((4, 64, 64, 2), loss="cross_entropy", **settings)
    critic = MLP((4, 64, 64, 1), **settings)
    quick = "--quick" in sys.argv
    n_steps = 4200 if quick else 10**5
    returns = []
    for n, total in episodes(actor, critic, environment, n_steps, seed=0):
        returns.append(total)
        if len(returns) % 40 == 0:
            mean = np.mean(returns[-40:])
            print(f"{n:6} steps, mean return of the last 40 episodes {mean:5.1f}")
        if np.mean(returns[-100:]) >= 195:
            break
