"""cartpole.py in one compiled function: the environment, the nets, and their steps."""

import sys
import time

import numpy as np
from environments.compiled_cartpole import advantages_of, clip, move
from numba import njit

from fastmlp import MLP, Adam, jit


@njit(cache=True)
def learn(
    actor, critic, rng, n_steps, rollout=2048, batch=64, discount=0.99, limit=200
):
    """Return the steps until the last 100 returns have a mean of 195,
    and those returns.
    """
    states, values = np.empty((rollout + 1, 4)), np.empty((rollout + 1, 1))
    actions, rewards, goes_on = (
        np.empty(rollout, np.int64),
        np.ones(rollout),
        np.empty(rollout),
    )
    before, slopes, rows = (
        np.empty((rollout, 2)),
        np.empty((batch, 2)),
        np.arange(rollout),
    )
    state, length, n, returns = rng.random(4) / 10 - 0.05, 0, 0, np.zeros(100)
    for step in range(n_steps):
        i = step % rollout
        jit.predict(actor, state, before[i])
        states[i], actions[i] = state, int(rng.random() < before[i, 1])
        falls, length = move(state, actions[i]), length + 1
        ends = falls or length == limit
        # At the limit of steps the pole would have stood on.
        rewards[i] = 1 if falls or not ends else 1 + discount * jit.value(critic, state)
        goes_on[i] = 0 if ends else 1
        if ends:
            returns[n % 100], n, length = length, n + 1, 0
            state[:] = rng.random(4) / 10 - 0.05
            if returns.mean() >= 195:
                return step + 1, returns
        if i == rollout - 1:
            states[rollout] = state
            jit.predict(critic, states, values)
            advantages = advantages_of(rewards, goes_on, values, discount)
            for first in range(0, 10 * rollout, batch):
                if first % rollout == 0:
                    rng.shuffle(rows)
                some = rows[first % rollout : first % rollout + batch]
                x, gains = states[some], advantages[some]
                jit.predict(actor, x, slopes)
                clip(slopes, actions[some], before[some], gains)
                jit.train_on_gradient(actor, x, slopes)
                jit.train_on_batch(critic, x, gains + values[some, 0])
    return n_steps, returns


if __name__ == "__main__":
    ways, n = (
        {"activation": "tanh", "optimizer": Adam(3e-4), "n_threads": 1},
        (4, 64, 64),
    )
    nets = (
        MLP((*n, 2), loss="cross_entropy", seed=0, **ways),
        MLP((*n, 1), seed=1, **ways),
    )
    learners = [jit.learner(net, batch_size=64) for net in nets]
    with learners[0] as actor, learners[1] as critic:
        for most in (
            1,
            4200 if "--quick" in sys.argv else 10**5,
        ):  # the first step compiles
            start = time.perf_counter()
            n_steps, returns = learn(actor, critic, np.random.default_rng(0), most)
    print(f"{n_steps} steps, mean return of the last 100 episodes {returns.mean():.1f}")
    print(
        f"{1e6 * (time.perf_counter() - start) / n_steps:.1f} us a step, training "
        f"included"
    )
