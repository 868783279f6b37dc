"""The curriculum: from verdicts to a mixture. Pure functions on tables; every draw takes its generator."""

from tapir_core.curriculum.balance import (
    BalancedDraw,
    draw_balanced,
    fill_quotas,
    quotas,
    share_table,
    shares_of,
    supply_of,
)
from tapir_core.curriculum.difficulty import compute_difficulty, count_unscored
from tapir_core.curriculum.expansion import (
    ExpansionRequest,
    candidate_rows,
    extend_pool,
    lacking,
    parse_expansion,
    plan_wave,
    render_expansion,
)
from tapir_core.curriculum.gates import (
    AnswerGate,
    DifficultyGate,
    Gate,
    Gated,
    LabelGate,
    accepted_rows,
    apply_gates,
    text_gates,
)
from tapir_core.curriculum.labels import parse_label, render_label
from tapir_core.curriculum.mixture import Mixture, assemble, draw_basic, draw_easy, draw_hard, hard_count
from tapir_core.curriculum.refinement import (
    Refinement,
    refinement_outcome,
    refinement_prompt_name,
    render_refinement,
)
from tapir_core.curriculum.schedule import RoundHistory, best_round, should_stop
from tapir_core.curriculum.selection import SeedSelection, draw_seeds, select_seeds
from tapir_core.curriculum.tables import (
    CANDIDATES,
    DIFFICULTY,
    EXAMPLES,
    EXPANSION,
    MIXTURE,
    REFINEMENT,
    REJECTED,
    SEEDS,
)
from tapir_core.curriculum.usable import Usable, split_usable, unusable_reason

__all__ = [
    "CANDIDATES",
    "DIFFICULTY",
    "EXAMPLES",
    "EXPANSION",
    "MIXTURE",
    "REFINEMENT",
    "REJECTED",
    "SEEDS",
    "AnswerGate",
    "BalancedDraw",
    "DifficultyGate",
    "ExpansionRequest",
    "Gate",
    "Gated",
    "LabelGate",
    "Mixture",
    "Refinement",
    "RoundHistory",
    "SeedSelection",
    "Usable",
    "accepted_rows",
    "apply_gates",
    "assemble",
    "best_round",
    "candidate_rows",
    "compute_difficulty",
    "count_unscored",
    "draw_balanced",
    "draw_basic",
    "draw_easy",
    "draw_hard",
    "draw_seeds",
    "extend_pool",
    "fill_quotas",
    "hard_count",
    "lacking",
    "parse_expansion",
    "parse_label",
    "plan_wave",
    "quotas",
    "refinement_outcome",
    "refinement_prompt_name",
    "render_expansion",
    "render_label",
    "render_refinement",
    "select_seeds",
    "share_table",
    "shares_of",
    "should_stop",
    "split_usable",
    "supply_of",
    "text_gates",
    "unusable_reason",
]
