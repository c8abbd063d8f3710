"""The comparison of remedies: its splits, its arithmetic, its page, and a run of little."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tables
from benchmarks.conftest import MACHINE, page_of
from benchmarks.tabular.sources import Source, sources

for name in ("pandas", "sklearn"):
    pytest.importorskip(name, reason="tables are read, split and scored")


def results_of(scores: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Results with these scores, by table, recipe and seed."""
    facts = {"rows": 1000, "inputs": 5, "classes": 1, "epochs": 3, "seconds": 0.5, "loss": 0.25}
    return {
        "machine": MACHINE,
        "versions": {"numpy": "2.0"},
        "records": [
            {"table": table, "recipe": recipe, "seed": seed, "score": value, **facts}
            for table, recipes in scores.items()
            for recipe, values in recipes.items()
            for seed, value in enumerate(values)
        ],
    }


def test_ranks_gains_and_errors() -> None:
    flat = {recipe: [0.5, 0.6] for recipe in tables.RECIPES}
    results = results_of({"wage": {**flat, "dropout": [0.6, 0.6], "EMA": [0.3, 0.4]}})
    assert tables.ranks(results, ["wage"]).tolist() == [[3, 3, 1, 5, 3]]
    assert tables.gains(results, "wage", "dropout") == pytest.approx([0.1, 0])
    assert tables.error_left(results, "wage", "EMA") == pytest.approx(0.65 / 0.45)
    text = "\n".join(tables.lines(results))
    assert "| ISLR, Wage | 1,000 | 5 | R2 | 0.5500 ± 0.0707 | 0.5500 ± 0.0707 | **0.6000**" in text
    assert "| wage | +0.0000 (0 of 2) | +0.0500 (1 of 2) | -0.2000 (0 of 2) |" in text
    assert "| mean rank |  |  |  | 3.0 | 3.0 | 1.0 | 5.0 | 3.0 |" in text
    assert "| error over the plain net's | 1.000 | 0.889 | 1.444 | 1.000 |" in text


def test_there_are_ten_tables_of_all_kinds() -> None:
    assert len(set(tables.TABLES)) == 10
    assert {sources()[name].score for name in tables.TABLES} == set(tables.LOSSES)


@pytest.mark.parametrize("name", tables.SMALL)
def test_rows_are_in_one_part_each(name: str) -> None:
    table = sources()[name]
    parts = tables.split(table, 3)
    lengths = [len(part.y) for part in parts]
    assert np.allclose(np.array(lengths) / sum(lengths), [0.6, 0.2, 0.2], atol=0.01)
    assert len(np.unique(np.concatenate([part.x for part in parts]), axis=0)) == sum(lengths)
    train = parts[0]
    assert train.x.mean(axis=0) == pytest.approx(0, abs=1e-5)
    assert train.x.std(axis=0) == pytest.approx(1, abs=1e-4)
    again = tables.split(table, 3)
    assert all(np.array_equal(a.x, b.x) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(train.x, tables.split(table, 4)[0].x)


def test_missing_numbers_and_new_categories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Medians are those of the rows to train on; a category of other rows alone is all zeros."""
    import pandas as pd

    numbers = np.arange(50.0)
    numbers[::5] = np.nan
    # None of the rows has the same category as another.
    frame = pd.DataFrame({"number": numbers, "kind": [f"k{i}" for i in range(50)]})
    monkeypatch.setattr(tables, "read", lambda table: (frame, pd.Series(np.arange(50.0))))
    train, _, test = tables.split(Source("", "", "", "", "regression"), 0)
    assert train.x.shape[1] == 2 + len(train.x)
    assert np.all(train.x[:, 2:].sum(axis=1) == 1)
    assert np.all(test.x[:, 2:] == 0)
    assert np.isfinite(test.x).all()


def test_remedies_of_little(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page_of(tables.main, ["--quick"], page)
    for shown in (text, capsys.readouterr().out):
        assert "| sklearn, breast_cancer | 569 | 30 | AUC |" in shown
    assert "nan" not in text
    with pytest.raises(SystemExit):
        tables.main(["--from-json"])
