"""llms.txt, its pages as plain text beside the pages,
and all of them in llms-full.txt.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.builders.text import TextBuilder

SUMMARY = (
    "fastmlp trains small and medium multi-layer perceptrons on a CPU. It has a class "
    "MLP in the words of Keras and PyTorch, and scikit-learn's MLPClassifier and "
    "MLPRegressor."
)
# Nodes that have a form for HTML alone,
# of sphinx-gallery and of folds, and what stands for them.
FOR_HTML: dict[str, Callable[[nodes.Element], nodes.Element]] = {
    "code_links_block": lambda node: nodes.literal_block(text=node.astext()),
    "imgsgnode": lambda node: nodes.comment(),
    "dropdown_main": lambda node: nodes.container("", *node.children),
    "dropdown_title": lambda node: nodes.paragraph("", node.astext()),
}


def in_order(app: Any, page: str) -> Iterator[str]:
    """Yield a page and those below it, in the order of the tables of contents."""
    yield page
    for below in app.env.toctree_includes.get(page, ()):
        yield from in_order(app, below)


def write(app: Any, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    builder = TextBuilder(app, app.env)
    builder.init()
    builder.prepare_writing(app.env.found_docs)
    folder = Path(app.outdir)
    address = app.config.html_baseurl
    index = [f"# {app.config.project}", "", f"> {SUMMARY}"]
    texts = []
    for section in app.env.toctree_includes[app.config.root_doc]:
        index += ["", f"## {app.env.titles[section].astext()}", ""]
        for page in dict.fromkeys(in_order(app, section)):
            doctree = app.env.get_and_resolve_doctree(page, builder, tags=app.tags)
            for node in [n for n in doctree.findall() if n.tagname in FOR_HTML]:
                plain = FOR_HTML[node.tagname](node)
                node.replace_self(plain)
            builder.write_doc(page, doctree)
            texts.append((folder / f"{page}.txt").read_text())
            index.append(f"- [{app.env.titles[page].astext()}]({address}{page}.txt)")
    (folder / "llms.txt").write_text("\n".join(index) + "\n")
    (folder / "llms-full.txt").write_text("\n\n".join(texts))


def setup(app: Any) -> None:
    app.connect("build-finished", write)
