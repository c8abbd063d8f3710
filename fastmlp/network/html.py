"""HTML for notebooks: text is escaped, and colours are those of the page, light or dark."""

from collections.abc import Collection, Sequence

CELL = "padding:0.1em 0.8em;text-align:{}"
LINE = "border-bottom:1px solid currentColor;"


def table(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Return rows as a table; the first is the header, the columns `left` are left-aligned."""
    lines = "".join(f"<tr>{_cells(row, i == 0, left)}</tr>" for i, row in enumerate(rows))
    return f'<table style="border-collapse:collapse;margin:0.3em 0">{lines}</table>'


def text(shown: str, *, strong: str = "") -> str:
    """Return a line of text, after the word `strong` in bold type."""
    bold = f"<strong>{_escaped(strong)}</strong> " if strong else ""
    return f"<div>{bold}{_escaped(shown)}</div>"


def _cells(row: Sequence[str], is_header: bool, left: Collection[int]) -> str:
    tag, line = ("th", LINE) if is_header else ("td", "")
    styles = [line + CELL.format("left" if i in left else "right") for i in range(len(row))]
    return "".join(
        f'<{tag} style="{style}">{_escaped(cell)}</{tag}>'
        for style, cell in zip(styles, row, strict=True)
    )


def _escaped(shown: str) -> str:
    from html import escape

    return escape(shown)
