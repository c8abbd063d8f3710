"""README, docs and decisions: code runs,
tables name everything, quoted errors are raised.
"""

import copy
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.pyplot as plt
import numba
import numpy as np
import pandas as pd
import pyarrow
import pytest
from dask.dataframe import from_pandas

import fastmlp
from benchmarks import pages
from benchmarks.bench_predict import NETS
from docs.tools import bars, outputs, parameters, search, uses, which_model
from fastmlp import (
    MLP,
    SGD,
    MLPClassifier,
    Report,
    TabularMLPRegressor,
    archives,
    cluster,
    jit,
    plotting,
    tabular,
)
from fastmlp.cli import tables
from fastmlp.compiler import cache
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules import (
    activations,
    initializers,
    losses,
    optimizer_protocol,
    optimizers,
    schedules,
    updates,
)
from fastmlp.tabular import Schema

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PROGRAMS = sorted((DOCS / "gallery").glob("plot_*.py"))
RULES = (DOCS / "start" / "rules.md").read_text()
TABLES = {
    "activations": [*activations.RULES, *activations.ALIASES],
    "losses, any output activation": [
        n for n, loss in losses.LOSSES.items() if not loss.link
    ],
    "losses that own their link": [n for n, loss in losses.LOSSES.items() if loss.link],
    "losses, with settings": [
        k.__name__ for k in losses.SETTINGS_BY_KIND.values() if isinstance(k, type)
    ],
    "optimizers, by name": list(optimizers.OPTIMIZERS),
    "averages, `average=` of an optimizer": list(optimizer_protocol.AVERAGES),
    "optimizers, with settings": [
        *(o.__name__ for o in optimizers.OPTIMIZERS.values()),
        "Custom",
    ],
    "clipping, of every optimizer": [*updates.GRADIENT_RULES, *updates.NORM_LIMITS],
    "schedules, in place of a rate": list(schedules.SCHEDULES),
    "penalties": list(updates.PENALTIES),
    "initializers": list(initializers.INITIALIZERS),
}
KINDS = ("MLP", "TabularMLP")
ESTIMATORS = [name for name in dir(fastmlp) if name.startswith(KINDS) and name != "MLP"]
PICTURES = [f"plotting.{one}" for one in plotting.__all__]
OF_TABLES = [f"tabular.{one}" for one in tabular.__all__ if one not in ESTIMATORS]
OF_JIT = [f"jit.{one}" for one in jit.__all__ if one != "HANDLE"]
OF_CLUSTERS = [f"cluster.{one}" for one in cluster.__all__]
OF_RIVER = ["river.MLPClassifier", "river.MLPRegressor"]
PUBLIC = sorted(
    {
        *fastmlp.__all__,
        *ESTIMATORS,
        *PICTURES,
        *OF_TABLES,
        *OF_CLUSTERS,
        *OF_JIT,
        *OF_RIVER,
    }
)
needs_compiler = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "page", [page for page in PAGES if outputs.blocks(page)], ids=name_of
)
def test_code_runs_and_prints(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of its own: some write files.
    A class that a page registers goes with it.
    """
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    with mock.patch.dict(archives.ARCHIVES):
        results = outputs.run(page, {"__name__": "page"})
    plt.close("all")
    assert not (text := outputs.differences(page, results)), text


@pytest.mark.parametrize(
    ("agree", "recorded", "fresh"),
    [
        (True, "[0.1 -0.2]", "[ 0.1  -0.2 ]"),
        (True, "R2 0.97", "R2 0.98"),  # a unit of the last digit
        (True, "1234.5", "1250.1"),  # 3 %
        (
            True,
            "History(50 epochs, loss 0.2, 0.249 s)",
            "History(50 epochs, loss 0.2, 12.1 s)",
        ),
        (True, "(np.float64(0.5), 2)", "(0.5, 2)"),
        (True, "numpy 2.4.6 in /a/b/numpy", "numpy 1.26.4 in /c/numpy"),
        (True, "a  b\n----\n1  2", "a b\n--\n1 2"),
        (True, "0.11 2.2e-07", "0.11 1.1e-07"),  # beside a larger number
        (True, "a key of 1234567890123", "a key of 3210987654321"),
        (False, "0.0002888524401774", "0.0003680410169551"),
        (False, "2,305 parameters", "2,306 parameters"),
        (False, "0.97", "0.90"),
        (False, "64x64 relu", "32x64 relu"),
        (False, "1 2", "1"),
    ],
)
def test_outputs_agree_to_their_digits(agree: bool, recorded: str, fresh: str) -> None:
    assert outputs.agree(recorded, fresh) == agree


@pytest.mark.parametrize(
    ("agree", "how", "fresh"),
    [
        (False, "", "weight 0.397, epoch 67"),
        (True, " within 20 %", "weight 0.397, epoch 67"),
        (False, " within 5 %", "weight 0.397, epoch 67"),
        (False, " within 20 %", "share 0.439, epoch 65"),
        (True, " varies", "anything"),
        (False, " varies", ""),
    ],
)
def test_a_fence_may_say_its_own_tolerance(
    agree: bool, how: str, fresh: str, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    recorded = f"```text output{how}\nweight 0.439, epoch 65\n```\n"
    page.write_text(f"```python\nx = 1\n```\n\n{recorded}")
    (block,) = outputs.blocks(page)
    assert bool(outputs.difference(block, outputs.Output(fresh))) != agree


PAGE = """# A page

```python
print(0.5)
```

```text output
0.9
```

Words.

```python
x = 1
x + 1
```

```python
import matplotlib.pyplot as plt

ax = plt.figure().add_subplot()
ax.plot([1, 2])
ax.set_xlabel("epoch");
```

```py
import a_library_that_nobody_has
```
"""


def test_outputs_stand_under_their_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, folder in (("ROOT", "."), ("DOCS", "."), ("PICTURES", "_static/outputs")):
        monkeypatch.setattr(outputs, name, tmp_path / folder)
    (tmp_path / "_static").mkdir()
    plt.switch_backend("agg")
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    results = outputs.run(page, {})
    assert "block 1\nrecorded:\n0.9\n\nfresh:\n0.5\n" in outputs.differences(
        page, results
    )
    assert outputs.write(page, results)
    text = page.read_text()
    assert "print(0.5)\n```\n\n```text output\n0.5\n```\n\nWords." in text
    assert "x + 1\n```\n\n```text output\n2\n```\n" in text
    (picture,) = re.findall(r"!\[.*\]\((.*)\)", text)
    first = (tmp_path / picture).read_bytes()
    assert not outputs.differences(page, outputs.run(page, {}))
    assert not outputs.write(page, results)
    (tmp_path / picture).unlink()
    assert "no picture" in outputs.differences(page, results)
    assert outputs.write(page, results)
    assert (tmp_path / picture).read_bytes() == first
    page.write_text(text.replace("output\n0.5", "output varies\n0.7"))
    assert not outputs.differences(page, results)
    plt.close("all")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_output_of_a_page_belongs_to_code(page: Path) -> None:
    n_outputs = sum(block["text"] is not None for block in outputs.blocks(page))
    assert page.read_text().count("\n```text output") == n_outputs


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_a_summary_or_is_short(page: Path) -> None:
    text = whole(page)
    if page.relative_to(ROOT).as_posix().removeprefix("docs/") in REFERENCES:
        summary = text.partition("\n# ")[2] or text
        assert n_words(re.split(r"\n#|\n\||\n```", summary)[0]) >= 12
    else:
        assert n_words(text) <= 2500


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_picture_of_a_page_has_a_text(page: Path) -> None:
    texts = re.findall(r"!\[([^\]]*)\]\(", page.read_text())
    assert "" not in [text.strip() for text in texts]


def test_pages_have_code_and_pictures() -> None:
    assert outputs.unused() == []
    assert sum(bool(outputs.blocks(page)) for page in PAGES) >= 20
    assert len(PROGRAMS) >= 15


REFERENCES = [
    *(
        "api/index.md",
        "benchmarks.md",
        "errors.md",
        "parameters.md",
        "project/changes.md",
    ),
    *(
        "second-order.md",
        "start/glossary.md",
        "start/rules.md",
        "steps.md",
        "tables.md",
    ),
]


def whole(page: Path) -> str:
    fence = r"^```\{include\} (\S+)\n((?::.*\n)*)```$"

    def included(match: re.Match[str]) -> str:
        text = (page.parent / match[1]).read_text()
        for option, words in re.findall(r":(start-after|end-before): (.*)", match[2]):
            before, _, after = text.partition(words.strip('"'))
            text = after if option == "start-after" else before
        return text

    return re.sub(fence, included, page.read_text(), flags=re.MULTILINE)


def n_words(text: str) -> int:
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return sum(bool(re.search("[A-Za-z]{2}", word)) for word in text.split())


def test_pictures_are_of_figures_and_programs() -> None:
    figures = pages.digests(pages.kept())
    assert bars.TIMES.read_text(encoding="utf-8") == bars.times(figures)
    assert bars.RANKS.read_text(encoding="utf-8") == bars.ranks()
    assert which_model.PICTURE.read_text(encoding="utf-8") == which_model.drawn()


FILES = sorted({*PAGES, *ROOT.glob("*.md")})


@pytest.mark.parametrize("page", FILES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())
    targets += re.findall(r"^:link: (\S+)$", page.read_text(), flags=re.MULTILINE)
    missing = [
        t
        for t in targets
        if not any((page.parent / f"{t}{end}").exists() for end in ("", ".md"))
    ]
    assert missing == [t for t in missing if t.startswith("auto_gallery/")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_figure_of_the_gallery_has_a_title(program: Path) -> None:
    """The site shows titles in the place of pictures that are not seen."""
    _, *figures = program.read_text().split("plt.subplots(")
    assert figures
    assert all(
        re.search(r"\btitle=|suptitle\(|set_title\(", figure) for figure in figures
    )


def test_no_page_is_under_more() -> None:
    """The site's header shows as many links, and puts the others into a menu."""
    (most,) = re.findall(
        r'"header_links_before_dropdown": (\d+)', (DOCS / "conf.py").read_text()
    )
    text = (DOCS / "index.md").read_text()
    (pages,) = re.findall(
        r"^```\{toctree\}\n(?::.*\n)+\n(.*?)^```$", text, flags=re.M | re.S
    )
    assert len(pages.split("\n")) - 1 <= int(most)


@pytest.mark.parametrize("row", TABLES)
def test_tables_name_everything(row: str) -> None:
    (cell,) = re.findall(
        rf"^\| {re.escape(row)} \| (.*) \|$", RULES, flags=re.MULTILINE
    )
    assert sorted(re.findall(r"`(\w+)`", cell)) == sorted(TABLES[row])


def test_the_page_of_rules_names_the_links_of_losses() -> None:
    for name, loss in losses.LOSSES.items():
        assert loss.link is None or f"`{name}` ({loss.link})" in RULES


def test_the_index_of_the_api_names_all_that_is_public() -> None:
    index = (DOCS / "api" / "index.md").read_text()
    assert (
        sorted(re.findall(r"^   ([A-Za-z][\w.]*)$", index, flags=re.MULTILINE))
        == PUBLIC
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring_with_examples(name: str) -> None:
    if name in OF_RIVER:
        pytest.importorskip("river", reason="river is not installed")
    text = parameters.found_by(name).__doc__
    assert re.search(r"^ *Examples\n *-+\n *>>> ", text, flags=re.MULTILINE)


@pytest.mark.parametrize("table", parameters.tables(), ids=lambda table: table["title"])
def test_every_keyword_has_its_words(table: parameters.Table) -> None:
    """In fastmlp/validation/words.toml, from which docs/parameters.md is made."""
    keywords = parameters.keywords(table)
    assert sorted(key for key in table["words"] if "." not in key) == sorted(keywords)
    for key in [*table["words"], *table.get("meaning", ()), *table.get("type", ())]:
        name, _, keyword = key.rpartition(".")
        assert keyword in (parameters.defaults(name) if name else keywords)
    assert {len(words) for words in table["words"].values()} == {len(table["columns"])}


def test_the_page_of_parameters_has_every_class_with_keywords() -> None:
    names = {name for table in parameters.tables() for name in table["of"]}
    of_rows = optimizers.SECOND_ORDER.values()
    rules = [*optimizers.OPTIMIZERS.values(), *of_rows, *schedules.SCHEDULES.values()]
    assert names == {
        *(rule.__name__ for rule in rules),
        *("Custom", "MLP", "MLP.fit", "fit_many", "EarlyStopping", "ReduceLROnPlateau"),
        *("MLP.predict_batches", "predict_arrow", "predict_parquet", "cluster.predict"),
        *("Quantile", "Tweedie", "Focal", "BinaryFocal", "EMA", "SWA"),
        *("Orthogonal", "Residual"),
        *ESTIMATORS,
    }
    assert parameters.PAGE.read_text() == parameters.page(), (
        "python -m docs.tools.parameters"
    )


def test_what_has_not_run_on_a_card_says_so() -> None:
    """Until a run of benchmarks.gpu is kept beside it."""
    measured = (ROOT / "benchmarks" / "gpu.json").exists()
    page = (DOCS / "explain" / "gpu.md").read_text()
    assert measured != ("This part has not run on a card yet" in page)


def test_install_tells_every_extra_with_its_parts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (DOCS / "start" / "install.md").read_text()
    (table,) = re.findall(r"^\| extra .*\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    rows = dict(re.findall(r"^\| `(\w+)` (\|.*)$", table, flags=re.MULTILINE))
    assert rows.keys() == project["optional-dependencies"].keys()
    for name in ("demo", "all"):
        (inside,) = project["optional-dependencies"][name]
        parts = re.findall(r"\w+", inside.removeprefix("fastmlp"))
        assert set(re.findall(r"`(\w+)`", rows[name])) == set(parts)


@pytest.mark.parametrize("name", [*PICTURES, *ESTIMATORS, "MLP", "EarlyStopping"])
def test_a_name_of_the_api_leads_to_pages_that_show_it(name: str) -> None:
    assert uses.pages_of()[f"fastmlp.{name}"]


def test_names_that_two_modules_have_lead_to_the_pages_of_each() -> None:
    pages = uses.pages_of()
    assert pages["fastmlp.river.MLPRegressor"] == ["how-to/river"]
    assert "how-to/river" not in pages["fastmlp.MLPRegressor"]


def test_pages_that_are_searched_by_more_words_exist() -> None:
    assert [page for page in search.words() if not (DOCS / f"{page}.md").exists()] == []


@pytest.mark.parametrize(
    ("word", "page"),
    [
        ("FastAPI", "how-to/serving.md"),
        ("Docker", "how-to/serving.md"),
        ("systemd", "how-to/serving.md"),
        ("Jacobian", "how-to/derivatives.md"),
        ("shap", "how-to/explain-predictions.md"),
        ("dates", "how-to/dates-texts-ids.md"),
        ("FAQ", "start/faq.md"),
        ("GPU", "explain/gpu.md"),
        ("categorical", "how-to/missing-values.md"),
        ("Glossary", "start/glossary.md"),
        ("Cheat sheet", "start/cheat-sheet.md"),
        ("Keras", "from/keras.md"),
        ("PyTorch", "from/pytorch.md"),
        *(
            (name, "from/boosted-trees.md")
            for name in ("LightGBM", "CatBoost", "AutoGluon")
        ),
    ],
)
def test_a_word_that_users_search_for_stands_in_a_heading(word: str, page: str) -> None:
    """The site's search puts titles and headings first."""
    headings = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(), flags=re.MULTILINE)
    assert any(re.search(rf"\b{word}\b", heading) for heading in headings)


def test_the_glossary_has_the_words_that_stop_newcomers() -> None:
    text = (DOCS / "start" / "glossary.md").read_text()
    terms = {
        term
        for line in re.findall(r"^(.+)\n: ", text, flags=re.MULTILINE)
        for term in line.split(", ")
    }
    assert terms >= {
        *(
            "rule",
            "link",
            "slope",
            "source",
            "block",
            "buffer",
            "rank",
            "pack",
            "pieces",
            "remedy",
        ),
        *(
            "fine pieces",
            "kept aside",
            "drawn",
            "RealMLP-TD",
            "recipe",
            "leaderboard",
            "fold",
        ),
    }


FOLDER = Path(__file__).parent.parent / "docs" / "decisions"
DECISIONS = sorted(path.name for path in FOLDER.glob("0*.md"))
each_page = pytest.mark.parametrize("page", DECISIONS)


def commands(text: str) -> list[str]:
    return re.findall(r"^    (python .*)$", text, flags=re.MULTILINE)


def test_the_index_lists_every_page() -> None:
    index = (FOLDER / "README.md").read_text()
    assert re.findall(r"\]\((0\d\d-[\w-]+\.md)\) \|", index) == DECISIONS
    assert [page[:3] for page in DECISIONS] == [
        f"{i + 1:03}" for i in range(len(DECISIONS))
    ]


def test_security_tells_what_is_trusted() -> None:
    rows = re.findall(
        r"^\| \*\*(.*?)\*\*.*? \| (yes|no) \|", SECURITY, flags=re.MULTILINE
    )
    assert dict(rows)["Model files and checkpoints"] == "no"
    assert dict(rows)["The disk cache"] == "yes"
    assert "## Reporting" in SECURITY


@each_page
def test_a_page_has_its_sections(page: str) -> None:
    text = (FOLDER / page).read_text()
    assert text.startswith(f"# {page[:3]}. ")
    assert "**Context.**" in text
    assert "**Measure again.**" in text
    assert commands(text)


@each_page
def test_commands_of_a_page_are_understood(page: str) -> None:
    for command in commands((FOLDER / page).read_text()):
        words = shlex.split(command)
        assert words[1] == "-m"
        if words[2] == "pytest":
            named = words[3:]
        else:
            named = [words[2].replace(".", "/") + ".py"]
        inside = [path for path in named if "/" in path and path != "../before"]
        assert all((ROOT / path).exists() for path in inside)
        if "--benchmark-only" in words and "-k" in words:
            nets = re.findall(r"\d+-[\d-]+", words[words.index("-k") + 1])
            assert all(any(net in name for name in NETS) for net in nets)


SECURITY = (ROOT / "SECURITY.md").read_text()
README = (ROOT / "README.md").read_text()


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_its_links_lead_to_pages_that_are_read_in_a_repository() -> None:
    """Pages of the site's own directives,
    but for tables of contents, are read on the site.
    """
    targets = set(re.findall(r"\]\((docs/[^)#]+\.md)", README))
    directives = {
        target: re.findall(
            r"^(?:`{3}|:{3,})\{(?!toctree)[\w-]+\}", (ROOT / target).read_text(), re.M
        )
        for target in targets
    }
    assert len(targets) > 10
    assert [target for target, found in directives.items() if found] == []
    assert "](https://fastmlp.github.io/fastmlp/)" in README


def test_commits_that_pages_name_are_in_the_history() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone")

    def answer(*words: str) -> str:
        command = [git, "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    if answer("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("the clone is shallow")
    word = r"(?<![\w/.-])(?=\d*[a-f])(?=[a-f]*\d)[\da-f]{7,10}(?![\w.])"
    named = {
        (commit, name_of(page))
        for page in [*PAGES, *ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md"]
        for commit in re.findall(word, page.read_text())
    }
    lost = [
        pair for pair in sorted(named) if not answer("branch", "--contains", pair[0])
    ]
    assert len(named) > 10
    assert lost == []


ERRORS = (Path(__file__).parent.parent / "docs" / "errors.md").read_text()
ROOMS = Path(__file__).with_name("validation").joinpath("messages").glob("*.txt")
MESSAGES = "".join(room.read_text() for room in ROOMS)
QUOTED = re.findall(r"^### `(.*)`$", ERRORS, flags=re.MULTILINE)
X = np.ones((6, 3))
Y = np.ones(6)
LABELS = [0, 1, 2, 0, 1, 2]
DAYS = pd.date_range("2024-01-01", periods=6)


def net(**settings: Any) -> MLP:
    return MLP((3, 4, 1), seed=0, **settings)


def fit(X: Any = X, Y: Any = Y, loss: str = "mse", **settings: Any) -> Any:
    return net(loss=loss).fit(X, Y, epochs=1, **settings)


def fit_classes(labels: Any) -> Any:
    return MLP((3, 4, 3), loss="cross_entropy", seed=0).fit(X, labels)


def classifier(**settings: Any) -> Any:
    return MLPClassifier((2,), max_iter=5, random_state=0, **settings)


def spoilt(value: float) -> Any:
    x = X.copy()
    x[4, 2] = value
    return x


def table(**columns: Any) -> Any:
    return pd.DataFrame(X, columns=[*"abc"]).assign(**columns)


def of_table(X: Any) -> Any:
    return fastmlp.TabularMLPRegressor().fit(X, np.arange(len(X)))


def call_the_parameters() -> None:
    parameters: Any = net().parameters
    parameters()


def predict_without_columns() -> None:
    model = MLP((5, 1), seed=0)
    model.feature_names = [*"abcde"]
    model.predict(table())


def fit_csv(rows: list[str], encoding: str = "utf-8") -> None:
    Path("rows.csv").write_text("\n".join(["a,y", *rows, ""]), encoding=encoding)
    MLP((1, 1)).fit("rows.csv", target="y")


def bump(z: Any) -> Any:
    return z, z / z


def lookup(z: Any) -> Any:
    return z, type(z)(len(z.hex()) > 0)


def diverge() -> None:
    net = MLP((3, 4, 1), optimizer=SGD(0.1), initializer="he_uniform", seed=0)
    net.fit(np.arange(18).reshape(6, 3), 1e9 * Y)


def step_far() -> None:
    net().train_on_batch(X, 1e30 * Y)


def keep_first_epoch() -> None:
    rare = np.arange(60) % 20 == 0
    classifier(early_stopping=True, n_iter_no_change=5).set_params(max_iter=50).fit(
        np.zeros((60, 3)), rare
    )


def fit_in_a_callback() -> None:
    def again(report: Report) -> None:
        report.net.fit(X, Y)

    fit(callbacks=again)


def predict_far() -> None:
    model = net()
    model.parameters[:] = 1e30
    model.predict(1e30 * X)


def resume_another() -> None:
    net().fit(X, Y, epochs=5, checkpoint="run.safetensors")
    net().fit(X, Y, epochs=7, checkpoint="run.safetensors", resume=True)


def load_text() -> None:
    # The first eight bytes of a safetensors file are the length of its header.
    Path("notes.txt").write_bytes(b"\x08" + bytes(7) + b"no header of a net")
    fastmlp.load("notes.txt")


def learn_table(**columns: Any) -> None:
    tables._task_of(pyarrow.table(columns)["y"], "y", "auto")


def load_without_rule() -> None:
    net(activation=bump).save("bump.safetensors")
    fastmlp.load("bump.safetensors")


def save_without_safetensors() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "safetensors", None)
        patch.setitem(sys.modules, "safetensors.numpy", None)
        net().save("net.safetensors")


def look_for_a_cache() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FASTMLP_CACHE", raising=False)
        patch.setattr(numba.config, "CACHE_DIR", str(Path("cache").absolute()))
        folder, _ = cache.find()
        assert folder is not None
        folder.chmod(0o777)
        cache.folder.__wrapped__()


def clipped(z: Any) -> Any:
    if z < 0:
        return 0.0, 0.0
    return z, 1.0


# By the words that the page quotes,
# where no call of validation/messages raises them as the page says.
CAUSES: dict[str, Callable[[], Any]] = {
    "columns left out: 'review' has 2000 texts in 2000 rows, free text or ids": lambda: (
        of_table(
            pd.DataFrame(
                {"a": range(2000), "review": [f"good {i}" for i in range(2000)]}
            )
        )
    ),
    "the column 'when' must hold dates": lambda: Schema.learn(table(when=DAYS)).read(
        table(when=5)
    ),
    "X lacks 2 of the 5 known columns": predict_without_columns,
    "as an id or free text has: name another column to predict": lambda: learn_table(
        a=[*range(30)], y=[f"text {i}" for i in range(30)]
    ),
    "Input X contains NaN": lambda: classifier().fit(spoilt(np.nan), LABELS),
    "'numpy.ndarray' object is not callable": call_the_parameters,
    "is not the derivative of its value": lambda: net(
        loss=lambda p, y: ((p - y) ** 2, p - y)
    ),
    "does not compile": lambda: net(activation=lookup).predict(X),
    "fit diverged in epoch": diverge,
    "which a net hardly learns: standardise it": lambda: net().fit(
        X, 1e9 * np.arange(6.0), epochs=2
    ),
    "rows of y are one-hot, and the loss is 'mse'": lambda: MLP((3, 2), seed=0).fit(
        X, np.eye(2)[[0, 1] * 3], epochs=2
    ),
    "the loss rose from": lambda: MLP((3, 1), optimizer=SGD(0.6), seed=0).fit(
        X, Y, epochs=20
    ),
    "the loss is inf, no step was taken": step_far,
    "Maximum iterations (5) reached and the optimization hasn't converged yet.": lambda: (
        classifier().fit(X, LABELS)
    ),
    "early stopping kept the parameters of the first epoch": keep_first_epoch,
    "nets were trained within time_limit=0.001": lambda: TabularMLPRegressor(
        time_limit=1e-3
    ).fit(np.eye(6), np.arange(6.0)),
    "a fit of this net is running": fit_in_a_callback,
    "not all predictions are finite": predict_far,
    "is a checkpoint of another fit: its epochs is 5, here it is 7; resume=False starts over": (
        resume_another
    ),
    "not a safetensors file": load_text,
    "is a custom rule, and no file holds code": load_without_rule,
    "a model file needs safetensors: pip install safetensors": save_without_safetensors,
    "code cache not used": look_for_a_cache,
    "the target 'y' has 3 missing values, the first in line 9": lambda: fit_csv(
        [*["1,no", "2,yes", "3,no"] * 2, "7,yes", *["8,"] * 3]
    ),
    "columns of the model: 'area', 'town'": lambda: Schema.learn(
        pd.DataFrame({"area": [1, 2.5], "town": ["a", "b"]})
    ).read(table()),
    "line 2, column 'a': the text is not utf-8": lambda: fit_csv(
        ["Zürich,1"], "cp1252"
    ),
    "got DataFrame of Dask": lambda: fit(
        from_pandas(table(), npartitions=1), None, target="a"
    ),
    "is more than arithmetic": lambda: fastmlp.to_c(net(activation=clipped)),
}


def test_each_quote_has_a_cause() -> None:
    """A cause may be of another argument than the call of validation/messages with
    these words.
    """
    assert (
        {words for words in QUOTED if words not in MESSAGES}
        <= CAUSES.keys()
        <= {*QUOTED}
    )
    assert len(QUOTED) >= 60


def test_the_advice_of_the_page_works() -> None:
    model = copy.deepcopy(net())
    model.fit(X.reshape(len(X), -1), Y, epochs=1)
    model.predict(X[0].reshape(1, -1))
    model.predict(np.asarray([["1", "2", "3"]], float))
    classes, labels = np.unique(["b", "a", "c"] * 2, return_inverse=True)
    assert list(classes) == ["a", "b", "c"]
    fit_classes(labels)


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: nothing is compiled")
@pytest.mark.parametrize("words", CAUSES)
def test_quotes_are_raised(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are errors here, so that both are raised."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Exception, Warning)) as caught:
        CAUSES[words]()
    assert words in str(caught.value)
