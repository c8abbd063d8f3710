"""Dropout and noise as arguments of a net: what is refused, shown and kept."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Cosine, FileError, Warmup
from fastmlp.network.spec import make_layout
from fastmlp.network.state import NetState
from fastmlp.rules.dropout import Dropout
from fastmlp.rules.optimizers import Adam, Schedule
from fastmlp.serialization import safetensors_file

SIZES_DROPPED = (3, 5, 4, 1)
RATE = r"must be a number in \[0, 1\), one for each hidden layer, or a schedule such as Cosine"
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"dropout": 1}, ValueError, f"MLP: dropout {RATE}.*got 1$"),
    ({"dropout": -0.1}, ValueError, f"MLP: dropout {RATE}"),
    ({"dropout": np.nan}, ValueError, f"MLP: dropout {RATE}"),
    ({"dropout": "0.2"}, TypeError, f"MLP: dropout {RATE}.*got '0.2'"),
    ({"dropout": True}, TypeError, f"MLP: dropout {RATE}"),
    ({"dropout": None}, TypeError, f"MLP: dropout {RATE}"),
    ({"dropout": {0: 0.1}}, TypeError, f"MLP: dropout {RATE}"),
    ({"dropout": [0.1, 1.5]}, ValueError, r"MLP: dropout\[1\] must be a number in \[0, 1\)"),
    ({"dropout": [0.1]}, ValueError, "dropout has 1 rate, but layer_sizes has 2 hidden; the out"),
    ({"dropout": [0.1] * 3}, ValueError, "dropout has 3 rates, but layer_sizes has 2 hidden"),
    ({"dropout": Cosine}, TypeError, r"must be a schedule, not its class: Cosine\(...\)"),
    ({"dropout": Cosine(2.0)}, ValueError, r"\[0, 1\), got 2.0 at step 0"),
    ({"dropout": lambda steps: steps}, TypeError, "a function of step numbers and of the total"),
    ({"dropout": lambda steps, total: 0.5}, ValueError, r"101 rates .* got an array of shape \(\)"),
    ({"dropout": lambda steps, total: "x"}, TypeError, "must return 101 rates .* got 'x'"),
    ({"input_dropout": 1.0}, ValueError, r"input_dropout must be a number in \[0, 1\) or a sch"),
    ({"input_dropout": [0.1]}, TypeError, r"input_dropout must be a number in \[0, 1\) or a sch"),
    ({"input_noise": -1}, ValueError, "input_noise must be a finite number of 0 or more or a sc"),
    ({"input_noise": np.inf}, ValueError, "input_noise must be a finite number of 0 or more"),
]


@pytest.mark.parametrize(("given", "kind", "words"), WRONG)
def test_what_is_no_rate_is_an_error(
    given: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        MLP(SIZES_DROPPED, **given)


def test_there_must_be_a_hidden_layer_to_drop() -> None:
    with pytest.raises(ValueError, match="is of hidden layers, but layer_sizes has none; input_dr"):
        MLP((3, 1), dropout=0.2)
    assert MLP((3, 1), input_dropout=0.2, dropout=0.0)._network.dropout is not None


def test_nets_that_draw_nothing_have_no_key() -> None:
    for nothing in ({}, {"dropout": 0}, {"dropout": [0.0, 0]}, {"input_noise": np.float32(0)}):
        net = MLP(SIZES_DROPPED, seed=0, **nothing)
        assert net._network.dropout is None
        assert net._state.key is None


def test_the_key_is_the_seeds_own() -> None:
    def key(seed: Any) -> Any:
        return MLP(SIZES_DROPPED, dropout=0.1, seed=seed)._state.key

    assert key(1) == key(1) != key(2)
    sequence = np.random.SeedSequence(1)
    assert key(sequence) == key(sequence) == key(1)
    assert sequence.n_children_spawned == 0
    # Nets of one generator have keys of their own, and a generator of the user's may have no seed.
    generator = np.random.default_rng(1)
    assert key(generator) == key(1) != key(generator)
    legacy = np.random.Generator(np.random.RandomState(1)._bit_generator)
    assert key(legacy) is not None
    assert key(None) != key(None)


def test_weights_and_orders_are_as_without() -> None:
    plain, other = MLP(SIZES_DROPPED, seed=1), MLP(SIZES_DROPPED, seed=1, dropout=0.1)
    assert plain.parameters.tobytes() == other.parameters.tobytes()
    generators = [net._state.generator for net in (plain, other)]
    first, second = (one.bit_generator.state for one in generators if one is not None)
    assert first == second


def test_a_state_without_a_key_gets_one_and_keeps_it() -> None:
    layout = make_layout((1, 1))
    state = NetState(layout, np.zeros(2), Adam())
    assert state.kept_key() == state.kept_key() == pickle.loads(pickle.dumps(state)).key
    content = state.__getstate__()
    del content["key"]  # as in a pickle of an older version
    older = NetState.__new__(NetState)
    older.__setstate__(content)
    assert older.key is None


def test_copies_pickles_and_files_keep_rates_and_key(tmp_path: Path) -> None:
    rates: list[float | Schedule] = [0.25, Warmup(Cosine(0.5), 10)]
    net = MLP(SIZES_DROPPED, dropout=rates, input_dropout=Cosine(0.1), input_noise=0.5, seed=1)
    net.save(tmp_path / "all", include_training_state=True)
    net.save(tmp_path / "some")
    others = [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), MLP.load(tmp_path / "all")]
    for other in others:
        assert other._network.dropout == net._network.dropout
        assert other._state.key == net._state.key
    bare = MLP.load(tmp_path / "some")
    assert bare._network.dropout == net._network.dropout
    assert bare._state.key is None


def falling(steps: Any, total: int) -> Any:
    return 0.5 * (1 - steps / total)


def test_a_schedule_of_ones_own_is_kept_by_its_name(tmp_path: Path) -> None:
    MLP(SIZES_DROPPED, dropout=falling, seed=1).save(tmp_path / "net")
    loaded = MLP.load(tmp_path / "net", rules={"falling": falling})
    assert loaded._network.dropout == Dropout((falling, falling))
    with pytest.raises(FileError, match="the schedule 'falling' is a rule of somebody's own"):
        MLP.load(tmp_path / "net")
    with pytest.raises(ValueError, match="the rule '<lambda>' has no name"):
        MLP(SIZES_DROPPED, input_noise=lambda steps, total: 0.1 + 0 * steps).save(tmp_path / "net")


@pytest.mark.parametrize(
    ("name", "value"),
    [("dropout", 2.0), ("dropout", [0.1]), ("input_noise", -1), ("input_dropout", {"name": "x"})],
)
def test_a_file_of_wrong_rates_or_keys_is_damaged(name: str, value: Any, tmp_path: Path) -> None:
    MLP(SIZES_DROPPED, dropout=0.1, seed=1).save(tmp_path / "net", include_training_state=True)
    content = safetensors_file.read(tmp_path / "net")
    changes: list[dict[str, Any]] = [{name: value}, {"key": [1, 2**32]}, {"key": 5}]
    for change in changes:
        wrong = content._replace(header={**content.header, **change})
        safetensors_file.write(tmp_path / "wrong", wrong)
        with pytest.raises(FileError):
            MLP.load(tmp_path / "wrong")


def test_the_summary_shows_what_is_in_use() -> None:
    net = MLP(SIZES_DROPPED, dropout=0.2, input_noise=0.5)
    assert "dropout=0.2, input_noise=0.5, dtype" in repr(net)
    assert "; dropout 0.2; input_noise 0.5; Adam" in net.summary()
    assert "dropout=[0.2, 0.0], dtype" in repr(MLP(SIZES_DROPPED, dropout=[0.2, 0.0]))
    assert "dropout" not in repr(MLP(SIZES_DROPPED)) + MLP(SIZES_DROPPED).summary()
