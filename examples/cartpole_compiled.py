"""cartpole.py in one compiled function: the environment, the nets, and their steps."""

import sys
import time

import numpy as np
from environments.compiled_cartpole import advantages_of, clip, move
from numba import njit

from fastmlp import MLP, Adam, jit

ROLLOUT = 2048
BATCH = 64
DISCOUNT = 0.99
MOST_STEPS = 200


@njit(cache=True)
def train(actor, critic, x, actions, before, gains, returned, slopes):
    """Take a step of both nets on one batch; `slopes` (BATCH, 2) are overwritten."""
    jit.predict(actor, x, slopes)
    clip(slopes, actions, before, gains)
    jit.train_on_gradient(actor, x, slopes)
    jit.train_on_batch(critic, x, returned)


@njit(cache=True)
def learn(actor, critic, rng, n_steps):
    """Return the steps until the last 100 returns have a mean of 195,
    and those returns.
    """
    states = np.empty((ROLLOUT + 1, 4))
    values = np.empty((ROLLOUT + 1, 1))
    actions = np.empty(ROLLOUT, np.int64)
    rewards = np.ones(ROLLOUT)
    goes_on = np.empty(ROLLOUT)
    before = np.empty((ROLLOUT, 2))
    slopes = np.empty((BATCH, 2))
    rows = np.arange(ROLLOUT)
    returns = np.zeros(100)
    n_episodes = 0
    length = 0
    state = rng.random(4) / 10 - 0.05
    for step in range(n_steps):
        i = step % ROLLOUT
        jit.predict(actor, state, before[i])
        states[i] = state
        actions[i] = int(rng.random() < before[i, 1])
        falls = move(state, actions[i])
        length += 1
        cut = length == MOST_STEPS and not falls
        rewards[i] = 1
        if cut:
            # At the limit of steps the pole would have stood on.
            rewards[i] += DISCOUNT * jit.value(critic, state)
        goes_on[i] = not (falls or cut)
        if falls or cut:
            returns[n_episodes % 100] = length
            n_episodes += 1
            length = 0
            state[:] = rng.random(4) / 10 - 0.05
            if returns.mean() >= 195:
                return step + 1, returns
        if i == ROLLOUT - 1:
            states[ROLLOUT] = state
            jit.predict(critic, states, values)
            advantages = advantages_of(rewards, goes_on, values, DISCOUNT)
            for _ in range(10):
                rng.shuffle(rows)
                for first in range(0, ROLLOUT, BATCH):
                    some = rows[first : first + BATCH]
                    x = states[some]
                    chosen = actions[some]
                    old = before[some]
                    gains = advantages[some]
                    returned = gains + values[some, 0]
                    train(actor, critic, x, chosen, old, gains, returned, slopes)
    return n_steps, returns


if __name__ == "__main__":
    settings = {"activation": "tanh", "optimizer": Adam(3e-4), "n_threads": 1}
    nets = (
        MLP((4, 64, 64, 2), loss="cross_entropy", seed=0, **settings),
        MLP((4, 64, 64, 1), seed=1, **settings),
    )
    quick = "--quick" in sys.argv
    most = 4200 if quick else 10**5
    learners = [jit.learner(net, batch_size=64) for net in nets]
    with learners[0] as actor, learners[1] as critic:
        # The first step compiles.
        learn(actor, critic, np.random.default_rng(0), 1)
        start = time.perf_counter()
        n_steps, returns = learn(actor, critic, np.random.default_rng(0), most)
        seconds = time.perf_counter() - start
    print(f"{n_steps} steps, mean return of the last 100 episodes {returns.mean():.1f}")
    print(f"{1e6 * seconds / n_steps:.1f} us a step, training included")
