"""The command ``fastmlp``: train, predict, score, show, forecast, demo, info and warmup."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastmlp import __version__
from fastmlp.cli.forecast import add_forecast, run_forecast
from fastmlp.cli.options import (
    CommandError,
    Parser,
    UsageError,
    add_others,
    add_train,
    as_toml,
    parsed,
    settle_model,
    take_config,
)

PICTURES = (".png", ".pdf", ".svg")
# The largest seed that scikit-learn takes.
MOST_SEED = 2**32 - 1
# The exit code of a wrong use, argparse's: in a script, `fastmlp $COMMAND` must not pass if empty.
NO_COMMAND = WRONG_USE = 2
# The exit codes by which shells report an end by SIGINT (2), and by SIGPIPE (13).
INTERRUPTED, BROKEN_PIPE = 128 + 2, 128 + 13


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; default: `sys.argv[1:]`.

    Returns
    -------
    int
        0; 1 if an optional package is missing, a file cannot be read or written, or its data are
        not what they must be; 2 after a wrong option, and without a command, after the help; 130
        after Ctrl-C, 143 after SIGTERM; 141 if the reader of a pipe has gone, as after
        ``fastmlp info | head -1``.

    Examples
    --------
    >>> from fastmlp.cli.main import main
    >>> main(["info"])  # doctest: +ELLIPSIS
    fastmlp ...
    0
    """
    parser = _parser()
    arguments = parsed(parser, argv)
    if getattr(arguments, "config", None) is not None:
        try:
            take_config(arguments.config, arguments.parser)
        except (UsageError, OSError) as error:
            print(f"fastmlp: error: {error}", file=sys.stderr)
            return WRONG_USE
        arguments = parsed(parser, argv)
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return NO_COMMAND
    try:
        with ending():
            arguments.run(arguments)
            sys.stdout.flush()
    except UsageError as error:
        print(f"fastmlp: error: {error}", file=sys.stderr)
        return WRONG_USE
    except BrokenPipeError:
        _close_output()
        return BROKEN_PIPE
    except (CommandError, ImportError, OSError) as error:
        print(f"fastmlp: {error}", file=sys.stderr)
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
    """Close standard output on a broken pipe: Python would write the rest at its end, and fail."""
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

    It does nothing outside the main thread, nor to a signal that is ignored or has a handler.
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
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="command")
    train = add_train(commands, _at_least, _seed)
    train.set_defaults(run=_train, parser=train)
    for name, command in add_others(commands, _at_least).items():
        command.set_defaults(run=_on_tables(name), parser=command)
    forecast = add_forecast(commands, _at_least)
    forecast.set_defaults(run=run_forecast, parser=forecast)
    demo = commands.add_parser("demo", help="learn handwritten digits, beside scikit-learn")
    demo.add_argument("--epochs", type=_positive, default=30, metavar="N", help="default: 30")
    demo.add_argument(
        "--output",
        type=_picture,
        default=Path("fastmlp-demo.png"),
        metavar="PATH",
        help="where to save the picture; default: fastmlp-demo.png",
    )
    demo.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: 0")
    demo.set_defaults(run=_demo)
    info = commands.add_parser("info", help="versions, compiler, threads, cache")
    info.add_argument("--json", action="store_true", help="print it as JSON")
    info.set_defaults(run=_info, parser=info)
    ahead = commands.add_parser("warmup", help="compile everything ahead, into the disk cache")
    ahead.add_argument(
        "--compute-dtype",
        choices=["bfloat16"],
        metavar="DTYPE",
        help="bfloat16: mixed precision too",
    )
    ahead.add_argument(
        "--shared",
        action="store_true",
        help="let other users read the cache, which NUMBA_CACHE_DIR names",
    )
    ahead.set_defaults(run=_warmup, parser=ahead)
    return parser


def _train(arguments: argparse.Namespace) -> None:
    if (note := settle_model(arguments)) is not None:
        print(note, file=sys.stderr)
    if arguments.dry_run:
        print(as_toml(arguments, arguments.parser))
        return
    from fastmlp.cli.tables import run_train

    run_train(arguments)


def _on_tables(name: str) -> Callable[[argparse.Namespace], None]:
    def run(arguments: argparse.Namespace) -> None:
        from fastmlp.cli import tables

        getattr(tables, f"run_{name}")(arguments)

    return run


def _demo(arguments: argparse.Namespace) -> None:
    from fastmlp.cli.demo import run_demo

    run_demo(arguments.output, epochs=arguments.epochs, seed=arguments.seed)


def _info(arguments: argparse.Namespace) -> None:
    from fastmlp.cli.info import format_info, info

    print(json.dumps(info()) if arguments.json else format_info())


def _warmup(arguments: argparse.Namespace) -> None:
    from fastmlp.cli.info import cache_state
    from fastmlp.cli.warmup import warmup
    from fastmlp.compiler import cache

    if cache.folder() is None:
        raise OSError(f"warmup has no cache folder to keep code in; the cache is {cache_state()}")
    if arguments.shared:
        cache.share()
    cache.failures.clear()
    settings: Any = {"compute_dtype": arguments.compute_dtype}
    seconds = warmup(report=lambda line: print(line, flush=True), **settings)
    if cache.failures:
        raise OSError(f"warmup could not keep all code: {cache.failures[-1]}")
    print(f"{seconds:.1f} s, kept in {cache.folder()}")


def _positive(text: str) -> int:
    return _at_least(1, text)


def _seed(text: str) -> int:
    if (seed := _at_least(0, text)) > MOST_SEED:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_SEED}, got {text!r}")
    return seed


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be an integer of {least} or more, got {text!r}")
    return int(text)


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"must end in {', '.join(PICTURES)}, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path
