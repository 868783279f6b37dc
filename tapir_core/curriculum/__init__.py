"""The curriculum: from verdicts to a mixture. Pure functions on tables; every draw takes its generator."""

from tapir_core.curriculum.alarms import Habits, alarm, habits_of, measure_rollouts
from tapir_core.curriculum.expansion import (
    Gated,
    all_rejected,
    apply_gates,
    candidate_rows,
    file_by_label,
    held_back,
    needed_types,
    paid_gates,
    parse_expansion,
    plan_wave,
    render_expansion,
    text_gates,
)
from tapir_core.curriculum.mixture import (
    BalancedDraw,
    Mixture,
    RoundSize,
    assemble,
    draw_basic,
    draw_easy,
    draw_hard,
    draw_splits,
    fill_quotas,
    hard_count,
    lacking,
    quotas,
    reach_of,
    share_table,
    shares_of,
    size_round,
    supply_of,
    target_shares,
)
from tapir_core.curriculum.pairs import UNPAIRED, preference_pairs
from tapir_core.curriculum.selection import (
    compute_difficulty,
    count_unscored,
    delta_of,
    easy_of,
    select_seeds,
    trusted,
    weigh_by_pass_rate,
)
from tapir_core.curriculum.stopping import RoundHistory, best_round, should_stop
from tapir_core.curriculum.teacher import (
    UNVERIFIED,
    Labelling,
    Usable,
    parse_task_types,
    refinement_problem,
    refinement_prompt_name,
    render_discovery,
    render_refinement,
    sample_instructions,
    split_usable,
    task_types_toml,
)
from tapir_core.curriculum.usable import broken_reason, unusable_reason
