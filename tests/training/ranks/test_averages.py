"""Parameters averaged over ranks every so many steps."""

from typing import Any

import numpy as np
import pytest
from ranked import in_batches, on_ranks, parts_of, slots_of

from fastmlp import EMA, MLP, SGD, Adam, ScheduleFreeAdamW
from fastmlp.compiler.jit import INTERPRETED

N = 160
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 5))
Y = np.sin(X[:, :1]) * X[:, 1:2]
WEIGHT = rng.uniform(0.5, 2, N)


def made(optimizer: Any, **settings: Any) -> MLP:
    return MLP((5, 16, 1), optimizer=optimizer, seed=1, dtype="float64", **settings)


def fitted(
    net: Any, shares: Any, every: int, *, weighted: bool = False, **options: Any
) -> list[Any]:
    rows, weights = [parts_of(each, shares) for each in (X, Y)], parts_of(WEIGHT, shares)

    def fit(communicator: Any) -> Any:
        rank, own = communicator.Get_rank(), net()
        settings: dict[str, Any] = {
            "batch_size": 16,
            "epochs": 2,
            "average_every": every,
            **options,
        }
        settings["sample_weight"] = weights[rank] if weighted else None
        return own, own.fit(rows[0][rank], rows[1][rank], communicator=communicator, **settings)

    result = on_ranks(len(shares), fit)
    bits = {net.parameters.tobytes() for net, _ in result}
    assert len(bits) == 1
    assert {tuple(history.loss) for _, history in result} == {tuple(result[0][1].loss)}
    return result


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shares", [(80, 80), (100, 3, 0, 57)])
def test_after_each_step_of_plain_sgd_it_is_a_step_by_the_gradient(
    shares: tuple[int, ...], weighted: bool
) -> None:
    def net() -> MLP:
        return made(SGD(0.1), l2=0.1)

    (first, history), *_ = fitted(net, shares, 1, weighted=weighted, shuffle=False)
    order, one = in_batches(shares, 16), net()
    rows: Any = {"sample_weight": WEIGHT[order] if weighted else None}
    alone = one.fit(X[order], Y[order], batch_size=16, epochs=2, shuffle=False, **rows)
    np.testing.assert_allclose(first.parameters, one.parameters, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(history.loss, alone.loss, rtol=1e-10)


@pytest.mark.parametrize(
    "optimizer", [Adam(0.01), Adam(0.01, average=EMA(0.9)), ScheduleFreeAdamW(0.01)], ids=repr
)
def test_it_is_the_mean_of_fits_of_each_rank(optimizer: Any) -> None:
    shares = (120, 40)
    (net, _), _ = fitted(lambda: made(optimizer), shares, 1000, epochs=1, shuffle=False)
    of_ranks = []
    for rows, targets, batch in zip(parts_of(X, shares), parts_of(Y, shares), (12, 4), strict=True):
        own = made(optimizer)
        own.fit(rows, targets, batch_size=batch, epochs=1, shuffle=False)
        of_ranks.append(np.vstack([own.parameters, slots_of(own)]))
    mean = 0.75 * of_ranks[0] + 0.25 * of_ranks[1]
    np.testing.assert_allclose(net.parameters, mean[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slots_of(net), mean[1:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_twice_the_same_bits(every: int) -> None:
    once, again = (
        fitted(lambda: made("adam", dropout=0.2), (100, 3, 0, 57), every)[0][0] for _ in range(2)
    )
    assert once.parameters.tobytes() == again.parameters.tobytes()


def test_ranks_learn_together() -> None:
    (_, history), *_ = fitted(lambda: made(Adam(0.01)), (80, 80), 4, epochs=30)
    assert history.loss[-1] < 0.3 * history.loss[0]


@pytest.mark.skipif(INTERPRETED, reason="nets whose layers a team shares take minutes")
def test_ranks_with_other_panels_exchange_flat_vectors() -> None:
    def net(n_threads: int) -> MLP:
        return MLP((5, 256, 256, 1), seed=1, dtype="float64", n_threads=n_threads)

    n_threads = iter((1, 2))
    (mixed, _), _ = fitted(lambda: net(next(n_threads)), (80, 80), 1, batch_size=160)
    (alike, _), _ = fitted(lambda: net(1), (80, 80), 1, batch_size=160)
    np.testing.assert_allclose(mixed.parameters, alike.parameters, rtol=1e-9, atol=1e-12)
