"""The picture of docs/start/which-model.md: questions,
and the model that an answer leads to.

`python -m docs.tools.which_model` writes it. It reads in light and dark:
boxes have grounds of their own, and lines are of a grey between.
"""

from html import escape
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "start" / "which-model.svg"
# A question, and the models that a yes leads to; names of models begin with a star.
QUESTIONS = [
    (
        "Images, texts, sequences, or a GPU\nand nets a few hundred units wide?",
        "*PyTorch, JAX",
    ),
    (
        "A table with texts, dates or\nmissing values?",
        "*TabularMLPClassifier\n*TabularMLPRegressor\nin a shell: fastmlp train",
    ),
    (
        "Columns of numbers, and the tools\nof scikit-learn?",
        "*MLPClassifier, MLPRegressor\nto choose settings: MLPSearchCV\n"
        "any net: net.as_estimator()",
    ),
    ("Many small nets at once:\nfolds, seeds, machines?", "*fit_many"),
]
LAST = "*MLP\nsensors, simulations, control;\nlosses and loops of your own"
WIDTH = 720
QUESTION_WIDTH = 300
MODEL_WIDTH = 320
LINE = 19
GAP = 34
PAD = 12
GREY = "#808890"
INK = "#16202b"
GROUNDS = {"question": "#dbe7f5", "model": "#d5efdc"}


def box(x: float, y: float, width: float, text: str, kind: str) -> tuple[str, float]:
    """A box with its text, and its height."""
    lines = text.split("\n")
    height = LINE * len(lines) + 2 * PAD
    shapes = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" '
        f'fill="{GROUNDS[kind]}" stroke="{GREY}"/>'
    ]
    for i, line in enumerate(lines):
        weight = ' font-weight="bold"' if line.startswith("*") else ""
        shapes.append(
            f'<text x="{x + width / 2:g}" y="{y + PAD + LINE * i + 14}" '
            f'text-anchor="middle" fill="{INK}"{weight}>{escape(line.removeprefix("*"))}</text>'
        )
    return "\n".join(shapes), height


def arrow(
    x1: float, y1: float, x2: float, y2: float, word: str, place: tuple[float, float]
) -> str:
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{GREY}" '
        f'stroke-width="2" marker-end="url(#head)"/>\n<text x="{place[0]:g}" '
        f'y="{place[1]:g}" fill="{GREY}" font-weight="bold">{word}</text>'
    )


def drawn() -> str:
    """The picture, as SVG."""
    left = 10
    right = WIDTH - MODEL_WIDTH - 10
    y = 10.0
    shapes = list[str]()
    middle = left + QUESTION_WIDTH / 2
    for question, model in QUESTIONS:
        shape, height = box(left, y, QUESTION_WIDTH, question, "question")
        answer, tall = box(right, y, MODEL_WIDTH, model, "model")
        edge = left + QUESTION_WIDTH
        centre = y + height / 2
        below = y + max(height, tall) + GAP
        shapes += [shape, answer]
        shapes.append(
            arrow(edge, centre, right - 6, centre, "yes", (edge + 26, centre - 7))
        )
        shapes.append(
            arrow(middle, y + height, middle, below - 6, "no", (middle + 9, below - 13))
        )
        y = below
    shape, height = box(left, y, QUESTION_WIDTH, LAST, "model")
    text = "Which model to take, by four questions"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} '
            f'{y + height + 10:g}" width="{WIDTH}" role="img" aria-label="{text}" '
            'font-family="system-ui, sans-serif" font-size="14">',
            f"<title>{text}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" '
            'markerWidth="6" '
            f'markerHeight="6" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{GREY}"/>'
            "</marker></defs>",
            *shapes,
            shape,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
