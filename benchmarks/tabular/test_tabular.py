"""The comparison on tables: what is kept aside, the splits, the arithmetic, a run of little."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import scores
from benchmarks.conftest import MACHINE, PAGE
from benchmarks.tabular import compare, sources
from benchmarks.tabular import compare as command
from benchmarks.tabular.models import FASTMLP, LINEAR

pytest.importorskip("pandas", reason="tables are frames of pandas")
pytest.importorskip("sklearn", reason="scikit-learn splits, encodes and scores")


def test_the_tables_that_are_kept_aside_stay_the_same() -> None:
    assert set(sources.aside()) == {
        *("flchain", "pension", "vote_2016"),
        *("carriers", "pitches", "storms"),
        *("arithmetic", "colleges", "gapminder", "movies"),
    }
    tasks = {source.task for source in sources.sources().values()}
    assert tasks == {"binary", "multiclass", "regression"}


@pytest.mark.parametrize("name", ["breast_cancer", "digits"])
def test_rows_are_in_one_part_each(name: str) -> None:
    table = sources.read(sources.sources()[name])
    parts = table.train, table.validation, table.test
    rows = np.concatenate(parts)
    assert np.array_equal(np.sort(rows), np.arange(len(table.y)))
    assert np.allclose([len(part) / len(rows) for part in parts], [0.6, 0.2, 0.2], atol=0.01)
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
    facts = {"task": "binary", "rows": 1000, "columns": 5, "aside": True}
    return {
        "machine": MACHINE,
        "versions": {"lightgbm": "4"},
        "threads": 2,
        "tables": dict.fromkeys(losses, facts),
        "records": [
            {"table": table, "model": model, "turn": turn, "score": loss, "seconds": 1.0 + turn}
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
    assert compare.geometric(grid.seconds) == pytest.approx([1.5, 1.5, 1.5])
    text = "\n".join(compare.lines(results))
    assert "| **fastmlp** | 2.25 | 0 | 0.50 | +41.4 % | +50.0 % | 0 of 2 | 1.5 |" in text
    assert "- **LightGBM**, 1 of 2: one 100.0" in text
    assert "- **linear**, 1 of 2: two 100.0" in text


def test_a_run_of_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, file = tmp_path / "page.md", tmp_path / "all.json"
    written.write_text(PAGE)
    monkeypatch.setattr(command, "PAGE", written)
    words = ["--tables", "breast_cancer", "--turns", "1", "--json", str(file), "--pages"]
    command.main([*words, "--models", LINEAR, "HistGradientBoosting"])
    text = written.read_text()
    assert text.startswith("before\n")
    assert "| breast_cancer | 569 | 30 | binary |" in text
    assert "nan" not in text
    assert not any("error" in record for record in json.loads(file.read_text())["records"])
    command.main(["--from-json", "--json", str(file), "--pages"])
    assert written.read_text() == text


def test_unknown_tables_and_missing_files_are_told() -> None:
    with pytest.raises(ValueError, match="no tables named nowhere"):
        sources.chosen(["small", "nowhere"])
    with pytest.raises(SystemExit):
        command.main(["--from-json"])
