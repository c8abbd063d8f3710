"""The pages that show a public name at work, which its page of the API links to."""

import re
from pathlib import Path

from docs.tools import search

DOCS = Path(__file__).parents[1]
FOLDERS = ("how-to", "start", "from", "explain")
MOST = 3
NAME = re.compile(r"^   ([A-Za-z][\w.]*)$", flags=re.MULTILINE)


def pages_of() -> dict[str, list[str]]:
    """Return pages by name, as in `fastmlp.jit.predict`,
    from the one that tells most on.

    Pages that docs/search.toml has the name for come first,
    then those that name it most often.
    """
    texts = {}
    for folder in FOLDERS:
        for page in sorted((DOCS / folder).glob("*.md")):
            if page.stem != "index":
                name = page.relative_to(DOCS).with_suffix("").as_posix()
                texts[name] = page.read_text("utf-8")
    found = {}
    names = NAME.findall((DOCS / "api" / "index.md").read_text("utf-8"))
    for name in names:
        _, _, last = name.rpartition(".")
        # A name that two modules have, and a word as predict, need their module.
        if name != last and last in names:
            last = name
        plain = name
        if re.search("[A-Z_]", last):
            plain = last
        named = [page for page, words in search.words().items() if last in words]
        word = re.compile(rf"\b{re.escape(plain)}\b")
        counts = {page: len(word.findall(text)) for page, text in texts.items()}
        often = sorted(counts, key=lambda page: -counts[page])
        often = [page for page in often if counts[page]]
        found[f"fastmlp.{name}"] = [*dict.fromkeys([*named, *often])][:MOST]
    return found
