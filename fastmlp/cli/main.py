"""The command ``fastmlp``: train, predict, score, show, export, demo, info, warmup."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from fastmlp import __version__
from fastmlp.cli import options
from fastmlp.cli.options import CommandError, Parser, UsageError, parsed, printable

# argparse's exit code of a wrong use.
WRONG_USE = 2
# Exit codes by which shells report SIGINT (2) and SIGPIPE (13).
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
        0 after success. 1: a package is missing, a file cannot be read or written, or its data are
        wrong. 2: a wrong option. 130: Ctrl-C. 143: SIGTERM. 141: the reader of a pipe has gone, as
        after ``fastmlp info | head -1``.

    Examples
    --------
    >>> from fastmlp.cli.main import main
    >>> main(["info"])  # doctest: +ELLIPSIS
    fastmlp ...
    0
    """
    parser = _parser()
    arguments = parsed(parser, argv)
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
    """Close standard output on a broken pipe. Python would write the rest at exit, and fail."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class CommandEnded(BaseException):
    """A signal that ends the command."""

    def __init__(self, number: int) -> None:
        self.name, self.code = signal.Signals(number).name, 128 + number


@contextmanager
def ending() -> Iterator[None]:
    """Make SIGTERM and SIGHUP an exception, so that no half-written file is left.

    Signals that are ignored or have a handler stay, as do all signals outside the main thread.
    """

    def end(number: int, _: Any) -> None:
        raise CommandEnded(number)

    mine = threading.current_thread() is threading.main_thread()
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in signals if mine and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _parser() -> Parser:
    parser = Parser(
        prog="fastmlp", description="Train small and medium multi-layer perceptrons on a CPU, fast."
    )
    parser.add_argument("--version", action="version", version=f"fastmlp {__version__}")
    parser.set_defaults(run=lambda _: print(parser.format_help(), end=""))
    commands = parser.add_subparsers(title="commands", metavar="command")
    for name, (text, add_options, run) in COMMANDS.items():
        added = commands.add_parser(name, help=text)
        add_options(added)
        added.set_defaults(run=run, parser=added)
    return parser


def _on_tables(name: str) -> Callable[[argparse.Namespace], None]:
    def run(arguments: argparse.Namespace) -> None:
        from fastmlp.cli import tables

        getattr(tables, f"run_{name}")(arguments)

    return run


def _demo(arguments: argparse.Namespace) -> None:
    from fastmlp.cli.demo import run_demo

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


# Line of the help, function that adds the options, function that runs.
COMMANDS = {
    "train": ("train a net on a table", options.add_train, _on_tables("train")),
    "predict": ("predict the rows of a table", options.add_predict, _on_tables("predict")),
    "score": (
        "measure a model on a table with its target", options.add_score, _on_tables("score")
    ),
    "show": (
        "print what a model was trained on, and its layers", options.add_show, _on_tables("show")
    ),
    "export": (
        "write a model as C source or an ONNX graph", options.add_export, _on_tables("export")
    ),
    "demo": ("learn handwritten digits, beside scikit-learn", options.add_demo, _demo),
    "info": ("versions, compiler, threads, cache", options.add_info, _info),
    "warmup": ("compile everything ahead, into the disk cache", options.add_warmup, _warmup),
}  # fmt: skip
