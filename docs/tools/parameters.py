"""Tables of all keywords, from signatures, docstrings and the words of other libraries.

`python -m docs.tools.parameters` writes them into docs/parameters.md.
"""

import ast
import inspect
import re
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from fastmlp.validation.messages import content

Table = dict[str, Any]
Row = list[str]
PAGE = Path(__file__).parents[1] / "parameters.md"
# The page's own words end here.
BEGIN = "<!-- tables:begin -->\n"
SECTION = re.compile(
    r"^Parameters\n-+\n(.*?)(?:^\S[^\n]*\n-+\n|\Z)", flags=re.MULTILINE | re.DOTALL
)
ENTRY = re.compile(r"^(\S[^:\n]*?)(?: *: (.*))?\n((?:^ .*\n|\n)*)", flags=re.MULTILINE)


def tables() -> list[Table]:
    found: list[Table] = content()["table"]
    return found


def found_by(name: str) -> Any:
    """Return what a name such as MLP.fit or river.MLPClassifier stands for."""
    return resolve_name(f"fastmlp.{name}")


def defaults(name: str) -> dict[str, str]:
    """Return the keywords of a class or function, with their defaults."""
    signature = inspect.signature(found_by(name))
    texts = {}
    for key, one in signature.parameters.items():
        if key in ("self", "cls"):
            continue
        if one.default is one.empty:
            texts[key] = "required"
        else:
            texts[key] = f"`{one.default!r}`"
    return texts


def keywords(table: Table) -> dict[str, str]:
    """Return the keywords that a table must have."""
    merged: dict[str, str] = {}
    for name in table["of"]:
        merged |= defaults(name)
    return merged


def described(name: str) -> dict[str, tuple[str, str]]:
    """Return type and meaning of the keywords, from the docstring."""
    section = SECTION.search(f"{inspect.getdoc(found_by(name))}\n")
    if section is None:
        return {}
    found = {}
    for names, kind, lines in ENTRY.findall(section[1]):
        kind = re.sub(r",? *(optional|default.*)$", "", kind)
        meaning = " ".join(lines.split())
        for one in re.split(r"[,\s]+", names):
            found[one] = (kind, meaning)
    return found


def markdown(text: str) -> str:
    """Return reStructuredText of a docstring as a table's cell."""
    text = re.sub(r"``([^`]+)``", r"`\1`", text).replace("|", r"\|")
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)


def row(table: Table, names: list[str], key: str, default: str) -> Row:
    """Return the cells of one keyword;
    a keyword without words or docstring is a KeyError.
    """
    owners = [name for name in names if key in defaults(name)]
    own_key = f"{owners[0]}.{key}"
    kind, meaning = described(owners[0])[key]
    kind = table.get("type", {}).get(key, kind)
    if not kind:
        kind = type(ast.literal_eval(default[1:-1])).__name__
    for name in (key, own_key):
        meaning = table.get("meaning", {}).get(name, meaning)
    words = table["words"].get(own_key, table["words"][key])
    if len(owners) < len(names):
        meaning = f"Of `{'`, `'.join(owners)}` only. {meaning}"
    value = default
    if default != "required":
        value = f"default {default}"
    return [f"`{key}`", f"{kind}; {value}", meaning, *words]


def lines(table: Table) -> list[str]:
    """Return a section of the page: tables that are folded under their keywords."""
    one_each = table.get("one_each", False)
    groups = [table["of"]]
    if one_each:
        groups = [[name] for name in table["of"]]
    out = [f"## {table['title']}", ""]
    if "text" in table:
        out += [table["text"], ""]
    for names in groups:
        shown = {**table, "of": names}
        defaults_of = keywords(shown)
        title = ", ".join(f"`{key}`" for key in defaults_of)
        if one_each:
            title = f"**{names[0]}**: {title}"
        head = ["keyword", "type, default", "meaning", *table["columns"]]
        out += [f":::{{dropdown}} {title}", ""]
        out += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for key, default in defaults_of.items():
            cells = map(markdown, row(shown, names, key, default))
            out.append(f"| {' | '.join(cells)} |")
        out += ["", ":::", ""]
    return out


def page() -> str:
    """Return the text of the page: its own words, and the tables."""
    words, _, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    text = [words + BEGIN]
    for table in tables():
        text += lines(table)
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
