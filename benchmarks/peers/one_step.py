"""A step that is called from Python, and other small calls, as each library has them.

`ways(contestant, task, quick)` are the ways of a contestant by name, of which a peer's
fastest counts. Rows are in the library's own form before the clock starts; the steps of
a call take one batch after the other, and the call ends when they are done.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import cycle, islice
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers import Unsupported, missing
from benchmarks.peers import load as module_of
from benchmarks.race import repeated, timed
from benchmarks.workloads import Array, Workload, flat, sized

# A batch is another one in each step, of so many.
MOST_BATCHES = 64
# A long fit, whose steps have next to nothing of its fixed cost.
LONG_SECONDS = 0.05
# Of the rows of a stream the first ones say where its targets are.
FIRST_ROWS = 50
HIDDEN = (32, 32)
RATE = 0.01


class Way(NamedTuple):
    """A function that makes so many calls.

    Attributes
    ----------
    units : steps, or rows, of a call
    parameters : all weights, then all biases, as they are now
    mae : the mean absolute error of a pass over the stream
    """

    run: Callable[[int], Any]
    units: int = 1
    parameters: Callable[[], Array] | None = None
    mae: float | None = None


Ways = dict[str, Way]


def makers(task: Any) -> dict[str, Callable[[Any], Ways]]:
    """By contestant what makes its ways of a task:
    a workload, or the name of another call.
    """
    return STEPS if isinstance(task, Workload) else CALLS[task]


def ways(contestant: str, task: Any, quick: bool) -> Ways:
    """A contestant's ways of a task."""
    if isinstance(task, Workload):
        return STEPS[contestant](sized(task, quick))
    return CALLS[task][contestant](quick)


def batches_of(
    load: Workload, form: Callable[[Array], Any] = np.ascontiguousarray
) -> list[Any]:
    """Pairs of rows and targets, of batches in the order of the rows."""
    x, y = load.data()
    batches = []
    for step in range(min(load.n_steps, MOST_BATCHES)):
        rows = load.rows(step)
        batches.append((form(x[rows]), form(y[rows])))
    return batches


def over(
    batches: Iterable[Any],
    step: Callable[[Any, Any], Any],
    first: Callable[[], Any] | None = None,
    then: Callable[[], Any] | None = None,
) -> Callable[[int], None]:
    """A function that takes so many steps,
    between what comes first and what comes then.
    """
    endless = cycle(batches)

    def run(n: int) -> None:
        if first:
            first()
        for x, y in islice(endless, n):
            step(x, y)
        if then:
            then()

    return run


def fastmlp_steps(load: Workload) -> Ways:
    module = module_of("fastmlp")
    batches = batches_of(load)
    run = module.make(load)
    parts = {}
    seconds, _ = min(timed(partial(run.epochs, 1)) for _ in range(3))
    epochs = max(1, int(LONG_SECONDS / seconds))
    parts[INSIDE] = Way(repeated(run.epochs, epochs), epochs * load.n_steps)
    net = module.make(load).net
    if hasattr(net, "train_on_batch"):
        run_all = over(batches, net.train_on_batch)
        parts[OURS] = Way(run_all, parameters=net.parameters.copy)
        from fastmlp import Adam

        other = module.make(load).net
        third = module.make(load).net
        rules = [Adam(RATE / (1 + i)) for i in range(MOST_BATCHES)]
        at_another_rate = partial(_at_another_rate, other, cycle(rules))
        parts[SIZES] = Way(over(_of_other_sizes(batches), third.train_on_batch))
        parts[RATES] = Way(over(batches, at_another_rate))
    other = module.make(load).net
    fit = partial(other.fit, epochs=1, batch_size=load.batch, shuffle=False)
    parts[FIT] = Way(over(batches, fit), parameters=other.parameters.copy)
    if load.loss == "mse":
        from fastmlp import MLPRegressor

        model = MLPRegressor(
            hidden_layer_sizes=load.sizes[1:-1],
            activation=load.activation,
            alpha=load.l2,
            batch_size=load.batch,
            learning_rate_init=load.rule.rate,
            random_state=0,
        )
        # One output is a column for a net, and a vector for an estimator.
        if load.sizes[-1] == 1:
            batches = [(x, y[:, 0]) for x, y in batches]
        parts[PARTIAL_FIT] = Way(over(batches, model.partial_fit))
    return parts


def _of_other_sizes(batches: Sequence[Any]) -> list[Any]:
    """Return batches, each with another number of rows, in an order of no rule."""
    rng = np.random.default_rng(0)
    most = len(batches[0][0])
    numbers = rng.integers(1, most, len(batches), endpoint=True)
    return [(x[:n], y[:n]) for (x, y), n in zip(batches, numbers, strict=True)]


def _at_another_rate(net: Any, rules: Iterator[Any], x: Array, y: Array) -> None:
    net.optimizer = next(rules)
    net.train_on_batch(x, y)


def sklearn_steps(load: Workload) -> Ways:
    run = module_of("sklearn").make(load)
    batches = []
    for step in range(min(load.n_steps, MOST_BATCHES)):
        rows = load.rows(step)
        batches.append((run.x[rows], run.y[rows]))
    run_all = over(batches, run.net.partial_fit)
    return {PARTIAL_FIT: Way(run_all, parameters=run.parameters)}


def jax_steps(load: Workload) -> Ways:
    """Jitted steps with donated state: optax's Adam;
    or written out, on layers and on a vector.
    """
    import jax
    import optax

    module = module_of("jax")

    def waiting(run: Any) -> None:
        jax.block_until_ready(run.state)

    batches = [module.placed(*batch) for batch in batches_of(load)]
    parts = {}
    variants = {"jit": "gather ahead", "jit, one vector": "one flat vector"}
    for name, variant in variants.items():
        run = module.make(load, variant)
        written = jax.jit(run._step, donate_argnums=0)

        def step(x: Any, y: Any, run: Any = run, step: Any = written) -> None:
            run.state, _ = step(run.state, x, y)

        done = partial(waiting, run)
        parts[name] = Way(over(batches, step, then=done), parameters=run.parameters)
    run = module.make(load, "gather ahead")
    adam = optax.adam(load.rule.rate)

    @partial(jax.jit, donate_argnums=(0, 1))
    def updated(p: Any, state: Any, x: Any, y: Any) -> Any:
        loss, g = jax.value_and_grad(run._objective)(p, x, y)
        change, state = adam.update(g, state, p)
        return optax.apply_updates(p, change), state, loss

    run.state = (run.state[0], adam.init(run.state[0]))

    def by_optax(x: Any, y: Any) -> None:
        *state, _ = updated(*run.state, x, y)
        run.state = tuple(state)

    run_all = over(batches, by_optax, then=partial(waiting, run))
    parts["jit, optax"] = Way(run_all, parameters=run.parameters)
    return parts


def torch_steps(name: str, variants: Sequence[str], load: Workload) -> Ways:
    """Eager steps with the fused Adam, or steps that are one graph."""
    import torch

    batches = batches_of(load, torch.from_numpy)
    parts = {}
    for variant in variants:
        run = module_of(name).make(load, variant)
        threads = partial(torch.set_num_threads, run.n_threads)
        title = variant.replace("gather each epoch", "fused Adam")
        run_all = over(batches, run.step, first=threads)
        parts[title] = Way(run_all, parameters=run.parameters)
    return parts


def keras_steps(load: Workload) -> Ways:
    """`train_on_batch`, and a step by GradientTape in one `tf.function`,
    with XLA and without.
    """
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    keras = import_module("keras")
    tf = import_module("tensorflow")
    loss = {
        "mse": keras.losses.MeanSquaredError(),
        "cross_entropy": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }[load.loss]

    def model() -> Any:
        layers = [keras.Input(load.sizes[:1])]
        for n in load.sizes[1:-1]:
            layers.append(keras.layers.Dense(n, activation=load.activation))
        layers.append(keras.layers.Dense(load.sizes[-1]))
        net = keras.Sequential(layers)
        net.set_weights([part for layer in load.start() for part in layer])
        adam = keras.optimizers.Adam(load.rule.rate, epsilon=1e-8)
        net.compile(adam, loss)
        adam.build(net.trainable_variables)
        return net

    def parameters(net: Any) -> Array:
        parts = net.get_weights()
        return flat(zip(parts[::2], parts[1::2], strict=True))

    def step_of(net: Any) -> Callable[[Any, Any], Any]:
        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                objective = loss(y, net(x, training=True))
            slopes = tape.gradient(objective, net.trainable_variables)
            net.optimizer.apply(slopes, net.trainable_variables)
            return objective

        return step

    net = model()
    batches = batches_of(load)
    tensors = batches_of(load, tf.constant)
    run_all = over(batches, net.train_on_batch)
    parts = {OURS: Way(run_all, parameters=partial(parameters, net))}
    compilers = {"tf.function": {}, "tf.function, XLA": {"jit_compile": True}}
    for name, options in compilers.items():
        net = model()
        step = tf.function(step_of(net), **options)
        parts[name] = Way(over(tensors, step), parameters=partial(parameters, net))
    return parts


INSIDE = "inside fit"
OURS = "train_on_batch"
FIT = "fit"
PARTIAL_FIT = "partial_fit"
SIZES = "other sizes"
RATES = "other rates"
STEPS: dict[str, Callable[[Workload], Ways]] = {
    "fastmlp": fastmlp_steps,
    "sklearn": sklearn_steps,
    "jax": jax_steps,
    "torch": partial(
        torch_steps, "torch", ("gather each epoch", "gather each epoch, one thread")
    ),
    "compile": partial(torch_steps, "compile", ("whole step, C++ wrapper",)),
    "keras": keras_steps,
}


def iris(library: str, quick: bool) -> Ways:
    """A fit of one epoch of scikit-learn's estimator,
    or of fastmlp's, with the defaults.
    """
    from sklearn.datasets import load_iris

    model = import_module(library).MLPClassifier(max_iter=1, random_state=0)
    return {FIT: Way(repeated(model.fit, *load_iris(return_X_y=True)))}


def table_row(library: str, quick: bool) -> Ways:
    """A prediction of one row of a frame of numbers and categories."""
    from benchmarks.bench_tables import made_up
    from benchmarks.tabular.models import pack_of

    n_rows = 200 if quick else 5_000
    preset = "fast" if quick else "balanced"
    frame, y = made_up(n_rows)
    if library == "lightgbm":
        texts = list(frame.select_dtypes(exclude="number"))
        frame[texts] = frame[texts].astype("category")
        model = import_module("lightgbm").LGBMRegressor(verbose=-1).fit(frame, y)
    else:
        model = pack_of("regression", 2, 0, preset=preset).fit(frame, y)
    return {"predict": Way(repeated(model.predict, frame[:1]))}


def stream_of(quick: bool) -> tuple[Array, Array, float]:
    """Rows of river's TrumpApproval and their targets,
    standardised, and the unit of errors.

    Inputs by the rows so far, as river's `StandardScaler` does;
    targets by the first rows.
    """
    if why := missing("river"):
        raise Unsupported(why)
    datasets = import_module("river.datasets")
    scaler = import_module("river.preprocessing").StandardScaler()
    n_rows = 100 if quick else None
    rows = []
    targets = []
    for x, y in islice(datasets.TrumpApproval(), n_rows):
        scaler.learn_one(x)
        rows.append([*scaler.transform_one(x).values()])
        targets.append(y)
    first = np.array(targets[:FIRST_ROWS])
    y = (np.array(targets) - first.mean()) / first.std()
    return np.array(rows, np.float32), y.astype(np.float32), float(first.std())


def streamed(
    quick: bool,
    makers: Mapping[str, Callable[[Any], Any]],
    rows_of: Callable[[Array], list[Any]],
    targets_of: Callable[[Array], list[Any]],
) -> Ways:
    """Ways that predict each row before they learn it, from a new learner in each pass.

    Parameters
    ----------
    makers : from the first row to a new learner's functions of a row, predict and learn
    rows_of, targets_of : rows and targets in the form that the learners take
    """
    x, y, unit = stream_of(quick)
    rows = rows_of(x)
    targets = targets_of(y)
    parts = {}

    def learn(make: Callable[[Any], Any]) -> list[Any]:
        predict, learn_row = make(rows[0])
        predictions = []
        for row, target in zip(rows, targets, strict=True):
            predictions.append(predict(row))
            learn_row(row, target)
        return predictions

    for name, make in makers.items():
        predictions = np.array([float(np.ravel(p)[0]) for p in learn(make)])
        errors = np.abs(predictions - y)[FIRST_ROWS:]
        mae = unit * float(errors.mean())
        parts[name] = Way(repeated(learn, make), len(rows), mae=mae)
    return parts


def fastmlp_stream(quick: bool) -> Ways:
    from fastmlp import MLP, Adam

    def make(row: Array) -> Any:
        net = MLP((row.shape[1], *HIDDEN, 1), optimizer=Adam(RATE), seed=0)
        # A checkout before `train_on_batch` has `fit` alone.
        by_fit = partial(net.fit, epochs=1, batch_size=1)
        return net.predict, getattr(net, OURS, by_fit)

    name = f"MLP of {'-'.join(map(str, HIDDEN))}, Adam"
    return streamed(quick, {name: make}, _tables, lambda y: list(y[:, None, None]))


def sklearn_stream(quick: bool) -> Ways:
    from sklearn.linear_model import SGDRegressor
    from sklearn.neural_network import MLPRegressor

    net = partial(
        MLPRegressor,
        hidden_layer_sizes=HIDDEN,
        learning_rate_init=RATE,
        batch_size=1,
        alpha=0.0,
    )

    def make(kind: Any, row: Array) -> Any:
        model = kind(random_state=0).partial_fit(row, [0.0])
        return model.predict, model.partial_fit

    name = f"MLPRegressor of {'-'.join(map(str, HIDDEN))}, Adam"
    kinds = {name: net, "SGDRegressor": SGDRegressor}
    makers = {name: partial(make, kind) for name, kind in kinds.items()}
    return streamed(quick, makers, _tables, lambda y: list(y[:, None]))


def river_stream(quick: bool) -> Ways:
    linear = import_module("river.linear_model")
    trees = import_module("river.tree")

    def make(kind: Any, row: Any) -> Any:
        model = kind()
        return model.predict_one, model.learn_one

    kinds = (linear.LinearRegression, trees.HoeffdingTreeRegressor)
    makers = {kind.__name__: partial(make, kind) for kind in kinds}
    return streamed(
        quick,
        makers,
        lambda x: [dict(enumerate(row)) for row in x.tolist()],
        lambda y: y.tolist(),
    )


def _tables(x: Array) -> list[Array]:
    """Each row as a table of one."""
    return list(x[:, None, :])


CALLS: dict[str, dict[str, Callable[[bool], Ways]]] = {
    "iris": {
        "fastmlp": partial(iris, "fastmlp"),
        "sklearn": partial(iris, "sklearn.neural_network"),
    },
    "table row": {
        "fastmlp": partial(table_row, "fastmlp"),
        "lightgbm": partial(table_row, "lightgbm"),
    },
    "stream": {
        "fastmlp": fastmlp_stream,
        "sklearn": sklearn_stream,
        "river": river_stream,
    },
}
