"""Tables as they are given: files, queries, frames with their target inside, rows as dicts."""

from collections.abc import Sequence
from typing import Any

from fastmlp.data.arrow import FILES, imported, is_lazy, is_table, paths_of
from fastmlp.data.columns import lacking
from fastmlp.tabular.estimators.targets import Given, array, missing
from fastmlp.tabular.schema.batches import read, require
from fastmlp.tabular.schema.in_memory import is_rows


def opened(X: Any, y: Any, given: Given, who: str) -> tuple[Any, Any, Given]:
    """Return a table in memory without the columns that are named beside it, y, and the rest.

    With `given.target` X is a table that has it, or files; so is X_val, where there is no y_val.

    Raises
    ------
    MemoryError
        If a file or a query does not fit into memory.
    TypeError, ValueError, ImportError, OSError
        If arguments do not go together, a column is missing, or a file cannot be read.
    """
    target = given.target
    if isinstance(y, str):
        raise ValueError(f"{who}: y is a text: name the target's column by target={y!r}")
    if target is not None:
        if not isinstance(target, str):
            raise TypeError(f"{who}: target must be a column's name, got {target!r}")
        if y is not None:
            raise ValueError(f"{who}: give y or target={target!r}, not both")
    named = {"y": target, "sample_weight": given.sample_weight, "groups": given.groups}
    X, found = _taken(X, named, who)
    validated = {"sample_weight_val": given.sample_weight_val}
    if given.y_val is None:
        validated["y_val"] = target
    X_val, more = _taken(given.X_val, validated, f"{who}: X_val")
    y = found.pop("y", y)
    if target is not None:
        _require_targets(y, target, who)
    return X, y, given._replace(**found, **more, X_val=X_val)


def _require_targets(y: Any, target: str, who: str) -> None:
    """Check that no value of the target's column is missing, in the words of all readers."""
    values = array(y)
    if values.ndim == 1 and (gaps := missing(values)).any():
        first = f"row {int(gaps.argmax())}"
        raise ValueError(f"{who}: {lacking(target, int(gaps.sum()), first)}")


def in_training_order(X: Any, columns: Sequence[str]) -> Any:
    """Return rows that are mappings with all columns that there were; other tables as they are.

    A key that no row has is then a missing value, as one that some rows lack.
    """
    if is_rows(X) and any(name in row for row in X for name in columns):
        return [{**dict.fromkeys(columns), **X[0]}, *X[1:]]
    return X


def check_no_path(X: Any, who: str) -> None:
    """Raise TypeError if X is a path of a file, or several."""
    if _are_files(X):
        name = who.partition(".")[0]
        raise TypeError(
            f"{who}: X is a path: {name}.predict_batches reads files, and fastmlp.predict_parquet "
            "writes predictions beside columns of them"
        )


def _are_files(X: Any) -> bool:
    paths = paths_of(X)
    if paths is None or not isinstance(X, list | tuple):
        return paths is not None
    return all(path.lower().endswith(FILES) for path in paths)


def _taken(X: Any, named: dict[str, Any], who: str) -> tuple[Any, dict[str, Any]]:
    """Return a table without some columns, and those columns, by what they are for.

    Parameters
    ----------
    named : what is a text is a column's name; other values are left out
    """
    names = {word: name for word, name in named.items() if isinstance(name, str)}
    if X is None or not names:
        if _are_files(X):
            raise ValueError(f"{who}: X is a path: name the target's column by target=")
        return X, {}
    chosen = list(names.values())
    if is_rows(X):
        require(chosen, list(dict.fromkeys(key for row in X for key in row)), who)
        columns = {word: [row.get(name) for row in X] for word, name in names.items()}
        return [{k: v for k, v in row.items() if k not in chosen} for row in X], columns
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        require(chosen, list(map(str, X.columns)), who)
        return X.drop(columns=chosen), {word: X[name] for word, name in names.items()}
    table = _table(X, chosen, who, names.get("y", names.get("y_val")))
    require(chosen, table.column_names, who)
    columns = {word: table.column(name) for word, name in names.items()}
    return table.drop_columns(chosen), columns


def _table(X: Any, beside: list[str], who: str, target: str | None) -> Any:
    """Return a table of Arrow of what is no frame of pandas."""
    if isinstance(X, imported(who).Table):
        return X
    if type(X).__module__.startswith("polars") and not is_lazy(X):
        return imported(who).table(X)
    if paths_of(X) is None and not is_table(X) and not is_lazy(X):
        raise TypeError(f"{who}: target= goes with files and tables; got {type(X).__name__}")
    return read(X, beside, who, target)
