"""The keyword of mixed precision: what it takes, shows and keeps."""

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp.network.spec import make_layout, paired_layers


def test_wide_layers_take_part() -> None:
    assert paired_layers(make_layout((32, 32, 31, 1000, 10))) == (True, False, False, False)
    assert paired_layers(make_layout((1000, 512, 32, 32)), sparse=True) == (False, True, True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("bf16", "unknown compute_dtype 'bf16', did you mean 'bfloat16'?"),
        ("float16", "did you mean 'bfloat16'?"),
        ("float32", "unknown compute_dtype 'float32': None means that;"),
        (np.float32, "known: bfloat16, one of bfloat16 and float32 for each layer, or None"),
        (16, "unknown compute_dtype 16;"),
    ],
)
def test_another_dtype_is_an_error(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match="MLP: ") as caught:
        MLP((2, 1), compute_dtype=given)
    assert words in str(caught.value)


TOLD: Any = ("float32", "bfloat16", "float32")


def test_told_layers_take_part_however_narrow() -> None:
    layout = make_layout((3, 90, 20, 90))
    assert paired_layers(layout, ["bfloat16", "bfloat16", "float32"]) == (True, True, False)
    assert paired_layers(layout, ["bfloat16"] * 3, sparse=True) == (False, True, True)
    net = MLP((70, 80, 90, 2), compute_dtype=list(TOLD))
    assert net.compute_dtype == TOLD
    lines = net.summary().splitlines()
    assert tuple(line.split()[-1] for line in lines[1:4]) == TOLD


def test_nothing_is_rounded_if_no_layer_is_told() -> None:
    net = MLP((70, 80, 2), compute_dtype=["float32", "float32"], dtype="float64")
    assert net.compute_dtype is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["bfloat16"], "must have one dtype for each of the 2 layers, got 1"),
        (["bf16", "float32"], r"unknown compute_dtype\[0\] 'bf16', did you mean 'bfloat16'\?"),
        ([None, "float32"], r"unknown compute_dtype\[0\] None; known: bfloat16, float32"),
        (TOLD[1:0:-1] * 2, r"compute_dtype\[1\]='bfloat16' needs at least 17 outputs"),
    ],
)
def test_a_wrong_sequence_is_an_error(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^MLP: .*{words}"):
        MLP((70, 80, 2), compute_dtype=given)


def test_float64_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs dtype='float32', got 'float64'"):
        MLP((2, 1), dtype="float64", compute_dtype="bfloat16")


@pytest.mark.parametrize("name", ["predict", "predict_raw", "predict_batches"])
def test_predictions_take_it_too(name: str) -> None:
    x = np.ones((3, 2), np.float32)
    predict: Any = getattr(MLP((2, 1), seed=0), name)
    with pytest.raises(ValueError, match=f"MLP.{name}: unknown .* did you mean 'bfloat16'"):
        predict(x, compute_dtype="bf16")
    double: Any = getattr(MLP((2, 1), dtype="float64"), name)
    with pytest.raises(ValueError, match=f"MLP.{name}: compute_dtype='bfloat16' needs dtype="):
        double(x, compute_dtype="bfloat16")
    plain, mixed = (np.concatenate([*predict(x, compute_dtype=c)]) for c in (None, "bfloat16"))
    np.testing.assert_array_equal(mixed, plain)


def test_a_word_of_elsewhere_leads_to_it() -> None:
    kwargs: dict[str, Any] = {"mixed_precision": True}
    with pytest.raises(TypeError, match="did you mean 'compute_dtype'"):
        MLP((2, 1), **kwargs)


def test_the_summary_says_which_layers_take_part() -> None:
    net = MLP((70, 80, 90, 2), compute_dtype="bfloat16")
    lines = net.summary().splitlines()
    assert lines[0].endswith("products in")
    assert [line.split()[-1] for line in lines[1:4]] == ["bfloat16", "bfloat16", "float32"]
    assert "compute_dtype='bfloat16'" in repr(net)
    assert net.compute_dtype == "bfloat16"


def test_nothing_is_shown_without_it() -> None:
    net = MLP((70, 80, 90, 2))
    assert net.compute_dtype is None
    assert "compute_dtype" not in repr(net)
    assert "products" not in net.summary()


def test_rates_are_shown_beside_it() -> None:
    net = MLP((70, 80, 2), compute_dtype="bfloat16", layer_rates=[0.5, 1])
    first = net.summary().splitlines()[1].split()
    assert first[-3:] == ["x", "0.5", "bfloat16"]
