"""Pages with another library beside fastmlp: both sides run, where the library is installed."""

import os
from pathlib import Path
from typing import Any

import pytest

from docs.tools import outputs

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["from/keras.md", "from/pytorch.md", "from/boosted-trees.md", "how-to/serving.md"]
# Keras computes with it.
os.environ.setdefault("KERAS_BACKEND", "torch")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES)
def test_both_sides_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page's first library must be there; a block of another is left out where it is not."""
    monkeypatch.chdir(tmp_path)
    theirs = outputs.blocks(DOCS / page, ("py",))
    for name in sorted(outputs.imported(theirs[0]["code"])):
        pytest.importorskip(name, reason="the page's library is not installed")
    namespace: dict[str, Any] = {"__name__": "page"}
    outputs.run(DOCS / page, namespace, peers=True)
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
