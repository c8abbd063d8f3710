"""save and load: every net that can be made comes back,
and every defect is a FileError.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import in_threads
from loss_cases import SETTINGS, cube, descent, fourth

from fastmlp import MLP, SGD, Adam, Cosine, Custom, FileError, Loss, Warmup
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.rules.schedules import SCHEDULES
from fastmlp.rules.updates import PENALTIES
from fastmlp.serialization import files

GOLDEN = Path(__file__).parent / "golden"
X = np.arange(60.0).reshape(20, 3) % 7 / 7
Y = np.arange(20.0) % 5 / 5


def make(n_outputs: int = 1, **settings: Any) -> MLP:
    return MLP((3, 4, n_outputs), **{"activation": "tanh", "seed": 0, **settings})


def reloaded(net: MLP, path: Path, **rules: Any) -> MLP:
    net.save(path)
    return MLP.load(path, rules=rules)


def assert_same(net: MLP, other: MLP) -> None:
    assert repr(net) == repr(other)
    assert net.optimizer == other.optimizer
    assert net.parameters.dtype == other.parameters.dtype
    assert net.parameters.tobytes() == other.parameters.tobytes()
    assert net.predict(X).tobytes() == other.predict(X).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_dtype(activation: str, dtype: str, path: Path) -> None:
    net = make(activation=activation, output_activation=activation, dtype=dtype)
    assert_same(net, reloaded(net, path))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss: str, path: Path) -> None:
    assert_same(net := of_loss(LOSSES[loss]), reloaded(net, path))


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_with_settings(name: str, path: Path) -> None:
    net = of_loss(SETTINGS[name])
    assert_same(net, reloaded(net, path))
    assert net._network == MLP.load(path)._network


def of_loss(loss: Any) -> MLP:
    n = getattr(loss, "loss", loss).per_target
    return MLP((3, 4, n + n % 2 if n < 3 else n), loss=loss, seed=1)


def test_penalties_are_kept_to_the_last_bit(path: Path) -> None:
    strengths: Any = {name: 0.1 * (i + 1) for i, name in enumerate(PENALTIES)}
    net = MLP(
        (3, 4, 5, 1), activation=["relu", "gelu"], penalties=strengths, l2=0.7, seed=1
    )
    assert_same(net, reloaded(net, path))
    assert net.loss_and_gradient(X, Y)[0] == MLP.load(path).loss_and_gradient(X, Y)[0]


def test_settings_of_numpys_types_are_kept_to_the_last_bit(path: Path) -> None:
    tenth: Any = np.float32(0.1)
    most: Any = np.float32(0.9)
    steps: Any = np.int64(70)
    rate = Warmup(Cosine(tenth, n_steps=steps), n_steps=3)
    net = make(optimizer=SGD(rate, momentum=most, nesterov=True), l1=1 / 3)
    assert_same(net, reloaded(net, path))


def test_moments_that_are_not_finite_are_kept(path: Path) -> None:
    net = make()
    net.fit(X, Y, epochs=1)
    net.save(path, include_training_state=True)
    content = files.read(path)
    content.arrays["moments"][1, 3] = np.inf
    files.write(path, content)
    MLP.load(path).save(path, include_training_state=True)
    assert files.read(path).arrays["moments"][1, 3] == np.inf


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS.keys() - {"schedulefreeadamw"}))
def test_every_optimizer_and_schedule(
    optimizer: str, schedule: str, path: Path
) -> None:
    rate = SCHEDULES[schedule](0.125)
    net = make(optimizer=OPTIMIZERS[optimizer](rate))
    assert_same(net, reloaded(net, path))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_fit_goes_on_with_the_same_bits(optimizer: str, path: Path) -> None:
    rate = 0.01 if optimizer == "schedulefreeadamw" else Cosine(0.01)
    net = make(optimizer=OPTIMIZERS[optimizer](rate), l2=0.1)
    net.fit(X, Y, epochs=3, batch_size=7)
    net.save(path, include_training_state=True)
    other = MLP.load(path)
    assert other.n_steps == net.n_steps == 9
    histories = [each.fit(X, Y, epochs=3, batch_size=7) for each in (net, other)]
    assert histories[0].loss == histories[1].loss
    assert net.parameters.tobytes() == other.parameters.tobytes()


def test_by_default_the_file_is_for_predictions(path: Path) -> None:
    net = make()
    net.fit(X, Y, epochs=2)
    net.save(path)
    small = path.stat().st_size
    other = MLP.load(path)
    assert other.n_steps == 0
    assert net.n_steps == 2
    net.save(path, include_training_state=True)
    assert path.stat().st_size > small + 2 * net.parameters.nbytes


@pytest.mark.slow
def test_a_net_that_never_trained_has_a_training_state(path: Path) -> None:
    net = make()
    net.save(path, include_training_state=True)
    other = MLP.load(path)
    for each in (net, other):
        each.fit(X, Y, epochs=2, batch_size=7)
    assert net.parameters.tobytes() == other.parameters.tobytes()


def test_the_arrays_are_layers_for_other_programs(path: Path) -> None:
    net = make()
    net.save(path)
    arrays = files.read(path).arrays
    assert arrays.keys() == {"weights.0", "weights.1", "biases.0", "biases.1"}
    np.testing.assert_array_equal(arrays["weights.0"], net.weights[0])


def test_the_header_has_names_only(path: Path) -> None:
    make(optimizer=Adam(Cosine(0.01)), l2=0.1).save(path)
    assert files.read(path).header == {
        "layer_sizes": [3, 4, 1],
        "activation": ["tanh"],
        "output_activation": "identity",
        "loss": "mse",
        "optimizer": {
            "name": "adam",
            "learning_rate": {
                "name": "Cosine",
                "learning_rate": 0.01,
                "n_steps": None,
                "final_rate": 0.0,
            },
            "beta_1": 0.9,
            "beta_2": 0.999,
            "epsilon": 1e-8,
            "epsilon_hat": False,
        },
        "penalties": [["l2", 0.1]],
        "dtype": "float32",
    }


def half(steps: Any, total: Any) -> Any:
    return np.full(len(steps), 0.5)


def tanh(z: Any) -> Any:
    return z, z - z + 1


OWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "activation": ({"activation": cube}, {"cube": cube}),
    "loss": ({"loss": fourth}, {"fourth": fourth}),
    "loss with settings": (
        {"loss": Loss(fourth, link="exp", over_outputs="sum")},
        {"fourth": Loss(fourth, link="exp", over_outputs="sum")},
    ),
    "optimizer": ({"optimizer": descent}, {"descent": descent}),
    "optimizer with settings": (
        {"optimizer": Custom(descent, learning_rate=Cosine(0.1))},
        {"descent": descent},
    ),
    "schedule": ({"optimizer": SGD(half)}, {"half": half}),
    "schedule in a schedule": ({"optimizer": SGD(Warmup(half))}, {"half": half}),
    "penalty": ({"penalties": {cube: 0.1}}, {"cube": cube}),
    "of a name of the library": ({"activation": tanh}, {"tanh": tanh}),
}


@pytest.mark.parametrize("own", OWN)
def test_rules_of_ones_own_come_back_by_name(own: str, path: Path) -> None:
    settings, rules = OWN[own]
    net = make(**settings)
    assert_same(net, reloaded(net, path, **rules))
    with pytest.raises(FileError, match=r"is a custom rule.*rules="):
        MLP.load(path)


class Descent:
    learning_rate = 0.1
    rule = staticmethod(descent)

    def coefficients(self, first_step: int, rates: Any) -> Any:
        return rates[:, None]


def test_rules_without_a_name_are_refused(path: Path) -> None:
    for settings in (
        {"activation": lambda z: (z, 1 + 0 * z)},
        {"optimizer": SGD(lambda s, t: 0.1 + 0 * s)},
    ):
        with pytest.raises(
            ValueError, match=r"'<lambda>' has no name .* define it with `def`"
        ):
            make(**settings).save(path)
    with pytest.raises(ValueError, match="'mse' with changed settings has no name"):
        make(loss=Loss(LOSSES["mse"].rule, over_outputs="sum")).save(path)
    assert not path.exists()


def test_an_optimizer_of_ones_own_comes_back(path: Path) -> None:
    net = make(optimizer=Descent())
    optimizer = Descent()
    assert reloaded(net, path, Descent=optimizer).optimizer is optimizer


def test_what_is_not_finite_or_no_path_is_not_saved(path: Path) -> None:
    net = make()
    net.save(path)
    before = path.read_bytes()
    net.parameters[3] = np.nan
    with pytest.raises(ValueError, match="a parameter is not finite"):
        net.save(path)
    assert path.read_bytes() == before
    make().save(path)
    with pytest.raises(TypeError, match="rules must be a mapping"):
        MLP.load(path, rules=[cube])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="n_threads must be an integer"):
        MLP.load(path, n_threads=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="include_training_state must be True or False"):
        make().save(path, include_training_state=1)  # type: ignore[arg-type]
    assert MLP.load(path, n_threads=1).n_threads == 1


def test_the_training_state_of_a_running_fit_is_not_to_be_had(path: Path) -> None:
    def save(report: Any) -> None:
        report.net.save(path)
        report.net.save(path, include_training_state=True)

    net = make()
    with pytest.raises(RuntimeError, match=r"MLP.save: a fit of this net is running"):
        net.fit(X, Y, epochs=1, callbacks=save)
    assert MLP.load(path).predict(X).tobytes() == net.predict(X).tobytes()


def nested(depth: int) -> Any:
    if depth:
        return {"name": "Warmup", "schedule": nested(depth - 1), "n_steps": 1}
    return 0.1


# What a header says, beside its arrays:
# what no setting of a net is, or more than the file holds.
LIES: dict[str, tuple[dict[str, Any], str]] = {
    "more parameters": ({"layer_sizes": [1 << 40, 1 << 21, 1]}, "but holds 63"),
    "more layers": ({"layer_sizes": [3] * 9}, "claims 8 layers, but holds 5"),
    "other sizes": ({"layer_sizes": [4, 3, 1]}, "weights.0 must be"),
    "another dtype": ({"dtype": "float64"}, "must be float64"),
    "another kind": ({"kind": "FOREST"}, "of kind 'FOREST'"),
    "unknown loss": ({"loss": "mse2"}, "unknown loss"),
    "schedules in schedules": (
        {"optimizer": {"name": "sgd", "learning_rate": nested(9)}},
        "than 8",
    ),
    "setting too many": (
        {"optimizer": {"name": "adam", "speed": 2}},
        "unexpected keyword",
    ),
    "many penalties": ({"penalties": [["l2", 1]] * 1001}, "1,001 penalties"),
    "half a step": ({"n_steps": 0.5}, "n_steps must be"),
    "bad generator": ({"generator": {"bit_generator": "os"}}, "unknown generator"),
    "a name for code": ({"loss": {"own": "os.system"}}, "custom rule"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused(lie: str, path: Path) -> None:
    net = make(l2=0.1)
    net.fit(X, Y, epochs=1)
    net.save(path, include_training_state=True)
    content = files.read(path)
    (change, words) = LIES[lie]
    files.write(path, content._replace(header=content.header | change))
    with pytest.raises(FileError, match=words) as caught:
        MLP.load(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(number: float, path: Path) -> None:
    make().save(path)
    content = files.read(path)
    content.arrays["biases.0"][2] = number
    files.write(path, content)
    with pytest.raises(FileError, match=r"biases.0 must be finite float32"):
        MLP.load(path)


# Golden files: written once by the format in their name, and anew for another format.


def golden_data() -> tuple[Any, Any]:
    return np.arange(60.0).reshape(20, 3) % 7 / 7, np.arange(20) % 3


EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_this_format_loads(name: str) -> None:
    net = MLP.load(GOLDEN / name)
    expected = EXPECTED[name]
    x, y = golden_data()
    tolerance = 1e-5 if net.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(net.predict(x), expected["predictions"], rtol=tolerance)
    assert repr(net) == expected["repr"]
    if "losses" in expected:
        history = net.fit(x, y, epochs=3, batch_size=7)
        np.testing.assert_allclose(
            history.loss, expected["losses"], rtol=100 * tolerance
        )


def test_a_checkpoint_of_this_format_resumes(path: Path) -> None:
    path.write_bytes((GOLDEN / "2-checkpoint.safetensors").read_bytes())
    x, y = golden_data()
    net = MLP(
        (3, 5, 3), activation="tanh", loss="cross_entropy", seed=9, dtype="float64"
    )
    history = net.fit(x, y, epochs=6, batch_size=7, checkpoint=path, resume=True)
    expected = EXPECTED["2-checkpoint.safetensors"]["all_losses"]
    np.testing.assert_allclose(history.loss, expected, rtol=1e-10)


def test_two_threads_may_save_one_net(path: Path) -> None:
    net = MLP((30, 100, 1), seed=0)

    in_threads(lambda i: [net.save(path) for _ in range(20)], 2)
    assert MLP.load(path).parameters.tobytes() == net.parameters.tobytes()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
