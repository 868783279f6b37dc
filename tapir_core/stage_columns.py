"""The folder and the columns of each stage's rows: the contract of the run folder (docs/run-folder.md)."""

__all__ = ["COLUMNS", "PLACES"]

_ANSWER = ("instruction_id", "response", "finish_reason", "prompt_tokens", "completion_tokens")
_CANDIDATE = ("instruction_id", "instruction", "system", "task_type", "seed_id", "wave")
_GATED = (*_CANDIDATE, "response", "gate")

_SCORES = (
    *("benchmark", "split", "category", "metric", "value", "stderr", "n"),
    *("low", "high", "n_failed", "note", "judge", "prompt_version", "settings"),
)

COLUMNS: dict[str, tuple[str, ...]] = {
    "heldout": ("instruction_id", "instruction", "system", "task_type", "reference", "split"),
    "questions": ("benchmark", "question_id", "turn", "question"),
    "contaminated": ("instruction_id", "instruction", "benchmark", "question_id", "question", "rule", "similarity"),
    "pool": ("instruction_id", "instruction", "system", "source", "reference"),
    "label": ("instruction_id", "task_type"),
    "teach": _ANSWER,
    "answer_heldout": _ANSWER,
    "evaluate": _SCORES,
    "benchmark_items": ("question_id", "category", "turn", "question", "reference", "baseline"),
    "benchmark_answers": ("question_id", "turn", "response", "finish_reason", "prompt_tokens", "completion_tokens"),
    "benchmark_replies": (
        "question_id",
        "turn",
        "mode",
        "order",
        "value",
        "baseline_value",
        "how",
        "status",
        "reason",
        "raw",
        "judge",
    ),
    "benchmark_scores": _SCORES,
    "answer": _ANSWER,
    "judge": ("instruction_id", "order", "student_score", "teacher_score", "status", "reason", "raw", "judge"),
    "difficulty": ("instruction_id", "task_type", "student_score", "teacher_score", "mfd", "orders", "order_gap"),
    "select": ("instruction_id", "task_type", "mfd"),
    "wave_requests": ("task_type", "seed_id", "sample_index"),
    "wave_candidates": _CANDIDATE,
    "wave_screened": _GATED,
    "wave_examined": ("instruction_id", "task_type", "response", "finish_reason", "mfd"),
    "wave_gated": _GATED,
    "expansion_rejected": _GATED,
    "expand": (*_CANDIDATE, "response"),
    "refine": ("instruction_id", "task_type", "plain", "refined", "accepted", "reason"),
    "mix": ("example_id", "instruction_id", "messages", "task_type", "origin", "mfd", "refined"),
    "train": (),
}
"""Stage → columns, in their order; a checkpoint has none."""


PLACES: dict[str, str] = {
    "heldout": "heldout",
    "questions": "questions",
    "contaminated": "contaminated",
    "pool": "pool",
    "label": "labels",
    "teach": "teacher",
    "answer_heldout": "heldout_answers",
    "evaluate": "scores",
    "benchmark_items": "items",
    "benchmark_answers": "answers",
    "benchmark_replies": "replies",
    "benchmark_scores": "scores",
    "answer": "answers",
    "judge": "verdicts",
    "difficulty": "difficulty",
    "select": "seeds",
    "wave_requests": "requests",
    "wave_candidates": "candidates",
    "wave_screened": "screened",
    "wave_examined": "examined",
    "wave_gated": "gated",
    "expansion_rejected": "expansion_rejected",
    "expand": "expansion",
    "refine": "refinement",
    "mix": "mixture",
    "train": "checkpoint",
}
"""Stage → folder of its rows, in the run folder or in its round's folder."""
