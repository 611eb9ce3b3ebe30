"""Replay on the device, as pure functions: rings of rows, drawn uniformly or by their errors."""

from jaxql.replay import sum_tree as sum_tree
from jaxql.replay.prioritised import prioritised_replay as prioritised_replay
from jaxql.replay.ring import (
    Ring as Ring,
    after_read as after_read,
    end_episodes as end_episodes,
    without_priorities as without_priorities,
    zero_step as zero_step,
)
from jaxql.replay.sequences import (
    memory_before as memory_before,
    reset_memory as reset_memory,
    sample_sequence as sample_sequence,
)
from jaxql.replay.transitions import n_step_transition as n_step_transition, stacked as stacked
from jaxql.replay.uniform import uniform_replay as uniform_replay
