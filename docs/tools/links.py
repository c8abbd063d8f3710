"""Links to files of the repository, as links of the site.

Pages link to files by relative paths, so that they can be read in the repository too. A
file that a page of the site includes becomes a link to that page, any other a link to
the repository.
"""

import os
import re
from pathlib import Path
from typing import Any

from sphinx.util import logging

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/fastmlp/fastmlp"
LINK = re.compile(r"(?<!!)(\[[^\]]*\])\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
INCLUDE = re.compile(r"^`{3,}\{include\} (\S+)$", flags=re.MULTILINE)


def pages_of_files() -> dict[Path, Path]:
    """Return the page that includes a file, by file."""
    pages = {
        ROOT / "README.md": DOCS / "index.md",
        DOCS / "gallery": DOCS / "auto_gallery" / "index.rst",
    }
    for program in (DOCS / "gallery").glob("plot_*.py"):
        pages[program] = DOCS / "auto_gallery" / f"{program.stem}.rst"
    for page in sorted(DOCS.rglob("*.md")):
        for target in INCLUDE.findall(page.read_text()):
            pages[(page.parent / target).resolve()] = page
    return pages


def rewrite(text: str, file: Path, page: Path) -> str:
    """Return the text of a file as it must be on a page:
    its links lead to pages, or outside.
    """
    pages = pages_of_files()

    def on_the_site(match: re.Match[str]) -> str:
        words = match[1]
        target = match[2]
        anchor = match[3] or ""
        path = (file.parent / target).resolve()
        if not path.exists():
            logging.getLogger(__name__).warning("%s: no such file: %s", file, target)
        if path in pages or (path.is_relative_to(DOCS) and path.suffix == ".md"):
            address = os.path.relpath(pages.get(path, path), page.parent)
        else:
            folder = "tree" if path.is_dir() else "blob"
            address = f"{REPOSITORY}/{folder}/main/{path.relative_to(ROOT).as_posix()}"
        return f"{words}({address}{anchor})"

    return LINK.sub(on_the_site, text)


def of_page(app: Any, docname: str, content: list[str]) -> None:
    page = DOCS / f"{docname}.md"
    if page.exists():
        content[0] = rewrite(content[0], page, page)


def of_included_file(app: Any, path: Path, parent: str, content: list[str]) -> None:
    # myst-parser gives the parent without its folder.
    content[0] = rewrite(
        content[0], (DOCS / path).resolve(), DOCS / f"{app.env.docname}.md"
    )


def setup(app: Any) -> None:
    app.connect("source-read", of_page)
    app.connect("include-read", of_included_file)
