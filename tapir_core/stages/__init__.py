"""The stages of a run: each declared once (`Stage`), and the one order in which a run does them (`order`).

What follows of it: plan, folders, keys, limits, progress, reports, the rows of the estimate, `--until`. A stage is
added by a declaration, a place in the order, and its work in `tasks/` (docs/extending.md).
"""

from tapir_core.stages.evaluation import (
    ANSWER_HELDOUT,
    BENCHMARK_ANSWERS,
    BENCHMARK_ITEMS,
    BENCHMARK_REPLIES,
    BENCHMARK_SCORES,
    EVALUATE,
    JUDGE_HELDOUT,
    VERIFY_HELDOUT,
    graded_of,
    heldout_stages,
)
from tapir_core.stages.order import (
    BENCHMARK,
    EVALUATION,
    ONCE,
    asked_apart,
    asked_endpoints,
    asked_in_roles,
    benchmark_stages,
    inner_stages,
    lines,
    plan,
    served_in_turn,
    stages_of,
    used_files,
    whole_plan,
    with_steps,
)
from tapir_core.stages.pool import (
    CONTAMINATED,
    DISCOVER,
    HELDOUT,
    HELDOUT_OVERLAP,
    JUDGED_HELDOUT,
    LABEL,
    POOL,
    QUESTIONS,
    TEACH,
    VERIFY,
    held_out_of,
    usable_of,
)
from tapir_core.stages.stage import (
    STAGES,
    Asked,
    Compared,
    Stage,
    StageAt,
    always,
    declare,
    own_digest,
    settings_of,
    stage_key,
)
from tapir_core.stages.students import (
    ANSWER,
    DIFFICULTY,
    DRAW,
    EXPAND,
    EXPANSION_REJECTED,
    JUDGE,
    MIX,
    REFINE,
    ROUND,
    SELECT,
    TRAIN,
    WAVE,
    WAVE_CANDIDATES,
    WAVE_EXAMINED,
    WAVE_GATED,
    WAVE_REQUESTS,
    WAVE_SCREENED,
    drawn_at,
    judge_fields,
)
