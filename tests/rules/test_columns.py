"""Rules of columns, number by number, beside the encoders of tables."""

import numpy as np
import pytest

from fastmlp.rules.columns import NumberStep
from fastmlp.tabular import MissingMarks, PiecewiseLinear, RisingSmoothClip, RobustSmoothClip
from fastmlp.tabular.estimators.steps import STEPS

rng = np.random.default_rng(0)
NUMBERS = rng.choice([-1e300, -3.5, -1e-320, 0.0, 0.25, 1.0, 2.0, 1e18, 1e308], (60, 3))
NUMBERS[:, 1] = rng.normal(size=60)
NUMBERS[rng.random((60, 3)) < 0.2] = np.nan


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(
    "encoder", [RobustSmoothClip(), RisingSmoothClip(), MissingMarks(), PiecewiseLinear(n_bins=4)]
)
def test_a_rule_gives_the_bits_of_its_encoder(encoder: object) -> None:
    expected = encoder.fit(NUMBERS).transform(NUMBERS)  # type: ignore[attr-defined]
    step = STEPS[type(encoder)](encoder, np.arange(3))  # type: ignore[index]
    assert isinstance(step, NumberStep)
    for row, inputs in zip(NUMBERS, expected, strict=True):
        pairs = zip(row[step.columns], step.constants, strict=True)
        values = [step.rule(x, *constants) for x, constants in pairs]
        assert {value.dtype for value in values} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(values, inputs)
