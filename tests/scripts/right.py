# pyright: strict
"""A user's script: both type checkers find no error in it, and it runs."""

from pathlib import Path

import numpy as np
import polars as pl

import fastmlp
from fastmlp import (
    MLP,
    SGD,
    SWA,
    AdamW,
    Blocks,
    Cosine,
    Custom,
    History,
    Loss,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    Report,
    ScheduleFreeAdamW,
    Standardizer,
    Status,
    TabularMLPClassifier,
    TabularMLPRegressor,
    Warmup,
    fit_many,
    fold,
    predict_arrow,
    predict_parquet,
)


def bent(z: float) -> tuple[float, float]:
    if z > 0:
        return (z, 1.0)
    return (0.1 * z, 0.1)


def descent(
    w: float, g: float, m: float, v: float, rate: float
) -> tuple[float, float, float]:
    return w - rate * g, m, v


def main(folder: Path) -> tuple[object, ...]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X[:, 0] * X[:, 1]
    labels = (X[:, 2] > 0).astype(np.int64)

    net = MLP(
        (3, 8, 4, 1),
        activation=["tanh", bent],
        optimizer=AdamW(Warmup(Cosine(0.01), 5)),
    )
    rates: list[float] = []
    MLP((3, 1), optimizer=SGD(0.1, average=SWA(start=0.5)))
    MLP((3, 1), optimizer=ScheduleFreeAdamW(0.01, warmup_steps=10))

    def stop_early(report: Report) -> None:
        rates.append(report.learning_rate)
        if report.validation_loss is not None and report.validation_loss < 0.01:
            report.stop()

    source = Blocks.from_arrays(X, y, rows=10)
    streamed: History = net.fit(source, epochs=1, validation_data=source)
    streamed = net.fit(lambda: [(X, y)], epochs=1, buffer_rows=1000)
    fit_many([net], pl.DataFrame(X).with_columns(y=pl.Series(y)), target="y", epochs=1)
    assert streamed.loss
    history: History = net.fit(
        X,
        y,
        epochs=3,
        validation_data=(X, y),
        callbacks=[stop_early],
        checkpoint=folder / "c",
    )
    completed: bool = history.status is Status.COMPLETED and history.loss[-1] < 9.0
    net.optimizer = SGD(0.1, momentum=0.9, global_clipnorm=1.0)
    net.trainable = [False, True, True]
    net.trainable[0] = True
    net.layer_rates = [0.1, {"biases": 0.5}, 1]
    objective, gradient = net.loss_and_gradient(X, y)
    net.apply_gradient(np.clip(gradient, -1, 1))
    net.weights[0][:] *= 0.5
    net.save(folder / "net.safetensors", include_training_state=True)
    rows = (
        MLP.load(folder / "net.safetensors", rules={"bent": bent})
        .to("cpu")
        .predict(X[:2])
    )
    rows += MLP((X.shape[1], 1)).predict(X[:2], compute_dtype="bfloat16")

    nets = [
        MLP(
            (3, 4, 2),
            loss="cross_entropy",
            output_activation="softmax",
            dtype=np.float64,
        ),
        MLP(
            [3, 4, 1],
            loss=Loss(bent_loss),
            penalties={bent: 0.1},
            optimizer=descent,
            seed=1,
        ),
        MLP(
            (3, 1),
            loss="binary_cross_entropy",
            initializer="zeros",
            optimizer=Custom(descent),
        ),
    ]
    losses = [each.loss[0] for each in fit_many(nets, X, labels, epochs=[1, 2, 3])]

    classifier = MLPClassifier(
        (8,), activation="gelu", solver=AdamW(0.01), max_iter=20, tol=1.0
    )
    score: float = classifier.fit(X, labels).score(X, labels)
    probabilities = classifier.set_params(alpha=0.1).predict_proba(X.tolist())
    shared: MLP = classifier.fit(X, labels, callbacks=[stop_early], progress=False).net_
    bridged: float = (
        shared.as_estimator("classifier", epochs=2).fit(X, labels).score(X, labels)
    )
    regressor = MLPRegressor(
        hidden_layer_sizes=8, solver="adamw", tol=1.0, random_state=0
    )
    regressor.set_params(dropout=[Cosine(0.1)]).fit(X, y, callbacks=stop_early)
    curve: list[float] = regressor.fit(X, y, X_val=X, y_val=y).loss_curve_
    hidden = regressor.transform(X).shape[1] + len(regressor.coefs_)
    grid = {"alpha": np.logspace(-4, 0, 2), "hidden_layer_sizes": [(4,), (8,)]}
    search = MLPSearchCV(regressor, grid, cv=2, scoring="r2", n_jobs=1).fit(X, y)
    best = search.best_params_["alpha"], search.best_score_, search.predict(X).mean()
    frame = pl.DataFrame(X, schema=["a", "b", "c"])
    tabular = TabularMLPRegressor(preset="fast", n_members=1, max_iter=1, cv=2).fit(
        frame, y
    )
    interval: float = tabular.predict_interval(frame, coverage=0.5).mean()
    fast = TabularMLPClassifier(n_members=1, max_iter=1, scoring="accuracy").fit(
        X, labels
    )
    interval += (
        fast.predict_proba(X).max() + fast.weights_.sum() + len(fast.schema_.columns)
    )
    scaler = Standardizer(robust=True).fit([X[:30], X[30:]]).partial_fit(frame)
    whole = fold(MLP((3, 1), seed=0), scaler)
    whole.feature_names = ["a", "b", "c"]
    named: int = len(whole.feature_names or ()) + len(scaler.center / scaler.scale)
    named += len(whole.fit(frame, pl.Series(y), epochs=1).loss) + len(
        whole.predict(frame)
    )
    widths = sum(rows.shape[1] for rows in whole.predict_batches(frame, batch_rows=7))
    likely = max(rows.max() for rows in fast.predict_batches(X, method="predict_proba"))
    columns: list[str] = predict_arrow(whole, frame, keep="a").schema.names
    written: int = predict_parquet(regressor, lambda: iter([X]), folder / "out.parquet")
    fastmlp.save(classifier, folder / "classifier.safetensors")
    again: MLPClassifier = fastmlp.load(folder / "classifier.safetensors", n_threads=1)
    values = (
        completed,
        objective,
        rows,
        losses,
        score,
        probabilities[0],
        curve[-1],
        hidden,
        best,
    )
    more = (bridged, interval, named, widths, likely, columns, written)
    return (*values, *more, again.classes_, net.n_steps, fastmlp.__version__)


def bent_loss(prediction: float, target: float) -> tuple[float, float]:
    return bent(prediction - target)
