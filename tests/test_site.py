"""The built site in a browser: its search, its first screen, and widths of pages.

Nightly. `python -m sphinx -E docs docs/_build`,
and in Debian `apt install chromium`, come before.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.tools.browser import Browser, chromium

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "_build"
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
    pytest.mark.skipif(
        not (SITE / "searchindex.js").exists(),
        reason="the site is not built: python -m sphinx -E docs docs/_build",
    ),
]
DESK, PHONE = (1280, 800), (390, 844)
# What users type, and the page that they want.
QUERIES = {
    "dropout": "how-to/dropout",
    "resume training": "how-to/resume",
    "early_stopping": "how-to/early-stopping",
    "EarlyStopping": "how-to/early-stopping",
    "restore_best_weights": "how-to/early-stopping",
    "how do I stop training early": "how-to/early-stopping",
    "feature importance": "how-to/feature-importance",
    "permutation_importance": "how-to/feature-importance",
    "which columns are important?": "how-to/feature-importance",
    "cross validation": "how-to/cross-validation",
    "cross_val_score": "how-to/cross-validation",
    "GridSearchCV": "how-to/pipelines-and-search",
    "hyperparameter search": "how-to/pipelines-and-search",
    "optuna pruning": "how-to/optuna",
    "gradient clipping": "how-to/gradient-clipping",
    "clip_grad_norm_": "how-to/gradient-clipping",
    "batch normalization": "how-to/batch-normalization",
    "BatchNorm1d": "how-to/batch-normalization",
    "time series": "how-to/time-series",
    "forecast several steps ahead": "how-to/time-series",
    "confusion matrix": "how-to/confusion-matrix",
    "choose a threshold": "how-to/confusion-matrix",
    "two heads": "how-to/two-heads",
    "missing values": "how-to/missing-values",
    "categorical_feature": "how-to/missing-values",
    "save model": "how-to/save-and-load",
    "how do I save and load a model?": "how-to/save-and-load",
    "ModelCheckpoint": "how-to/resume",
    "class_weight": "how-to/sample-weights",
    "scale_pos_weight": "how-to/imbalance",
    "sample_weight": "how-to/sample-weights",
    "learning rate schedule": "how-to/schedules",
    "DataLoader": "from/pytorch",
    "nn.Embedding": "how-to/build-on-the-core",
    "num_leaves": "from/boosted-trees",
    "n_jobs": "how-to/threads",
    "random_state": "how-to/seeds",
    "why is the first fit slow": "how-to/first-fit",
    "loss is nan": "how-to/diverging",
    "numpy.ndarray object is not callable": "errors",
    "custom loss function": "how-to/own-rules",
    "freeze layers": "how-to/transfer-learning",
    "prediction intervals": "how-to/intervals",
    "export to C for a microcontroller": "how-to/export-to-c",
    "duckdb udf": "how-to/udf",
    "use from R": "how-to/r",
    "how many neurons": "tuning",
    "list of activation functions": "start/rules",
    "multiclass": "start/first-net",
    "calibration": "how-to/confusion-matrix",
    "license": "project/index",
    "citation": "project/cite",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


def found(browser: Browser, query: str) -> list[str]:
    """The pages of a search's results, in their order, each once."""
    browser.show((SITE / "search.html").as_uri(), *DESK)
    browser.value("document.querySelector('.bd-search-container input').focus()")
    browser.type(query)
    browser.until("document.querySelector('.search-summary')?.innerText")
    links = "[...document.querySelectorAll('#search-results li > a')]"
    addresses = browser.value(f"{links}.map(link => link.getAttribute('href'))")
    pages = [address.partition(".html")[0] for address in addresses]
    return [*dict.fromkeys(pages)]


@pytest.mark.parametrize("query", QUERIES)
def test_a_page_that_is_looked_for_is_among_the_first_three(
    browser: Browser, query: str
) -> None:
    assert QUERIES[query] in found(browser, query)[:3]


@pytest.mark.parametrize("query", ["gradient clipping", "mixed precision", "threads"])
def test_decisions_come_after_pages_that_say_how(browser: Browser, query: str) -> None:
    pages = found(browser, query)
    decisions = [i for i, page in enumerate(pages) if page.startswith("decisions/")]
    others = [i for i, page in enumerate(pages) if page.startswith("how-to/")]
    assert decisions
    assert max(others) < min(decisions)


@pytest.mark.parametrize(("width", "height"), [DESK, PHONE])
def test_the_first_screen_has_code_its_output_and_a_picture(
    browser: Browser, width: int, height: int
) -> None:
    browser.show((SITE / "index.html").as_uri(), width, height)
    of_output = "document.querySelector('.highlight-text')"
    of_picture = "document.querySelector('img[src$=\"times.svg\"]')"
    for element in (of_output, of_picture):
        assert browser.value(f"{element}.getBoundingClientRect().bottom") <= height


@pytest.mark.parametrize(("width", "height"), [DESK, PHONE])
def test_words_of_thumbnails_are_read(
    browser: Browser, width: int, height: int
) -> None:
    """A picture of 600 pixels has words of 16."""
    browser.show((SITE / "auto_gallery" / "index.html").as_uri(), width, height)
    images = "[...document.querySelectorAll('.sphx-glr-thumbcontainer img')]"
    assert min(browser.value(f"{images}.map(one => one.clientWidth)")) >= 280


# About as a repository's page shows it.
STYLE = """body {font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
max-width: 830px; padding: 16px}
h1 {font-size: 2em; margin: 0 0 16px} p, pre {margin: 0 0 16px} img {max-width: 100%}
pre {font-size: 13.6px; line-height: 1.45; padding: 16px; overflow: auto}"""


@pytest.mark.parametrize(("width", "height"), [DESK, PHONE])
def test_the_first_screen_of_the_readme_ends_below_its_picture(
    browser: Browser, width: int, height: int, tmp_path: Path
) -> None:
    markdown = pytest.importorskip("markdown_it", reason="of the group docs")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = markdown.MarkdownIt().render(text.replace("](docs/", f"]({ROOT}/docs/"))
    page = tmp_path / "README.html"
    head = f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style>"
    page.write_text(f"<!doctype html><meta charset='utf-8'>{head}{body}", "utf-8")
    browser.show(page.as_uri(), width, height)
    bottom = "document.querySelector('img').getBoundingClientRect().bottom"
    assert browser.value(bottom) <= height


TOO_WIDE = """[...document.querySelectorAll("body *")]
    .filter(one => one.getBoundingClientRect().right > WIDTH + 1)
    .filter(one => !one.closest("table, pre, .pst-scrollable-table-container, dialog"))
    .map(one => one.outerHTML.slice(0, 100))"""
CUT = """[...document.querySelectorAll(".bd-article :not(.highlight-text) > .highlight pre")]
    .filter(one => one.scrollWidth > one.clientWidth + 1)
    .map(one => one.innerText.slice(0, 100))"""
PAGES = sorted({*SITE.rglob("*.html")} - {*SITE.glob("_static/**/*.html")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(SITE)))
def test_a_page_is_as_wide_as_its_screen(browser: Browser, page: Path) -> None:
    """On a phone code scrolls in its block,
    and tables everywhere; on a desk code fits.
    """
    for width, height in (PHONE, DESK):
        browser.show(page.as_uri(), width, height)
        wide = browser.value("document.documentElement.scrollWidth")
        assert wide <= width, browser.value(TOO_WIDE.replace("WIDTH", str(width)))
    assert browser.value(CUT) == []
