"""Results as tables of docs, and a sentence of the README, between markers."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import machines, many, mixed, recipe, stream
from benchmarks.peers import PEERS
from benchmarks.report import digits
from benchmarks.scores import Heat, Score, counted, geometric_means, heats, peak_of, quartiles

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
ROOT = Path(__file__).parent.parent
README, TABLES = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
RECIPE = ROOT / "docs" / "recipe.md"
STREAM = ROOT / "docs" / "stream.md"
MACHINES = ROOT / "docs" / "how-to" / "machines.md"
MIXED = ROOT / "docs" / "mixed-precision.md"
COLUMNS = ("jax", "compile", "torch", "sklearn", "numpy")


def rewrite(
    results: dict[str, Any],
    picture: Path | None,
    readme: Path = README,
    tables: Path = TABLES,
    recipes: Path = RECIPE,
    streams: Path = STREAM,
    ranks: Path = MACHINES,
    mixed_precision: Path = MIXED,
) -> None:
    """Put the tables, and the README's sentence, between the pages' markers, of the parts that
    there are."""
    pages = [(tables, lines), (readme, summary)] if results["training"] else []
    if results.get("recipe"):
        pages.append((recipes, recipe_lines))
    if results.get("streams"):
        pages.append((streams, stream_lines))
    if results.get("machines"):
        pages.append((ranks, machines_lines))
    if results.get("mixed"):
        pages.append((mixed_precision, mixed_lines))
    for page, write in pages:
        shown = os.path.relpath(picture, page.parent) if picture else None
        between_markers(page, "\n".join(write(results, shown)))


def between_markers(page: Path, inside: str, name: str = "benchmarks") -> None:
    """Put text in the place of what a page has between its markers of a name."""
    begin, end = (word.replace("benchmarks", name) for word in (BEGIN, END))
    text = page.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{page} must have {begin} and {end} once each")
    head, tail = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{head}{begin}\n{re.sub(r' +$', '', inside, flags=re.M)}\n{end}{tail}")


def row(*cells: Any) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def lines(results: dict[str, Any], picture: str | None) -> Iterator[str]:
    """All tables, in Markdown."""
    all_heats = heats(results)
    threads = max((heat.threads for heat in all_heats), default=1)
    yield from _intro(results, threads)
    if picture:
        yield f"\n{_picture(picture)}"
    yield from _training(all_heats, threads)
    yield from _predictions(results, threads)
    yield from many.table(results, threads)
    yield from _cold_starts(results)


def recipe_lines(results: dict[str, Any], picture: str | None) -> Iterator[str]:
    """The training recipe's tables."""
    threads = max((heat.threads for heat in recipe.heats_of(results)), default=1)
    yield from _intro(results, threads)
    yield from _recipe(results, threads)


def stream_lines(results: dict[str, Any], picture: str | None) -> Iterator[str]:
    """The tables of rows that are streamed from a file."""
    threads = max((r["threads"] for r in results["streams"]), default=1)
    yield from _intro(results, threads)
    yield from stream.table(results, threads)


def machines_lines(results: dict[str, Any], picture: str | None) -> Iterator[str]:
    """The table of one net over two processes."""
    yield from _intro(results, 1)
    yield ""
    yield from machines.table(results)


def mixed_lines(results: dict[str, Any], picture: str | None) -> Iterator[str]:
    """The tables of mixed precision."""
    threads = max((r["threads"] for r in results["mixed"]["training"]), default=1)
    yield from _intro(results, threads)
    yield from mixed.table(results, threads)


def summary(results: dict[str, Any], picture: str | None) -> Iterator[str]:
    """The picture, and the geometric means in a sentence."""
    m, all_heats = results["machine"], heats(results)
    threads = max((heat.threads for heat in all_heats), default=1)
    means = geometric_means(all_heats, threads)
    if picture:
        yield f"{_picture(picture)}\n"
    peers = ", ".join(f"{PEERS[n].title} {means[n][0]:.2f}" for n in COLUMNS if n in means)
    best, _, count = means.get("fastest peer", (float("nan"), 0, 0))
    yield (
        f"A training step takes the fastest peer of each net {best:.2f} times as long as fastmlp, "
        f"by the geometric\nmean of {count} nets ({peers}), on {m['cores']} cores of\n"
        f"{m['cpu']}, {m['date']}."
    )


def _picture(path: str) -> str:
    return f"![Time of the peers over fastmlp's, by workload]({path})"


def _intro(results: dict[str, Any], threads: int) -> Iterator[str]:
    m = results["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in m["versions"].items())
    yield (
        f"Measured on {m['date']}: {m['cores']} cores of {m['cpu']}, {counted(threads)}, "
        f"Python {m['python']}, fastmlp {m['fastmlp']}; {versions}."
    )
    if results.get("mkl_shim") and "torch" in results["peers"]:
        yield (
            "PyTorch's MKL was told to take this processor for Intel's (`--mkl-shim`): its sgemm "
            "ran at " + _sgemm(results, threads) + "."
        )
    if results.get("quick"):
        yield "\n**A quick run: few rows and repeats, to try the suite, not to compare.**"


def _sgemm(results: dict[str, Any], threads: int) -> str:
    """Return PyTorch's and NumPy's GFLOP/s, beside the peak."""
    rates = {
        r["contestant"]: r["gflops"]
        for r in results["peaks"]
        if r["what"] == "sgemm" and r["threads"] == threads
    }
    peak = peak_of(results, "float32", threads)
    beside = f", NumPy's at {rates['numpy']:.0f}" if "numpy" in rates else ""
    return f"{rates.get('torch', float('nan')):.0f} GFLOP/s{beside}, of {peak:.0f}"


def _cell(score: Score | None) -> str:
    return f"{score.ratio.median:.2f}x" if score else "-"


def _row(heat: Heat) -> str:
    ours, best, load = heat.ours, heat.fastest_peer, heat.workload
    assert ours is not None
    cells = [load.description, digits(ours.us.median), f"{ours.percent_of_peak:.0f} %"]
    cells += [fastest(best), *(_cell(heat.of(name)) for name in COLUMNS)]
    return f"| {' | '.join(cells)} |"


def fastest(peer: Score | None) -> str:
    """Return the cell of the fastest peer: its ratio, the quartiles, its name."""
    if not peer:
        return "-"
    spread = f"{peer.ratio.low:.2f} to {peer.ratio.high:.2f}"
    return f"**{peer.ratio.median:.2f}x** ({spread}), {peer.title}"


def _training(all_heats: list[Heat], threads: int) -> Iterator[str]:
    titles = " | ".join(PEERS[name].title for name in COLUMNS)
    yield (
        "\nTraining: microseconds a step, the share of the cores' multiply-add peak, and each "
        "peer's time over fastmlp's: medians (and quartiles) of interleaved repeats; below 1 the "
        "peer is ahead.\n"
    )
    yield f"| net@batch | fastmlp, us | of peak | fastest peer | {titles} |"
    yield "|---|--:|--:|---|" + "--:|" * len(COLUMNS)
    yield from (_row(heat) for heat in all_heats if heat.threads == threads and heat.ours)
    means = geometric_means(all_heats, threads)
    cells = [f"{means[n][0]:.2f}x" if n in means else "-" for n in ("fastest peer", *COLUMNS)]
    yield f"| geometric mean | | | **{cells[0]}** | {' | '.join(cells[1:])} |"


def _recipe(results: dict[str, Any], threads: int) -> Iterator[str]:
    """The recipe beside the peers', and its prices."""
    shown = [h for h in recipe.heats_of(results) if h.threads == threads and h.ours]
    if shown:
        titles = " | ".join(PEERS[name].title for name in recipe.COLUMNS)
        yield (
            "\nThe recipe, of dropout 0.2, averaged weights, a cosine schedule and a gradient of a "
            "norm of at most 1: microseconds a step, and the peers' time over "
            "fastmlp's.\n"
        )
        yield f"| net@batch | fastmlp, us | fastest peer | {titles} | aim |"
        yield "|---|--:|---|" + "--:|" * (len(recipe.COLUMNS) + 1)
    for heat in shown:
        assert heat.ours
        name = heat.workload._replace(recipe=None).name
        cells = [name, digits(heat.ours.us.median), fastest(heat.fastest_peer)]
        cells += [_cell(heat.of(peer)) for peer in recipe.COLUMNS]
        yield f"| {' | '.join(cells)} | {recipe.AIMS[name]:g}x |"
    yield from recipe.table(results, threads)


def _predictions(results: dict[str, Any], threads: int) -> Iterator[str]:
    sizes = list(dict.fromkeys(r["n_rows"] for r in results["predictions"]))
    best: dict[str, dict[int, float]] = {}
    for r in results["predictions"]:
        if r["seconds"] and r["threads"] == threads:
            name = PEERS[r["contestant"]].title
            key = f"{name}, {r['way']}" if name == "fastmlp" else name
            old = best.setdefault(key, {}).get(r["n_rows"], float("inf"))
            best[key][r["n_rows"]] = min(old, 1e6 * quartiles(r["seconds"]).median)
    if not best:
        return
    yield "\nPredicting with 16-64-64-2, microseconds:\n"
    yield f"| | {' | '.join(f'{n:,} rows' if n > 1 else '1 row' for n in sizes)} |"
    yield "|---|" + "--:|" * len(sizes)
    for key, times in sorted(best.items(), key=lambda item: item[1].get(1, 0)):
        cells = [digits(times[n]) if n in times else "-" for n in sizes]
        yield f"| {key} | {' | '.join(cells)} |"


def _cold_starts(results: dict[str, Any]) -> Iterator[str]:
    records = [r for r in results["cold_starts"] if "empty" in r]
    if not records:
        return
    yield "\nA new process, from its start to the end of one epoch of 16-64-64-2@64:\n"
    yield "| | empty cache, s | full cache, s | peak memory, MB |\n|---|--:|--:|--:|"
    for r in records:
        full = quartiles(r["full"]).median
        cells = [PEERS[r["contestant"]].title, f"{r['empty']:.1f}", f"{full:.1f}"]
        yield f"| {' | '.join(cells)} | {r['peak_mb']:,.0f} |"
