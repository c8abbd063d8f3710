"""Functions as tasks on the workers of a cluster, in groups of about the same cost."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastmlp._process.task_pool import Outcome, Pool, Task, share
from fastmlp.backends.devices import thread_limit
from fastmlp.cluster.groups import Cluster, Group, dealt


class TasksOfGroup:
    """The work of a group: a function without arguments that is pickled.

    Parameters
    ----------
    tasks : sequence of Task
        The tasks of a group run side by side, on the threads that the group has.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks

    def __call__(self) -> list[Outcome | None]:
        """Run the tasks; return their outcomes."""
        return Pool(share() or thread_limit()).run(self.tasks)


def run_tasks(
    cluster: Cluster,
    tasks: Sequence[Task],
    arrays: Iterable[Any],
    done: Callable[[int, Outcome], Any],
    name: str,
) -> None:
    """Run tasks on the workers of a cluster; arguments and errors are those of `Cluster.run`.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, when `done` has been called with what was done before.
    """
    named = [task._replace(name=f"{name} {i}") for i, task in enumerate(tasks)]
    groups = [
        Group(numbers, TasksOfGroup([named[i] for i in numbers]))
        for numbers in dealt([task.cost for task in tasks], cluster.n_at_once)
    ]
    cluster.run(groups, arrays, done, name)
    if cluster.interrupted:
        raise KeyboardInterrupt
