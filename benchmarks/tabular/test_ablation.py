"""The worth of parts of a pack: variants are made of the pack's own parts; a run of little."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tabular import ablation, sources, times

pytest.importorskip("pandas", reason="tables are frames of pandas")
pytest.importorskip("sklearn", reason="scikit-learn splits, encodes and scores")
PAGE = "".join(
    f"<!-- {n}:begin -->\n<!-- {n}:end -->\n" for n in ("ablation", "intervals", "times")
)


def test_no_table_is_kept_aside() -> None:
    assert not set(ablation.TABLES) & set(sources.aside())
    tasks = {sources.sources()[name].task for name in ablation.TABLES}
    assert tasks == {"binary", "multiclass", "regression"}
    with pytest.raises(ValueError, match=r"kept aside.*: gapminder"):
        ablation.main(["--tables", "concrete", "gapminder"])


def test_the_whole_pack_is_the_model_and_others_are_not() -> None:
    from fastmlp.tabular.pack import PRESETS, train_pack

    table = sources.read(sources.sources()["diabetes"])
    rows = ablation.rows_of(table)
    by_name = dict(ablation.variants(rows, 3, 2, "fast"))
    same = train_pack(
        rows.training, rows.validation, task="regression", n_classes=0,
        settings=PRESETS["fast"], seed=3,
    ).predict(rows.test.values)  # fmt: skip
    assert np.array_equal(by_name.pop(ablation.WHOLE).predictions, same)
    names = {*ablation.SELECTIONS, *ablation.NETS, ablation.TWO_SEEDS}
    # Of these numbers there are neither categories of many levels nor many columns.
    assert set(by_name) == names - {"target statistics"}
    assert all(not np.array_equal(ablated.predictions, same) for ablated in by_name.values())


def test_selections_in_the_place_of_the_packs() -> None:
    candidates = [np.array([2.0, 2.0]), np.array([0.5, 0.0]), np.array([-1.0, -1.0])]

    def loss(mean: np.ndarray, weight: object) -> float:
        return float(np.abs(mean).mean())

    best = ablation.best_alone(candidates, loss, 2)
    assert best.weights.tolist() == [0, 1, 0]
    assert best.loss == 0.25
    every = ablation.all_alike(candidates, loss, 2)
    assert every.weights == pytest.approx(np.full(3, 1 / 3))
    assert every.loss == pytest.approx(np.abs([0.5, 1 / 3]).mean())
    greedy = ablation.once(candidates, loss, 2, None, weight=None, max_members=2)
    assert np.count_nonzero(greedy.weights) <= 2
    assert greedy.loss <= 0.25


def test_changes_are_geometric_means_of_turns() -> None:
    def record(variant: str, turn: int, score: float, cpu: float) -> dict[str, object]:
        key = {"table": "t", "turn": turn, "variant": variant}
        return key | {"score": score, "cpu": cpu, "seconds": cpu}

    grid = ablation.Changes(
        [
            *(record(ablation.WHOLE, turn, 1.0, 2.0) for turn in range(2)),
            *(record("a", turn, score, 1.0) for turn, score in enumerate([1.0, 1.21])),
            {**record("b", 0, 2.0, 2.0), "table": "u"},
            {**record(ablation.WHOLE, 0, 1.0, 1.0), "table": "u"},
        ]
    )
    assert grid.changes[0, 0] == pytest.approx(10)
    assert grid.ratios[0, 0] == pytest.approx(0.5)
    assert np.isnan(grid.changes[0, 1])
    assert grid.changes[1, 1] == pytest.approx(100)


def test_a_fit_that_a_signal_ends_is_no_result() -> None:
    with ablation.complete():
        warnings.warn("of others", stacklevel=1)
        with pytest.raises(UserWarning, match="interrupted"):
            warnings.warn("fit_many interrupted: 1 of 2 nets are done", stacklevel=1)


def test_intervals_are_counted_and_measured() -> None:
    table = sources.read(sources.sources()["diabetes"])
    y = table.y[table.test]
    around = np.stack([y - 1, y + np.where(np.arange(len(y)) % 2, 3, -0.5)], axis=1)
    measured = ablation.held(table, around)
    assert measured["held"] == pytest.approx(0.5, abs=0.01)
    width = np.mean(around[:, 1] - around[:, 0]) / table.y.std()
    assert measured["width"] == pytest.approx(width)


def test_a_run_of_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, file = tmp_path / "page.md", tmp_path / "all.json"
    page.write_text(PAGE)
    monkeypatch.setattr(ablation, "PAGE", page)
    monkeypatch.setattr(times, "PAGE", page)
    # Little is measured here: nothing is warm, and CatBoost's rounds are too many.
    monkeypatch.setattr(ablation, "_warm_up", lambda tasks, threads: None)
    monkeypatch.setattr(times, "find_spec", lambda name: None)
    words = ["--tables", "diabetes", "--intervals", "diabetes", "--turns", "1"]
    ablation.main([*words, "--preset", "fast", "--json", str(file), "--pages"])
    text = page.read_text()
    assert f"| {ablation.TWO_SEEDS} | 1 |" in text
    assert "| diabetes | 89 |" in text
    assert "nan" not in text
    records = json.loads(file.read_text())["variants"]
    assert all(math.isfinite(record["score"]) for record in records)
    ablation.main(["--from-json", "--json", str(file), "--pages"])
    assert page.read_text() == text
    times.main(
        ["--rows", "200", "--predicted", "50", "--presets", "fast", "--turns", "1", "--pages"]
    )
    assert "| `fast` |" in page.read_text()
