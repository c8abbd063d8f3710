"""The command ``fastmlp``: train, predict, score, report, show, export and others."""

import argparse
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import Any

import numpy as np

from fastmlp import History, __version__
from fastmlp.cli import options
from fastmlp.cli.parser import CommandError, Parser, UsageError, parse, printable
from fastmlp.extend import messages

# argparse's exit code of a wrong use.
WRONG_USE = 2
# Shells' exit codes of SIGINT (2) and SIGPIPE (13).
INTERRUPTED, BROKEN_PIPE = 128 + 2, 128 + 13


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, by default `sys.argv[1:]`.

    Returns
    -------
    int
        0 after success. 1: a package is missing, a file cannot be read or written, or
        its data are wrong. 2: a wrong option. 130: Ctrl-C. 143: SIGTERM. 141: the
        pipe's reader has ended.

    Examples
    --------
    >>> from fastmlp.cli.main import main
    >>> main(["info"])  # doctest: +ELLIPSIS
    fastmlp ...
    0
    """
    parser = _parser()
    arguments = parse(parser, argv)
    try:
        with ending():
            arguments.run(arguments)
            sys.stdout.flush()
    except UsageError as error:
        print(f"fastmlp: error: {printable(error)}", file=sys.stderr)
        return WRONG_USE
    except BrokenPipeError:
        _close_output()
        return BROKEN_PIPE
    except (CommandError, ImportError, OSError) as error:
        print(f"fastmlp: {printable(error)}", file=sys.stderr)
        _close_output()
        return 1
    except KeyboardInterrupt:
        print("fastmlp: interrupted", file=sys.stderr)
        return INTERRUPTED
    except CommandEnded as ended:
        print(f"fastmlp: ended by {ended.name}", file=sys.stderr)
        return ended.code
    return 0


def _close_output() -> None:
    """Close standard output on a broken pipe:
    Python would write the rest at exit, and fail.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class CommandEnded(BaseException):
    def __init__(self, number: int) -> None:
        self.name = signal.Signals(number).name
        self.code = 128 + number


@contextmanager
def ending() -> Iterator[None]:
    """Make SIGTERM and SIGHUP an exception, so that no half-written file is left.

    Ignored signals, other handlers, and signals outside the main thread are left alone.
    """

    def end(number: int, _: Any) -> None:
        raise CommandEnded(number)

    mine = threading.current_thread() is threading.main_thread()
    signals = [
        getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
    ]
    taken = [
        number
        for number in signals
        if mine and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _parser() -> Parser:
    parser = Parser(
        prog="fastmlp",
        description="Train small and medium multi-layer perceptrons on a CPU, fast.",
    )
    parser.add_argument("--version", action="version", version=f"fastmlp {__version__}")
    parser.set_defaults(run=lambda _: print(parser.format_help(), end=""))
    commands = parser.add_subparsers(title="commands", metavar="command")
    for name, (text, add_options, run) in COMMANDS.items():
        added = commands.add_parser(name, help=text)
        add_options(added)
        added.set_defaults(run=run or partial(_on_tables, name), parser=added)
    return parser


def _on_tables(name: str, arguments: argparse.Namespace) -> None:
    from fastmlp.cli import tables

    getattr(tables, f"run_{name}")(arguments)


def _demo(arguments: argparse.Namespace) -> None:
    run_demo(arguments.output, epochs=arguments.epochs, seed=arguments.seed)


def _info(arguments: argparse.Namespace) -> None:
    from fastmlp.info import format_info, info

    print(json.dumps(info()) if arguments.json else format_info())


def _warmup(arguments: argparse.Namespace) -> None:
    from fastmlp.warmup import fill_cache

    settings: Any = {"compute_dtype": arguments.compute_dtype}
    if arguments.dtype:
        settings["dtypes"] = [arguments.dtype]
    report = partial(print, flush=True)
    seconds, folder = fill_cache(shared=arguments.shared, report=report, **settings)
    print(f"{seconds:.1f} s, kept in {folder}")


INK = "#333333"
FAINT = "#d9d9d9"
WRONG = "#c62828"
# The curves coincide, so the second is dashed.
LINES: dict[str, dict[str, Any]] = {
    "fastmlp": {"color": "#0b5fa5"},
    "scikit-learn": {"color": "#e07b00", "linestyle": "--"},
}
DEMO_SETTINGS = {
    "hidden_layer_sizes": 100,
    "batch_size": 64,
    "learning_rate_init": 0.003,
    "tol": 0.0,
}
N_SHOWN, MOST_WRONG_SHOWN = 10, 4


def run_demo(
    out_path: str | PathLike[str] = "fastmlp-demo.png", epochs: int = 30, seed: int = 0
) -> float:
    """Train on scikit-learn's digits, print the results, and save a picture.

    `epochs` are epochs of both libraries, and `seed` draws initial weights and orders;
    the split is fixed. The accuracy on the held-out digits is returned.

    Examples
    --------
    >>> from fastmlp.cli.main import run_demo
    >>> accuracy = run_demo("digits.png", epochs=10)  # doctest: +SKIP
    """
    for package, module in (("scikit-learn", "sklearn"), ("matplotlib",) * 2):
        messages.imported(module, "the demo", package)
    from matplotlib.figure import Figure
    from sklearn import datasets, neural_network

    from fastmlp import MLPClassifier
    from fastmlp.info import info
    from fastmlp.plotting import plot_history

    images, digits = datasets.load_digits(return_X_y=True)
    X = (images / 16).astype(np.float32)
    held_out, kept = np.split(
        np.random.default_rng(0).permutation(len(X)), [len(X) // 5]
    )
    print(
        f"fastmlp demo: a net 64-100-10 learns to read handwritten digits, {len(kept)} "
        f"images,"
    )
    print(
        f"with Adam in batches of 64, {epochs} epochs, seed {seed}. A first fit of one "
        f"epoch"
    )
    print(f"compiles, or loads, kernels. The cache: {info()['cache']}.\n")
    print(
        f"{'':<14}{'held-out accuracy':>18}{'last loss':>12}{'fit':>10}{'first fit':>12}"
    )
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3, 1))  # type: ignore[misc]
    ax = above.subplots()
    seconds = dict[str, float]()
    models = dict[str, Any]()
    for name, kind in zip(
        LINES, (MLPClassifier, neural_network.MLPClassifier), strict=True
    ):
        options: Any = {
            **DEMO_SETTINGS,
            "random_state": seed,
            "n_iter_no_change": epochs + 1,
        }
        first, _ = _fitted(kind(max_iter=1, **options), X[kept], digits[kept])
        model = kind(max_iter=epochs, **options)
        seconds[name], models[name] = _fitted(model, X[kept], digits[kept])
        read = 100 * model.score(X[held_out], digits[held_out])
        losses = model.loss_curve_
        print(f"{name:<14}{read:>16.1f} %{losses[-1]:>12.4f}", end="")
        print(f"{seconds[name]:>8.2f} s{first:>10.2f} s", flush=True)
        label = f"{name}: {read:.1f} % of held-out digits, {seconds[name]:.2f} s"
        plot_history(History(losses), ax, label=label, **LINES[name])
    times = seconds["scikit-learn"] / seconds["fastmlp"]
    print(
        f"\nOne run of each: fastmlp fitted {times:.1f} times as fast, compiling left "
        f"out."
    )
    ax.set_title(
        "Learning to read handwritten digits", loc="left", fontweight="bold", pad=12
    )
    predictions = models["fastmlp"].predict(X[held_out])
    labels = digits[held_out]
    _draw_digits(below, X[held_out].reshape(-1, 8, 8), labels, predictions)
    figure.savefig(out_path, dpi=150)
    print(f"\nPicture: {out_path}")
    return float((predictions == labels).mean())


def _fitted(model: Any, X: Any, y: Any) -> tuple[float, Any]:
    """Seconds of a fit, and the model. Both libraries only warn of Ctrl-C."""
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
        if right[i]:
            text = f"{predictions[i]}"
        else:
            text = f"{predictions[i]}, not {labels[i]}"
        ax.set_title(text, color=INK if right[i] else WRONG, fontsize=11)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(color=FAINT if right[i] else WRONG, visible=True)
    n = f"{len(misread)} of the {(~right).sum()} misread, then {len(shown) - len(misread)}"
    caption = (
        f"Held-out digits as fastmlp reads them: {n} of the {right.sum()} read right"
    )
    part.suptitle(caption, x=0.016, ha="left", fontsize=10)


# Line of the help, function that adds the options,
# function that runs; None: one of tables.py.
COMMANDS: dict[str, tuple[str, Any, Any]] = {
    "train": ("train a net on a table", options.add_train, None),
    "predict": ("predict the rows of a table", options.add_predict, None),
    "score": ("measure a model on a table with its target", options.add_score, None),
    "report": ("write scores and pictures as a page", options.add_report, None),
    "show": (
        "print what a model was trained on, and its layers",
        options.add_show,
        None,
    ),
    "export": ("write a model as C source or an ONNX graph", options.add_export, None),
    "demo": ("learn handwritten digits, beside scikit-learn", options.add_demo, _demo),
    "info": ("versions, compiler, threads, cache", options.add_info, _info),
    "warmup": (
        "compile everything ahead, into the disk cache",
        options.add_warmup,
        _warmup,
    ),
}
