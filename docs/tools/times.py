"""The picture of the first page: how much longer a training step takes the peers.

`python -m docs.tools.times` draws it from README's numbers. It has no ground: a dark page turns its
lightness round (fastmlp.css).
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "_static" / "times.svg"
SENTENCE = re.compile(r"over (\d+) nets \(([^)]*)\), .* Measured with (.*?)\. <!-- benchmarks:end")
WIDTH, LEFT, BAR, STEP, TOP = 640, 120, 20, 30, 64
INK, OURS, THEIRS = "#16202b", "#2f7d4f", "#8a9bb0"


def numbers(text: str) -> tuple[int, dict[str, float], str]:
    """The number of nets, the peers' times over fastmlp's, and the run, by README's text."""
    match = SENTENCE.search(" ".join(text.split()))
    if match is None:
        raise ValueError(f"README has no sentence like {SENTENCE.pattern!r}")
    rows = (row.rsplit(" ", 1) for row in match[2].split(", "))
    return int(match[1]), {name: float(ratio) for name, ratio in rows}, match[3]


def drawn(text: str) -> str:
    """The picture, as SVG."""
    n_nets, peers, run = numbers(text)
    title = f"Time of a training step over fastmlp's, geometric mean of {n_nets} nets"
    rows = sorted({"fastmlp": 1.0, **peers}.items(), key=lambda row: row[1])
    scale = (WIDTH - LEFT - 70) / rows[-1][1]
    height = TOP + STEP * len(rows) + 6
    shapes = [
        f'<text x="0" y="28" font-weight="bold">{title}</text>',
        f'<text x="0" y="48">{run}</text>',
    ]
    for i, (name, ratio) in enumerate(rows):
        y, width = TOP + STEP * i, ratio * scale
        colour = OURS if name == "fastmlp" else THEIRS
        shapes += [
            f'<text x="{LEFT - 10}" y="{y + 15}" text-anchor="end">{name}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LEFT + width + 8:.1f}" y="{y + 15}">{ratio:.1f}</text>',
        ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" role="img" aria-label="{title}" '
            f'font-family="system-ui, sans-serif" font-size="14" fill="{INK}">',
            f"<title>{title}</title>",
            *shapes,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    PICTURE.write_text(drawn(text), encoding="utf-8")
