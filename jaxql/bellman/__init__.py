"""TD errors and returns of one transition or one sequence, with any leading batch axes.

Time is in the name: `_tm1` is t - 1, `_t` is t. `discount_t` already holds gamma (gamma**m after m steps) and is 0 past
a termination, so no equation here takes gamma or a termination. An action of value -inf is illegal and never
bootstraps; where no action is legal, the discount counts as 0. Under `checked` that raises, and so does an action
outside 0 .. A - 1. Half precision is computed in float32 and rounded once.

A function with rlax's name has rlax's positional order, layout and result: changing the import is enough. These are
not in rlax: `advantage_learning`, `clipped_double_q_learning`, `soft_q_learning`, `munchausen_q_learning`,
`peng_q_lambda` (rlax's `q_lambda` with a number), `watkins_q_lambda`, `tree_backup`, `power_pair`.
"""

from jaxql.bellman.core import checked as checked
from jaxql.bellman.multistep import (
    peng_q_lambda as peng_q_lambda,
    q_lambda as q_lambda,
    sarsa_lambda as sarsa_lambda,
    td_lambda as td_lambda,
    watkins_q_lambda as watkins_q_lambda,
)
from jaxql.bellman.off_policy import (
    importance_corrected_td_errors as importance_corrected_td_errors,
    retrace as retrace,
    retrace_continuous as retrace_continuous,
    tree_backup as tree_backup,
)
from jaxql.bellman.one_step import (
    double_q_learning as double_q_learning,
    expected_sarsa as expected_sarsa,
    q_learning as q_learning,
    qv_learning as qv_learning,
    qv_max as qv_max,
    sarsa as sarsa,
    td_learning as td_learning,
)
from jaxql.bellman.returns import (
    discounted_returns as discounted_returns,
    general_off_policy_returns_from_action_values as general_off_policy_returns_from_action_values,
    general_off_policy_returns_from_q_and_v as general_off_policy_returns_from_q_and_v,
    lambda_returns as lambda_returns,
    n_step_bootstrapped_returns as n_step_bootstrapped_returns,
)
from jaxql.bellman.transformed import (
    transform_values as transform_values,
    transformed_general_off_policy_returns_from_action_values as transformed_general_off_policy_returns_from_action_values,  # noqa: E501
    transformed_lambda_returns as transformed_lambda_returns,
    transformed_n_step_q_learning as transformed_n_step_q_learning,
    transformed_n_step_returns as transformed_n_step_returns,
    transformed_q_lambda as transformed_q_lambda,
    transformed_retrace as transformed_retrace,
)
from jaxql.bellman.transforms import (
    DISCOUNT_TRANSFORM_PAIR as DISCOUNT_TRANSFORM_PAIR,
    HYPERBOLIC_SIN_PAIR as HYPERBOLIC_SIN_PAIR,
    IDENTITY_PAIR as IDENTITY_PAIR,
    SIGNED_HYPERBOLIC_PAIR as SIGNED_HYPERBOLIC_PAIR,
    SIGNED_LOGP1_PAIR as SIGNED_LOGP1_PAIR,
    TxPair as TxPair,
    compose_tx as compose_tx,
    muzero_pair as muzero_pair,
    power as power,
    power_pair as power_pair,
    signed_expm1 as signed_expm1,
    signed_hyperbolic as signed_hyperbolic,
    signed_logp1 as signed_logp1,
    signed_parabolic as signed_parabolic,
    twohot_pair as twohot_pair,
    unbiased_transform_pair as unbiased_transform_pair,
)
from jaxql.bellman.variants import (
    advantage_learning as advantage_learning,
    clipped_double_q_learning as clipped_double_q_learning,
    munchausen_q_learning as munchausen_q_learning,
    persistent_q_learning as persistent_q_learning,
    soft_q_learning as soft_q_learning,
)
from jaxql.bellman.windows import (
    LambdaStep as LambdaStep,
    NStep as NStep,
    lambda_windows as lambda_windows,
    n_step_windows as n_step_windows,
)
