"""Mistakes of those who come from other libraries, beside the calls of `messages`."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import uniform

import fastmlp
from fastmlp import MLP, FileError, MLPClassifier
from fastmlp.validation import messages

# What newcomers type, from the first pages of scikit-learn, Keras, PyTorch and
# LightGBM, and the words of the message that tell what to type.
MISTAKES = {
    # PyTorch
    "Adam(net.parameters())": "'numpy.ndarray' object is not callable",
    "Adam(net.parameters)": "MLP(layer_sizes, optimizer=Adam(0.01))",
    "net.optimizer.learning_rate = 0.1": "dataclasses.replace(net.optimizer, learn",
    "net.optimizer.step()": "net.train_on_batch(X, y)",
    "net.train()": "net.fit(X, y)",
    "net.eval()": "there is one mode",
    "net(X)": "net.predict(X)",
    "net.forward(X)": "net.predict(X)",
    "net.zero_grad()": "net.train_on_batch(X, y)",
    "net.backward()": "net.train_on_batch(X, y)",
    "net.state_dict()": "use parameters, or save and load",
    "net.cuda()": "net.to('cuda')",
    "net.layers[0]": "biases and layer_sizes have an item",
    "list(net.named_parameters())": "weights and biases are its parts",
    "net.weights[0] = np.zeros((8, 3))": "has the shape (3, 8)",
    "net[0]": "not subscriptable",
    "from fastmlp import nn": "MLP((n_inputs, 32, n_outputs))",
    "from fastmlp.nn import Linear": "No module named 'fastmlp.nn'",
    "MLP((3, 8, 1), dtype='bfloat16')": "compute_dtype='bfloat16'",
    "MLP((3, 8, 1), loss='CrossEntropyLoss')": "did you mean 'cross_entropy'?",
    "SGD(0.1, weight_decay=1e-4)": "MLP(layer_sizes, l2=...)",
    "SGD(lr=0.1, momentum=0.9)": "did you mean 'learning_rate'?",
    "Adam(-1e-3)": "must be a finite number above 0",
    "net.fit(X.astype(complex), y)": "must hold real numbers",
    # Keras
    "from fastmlp import Sequential": "MLP((n_inputs, 32, n_outputs))",
    "from fastmlp import Dense": "MLP((n_inputs, 32, n_outputs))",
    "from fastmlp import ModelCheckpoint": "checkpoint='net.safetensors'",
    "net.compile(optimizer='adam')": "MLP(layer_sizes, loss=..., optimizer=...)",
    "net.evaluate(X, y)": "net.loss_and_gradient(X, y)[0]",
    "net.add(8)": "MLP((n_inputs, 32, n_outputs))",
    "net.get_weights()": "net.weights[0]",
    "net.set_weights([])": "net.weights[0] = W",
    "net.save_weights('w.h5')": "use save and MLP.load",
    "net.save('m.keras')": "name it 'm.safetensors'",
    "fastmlp.load_model('m.keras')": "fastmlp.load(path)",
    "net.fit(X, y, epochs=1).history": "history.loss, history.validation_loss",
    "net.fit(X, y, verbose=2)": "did you mean 'progress'?",
    "net.fit(X, y, callbacks=[EarlyStopping(monitor='val_loss')])": "'validation_loss'?",
    "net.fit(X, y, metrics=['accuracy'])": "validation_split=0.1",
    "net.fit(X, y, validation_data=X)": "validation_data=(X_val, y_val)",
    "net.fit(X, y, validation_data=(X,))": "validation_data=(X_val, y_val)",
    "net.fit(X, y, batch_size=0)": "an integer of 1 or more",
    "net.fit(X, y, epochs=10.0)": "an integer of 1 or more",
    "net.fit(X, y, class_weight={0: 1, 1: 5})": "use sample_weight",
    "MLP((3, 8, 1), loss='binary_cross_entropy')"
    ".fit(X, c.astype(str), class_weight='balanced')": "take integers, classes, y =",
    "net.fit([[1, 2, 3], [4, 5]], [1, 2])": "row 0 has 3 numbers, row 1 has 2",
    "MLP((3, 8, 2), loss='categorical_crossentropy')": "did you mean 'cross_entropy'?",
    "MLP((3, 8, 1), loss='cross_entropy')": "use loss='binary_cross_entropy'",
    "MLP([8, 1], input_shape=(3,))": "did you mean 'layer_sizes'?",
    "MLP((3, 8, 1), activation='softmax')": "it comes with loss='cross_entropy'",
    "MLP((3, 8, 1), optimizer='adamm')": "did you mean 'adam'?",
    "MLP((3, 8, 1), optimizer=ReduceLROnPlateau())": "callbacks=ReduceLROnPlateau()",
    "MLP(3, 8, 1)": "MLP((3, 8, 1))",
    "net.loss = 'mae'": "set when the net is made",
    "net.dropout = 0.9": "MLP(layer_sizes, dropout=...)",
    "net.learning_rate = 10.0": "net.optimizer = Adam(0.01)",
    # scikit-learn
    "MLPClassifier().fit(X, y)": "for numbers take MLPRegressor",
    "MLPClassifier(n_jobs=0).fit(X, c)": "[1, inf) or None. Got 0",
    "MLPClassifier(solver='lbfg').fit(X, c)": "Did you mean 'lbfgs'?",
    "MLPClassifier(hidden_layers=(8,))": "did you mean 'hidden_layer_sizes'?",
    "MLPClassifier().predict(X)": "Call 'fit'",
    "MLPClassifier().fit(X, c[:50])": "[60, 50]",
    "MLPClassifier().fit(X + np.nan, c)": "TabularMLPClassifier and TabularMLPRegressor",
    "MLPClassifier().fit([[1, 2, 3], [4, 5]], [0, 1])": "row 0 has 3 numbers, row 1 has",
    "MLPRegressor().fit([[1, 2, 3], [4, 5]], [1, 2])": "row 0 has 3 numbers, row 1 has",
    "MLPRegressor().predict_proba(X)": "regressors have predict",
    "MLPRegressor().save('m.safetensors')": "use fastmlp.save(model, path)",
    "MLPSearchCV(MLPRegressor(), {'alpha': uniform(0, 1)}).fit(X, y)": (
        "param_distributions=... takes"
    ),
    "fastmlp.fold(fastmlp.Standardizer().fit(X), net)": "the model comes first",
    "net.score(X, y)": "MLPClassifier and MLPRegressor have score",
    "net.predict_proba(X)": "predict returns probabilities",
    # LightGBM and its like
    "TabularMLPClassifier(num_leaves=31)": "preset='fast', 'balanced' or 'best'",
    "TabularMLPRegressor(objective='mae')": "did you mean 'loss'?",
    "TabularMLPRegressor(preset='accurate').fit(X, y)": "must be a str among {",
    "TabularMLPClassifier().fit(X, y)": "TabularMLPRegressor learns numbers",
    "TabularMLPClassifier(n_jobs=0).fit(X, c)": "[1, inf) or None. Got 0",
    "TabularMLPClassifier().fit(X, c, categorical_feature=[0])": "categorical_features=",
    "TabularMLPRegressor().fit(X, y, eval_set=[(X, y)])": "X_val=X_val, y_val=y_val",
    "TabularMLPRegressor().fit(X, y, early_stopping_rounds=5)": "early_stopping=...",
    "TabularMLPRegressor().fit([[1, 2], [4]], [1, 2])": "row 0 has 2 numbers, row 1 has",
    "TabularMLPRegressor().fit('no.csv', target='y')": "there is no file 'no.csv'",
    "TabularMLPRegressor().save_model('m.txt')": "use fastmlp.save(model, path)",
    "TabularMLPRegressor().booster_": "members_",
    "fastmlp.Dataset(X, label=y)": "net.fit(X, y, batch_size=32)",
    "fastmlp.train({}, X)": "TabularMLPRegressor().fit(X, y)",
    # Files and calls
    "fastmlp.load('.')": "'.' is a folder",
    "fit_many([net], X, y, validation_data=(X, y))": "use validation_split=0.2",
    "fit_many([net, net], X, y)": "make another, or copy it",
    "html_report(net)": "call html_report(model, X, y)",
}


@pytest.mark.parametrize("call", MISTAKES)
def test_a_mistake_is_answered_with_what_to_type(call: str) -> None:
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = X @ [1.0, 2.0, 3.0]
    names = {name: getattr(fastmlp, name) for name in fastmlp.__all__}
    names |= {
        "fastmlp": fastmlp,
        "uniform": uniform,
        "np": np,
        "X": X,
        "y": y,
        "c": (y > 0).astype(int),
    }
    with pytest.raises(Exception) as caught:  # noqa: PT011
        exec(call, {**names, "net": MLP((3, 8, 1), seed=0)})
    message = str(caught.value)
    assert MISTAKES[call] in message
    assert len(message) < 1200


@pytest.mark.parametrize("name", ["Sequential", "Dense", "ModelCheckpoint", "optim"])
def test_an_import_by_name_has_advice(name: str) -> None:
    with pytest.raises(ImportError) as caught:
        exec(f"from fastmlp import {name}", {})
    assert str(caught.value).endswith(messages.names()[name])
    assert not hasattr(fastmlp, name)


def test_submodules_are_imported_as_ever() -> None:
    exec("from fastmlp import cluster, report, tabular", {})


def test_a_name_that_is_no_mistake_is_an_import_error_as_ever() -> None:
    with pytest.raises(ImportError, match="cannot import name 'frobnicate'"):
        exec("from fastmlp import frobnicate", {})


def test_names_of_others_are_not_names_here() -> None:
    assert not messages.names().keys() & {*dir(fastmlp)}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x80\x04N.", "a pickle, which fastmlp does not run"),
        (b"\x89HDF\r\n\x1a\n", "a file of HDF5, such as one of Keras"),
        (b"", "not a safetensors file, or one that was cut short"),
    ],
)
def test_a_file_of_another_format_is_named(
    content: bytes, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    for load in (fastmlp.load, MLP.load):
        with pytest.raises(FileError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: {kind}")


def test_a_zip_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", b"...")
    with pytest.raises(FileError, match="a zip archive, such as a file of PyTorch"):
        fastmlp.load(path)


def test_a_refused_name_leaves_no_file(tmp_path: Path) -> None:
    for name in ("m.keras", "m.H5", "m.pt", "m.pickle", "m.onnx"):
        with pytest.raises(ValueError, match=r"name it 'm\.safetensors'"):
            MLP((2, 1), seed=0).save(tmp_path / name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastmlp.Adam(MLP((30, 30, 1)).parameters),  # type: ignore[arg-type]
        lambda: fastmlp.SGD(momentum=np.zeros(999)),  # type: ignore[arg-type]
        lambda: MLPClassifier().fit(np.ones((999, 2)), np.linspace(0, 1, 999)),
    ],
)
def test_arrays_are_not_printed(call: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert len(str(caught.value)) < 250
