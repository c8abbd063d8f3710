"""A pendulum is swung up by DroQ, with 20 updates of its critics a step.

Norms and dropout keep the critics from overestimating, so that each step of the world
pays for 20 of training (Hiraoka et al., 2022, "Dropout Q-functions for doubly efficient
reinforcement learning"). Targets and the actor's slopes are taken without dropout here.
PyTorch takes the same updates of the critics beside it, where PyTorch is installed.
"""

import sys
import time
from copy import copy

import numpy as np
from environments.pendulum import Pendulum

from fastmlp import MLP, Adam

UPDATES, BATCH, DISCOUNT, EPISODE, WIDTH = 20, 64, 0.98, 200, 64


class Agent:
    def __init__(self, seed):
        settings = {"optimizer": Adam(1e-3), "n_threads": 1}
        self.rng = np.random.default_rng(seed)
        self.actor = MLP((3, WIDTH, WIDTH, 2), seed=seed, **settings)
        self.critics, self.targets = [], []
        for i in range(2):
            net = MLP(
                (4, WIDTH, WIDTH, 1),
                norm="layer",
                dropout=0.01,
                seed=seed + 1 + i,
                **settings,
            )
            self.critics.append(net)
            self.targets.append(copy(net))
        self.log_alpha = 0.0

    def actions(self, states):
        """Actions (n, 1), their log-densities (n, 1), and the numbers drawn."""
        mean, raw = np.split(self.actor.predict(states), 2, axis=1)
        log_spread = np.clip(raw, -5, 2)
        drawn = self.rng.normal(size=mean.shape)
        action = np.tanh(mean + np.exp(log_spread) * drawn)
        density = -0.92 - 0.5 * drawn**2 - log_spread - np.log(1 - action**2 + 1e-6)
        return action, density, (log_spread, drawn, abs(raw - log_spread) == 0)

    def update_critics(self, rows):
        states, actions, rewards, after = rows
        chosen, density, _ = self.actions(after)
        ahead = np.concatenate([after, chosen], axis=1)
        least = np.minimum(*(net.predict(ahead) for net in self.targets))
        goal = rewards + DISCOUNT * (least - np.exp(self.log_alpha) * density)
        taken = np.concatenate([states, actions], axis=1)
        for net, target in zip(self.critics, self.targets, strict=True):
            net.train_on_batch(taken, goal)
            target.parameters[:] += 0.005 * (net.parameters - target.parameters)

    def update_actor(self, states):
        """A step up the mean of both critics less the cost of certainty."""
        action, density, (log_spread, drawn, free) = self.actions(states)
        chosen = np.concatenate([states, action], axis=1)
        ones = np.full((len(states), 1), 0.5)
        slopes = [net.vjp(chosen, ones, parameters=False) for net in self.critics]
        alpha, flat = np.exp(self.log_alpha), 1 - action**2
        by_sum = -sum(slopes)[:, 3:] * flat + alpha * 2 * action * flat / (flat + 1e-6)
        by_spread = (by_sum * np.exp(log_spread) * drawn - alpha) * free
        gradient = np.concatenate([by_sum, by_spread], axis=1) / len(states)
        self.actor.train_on_gradient(states, gradient)
        # The density is held near that of one action's target entropy, -1.
        self.log_alpha += 1e-3 * float(np.mean(density) - 1)


def learn(n_steps, seed):
    """Return each episode's sum of rewards, and the seconds of an update."""
    agent, rng = Agent(seed), np.random.default_rng(seed)
    memory = [np.empty((n_steps, n), np.float32) for n in (3, 1, 1, 3)]
    returns, seconds = [], 0.0
    for step in range(n_steps):
        if step % EPISODE == 0:
            world, total = Pendulum(rng), 0.0
        state = world.state()
        action = agent.actions(state[None])[0] if step >= 500 else rng.uniform(-1, 1)
        reward = world.step(float(np.squeeze(action)))
        for array, value in zip(
            memory, (state, action, reward / 10, world.state()), strict=True
        ):
            array[step] = value
        total += reward
        if step % EPISODE == EPISODE - 1:
            returns.append(total)
        if step < 500:
            continue
        start = time.perf_counter()
        for _ in range(UPDATES):
            chosen = rng.integers(0, step + 1, BATCH)
            agent.update_critics([array[chosen] for array in memory])
        seconds += time.perf_counter() - start
        agent.update_actor(memory[0][chosen])
    return returns, seconds / (n_steps - 500) / UPDATES


def torch_seconds(n):
    """Seconds in which PyTorch steps both critics, and their targets, on one batch."""
    import torch
    from torch import nn

    torch.set_num_threads(1)

    def critic():
        layers = []
        for n_in in (4, WIDTH):
            layers += [nn.Linear(n_in, WIDTH), nn.Dropout(0.01), nn.LayerNorm(WIDTH)]
            layers.append(nn.ReLU())
        return nn.Sequential(*layers, nn.Linear(WIDTH, 1))

    critics, targets = nn.ModuleList([critic(), critic()]), [critic(), critic()]
    optimizer = torch.optim.Adam(critics.parameters(), 1e-3)
    x, goal = torch.randn(BATCH, 4), torch.randn(BATCH, 1)
    start = time.perf_counter()
    for _ in range(n):
        with torch.no_grad():
            torch.minimum(*(net(x) for net in targets))
        loss = sum(nn.functional.mse_loss(net(x), goal) for net in critics)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for net, target in zip(critics, targets, strict=True):
                for w, v in zip(net.parameters(), target.parameters(), strict=True):
                    v.lerp_(w, 0.005)
    return (time.perf_counter() - start) / n


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    for seed in range(1 if quick else 3):
        returns, seconds = learn(1000 if quick else 8000, seed)
        curve = ", ".join(f"{value:.0f}" for value in returns[:: 1 if quick else 5])
        print(f"seed {seed}: returns {curve}, then {np.mean(returns[-5:]):.0f}")
        print(f"{seconds * 1e6:.0f} us an update of both critics")
    try:
        taken = torch_seconds(20 if quick else 500)
        print(f"PyTorch: {taken * 1e6:.0f} us without drawing rows and actions")
    except ImportError:
        print("PyTorch is not installed")
