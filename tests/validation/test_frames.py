"""Frames of pandas, polars and Arrow: what is taken,
in which bits, and what an error says.
"""

# Wrong types on purpose.
# mypy: disable-error-code="arg-type"

import copy
import pickle
import sys
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from fastmlp import MLP, FileError, Report, fit_many
from fastmlp.serialization import files
from fastmlp.validation import arrays, frames

N = 300
rng = np.random.default_rng(0)
COLUMNS: dict[str, Any] = {
    "x": rng.standard_normal(N),
    "single": rng.standard_normal(N).astype(np.float32),
    "count": rng.integers(-9, 9, N),
    "small": rng.integers(0, 9, N).astype(np.uint8),
    "flag": rng.random(N) < 0.5,
}
ARRAY = np.column_stack([*COLUMNS.values()])
FRAME = pd.DataFrame(COLUMNS)
ARROW = pa.table(COLUMNS)


class Stream:
    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


# The same numbers in the forms of a frame.
FORMS: dict[str, Any] = {
    "pandas": FRAME,
    "nullable": FRAME.convert_dtypes(),
    "of pyarrow": FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "objects": FRAME.astype(object),
    "decimals": FRAME.assign(count=[Decimal(int(each)) for each in FRAME["count"]]),
    "sparse": FRAME.assign(small=FRAME["small"].astype(pd.SparseDtype("uint8", 0))),
    "categories that are numbers": FRAME.astype({"small": "category"}),
    "polars": pl.DataFrame(COLUMNS),
    "polars, decimals": pl.DataFrame(COLUMNS).with_columns(
        pl.col("count").cast(pl.Decimal(9, 2))
    ),
    "arrow": ARROW,
    "chunks": pa.concat_tables([ARROW[:7], ARROW[7:]]),
    "record batch": pa.RecordBatch.from_arrays(
        [*map(pa.array, COLUMNS.values())], [*COLUMNS]
    ),
    "a stream": Stream(ARROW),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMS)
def test_numbers(form: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "STRIP", 128)
    kind = np.dtype(dtype)
    result = arrays.features(FORMS[form], 5, kind, "who")
    assert result.flags.c_contiguous
    assert result.tobytes() == arrays.features(ARRAY, 5, kind, "who").tobytes()


@pytest.mark.parametrize("form", ["pandas", "nullable", "objects", "polars", "arrow"])
def test_a_fit_of_a_frame_is_that_of_an_array(form: str) -> None:
    frame = FORMS[form]
    nets = [MLP((5, 4, 1), loss="binary_cross_entropy", seed=0) for _ in range(2)]
    more: dict[str, Any] = {"epochs": 2, "batch_size": 64}
    nets[0].fit(frame, frame["flag"], sample_weight=frame["small"], **more)
    nets[1].fit(ARRAY, COLUMNS["flag"], sample_weight=COLUMNS["small"], **more)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    assert nets[0].predict(frame).tobytes() == nets[1].predict(ARRAY).tobytes()


@pytest.mark.parametrize(
    "y",
    [
        pd.Series([0, 2, 1]),
        pd.Series([0, 2, 1]).convert_dtypes(),
        pd.Series([0, 2, 1], dtype=object),
        pd.Series([0, 2, 1], dtype="category"),
        pl.Series([0, 2, 1]),
        pa.chunked_array([[0], [2, 1]]),
        pd.DataFrame({"y": [0, 2, 1]}),
        pl.DataFrame({"y": [0, 2, 1]}),
        pa.table({"y": [0, 2, 1]}),
    ],
    ids=lambda y: f"{type(y).__module__}.{type(y).__name__}",
)
def test_class_labels_stay_integers(y: Any) -> None:
    result = arrays.targets(y, 3, 3, "classes", np.dtype(np.float32), "who")
    np.testing.assert_array_equal(result, [[0], [2], [1]])


def test_what_lies_in_memory_as_the_net_needs_it_is_not_copied() -> None:
    x = rng.standard_normal((50, 3))
    assert np.shares_memory(
        arrays.features(pd.DataFrame(x, copy=False), 3, x.dtype, "who"), x
    )
    assert arrays.features(x, 3, x.dtype, "who") is x


DATES = np.array(["2020", "2021", "NaT"], "M8[ms]")


@pytest.mark.parametrize(
    "frame", [pd.DataFrame({"b": DATES}), pl.DataFrame({"b": DATES})]
)
def test_the_advice_for_dates_works(frame: Any) -> None:
    days = (frame["b"] - frame["b"].min()).dt.total_seconds() / 86400
    assert days[1] == 366


def test_classes_of_a_series_are_weighted() -> None:
    nets = [MLP((1, 2), loss="cross_entropy", seed=0) for _ in range(2)]
    x = rng.standard_normal((6, 1))
    y = np.array([0, 1, 1, 0, 1, 1])
    nets[0].fit(x, y, epochs=2, class_weight="balanced")
    nets[1].fit(x, pd.Series(y, dtype=object), epochs=2, class_weight="balanced")
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_integers_beyond_64_bits_are_numbers() -> None:
    x = pd.DataFrame({"a": [1 << 70, 1]}, dtype=object)
    np.testing.assert_array_equal(frames.numbers(x, None, "who", "X"), [[2.0**70], [1]])


def test_a_stream_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install pyarrow$"):
        MLP((5, 1)).predict(Stream(ARROW))


# Frames with the columns of X in another order, and one more.
MIXED: dict[str, Any] = {
    "pandas": FRAME[["flag", "x", "count", "single", "small"]].assign(id=range(N)),
    "polars": pl.DataFrame(COLUMNS).select(
        "count", "flag", "x", "single", "small", id=pl.lit("u")
    ),
    "arrow": ARROW.select(["small", "count", "flag", "x", "single"]).append_column(
        "id", [["u"] * N]
    ),
    "record batch": pa.RecordBatch.from_pandas(
        FRAME[["small", "flag", "x", "count", "single"]]
    ),
    "a stream": Stream(ARROW.select(["small", "count", "x", "flag", "single"])),
}


@pytest.fixture(scope="module")
def net() -> MLP:
    made = MLP((5, 4, 1), seed=0)
    made.fit(FRAME, FRAME["x"], epochs=1)
    return made


@pytest.mark.parametrize("form", MIXED)
def test_columns_are_found_by_name(form: str, net: MLP, tmp_path: Path) -> None:
    assert net.feature_names == tuple(COLUMNS)
    expected = net.predict(ARRAY)
    net.save(tmp_path / "net")
    for each in (
        net,
        pickle.loads(pickle.dumps(net)),
        copy.copy(net),
        MLP.load(tmp_path / "net"),
    ):
        assert each.predict(MIXED[form]).tobytes() == expected.tobytes()
    assert net.predict_raw(MIXED[form]).tobytes() == net.predict_raw(ARRAY).tobytes()
    y = COLUMNS["x"]
    assert (
        net.loss_and_gradient(MIXED[form], y)[0] == net.loss_and_gradient(ARRAY, y)[0]
    )
    others = [MLP((5, 4, 1), seed=0) for _ in range(2)]
    histories = [
        others[0].fit(FRAME, y, epochs=2, validation_data=(MIXED[form], y)),
        others[1].fit(ARRAY, y, epochs=2, validation_data=(ARRAY, y)),
    ]
    assert histories[0].validation_loss == histories[1].validation_loss
    others[0].fit(MIXED[form], y, epochs=1)
    others[1].fit(ARRAY, y, epochs=1)
    assert others[0].parameters.tobytes() == others[1].parameters.tobytes()


def test_many_nets_on_one_frame() -> None:
    nets, alone = ([MLP((5, 3, 1), seed=i) for i in range(3)] for _ in range(2))
    nets[1].feature_names = alone[1].feature_names = [
        "small",
        "count",
        "flag",
        "x",
        "single",
    ]
    fit_many(nets, FRAME, FRAME["x"], epochs=2)
    for one, other in zip(nets, alone, strict=True):
        other.fit(FRAME, FRAME["x"], epochs=2)
        assert one.feature_names == other.feature_names
        assert one.parameters.tobytes() == other.parameters.tobytes()
    assert nets[0].feature_names == tuple(COLUMNS)
    assert nets[1].feature_names == ("small", "count", "flag", "x", "single")


def test_columns_that_are_missing(net: MLP) -> None:
    frame = FRAME.rename(columns={"count": "counts"}).drop(columns="x")
    words = (
        r"^MLP.predict: X lacks 2 of the 5 known columns: 'x', 'count' "
        r"\(did you mean 'counts'\?\); other columns of X: 'counts'$"
    )
    for given in (frame, pl.from_pandas(frame), pa.table(frame)):
        with pytest.raises(ValueError, match=words):
            net.predict(given)
    with pytest.raises(ValueError, match=r"validation_data: X lacks 2 of the 5 known"):
        net.fit(FRAME, FRAME["x"], epochs=1, validation_data=(frame, FRAME["x"]))
    with pytest.raises(ValueError, match=r"X has 2 columns of the name 'x'$"):
        net.predict(pd.concat([FRAME, FRAME[["x"]]], axis=1))
    assert net.predict(FRAME.set_axis(range(5), axis=1)).shape == (N, 1)


def test_names_that_are_set() -> None:
    net = MLP((2, 1), seed=0)
    frame = pd.DataFrame(rng.standard_normal((9, 3)), columns=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"has 3 features, but the net has 2 inputs$"):
        net.fit(frame, np.ones(9), epochs=1)
    assert net.feature_names is None
    net.feature_names = ["c", "a"]
    net.fit(frame, np.ones(9), epochs=1)
    assert (
        net.predict(frame).tobytes()
        == net.predict(frame[["c", "a"]].to_numpy()).tobytes()
    )
    net.feature_names = None
    twice = frame.set_axis(["a", "b", "b"], axis=1).iloc[:, 1:]
    with pytest.warns(
        UserWarning, match=r"MLP.fit: X has several columns of the name 'b' \(2 t"
    ):
        net.fit(twice, np.ones(9), epochs=1)
    with pytest.warns(
        UserWarning, match=r"MLP.train_on_batch: X has several columns of the name"
    ):
        net.train_on_batch(twice, np.ones(9))
    with pytest.warns(
        UserWarning, match=r"fit_many: X has several columns of the name 'b' \(2 t"
    ):
        fit_many([net], twice, np.ones(9), epochs=1)
    assert net.feature_names is None


def test_a_fit_goes_on_with_the_columns_of_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c"
    y = COLUMNS["x"]
    make = partial(MLP, (5, 3, 1), seed=0)
    whole = make()
    whole.fit(FRAME, y, epochs=2)

    def stop(report: Report) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError):
        make().fit(
            FRAME, y, epochs=2, checkpoint=path, checkpoint_every=1, callbacks=stop
        )
    assert MLP.load(path).feature_names == tuple(COLUMNS)
    words = r"its feature_names is \['x', .*, here it is \['flag', "
    with pytest.raises(ValueError, match=words):
        make().fit(
            MIXED["pandas"][[*COLUMNS][::-1]], y, epochs=2, checkpoint=path, resume=True
        )
    net = make()
    net.feature_names = [*COLUMNS]
    net.fit(MIXED["pandas"], y, epochs=2, checkpoint=path, resume=True)
    assert net.parameters.tobytes() == whole.parameters.tobytes()


@pytest.mark.parametrize("names", [["a"], ["a", "a"], "ab", [1, 2], {"a": 1}])
def test_files_with_names_that_are_none(names: Any, tmp_path: Path) -> None:
    net = MLP((2, 1), seed=0)
    net.feature_names = ["a", "b"]
    net.save(tmp_path / "net")
    content = files.read(tmp_path / "net")
    content.header["feature_names"] = names
    files.write(tmp_path / "net", content)
    with pytest.raises(FileError, match="feature_names must be "):
        MLP.load(tmp_path / "net")


@pytest.mark.parametrize("names", [None, [*COLUMNS]])
def test_frames_are_known_once(
    names: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[Any]()
    counts = list[int]()
    is_frame = frames.is_frame

    def recognise(table: Any) -> bool:
        seen.append(table)
        return is_frame(table)

    monkeypatch.setattr(frames, "is_frame", recognise)
    for n in (1, 8):
        nets = [MLP((5, 1), seed=i) for i in range(n)]
        for net in nets:
            net.feature_names = names
        fit_many(nets, FRAME, COLUMNS["x"], epochs=1)
        counts.append(len(seen))
        seen.clear()
    # Its names, and those that nets know; its numbers.
    assert counts == [2 + (names is not None)] * 2
