"""Pictures of bars: times of a training step, and ranks of models of tables.

`python -m benchmarks.pages` draws the first from the figures of each kind of processor;
`python -m docs.tools.bars` draws both. A picture is as wide as a phone, where its text
is read as it stands. A dark page turns its lightness round (fastmlp.css).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
TIMES = DOCS / "_static" / "times.svg"
RANKS = DOCS / "_static" / "ranks.svg"
OURS = "fastmlp"
# Rows of the times, from the top: a library's name in the figures, and its title.
TITLES = {
    OURS: OURS,
    "jax": "JAX",
    "compile": "torch.compile",
    "torch": "PyTorch",
    "numpy": "NumPy",
    "sklearn": "scikit-learn",
}
WIDTH = 380
RIGHT = 40
BAR = 11
TOP = 34
BOTTOM = 26
INK = "#16202b"
GROUND = "#ffffff"
GRID = "#d5dae0"
COLOURS = ("#8a9bb0", "#2f7d4f")

Rows = Mapping[str, Sequence[float | None]]


def times(kinds: Mapping[str, Any]) -> str:
    """The picture of the means of each kind of processor, as SVG."""
    means = [{OURS: 1.0, **part["means"]} for part in kinds.values()]
    rows = {
        title: [part.get(name) for part in means]
        for name, title in TITLES.items()
        if any(name in part for part in means)
    }
    return drawn("Time of a training step, fastmlp's is 1", rows, list(kinds))


def ranks() -> str:
    """The picture of mean ranks, of the first summary on the page of tables, as SVG."""
    page = (DOCS / "tables.md").read_text()
    summary = page.partition("| model | mean rank |")[2].partition("\n\n")[0]
    found = re.findall(r"^\| \**([^|*]+?)\** \| (\d\.\d\d) \|", summary, re.M)
    rows = {model: [float(rank)] for model, rank in found}
    return drawn("Mean rank on ten tables, the best is 1", rows)


def drawn(title: str, rows: Rows, legend: Sequence[str] = ()) -> str:
    """A row for each name, with as many bars as the legend has, as SVG."""
    left = 10 + 7.2 * max(map(len, rows))
    longest = max(number for row in rows.values() for number in row if number)
    scale = (WIDTH - left - RIGHT) / longest
    step = BAR * max(len(legend), 1) + 8
    top = TOP + (18 if legend else 0)
    bottom = top + step * len(rows)
    size = f'width="{WIDTH}" height="{bottom + BOTTOM}"'
    shapes = [
        f'<rect {size} rx="6" fill="{GROUND}"/>',
        f'<text x="10" y="20" font-weight="bold">{title}</text>',
        *_legend(legend, left),
        *_axis(ceil(longest), left, scale, top, bottom),
    ]
    for j, (name, numbers) in enumerate(rows.items()):
        shapes += _row(name, numbers, left, scale, top + step * j)
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 0 {WIDTH} {bottom + BOTTOM}" {size} '
            f'role="img" aria-label="{title}" '
            f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
            f"<title>{title}</title>",
            *shapes,
            "</svg>",
            "",
        ]
    )


def _legend(names: Sequence[str], left: float) -> Iterator[str]:
    for i, name in enumerate(names):
        x = left + 110 * i
        square = f'x="{x:g}" y="29" width="11" height="11"'
        yield f'<rect {square} fill="{COLOURS[i]}"/>'
        yield f'<text x="{x + 16:g}" y="39">{name}</text>'


def _axis(
    longest: int, left: float, scale: float, top: int, bottom: int
) -> Iterator[str]:
    """Lines and numbers below, every second one."""
    for number in range(0, longest + 1, 2):
        x = f"{left + scale * number:.1f}"
        yield f'<line x1="{x}" y1="{top - 6}" x2="{x}" y2="{bottom}" stroke="{GRID}"/>'
        yield f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{number}</text>'


def _row(
    name: str, numbers: Sequence[float | None], left: float, scale: float, y: int
) -> Iterator[str]:
    """A name, bold where it is ours, and its bars with their numbers."""
    bold = ' font-weight="bold"' if name.startswith(OURS) else ""
    x = left - 8
    middle = y + BAR * len(numbers) / 2 + 5
    yield f'<text x="{x:g}" y="{middle:g}" text-anchor="end"{bold}>{name}</text>'
    for i, number in enumerate(numbers):
        if number is None:
            continue
        of_bar = f'x="{left:g}" y="{y + BAR * i}" height="{BAR - 1}"'
        width = number * scale
        # One series has the second colour, the stronger one.
        colour = COLOURS[i - len(numbers)] if len(numbers) == 1 else COLOURS[i]
        yield f'<rect {of_bar} width="{width:.1f}" fill="{colour}"/>'
        of_text = f'x="{left + width + 5:.1f}" y="{y + BAR * i + 9}" font-size="11"'
        # Lines of the axis end beside the digits.
        halo = f'stroke="{GROUND}" stroke-width="3" paint-order="stroke"'
        yield f"<text {of_text} {halo}>{number:.1f}</text>"


def main() -> None:
    from benchmarks import pages

    TIMES.write_text(times(pages.digests(pages.kept())))
    RANKS.write_text(ranks())


if __name__ == "__main__":
    main()
