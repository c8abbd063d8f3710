"""The arguments of a fit and its rows, checked for `MLP.fit` and `fit_many`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fastmlp._process import warn
from fastmlp.backends.protocol import Data, Engine
from fastmlp.data import sources
from fastmlp.data.arrow import paths_of
from fastmlp.data.blocks import in_blocks
from fastmlp.data.feed import Buffers, Feed, feed_of, tabled
from fastmlp.network.heads import refuse
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.rules.dropout import Dropout, Rate
from fastmlp.rules.optimizer_protocol import SWA, Optimizer, average_of
from fastmlp.rules.schedules import is_known, rates_of
from fastmlp.training import metrics as of_metrics
from fastmlp.training.history import Callback
from fastmlp.training.loop import ByBuffers, Request
from fastmlp.training.metrics import OF_SCORERS, Metrics
from fastmlp.training.stopping import EarlyStopping, ReduceLROnPlateau
from fastmlp.validation import Array, arrays, frames, gaps, scalars
from fastmlp.validation.calls import misfit
from fastmlp.validation.frames import is_table
from fastmlp.validation.heads import HeadForms
from fastmlp.validation.messages import count, listed

ValidationData = (
    tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike | None]
)
Listener: TypeAlias = Callback | EarlyStopping | ReduceLROnPlateau
EVERY = timedelta(minutes=1)
MONITORS = {
    "validation_loss": "val_loss valid_loss",
    "loss": "train_loss training_loss",
}
SERIES_SYNONYMS = {
    "derivative_loss": "gradient_loss jacobian_loss",
    "validation_derivative_loss": "val_derivative_loss",
}


@dataclass(frozen=True)
class FitOptions(sources.Reading):
    """The arguments of a fit but its rows; `Reading` is checked with a source.

    Attributes
    ----------
    target : columns of y, where the source is files or a table
    early_stopping, plateau : settings with a known mode, or None
    has_factors : factors are beside targets, also without gaps
    metrics : by their names
    time_limit : seconds, or None
    within_epochs : the time may also end within an epoch, the first one too
    progress : bool, or a bar in which epochs are counted
    heads : names of the net's, or ()
    """

    epochs: int = 1
    batch_size: int = 1
    shuffle: bool = True
    who: str = "MLP.fit"
    target: Any = None
    validated: bool = False
    callbacks: tuple[Callback, ...] = ()
    early_stopping: EarlyStopping | None = None
    plateau: ReduceLROnPlateau | None = None
    metrics: Metrics = field(default_factory=dict)
    time_limit: float | None = None
    within_epochs: bool = False
    progress: Any = False
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int | timedelta = EVERY
    resume: bool = False
    average_every: int | None = None
    heads: tuple[str, ...] = ()
    has_factors: bool = False

    @classmethod
    def checked(
        cls,
        who: str,
        *,
        callbacks: Any = (),
        early_stopping: Any = None,
        keep_best: Any = False,
        metrics: Any = None,
        validation_data: Any = None,
        validation_rows: Any = None,
        missing_targets: Any = "raise",
        derivatives: tuple[bool, bool] = (False, False),
        **fields: Any,
    ) -> Self:
        """Checked options of a fit.

        `fields` are the arguments with names of fields. `derivatives` are two: True if
        the rows to train on have derivatives, and if the rows to validate on have them.
        """
        # Defaults are attributes of the class: its `__init__` takes 6 us.
        options = cls.__new__(cls)
        own = vars(options)
        own.update(fields, who=who)
        for name in ("epochs", "batch_size"):
            own[name] = scalars.positive_integer(who, name, getattr(options, name))
        scalars.boolean(who, "shuffle", options.shuffle)
        scalars.boolean(who, "progress", options.progress)
        checkpoints = (options.checkpoint, options.checkpoint_every, options.resume)
        own["checkpoint_every"] = _checkpoint(*checkpoints, who)
        if missing_targets != "raise":
            own["ignores_gaps"] = gaps.checked(missing_targets, who)
        given = validation_data is not None
        splits = options.validation_split is not None
        if splits and (given or validation_rows is not None):
            if validation_rows is None:
                name = "validation_data"
            else:
                name = "validation_rows"
            raise ValueError(f"{who}: give {name} or validation_split, not both")
        own["validated"] = validated = given or splits or validation_rows is not None
        if options.heads and options.class_weight is not None:
            raise refuse("class_weight", who)
        functions, stopping, plateau, asked = _listeners(
            callbacks, early_stopping, keep_best, who
        )
        own["callbacks"], own["metrics"] = (
            functions,
            of_metrics.metrics_of(metrics, who),
        )
        if options.metrics and not validated:
            raise ValueError(f"{who}: metrics are of validation rows: {_advice(who)}")
        trains, validates = derivatives
        both = zip(
            SERIES_SYNONYMS, (trains, trains and (validates or splits)), strict=True
        )
        monitors = MONITORS | {
            name: SERIES_SYNONYMS[name] for name, is_known in both if is_known
        }
        for name in options.heads:
            monitors |= {f"{name}_loss": "", f"validation_{name}_loss": ""}
        look = options.metrics, monitors, validated, who
        if stopping is not None:
            own["early_stopping"] = _resolved(stopping, *look, asked)
        if plateau is not None:
            own["plateau"] = _resolved(plateau, *look)
        own["time_limit"] = scalars.seconds(who, "time_limit", options.time_limit)
        return options

    def having(self, **fields: Any) -> Self:
        """A copy with other values of fields; `dataclasses.replace` takes 13 us."""
        options = object.__new__(type(self))
        vars(options).update(vars(self), **fields)
        return options

    @property
    def look_at_epochs(self) -> bool:
        return self.early_stopping is not None or self.plateau is not None

    def check_rows(self, network: Network, held_out: Data | None, who: str) -> None:
        if held_out is not None:
            of_metrics.check(self.metrics, network, held_out, who)
            return
        watches = (self.early_stopping, self.plateau)
        of_heads = [f"{name}_loss" for name in self.heads]
        of_training = ("loss", "derivative_loss", *of_heads)
        if self.metrics or [
            look for look in watches if look and look.monitor not in of_training
        ]:
            raise ValueError(
                f"{who}: there are no validation rows to look at: {_advice(who)}"
            )

    def monitors(self) -> dict[str, Any]:
        """Monitors in use, by name, as JSON values:
        the bits of a fit depend on them.
        """
        settings = {
            "early_stopping": self.early_stopping and asdict(self.early_stopping),
            "reduce_lr_on_plateau": self.plateau and asdict(self.plateau),
            "metrics": list(self.metrics),
        }
        return {name: value for name, value in settings.items() if value}


def _listeners(
    callbacks: Any, early_stopping: Any, keep_best: Any, who: str
) -> tuple[tuple[Callback, ...], EarlyStopping | None, ReduceLROnPlateau | None, str]:
    """The functions to call, the settings that look at epochs,
    and the word for the first in the call.
    """
    if (
        type(callbacks) is tuple
        and not callbacks
        and early_stopping is None
        and keep_best is False
    ):
        return (), None, None, ""
    if isinstance(callbacks, Iterator):
        callbacks = list(callbacks)
    if isinstance(callbacks, Iterable):
        listeners = callbacks
    else:
        listeners = (callbacks,)
    kinds = (EarlyStopping, ReduceLROnPlateau)
    for listener in listeners:
        if listener in kinds:
            name = listener.__name__
            raise TypeError(f"{who}: callbacks has the class {name}: {name}(...)")
    settings = [listener for listener in listeners if isinstance(listener, kinds)]
    others = [listener for listener in listeners if not isinstance(listener, kinds)]
    functions = callbacks_of(others if settings else callbacks, who)
    stoppings = [
        listener for listener in settings if isinstance(listener, EarlyStopping)
    ]
    plateaus = [
        listener for listener in settings if isinstance(listener, ReduceLROnPlateau)
    ]
    asked = "EarlyStopping"
    if early_stopping is not None:
        stoppings.append(_early_stopping(early_stopping, who))
        asked = "early_stopping"
    for kind, n in zip(kinds, (len(stoppings), len(plateaus)), strict=True):
        if n > 1:
            raise ValueError(f"{who}: got {n} {kind.__name__}, at most one is possible")
    if scalars.boolean(who, "keep_best", keep_best):
        asked = asked if stoppings else "keep_best"
        if stoppings:
            stopping = stoppings[0]
        else:
            stopping = EarlyStopping(patience=None)
        stoppings = [replace(stopping, restore_best_weights=True)]
    return functions, next(iter(stoppings), None), next(iter(plateaus), None), asked


def callbacks_of(argument: Any, who: str) -> tuple[Callable[..., Any], ...]:
    """Check callbacks: a function, or a sequence of functions."""
    several = isinstance(argument, Iterable) and not callable(argument)
    functions: tuple[Any, ...] = tuple(argument) if several else (argument,)
    for function in functions:
        if callable(function):
            wrong = misfit(function, 1)
        else:
            wrong = _of_events(function)
        if wrong or not callable(function):
            raise TypeError(
                f"{who}: callbacks must be functions of one argument, the Report of an "
                f"epoch, got {function!r}{wrong}"
            )
    return functions


def _of_events(callback: object) -> str:
    """The end of a message about a callback whose methods are called at events, else
    "".
    """
    events = [name for name in dir(callback) if name.startswith("on_")]
    if not events:
        return ""
    return (
        f"; in the place of {', '.join(events[:3])} write a function: def log(report): "
        "print(report.epoch, report.loss); see 'How do I show progress, and log a fit?'"
    )


def _checkpoint(
    path: object, every: object, resume: object, who: str
) -> int | timedelta:
    scalars.boolean(who, "resume", resume)
    if path is None and resume:
        raise ValueError(
            f"{who}: resume=True needs checkpoint=, the file to go on from"
        )
    if path is not None:
        scalars.path(who, "checkpoint", path)
    if isinstance(every, timedelta):
        if every < timedelta(0):
            raise ValueError(
                f"{who}: checkpoint_every must be 0 or more, got {every!r}"
            )
        return every
    if isinstance(every, float):
        raise TypeError(
            f"{who}: checkpoint_every must be a number of epochs, an integer, or a "
            f"time: datetime.timedelta(seconds={every!r})"
        )
    return scalars.positive_integer(who, "checkpoint_every", every)


S = TypeVar("S", EarlyStopping, ReduceLROnPlateau)


def _resolved(
    settings: S,
    metrics: Metrics,
    monitors: Mapping[str, str],
    validated: bool,
    who: str,
    asked: str = "ReduceLROnPlateau",
) -> S:
    """The settings with their mode; `asked` is their word in the call.
    `monitors` are known beside the metrics, with their synonyms.
    """
    owner = f"{who}: {asked}"
    monitor = settings.monitor
    known = [*monitors, *metrics]
    name = next(
        (n for n in OF_SCORERS if monitor in f"{n} {OF_SCORERS[n]}".split()), None
    )
    if monitor not in known and name is not None and name not in metrics:
        instead = f"metrics={name!r}, {type(settings).__name__}(monitor={name!r})"
        raise ValueError(
            f"{owner}: monitor {monitor!r} is none of the metrics; give it: {instead}"
        )
    synonyms = {**monitors, **{name: OF_SCORERS.get(name, "") for name in metrics}}
    scalars.known(owner, "monitor", monitor, known, synonyms)
    looks = monitor in monitors and monitor.startswith("validation_")
    if looks and not validated:
        of_training = monitor.removeprefix("validation_")
        instead = f"{type(settings).__name__}(monitor={of_training!r})"
        raise ValueError(
            f"{owner} looks at validation rows: {_advice(who)}, or use {instead}"
        )
    mode = settings.mode or (metrics[monitor].mode if monitor in metrics else "min")
    if mode is None:
        raise ValueError(
            f"{owner}: monitor={monitor!r} needs mode='max' if higher is better, else "
            f"mode='min'"
        )
    return replace(settings, mode=mode)  # type: ignore[arg-type]


def _advice(who: str) -> str:
    if who.endswith(("Classifier.fit", "Regressor.fit")):
        return "give X_val and y_val, or early_stopping=True"
    if who.startswith("fit_many"):
        rows = "validation_rows="
    else:
        rows = "validation_data=(X_val, y_val)"
    return f"give {rows} or validation_split=0.1"


def _early_stopping(argument: Any, who: str) -> EarlyStopping:
    if isinstance(argument, EarlyStopping):
        return argument
    if isinstance(argument, bool) or not isinstance(argument, int | np.integer):
        hint = "; try early_stopping=10" if argument is True else ""
        raise TypeError(
            f"{who}: early_stopping must be a number of epochs or EarlyStopping(...), "
            f"got {argument!r}{hint}"
        )
    if argument < 0:
        raise ValueError(
            f"{who}: early_stopping must be 0 or more epochs, got {argument}"
        )
    return EarlyStopping(patience=int(argument))


# A rate that depends on the number of steps differs between these.
COMPARED_LENGTHS = (20_000, 30_000)


class RawRows(NamedTuple):
    """The rows of a fit as its caller passes them:
    arrays, or a source in the place of X.
    """

    X: Any
    y: Any
    sample_weight: Any
    validation_data: Any = None
    derivatives: Any = None

    def are_arrays(self, options: FitOptions) -> bool:
        """True for arrays of a fit that reads no source, whose checks take 15 us."""
        sizes = options.buffer_rows is options.steps_per_epoch is None
        plain = type(self.X) is np.ndarray and type(self.y) is np.ndarray
        return plain and sizes and self.validation_data is options.target is None


class FitRows(NamedTuple):
    """The rows of a fit, or of its first buffer if there is a feed,
    and to validate on.
    """

    feed: Feed | None
    data: Any
    held_out: Any
    names: frames.Names


def rows_of(
    engine: Engine[Any], raw: RawRows, options: FitOptions, names: frames.Names
) -> FitRows:
    """`names` : the columns of frames that the net knows, or None."""
    network = engine.network
    who = options.who
    held_out = None
    ignored = {"ignore": options.ignores_gaps, "beside": options.has_factors}
    if raw.are_arrays(options):
        return FitRows(None, engine.data(*raw[:3], who, **ignored), None, names)
    where = f"{who}: validation_data"
    validated = raw.validation_data
    rows = in_blocks(*raw[:3], who)
    if rows[0] is not raw.X:
        # `sample_weight` contains the weights of classes.
        if options.class_weight is not None and options.validation_split is not None:
            raise ValueError(
                f"{who}: class_weight with validation_split would weigh the rows to "
                "validate on: pass Blocks.from_memmap(X, y)"
            )
        options = replace(options, class_weight=None)
    # A table's columns are read by the names known so far.
    X = tabled(*rows[:2], options.target, who, names)
    if options.validation_split is not None and sources.has_blocks(X):
        n = sum(X.block_sizes)
        first = first_held_out(n, options.validation_split, who)
        X, validated = (
            sources.SourceSlice(X, 0, first),
            sources.SourceSlice(X, first, n),
        )
        options = replace(options, validation_split=None)
    if validated is not None and (
        is_table(validated) or paths_of(validated) is not None
    ):
        known = names or getattr(X, "feature_names", None)
        validated = tabled(validated, None, options.target, where, known)
    # First: a database has one open result at a time.
    if validated is not None and sources.is_source(validated):
        convert = sources.Conversion(
            network,
            where,
            None,
            getattr(validated, "feature_names", None),
            ignores_gaps=options.ignores_gaps,
        )
        held_out = engine.trusted(
            *sources.all_rows(sources.opened(validated, where), convert, where)
        )
    feed = feed_of(X, *rows[1:], network, options, who)
    if feed is None:
        X, names = frames.named(X, names, who, warns=True)
        data = engine.data(X, rows[1], rows[2], who, **ignored)
    else:
        data = engine.trusted(*feed.rows)
        names = _names_of(X, names, network, who)
        if held_out is not None:
            _names_of(validated, names, network, where)
    if held_out is None and validated is not None:
        X, y, sample_weight = _validation_pair(validated, who)
        held_out = engine.data(
            frames.selected(X, names, where), y, sample_weight, where, **ignored
        )
    return FitRows(feed, data, held_out, names)


def _validation_pair(argument: object, who: str) -> tuple[Any, Any, Any]:
    if not isinstance(argument, tuple | list) or len(argument) not in (2, 3):
        if isinstance(argument, float):
            hint = f"; use validation_split={argument!r}"
        else:
            hint = "; such as validation_data=(X_val, y_val), or validation_split=0.1"
        got = type(argument).__name__
        if isinstance(argument, tuple | list):
            got = f"a {got} of {len(argument)}"
        raise TypeError(
            f"{who}: validation_data must be (X, y) or (X, y, sample_weight), "
            f"got {got}{hint}"
        )
    return (*argument, None)[:3]


def _names_of(
    source: Any, names: frames.Names, network: Network, who: str
) -> frames.Names:
    """A source's column names; they must be the known ones, if any are known."""
    of_source = getattr(source, "feature_names", None)
    own = frames.names_given(
        of_source, network.layout.sizes[0], f"{who}: feature_names"
    )
    if own is not None and names is not None and own != names:
        raise ValueError(
            f"{who}: the source has the columns {listed([*own])}, but the net's "
            f"feature_names are {listed([*names])}: read those, in this order, as by "
            f"features= of Blocks"
        )
    return names if own is None else own


def split_rows_of(
    engine: Engine[Any], raw: RawRows, options: FitOptions, names: frames.Names
) -> FitRows:
    """The rows as of `rows_of`, with class weights,
    and the last rows to validate on.
    """
    who = options.who
    fraction = options.validation_split
    class_weight = options.class_weight
    network, weighted = engine.network, raw
    if class_weight is not None and raw.y is not None:
        form: Any = network.targets
        weight = gaps.class_weights(
            class_weight,
            raw.y,
            raw.sample_weight,
            form,
            who,
            ignore=options.ignores_gaps,
        )
        weighted = raw._replace(sample_weight=weight)
    rows = rows_of(engine, weighted, options, names)
    if fraction is not None and rows.feed is None:
        data, held_out = split(rows.data, fraction, who)
        if class_weight is not None:
            own = raw.sample_weight
            own = arrays.weights(own, len(data.weight), network.dtype, who)
            held_out = held_out._replace(weight=own)
            if options.ignores_gaps:
                held_out = _of_mask(held_out, gaps.known_rows(raw.y, who)[1])
        rows = rows._replace(data=data, held_out=held_out)
    if options.ignores_gaps:
        if rows.feed is None:
            _require_known(rows.data, network, who)
        if rows.held_out is not None:
            rows = rows._replace(held_out=_of_known(rows.held_out))
    return rows


def _of_mask(data: Data, mask: Array | None) -> Data:
    """The rows to work on that a mask has, or all."""
    if mask is None:
        return data
    rows = np.arange(len(mask)) if data.rows is None else data.rows
    return data._replace(rows=rows[mask[rows]])


def _of_known(data: Data) -> Data:
    """The rows that weigh more than 0: metrics see no others."""
    whole = not data.weight.size or bool(data.weight.all())
    return data if whole else _of_mask(data, data.weight > 0)


def _require_known(data: Data, network: Network, who: str) -> None:
    """Raise if no target is known; warn of columns without a known target."""
    if data.weight.size and not data.mass:
        raise ValueError(f"{who}: y has no known target of a weight above 0")
    width = data.y.shape[1]
    if not network.has_factors(width):
        return
    y = data.y if data.rows is None else data.y[data.rows]
    form = network.targets
    if isinstance(form, HeadForms):
        for name, factors in form.factors(y).items():
            _warn_of_unknown(factors, f"{who}: head {name!r}")
    else:
        _warn_of_unknown(y[:, width // 2 :], who)


def _warn_of_unknown(factors: Array, who: str) -> None:
    empty = np.flatnonzero(~factors.any(axis=0)).tolist()
    if empty:
        warn(
            f"{who}: y has no known target in {count(len(empty), 'column')}: "
            f"{listed(list(map(str, empty)))}; the loss is that of the others",
            UserWarning,
        )


def first_held_out(n: int, fraction: Any, who: str) -> int:
    """The index of the first held-out row: the last rows, a fraction of n."""
    valid = scalars.is_positive(fraction) and fraction < 1
    share = scalars.real(who, "validation_split", fraction, "a number in (0, 1)", valid)
    first = int(n * (1 - share))
    if not 0 < first < n:
        raise ValueError(
            f"{who}: validation_split={fraction!r} of {n} rows leaves {first} to train "
            f"on and {n - first} to validate on"
        )
    return first


def split(data: Data, fraction: Any, who: str) -> tuple[Data, Data]:
    """Return the training rows and the last rows, a fraction, to validate on."""
    n = data.n_rows
    first = first_held_out(n, fraction, who)
    rows = np.arange(n) if data.rows is None else data.rows
    parts = data._replace(rows=rows[:first]), data._replace(rows=rows[first:])
    if any(part.mass == 0 for part in parts):
        raise ValueError(
            f"{who}: sample_weight must not be 0 in all rows of a part of the split"
        )
    return parts


def by_buffers(
    request: Request, feed: Buffers | None, engine: Engine[Any], state: NetState
) -> ByBuffers | None:
    """None if the rows are in memory."""
    if feed is None or feed.is_whole:
        return None
    if feed.n_rows is None:
        check_length(engine, state)
    return ByBuffers(request, feed, lambda rows: engine.trusted(*rows))


def check_length(engine: Engine[Any], state: NetState) -> None:
    """Check that a fit needs no number of steps."""
    setting = setting_of_length(engine.network, state.optimizer)
    if isinstance(setting, SWA):
        raise ValueError(
            f"MLP.fit: {setting!r} needs the number of steps, and how long the stream "
            "is is known after its first pass: give steps_per_epoch= of fit, or use EMA"
        )
    if setting is not None:
        raise ValueError(
            f"{setting!r} needs the number of steps, and how long the stream is is "
            "known after its first pass: give n_steps= of a schedule, or "
            "steps_per_epoch= of fit"
        )


def rates_in_use(dropout: Dropout | None, optimizer: Optimizer) -> tuple[Rate, ...]:
    drops = () if dropout is None else (*dropout.hidden, dropout.inputs, dropout.noise)
    return optimizer.learning_rate, *drops


def setting_of_length(
    network: Network, optimizer: Optimizer, *, known: bool = False
) -> object:
    """The first schedule, or the average, that depends on a fit's last step;
    or None. With `known` users' functions are not asked.
    """
    steps = np.array([0, 1, 10, 100, 1000, 10_000], np.int64)
    for rate in rates_in_use(network.dropout, optimizer):
        if callable(rate) and not (known and not is_known(rate)):
            short, long = (
                np.asarray(rates_of(rate, steps, total)) for total in COMPARED_LENGTHS
            )
            if not np.array_equal(short, long):
                return rate
    average = average_of(optimizer)
    return average if isinstance(average, SWA) else None
