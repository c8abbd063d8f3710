"""Outputs of the pages' blocks of Python, under the blocks: texts, tables and pictures.

    python -m docs.tools.outputs                          # every page
    python -m docs.tools.outputs docs/start/tables.md     # one

runs the blocks of a page in order, in an empty folder, as ``tests/test_docs.py`` does,
and writes what differs. An output is the text that a block prints, with the value of a
last expression that is data (an array, numbers, texts) and short, in a fence of ````
```text output ````, and each figure that it draws, in ``docs/_static/outputs``.

Two outputs agree by one rule. Words are equal, whatever the spaces and lines between
them; so are whole numbers. Other numbers agree within 3 %, one unit of the last digit
that is written, or 1e-5 of the largest number. Times, sizes of memory, versions,
addresses and folders are not compared. Of a picture its words and the ends of its
curves are compared, which the file has as a description.

A fence may say its own tolerance, which readers do not see: ```` ```text output within
20 % ```` is for digits that depend on the width of the processor's vectors, whose sums
round otherwise, and holds for whole numbers too. Digits that no tolerance holds are not
printed: the block prints what is the same on every processor. Of a fence of ````
```text output varies ```` nothing is compared: it is for what differs from run to run,
as a clock or a folder does.
"""

import argparse
import ast
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from importlib.util import find_spec
from itertools import count
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np

from docs.tools.pictures import style

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PICTURES = DOCS / "_static" / "outputs"
# The cheat sheet is one printed page.
WITHOUT = {DOCS / "start" / "cheat-sheet.md"}
N_LINES = 20  # the most that are shown
N_CHARACTERS = 400  # of a value that is not printed
BLOCK = re.compile(
    r"^```(?P<language>python|py)\n(?P<code>.*?)^```\n"
    r"(?P<recorded>"
    r"(?:\n```text output(?P<how> varies| within (?P<percent>\d+) "
    r"%)?\n(?P<text>.*?)^```\n)?(?P<images>(?:\n!\[[^\]]*\]\([^)]*_static/outputs/[^)]*\)\n)*))",
    flags=re.DOTALL | re.MULTILINE,
)
VARIES = " varies"
IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*_static/outputs/([^)]*)\)")
DESCRIPTION = re.compile(r"<dc:description>(.*?)</dc:description>", flags=re.DOTALL)

UNITS = r"(?:ns|us|µs|ms|s|seconds|[kKMG]i?B|bytes)"
NOT_COMPARED = [
    (r"\bnp\.(?:float|int|uint|bool|str)\w*\(([^()]*)\)", r"\1"),  # NumPy 2
    (r"\x1b\[[0-9;]*m", ""),
    (r"\b\d+\.\d+\.\d+\w*", "..."),
    (r"\b0x[0-9a-fA-F]+|(?<![\w.])\d{13,}\b(?!\.)", "..."),
    (rf"[\d.,]*\d ?{UNITS}\b", "..."),
    (r"(?<!\w)(?:[A-Za-z]:)?(?:[/\\][\w.+-]+)+[/\\]", ".../"),
    (r"([-=_─━═┄╌—])\1+", r"\1"),
    (r"\s+", " "),
    (r"(?<=[\[(]) | (?=[\])])", ""),
]
NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d+(?:,\d{3})*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?(?!\w)"
)


@dataclass
class Output:
    """The text that a block printed, and the figures that it drew."""

    text: str = ""
    figures: list[Any] = field(default_factory=list)


def blocks(page: Path, languages: tuple[str, ...] = ("python",)) -> list[re.Match[str]]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [block for block in found if block["language"] in languages]


def shown(value: object) -> str:
    """A last expression's value as text,
    if it is data and short; "" for a model or a history.
    """
    kinds = (Number, np.ndarray, np.generic, str, tuple, list, dict)
    of_objects = isinstance(value, np.ndarray) and value.dtype.hasobject
    if of_objects or not isinstance(value, kinds):
        return ""
    text = repr(value)
    if len(text) > N_CHARACTERS:
        return ""
    return text


def execute(code: str, name: str, namespace: dict[str, Any]) -> Output:
    """Run one block of a page."""
    tree = ast.parse(code, name)
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body.pop()
    before = _figures()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), namespace)
        if isinstance(last, ast.Expr):
            expression = compile(ast.Expression(last.value), name, "eval")
            printed.write(shown(eval(expression, namespace)))
    folder = f"{os.getcwd()}{os.sep}"
    lines = printed.getvalue().replace(folder, "").strip("\n").splitlines()
    if len(lines) > N_LINES:
        lines[N_LINES:] = ["..."]
    text = "".join(f"{line.rstrip()}\n" for line in lines)
    drawn = [figure for figure in _figures() if figure not in before]
    return Output(text, drawn)


def imported(code: str) -> set[str]:
    """The libraries that a block imports."""
    modules = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(str(node.module))
    return {module.partition(".")[0] for module in modules}


def run(page: Path, namespace: dict[str, Any], *, peers: bool = False) -> list[Output]:
    """Run the blocks of a page in order; with peers also those of other libraries,
    ```` ```py ````, that are installed, whose outputs are dropped.
    """
    name = page.relative_to(ROOT).as_posix()
    outputs = []
    languages = ("python", "py") if peers else ("python",)
    for block in blocks(page, languages):
        if block["language"] == "python":
            outputs.append(execute(block["code"], name, namespace))
        elif all(map(find_spec, imported(block["code"]))):
            execute(block["code"], name, namespace)
    return outputs


def _figures() -> list[Any]:
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return []
    return [pyplot.figure(n) for n in pyplot.get_fignums()]


def caption(figure: Any) -> str:
    """A first text in place of a picture, which its author makes better."""
    axes = figure.axes[0]
    return f"{axes.get_ylabel() or axes.get_title()} by {axes.get_xlabel()}"


def described(figure: Any) -> str:
    """The words of a figure, and where its curves begin and end."""
    parts = list[str]()
    for axes in figure.axes:
        legend = axes.get_legend()
        words = [axes.get_title(loc) for loc in ("left", "center", "right")]
        words += [axes.get_xlabel(), axes.get_ylabel()]
        if legend:
            words += [label.get_text() for label in legend.get_texts()]
        parts.append("; ".join(filter(None, words)))
        for line in axes.lines:
            y = np.asarray(line.get_ydata(), dtype=float)
            if y.size:
                parts.append(f"a curve from {y[0]:.3g} to {y[-1]:.3g}")
            else:
                parts.append("no curve")
    return ". ".join(filter(None, parts))


def agree(recorded: str, fresh: str, percent: int | None = None) -> bool:
    """Return True if two outputs agree by the rule of this module.

    `percent` is the tolerance that a fence says.
    """
    if recorded == fresh:
        return True
    recorded = _compared(recorded)
    fresh = _compared(fresh)
    if _words(recorded) != _words(fresh):
        return False
    before = NUMBER.findall(recorded)
    now = NUMBER.findall(fresh)
    noise = 1e-5 * max((abs(_number(text)) for text in before), default=0)
    pairs = zip(before, now, strict=True)
    return all(_close(a, b, noise, percent) for a, b in pairs)


def _compared(text: str) -> str:
    """A text without what is not compared."""
    for pattern, replacement in NOT_COMPARED:
        text = re.sub(pattern, replacement, text)
    return text


def _words(text: str) -> list[str]:
    """The words between the numbers of a text."""
    return [part.strip() for part in NUMBER.split(text.strip())]


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _close(recorded: str, fresh: str, noise: float, percent: int | None) -> bool:
    a = _number(recorded)
    b = _number(fresh)
    if percent is None:
        are_whole = not {*".e"} & {*recorded, *fresh}
        if are_whole:
            return a == b
        percent = 3
    digits, _, exponent = recorded.partition("e")
    _, _, decimals = digits.partition(".")
    last_digit = 10.0 ** (int(exponent or 0) - len(decimals))
    tolerance = percent / 100 * max(abs(a), abs(b))
    return abs(a - b) <= 1.001 * max(last_digit, noise, tolerance)


def difference(block: re.Match[str], output: Output) -> str:
    """The difference between what stands under a block and what it gives now; "" if
    none.
    """
    if not _texts_agree(block, output.text):
        return f"recorded:\n{block['text'] or ''}\nfresh:\n{output.text}"
    names = [name for _, name in IMAGE.findall(block["images"])]
    before = [_description(PICTURES / name) for name in names]
    now = [described(figure) for figure in output.figures]
    same = len(before) == len(now)
    if same and block["how"] != VARIES:
        percent = _percent(block)
        pairs = zip(before, now, strict=True)
        same = all(agree(one, other, percent) for one, other in pairs)
    if not same:
        return f"pictures recorded:\n{before}\nfresh:\n{now}"
    return ""


def _texts_agree(block: re.Match[str], fresh: str) -> bool:
    if block["how"] == VARIES and fresh:
        return True
    return agree(block["text"] or "", fresh, _percent(block))


def _percent(block: re.Match[str]) -> int | None:
    if not block["percent"]:
        return None
    return int(block["percent"])


def _description(file: Path) -> str:
    if not file.exists():
        return "no picture"
    match = DESCRIPTION.search(file.read_text(encoding="utf-8"))
    if match is None:
        return "no picture"
    return unescape(match[1])


def differences(page: Path, outputs: list[Output]) -> str:
    """All differences of a page, with the command that writes them; "" if none."""
    if page in WITHOUT:
        return ""
    name = page.relative_to(ROOT).as_posix()
    texts = []
    pairs = zip(blocks(page), outputs, strict=True)
    for n, (block, output) in enumerate(pairs, 1):
        if text := difference(block, output):
            texts.append(f"{name}, block {n}\n{text}")
    if not texts:
        return ""
    command = f"python -m docs.tools.outputs {name}"
    return "\n".join(["", *texts, f"`{command}` writes what the blocks print now"])


def write(page: Path, outputs: list[Output], *, all_of_them: bool = False) -> bool:
    """Write the outputs that differ from the recorded ones;
    return True if there were any.
    """
    old = page.read_text(encoding="utf-8")
    results = iter(outputs)
    changed = False
    free = _free_names(page, {name for _, name in IMAGE.findall(old)})

    def under(block: re.Match[str]) -> str:
        nonlocal changed
        if block["language"] != "python":
            return block[0]
        output = next(results)
        images = IMAGE.findall(block["images"])
        if not (all_of_them or difference(block, output)):
            return block[0]
        changed = True
        text = block[0][: block.start("recorded") - block.start()]
        printed = output.text
        if not all_of_them and _texts_agree(block, printed):
            printed = block["text"] or ""
        if printed:
            text += f"\n```text output{block['how'] or ''}\n{printed}```\n"
        for i, figure in enumerate(output.figures):
            if i < len(images):
                words, name = images[i]
            else:
                words = caption(figure)
                name = next(free)
            save(figure, PICTURES / name)
            address = os.path.relpath(PICTURES / name, page.parent).replace(os.sep, "/")
            text += f"\n![{words}]({address})\n"
        return text

    page.write_text(BLOCK.sub(under, old), encoding="utf-8")
    return changed


def _free_names(page: Path, taken: set[str]) -> Iterator[str]:
    """Yield names for new pictures of a page."""
    folder = DOCS if page.is_relative_to(DOCS) else ROOT
    stem = "-".join(page.relative_to(folder).with_suffix("").parts)
    for n in count(1):
        name = f"output-{stem}-{n}.svg"
        if name not in taken:
            yield name


def save(figure: Any, file: Path) -> None:
    """Save a figure as SVG that is the same in each run."""
    import matplotlib

    file.parent.mkdir(exist_ok=True)
    metadata = {"Date": None, "Description": described(figure)}
    with matplotlib.rc_context({"svg.hashsalt": file.name, "svg.fonttype": "none"}):
        figure.savefig(file, metadata=metadata, bbox_inches="tight")


def unused() -> list[Path]:
    """Pictures that no page shows."""
    texts = [page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")]
    names = {name for text in texts for _, name in IMAGE.findall(text)}
    return sorted(file for file in PICTURES.glob("*") if file.name not in names)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.tools.outputs")
    add = parser.add_argument
    add("pages", nargs="*", type=Path, help="default: README and every page of docs")
    add("--all", action="store_true", help="write what agrees by the rule too")
    options = parser.parse_args()
    os.environ["MPLBACKEND"] = "agg"
    style({}, None)
    everything = {ROOT / "README.md", *DOCS.rglob("*.md")}
    chosen = {page.resolve() for page in options.pages} or everything
    for page in sorted(page for page in chosen - WITHOUT if blocks(page)):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            outputs = run(page, {"__name__": "page"})
        changed = write(page, outputs, all_of_them=options.all)
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot:
            pyplot.close("all")
        print(page.relative_to(ROOT), "written" if changed else "as recorded")
    for file in unused():
        file.unlink()


if __name__ == "__main__":
    main()
