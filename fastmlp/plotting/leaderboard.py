"""The members of a model of tables: their scores, and their weights in the ensemble."""

from typing import TYPE_CHECKING, Any

from fastmlp.plotting.axes import FAINT, INK, SOFT, WRONG, new_axes, tidy, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of names; a longer one is cut.
MOST_LETTERS = 48


def plot_leaderboard(model: Any, ax: "Axes | None" = None, *, most: int = 15) -> "Axes":
    """Plot the score of each member on the rows to validate on, and its weight.

    The best is at the top; a line marks the score of the ensemble, which is to be right of the
    members'. The dots are the larger, the more a member weighs; those without weight are hollow.

    Parameters
    ----------
    model : fitted TabularMLPClassifier or TabularMLPRegressor, or a Pipeline that ends in one
    ax : matplotlib Axes, optional
        Where to draw; by default, on a new figure.
    most : int, default 15
        The most members that are drawn.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    TypeError
        If `model` has no `leaderboard_`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from types import SimpleNamespace
    >>> board = [{"member": "64x64 relu", "weight": 1.0, "validation_score": -0.5}]
    >>> ax = plot_leaderboard(SimpleNamespace(leaderboard_=board, validation_score_=-0.5))
    >>> [label.get_text() for label in ax.get_yticklabels()], ax.get_title(loc="left")
    (['64x64 relu'], 'ensemble of 1 member: -0.5')
    """
    its = model.steps[-1][1] if hasattr(model, "steps") else model
    board = getattr(its, "leaderboard_", None)
    if board is None:
        raise TypeError(
            "plot_leaderboard: model must be a fitted TabularMLPClassifier or "
            f"TabularMLPRegressor, or a Pipeline that ends in one, got {type(its).__name__}"
        )
    every = board if isinstance(board, list) else board.to_dict("records")
    rows, n = every[:most], sum(row["weight"] > 0 for row in every)
    ax = new_axes() if ax is None else ax
    for place, row in enumerate(rows):
        score, weight = row["validation_score"], row["weight"]
        ax.plot([score, its.validation_score_], [place, place], color=FAINT, zorder=1)
        face = INK if weight else "none"
        ax.scatter([score], [place], 25 + 250 * weight, face, edgecolors=INK, zorder=3)
        told = f"{weight:.2f}" if weight else ""
        ax.annotate(
            told, (score, place), (0, 8), textcoords="offset points", color=SOFT, ha="center"
        )
    ax.axvline(its.validation_score_, color=WRONG, linewidth=1.4, label="the ensemble")
    ax.set_yticks(range(len(rows)), [str(row["member"])[:MOST_LETTERS] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.set_xlabel("score on the rows to validate on")
    tidy(ax)
    members = "1 member" if n == 1 else f"{n} members"
    title(ax, f"ensemble of {members}: {its.validation_score_:.4g}")
    return ax
