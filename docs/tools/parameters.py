"""Tables of all keywords, from signatures, docstrings and the words of other libraries."""

import ast
import inspect
import re
from functools import reduce
from typing import Any

import fastmlp.cluster
from fastmlp.validation.keywords import content

Table = dict[str, Any]
Row = list[str]
# A line of docs/parameters.md, in whose place the build puts the tables.
MARKER = "Not on the site? `python -m docs.tools.parameters` prints the tables."


def tables() -> list[Table]:
    found: list[Table] = content()["table"]
    return found


def found_by(name: str) -> Any:
    """Return what a name such as MLP.fit stands for."""
    return reduce(getattr, name.split("."), fastmlp)


def defaults(name: str) -> dict[str, str]:
    """Return the keywords of a class or function, with their defaults."""
    signature = inspect.signature(found_by(name))
    return {
        key: "required" if one.default is one.empty else f"`{one.default!r}`"
        for key, one in signature.parameters.items()
        if key not in ("self", "cls")
    }


def keywords(table: Table) -> dict[str, str]:
    """Return the keywords that a table must have: not those that another table tells."""
    told = {key for name in table.get("rest_as", ()) for key in defaults(name)}
    rows = {key: value for name in table["of"] for key, value in defaults(name).items()}
    return {key: value for key, value in rows.items() if key not in told}


def described(name: str) -> dict[str, tuple[str, str]]:
    """Return type and meaning of the keywords, from the docstring."""
    from numpydoc.docscrape import NumpyDocString

    text = inspect.getdoc(found_by(name)) or ""
    found = {}
    for names, kind, lines in NumpyDocString(text)["Parameters"]:
        kind = re.sub(r",? *(optional|default.*)$", "", kind)
        if not kind and " : " in names:
            names, _, kind = names.partition(" : ")
        for one in re.split(r"[,\s]+", names):
            found[one] = kind, " ".join(line.strip() for line in lines).strip()
    return found


def markdown(text: str) -> str:
    """Return reStructuredText of a docstring as a table's cell."""
    text = re.sub(r"``([^`]+)``", r"`\1`", text).replace("|", r"\|")
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)


def row(table: Table, names: list[str], key: str, default: str) -> Row:
    """Return the cells of one keyword; a keyword without words or docstring is a KeyError."""
    owners = [name for name in names if key in defaults(name)]
    kind, meaning = described(owners[0])[key]
    kind = table.get("type", {}).get(key, kind) or type(ast.literal_eval(default[1:-1])).__name__
    for name in (key, f"{owners[0]}.{key}"):
        meaning = table.get("meaning", {}).get(name, meaning)
    words = table["words"].get(f"{owners[0]}.{key}", table["words"][key])
    if len(owners) < len(names):
        meaning = f"Of `{'`, `'.join(owners)}` only. {meaning}"
    value = default if default == "required" else f"default {default}"
    return [f"`{key}`", f"{kind}; {value}", meaning, *words]


def lines(table: Table) -> list[str]:
    """Return a section of the page."""
    one_each = table.get("one_each", False)
    out = [f"## {table['title']}", "", *([table["text"], ""] if "text" in table else [])]
    for names in [[name] for name in table["of"]] if one_each else [table["of"]]:
        shown = {**table, "of": names}
        if one_each:
            out += [f"### {names[0]}", ""]
        head = ["keyword", "type, default", "meaning", *table["columns"]]
        out += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for key, default in keywords(shown).items():
            cells = map(markdown, row(shown, names, key, default))
            out.append(f"| {' | '.join(cells)} |")
        out.append("")
    return out


def page() -> str:
    return "\n".join(line for table in tables() for line in lines(table))


def of_page(app: Any, docname: str, content: list[str]) -> None:
    if docname == "parameters":
        content[0] = content[0].replace(MARKER, page())


def setup(app: Any) -> None:
    app.connect("source-read", of_page)


if __name__ == "__main__":
    print(page())
