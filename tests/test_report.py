"""html_report: sections, scores and intervals,
hostile names, odd tables, errors, a browser.
"""

import base64
import re
import sys
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import polars
import pytest
from fitting import needs_compiler, unconverged
from sklearn import metrics
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_models import decided

from docs.tools.browser import Browser, chromium
from fastmlp import (
    MLP,
    History,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    TabularMLPClassifier,
    TabularMLPRegressor,
    html_report,
    report,
)

pytestmark = [needs_compiler, unconverged, pytest.mark.slow]
SCRIPT = "</script><script>alert(1)</script>"
rng = np.random.default_rng(0)
N = 120
X = rng.normal(size=(N, 3))
Y = X[:, 0] + rng.normal(0, 0.3, N)
LABELS = np.array([*"abc"])[np.digitize(Y, [-0.5, 0.5])]
TABLE = pd.DataFrame(
    {"a": X[:, 0], "b": X[:, 1], "town": rng.choice(["Bern", "Zug"], N)}
)
FEW: dict[str, Any] = {"n_members": 2, "max_iter": 3, "trees": False, "random_state": 0}
SMALL: dict[str, Any] = {
    "hidden_layer_sizes": (4,),
    "max_iter": 5,
    "random_state": 0,
}


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "N_RESAMPLES", 20)


class Page(HTMLParser):
    """Titles, cells of tables, tags and addresses of a report."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags, self.sources, self.titles = set[str](), list[str](), list[str]()
        self.tables = list[list[list[str]]]()
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self._inside = tag
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag == "h2":
            self.titles.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("th", "td"):
            self.tables[-1][-1][-1] += data
        elif self._inside == "h2":
            self.titles[-1] += data

    def table(self, name: str) -> list[list[str]]:
        """The rows of the first table whose header has a name."""
        return next(table[1:] for table in self.tables if name in table[0])

    def pictures(self) -> list[str]:
        """The words of each picture, whose XML is whole."""
        images = [source.split(",", 1)[1] for source in self.sources]
        roots = [ElementTree.fromstring(base64.b64decode(image)) for image in images]
        return [" ".join(root.itertext()) for root in roots]


@cache
def model_of(name: str) -> Any:
    made: dict[str, Any] = {
        "net": lambda: MLP((3, 4, 1), seed=0),
        "binary net": lambda: MLP((3, 4, 1), loss="binary_cross_entropy", seed=0),
        "softmax net": lambda: MLP((3, 4, 3), loss="cross_entropy", seed=0),
        "several numbers": lambda: MLPRegressor(**SMALL).fit(X, X[:, :2]),
        "classifier": lambda: MLPClassifier(**SMALL).fit(X, LABELS),
        "pipeline": lambda: make_pipeline(StandardScaler(), MLPRegressor(**SMALL)).fit(
            X, Y
        ),
        "search": lambda: MLPSearchCV(
            MLPRegressor(**SMALL), {"alpha": [0.1, 1.0]}, cv=2
        ).fit(X, Y),
        "table of classes": lambda: TabularMLPClassifier(**FEW).fit(TABLE, LABELS),
        "table of numbers": lambda: TabularMLPRegressor(**FEW).fit(TABLE, Y),
        "another's": lambda: LogisticRegression().fit(X, LABELS),
    }
    return made[name]()


ALL = ["Scores", "Errors and calibration", "Importances and training"]
ALL += ["Columns", "Worst rows"]
RANKS = "ROC and precision-recall"


@pytest.mark.parametrize(
    ("name", "y", "more"),
    [
        ("net", Y, ()),
        ("binary net", Y > 0, (RANKS,)),
        ("softmax net", np.digitize(Y, [-0.5, 0.5]), (RANKS,)),
        ("several numbers", X[:, :2], ()),
        ("classifier", LABELS, (RANKS,)),
        ("pipeline", Y, ()),
        ("search", Y, ("Candidates",)),
        ("table of classes", LABELS, (RANKS, "Candidates")),
        ("table of numbers", Y, ("Candidates",)),
        ("another's", LABELS, (RANKS,)),
    ],
)
def test_a_report_is_one_file_of_its_model(
    name: str, y: Any, more: tuple[str, ...], tmp_path: Path
) -> None:
    rows = TABLE if "table" in name else X
    text = html_report(model_of(name), rows, y, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text("utf-8") == text
    assert [*tmp_path.iterdir()] == [tmp_path / "report.html"]
    page = Page(text)
    assert {*page.titles} == {*ALL, *more}
    assert len(text) < 1_000_000
    assert 'name="viewport"' in text
    # Nothing comes from elsewhere.
    assert all(
        source.startswith("data:image/svg+xml;base64,") for source in page.sources
    )
    assert "script" not in page.tags
    assert len(page.pictures()) >= 4


def test_a_history_is_drawn_of_a_net_that_does_not_keep_it() -> None:
    net = MLP((3, 4, 1), seed=0)
    history = net.fit(X, Y, epochs=3)
    page = Page(html_report(net, X, Y, history=history))
    assert any("in epoch 3 of 3" in words for words in page.pictures())


def test_a_history_is_drawn_before_the_curves_that_a_model_keeps() -> None:
    history = History([3.0, 2.0, 1.0])
    page = Page(html_report(model_of("table of numbers"), TABLE, Y, history=history))
    assert any("training loss 1 in epoch 3 of 3" in each for each in page.pictures())


def test_reports_of_equal_models_and_rows_are_equal() -> None:
    model = model_of("table of classes")
    assert html_report(model, TABLE, LABELS) == html_report(model, TABLE, LABELS)


def test_scores_are_scikit_learns_beside_a_baseline() -> None:
    model = model_of("classifier")
    rows = Page(html_report(model, X, LABELS)).table("baseline")
    by_name = {name: [float(one) for one in numbers] for name, *numbers in rows}
    assert {*by_name} == {*report.MEASURES_OF_CLASSES}
    p, labels = model.predict_proba(X), model.predict(X)
    expected = {
        "accuracy": metrics.accuracy_score(LABELS, labels),
        "balanced_accuracy": metrics.balanced_accuracy_score(LABELS, labels),
        "f1": metrics.f1_score(LABELS, labels, average="macro"),
        "auc": metrics.roc_auc_score(LABELS, p, multi_class="ovr"),
        "average_precision": metrics.average_precision_score(LABELS, p),
        "log_loss": metrics.log_loss(LABELS, p),
    }
    for name, score in expected.items():
        value, low, high, _ = by_name[name]
        assert value == pytest.approx(score, rel=1e-3)
        assert low <= value <= high
        assert high - low > 0.01
    most = pd.Series(LABELS).value_counts(normalize=True).max()
    assert by_name["accuracy"][3] == pytest.approx(most, rel=1e-3)
    assert by_name["auc"][3] == 0.5


def test_intervals_are_those_of_resampled_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mean of n absolute errors varies by their deviation over the root of n."""
    monkeypatch.setattr(report, "N_RESAMPLES", 1000)
    y = rng.normal(size=(400, 1))
    scores = report._scores(
        report.Reported(None, np.array, pd.DataFrame(y), y, np.zeros((400, 1)), None)
    ).loc["mae"]
    half = 1.96 * np.abs(y).std() / 20
    assert (scores["97.5 %"] - scores["2.5 %"]) / 2 == pytest.approx(half, rel=0.15)


def test_importances_are_those_of_shuffled_columns() -> None:
    rows = Page(html_report(model_of("table of numbers"), TABLE, Y)).table("read as")
    assert rows[0][0] == "a"
    importances = [float(row[1]) for row in rows]
    assert importances == sorted(importances, reverse=True)
    assert float(rows[0][2]) > 0
    assert not any(
        cell.startswith("-0.0") and not float(cell) for row in rows for cell in row[1:3]
    )
    assert {row[0]: row[3] for row in rows}["town"] == "one of 2 levels: Bern, Zug"


def test_columns_that_are_left_out_have_a_reason() -> None:
    table = TABLE.assign(same=1, id=[f"K{i}" for i in range(N)])
    table.loc[:9, "b"] = np.nan
    with pytest.warns(UserWarning, match="columns left out"):
        model = TabularMLPRegressor(**FEW).fit(table, Y)
    rows = Page(html_report(model, table, Y)).table("read as")
    kinds = {row[0]: row[3] for row in rows}
    assert kinds["same"] == "left out: has one value only"
    assert kinds["id"].startswith("left out: has 120 texts")
    assert {row[0]: row[5] for row in rows}["b"] == "10"


@pytest.mark.parametrize("name", ["net", "table of classes"])
def test_names_from_the_data_are_escaped(name: str) -> None:
    names = [SCRIPT, "$x_1", "\x0b"]
    table = TABLE.set_axis(names, axis=1).replace({names[2]: {"Zug": SCRIPT}})
    y: Any = Y
    if name == "net":
        table = table.assign(**{names[2]: 1.0})
        model: Any = MLP((3, 4, 1), seed=0)
        model.fit(table, Y, epochs=1)
    else:
        y = pd.Series(np.where(LABELS == "a", SCRIPT, LABELS), name=SCRIPT)
        model = TabularMLPClassifier(**FEW).fit(table, y)
    text = html_report(model, table, y)
    page = Page(text)
    assert "script" not in page.tags
    assert SCRIPT not in text
    columns = page.table("importance")
    assert SCRIPT in [row[0] for row in columns]
    assert any("$x_1" in words for words in page.pictures())
    shown = Page(
        unescape(re.findall('srcdoc="(.*)" style', text._repr_html_(), re.DOTALL)[0])
    )
    assert shown.tables == page.tables


def test_a_notebook_shows_it_in_a_frame_of_its_own() -> None:
    text = html_report(model_of("net"), X, Y)
    assert text._repr_html_().startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert len(repr(text)) < 100


def test_one_class() -> None:
    rows = LABELS == "a"
    page = Page(html_report(model_of("table of classes"), TABLE[rows], LABELS[rows]))
    assert RANKS not in page.titles
    assert {name: cells[0] for name, *cells in page.table("baseline")}["auc"] == ""
    same = MLPClassifier(**SMALL).fit(X, np.zeros(N, int))
    with pytest.raises(ValueError, match="html_report: the model knows one class only"):
        html_report(same, X, np.zeros(N, int))


@pytest.mark.parametrize(
    "name", ["net", "classifier", "table of numbers", "table of classes"]
)
def test_one_row(name: str) -> None:
    rows = TABLE if "table" in name else X
    y = LABELS if "class" in name else Y
    page = Page(html_report(model_of(name), rows[:1], y[:1]))
    assert {*ALL} <= {*page.titles}
    assert len(page.table("town" if "table" in name else "x0")) == 1


def test_rows_without_a_target_are_left_out_and_counted() -> None:
    y = np.where(np.arange(N) < 20, np.nan, Y)
    model = model_of("table of numbers")
    text = html_report(model, TABLE, y)
    assert "100 rows with a known target" in text
    assert "20 without a target were left out" in text
    assert Page(text).tables == Page(html_report(model, TABLE[20:], Y[20:])).tables
    labels = pd.Series(LABELS, dtype=object).where(np.arange(N) > 0, None)
    text = html_report(model_of("table of classes"), TABLE, labels)
    assert "1 without a target was left out" in text


def test_a_thousand_columns_are_under_three_megabytes() -> None:
    text = html_report(MLP((1000, 4, 1), seed=0), rng.normal(size=(N, 1000)), Y)
    assert len(text) < 1_000_000
    assert len(Page(text).table("importance")) == 1000


def test_many_rows_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_REPORTED_ROWS", 50)
    text = html_report(model_of("net"), X, Y)
    assert "120 rows with a known target" in text
    assert "of which 50 were drawn" in " ".join(text.split())


def test_cells_of_missing_values_are_empty() -> None:
    town = TABLE["town"].where(np.arange(N) > 9)
    table = TABLE.assign(town=town).convert_dtypes(dtype_backend="pyarrow")
    text = html_report(model_of("table of numbers"), table, Y)
    assert "&lt;NA&gt;" not in text
    header, *rows = next(one for one in Page(text).tables if "read as" in one[0])
    cells = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert cells["a"]["unique"] == cells["town"]["mean"] == ""
    assert cells["town"]["missing"] == "10"


def test_a_table_of_numbers_has_no_columns_of_texts() -> None:
    headers = [one[0] for one in Page(html_report(model_of("net"), X, Y)).tables]
    columns = next(names for names in headers if "missing" in names)
    assert not {"unique", "top"} & {*columns}


def test_the_class_of_one_sided_scores_is_named() -> None:
    text = html_report(MLPClassifier(**SMALL).fit(X, Y > 0), X, Y > 0)
    assert "average precision are those of the class True." in text


def test_rare_classes_share_a_row_of_the_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "MOST_SHOWN_CLASSES", 2)
    (matrix, *_) = Page(html_report(model_of("classifier"), X, LABELS)).pictures()
    assert "others" in matrix


def test_labels_of_weighted_probabilities() -> None:
    model, rows, y = decided()
    shown = Page(html_report(model, rows, y)).table("prediction")
    places = [int(row[0]) for row in shown]
    told = [row[2] for row in shown]
    assert told == [*map(str, model.predict(rows.iloc[places]))]


@pytest.mark.parametrize("kind", ["polars", "arrow", "list", "dicts", "name of y"])
def test_tables_of_every_kind_give_the_same_tables(kind: str) -> None:
    model = model_of("table of numbers")
    rows = TABLE
    y = Y
    expected = Page(html_report(model, TABLE, Y)).table("baseline")
    given: dict[str, Any] = {
        "polars": polars.DataFrame(rows.to_dict("list")),
        "arrow": polars.DataFrame(rows.to_dict("list")).to_arrow(),
        "list": rows.to_numpy().tolist(),
        "dicts": rows.to_dict("records"),
        "name of y": rows.assign(y=y),
    }
    text = html_report(model, given[kind], "y" if kind == "name of y" else y)
    assert Page(text).table("baseline") == expected


@pytest.mark.parametrize(
    ("name", "rows", "y", "words"),
    [
        (
            "classifier",
            X,
            np.full(N, "d"),
            "y has the class 'd', which training did not",
        ),
        ("net", X, X[:, :2], r"predictions and y must be alike, got \(120, 1\) and"),
        ("net", X, Y[:3], "same number of rows, got 120 and 3"),
        ("net", X, np.full(N, np.nan), "y has missing values only, in 120 rows"),
        ("net", X, LABELS, "y must hold numbers"),
        ("table of numbers", TABLE, "price", "column"),
    ],
)
def test_errors_are_a_sentence(name: str, rows: Any, y: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^html_report: .*{words}"):
        html_report(model_of(name), rows, y)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        ([MLP((3, 1))], "a list"),
        ("m.safetensors", "a str"),
        (TABLE, "a DataFrame"),
        (MLPClassifier, "the class MLPClassifier"),
    ],
)
def test_what_does_not_predict_is_refused(wrong: Any, got: str) -> None:
    with pytest.raises(TypeError, match=f"one fitted estimator, got {got}; call html"):
        html_report(wrong, X, Y)


def test_an_estimator_that_is_not_fitted_is_refused() -> None:
    with pytest.raises(NotFittedError, match="MLPClassifier instance is not fitted"):
        html_report(MLPClassifier(), X, LABELS)


def test_several_labels_a_row_are_refused() -> None:
    net = MLP((3, 4, 2), loss="binary_cross_entropy", seed=0)
    with pytest.raises(ValueError, match="html_report: rows have several labels"):
        html_report(net, X, X[:, :2] > 0)


def test_heads_are_refused() -> None:
    net = MLP((3, 4, 4), loss=[("cross_entropy", 3), ("mse", 1)], seed=0)
    with pytest.raises(
        ValueError, match=r"html_report: the net has no report: .*head_0"
    ):
        html_report(net, X, X[:, :2])


def test_missing_packages_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        ImportError, match=r"scikit-learn, jinja2: pip install scikit-learn jinja2$"
    ):
        html_report(model_of("net"), X, Y)


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        html_report(model_of("net"), X, Y, path)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]


@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")
def test_no_report_is_wider_than_a_phone(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    long = "w" * 300
    table = TABLE.rename(columns={"a": long, "b": SCRIPT})
    y = np.where(LABELS == "a", long, LABELS)
    html_report(TabularMLPClassifier(**FEW).fit(table, y), table, y, path)
    with Browser() as browser:
        for width in (390, 1280):
            browser.show(path.as_uri(), width)
            assert browser.value("document.documentElement.scrollWidth") <= width
            broken = "[...document.images].filter(one => !one.naturalWidth).length"
            assert browser.value(broken) == 0
            scores = "document.querySelector('.scrolled')"
            assert browser.value(f"{scores}.scrollWidth <= {scores}.clientWidth")
