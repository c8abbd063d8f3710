"""The picture of the first page: how much longer a training step takes the peers.

`python -m benchmarks.pages` draws it from the figures of each kind of processor. A dark
page turns its lightness round (fastmlp.css).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parents[2] / "docs" / "_static" / "times.svg"
TITLES = {
    "fastest peer": "the fastest",
    "jax": "JAX",
    "compile": "torch.compile",
    "torch": "PyTorch",
    "numpy": "NumPy",
    "sklearn": "scikit-learn",
}
WIDTH, LEFT, BAR, TOP = 740, 120, 16, 44
INK, GROUND, COLOURS = "#16202b", "#ffffff", ("#2f7d4f", "#8a9bb0")
TITLE = "Time of a training step over fastmlp's, geometric means"


def drawn(kinds: Mapping[str, Any]) -> str:
    """The picture, as SVG, of the means of each kind of processor."""
    rows = [
        name for name in TITLES if any(name in part["means"] for part in kinds.values())
    ]
    longest = max(mean for part in kinds.values() for mean in part["means"].values())
    scale, step = (WIDTH - LEFT - 70) / longest, BAR * len(kinds) + 12
    top = TOP + 24 * len(kinds)
    height = top + step * len(rows) + 12
    shapes = [
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="{GROUND}"/>',
        f'<text x="12" y="28" font-weight="bold">{TITLE}</text>',
    ]
    for i, (kind, part) in enumerate(kinds.items()):
        y, words = (
            TOP + 22 * i,
            f"{kind}, {part['threads']}, {part['nets']} nets: {part['run']}",
        )
        shapes += [
            f'<rect x="12" y="{y}" width="12" height="12" fill="{COLOURS[i]}"/>',
            f'<text x="32" y="{y + 11}" font-size="12">{words}</text>',
        ]
    for j, name in enumerate(rows):
        y = top + step * j
        middle = y + BAR * len(kinds) / 2 + 5
        words = f'<text x="{LEFT - 10}" y="{middle:g}" text-anchor="end">{TITLES[name]}</text>'
        shapes.append(words)
        for i, part in enumerate(kinds.values()):
            if (mean := part["means"].get(name)) is not None:
                place = (
                    f'y="{y + BAR * i}" width="{mean * scale:.1f}" height="{BAR - 2}"'
                )
                x, baseline = LEFT + mean * scale + 6, y + BAR * i + 12
                shapes += [
                    f'<rect x="{LEFT}" {place} fill="{COLOURS[i]}"/>',
                    f'<text x="{x:.1f}" y="{baseline}" font-size="12">{mean:.1f}</text>',
                ]
    x = LEFT + scale
    line = f'<line x1="{x:.1f}" y1="{top - 4}" x2="{x:.1f}" y2="{height - 8}" stroke="{INK}"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" role="img" aria-label="{TITLE}" '
            f'font-family="system-ui, sans-serif" font-size="14" fill="{INK}">',
            f"<title>{TITLE}</title>",
            *shapes,
            line,
            "</svg>",
            "",
        ]
    )
