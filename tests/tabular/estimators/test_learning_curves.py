"""Learning curves of an ensemble's nets."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from small_models import classifier, regressor, reloaded

from fastmlp.compiler.jit import INTERPRETED
from fastmlp.plotting import plot_history

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
]


def test_learning_curves(tmp_path: Any) -> None:
    for model in (regressor(), classifier()):
        curves = model.learning_curves_
        assert len(curves) == len(model.members_)
        for history, member in zip(curves.values(), model.members_, strict=True):
            assert (
                len(history.loss)
                == len(history.validation_loss)
                == len(member.curve)
                > 0
            )
            assert (
                np.argmin(history.validation_loss)
                == history.best_epoch
                == member.epoch - 1
            )
            assert history.seconds > 0
        total = sum(history.seconds for history in curves.values())
        assert model.leaderboard_["fit_seconds"].sum() == pytest.approx(total)
        loaded = reloaded(model, tmp_path / "m.safetensors")
        assert loaded.learning_curves_ == curves
        plot_history(curves)
        plt.close("all")
    names = [*regressor().learning_curves_]
    assert len(names) == 1 or any(name.endswith(", 2") for name in names)
