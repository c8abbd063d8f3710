"""Pages with another library beside fastmlp: both sides run, where the library is installed."""

import ast
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["from/keras.md", "from/pytorch.md", "from/boosted-trees.md", "how-to/serving.md"]
# Keras computes with it.
os.environ.setdefault("KERAS_BACKEND", "torch")


def imported(block: str) -> set[str]:
    """The libraries that a block imports."""
    nodes = [*ast.walk(ast.parse(block))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES)
def test_both_sides_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page's first library must be there; a block of another is left out where it is not."""
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"^```(python|py)\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.M)
    theirs = [block for language, block in found if language == "py"]
    for name in sorted(imported(theirs[0])):
        pytest.importorskip(name, reason="the page's library is not installed")
    namespace: dict[str, Any] = {"__name__": "page"}
    for language, block in found:
        if language == "python" or all(map(find_spec, imported(block))):
            exec(compile(block, page, "exec"), namespace)
    if page == "how-to/serving.md":
        ask_the_service(namespace["app"])


def ask_the_service(app: Any) -> None:
    client = pytest.importorskip("fastapi.testclient", reason="needs httpx2").TestClient
    with client(app) as service:
        rows = [{"size": 40, "shop": "B"}, {"size": 40}]
        (first, second) = service.post("/prices", json=rows).json()
        assert first > second
        answer = service.post("/prices", json=[{"size": "large"}])
        assert (answer.status_code, "size" in answer.text) == (400, True)
