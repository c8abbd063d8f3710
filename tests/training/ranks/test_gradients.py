"""Ranks sum gradients or average parameters: the steps of one process, the same bits on all."""

from typing import Any

import numpy as np
import pytest
from ranked import in_batches, on_ranks, parts_of, slots_of

from fastmlp import EMA, MLP, SGD, SWA, Adam, AdamW, ScheduleFreeAdamW
from fastmlp.backends.cpu.rank_trainer import places_of
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.optimizers import OPTIMIZERS

too_slow = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: takes minutes")
SHARES = (200, 3, 0, 101)
N = sum(SHARES)
BATCH = 32
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 7))
Y = np.column_stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]])
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
WEIGHT = rng.uniform(0, 2, N) * (rng.uniform(size=N) > 0.2)


def made(*sizes: int, **settings: Any) -> MLP:
    return MLP(sizes or (7, 24, 2), **{"seed": 1, "dtype": "float64", **settings})


def fitted(
    net: Any, y: Any = Y, shares: Any = SHARES, weight: Any = None, **options: Any
) -> list[Any]:
    """Train a net on each rank; return the nets and their histories."""
    rows = [parts_of(each, shares) for each in (X, y)]
    of_ranks = [None] * len(shares) if weight is None else parts_of(weight, shares)

    def fit(communicator: Any) -> Any:
        rank, own = communicator.Get_rank(), net()
        settings = {"batch_size": BATCH, "epochs": 3, "sample_weight": of_ranks[rank], **options}
        return own, own.fit(rows[0][rank], rows[1][rank], communicator=communicator, **settings)

    return on_ranks(len(shares), fit)


def check_equal_to_one(net: Any, y: Any = Y, weight: Any = None, batch: int = BATCH) -> None:
    (first, history), *others = fitted(net, y, weight=weight, shuffle=False, batch_size=batch)
    for other, item in others:
        assert other.parameters.tobytes() == first.parameters.tobytes()
        assert item.loss == history.loss
        assert other.n_steps == first.n_steps
    order, one = in_batches(SHARES, batch), net()
    rows = None if weight is None else weight[order]
    options: Any = {"batch_size": batch, "epochs": 3, "shuffle": False, "sample_weight": rows}
    alone = one.fit(X[order], y[order], **options)
    np.testing.assert_allclose(first.parameters, one.parameters, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(history.loss, alone.loss, rtol=1e-10)
    assert history.learning_rate == alone.learning_rate
    slots, of_one = slots_of(first), slots_of(one)
    np.testing.assert_allclose(slots, of_one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(optimizer: str) -> None:
    check_equal_to_one(lambda: made(optimizer=optimizer))


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.05, momentum=0.9, nesterov=True),
        Adam(0.01, clipvalue=0.01),
        Adam(0.01, clipnorm=0.1),
        AdamW(0.01, global_clipnorm=0.1),
        Adam(0.01, average=EMA(0.9)),
        SGD(0.05, average=SWA(start=0.5)),
        ScheduleFreeAdamW(0.01),
    ],
    ids=repr,
)
def test_clipping_and_averages(optimizer: Any) -> None:
    check_equal_to_one(lambda: made(optimizer=optimizer))


@pytest.mark.parametrize(
    "settings",
    [
        {"l2": 0.1},
        {"l1": 0.1, "l2": 0.1, "optimizer": Adam(0.01, global_clipnorm=0.1)},
        {"layer_rates": [0.1, {"weights": 1.0, "biases": 0.0}], "l2": 0.1},
        {"dropout": 0.3},
        {"input_dropout": 0.1, "input_noise": 0.1, "dropout": 0.5},
    ],
    ids=repr,
)
def test_penalties_layers_and_what_is_drawn(settings: Any) -> None:
    check_equal_to_one(lambda: made(**settings))


@pytest.mark.slow
@too_slow
def test_classes_and_weights() -> None:
    def net() -> MLP:
        return made(7, 24, 3, loss="cross_entropy")

    check_equal_to_one(net, LABELS)
    check_equal_to_one(net, LABELS, WEIGHT)
    check_equal_to_one(net, LABELS, WEIGHT, batch=1)
    check_equal_to_one(net, LABELS, WEIGHT, batch=N)


LARGE = pytest.param((7, 200, 300, 2), marks=too_slow, id="large")


@pytest.mark.parametrize("sizes", [LARGE, (7, 4, 2)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_large_nets_and_microbatches(sizes: tuple[int, ...], dropout: float) -> None:
    check_equal_to_one(lambda: made(*sizes, dropout=dropout), batch=N)


def test_balanced_classes_are_those_of_all_ranks() -> None:
    def net() -> MLP:
        return made(7, 8, 3, loss="cross_entropy")

    (first, _), *_ = fitted(net, LABELS, shuffle=False, class_weight="balanced")
    weights = N / (3 * np.bincount(LABELS))[LABELS]
    (other, _), *_ = fitted(net, LABELS, shuffle=False, weight=weights)
    np.testing.assert_allclose(first.parameters, other.parameters, rtol=1e-12)


def test_twice_the_same_bits_and_other_orders_for_other_seeds() -> None:
    def parameters(seed: int) -> list[bytes]:
        nets = fitted(lambda: made(seed=seed, dtype="float32", dropout=0.1))
        return [net.parameters.tobytes() for net, _ in nets]

    once = parameters(1)
    assert once == parameters(1) == [once[0]] * len(SHARES)
    assert once != parameters(2)
    # Ranks with the same rows take them in orders of their own.
    plain, mixed = (fitted(made, shares=(152, 152), shuffle=on)[0][0] for on in (False, True))
    assert not np.allclose(plain.parameters, mixed.parameters, rtol=1e-6)


def test_a_further_fit_goes_on() -> None:
    def twice(communicator: Any) -> Any:
        rank, net = communicator.Get_rank(), made(dropout=0.2)
        rows = parts_of(X, SHARES)[rank], parts_of(Y, SHARES)[rank]
        for _ in range(2):
            net.fit(*rows, batch_size=BATCH, epochs=2, communicator=communicator)
        return net.parameters.tobytes()

    (at_once, _), *_ = fitted(lambda: made(dropout=0.2), epochs=4)
    assert on_ranks(4, twice) == [at_once.parameters.tobytes()] * 4


@too_slow
def test_ranks_with_other_numbers_of_threads_exchange_flat_vectors() -> None:
    def net(threads: int) -> MLP:
        return made(7, 256, 256, 2, n_threads=threads)

    n_threads = iter((1, 2))
    nets = fitted(lambda: net(next(n_threads)), shares=(152, 152), batch_size=152, shuffle=False)
    assert nets[0][0].parameters.tobytes() == nets[1][0].parameters.tobytes()
    alike = fitted(lambda: net(1), shares=(152, 152), batch_size=152, shuffle=False)
    np.testing.assert_allclose(nets[0][0].parameters, alike[0][0].parameters, rtol=1e-9, atol=1e-12)


def test_one_rank_alone_has_the_bits_of_no_communicator() -> None:
    ((alone, _),) = fitted(made, shares=(N,))
    net = made()
    net.fit(X, Y, batch_size=BATCH, epochs=3)
    assert alone.parameters.tobytes() == net.parameters.tobytes()


@pytest.mark.parametrize("batch", [1, 2, 3, 32, 1000])
@pytest.mark.parametrize("n_rows", [SHARES, (1, 1, 1, 1), (0, 7, 1), (5,), (10**9, 3, 10**9)])
def test_shares_follow_the_rows(n_rows: tuple[int, ...], batch: int) -> None:
    batch = max(batch, sum(n_rows) // 10_000)
    places, total = places_of(n_rows, batch), sum(n_rows)
    shares = np.diff(places)
    assert places[:, -1].tolist() == list(n_rows)
    assert (shares >= 0).all()
    assert (shares.sum(axis=0)[:-1] == batch).all()
    fair = np.outer(n_rows, np.minimum(np.arange(places.shape[1]) * batch, total)) / total
    assert np.abs(places - fair).max() < len(n_rows)


N_AVERAGED = 160
rng = np.random.default_rng(0)
AVERAGED_X = rng.normal(size=(N_AVERAGED, 5))
AVERAGED_Y = np.sin(AVERAGED_X[:, :1]) * AVERAGED_X[:, 1:2]
AVERAGED_WEIGHT = rng.uniform(0.5, 2, N_AVERAGED)


def made_averaged(optimizer: Any, **settings: Any) -> MLP:
    return MLP((5, 16, 1), optimizer=optimizer, seed=1, dtype="float64", **settings)


def fitted_averaged(
    net: Any, shares: Any, every: int, *, weighted: bool = False, **options: Any
) -> list[Any]:
    rows, weights = (
        [parts_of(each, shares) for each in (AVERAGED_X, AVERAGED_Y)],
        parts_of(AVERAGED_WEIGHT, shares),
    )

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
        return made_averaged(SGD(0.1), l2=0.1)

    (first, history), *_ = fitted_averaged(net, shares, 1, weighted=weighted, shuffle=False)
    order, one = in_batches(shares, 16), net()
    rows: Any = {"sample_weight": AVERAGED_WEIGHT[order] if weighted else None}
    alone = one.fit(
        AVERAGED_X[order], AVERAGED_Y[order], batch_size=16, epochs=2, shuffle=False, **rows
    )
    np.testing.assert_allclose(first.parameters, one.parameters, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(history.loss, alone.loss, rtol=1e-10)


@pytest.mark.parametrize(
    "optimizer", [Adam(0.01), Adam(0.01, average=EMA(0.9)), ScheduleFreeAdamW(0.01)], ids=repr
)
def test_it_is_the_mean_of_fits_of_each_rank(optimizer: Any) -> None:
    shares = (120, 40)
    (net, _), _ = fitted_averaged(
        lambda: made_averaged(optimizer), shares, 1000, epochs=1, shuffle=False
    )
    of_ranks = []
    for rows, targets, batch in zip(
        parts_of(AVERAGED_X, shares), parts_of(AVERAGED_Y, shares), (12, 4), strict=True
    ):
        own = made_averaged(optimizer)
        own.fit(rows, targets, batch_size=batch, epochs=1, shuffle=False)
        of_ranks.append(np.vstack([own.parameters, slots_of(own)]))
    mean = 0.75 * of_ranks[0] + 0.25 * of_ranks[1]
    np.testing.assert_allclose(net.parameters, mean[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slots_of(net), mean[1:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_twice_the_same_bits(every: int) -> None:
    once, again = (
        fitted_averaged(lambda: made_averaged("adam", dropout=0.2), (100, 3, 0, 57), every)[0][0]
        for _ in range(2)
    )
    assert once.parameters.tobytes() == again.parameters.tobytes()


def test_ranks_learn_together() -> None:
    (_, history), *_ = fitted_averaged(lambda: made_averaged(Adam(0.01)), (80, 80), 4, epochs=30)
    assert history.loss[-1] < 0.3 * history.loss[0]


@pytest.mark.skipif(INTERPRETED, reason="nets whose layers a team shares take minutes")
def test_ranks_with_other_panels_exchange_flat_vectors() -> None:
    def net(n_threads: int) -> MLP:
        return MLP((5, 256, 256, 1), seed=1, dtype="float64", n_threads=n_threads)

    n_threads = iter((1, 2))
    (mixed, _), _ = fitted_averaged(lambda: net(next(n_threads)), (80, 80), 1, batch_size=160)
    (alike, _), _ = fitted_averaged(lambda: net(1), (80, 80), 1, batch_size=160)
    np.testing.assert_allclose(mixed.parameters, alike.parameters, rtol=1e-9, atol=1e-12)
