"""The one store of results, and the one writer of tables and pages, of all programs.

A program is a module with a function `measure(options, earlier results)`,
and functions that write sections of a page from results; `program` makes its `main`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine
from benchmarks.scores import Record

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BEGIN = "<!-- benchmarks:begin -->"
END = "<!-- benchmarks:end -->"


class Table(NamedTuple):
    """Rows of cells under titles, of which those that begin with ">" are of numbers."""

    titles: Sequence[str]
    rows: Iterable[Sequence[Any]]

    def markdown(self) -> Iterator[str]:
        """The lines for a page."""
        yield row(*self.headings())
        rule = "|"
        for title in self.titles:
            if title.startswith(">"):
                rule += "--:|"
            else:
                rule += "---|"
        yield rule
        for cells in self.rows:
            yield row(*cells)

    def headings(self) -> list[str]:
        """The titles without their signs."""
        return [title.removeprefix(">") for title in self.titles]

    def under(self, text: str) -> Iterator[str]:
        """The lines for a page, below a paragraph; none without rows."""
        rows = [*self.rows]
        if rows:
            yield f"\n{text}\n"
            yield from self._replace(rows=rows).markdown()

    def text(self) -> Iterator[str]:
        """The lines for a terminal, in columns as wide as their widest cell."""
        rows = [self.headings()]
        rows += [[str(cell) for cell in cells] for cells in self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for cells in rows:
            padded = []
            for title, cell, width in zip(self.titles, cells, widths, strict=True):
                if title.startswith(">"):
                    padded.append(cell.rjust(width))
                else:
                    padded.append(cell.ljust(width))
            yield "  ".join(padded).rstrip()


def row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def between_markers(page: Path, inside: str, name: str = "benchmarks") -> None:
    """Replace the text that a page has between the markers of a name."""
    begin = BEGIN.replace("benchmarks", name)
    end = END.replace("benchmarks", name)
    text = page.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{page} must have {begin} and {end} once each")
    head, _, _ = text.partition(begin)
    _, _, tail = text.partition(end)
    trimmed = re.sub(r" +$", "", inside, flags=re.M)
    page.write_text(f"{head}{begin}\n{trimmed}\n{end}{tail}")


def say(text: str) -> None:
    """Show the progress of a run, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def parser_of(module: str, about: str | None, page: str) -> argparse.ArgumentParser:
    """The parser of the options that all programs have."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    add = parser.add_argument
    add("--json", type=Path, help="where results are kept; a run adds to them")
    add("--from-json", action="store_true", help="show the results of --json")
    add("--pages", action="store_true", help=f"rewrite {page}")
    return parser


def parsed(
    parser: argparse.ArgumentParser, words: list[str] | None
) -> argparse.Namespace:
    """The options; a file or folder that is not there ends the program."""
    options = parser.parse_args(words)
    if options.from_json:
        if not options.json:
            parser.error("--from-json needs --json FILE")
        if not options.json.is_file():
            parser.error(f"there is no file {options.json}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"there is no folder {options.json.parent}")
    return options


def earlier(options: argparse.Namespace) -> Record:
    """The results at --json; empty if there is no file yet."""
    if options.json is None or not options.json.is_file():
        return {}
    results: Record = json.loads(options.json.read_text())
    return results


def keep(results: Record, options: argparse.Namespace) -> None:
    """Write the results to --json, if there is such an option."""
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def program(
    page: Path,
    measure: Callable[[argparse.Namespace, Record], Record],
    options: Mapping[str, Any] | None = None,
    **sections: Callable[[Record], Iterable[str]],
) -> Callable[..., Record]:
    """The function `main(words=None)` of the module of `measure`: it measures or loads
    results, keeps them, prints their sections, and writes these with --pages.

    Parameters
    ----------
    page : has markers with the name of each section
    measure : from the options and the earlier results, which have the machine of now and the
        versions of the module's `LIBRARIES`, to the results of both
    options : by name the arguments of `add_argument`, beside those of all programs
    sections : from results to lines of Markdown; a section without lines is not written
    """
    module = sys.modules[measure.__module__]
    if module.__spec__:
        name = module.__spec__.name
    else:
        name = module.__name__

    def main(words: list[str] | None = None, page: Path = page) -> Record:
        shown = page
        if page.is_relative_to(ROOT):
            shown = page.relative_to(ROOT)
        parser = parser_of(name.removesuffix(".compare"), module.__doc__, str(shown))
        for option, settings in (options or {}).items():
            parser.add_argument(option, **settings)
        chosen = parsed(parser, words)
        results = earlier(chosen)
        if not chosen.from_json:
            facts = {"machine": machine.describe()}
            if libraries := getattr(module, "LIBRARIES", ()):
                facts["versions"] = machine.versions(libraries)
            measured = measure(chosen, {**results, **facts})
            results = {**facts, **measured}
            keep(results, chosen)
        for section, write in sections.items():
            text = "\n".join(write(results))
            print(text)
            if chosen.pages and text:
                between_markers(page, text, section)
        return results

    return main
