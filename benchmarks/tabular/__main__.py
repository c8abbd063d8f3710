"""The command line: `python -m benchmarks.tabular --json all.json --pages`."""

import argparse
import sys
from functools import partial
from pathlib import Path

from benchmarks import output
from benchmarks.page import ROOT
from benchmarks.tabular import __doc__ as about
from benchmarks.tabular.compare import MODELS, USUAL, Plan, available, kept, results, run
from benchmarks.tabular.report import lines
from benchmarks.tabular.sources import chosen

PAGE = ROOT / "docs" / "tables.md"


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tabular", description=about)
    tables = "names, or aside (if not said), development or small"
    parser.add_argument("--tables", nargs="+", default=["aside"], metavar="NAME", help=tables)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*USUAL], metavar="NAME")
    parser.add_argument("--turns", type=int, default=3, help="fits of each, with own seeds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="what is there already is not run again")
    parser.add_argument("--from-json", action="store_true", help="render an earlier run's again")
    parser.add_argument("--pages", action="store_true", help="rewrite docs/tables.md")
    return parser


def main(words: list[str] | None = None) -> None:
    """Run or load, print, and write what was asked for."""
    parser = arguments()
    options = parser.parse_args(words)
    output.check(parser, options)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if options.from_json:
        found = output.earlier(options)
    else:
        models = available(options.models, say)
        plan = Plan(chosen(options.tables), models, options.turns, options.threads)
        found = results(plan, kept(options.json))
        keep = partial(output.keep, found, options)
        run(plan, found["records"], keep, say)
        keep()
    output.show(lines(found), options, PAGE)


if __name__ == "__main__":
    main()
