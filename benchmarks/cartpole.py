"""A pole on a cart, beside stable-baselines3: `python -m benchmarks.cartpole`.

Both take PPO with the same nets and settings in gymnasium's environment, on one thread, until 100
episodes in a row have a mean return of 195, of at most 200. fastmlp's loop is examples/cartpole.py.
"""

import argparse
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks import machine, output
from benchmarks.output import DOCS
from benchmarks.race import rotated, spent
from benchmarks.scores import Record, grouped
from fastmlp import MLP, Adam

PAGE = DOCS / "how-to" / "own-loop.md"
LIBRARIES = ("gymnasium", "stable-baselines3", "torch", "numpy", "numba")
LIMIT, GOAL, EPISODES, MOST_STEPS = 200, 195, 100, 150_000
ROLLOUT = 2048


class Finish:
    """The returns of the last episodes, until their mean is the goal."""

    def __init__(self) -> None:
        self.returns: deque[float] = deque(maxlen=EPISODES)

    def reached(self, total: float) -> bool:
        """Add the return of an episode."""
        self.returns.append(total)
        return len(self.returns) == EPISODES and float(np.mean(self.returns)) >= GOAL


def environment() -> Any:
    """gymnasium's environment, with the limit of CartPole-v0."""
    return import_module("gymnasium").make("CartPole-v1", max_episode_steps=LIMIT)


def orthogonal(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Weights of hidden layers as stable-baselines3 draws them."""
    q, r = np.linalg.qr(generator.normal(size=(max(shape), min(shape))))
    q *= np.sqrt(2) * np.sign(np.diag(r))
    return q if q.shape == shape else q.T


def nets(seed: int) -> tuple[MLP, MLP]:
    """An actor and a critic as stable-baselines3 makes them."""
    common: Any = {"activation": "tanh", "initializer": orthogonal, "n_threads": 1}
    common["optimizer"] = Adam(3e-4, epsilon=1e-5)
    actor = MLP((4, 64, 64, 2), loss="cross_entropy", seed=2 * seed, **common)
    critic = MLP((4, 64, 64, 1), seed=2 * seed + 1, **common)
    actor.weights[-1] *= 0.01 / np.sqrt(2)
    critic.weights[-1] /= np.sqrt(2)
    return actor, critic


def fastmlp(seed: int, most_steps: int) -> int:
    """The steps of the environment to the goal; all of them, if it is not reached."""
    finish, episodes = Finish(), import_module("examples.cartpole").episodes
    for n_steps, total in episodes(*nets(seed), environment(), most_steps, seed):
        if finish.reached(total):
            return int(n_steps)
    return most_steps


def stable_baselines3(seed: int, most_steps: int) -> int:
    import_module("torch").set_num_threads(1)
    finish = Finish()

    def goes_on(variables: Record, _: Record) -> bool:
        ended = [info["episode"]["r"] for info in variables["infos"] if "episode" in info]
        return not any(finish.reached(total) for total in ended)

    # Its defaults, but for the two that bind the nets to each other.
    ways = {"max_grad_norm": np.inf, "vf_coef": 1.0, "device": "cpu", "seed": seed}
    model = import_module("stable_baselines3").PPO("MlpPolicy", environment(), **ways)
    model.learn(most_steps, callback=goes_on, log_interval=most_steps)
    return min(int(model.num_timesteps), most_steps)


CONTESTANTS = {"fastmlp": fastmlp, "stable-baselines3": stable_baselines3}


def ends_of(who: str, seed: int, most_steps: int) -> Record:
    """Steps and seconds of a seed; what is compiled and imported was so in a rollout before."""
    CONTESTANTS[who](seed, ROLLOUT)
    times, n_steps = spent(partial(CONTESTANTS[who], seed, most_steps))
    ends = {"seconds": times["seconds"], "processor": times["cpu"]}
    return {"who": who, "seed": seed, "steps": n_steps, "most": most_steps, **ends}


def environment_alone(n_steps: int = 20_000) -> float:
    """Processor seconds of a step of the environment, pushed left and right in turn."""
    cart = environment()
    cart.reset(seed=0)
    start = time.process_time()
    for i in range(n_steps):
        *_, falls, cut, _ = cart.step(i % 2)
        if falls or cut:
            cart.reset()
    return (time.process_time() - start) / n_steps


def lines(results: Record) -> Iterator[str]:
    rows, by_who = [], grouped(results["records"], "who")
    yield f"{machine.measured(results)}\n"
    for seed, records in sorted(grouped(results["records"], "seed").items()):
        runs = grouped(records, "who")
        cells = [_cells(runs.get(who, [])) for who in CONTESTANTS]
        rows.append((seed, *(cell for pair in cells for cell in pair)))
    titles = [f">{who}, {what}" for who in CONTESTANTS for what in ("steps", "seconds")]
    yield from output.Table((">seed", *titles), rows).markdown()
    mine, theirs = (_per_step(by_who.get(who, [])) for who in CONTESTANTS)
    if not (mine and theirs):
        return
    yield (
        f"\nA step of the environment, with its share of the training: {mine:.0f} us with fastmlp, "
        f"{theirs:.0f} us with stable-baselines3, {theirs / mine:.1f} times as much. "
        f"{1e6 * results['environment']:.0f} us of both are gymnasium's own."
    )


def _cells(records: list[Record]) -> tuple[str, str]:
    if not records:
        return "-", "-"
    (r,) = records
    steps = f"{r['steps']:,}" if r["steps"] < r["most"] else f"not in {r['most']:,}"
    return steps, f"{r['processor']:.1f}"


def _per_step(records: list[Record]) -> float:
    """Microseconds a step, over all seeds."""
    seconds, steps = (sum(r[key] for r in records) for key in ("processor", "steps"))
    return float(1e6 * seconds / max(steps, 1))


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    """Add the seeds and contestants of the options to the earlier results."""
    kept = {(r["seed"], r["who"]): r for r in earlier.get("records", [])}
    for seed in options.seeds:
        for who in rotated(options.contestants, seed):
            kept[seed, who] = ends_of(who, seed, options.most_steps)
            output.say(str(kept[seed, who]))
    return {"environment": environment_alone(), "records": list(kept.values())}


NAMES = list(CONTESTANTS)
OPTIONS: Record = {
    "--seeds": {"type": int, "nargs": "+", "default": list(range(5)), "help": "of each"},
    "--contestants": {"nargs": "+", "choices": NAMES, "default": NAMES},
    "--most-steps": {"type": int, "default": MOST_STEPS, "help": "then it is given up"},
}
main = output.program(PAGE, measure, OPTIONS, cartpole=lines)

if __name__ == "__main__":
    main()
