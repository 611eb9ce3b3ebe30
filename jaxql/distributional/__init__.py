"""Distributions of returns: categorical, quantile and histogram encodings, their targets, losses and risk measures.

A distribution is the last axis, after the actions: [..., A, N]. Functions with rlax's names keep rlax's order, layout
and result; there quantiles are [N, A]. An illegal action has all its logits, or all its quantiles, at -inf.
"""

from jaxql.distributional.categorical import (
    c51_target as c51_target,
    categorical_double_q_learning as categorical_double_q_learning,
    categorical_l2_project as categorical_l2_project,
    categorical_mean as categorical_mean,
    categorical_q_learning as categorical_q_learning,
    categorical_td_learning as categorical_td_learning,
    cross_entropy as cross_entropy,
    probabilities as probabilities,
)
from jaxql.distributional.histogram import (
    centers as centers,
    hl_gauss as hl_gauss,
    hl_gauss_target as hl_gauss_target,
    two_hot as two_hot,
    two_hot_target as two_hot_target,
)
from jaxql.distributional.quantile import (
    Quantiles as Quantiles,
    fraction_entropy as fraction_entropy,
    fraction_loss as fraction_loss,
    fractions as fractions,
    midpoints as midpoints,
    quantile_expected_sarsa as quantile_expected_sarsa,
    quantile_huber as quantile_huber,
    quantile_q_learning as quantile_q_learning,
    quantile_regression_loss as quantile_regression_loss,
    quantile_target as quantile_target,
)
from jaxql.distributional.risk import (
    cpw as cpw,
    cvar as cvar,
    distorted_mean as distorted_mean,
    entropic as entropic,
    mean as mean,
    power_distortion as power_distortion,
    value_at_risk as value_at_risk,
    variance as variance,
    wang as wang,
)
