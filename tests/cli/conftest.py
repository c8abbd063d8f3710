"""Presets of few nets and epochs, for all tests of the command that train."""

import pytest

from fastmlp.tabular import settings


@pytest.fixture(autouse=True)
def _few_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, preset in settings.PRESETS.items():
        few = preset._replace(n_members=2, epochs=2, trees=False)
        monkeypatch.setitem(settings.PRESETS, name, few)
