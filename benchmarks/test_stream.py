"""Rows streamed from Parquet: all contestants train on all of them; the report and the page."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare, stream
from benchmarks.conftest import Ours, short_race
from benchmarks.peers import missing
from benchmarks.race import Worker
from benchmarks.stream import BY_NAME, STREAMS

SMALL = STREAMS[0]


def turn(reading: float, memory: float, streamed: float) -> dict[str, float]:
    return {"reading": reading, "memory": memory, "streamed": streamed}


def with_streams(results: dict[str, Any]) -> dict[str, Any]:
    """Results with a net that keeps its speed, and a peer; and with one of fastmlp's."""
    record = {"threads": 2, "way": "the way", "grown": 2e8, "stream": SMALL.name}
    results["streams"] = [
        {**record, "contestant": "fastmlp", "turns": [turn(100, 400, 480)] * 3},
        {**record, "contestant": "torch", "turns": [turn(200, 900, 1920)] * 3},
        {
            **record,
            "contestant": "jax",
            "turns": [],
            "unsupported": "not installed: keras",
        },
        {
            **record,
            "contestant": "fastmlp",
            "stream": STREAMS[-1].name,
            "turns": [turn(9, 3, 9)],
        },
    ]
    return results


def test_what_follows_from_turns() -> None:
    *_, over, kept, most = stream.medians(
        {"threads": 2, "turns": [turn(100, 400, 480), turn(100, 400, 440)]}
    )
    assert over == pytest.approx(1.15)
    assert kept == pytest.approx((400 / 480 + 400 / 440) / 2)
    assert most == pytest.approx(400 / 450)
    assert stream.medians({"threads": 2, "turns": [turn(400, 100, 400)]})[3:] == (
        1,
        0.25,
        0.25,
    )


def test_streams_are_told(results: dict[str, Any]) -> None:
    text = "\n".join(compare.all_lines(with_streams(results)))
    assert f"{SMALL.name}: JAX: not installed: keras" in text
    text = compare.pages(with_streams(results))[stream.PAGE]
    flops = f"{SMALL.workload.flops / 1e6:.3g}"
    assert (
        f"| {SMALL.name} | {flops} | 100 | 400 | 480 | 1.20 | 83% | 89% | 200 |" in text
    )
    assert (
        f"| {SMALL.name} | 2,083,333 | **4.00x** (4.00 to 4.00), PyTorch | 4.00x | - |"
        in text
    )
    assert text.count(STREAMS[-1].name) == 1
    results["streams"] = []
    assert "beside its limits" not in "\n".join(stream.table(results, 2))


def test_a_file_has_the_rows_of_its_workload(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="it writes the file")
    from fastmlp import Blocks

    load = SMALL.quick().workload
    stream.write(load, tmp_path / "rows.parquet")
    X, y, *_ = Blocks.from_parquet(tmp_path / "rows.parquet", target="y").read(0)
    assert np.array_equal(X, load.data()[0])
    assert np.array_equal(np.asarray(y)[:, None], load.data()[1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in stream.MODULES if name != "fastmlp"])
def test_peers_stream_a_file(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="it reads the file")
    if reason := missing(name):
        pytest.skip(reason)
    stream.write(SMALL.quick().workload, tmp_path / "rows.parquet")
    worker = Worker(name)
    request = {
        "name": SMALL.name,
        "path": str(tmp_path / "rows.parquet"),
        "quick": True,
    }
    reply = worker.make("stream", **request)
    assert reply["way"] in reply["tried"]
    for verb in stream.VERBS:
        assert worker.turn(what=verb)["ns"] > 0


def test_streams_of_little() -> None:
    pytest.importorskip("pyarrow", reason="it writes the file")
    records = stream.measure(
        short_race(Ours(), names=[SMALL.name, STREAMS[-1].name]), []
    )
    assert [record["stream"] for record in records] == [SMALL.name, STREAMS[-1].name]
    for record in records:
        assert len(record["turns"]) == 2
        assert np.isfinite(stream.medians(record)).all()
    assert list(BY_NAME) == [s.name for s in STREAMS]
