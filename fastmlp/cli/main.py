"""The command ``fastmlp``: demo, info and warmup."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fastmlp import __version__

PICTURES = (".png", ".pdf", ".svg")
# The largest seed that scikit-learn takes.
MOST_SEED = 2**32 - 1
# The exit code of a wrong use, argparse's: in a script, `fastmlp $COMMAND` must not pass if empty.
NO_COMMAND = 2
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
        0; 1 if an optional package is missing or a file cannot be written; 2 without a command,
        after the help; 130 after Ctrl-C; 141 if the reader of a pipe has gone, as after
        ``fastmlp info | head -1``.

    Examples
    --------
    >>> from fastmlp.cli.main import main
    >>> main(["info"])  # doctest: +ELLIPSIS
    fastmlp ...
    0
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return NO_COMMAND
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Or Python would flush into the pipe again at its end, and print that error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ImportError, OSError) as error:
        print(f"fastmlp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fastmlp: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmlp", description="Train small and medium multi-layer perceptrons on a CPU, fast."
    )
    parser.add_argument("--version", action="version", version=f"fastmlp {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="command")
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
    commands.add_parser("info", help="versions, compiler, threads, cache").set_defaults(run=_info)
    ahead = commands.add_parser("warmup", help="compile everything ahead, into the disk cache")
    ahead.set_defaults(run=_warmup)
    return parser


def _demo(arguments: argparse.Namespace) -> None:
    from fastmlp.cli.demo import run_demo

    run_demo(arguments.output, epochs=arguments.epochs, seed=arguments.seed)


def _info(arguments: argparse.Namespace) -> None:
    from fastmlp.cli.info import format_info

    print(format_info())


def _warmup(arguments: argparse.Namespace) -> None:
    from fastmlp.cli.info import cache_state
    from fastmlp.cli.warmup import warmup
    from fastmlp.compiler import cache

    if cache.folder() is None:
        raise OSError(f"warmup has no cache folder to keep code in; the cache is {cache_state()}")
    cache.failures.clear()
    seconds = warmup(report=lambda line: print(line, flush=True))
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
