"""TD errors and returns of one transition or one sequence, with any leading batch axes.

Names, positional order and results are rlax's, so that changing the import is enough; time is in the name (`_tm1` is
t - 1, `_t` is t). `discount_t` already holds gamma (gamma**m after m steps) and is 0 past a termination: no equation
here knows of gamma or of endings.
"""

from jaxql.bellman.multistep import (
    discounted_returns as discounted_returns,
    lambda_returns as lambda_returns,
    n_step_bootstrapped_returns as n_step_bootstrapped_returns,
)
from jaxql.bellman.one_step import (
    double_q_learning as double_q_learning,
    expected_sarsa as expected_sarsa,
    q_learning as q_learning,
    sarsa as sarsa,
    td_learning as td_learning,
)
