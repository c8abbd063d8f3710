"""The command line: `python -m benchmarks.tabular --json all.json --pages`."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.page import ROOT, between_markers
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
    if options.from_json and not (options.json and options.json.is_file()):
        parser.error("--from-json needs --json FILE, a file that is there")

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if options.from_json:
        found = json.loads(options.json.read_text())
    else:
        models = available(options.models, say)
        plan = Plan(chosen(options.tables), models, options.turns, options.threads)
        found = results(plan, kept(options.json))

        def keep() -> None:
            if options.json:
                options.json.write_text(json.dumps(found, indent=1))

        run(plan, found["records"], keep, say)
        keep()
    text = "\n".join(lines(found))
    print(text)
    if options.pages:
        between_markers(PAGE, text)


if __name__ == "__main__":
    main()
