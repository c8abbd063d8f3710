"""What programs share that measure, keep results as JSON, and put a table into a page."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.page import between_markers


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program if --json has no folder, or --from-json no file."""
    if options.from_json and not (options.json and options.json.is_file()):
        parser.error("--from-json needs --json FILE, a file that is there")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"there is no folder {options.json.parent}")


def earlier(options: argparse.Namespace) -> dict[str, Any]:
    """Return the results at --json; none if there is no file yet."""
    if options.json is None or not options.json.is_file():
        return {}
    found: dict[str, Any] = json.loads(options.json.read_text())
    return found


def keep(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the results to --json, if it is given."""
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def show(
    lines: Iterable[str], options: argparse.Namespace, page: Path, name: str = "benchmarks"
) -> None:
    """Print lines; with --pages, put them between the page's markers of a name."""
    text = "\n".join(lines)
    print(text)
    if options.pages and text:
        between_markers(page, text, name)
