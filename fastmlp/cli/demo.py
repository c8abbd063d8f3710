"""The demonstration: handwritten digits, learnt by fastmlp and by scikit-learn side by side."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import MLP, Adam, History, Report
from fastmlp.compiler.cache import folder
from fastmlp.plotting import plot_history
from fastmlp.plotting.digits import plot_digits
from fastmlp.validation.packages import needs

Array = NDArray[Any]
N_HIDDEN, BATCH_SIZE, LEARNING_RATE, L2 = 100, 64, 0.003, 1e-4
SPLIT_SEED, N_SHOWN, MOST_WRONG_SHOWN = 0, 10, 4
OURS, THEIRS = "#0b5fa5", "#e07b00"


class Digits(NamedTuple):
    """Handwritten digits, split.

    Attributes
    ----------
    X, X_held_out : float32, shape (n_rows, 64), grey values in [0, 1]
    y, y_held_out : int64, shape (n_rows,), the digits
    """

    X: Array
    y: Array
    X_held_out: Array
    y_held_out: Array


class DemoOutcome(NamedTuple):
    """The results of one library.

    Attributes
    ----------
    first_seconds : seconds of a first fit of one epoch
    seconds : seconds of the whole fit after it
    loss : the loss of each epoch
    predictions : int64, shape (n_held_out,), the digits read
    """

    name: str
    first_seconds: float
    seconds: float
    loss: list[float]
    predictions: Array


def run_demo(
    out_path: str | PathLike[str] = "fastmlp-demo.png", epochs: int = 30, seed: int = 0
) -> float:
    """Train on scikit-learn's digits, print the progress, and save a picture.

    Parameters
    ----------
    out_path : path, default "fastmlp-demo.png"
        Where to save the picture.
    epochs : int, default 30
        For both libraries.
    seed : int, default 0
        For the initial weights and the shuffling; the split is always the same.

    Returns
    -------
    float
        fastmlp's accuracy on the held-out digits.

    Raises
    ------
    ImportError
        If scikit-learn or matplotlib is missing.
    KeyboardInterrupt
        On Ctrl-C.

    Examples
    --------
    >>> from fastmlp.cli.demo import run_demo
    >>> accuracy = run_demo("digits.png", epochs=10)  # doctest: +SKIP
    """
    _require("scikit-learn", "sklearn")
    _require("matplotlib", "matplotlib")
    data, path = _load(), Path(out_path)
    _describe(data, epochs, seed)
    ours = _fit_fastmlp(data, epochs, seed)
    theirs = _fit_sklearn(data, epochs, seed)
    _compare(ours, theirs, data)
    _draw(ours, theirs, data).savefig(path, dpi=150)
    print(f"\nPicture: {path}")
    return _accuracy(ours, data)


def _require(package: str, module: str) -> None:
    try:
        import_module(module)
    except ImportError as error:
        raise ImportError(needs("the demo", package)) from error


def _load() -> Digits:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(X))
    held_out, kept = np.split(order, [len(X) // 5])
    return Digits(X[kept], y[kept], X[held_out], y[held_out])


def _describe(data: Digits, epochs: int, seed: int) -> None:
    n, n_held_out = len(data.X), len(data.X_held_out)
    print("fastmlp demo: learn to read handwritten digits\n")
    print(f"  data      {n + n_held_out} images of 8 x 8 grey values, scaled to [0, 1]")
    print(f"  split     {n} to train on, {n_held_out} held out")
    print(f"  net       64 inputs, {N_HIDDEN} relu units, 10 outputs, cross-entropy")
    print(f"  training  Adam, rate {LEARNING_RATE:g}, l2 {L2:g}, batches of {BATCH_SIZE}, ", end="")
    print(f"{epochs} epochs, float32, seed {seed}")


def _fit_fastmlp(data: Digits, epochs: int, seed: int) -> DemoOutcome:
    print("\nfastmlp")
    first, _ = _timed(lambda: _read(_fitted(seed, data, 1)[0], data))
    print(f"  first fit, one epoch, with compiling or loading the kernels: {first:.2f} s")
    seconds, (net, history) = _timed(lambda: _fitted(seed, data, epochs, _DemoProgress(epochs)))
    return DemoOutcome("fastmlp", first, seconds, history.loss, _read(net, data))


def _fitted(
    seed: int, data: Digits, epochs: int, *callbacks: Callable[[Report], Any]
) -> tuple[MLP, History]:
    net = MLP(
        (64, N_HIDDEN, 10), loss="cross_entropy", optimizer=Adam(LEARNING_RATE), l2=L2, seed=seed
    )
    with _unfinished():
        return net, net.fit(
            data.X, data.y, epochs=epochs, batch_size=BATCH_SIZE, callbacks=callbacks
        )


def _read(net: MLP, data: Digits) -> Array:
    digits: Array = net.predict(data.X_held_out).argmax(axis=1)
    return digits


class _DemoProgress:
    """A callback that prints the loss about six times in a fit."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.every = epochs, max(1, epochs // 6)

    def __call__(self, report: Report) -> None:
        epoch = report.epoch + 1
        if epoch in (1, self.epochs) or epoch % self.every == 0:
            print(f"  epoch {epoch:>4}  loss {report.loss:.4f}")


def _fit_sklearn(data: Digits, epochs: int, seed: int) -> DemoOutcome:
    print("\nscikit-learn, MLPClassifier with the same settings")
    first, _ = _timed(lambda: _train_classifier(data, 1, seed))
    print(f"  first fit, one epoch: {first:.2f} s")
    seconds, classifier = _timed(lambda: _train_classifier(data, epochs, seed))
    loss = classifier.loss_curve_
    print(f"  epoch {len(loss):>4}  loss {loss[-1]:.4f}")
    return DemoOutcome("scikit-learn", first, seconds, loss, classifier.predict(data.X_held_out))


def _train_classifier(data: Digits, epochs: int, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    classifier = MLPClassifier(
        (N_HIDDEN,),
        alpha=L2,
        batch_size=BATCH_SIZE,
        learning_rate_init=LEARNING_RATE,
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=epochs + 1,
        random_state=seed,
    )
    with _unfinished():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(data.X, data.y)


@contextmanager
def _unfinished() -> Iterator[None]:
    """Raise KeyboardInterrupt where a fit only warns of Ctrl-C, as both libraries do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(fit|Training) interrupted", UserWarning)
        try:
            yield
        except UserWarning as interrupted:
            raise KeyboardInterrupt from interrupted


def _compare(ours: DemoOutcome, theirs: DemoOutcome, data: Digits) -> None:
    print(f"\n{'':<14}{'held-out accuracy':>18}{'last loss':>12}{'fit':>10}{'first fit':>12}")
    for outcome in (ours, theirs):
        accuracy = f"{100 * _accuracy(outcome, data):.1f} %"
        print(
            f"{outcome.name:<14}{accuracy:>18}{outcome.loss[-1]:>12.4f}"
            f"{outcome.seconds:>8.2f} s{outcome.first_seconds:>10.2f} s"
        )
    print(
        f"\nOne run of each, on this machine: fastmlp fitted {theirs.seconds / ours.seconds:.1f} ",
        end="",
    )
    print("times as fast, compiling left out.")
    where = folder()
    kept = f"kept in {where}" if where else "not kept: there is no cache folder"
    print(f"What it compiles, in the first fit, is {kept}.")


def _accuracy(outcome: DemoOutcome, data: Digits) -> float:
    return float((outcome.predictions == data.y_held_out).mean())


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _draw(ours: DemoOutcome, theirs: DemoOutcome, data: Digits) -> Any:
    """Draw the loss curves above, held-out digits below; return the figure."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(9, 6.6), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, 1))
    above, below = parts
    _draw_losses(above.subplots(), ours, theirs, data)
    shown, caption = _choose(ours.predictions, data.y_held_out)
    axes = np.ravel(below.subplots(1, len(shown)))
    images = data.X_held_out[shown].reshape(-1, 8, 8)
    plot_digits(images, data.y_held_out[shown], ours.predictions[shown], axes)
    below.suptitle(caption, x=0.016, ha="left", fontsize=10)
    return figure


def _draw_losses(ax: Any, ours: DemoOutcome, theirs: DemoOutcome, data: Digits) -> None:
    for outcome, color, layer in ((ours, OURS, 3), (theirs, THEIRS, 2)):
        read, seconds = 100 * _accuracy(outcome, data), outcome.seconds
        label = f"{outcome.name}: {read:.1f} % of held-out digits, {seconds:.2f} s"
        plot_history(History(loss=outcome.loss), ax, label=label, color=color, zorder=layer)
    ax.set_ylabel("training loss")
    scale = " (logarithmic scale)" if ax.get_yscale() == "log" else ""
    title = f"Learning to read handwritten digits: loss by epoch{scale}"
    ax.set_title(title, loc="left", fontsize="large", fontweight="bold", pad=12)


def _choose(predictions: Array, labels: Array) -> tuple[Array, str]:
    """Return the indices of the digits to show, misread ones first, and a caption."""
    wrong = np.flatnonzero(predictions != labels)
    right = np.flatnonzero(predictions == labels)
    misread = wrong[:MOST_WRONG_SHOWN]
    _, first_of_each = np.unique(labels[right], return_index=True)
    read = right[first_of_each][: N_SHOWN - len(misread)]
    caption = (
        f"Held-out digits as fastmlp reads them: {len(misread)} of the {len(wrong)} misread, "
        f"then {len(read)} of the {len(right)} read right"
    )
    return np.concatenate([misread, read]), caption
