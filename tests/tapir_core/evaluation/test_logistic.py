import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.evaluation.length_control import SoftRows, fit_logistic, sigmoid


def rows_of(seed: int, n: int = 60) -> SoftRows:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(n, 3)) * [1.0, 0.5, 2.0]
    return SoftRows(features, draw.random(n), draw.choice([0.1, 1.0], n))


def slopes(rows: SoftRows, c: float, beta: np.ndarray) -> np.ndarray:
    shares = sigmoid(rows.features @ beta)
    return c * rows.features.T @ (rows.weights * (shares - rows.labels))


@given(seed=st.integers(0, 1_000), power=st.floats(-3, 4))
def test_the_penalised_minimum_is_met_to_the_last_digits(seed: int, power: float) -> None:
    """The slope of the loss is the sign of a coefficient, and within the penalty where the coefficient is 0."""
    rows, c = rows_of(seed), 10**power
    beta = fit_logistic(rows, c)
    slope = slopes(rows, c, beta)
    away = beta != 0
    scale = 1 + c * np.abs(rows.features).sum()
    assert np.abs(slope[away] + np.sign(beta[away])).max(initial=0) < 1e-9 * scale
    assert np.abs(slope[~away]).max(initial=0) <= 1 + 1e-9 * scale


def test_labels_that_a_line_parts_have_finite_coefficients() -> None:
    features = np.linspace(-1, 1, 40).reshape(-1, 1)
    rows = SoftRows(features, (features[:, 0] > 0).astype(float), np.ones(40))
    beta = fit_logistic(rows, 1e4)
    assert np.isfinite(beta).all()
    assert rows.losses(rows.features, beta)[0].mean() < 0.01


def test_a_feature_that_is_always_0_gets_no_coefficient() -> None:
    rows = rows_of(2)
    rows.features[:, 1] = 0
    assert fit_logistic(rows, 100.0)[1] == 0


def test_far_values_do_not_overflow() -> None:
    assert sigmoid(np.array([-1_000.0, 0.0, 1_000.0])) == pytest.approx([0, 0.5, 1])
