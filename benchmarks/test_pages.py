"""Pages of figures: ratios of rounds, tables,
what is kept by kind of processor, and README.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pages, scores
from benchmarks.output import BEGIN, END
from docs.tools import bars


def bench(library: str, work: str, seconds: list[float], **more: Any) -> dict[str, Any]:
    """A benchmark of a training on 2 threads, as pytest-benchmark has it."""
    facts = {
        "verb": "train",
        "work": work,
        "library": library,
        "threads": 2,
        "fastmlp": "0.1.0",
        "date": "2026-01-01",
        "processor": "2 cores of A CPU, AVX2",
        "version": f"{library} 1.0, more",
        **more,
    }
    return {
        "group": f"train {work}, 2 threads",
        "fullname": f"{work}-{library}",
        "extra_info": facts,
        "stats": {"median": sorted(seconds)[len(seconds) // 2], "data": seconds},
    }


def run_with(*benchmarks: dict[str, Any], kind: str = "AVX2") -> dict[str, Any]:
    described = {"cpu": f"A CPU, {kind}"}
    return {"machine_info": {"described": described}, "benchmarks": [*benchmarks]}


WON = (
    bench("fastmlp", "a", [1e-5, 2e-5, 3e-5], gflops=2.0),
    bench("jax", "a", [3e-5, 8e-5, 13.5e-5]),
    bench("torch", "a", [40e-5, 80e-5, 120e-5]),
)
LOST = (bench("fastmlp", "b", [4e-4] * 3), bench("jax", "b", [1e-4] * 3))


def test_ratios_are_those_of_the_same_rounds() -> None:
    won, lost = pages.groups_of([*WON, *LOST])
    assert won.fastest() == lost.fastest() == "jax"
    assert won.ratio("jax") == pytest.approx((3.5, 4, 4.25))
    assert lost.ratio("jax") == pytest.approx((0.25, 0.25, 0.25))
    means = pages.means([won, lost])
    assert means == {pages.BEST: pytest.approx(1), "jax": pytest.approx(1)}


def test_a_form_of_fastmlp_is_no_peer() -> None:
    (group,) = pages.groups_of([WON[0], bench("fastmlp-njit", "a", [1e-6] * 3)])
    assert group.fastest() is None
    assert group.cell("fastmlp-njit") == "**0.05x**"


def test_records_are_grouped_in_their_order() -> None:
    records = [{"a": 2, "b": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 3}]
    assert [*scores.grouped(records, "a").items()] == [
        (2, records[::2]),
        (1, records[1:2]),
    ]


def test_a_line_in_the_terminal_for_each_group() -> None:
    (line,) = pages.summary(WON)
    assert line == "train a, 2 threads: fastmlp 20 us; JAX 4.00x, PyTorch 40.00x"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """README and the page of benchmarks, in another folder."""
    readme = tmp_path / "README.md"
    page = tmp_path / "benchmarks.md"
    slow = f"{BEGIN}\n{END}\n".replace("benchmarks", "slow")
    speed = slow.replace("slow", "speed")
    means = slow.replace("slow", "means")
    for path, text in ((readme, speed), (page, slow + means)):
        path.write_text(f"{text}{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(pages, "SHOWN", {page: pages.SHOWN[pages.PAGE]})
    for name, value in (("PAGE", page), ("README", readme), ("FOLDER", tmp_path)):
        monkeypatch.setattr(pages, name, value)
    monkeypatch.setattr(bars, "TIMES", tmp_path / "times.svg")
    return readme, page


def test_pages_are_written_from_the_last_run_of_each_kind(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    readme, page = places
    wide = bench("fastmlp", "a", [1e-6] * 3), bench("jax", "a", [3e-6] * 3)
    runs = [
        run_with(*WON, *LOST),
        run_with(*(bench(n, "b", [1e-4] * 3) for n in ("fastmlp", "jax"))),
        run_with(*wide, kind="AVX-512"),
    ]
    files = [tmp_path / f"run{i}.json" for i in range(3)]
    for file, run in zip(files, runs, strict=True):
        file.write_text(json.dumps(run))
    for _ in range(2):
        pages.main([*map(str, files)])
    text = page.read_text()
    assert "old" not in text + readme.read_text()
    assert text.index("## With AVX2") < text.index("## With AVX-512")
    assert "| a | 20 us | 2 | **4.00x** (3.50 to 4.25), JAX | 4.00x | 40.00x |" in text
    assert "| b | 100 us | - | **1.00x**, JAX | 1.00x | - |" in text
    assert "| geometric mean |  |  | **2.00x** | 2.00x | - |" in text
    assert "with fastmlp 0.1.0, 2 cores of A CPU, AVX2, 2 threads; fastmlp 1.0" in text
    assert "- **Train, AVX-512**: 0 of 1." in text
    text = readme.read_text()
    sentence = "a training step takes JAX {} times as long as fastmlp.\n"
    assert f"With AVX2 {sentence.format(2.0)}" in text
    assert f"With AVX-512 {sentence.format(3.0)}" in text
    assert (
        "A training step takes JAX 2.0 times as long as fastmlp with AVX2, and 3.0 "
        in text
    )
    # The ground, two of the legend, two bars of fastmlp and two of JAX.
    assert bars.TIMES.read_text().count("<rect") == 7


def test_a_lost_case_is_listed(places: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run_with(*WON, *LOST)))
    pages.main([str(file)])
    assert "- **Train, AVX2**: 1 of 2: 0.25 (JAX, b)." in places[1].read_text()
    assert "**0.25x**" in places[1].read_text()


def test_pages_have_the_figures_that_are_kept() -> None:
    figures = pages.kept()
    texts = (pages.PAGE.read_text(), pages.README.read_text())
    assert [*figures] == [*pages.KINDS]
    expected = [[*pages.text_of(pages.PAGE, figures)], [*pages.sentences(figures)]]
    assert f":begin -->\n{pages.speed(figures)}\n<!-- speed:end" in texts[1]
    for lines, text in zip(expected, texts, strict=True):
        inside = text.split(BEGIN)[1].split(END)[0].split("\n")
        shown = ("\n\n" if text is texts[1] else "\n").join(lines).split("\n")
        assert inside[1:-1] == [line.rstrip() for line in shown]
    assert "\n".join(pages.slow(figures)) in texts[0]
    assert "\n\n".join(pages.sentences(figures)) in texts[0]
