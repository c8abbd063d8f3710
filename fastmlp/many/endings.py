"""What a call of `fit_many` ends with: histories, and warnings."""

from collections.abc import Sequence

from fastmlp._process.task_pool import Outcome
from fastmlp._process.warnings import warn
from fastmlp.many.tasks import WHO, who
from fastmlp.many.training import Ended
from fastmlp.training.history import History, Status


def concluded(ended: Ended) -> list[History]:
    """Return the histories, and warn of what the fits have warned of."""
    for i, outcome in enumerate(ended.outcomes):
        for message, category in outcome.warnings if outcome else ():
            warn(f"{who(i)}: {message}", category)
    if ended.interrupted:
        return interrupted(ended.outcomes)
    return _histories(ended.outcomes)


def interrupted(outcomes: Sequence[Outcome | None]) -> list[History]:
    """Return the histories of a call that Ctrl-C has ended, and warn."""
    histories = _histories(outcomes)
    done = sum(history.status is not Status.INTERRUPTED for history in histories)
    begun = sum(outcome is not None for outcome in outcomes)
    warn(
        f"{WHO} interrupted: {done} of {len(histories)} nets are done, {begun - done} keep what "
        "they have learnt so far, and the others are as they were",
        UserWarning,
    )
    return histories


def _histories(outcomes: Sequence[Outcome | None]) -> list[History]:
    return [out.result if out else History(status=Status.INTERRUPTED) for out in outcomes]
