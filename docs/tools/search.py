"""Words for the site's search, from docs/search.toml:
what a page is found by beside its own.

Each phrase is an entry of the index, and each of its words a keyword of the page.
The ranks are made by docs/tools/scorer.js, in the browser.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "search.toml"


def words() -> dict[str, list[str]]:
    """Return the phrases by page."""
    pages: dict[str, str] = tomllib.loads(FILE.read_text(encoding="utf-8"))["words"]
    return {page: text.split(", ") for page, text in pages.items()}


def below_the_title(text: str, phrases: list[str]) -> str:
    """Return a page's text with its phrases below the title,
    where readers see nothing.
    """
    keywords = dict.fromkeys(
        word for one in phrases for word in re.findall(r"\w+", one)
    )
    added = [
        "```{eval-rst}",
        ".. meta::",
        f"   :keywords: {', '.join(keywords)}",
        "",
        ".. index::",
        *(f"   single: !{phrase}" for phrase in phrases),
        "```",
    ]
    title, _, rest = text.partition("\n")
    return "\n".join([title, "", *added, "", rest])


def of_page(app: Any, docname: str, content: list[str]) -> None:
    app.env.note_dependency(str(FILE))
    if phrases := words().get(docname):
        content[0] = below_the_title(content[0], phrases)


def setup(app: Any) -> None:
    app.connect("source-read", of_page)
