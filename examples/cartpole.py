"""A cart learns to balance a pole:
an actor and a critic (PPO), by gymnasium or without it.
"""

import sys

import numpy as np

from fastmlp import MLP, Adam


def episodes(
    actor, critic, environment, n_steps, seed, rollout=2048, batch=64, discount=0.99
):
    """Yield the number of steps so far, and the return, at the end of each episode."""
    rng, total, (state, _) = (
        np.random.default_rng(seed),
        0.0,
        environment.reset(seed=seed),
    )
    states, actions = np.empty((rollout + 1, 4), np.float32), np.empty(rollout, int)
    rewards, goes_on, advantages = np.empty((3, rollout), np.float32)
    for step in range(n_steps):
        i = step % rollout
        states[i], actions[i] = state, rng.random() < actor.predict(state[None])[0, 1]
        state, reward, falls, cut, _ = environment.step(int(actions[i]))
        total, rewards[i], goes_on[i] = total + reward, reward, not (falls or cut)
        if cut and not falls:  # by the limit of steps: the pole would have stood on
            rewards[i] += discount * critic.predict(state[None])[0, 0]
        if falls or cut:
            yield step + 1, total
            total, (state, _) = 0.0, environment.reset()
        if i < rollout - 1:
            continue
        states[rollout], advantage = state, 0.0
        values, before = critic.predict(states)[:, 0], actor.predict(states)
        errors = rewards + discount * goes_on * values[1:] - values[:-1]
        for t in reversed(range(rollout)):
            advantages[t] = advantage = (
                errors[t] + 0.95 * discount * goes_on[t] * advantage
            )
        returns = (advantages + values[:-1])[:, None]
        for rows in (
            r for _ in range(10) for r in rng.permutation(rollout).reshape(-1, batch)
        ):
            x, chosen, gain = (
                states[rows],
                (np.arange(batch), actions[rows]),
                advantages[rows],
            )
            gain = (gain - gain.mean()) / (gain.std(ddof=1) + 1e-8)
            slopes = actor.predict(
                x
            )  # less 1 where chosen: the slopes of -log(probability)
            ratio = slopes[chosen] / before[rows, actions[rows]]
            slopes[chosen] -= 1
            unclipped = ratio * gain <= np.clip(ratio, 0.8, 1.2) * gain
            actor.train_on_gradient(
                x, slopes * (unclipped * ratio * gain / batch)[:, None]
            )
            critic.train_on_batch(x, returns[rows])


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
    nets, returns = (actor, MLP((4, 64, 64, 1), **settings)), []
    for n, total in episodes(
        *nets, environment, 4200 if "--quick" in sys.argv else 10**5, seed=0
    ):
        returns.append(total)
        if len(returns) % 40 == 0:
            print(
                f"{n:6} steps, mean return of the last 40 episodes "
                f"{np.mean(returns[-40:]):5.1f}"
            )
        if np.mean(returns[-100:]) >= 195:
            break
