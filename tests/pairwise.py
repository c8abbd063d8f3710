"""Cases in which every two values of two factors meet,
in place of all products of the factors.
"""

from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import pytest

Pair = tuple[tuple[str, int], tuple[str, int]]


def all_pairs(**factors: list[Any]) -> list[dict[str, Any]]:
    """Return cases, one value of each factor,
    in which each pair of values of two factors occurs.

    Greedy: a case begins with a pair that has not occurred, and takes of each other
    factor the value with the most such pairs; of several, the one that is due.
    """
    names = sorted(factors, key=lambda name: -len(factors[name]))
    left = {
        ((a, i), (b, j))
        for a, b in combinations(names, 2)
        for i, j in product(range(len(factors[a])), range(len(factors[b])))
    }
    cases: list[dict[str, int]] = []
    while left:
        case = dict(min(left, key=lambda pair: [(names.index(n), i) for n, i in pair]))
        for name in names:
            if name not in case:
                n = len(factors[name])
                turns = [(len(cases) + i) % n for i in range(n)]
                case[name] = max(
                    turns, key=lambda i: len(left & {*_pairs(names, case, name, i)})
                )
        left -= {
            pair for name in names for pair in _pairs(names, case, name, case[name])
        }
        cases.append(case)
    return [{name: factors[name][case[name]] for name in factors} for case in cases]


def crossed(**factors: list[Any]) -> pytest.MarkDecorator:
    """Parametrize a test by the cases of all_pairs."""
    cases = [tuple(case.values()) for case in all_pairs(**factors)]
    return pytest.mark.parametrize(", ".join(factors), cases, ids=str)


def _pairs(
    names: list[str], case: dict[str, int], name: str, value: int
) -> Iterator[Pair]:
    """Yield the pairs of one value with those of a case, in the order of the names."""
    for other, level in case.items():
        if other != name:
            first, second = sorted(
                [(other, level), (name, value)], key=lambda x: names.index(x[0])
            )
            yield first, second
