"""The demonstration: handwritten digits, learned by fastmlp and scikit-learn side by side."""

import time
import warnings
from os import PathLike
from typing import Any

import numpy as np

from fastmlp import History
from fastmlp.extend import messages
from fastmlp.info import info
from fastmlp.plotting import plot_history

INK, FAINT, WRONG = "#333333", "#d9d9d9", "#c62828"
# The curves lie on each other, so the second is dashed.
LINES: dict[str, dict[str, Any]] = {
    "fastmlp": {"color": "#0b5fa5"}, "scikit-learn": {"color": "#e07b00", "linestyle": "--"}
}  # fmt: skip
SETTINGS = {"hidden_layer_sizes": 100, "batch_size": 64, "learning_rate_init": 0.003, "tol": 0.0}
N_SHOWN, MOST_WRONG_SHOWN = 10, 4


def run_demo(
    out_path: str | PathLike[str] = "fastmlp-demo.png", epochs: int = 30, seed: int = 0
) -> float:
    """Train on scikit-learn's digits, print the results, and save a picture.

    Parameters
    ----------
    out_path : path, default "fastmlp-demo.png"
        The file of the picture.
    epochs : int, default 30
        Epochs of both libraries.
    seed : int, default 0
        Seed of initial weights and shuffling. The split is always the same.

    Returns
    -------
    float
        fastmlp's accuracy on the held-out digits.

    Examples
    --------
    >>> from fastmlp.cli.demo import run_demo
    >>> accuracy = run_demo("digits.png", epochs=10)  # doctest: +SKIP
    """
    for package, module in (("scikit-learn", "sklearn"), ("matplotlib",) * 2):
        messages.imported(module, "the demo", package)
    from matplotlib.figure import Figure
    from sklearn import datasets, neural_network

    from fastmlp import MLPClassifier

    images, digits = datasets.load_digits(return_X_y=True)
    X = (images / 16).astype(np.float32)
    held_out, kept = np.split(np.random.default_rng(0).permutation(len(X)), [len(X) // 5])
    print(f"fastmlp demo: a net 64-100-10 learns to read handwritten digits, {len(kept)} images,")
    print(f"with Adam in batches of 64, {epochs} epochs, seed {seed}. A first fit of one epoch")
    print(f"compiles, or loads, kernels. The cache: {info()['cache']}.\n")
    print(f"{'':<14}{'held-out accuracy':>18}{'last loss':>12}{'fit':>10}{'first fit':>12}")
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3, 1))  # type: ignore[misc]
    ax, seconds, models = above.subplots(), dict[str, float](), dict[str, Any]()
    for name, kind in zip(LINES, (MLPClassifier, neural_network.MLPClassifier), strict=True):
        options: Any = {**SETTINGS, "random_state": seed, "n_iter_no_change": epochs + 1}
        first, _ = _fitted(kind(max_iter=1, **options), X[kept], digits[kept])
        model = kind(max_iter=epochs, **options)
        seconds[name], models[name] = _fitted(model, X[kept], digits[kept])
        read, losses = 100 * model.score(X[held_out], digits[held_out]), model.loss_curve_
        print(f"{name:<14}{read:>16.1f} %{losses[-1]:>12.4f}", end="")
        print(f"{seconds[name]:>8.2f} s{first:>10.2f} s", flush=True)
        label = f"{name}: {read:.1f} % of held-out digits, {seconds[name]:.2f} s"
        plot_history(History(losses), ax, label=label, **LINES[name])
    times = seconds["scikit-learn"] / seconds["fastmlp"]
    print(f"\nOne run of each: fastmlp fitted {times:.1f} times as fast, compiling left out.")
    ax.set_title("Learning to read handwritten digits", loc="left", fontweight="bold", pad=12)
    predictions, labels = models["fastmlp"].predict(X[held_out]), digits[held_out]
    _draw_digits(below, X[held_out].reshape(-1, 8, 8), labels, predictions)
    figure.savefig(out_path, dpi=150)
    print(f"\nPicture: {out_path}")
    return float((predictions == labels).mean())


def _fitted(model: Any, X: Any, y: Any) -> tuple[float, Any]:
    """Return the seconds of a fit, and the model. Both libraries only warn of Ctrl-C."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Training interrupted", UserWarning)
        try:
            model.fit(X, y)
        except UserWarning as interrupted:
            raise KeyboardInterrupt from interrupted
    return time.perf_counter() - start, model


def _draw_digits(part: Any, images: Any, labels: Any, predictions: Any) -> None:
    right = predictions == labels
    misread = np.flatnonzero(~right)[:MOST_WRONG_SHOWN]
    _, first_of_each = np.unique(np.where(right, labels, -1), return_index=True)
    shown = [*misread, *first_of_each[len(misread) > 0 :][: N_SHOWN - len(misread)]]
    for ax, i in zip(np.ravel(part.subplots(1, len(shown))), shown, strict=True):
        ax.imshow(images[i], cmap="Greys", interpolation="nearest")
        text = f"{predictions[i]}" if right[i] else f"{predictions[i]}, not {labels[i]}"
        ax.set_title(text, color=INK if right[i] else WRONG, fontsize=11)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(color=FAINT if right[i] else WRONG, visible=True)
    n = f"{len(misread)} of the {(~right).sum()} misread, then {len(shown) - len(misread)}"
    caption = f"Held-out digits as fastmlp reads them: {n} of the {right.sum()} read right"
    part.suptitle(caption, x=0.016, ha="left", fontsize=10)
